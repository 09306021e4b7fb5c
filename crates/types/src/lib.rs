//! Values that every crate shares: identities, the data-plane snapshot, events, configuration.
//!
//! The snapshot and the events cross the boundary to Python as MessagePack maps with the field names used here.
//! `python/polder/snapshot/schema.py` is the other half; `SCHEMA` changes when either does, and a conversation test compares
//! them field by field.

mod config;
mod event;
mod gre;
mod identity;
mod limits;
mod snapshot;
mod spread;

pub use config::{EngineConfig, Role};
pub use event::{CallId, Event};
pub use gre::{GreConfig, GrePeer, Prefix};
pub use identity::{Identity, IdentityError, Kind, PeerName, RingId, SiteName};
pub use limits::Limits;
pub use snapshot::{
    BeaconEntry, Delivery, Forwarder, IdentityMaterial, PathMode, Peer, PlaneChoice, Revocations, RingRoute, Rule, ServletEntry,
    Site, Snapshot, Tell, Telling, Told, Tracing,
};
pub use spread::{Spread, SpreadEpoch, SpreadMembers};

/// Version of the MessagePack schema of [`Snapshot`], [`Event`] and [`EngineConfig`].
pub const SCHEMA: u32 = 1;

/// Bytes that could not be decoded into a value of the schema.
#[derive(Debug, thiserror::Error)]
#[error("schema: {0}")]
pub struct SchemaError(pub String);

/// Decodes one MessagePack value. Addresses are text, as Python writes them. Errors: trailing bytes, unknown or missing fields.
pub fn decode<'a, T: serde::Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, SchemaError> {
    let mut rest = std::io::Cursor::new(bytes);
    let value = T::deserialize(&mut rmp_serde::Deserializer::new(&mut rest).with_human_readable());
    let value = value.map_err(|e| SchemaError(e.to_string()))?;
    if rest.position() == bytes.len() as u64 { Ok(value) } else { Err(SchemaError("trailing bytes".to_owned())) }
}

/// Encodes one value as a MessagePack map. Addresses become text.
pub fn encode<T: serde::Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = rmp_serde::Serializer::new(&mut bytes).with_struct_map().with_human_readable();
    match value.serialize(&mut encoder) {
        Ok(()) => bytes,
        Err(_) => Vec::new(), // a Vec takes every write, and every value of the schema has a MessagePack form
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    #[test]
    fn addresses_travel_as_text_and_junk_is_refused() {
        let peer = Peer { name: "n".into(), ring_id: RingId(5), address: "[::1]:7443".parse().unwrap(), warm: true };
        let bytes = encode(&peer);
        assert!(bytes.windows(10).any(|w| w == b"[::1]:7443"));
        let back: Peer = decode(&bytes).unwrap();
        assert_eq!((back.ring_id, back.address), (peer.ring_id, peer.address));
        let mut long = bytes.clone();
        long.push(0);
        assert!(decode::<Peer>(&long).is_err());
        for end in 0..bytes.len() {
            assert!(decode::<Peer>(&bytes[..end]).is_err(), "cut at {end}");
        }
        assert!(decode::<SocketAddr>(&encode(&"1.2.3.4")).is_err());
    }
}
