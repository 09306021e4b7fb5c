//! Both ends, ready for streams.

use crate::clock::Clock;
use crate::congestion::{Losses, PatientConfig};
use crate::detour::Attached;
use crate::seats::{Counters, Full, Seats};
use crate::socket::SpreadSocket;
use crate::wire::Wire;
use polder_spread::{Hosted, Members, Micros, PathReport, Seen, Session, SpreadConfig, Tallies, Ticket, TicketError};
use polder_tls::SPREAD_NAME;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    ClientConfig, ConnectError, Connecting, Connection, ConnectionError, Endpoint, EndpointConfig, IdleTimeout, Incoming,
    MtuDiscoveryConfig, ServerConfig, TokioRuntime, TransportConfig, VarInt,
};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Bounds of a QUIC connection between the ends.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes that may be under way in one tunnel.
    pub stream_window: u32,
    /// Bytes that may be under way in all of a session.
    pub window: u32,
    /// Tunnels of a session at once.
    pub streams: u32,
    /// Silence after which a session is over.
    pub idle: Duration,
    /// Share of loss in a round trip that is not taken for congestion, although all relays have it.
    pub tolerated: f64,
    /// Round trips after which a packet counts as lost when a later one was acknowledged.
    pub overtaken: f32,
}

impl Default for Limits {
    fn default() -> Self {
        let idle = Duration::from_secs(60);
        Limits { stream_window: 4 << 20, window: 8 << 20, streams: 256, idle, tolerated: 0.05, overtaken: 1.5 }
    }
}

impl Limits {
    /// How QUIC is used here.
    pub(crate) fn transport(&self, largest: u16, losses: Arc<Losses>) -> TransportConfig {
        let mut transport = TransportConfig::default();
        let mut probing = MtuDiscoveryConfig::default();
        let most = usize::from(largest).saturating_sub(polder_spread::OVERHEAD).max(1200);
        // What relays are known to carry grows while a session is young: look again soon.
        let most = u16::try_from(most).unwrap_or(u16::MAX);
        probing.upper_bound(most).interval(Duration::from_secs(5)).minimum_change(16);
        transport
            // Packets that overtake each other are no loss: one is given up when thousands came after it, or after some
            // time (RFC 9002 §6.1 allows both).
            .packet_threshold(4096)
            .time_threshold(self.overtaken)
            .stream_receive_window(VarInt::from_u32(self.stream_window))
            .receive_window(VarInt::from_u32(self.window))
            .send_window(u64::from(self.window))
            .max_concurrent_bidi_streams(VarInt::from_u32(self.streams))
            .max_concurrent_uni_streams(VarInt::from_u32(0))
            .datagram_receive_buffer_size(None)
            .max_idle_timeout(IdleTimeout::try_from(self.idle).ok())
            .keep_alive_interval(Some(self.idle / 4))
            .mtu_discovery_config(Some(probing))
            .congestion_controller_factory(Arc::new(PatientConfig { tolerated: self.tolerated, losses }));
        transport
    }
}

fn endpoint(seats: &Arc<Seats>, server: Option<ServerConfig>, largest: u16) -> io::Result<Endpoint> {
    let mut config = EndpointConfig::default();
    config.max_udp_payload_size(largest.max(1200)).map_err(io::Error::other)?;
    let socket = SpreadSocket::new(seats.clone());
    let endpoint = Endpoint::new_with_abstract_socket(config, server, socket, Arc::new(TokioRuntime))?;
    tokio::spawn(Seats::keep_time(Arc::downgrade(seats)));
    Ok(endpoint)
}

/// The user's end of one session.
#[derive(Debug)]
pub struct ForwarderEnd {
    seats: Arc<Seats>,
    endpoint: Endpoint,
    address: SocketAddr,
    largest: u16,
}

