//! From a certificate to an identity: everything that is checked beyond the chain.

use polder_types::{Identity, IdentityError, Kind, Revocations, RingId};
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::pki_types::CertificateDer;
use std::collections::HashSet;
use std::sync::Arc;
use x509_parser::prelude::*;

/// Private extension with the ring id: 16 bytes, big-endian. The arc is a UUID-free `2.25` arc of Polder's own.
pub const RING_ID_OID: &str = "2.25.235711131719232931.1";
/// Private extension with a user's groups: UTF-8, comma separated.
pub const GROUPS_OID: &str = "2.25.235711131719232931.2";

/// Why a certificate is not believed. Each says whose fault it is and how to mend it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// No certificate was shown.
    #[error("no certificate was shown: enrol first (`polder join` for nodes, `polder enroll` for users)")]
    None,
    /// Not parseable as X.509.
    #[error("the certificate is malformed")]
    Malformed,
    /// The chain does not end at a pinned root, or a signature or usage in it is wrong.
    #[error("the certificate was not issued by this overlay's authority: {0}")]
    Chain(String),
    /// Not exactly one URI SAN.
    #[error("the certificate has {0} URI names where exactly one is wanted; enrol again")]
    UriNames(usize),
    /// The one URI SAN is not an identity of the trust domain.
    #[error("{0}; enrol with this overlay's authority")]
    Identity(#[from] IdentityError),
    /// The ring id is missing, not 16 bytes, or on something that is no node.
    #[error("the certificate of a node must carry one ring id of 16 bytes, and no other may; enrol again")]
    RingId,
    /// The groups are not UTF-8 names separated by commas.
    #[error("the groups in the certificate are malformed; enrol again")]
    Groups,
    /// Validity has ended.
    #[error("the certificate expired {0} s ago: renew it (it also renews after expiry, with the same key)")]
    Expired(i64),
    /// Validity has not begun.
    #[error("the certificate is not valid yet: one of the two clocks is wrong by at least {0} s")]
    NotYet(i64),
    /// The identity or its key is on the revocation list.
    #[error("{0} is revoked: ask the operator of the authority")]
    Revoked(Arc<str>),
    /// A good certificate of somebody else.
    #[error("wanted {wanted}, but {found} answered: its address is stale or it chose a ring id of its own")]
    Unexpected {
        /// Whom we wanted.
        wanted: String,
        /// Who answered.
        found: String,
    },
}

/// The revocation list, for look-up.
#[derive(Debug, Default)]
pub(crate) struct Revoked {
    identities: HashSet<String>,
    keys: HashSet<[u8; 32]>,
}

impl Revoked {
    pub(crate) fn new(list: &Revocations) -> Result<Self, usize> {
        let mut keys = HashSet::with_capacity(list.keys.len());
        for (index, key) in list.keys.iter().enumerate() {
            keys.insert(<[u8; 32]>::try_from(key.as_ref()).map_err(|_| index)?);
        }
        Ok(Revoked { identities: list.identities.iter().cloned().collect(), keys })
    }

    /// Whether the identity, its key or its issuer's key is on the list.
    pub(crate) fn contains(&self, identity: &Identity) -> bool {
        self.identities.contains(&*identity.uri)
            || self.keys.contains(&identity.key_hash)
            || identity.issuer.is_some_and(|issuer| self.keys.contains(&issuer))
    }
}

/// A certificate between root and leaf, for look-up by name.
#[derive(Debug)]
pub(crate) struct IssuerKey {
    subject: Vec<u8>,
    key_hash: [u8; 32],
}

impl IssuerKey {
    /// Reads an issuer's certificate; `None` when it is none. Nothing is verified here.
    pub(crate) fn read(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, cert) = X509Certificate::from_der(der).ok()?;
        Some(IssuerKey { subject: cert.subject().as_raw().to_vec(), key_hash: sha256(cert.public_key().raw) })
    }
}

/// What a certificate (DER) says at `now` (Unix seconds), before anybody has looked at its chain or at revocations.
pub fn read_leaf(der: &[u8], domain: &str, now: i64) -> Result<Identity, Rejected> {
    identify(&CertificateDer::from(der), [], domain, &Revoked::default(), now)
}

/// Reads the identity out of a leaf whose chain has been verified, or is going to be, with `issuers` among its certificates.
/// `now` in Unix seconds.
pub(crate) fn identify<'a>(
    leaf: &CertificateDer<'_>,
    issuers: impl IntoIterator<Item = &'a IssuerKey>,
    domain: &str,
    revoked: &Revoked,
    now: i64,
) -> Result<Identity, Rejected> {
    let (rest, cert) = X509Certificate::from_der(leaf).map_err(|_| Rejected::Malformed)?;
    if !rest.is_empty() {
        return Err(Rejected::Malformed);
    }
    let uri = only_uri(&cert)?;
    let (kind, name) = Identity::parse_uri(uri, domain)?;
    let (from, until) = (cert.validity().not_before.timestamp(), cert.validity().not_after.timestamp());
    if now > until {
        return Err(Rejected::Expired(now - until));
    }
    if now < from {
        return Err(Rejected::NotYet(from - now));
    }
    let identity = Identity {
        kind,
        name: name.into(),
        uri: uri.into(),
        ring_id: ring_id(&cert, kind)?,
        groups: groups(&cert, kind)?,
        key_hash: sha256(cert.public_key().raw),
        not_after: until,
        issuer: None,
    };
    // A chain may bring a forged certificate of the issuer's name beside the true one, which alone leads to the root: where
    // one of them is revoked, that one counts.
    let mut named = issuers.into_iter().filter(|issuer| issuer.subject == cert.issuer().as_raw()).map(|issuer| issuer.key_hash);
    let first = named.next();
    let identity = Identity { issuer: named.find(|key| revoked.keys.contains(key)).or(first), ..identity };
    if revoked.contains(&identity) {
        return Err(Rejected::Revoked(identity.uri));
    }
    Ok(identity)
}

