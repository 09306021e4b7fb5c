//! Configurations of both ends, built whole from a snapshot.

use crate::identify::{Rejected, Revoked};
use crate::verify::{Callee, Callers, Side, Trust};
use crate::{Accepted, Connected, Wire};
use polder_types::{Identity, Kind, PeerName, RingId, Snapshot};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::ServerSessionMemoryCache;
use rustls::{ClientConfig, HandshakeKind, RootCertStore, ServerConfig, version::TLS13};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::TcpStream;

/// HTTP/2: links, browsers.
pub const ALPN_H2: &[u8] = b"h2";
/// HTTP/1.1: browsers and forwarders that want it.
pub const ALPN_H1: &[u8] = b"http/1.1";
/// A site's agent that offers to take streams.
pub const ALPN_DIALOUT: &[u8] = b"polder-dialout";

/// Sessions kept for resumption: about 2 KiB each (the client's chain and a secret), 2 MiB in all.
const SESSIONS: usize = 1024;

/// What the two ends agreed to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alpn {
    /// `h2`.
    H2,
    /// `http/1.1`, or nothing agreed.
    H1,
    /// `polder-dialout`.
    DialOut,
}

impl Alpn {
    fn of(negotiated: Option<&[u8]>) -> Self {
        match negotiated {
            Some(ALPN_H2) => Alpn::H2,
            Some(ALPN_DIALOUT) => Alpn::DialOut,
            _ => Alpn::H1,
        }
    }
}

/// The node that a caller wants at the other end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Expected {
    /// Node name.
    pub name: PeerName,
    /// Ring id that the issuer gave it.
    pub ring_id: RingId,
}

impl Expected {
    pub(crate) fn is(&self, identity: &Identity) -> bool {
        identity.kind == Kind::Node && identity.name == self.name && identity.ring_id == Some(self.ring_id)
    }

    pub(crate) fn rejects(&self, found: &Identity) -> Rejected {
        let ring_id = found.ring_id.map(|id| format!(" at ring id {id:?}")).unwrap_or_default();
        Rejected::Unexpected {
            wanted: format!("node {} at ring id {:?}", self.name, self.ring_id),
            found: format!("{} {}{ring_id}", found.kind.as_str(), found.name),
        }
    }
}

/// A snapshot whose identity, roots or revocations cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{field}: {why}")]
pub struct SettingsError {
    /// Which field of the snapshot.
    pub field: &'static str,
    /// What is wrong with it.
    pub why: String,
}

impl SettingsError {
    fn new(field: &'static str, why: impl ToString) -> Self {
        SettingsError { field, why: why.to_string() }
    }
}

/// A handshake that did not end well.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The network, or the peer's TLS.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The peer's certificate.
    #[error("{0}")]
    Rejected(#[from] Rejected),
}

impl HandshakeError {
    /// What to tell the operator when it was the certificate that was refused, whoever refused it; `None` when the network
    /// broke or somebody spoke something else than TLS.
    pub fn about_certificate(&self) -> Option<String> {
        let e = match self {
            HandshakeError::Rejected(rejected) => return Some(rejected.to_string()),
            HandshakeError::Io(e) => e.get_ref()?.downcast_ref::<rustls::Error>()?,
        };
        match e {
            rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other)) => Some(other.to_string()),
            rustls::Error::InvalidCertificate(rustls::CertificateError::Expired) => {
                Some("the certificate has expired: renew it (it also renews after expiry, with the same key)".into())
            }
            rustls::Error::InvalidCertificate(rustls::CertificateError::Revoked) => {
                Some("the identity is revoked: ask the operator of the authority".into())
            }
            rustls::Error::InvalidCertificate(e) => Some(format!("the certificate is not good: {e}")),
            rustls::Error::NoCertificatesPresented => Some(Rejected::None.to_string()),
            _ => None,
        }
    }
}

/// Everything that handshakes need, from one snapshot.
pub struct Settings {
    me: Arc<Identity>,
    material: Vec<u8>,
    trust: Arc<Trust>,
    server: Arc<ServerConfig>,
    key: Arc<rustls::sign::CertifiedKey>,
    provider: Arc<CryptoProvider>,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Settings({})", self.me.uri)
    }
}

