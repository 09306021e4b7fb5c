//! Who a certificate says somebody is.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The four kinds of identity that an authority issues (`spiffe://<trust-domain>/<kind>/<name>`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// An overlay node.
    Node,
    /// A person or program that reads sites.
    User,
    /// The agent of a protected site.
    Site,
    /// An operator.
    Admin,
}

impl Kind {
    /// The path segment in the SPIFFE id.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Node => "node",
            Kind::User => "user",
            Kind::Site => "site",
            Kind::Admin => "admin",
        }
    }
}

/// A node's name: the last segment of its SPIFFE id.
pub type PeerName = std::sync::Arc<str>;
/// A site's name: the last segment of its SPIFFE id.
pub type SiteName = std::sync::Arc<str>;

/// A place on the ring: 128 bits, assigned by the issuer and carried in the certificate.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RingId(pub u128);

impl fmt::Debug for RingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl Serialize for RingId {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bytes(&self.0.to_be_bytes())
    }
}

impl<'de> Deserialize<'de> for RingId {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let bytes: serde_bytes::ByteBuf = Deserialize::deserialize(d)?;
        let array: [u8; 16] = bytes.as_ref().try_into().map_err(|_| serde::de::Error::custom("a ring id has 16 bytes"))?;
        Ok(RingId(u128::from_be_bytes(array)))
    }
}

/// What a verified certificate says: one SPIFFE id, for nodes a ring id, for users groups, for sites host names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Kind of identity.
    pub kind: Kind,
    /// Name within the kind.
    pub name: PeerName,
    /// The whole SPIFFE id.
    pub uri: std::sync::Arc<str>,
    /// Ring id; nodes only.
    pub ring_id: Option<RingId>,
    /// Groups; users only.
    pub groups: Vec<std::sync::Arc<str>>,
    /// SHA-256 of the SubjectPublicKeyInfo: what revocation names beside the identity.
    pub key_hash: [u8; 32],
    /// End of validity, Unix seconds.
    pub not_after: i64,
    /// SHA-256 of the SubjectPublicKeyInfo of the issuer that signed, where its certificate is known.
    pub issuer: Option<[u8; 32]>,
}

/// Why a name is not an identity of this trust domain.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum IdentityError {
    /// Not `spiffe://<trust-domain>/<kind>/<name>`.
    #[error("not an identity of trust domain {0}")]
    Foreign(String),
    /// The name has characters outside `[a-z0-9._-]`, or a wrong length.
    #[error("malformed name in identity")]
    Name,
}

impl Identity {
    /// Splits a SPIFFE id into kind and name. Names are 1 to 63 characters of `[a-z0-9._-]`.
    pub fn parse_uri<'a>(uri: &'a str, trust_domain: &str) -> Result<(Kind, &'a str), IdentityError> {
        let foreign = || IdentityError::Foreign(trust_domain.to_owned());
        let path = uri
            .strip_prefix("spiffe://")
            .and_then(|rest| rest.strip_prefix(trust_domain))
            .and_then(|rest| rest.strip_prefix('/'))
            .ok_or_else(foreign)?;
        let (kind, name) = path.split_once('/').ok_or_else(foreign)?;
        let kind = match kind {
            "node" => Kind::Node,
            "user" => Kind::User,
            "site" => Kind::Site,
            "admin" => Kind::Admin,
            _ => return Err(foreign()),
        };
        let good = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'.' | b'_' | b'-');
        if name.is_empty() || name.len() > 63 || !name.bytes().all(good) {
            return Err(IdentityError::Name);
        }
        Ok((kind, name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_spiffe_ids_of_its_own_domain_only() {
        assert_eq!(Identity::parse_uri("spiffe://o.test/node/n1", "o.test"), Ok((Kind::Node, "n1")));
        for foreign in ["spiffe://o.test.evil/node/n1", "spiffe://x/node/n1", "spiffe://o.test/root/n1", "https://o.test/node/n1"]
        {
            assert!(matches!(Identity::parse_uri(foreign, "o.test"), Err(IdentityError::Foreign(_))), "{foreign}");
        }
        for name in ["spiffe://o.test/user/", "spiffe://o.test/user/a/b", "spiffe://o.test/user/ANN", "spiffe://o.test/user/a%2f"]
        {
            assert_eq!(Identity::parse_uri(name, "o.test"), Err(IdentityError::Name), "{name}");
        }
    }
}
