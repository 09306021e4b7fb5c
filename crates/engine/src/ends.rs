//! Sessions of the spread plane that end in this process: a servlet's over the relay's sockets, a forwarder's over their own.

use crate::spread::RelayThread;
use polder_http::plane::Plane;
use polder_http::spread::Servlet;
use polder_http::spread::order::Order;
use polder_quic::wire::{Inlet, Outlet};
use polder_quic::{Counters, Limits, ServletEnd};
use polder_sock::{RunOutbox, ToSend};
use polder_spread::{Here, Member, Members, Micros, NodeId, Run, SpreadConfig};
use polder_tls::Settings;
use polder_types::{Spread, encode};
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes that may wait between the relay's thread and QUIC: what comes while QUIC's thread does something else for 30 ms.
const WAITING: usize = 8 << 20;

/// The relay's sockets, for who sends beside it.
struct Sockets {
    /// With whether it speaks IPv6.
    sockets: Vec<(Arc<UdpSocket>, bool)>,
    outbox: Mutex<RunOutbox>,
}

impl std::fmt::Debug for Sockets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sockets({})", self.sockets.len())
    }
}

impl Outlet for Sockets {
    fn send(&self, run: Run<'_>) {
        let fits = |(_, six): &&(Arc<UdpSocket>, bool)| *six == run.to.is_ipv6();
        let Some((socket, six)) = self.sockets.iter().find(fits).or_else(|| self.sockets.first()) else { return };
        let mut outbox = lock(&self.outbox);
        // What the kernel does not take at once is lost, as on any network.
        let _ = outbox.send(socket.as_fd(), &[ToSend { to: run.to, segment: run.segment, bytes: run.bytes }], *six);
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.sockets.first().ok_or_else(|| io::Error::other("no socket"))?.0.local_addr()
    }
}

/// From the relay's thread into QUIC's.
struct Into(Arc<Inlet>);

impl Here for Into {
    fn onward(&self, _now: Micros, from: SocketAddr, bytes: &mut [u8], segment: usize) {
        self.0.push(from, bytes, segment);
    }
}

/// What an engine knows of its sessions.
#[derive(Default)]
pub(crate) struct Ends {
    servlet: Mutex<Option<Arc<Servlet>>>,
    members: Mutex<Option<Arc<Members>>>,
    /// What a servlet's QUIC end counts.
    pub(crate) counters: Arc<Counters>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ends {
    /// Puts a snapshot's key and list in force; inside the runtime. The servlet's end begins with the first key.
    pub(crate) fn apply(
        &self,
        plane: &Arc<Plane>,
        relay: &RelayThread,
        tls: &Settings,
        spread: &Spread,
        limits: &Limits,
    ) -> Result<(), String> {
        let members = match spread.members.first() {
            None => None,
            Some(list) => {
                let member = |&(id, address): &(u64, SocketAddr)| Member { id: NodeId(id), address };
                let made = Members::new(list.version, list.list.iter().map(member).collect());
                Some(Arc::new(made.map_err(|e| format!("spread.members: {e}"))?))
            }
        };
        let mut servlet = lock(&self.servlet);
        if !spread.end_key.is_empty() {
            let config = tls.spread_server(&spread.end_key).map_err(|e| e.to_string())?;
            match &*servlet {
                Some(servlet) => servlet.end().configure(config, limits).map_err(|e| e.to_string())?,
                None => *servlet = Some(self.begin(plane, relay, config, spread, limits).map_err(|e| e.to_string())?),
            }
        }
        let mut known = lock(&self.members);
        if let (Some(servlet), Some(members)) = (&*servlet, &members)
            && known.as_ref() != Some(members)
        {
            servlet.end().set_members(members);
        }
        *known = members;
        Ok(())
    }

    fn begin(
        &self,
        plane: &Arc<Plane>,
        relay: &RelayThread,
        tls: polder_http::spread::ServerConfig,
        spread: &Spread,
        limits: &Limits,
    ) -> io::Result<Arc<Servlet>> {
        let six = |socket: &Arc<UdpSocket>| Ok((socket.clone(), socket.local_addr()?.is_ipv6()));
        let sockets = relay.sockets().iter().map(six).collect::<io::Result<_>>()?;
        let inlet = Inlet::new(Arc::new(Sockets { sockets, outbox: Mutex::default() }), WAITING);
        relay.host(Arc::new(Into(inlet.clone())));
        let (most, config) = (spread.sessions as usize, SpreadConfig::default());
        let end = ServletEnd::new(inlet, tls, limits, config, self.counters.clone(), most)?;
        Ok(Servlet::start(plane.clone(), end, RandomState::new().build_hasher().finish()))
    }

    /// Does what the control plane orders; inside the runtime. The answer, encoded; or what is wrong with the order.
    pub(crate) fn order(&self, plane: &Arc<Plane>, order: Order) -> Result<Vec<u8>, String> {
        match order {
            Order::Expect(guest) => {
                let servlet = lock(&self.servlet).clone().ok_or("this node has no end key of the spread plane yet")?;
                let members = lock(&self.members).clone().ok_or("this node knows no relays yet")?;
                servlet.expect(&guest, members)?;
            }
            Order::Ticket(ticket) => plane.users.ticket(plane, &ticket)?,
            Order::Prefer { site, on } => plane.users.prefer(&site, on),
            Order::Sessions => return Ok(encode(&plane.users.now())),
        }
        Ok(encode(&()))
    }
}
