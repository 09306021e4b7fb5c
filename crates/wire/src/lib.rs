//! Byte formats: HTTP/1.1 heads, error bodies, GRE; no I/O.

pub mod http1;
mod refusal;

pub use refusal::{ProxyError, Refusal};
