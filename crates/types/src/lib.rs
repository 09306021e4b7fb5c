//! Values that every crate shares: identities, the data-plane snapshot, events, configuration.
//!
//! The snapshot and the events cross the boundary to Python as MessagePack maps with the field names used here.
//! `python/polder/snapshot/schema.py` is the other half; `SCHEMA` changes when either does, and a conversation test compares
//! them field by field.

mod config;
mod event;
mod identity;
mod snapshot;

pub use config::{EngineConfig, Role};
pub use event::{CallId, Event};
pub use identity::{Identity, IdentityError, Kind, PeerName, RingId, SiteName};
pub use snapshot::{
    BeaconEntry, Delivery, Forwarder, IdentityMaterial, Limits, PathMode, Peer, Revocations, RingRoute, Rule, ServletEntry,
    Site, Snapshot,
};

/// Version of the MessagePack schema of [`Snapshot`], [`Event`] and [`EngineConfig`].
pub const SCHEMA: u32 = 1;

/// Bytes that could not be decoded into a value of the schema.
#[derive(Debug, thiserror::Error)]
#[error("schema: {0}")]
pub struct SchemaError(pub String);

/// Decodes one MessagePack value. Errors: trailing bytes, unknown or missing fields.
pub fn decode<'a, T: serde::Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, SchemaError> {
    rmp_serde::from_slice(bytes).map_err(|e| SchemaError(e.to_string()))
}

/// Encodes one value as a MessagePack map.
pub fn encode<T: serde::Serialize>(value: &T) -> Vec<u8> {
    rmp_serde::to_vec_named(value).unwrap_or_default()
}
