//! Handshakes of the spread plane's QUIC connections: the user shows its certificate, the servlet a key without a name.
//!
//! A servlet's certificate would tell the user which node it is. So the servlet proves possession of a key of its process alone
//! (a raw public key, RFC 7250), whose hash the issuer of the ticket told the user; the user shows the certificate that it
//! shows every access point, and is verified in the same way.

use crate::identify::Rejected;
use crate::settings::{Settings, SettingsError};
use crate::verify::{Callers, Side};
use polder_types::Identity;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, DigitallySignedStruct, Error, ServerConfig, SignatureScheme};
use std::sync::Arc;

/// What the two ends of a spread session speak.
pub const ALPN_SPREAD: &[u8] = b"polder-spread/1";

/// The name that the handshake wants and nobody reads.
pub const SPREAD_NAME: &str = "servlet.polder.invalid";

impl Settings {
    /// The servlet's side. `key`: P-256, PKCS #8 DER, of this process alone. Fails when it is none.
    pub fn spread_server(&self, key: &[u8]) -> Result<ServerConfig, SettingsError> {
        let wrong = |why: String| SettingsError { field: "spread.end_key", why };
        let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.to_vec()));
        let key = self.provider().key_provider.load_private_key(der).map_err(|e| wrong(e.to_string()))?;
        let public = key.public_key().ok_or_else(|| wrong("a key whose public half is not known".into()))?;
        let certified = CertifiedKey::new(vec![CertificateDer::from(public.as_ref().to_vec())], key);
        let mut config = ServerConfig::builder_with_provider(self.provider().clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(|e| wrong(e.to_string()))?
            .with_client_cert_verifier(Arc::new(Callers(self.shared_trust())))
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(Arc::new(certified))));
        config.alpn_protocols = vec![ALPN_SPREAD.to_vec()];
        config.max_early_data_size = 0; // 0-RTT can be replayed (RFC 8446 §8)
        config.send_tls13_tickets = 0; // a session is long, and resumption would need the chain verified again
        Ok(config)
    }

    /// The user's side, which believes the holder of one key: `pin` is the SHA-256 of its SubjectPublicKeyInfo.
    pub fn spread_client(&self, pin: [u8; 32]) -> Result<ClientConfig, SettingsError> {
        let wrong = |why: Error| SettingsError { field: "identity", why: why.to_string() };
        let algorithms = self.provider().signature_verification_algorithms;
        let mut config = ClientConfig::builder_with_provider(self.provider().clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(wrong)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Pinned { pin, algorithms }))
            .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(self.certified_arc())));
        config.alpn_protocols = vec![ALPN_SPREAD.to_vec()];
        config.enable_sni = false;
        config.resumption = rustls::client::Resumption::disabled();
        Ok(config)
    }

    /// Who showed `chain` as the client of a spread session, verified in full with what is believed now.
    pub fn spread_user(&self, chain: &[CertificateDer<'_>]) -> Result<Identity, Rejected> {
        self.trust().verify(chain, Side::Client, UnixTime::now())
    }
}

/// SHA-256 of the SubjectPublicKeyInfo of a PKCS #8 key: what [`Settings::spread_client`] pins. `None` when it is no key.
pub fn spread_pin(key: &[u8]) -> Option<[u8; 32]> {
    let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.to_vec()));
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&der).ok()?;
    let mut pin = [0; 32];
    pin.copy_from_slice(digest(key.public_key()?.as_ref()).as_ref());
    Some(pin)
}

fn digest(bytes: &[u8]) -> aws_lc_rs::digest::Digest {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes)
}

/// Believes the holder of one key.
#[derive(Debug)]
struct Pinned {
    pin: [u8; 32],
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        key: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if digest(key).as_ref() == self.pin {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Error::InvalidCertificate(rustls::CertificateError::ApplicationVerificationFailure))
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _key: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOffered))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature_with_raw_key(message, &SubjectPublicKeyInfoDer::from(key.as_ref()), dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
