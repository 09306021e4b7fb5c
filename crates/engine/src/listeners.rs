//! The sockets on which an engine accepts: opened here or inherited, handed on, closed one by one.

use crate::accept::{self, Door};
use crate::{EngineError, invalid, system};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;

/// Connections that the kernel may finish before we take them.
const BACKLOG: u32 = 4096;

/// Descriptors of sockets that listen already, by the address in the configuration.
pub(crate) type Inherited = [(SocketAddr, RawFd)];

/// One listening socket. Dropping it ends its accept loop.
struct Listener {
    /// As configured; its port may be 0.
    configured: SocketAddr,
    bound: SocketAddr,
    socket: Arc<TcpListener>,
    open: watch::Sender<()>,
}

/// Every listening socket of an engine.
#[derive(Default)]
pub(crate) struct Listeners {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    listeners: Vec<Listener>,
    /// Before the first snapshot there is none: nobody could be answered.
    door: Option<Arc<Door>>,
}

impl Listeners {
    /// Listens on `wanted` and nowhere else. What is open already stays open; what is new is taken from `inherited` or opened.
    /// On error nothing has changed. Must run inside the runtime.
    pub(crate) fn set(&self, wanted: &[SocketAddr], inherited: &Inherited) -> Result<(), EngineError> {
        let mut inner = self.lock();
        let mut fresh = Vec::new();
        for address in missing(wanted, &inner.listeners) {
            let taken = fresh.iter().filter(|one: &&Listener| one.configured == address).count();
            let handed = inherited.iter().filter(|(of, _)| *of == address).nth(taken).map(|(_, fd)| *fd);
            fresh.push(Listener::new(address, handed)?);
        }
        let mut old = std::mem::take(&mut inner.listeners);
        for address in wanted {
            let from = if let Some(at) = old.iter().position(|one| one.configured == *address) {
                Some(old.swap_remove(at))
            } else {
                fresh.iter().position(|one| one.configured == *address).map(|at| {
                    let new = fresh.swap_remove(at);
                    if let Some(door) = &inner.door {
                        new.accept(door);
                    }
                    new
                })
            };
            inner.listeners.extend(from);
        }
        Ok(())
    }

    /// Starts accepting, once. Must run inside the runtime.
    pub(crate) fn open(&self, door: impl FnOnce() -> Arc<Door>) {
        let mut inner = self.lock();
        if inner.door.is_none() {
            let door = inner.door.insert(door()).clone();
            inner.listeners.iter().for_each(|one| one.accept(&door));
        }
    }

    /// Closes all.
    pub(crate) fn close(&self) {
        self.lock().listeners.clear();
    }

    /// Where it listens, in the order of the configuration.
    pub(crate) fn bound(&self) -> Vec<SocketAddr> {
        self.lock().listeners.iter().map(|one| one.bound).collect()
    }

    /// Address as configured, and the descriptor, which stays ours.
    pub(crate) fn descriptors(&self) -> Vec<(SocketAddr, RawFd)> {
        self.lock().listeners.iter().map(|one| (one.configured, one.socket.as_raw_fd())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listener {
    fn new(address: SocketAddr, inherited: Option<RawFd>) -> Result<Self, EngineError> {
        let socket = match inherited {
            Some(fd) => adopt(address, fd)?,
            None => bind(address).map_err(|e| system(format!("listen {address}: {e}")))?,
        };
        let bound = socket.local_addr().map_err(system)?;
        Ok(Listener { configured: address, bound, socket: Arc::new(socket), open: watch::Sender::new(()) })
    }

    fn accept(&self, door: &Arc<Door>) {
        tokio::spawn(accept::listen(door.clone(), self.socket.clone(), self.open.subscribe()));
    }
}

/// Those of `wanted` that are not among `open`, each as often as it is missing.
fn missing(wanted: &[SocketAddr], open: &[Listener]) -> Vec<SocketAddr> {
    let mut have: Vec<SocketAddr> = open.iter().map(|one| one.configured).collect();
    let mut missing = Vec::new();
    for address in wanted {
        match have.iter().position(|one| one == address) {
            Some(at) => drop(have.swap_remove(at)),
            None => missing.push(*address),
        }
    }
    missing
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Takes over a socket that listens already. Errors name what it is instead.
fn adopt(address: SocketAddr, fd: RawFd) -> Result<TcpListener, EngineError> {
    let wrong = |why: String| invalid(format!("the inherited descriptor {fd} for {address}: {why}"));
    let socket = polder_sock::adopt_listener(fd).map_err(|e| wrong(e.to_string()))?;
    let bound = socket.local_addr().map_err(|e| wrong(e.to_string()))?;
    if bound.ip() != address.ip() || (address.port() != 0 && bound.port() != address.port()) {
        return Err(wrong(format!("it listens on {bound}")));
    }
    TcpListener::from_std(socket).map_err(system)
}