/// The one URI SAN. More than one would let a holder choose who to be.
fn only_uri<'a>(cert: &'a X509Certificate<'_>) -> Result<&'a str, Rejected> {
    let names = cert.subject_alternative_name().map_err(|_| Rejected::Malformed)?;
    let mut uris = names.iter().flat_map(|san| &san.value.general_names).filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    match (uris.next(), uris.count()) {
        (Some(uri), 0) => Ok(uri),
        (None, _) => Err(Rejected::UriNames(0)),
        (Some(_), more) => Err(Rejected::UriNames(more + 1)),
    }
}

/// The value of a private extension; `Err` when it appears twice.
fn extension<'a>(cert: &'a X509Certificate<'_>, oid: &str) -> Result<Option<&'a [u8]>, Rejected> {
    let mut found = cert.extensions().iter().filter(|e| e.oid.to_id_string() == oid);
    let first = found.next().map(|e| e.value);
    if found.next().is_some() { Err(Rejected::Malformed) } else { Ok(first) }
}

fn ring_id(cert: &X509Certificate<'_>, kind: Kind) -> Result<Option<RingId>, Rejected> {
    match (extension(cert, RING_ID_OID)?, kind) {
        (Some(value), Kind::Node) => {
            let bytes: [u8; 16] = value.try_into().map_err(|_| Rejected::RingId)?;
            Ok(Some(RingId(u128::from_be_bytes(bytes))))
        }
        (None, Kind::Node) | (Some(_), _) => Err(Rejected::RingId),
        (None, _) => Ok(None),
    }
}

fn groups(cert: &X509Certificate<'_>, kind: Kind) -> Result<Vec<Arc<str>>, Rejected> {
    let Some(value) = extension(cert, GROUPS_OID)? else { return Ok(Vec::new()) };
    let text = std::str::from_utf8(value).map_err(|_| Rejected::Groups)?;
    if kind != Kind::User || text.chars().any(|c| c.is_control()) {
        return Err(Rejected::Groups);
    }
    Ok(text.split(',').filter(|g| !g.is_empty()).map(Into::into).collect())
}

fn sha256(data: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    if let Some(suite) = TLS13_AES_128_GCM_SHA256.tls13() {
        out.copy_from_slice(suite.common.hash_provider.hash(data).as_ref());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, CustomExtension, KeyPair, SanType};

    fn leaf() -> Vec<u8> {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.subject_alt_names = vec![SanType::URI("spiffe://o.test/node/n1".try_into().unwrap())];
        let oid = [2, 25, 235_711_131_719_232_931, 1];
        params.custom_extensions = vec![CustomExtension::from_oid_content(&oid, vec![9; 16])];
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    fn read(der: &[u8]) -> Result<Identity, Rejected> {
        identify(&CertificateDer::from(der), &[], "o.test", &Revoked::default(), 1_800_000_000)
    }

    #[test]
    fn what_a_node_says() {
        let identity = read(&leaf()).unwrap();
        assert_eq!((identity.kind, &*identity.name), (Kind::Node, "n1"));
        assert_eq!(identity.ring_id, Some(RingId(u128::from_be_bytes([9; 16]))));
        assert_eq!(sha256(b"abc")[..4], [0xba, 0x78, 0x16, 0xbf], "FIPS 180-4's example");
    }

    #[test]
    fn revoked_by_name_or_by_key() {
        let der = leaf();
        let key = read(&der).unwrap().key_hash;
        let by = |identities: &[&str], keys: &[[u8; 32]]| {
            let list = Revocations {
                identities: identities.iter().map(ToString::to_string).collect(),
                keys: keys.iter().map(|k| serde_bytes::ByteBuf::from(k.to_vec())).collect(),
                ..Revocations::default()
            };
            identify(&CertificateDer::from(der.as_slice()), &[], "o.test", &Revoked::new(&list).unwrap(), 1_800_000_000)
        };
        assert!(matches!(by(&["spiffe://o.test/node/n1"], &[]), Err(Rejected::Revoked(_))));
        assert!(matches!(by(&[], &[key]), Err(Rejected::Revoked(_))));
        assert!(by(&["spiffe://o.test/node/n2", "spiffe://o.test/user/n1"], &[[0; 32]]).is_ok());
        let short = Revocations { keys: vec![serde_bytes::ByteBuf::from(vec![1; 31])], ..Revocations::default() };
        assert_eq!(Revoked::new(&short).unwrap_err(), 0);
    }

    proptest! {
        /// A stranger's certificate is read before its chain is verified: whatever it is, the answer is a verdict.
        #[test]
        fn junk_gets_a_verdict(at in any::<prop::sample::Index>(), with: u8, end in any::<prop::sample::Index>(), cut: bool) {
            let mut der = leaf();
            let at = at.index(der.len());
            der[at] = with;
            if cut {
                der.truncate(end.index(der.len()));
            }
            if let Ok(identity) = read(&der) {
                prop_assert!(identity.kind != Kind::Node || identity.ring_id.is_some());
            }
        }

        #[test]
        fn noise_gets_a_verdict(der in proptest::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(read(&der).is_err());
        }
    }
}
