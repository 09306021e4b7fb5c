//! Bounds on what others may make a process hold or do. Sans-io: every call takes `now`, nothing here has a clock.

mod bounds;
mod bucket;
mod gate;
mod rate;
mod retry;
pub mod sluice;
mod watermark;

pub use bounds::{Bounds, Over, SourceKey};
pub use bucket::Bucket;
pub use gate::Gate;
pub use rate::MinRate;
pub use retry::RetryBudget;
pub use watermark::Watermark;

/// Milliseconds since a start that the caller chose; it never goes back.
pub type Millis = u64;