impl ForwarderEnd {
    /// A session by `ticket`, with a wire of its own. Inside a runtime.
    pub fn new(
        ticket: &Ticket,
        members: Arc<Members>,
        config: SpreadConfig,
        wire: Arc<dyn Wire>,
        clock: Clock,
        counters: Arc<Counters>,
        seed: u64,
    ) -> Result<Self, Trouble> {
        let largest = config.largest;
        let session = Session::forwarder(ticket, members, config, clock.now(), seed)?;
        let seats = Seats::new(wire, clock, counters, 1);
        let address = seats.add(session)?;
        let endpoint = endpoint(&seats, None, largest)?;
        Ok(ForwarderEnd { seats, endpoint, address, largest })
    }

    /// QUIC's handshake with the servlet.
    pub async fn connect(&self, tls: rustls::ClientConfig, limits: &Limits) -> Result<Connection, Trouble> {
        let tls = QuicClientConfig::try_from(tls).map_err(io::Error::other)?;
        let mut config = ClientConfig::new(Arc::new(tls));
        let losses = self.seats.at(self.address).map(|seat| seat.losses.clone()).unwrap_or_default();
        config.transport_config(Arc::new(limits.transport(self.largest, losses)));
        Ok(self.endpoint.connect_with(config, self.address, SPREAD_NAME)?.await?)
    }

    /// Goes on under another ticket.
    pub fn renew(&self, ticket: &Ticket) -> Result<(), TicketError> {
        self.seats.with(self.address, |session, now| session.renew_forwarder(ticket, now)).unwrap_or(Err(TicketError::Time))
    }

    /// Takes another member list.
    pub fn set_members(&self, members: &Arc<Members>) {
        self.seats.set_members(members);
    }

    /// Turns the dial for redundancy.
    pub fn set_redundancy(&self, copies: f64, fec: Option<polder_spread::Fec>) {
        self.seats.with(self.address, |session, _| session.set_redundancy(copies, fec));
    }

    /// When the newest ticket ends, by the overlay's clock, and that clock's time.
    pub fn ends(&self) -> (Micros, Micros) {
        let ends = self.seats.read(self.address, Session::ends).unwrap_or_default();
        (ends, self.seats.clock.now())
    }

    /// What the session has done.
    pub fn tallies(&self) -> Option<Tallies> {
        self.seats.read(self.address, Session::tallies)
    }

    /// Every relay, as the user may see it.
    pub fn paths(&self) -> Vec<PathReport> {
        self.seats.paths(self.address)
    }

    /// What is known of relays and detour, for [`polder_spread::Carriage`], and the time by the session's clock.
    pub fn seen(&self) -> (Micros, Seen) {
        (self.seats.clock.now(), self.seats.seen(self.address))
    }

    /// Asks the relays whether they are there.
    pub fn ask_relays(&self) {
        self.seats.ask_relays(self.address);
    }

    /// Begins a detour; `None`: the session is over.
    pub fn attach(&self) -> Option<Attached> {
        self.seats.attach(self.address)
    }
}

impl Drop for ForwarderEnd {
    fn drop(&mut self) {
        self.endpoint.close(VarInt::from_u32(0), b"");
    }
}

/// The servlet's end of all sessions of a node.
#[derive(Debug)]
pub struct ServletEnd {
    seats: Arc<Seats>,
    endpoint: Endpoint,
    config: SpreadConfig,
    /// For connections to come.
    server: Mutex<(ServerConfig, Limits)>,
}

impl ServletEnd {
    /// Sessions come over `wire`; at most `most` at once. Inside a runtime.
    pub fn new(
        wire: Arc<dyn Wire>,
        tls: rustls::ServerConfig,
        limits: &Limits,
        config: SpreadConfig,
        counters: Arc<Counters>,
        most: usize,
    ) -> io::Result<Self> {
        let seats = Seats::new(wire, Clock::system(), counters, most);
        let server = server(tls)?;
        let endpoint = endpoint(&seats, Some(server.clone()), config.largest)?;
        Ok(ServletEnd { seats, endpoint, config, server: Mutex::new((server, limits.clone())) })
    }

