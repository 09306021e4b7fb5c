//! Raw sockets, TUN and batched datagrams: the only room with unsafe code.
#![allow(unsafe_code)]

mod burst;
mod ready;

pub use burst::{BURST, Burst};
pub use ready::{Interest, Ready, adopt};
