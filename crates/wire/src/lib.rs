//! Byte formats: HTTP/1.1 heads, error bodies, GRE, the PROXY protocol, words about users, openings and detours of the spread plane; no I/O.

pub mod detour;
mod frames;
pub mod gre;
pub mod http1;
mod problem;
pub mod proxy2;
mod refusal;
pub mod spread;
pub mod word;

pub use frames::{FrameCounter, SMALL_DATA};
pub use problem::{Problem, parse_proxy_status, proxy_status};
pub use refusal::{ProxyError, Refusal};
