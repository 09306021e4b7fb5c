//! Byte formats: HTTP/1.1 heads, error bodies, GRE; no I/O.

pub mod gre;
pub mod http1;
mod problem;
mod refusal;

pub use problem::{Problem, parse_proxy_status, proxy_status};
pub use refusal::{ProxyError, Refusal};
