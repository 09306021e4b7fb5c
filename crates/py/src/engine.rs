//! The data plane. Calls return at once, except `stop`; none holds the interpreter's lock while it waits.

use polder_engine::{Engine as Native, EngineError};
use polder_types::{Peer, RingId};
use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use std::net::SocketAddr;
use std::time::Duration;

fn raise(error: EngineError) -> PyErr {
    match error {
        EngineError::Invalid(_) => PyValueError::new_err(error.to_string()),
        EngineError::System(_) => PyOSError::new_err(error.to_string()),
        EngineError::Stopped => PyRuntimeError::new_err(error.to_string()),
    }
}

fn address(text: &str) -> PyResult<SocketAddr> {
    text.parse().map_err(|_| PyValueError::new_err(format!("{text:?} is not ip:port")))
}

#[pyclass(frozen)]
pub struct Engine {
    native: Native,
}

#[pymethods]
impl Engine {
    /// Starts an engine. `ValueError`: the configuration; `OSError`: a listener could not be opened.
    #[new]
    fn new(py: Python<'_>, config: &[u8]) -> PyResult<Self> {
        py.detach(|| Native::start(config)).map(|native| Engine { native }).map_err(raise)
    }

    fn addresses(&self) -> Vec<String> {
        self.native.addresses().iter().map(ToString::to_string).collect()
    }

    /// UDP addresses of the relay, in the order of the configuration.
    fn spread_addresses(&self) -> Vec<String> {
        self.native.spread_addresses().iter().map(ToString::to_string).collect()
    }

    /// `ValueError`: an address; `OSError`: one could not be opened. Nothing has changed then.
    fn listen(&self, py: Python<'_>, addresses: Vec<String>, inherited: Vec<(String, i32)>) -> PyResult<()> {
        let addresses = addresses.iter().map(|text| address(text)).collect::<PyResult<Vec<_>>>()?;
        let inherited = inherited.iter().map(|(text, fd)| Ok((address(text)?, *fd))).collect::<PyResult<Vec<_>>>()?;
        py.detach(|| self.native.listen(&addresses, &inherited)).map_err(raise)
    }

    /// Address as configured and descriptor, which stays the engine's.
    fn listeners(&self) -> Vec<(String, i32)> {
        self.native.listeners().into_iter().map(|(address, fd)| (address.to_string(), fd)).collect()
    }

    fn event_fd(&self) -> i32 {
        self.native.event_fd()
    }

    /// `ValueError`: unusable, and which field; the last snapshot stays in force.
    fn apply(&self, py: Python<'_>, snapshot: &[u8]) -> PyResult<u64> {
        py.detach(|| self.native.apply(snapshot)).map_err(raise)
    }

    #[allow(clippy::too_many_arguments)] // flat on purpose: the boundary carries plain values only
    fn call(&self, name: &str, ring_id: &[u8], address: &str, method: String, body: Vec<u8>, timeout_ms: u64) -> PyResult<u64> {
        let ring_id: [u8; 16] = ring_id.try_into().map_err(|_| PyValueError::new_err("a ring id has 16 bytes"))?;
        let address = self::address(address)?;
        let peer = Peer { name: name.into(), ring_id: RingId(u128::from_be_bytes(ring_id)), address, warm: false };
        self.native.call(peer, method, body, Duration::from_millis(timeout_ms)).map_err(raise)
    }

    /// `ValueError`: what is wrong with the order.
    fn spread<'py>(&self, py: Python<'py>, order: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
        py.detach(|| self.native.spread(order)).map(|answer| PyBytes::new(py, &answer)).map_err(raise)
    }

    fn reply(&self, id: u64, status: u16, body: Vec<u8>) {
        self.native.reply(id, status, body);
    }

    fn drain_events<'py>(&self, py: Python<'py>, max: usize) -> Vec<Bound<'py, PyBytes>> {
        self.native.drain_events(max).iter().map(|event| PyBytes::new(py, event)).collect()
    }

    fn counters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        for (name, value) in self.native.counters() {
            dict.set_item(name, value)?;
        }
        Ok(dict)
    }

    /// Name, upper bounds, observations in each bucket alone (one more than bounds), sum.
    fn histograms(&self) -> Vec<(&'static str, Vec<f64>, Vec<u64>, f64)> {
        self.native.histograms().into_iter().map(|(name, read)| (name, read.bounds, read.counts, read.sum)).collect()
    }

    fn status<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.native.status())
    }

    fn drain(&self) {
        self.native.drain();
    }

    /// Returns the tunnels that were cut.
    fn stop(&self, py: Python<'_>, deadline_ms: u64) -> u64 {
        py.detach(|| self.native.stop(Duration::from_millis(deadline_ms)))
    }
}

/// Name, kind as OpenMetrics calls it, and help text of every counter and histogram.
#[pyfunction]
pub fn meanings() -> Vec<(&'static str, &'static str, String)> {
    let all = Native::meanings().into_iter().chain(polder_sock::GreCounters::meanings());
    all.map(|meaning| (meaning.name, meaning.kind.text(), meaning.help)).collect()
}

/// Bytes that this process holds of the C library's allocator, and bytes that the allocator holds of the system.
#[pyfunction]
pub fn heap(py: Python<'_>) -> (u64, u64) {
    let heap = py.detach(polder_sock::heap);
    (heap.used, heap.held)
}
