//! The GRE endpoint as Python holds it.

use polder_sock::{GreError, adopt};
use polder_types::{GreConfig, decode};
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;

/// Packets between a TUN device and raw GRE sockets, on a thread of their own.
#[pyclass]
pub struct GreEndpoint {
    inner: polder_sock::GreEndpoint,
}

fn config(bytes: &[u8]) -> PyResult<GreConfig> {
    decode(bytes).map_err(|error| PyValueError::new_err(error.to_string()))
}

fn raised(error: GreError) -> PyErr {
    match error {
        GreError::Config(_) => PyValueError::new_err(error.to_string()),
        GreError::System(_) => PyOSError::new_err(error.to_string()),
    }
}

#[pymethods]
impl GreEndpoint {
    /// Descriptors are duplicated: the caller closes its own. −1: no socket of that family.
    #[new]
    fn new(tun: i32, raw4: i32, raw6: i32, config_bytes: &[u8]) -> PyResult<Self> {
        let socket = |fd: i32| if fd < 0 { Ok(None) } else { adopt(fd).map(Some) };
        let start = || -> Result<_, GreError> { Ok((adopt(tun)?, socket(raw4)?, socket(raw6)?)) };
        let (tun, raw4, raw6) = start().map_err(raised)?;
        let inner = polder_sock::GreEndpoint::start(tun, raw4, raw6, &config(config_bytes)?).map_err(raised)?;
        Ok(GreEndpoint { inner })
    }

    fn update(&self, config_bytes: &[u8]) -> PyResult<()> {
        self.inner.update(&config(config_bytes)?).map_err(raised)
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        self.inner.counters().read()
    }

    fn alive(&self) -> bool {
        self.inner.alive()
    }

    fn stop(&mut self, py: Python<'_>) {
        py.detach(|| self.inner.stop());
    }
}
