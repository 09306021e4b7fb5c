//! Bounds on what others may make a process hold or do. Sans-io: every call takes `now`, nothing here has a clock.

mod bucket;
mod gate;
mod rate;
mod retry;
pub mod sluice;
mod watermark;

pub use bucket::Bucket;
pub use gate::{Bounds, Gate, Over, SourceKey};
pub use rate::MinRate;
pub use retry::RetryBudget;
pub use watermark::Watermark;

/// Milliseconds since a start that the caller chose; it never goes back.
pub type Millis = u64;
