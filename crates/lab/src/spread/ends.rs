//! The two ends of one session: TCP connections to the forwarder's listener are streams, and TCP connections to the site.
//!
//! Both write frames to stdout when the session can be used: what it has counted, many times a second, with Unix time; and now and
//! then every path.

use super::{Overlay, say};
use crate::{LabError, guard};
use polder_quic::wire::UdpWire;
use polder_quic::{Clock, Connection, Counters, ForwarderEnd, RecvStream, SendStream, ServletEnd};
use polder_spread::{PathReport, State, Tallies};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::interval;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::{self, RootCertStore, version::TLS13};

/// Between two frames.
const SAY: Duration = Duration::from_millis(50);
/// Every so many frames, all paths.
const PATHS: u64 = 10;

/// The servlet.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Servlet {
    /// The whole overlay.
    pub overlay: Overlay,
    /// Its certificate (DER) for the name that ends of sessions have.
    pub chain: ByteBuf,
    /// Its key (PKCS #8 DER).
    pub key: ByteBuf,
    /// Where the site's server listens.
    pub site: SocketAddr,
}

/// The forwarder.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forwarder {
    /// The whole overlay.
    pub overlay: Overlay,
    /// The servlet's certificate (DER).
    pub root: ByteBuf,
    /// Where readers connect.
    pub listen: SocketAddr,
    /// Seed of chance.
    pub seed: u64,
}

pub(super) fn wrong(error: impl ToString) -> LabError {
    LabError::Config(error.to_string())
}

pub(super) fn system(error: impl ToString) -> LabError {
    LabError::System(std::io::Error::other(error.to_string()))
}

/// Serves the session until it is killed. Errors: the configuration, an address outside the laboratory, the system.
pub fn serve(config: &Servlet) -> Result<(), LabError> {
    config.overlay.check()?;
    guard::here([config.site])?;
    let overlay = &config.overlay;
    let (me, tls) = (overlay.servlet()?, server_tls(&config.chain, &config.key)?);
    runtime()?.block_on(async {
        let wire = Arc::new(UdpWire::bind(me)?);
        let end = ServletEnd::new(wire, tls, &overlay.limits(), overlay.spread(), Arc::new(Counters::default()), 1)?;
        let session = end.host(&overlay.hosted()?, overlay.list()?, 1).map_err(system)?;
        let site = config.site;
        let accept = async {
            while let Some(incoming) = end.accept().await {
                let Ok(connecting) = end.welcome(incoming) else { continue };
                let Ok(connection) = connecting.await else { continue };
                tokio::spawn(async move {
                    while let Ok((send, receive)) = connection.accept_bi().await {
                        tokio::spawn(async move {
                            if let Ok(there) = TcpStream::connect(site).await {
                                carry(there, send, receive).await;
                            }
                        });
                    }
                });
            }
        };
        tokio::select! {
            () = accept => {}
            () = watch(|| (end.now().0, end.tallies(session), end.paths(session), None)) => {}
        }
        Ok(())
    })
}

/// Opens the session and carries what comes to the listener, until it is killed or the session ends. Errors: as [`serve`].
pub fn forward(config: &Forwarder) -> Result<(), LabError> {
    config.overlay.check()?;
    guard::here([config.listen])?;
    let overlay = &config.overlay;
    let tls = client_tls(&config.root)?;
    let any = if config.listen.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
    let any: SocketAddr = any.parse().map_err(wrong)?;
    runtime()?.block_on(async {
        let (wire, counters) = (Arc::new(UdpWire::bind(any)?), Arc::new(Counters::default()));
        let (ticket, members) = (overlay.ticket()?, overlay.list()?);
        let end = ForwarderEnd::new(&ticket, members, overlay.spread(), wire, Clock::system(), counters, config.seed);
        let end = end.map_err(system)?;
        let listener = TcpListener::bind(config.listen).await?;
        let connection = end.connect(tls, &overlay.limits()).await.map_err(system)?;
        let accept = async {
            loop {
                let (near, _) = listener.accept().await?;
                let connection = connection.clone();
                tokio::spawn(async move {
                    if let Ok((send, receive)) = connection.open_bi().await {
                        carry(near, send, receive).await;
                    }
                });
            }
        };
        let quic = connection.clone();
        tokio::select! {
            ended = accept => ended,
            why = connection.closed() => Err(LabError::System(std::io::Error::other(why))),
            () = watch(|| (end.ends().1.0, end.tallies(), end.paths(), Some(quic.clone()))) => Ok(()),
        }
    })
}

/// Who shows this certificate.
pub(super) fn server_tls(chain: &[u8], key: &[u8]) -> Result<rustls::ServerConfig, LabError> {
    let chain = vec![CertificateDer::from(chain.to_vec())];
    let key = PrivatePkcs8KeyDer::from(key.to_vec());
    let tls = rustls::ServerConfig::builder_with_protocol_versions(&[&TLS13]).with_no_client_auth();
    tls.with_single_cert(chain, key.into()).map_err(wrong)
}

/// Who believes this certificate.
pub(super) fn client_tls(root: &[u8]) -> Result<rustls::ClientConfig, LabError> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(root.to_vec())).map_err(wrong)?;
    let tls = rustls::ClientConfig::builder_with_protocol_versions(&[&TLS13]);
    Ok(tls.with_root_certificates(roots).with_no_client_auth())
}

pub(super) fn runtime() -> Result<tokio::runtime::Runtime, LabError> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// Both ways until both are done.
async fn carry(mut tcp: TcpStream, mut send: SendStream, mut receive: RecvStream) {
    let _ = tcp.set_nodelay(true);
    let (mut from, mut to) = tcp.split();
    let up = async {
        copy(&mut from, &mut send).await?;
        send.finish().map_err(std::io::Error::other)
    };
    let down = async {
        copy(&mut receive, &mut to).await?;
        to.shutdown().await
    };
    // who it was learns it from the closed connection
    let _ = tokio::try_join!(up, down);
}

type Seen = (u64, Option<Tallies>, Vec<PathReport>, Option<Connection>);

/// One look at a session. `used`: paths that get more than a thousandth of the packets.
#[derive(Serialize)]
struct Look {
    at_us: u64,
    tallies: Tallies,
    live: usize,
    suspect: usize,
    used: usize,
    paths: Vec<PathReport>,
    quic: Option<Quic>,
}

/// The forwarder's QUIC connection.
#[derive(Serialize)]
struct Quic {
    sent: u64,
    lost: u64,
    congestion: u64,
    window: u64,
    rtt_us: u64,
}

async fn watch(look: impl Fn() -> Seen) {
    let mut every = interval(SAY);
    for number in 0_u64.. {
        every.tick().await;
        let (at_us, tallies, paths, connection) = look();
        let Some(tallies) = tallies else { continue };
        let count = |state: State| paths.iter().filter(|path| path.state == state).count();
        let (live, suspect) = (count(State::Live), count(State::Suspect));
        let used = paths.iter().filter(|path| path.weight > 0.001).count();
        let whole = number % PATHS == 0;
        let quic = connection.map(|connection| connection.stats().path).map(|path| Quic {
            sent: path.sent_packets,
            lost: path.lost_packets,
            congestion: path.congestion_events,
            window: path.cwnd,
            rtt_us: path.rtt.as_micros() as u64,
        });
        say(&Look { at_us, tallies, live, suspect, used, paths: if whole { paths } else { Vec::new() }, quic });
    }
}