    /// Takes other certificates or limits for connections to come.
    pub fn configure(&self, tls: rustls::ServerConfig, limits: &Limits) -> io::Result<()> {
        let server = server(tls)?;
        self.endpoint.set_server_config(Some(server.clone()));
        *self.server.lock().unwrap_or_else(PoisonError::into_inner) = (server, limits.clone());
        Ok(())
    }

    /// Expects a session; the address by which its connection will be known.
    pub fn host(&self, hosted: &Hosted, members: Arc<Members>, seed: u64) -> Result<SocketAddr, Trouble> {
        let session = Session::servlet(hosted, members, self.config.clone(), self.seats.clock.now(), seed)?;
        Ok(self.seats.add(session)?)
    }

    /// Goes on under another ticket.
    pub fn renew(&self, address: SocketAddr, hosted: &Hosted) -> Result<(), TicketError> {
        self.seats.with(address, |session, now| session.renew_servlet(hosted, now)).unwrap_or(Err(TicketError::Time))
    }

    /// Turns a session's dial for redundancy.
    pub fn set_redundancy(&self, address: SocketAddr, copies: f64, fec: Option<polder_spread::Fec>) {
        self.seats.with(address, |session, _| session.set_redundancy(copies, fec));
    }

    /// When the newest ticket of a session ends, by the overlay's clock; `None`: it is not here.
    pub fn ends(&self, address: SocketAddr) -> Option<Micros> {
        self.seats.read(address, Session::ends)
    }

    /// What a session has done.
    pub fn tallies(&self, address: SocketAddr) -> Option<Tallies> {
        self.seats.read(address, Session::tallies)
    }

    /// Every relay of a session, as this end sees it.
    pub fn paths(&self, address: SocketAddr) -> Vec<PathReport> {
        self.seats.paths(address)
    }

    /// The overlay's time.
    pub fn now(&self) -> Micros {
        self.seats.clock.now()
    }

    /// Every session takes another member list.
    pub fn set_members(&self, members: &Arc<Members>) {
        self.seats.set_members(members);
    }

    /// Forgets a session.
    pub fn forget(&self, address: SocketAddr) {
        self.seats.remove(address);
    }

    /// Begins a detour of a session; `None`: it is not here.
    pub fn attach(&self, address: SocketAddr) -> Option<Attached> {
        self.seats.attach(address)
    }

    /// The next connection that begins; its remote address is the session's.
    pub async fn accept(&self) -> Option<Incoming> {
        self.endpoint.accept().await
    }

    /// Begins the handshake of what [`ServletEnd::accept`] gave; the connection will know what its session says of losses. The error:
    /// its session is not here, or its first packet is no good.
    pub fn welcome(&self, incoming: Incoming) -> Result<Connecting, ConnectionError> {
        let Some(seat) = self.seats.at(incoming.remote_address()) else {
            incoming.ignore();
            return Err(ConnectionError::Reset);
        };
        let (mut server, limits) = self.server.lock().unwrap_or_else(PoisonError::into_inner).clone();
        server.transport_config(Arc::new(limits.transport(self.config.largest, seat.losses.clone())));
        incoming.accept_with(Arc::new(server))
    }

    /// Ends all sessions.
    pub fn close(&self) {
        self.endpoint.close(VarInt::from_u32(0), b"");
    }
}

pub(crate) fn server(tls: rustls::ServerConfig) -> io::Result<ServerConfig> {
    let tls = QuicServerConfig::try_from(tls).map_err(io::Error::other)?;
    let mut server = ServerConfig::with_crypto(Arc::new(tls));
    // Addresses stand for sessions and do not change; what changes lies below QUIC.
    server.migration(false);
    Ok(server)
}

/// Why an end could not begin or connect.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// The ticket.
    #[error(transparent)]
    Ticket(#[from] TicketError),
    /// Room.
    #[error(transparent)]
    Full(#[from] Full),
    /// The system.
    #[error(transparent)]
    System(#[from] io::Error),
    /// QUIC's own configuration.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The handshake, or the network.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
}