/// TLS 1.3 only; AES-128 first, for it is the fastest on hardware that nodes have.
fn provider() -> Arc<CryptoProvider> {
    use aws_lc_rs::cipher_suite as suite;
    let cipher_suites =
        vec![suite::TLS13_AES_128_GCM_SHA256, suite::TLS13_AES_256_GCM_SHA384, suite::TLS13_CHACHA20_POLY1305_SHA256];
    Arc::new(CryptoProvider { cipher_suites, ..aws_lc_rs::default_provider() })
}

impl Settings {
    /// Builds the settings of one snapshot. Fails, naming the field, when the identity does not verify under the roots, the
    /// key does not belong to it, or a revoked key hash has not 32 bytes. An identity that has expired is still usable for
    /// the purpose of renewing; peers refuse it. `now` in Unix seconds.
    pub fn new(snapshot: &Snapshot, now: u64) -> Result<Self, SettingsError> {
        Settings::after(None, snapshot, now)
    }

    /// As [`Settings::new`], and sessions that `before` has handed out can still be resumed: a resumed session is verified
    /// again from the root with the settings in force, so a new snapshot needs not forget them.
    pub fn after(before: Option<&Settings>, snapshot: &Snapshot, now: u64) -> Result<Self, SettingsError> {
        let provider = provider();
        let mut roots = RootCertStore::empty();
        for root in &snapshot.roots {
            roots.add(CertificateDer::from(root.to_vec())).map_err(|e| SettingsError::new("roots", e))?;
        }
        if roots.is_empty() {
            return Err(SettingsError::new("roots", "at least one pinned root is needed"));
        }
        let revoked = Revoked::new(&snapshot.revocations)
            .map_err(|index| SettingsError::new("revocations.keys", format!("hash {index} has not 32 bytes")))?;
        // Our own issuer and, while one replaces the other, both: browsers send the leaf alone, and choose it by issuer.
        let mut issuers: Vec<_> = snapshot.identity.chain.iter().skip(1).map(|c| CertificateDer::from(c.to_vec())).collect();
        for issuer in snapshot.revocations.issuers.iter().map(|c| CertificateDer::from(c.to_vec())) {
            if !issuers.contains(&issuer) {
                issuers.push(issuer);
            }
        }
        let trust = Trust::new(snapshot.trust_domain.clone(), roots, issuers, revoked, &provider)
            .map_err(|e| SettingsError::new("roots", e))?;
        let trust = Arc::new(trust);
        let (key, me) = own_identity(snapshot, &trust, &provider, now)?;
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(|e| SettingsError::new("identity", e))?
            .with_client_cert_verifier(Arc::new(Callers(trust.clone())))
            .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(key.clone())));
        server.alpn_protocols = [ALPN_H2, ALPN_H1, ALPN_DIALOUT].map(<[u8]>::to_vec).to_vec();
        server.session_storage =
            before.map_or_else(|| ServerSessionMemoryCache::new(SESSIONS) as _, |before| before.server.session_storage.clone());
        server.max_early_data_size = 0; // 0-RTT can be replayed (RFC 8446 §8)
        let material = snapshot.identity.chain.iter().flat_map(|c| c.to_vec()).collect();
        Ok(Settings { me: Arc::new(me), material, trust, server: Arc::new(server), key, provider })
    }

    /// Who this process is.
    pub fn me(&self) -> &Arc<Identity> {
        &self.me
    }

    /// The trust domain that is believed.
    pub fn trust_domain(&self) -> &str {
        self.trust.domain()
    }

    pub(crate) fn trust(&self) -> &Trust {
        &self.trust
    }

    pub(crate) fn shared_trust(&self) -> Arc<Trust> {
        self.trust.clone()
    }

    pub(crate) fn certified_arc(&self) -> Arc<rustls::sign::CertifiedKey> {
        self.key.clone()
    }

    pub(crate) fn provider(&self) -> &Arc<CryptoProvider> {
        &self.provider
    }

    pub(crate) fn certified(&self) -> &rustls::sign::CertifiedKey {
        &self.key
    }

    /// Whether `other` shows peers the same certificates, so that links made with it may stay.
    pub fn same_identity(&self, other: &Settings) -> bool {
        self.material == other.material
    }

    /// Whether an identity that was good at its handshake is revoked by now.
    pub fn is_revoked(&self, identity: &Identity) -> bool {
        self.trust.is_revoked(identity)
    }

    /// Server's handshake with a caller whose kind is yet unknown. The caller sets the deadline.
    pub async fn accept(&self, socket: TcpStream) -> Result<(Accepted, Identity, Alpn), HandshakeError> {
        let slot = tokio_rustls::TlsAcceptor::from(self.server.clone());
        let stream = slot.accept(Wire::new(socket)).await?;
        let (_, session) = stream.get_ref();
        let chain = session.peer_certificates().unwrap_or_default();
        // A resumed session carries the chain of its first handshake: check it all again, for roots and list may be newer.
        let identity = match session.handshake_kind() {
            Some(HandshakeKind::Resumed) => self.trust.verify(chain, Side::Client, UnixTime::now())?,
            _ => self.trust.identify(chain, UnixTime::now())?,
        };
        let alpn = Alpn::of(session.alpn_protocol());
        Ok((stream, identity, alpn))
    }

    /// Client's handshake with one node; our certificate is shown only to the expected one. The caller sets the deadline.
    pub async fn connect(
        &self,
        socket: TcpStream,
        expected: &Expected,
        alpn: &[u8],
    ) -> Result<(Connected, Identity), HandshakeError> {
        let verifier = Arc::new(Callee { trust: self.trust.clone(), expected: expected.clone(), outcome: Mutex::new(None) });
        let mut config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(std::io::Error::other)?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone())
            .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(self.key.clone())));
        config.alpn_protocols = vec![alpn.to_vec()];
        // The name would travel in clear, and links are long-lived: neither SNI nor resumption is worth having.
        config.enable_sni = false;
        config.resumption = rustls::client::Resumption::disabled();
        let name = ServerName::try_from("node.polder.invalid").map_err(std::io::Error::other)?;
        let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, Wire::new(socket)).await;
        let outcome = verifier.outcome.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (stream, outcome) {
            (_, Some(Err(rejected))) => Err(rejected.into()),
            (Err(e), _) => Err(e.into()),
            (Ok(_), None) => Err(Rejected::None.into()),
            (Ok(stream), Some(Ok(identity))) => {
                if stream.get_ref().1.alpn_protocol() != Some(alpn) {
                    return Err(std::io::Error::other("the node does not speak this protocol: upgrade one of the two").into());
                }
                Ok((stream, identity))
            }
        }
    }
}

type Own = (Arc<rustls::sign::CertifiedKey>, Identity);

/// Loads what this process proves itself with, and checks it as a peer would.
fn own_identity(snapshot: &Snapshot, trust: &Trust, provider: &CryptoProvider, now: u64) -> Result<Own, SettingsError> {
    let chain: Vec<CertificateDer<'static>> = snapshot.identity.chain.iter().map(|c| CertificateDer::from(c.to_vec())).collect();
    let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(snapshot.identity.key.to_vec()));
    let key = provider.key_provider.load_private_key(der).map_err(|e| SettingsError::new("identity.key", e))?;
    let key = rustls::sign::CertifiedKey::new(chain, key);
    key.keys_match().map_err(|e| SettingsError::new("identity.key", e))?;
    let mut at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now));
    let mut me = trust.verify(&key.cert, Side::Client, at);
    if let Err(Rejected::Expired(ago)) = me {
        at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now.saturating_sub(ago.unsigned_abs())));
        me = trust.verify(&key.cert, Side::Client, at);
    }
    match me {
        Ok(me) => Ok((Arc::new(key), me)),
        Err(e) => Err(SettingsError::new("identity.chain", e)),
    }
}
