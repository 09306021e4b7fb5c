//! Raw sockets, TUN and batched datagrams: the only room with unsafe code.
#![allow(unsafe_code)]

mod batch;
mod burst;
mod gre;
mod listener;
mod memory;
mod ready;
mod runs;
pub mod sluice;
mod unsent;

pub use batch::{Inbox, send_batch};
pub use burst::{BURST, Burst};
pub use gre::{GreCounters, GreEndpoint, GreError};
pub use listener::adopt_listener;
pub use memory::{Heap, give_memory_back, heap, keep_memory};
pub use ready::{Interest, Ready, adopt};
pub use runs::{Received, RunInbox, RunOutbox, ToSend, bind_runs};
pub use unsent::bound_unsent;
