//! What crosses the boundary from Python.

use polder_plan::Plan;
use polder_types::{EngineConfig, Event, Snapshot, decode, encode};

/// What decodes, encodes to something that decodes to the same.
fn stable<T: codec::Value>(data: &[u8]) -> Option<T> {
    let value = T::read(data)?;
    let once = value.write();
    let again = T::read(&once).map(|value| value.write());
    assert_eq!(again.as_deref(), Some(once.as_slice()));
    Some(value)
}

/// A snapshot that decodes either compiles or is refused with the name of a field.
pub(crate) fn snapshot(data: &[u8]) {
    if let Some(snapshot) = stable::<Snapshot>(data) {
        match Plan::compile(&snapshot, "me") {
            Ok(plan) => assert_eq!(plan.version, snapshot.version),
            Err(error) => assert!(!error.field.is_empty() && !error.why.is_empty()),
        }
    }
}

/// An event that decodes encodes again.
pub(crate) fn event(data: &[u8]) {
    stable::<Event>(data);
}

/// A configuration that decodes encodes again.
pub(crate) fn config(data: &[u8]) {
    stable::<EngineConfig>(data);
}

/// The codec as a trait, so that one function serves all three.
mod codec {
    use super::{EngineConfig, Event, Snapshot, decode, encode};

    pub(crate) trait Value: Sized {
        fn read(data: &[u8]) -> Option<Self>;
        fn write(&self) -> Vec<u8>;
    }

    macro_rules! values {
        ($($name:ty),*) => {
            $(impl Value for $name {
                fn read(data: &[u8]) -> Option<Self> {
                    decode(data).ok()
                }

                fn write(&self) -> Vec<u8> {
                    encode(self)
                }
            })*
        };
    }

    values!(EngineConfig, Event, Snapshot);
}
