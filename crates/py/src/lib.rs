//! `polder._native`: the whole boundary between Python and Rust.
#![allow(missing_docs)]
mod engine;
mod gre;
mod lab;

use pyo3::prelude::*;

#[pymodule]
fn _native(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<engine::Engine>()?;
    m.add_class::<gre::GreEndpoint>()?;
    m.add_function(wrap_pyfunction!(lab::lab, m)?)?;
    m.add_function(wrap_pyfunction!(engine::meanings, m)?)?;
    m.add_function(wrap_pyfunction!(engine::heap, m)?)?;
    m.add("PROFILE", if cfg!(debug_assertions) { "debug" } else { "release" })?;
    m.add("SCHEMA", polder_types::SCHEMA)
}
