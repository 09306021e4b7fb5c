//! The laboratory's tools: each runs in a process of its own.

use polder_lab::LabError;
use pyo3::exceptions::{PyOSError, PyPermissionError, PyValueError};
use pyo3::prelude::*;

/// Runs the tool `name` to its end without the interpreter's lock; returns its report (MessagePack).
///
/// `ValueError`: the configuration; `PermissionError`: not in a laboratory, or not that target; `OSError`: the system.
#[pyfunction]
pub fn lab(py: Python<'_>, name: &str, config: &[u8]) -> PyResult<Vec<u8>> {
    py.detach(|| polder_lab::run(name, config)).map_err(|error| match error {
        LabError::Config(_) => PyValueError::new_err(error.to_string()),
        LabError::Refused(_) => PyPermissionError::new_err(error.to_string()),
        LabError::System(error) => PyOSError::new_err(error.to_string()),
    })
}
