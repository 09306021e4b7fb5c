//! `polder._native`: the whole boundary between Python and Rust.
#![allow(missing_docs)]
use pyo3::prelude::*;

#[pymodule]
fn _native(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("SCHEMA", polder_types::SCHEMA)
}
