//! rustls verifiers: the chain by webpki, then who it is.

use crate::identify::{IssuerKey, Rejected, Revoked, identify};
use polder_types::Identity;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore, SignatureScheme};
use std::sync::Arc;

/// Whom one snapshot believes.
#[derive(Debug)]
pub(crate) struct Trust {
    domain: String,
    roots: Arc<RootCertStore>,
    issuers: Vec<CertificateDer<'static>>,
    keys: Vec<IssuerKey>,
    clients: Arc<dyn ClientCertVerifier>,
    algorithms: WebPkiSupportedAlgorithms,
    revoked: Revoked,
}

/// Which end of a connection showed the chain: the extended key usage differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

impl Trust {
    /// `issuers`: certificates between the roots and leaves that we know already.
    pub(crate) fn new(
        domain: String,
        roots: RootCertStore,
        issuers: Vec<CertificateDer<'static>>,
        revoked: Revoked,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, String> {
        let roots = Arc::new(roots);
        let mut names = RootCertStore::empty();
        names.add_parsable_certificates(issuers.iter().cloned());
        let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .add_root_hint_subjects(names.subjects())
            .build()
            .map_err(|e| e.to_string())?;
        let keys = issuers.iter().filter_map(IssuerKey::read).collect();
        Ok(Trust { domain, roots, issuers, keys, clients, algorithms: provider.signature_verification_algorithms, revoked })
    }

    /// Full verification: chain, then identity, time and revocation.
    pub(crate) fn verify(&self, chain: &[CertificateDer<'_>], side: Side, now: UnixTime) -> Result<Identity, Rejected> {
        let (leaf, issuers) = chain.split_first().ok_or(Rejected::None)?;
        let identity = self.identify(chain, now)?;
        // A browser that knows the issuer as a narrow root of its own sends the leaf alone.
        let issuers: Vec<_> = issuers.iter().chain(&self.issuers).cloned().collect();
        let issuers = issuers.as_slice();
        let chained = match side {
            Side::Client => self.clients.verify_client_cert(leaf, issuers, now).map(|_| ()),
            Side::Server => ParsedCertificate::try_from(leaf).and_then(|leaf| {
                verify_server_cert_signed_by_trust_anchor(&leaf, &self.roots, issuers, now, self.algorithms.all)
            }),
        };
        chained.map_err(|e| Rejected::Chain(e.to_string()))?;
        Ok(identity)
    }

    /// Identity, time and revocation of the leaf of a chain whose signatures have been verified before, or are next.
    pub(crate) fn identify(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<Identity, Rejected> {
        let (leaf, issuers) = chain.split_first().ok_or(Rejected::None)?;
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let brought: Vec<_> = issuers.iter().filter_map(IssuerKey::read).collect();
        identify(leaf, brought.iter().chain(&self.keys), &self.domain, &self.revoked, now)
    }

    pub(crate) fn domain(&self) -> &str {
        &self.domain
    }

    pub(crate) fn is_revoked(&self, identity: &Identity) -> bool {
        self.revoked.contains(identity)
    }
}

/// A rejection as rustls carries it, and back.
fn refuse(rejected: Rejected) -> Error {
    match rejected {
        Rejected::Expired(_) => Error::InvalidCertificate(CertificateError::Expired),
        Rejected::Revoked(_) => Error::InvalidCertificate(CertificateError::Revoked),
        other => Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(other)))),
    }
}

/// Checks callers.
#[derive(Debug)]
pub(crate) struct Callers(pub(crate) Arc<Trust>);

impl ClientCertVerifier for Callers {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Browsers use the hint to offer the right certificate. The issuer must be in it: a browser that knows the issuer as
        // a narrow root of its own builds no chain beyond it, and would have none to offer.
        self.0.clients.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        issuers: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let chain: Vec<_> = std::iter::once(leaf.clone()).chain(issuers.iter().cloned()).collect();
        self.0.verify(&chain, Side::Client, now).map(|_| ClientCertVerified::assertion()).map_err(refuse)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.0.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.0.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.algorithms.supported_schemes()
    }
}

/// Checks the node that we call: only the one we expect gets to see our certificate.
#[derive(Debug)]
pub(crate) struct Callee {
    pub(crate) trust: Arc<Trust>,
    pub(crate) expected: crate::Expected,
    /// Who it was, and the rejection in our own words if there was one.
    pub(crate) outcome: std::sync::Mutex<Option<Result<Identity, Rejected>>>,
}

impl ServerCertVerifier for Callee {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        issuers: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chain: Vec<_> = std::iter::once(leaf.clone()).chain(issuers.iter().cloned()).collect();
        let verdict = self
            .trust
            .verify(&chain, Side::Server, now)
            .and_then(|identity| if self.expected.is(&identity) { Ok(identity) } else { Err(self.expected.rejects(&identity)) });
        let answer = verdict.as_ref().map(|_| ServerCertVerified::assertion()).map_err(|r| refuse(r.clone()));
        *self.outcome.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(verdict);
        answer
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.trust.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.trust.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.algorithms.supported_schemes()
    }
}
