//! A snapshot compiled into lookup tables: who may go where, and by which next hop.
//!
//! Theory of operation. The control plane decides, [`Plan::compile`] turns its snapshot into hash tables once, and every
//! request afterwards costs a few look-ups: [`Plan::admit`] (is the name registered, is the list fresh, do the rules let the
//! user in; cheapest first, default deny) and [`Plan::route`] (the candidates for the next hop, best first). Nothing here
//! does I/O, asks a clock or resolves a name: the only addresses that a node ever dials stand in the snapshot.

mod admit;
mod compile;
mod route;

pub use admit::Denied;
pub use compile::{Plan, PlanError, SitePlan};
pub use route::{Hop, Stage};
