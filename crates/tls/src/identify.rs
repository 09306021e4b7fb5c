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

    pub(crate) fn contains(&self, identity: &Identity) -> bool {
        self.identities.contains(&*identity.uri) || self.keys.contains(&identity.key_hash)
    }
}

/// Reads the identity out of a leaf whose chain has been verified. `now` in Unix seconds.
pub(crate) fn identify(leaf: &CertificateDer<'_>, domain: &str, revoked: &Revoked, now: i64) -> Result<Identity, Rejected> {
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
    };
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
