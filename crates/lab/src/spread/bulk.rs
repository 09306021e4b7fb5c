//! One stream as fast as it goes: over a session of the spread plane, or over plain quinn, which it is measured beside.
//!
//! The server sends as many bytes as the client asks for. Both kinds share everything above their sockets: streams, windows, TLS, runtime.

use super::ends::{client_tls, runtime, server_tls, system, wrong};
use super::{Overlay, say};
use crate::{LabError, guard};
use bytes::Bytes;
use polder_quic::wire::UdpWire;
use polder_quic::{Clock, Connection, Counters, ForwarderEnd, Limits, ServletEnd};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{Endpoint, TransportConfig, VarInt};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The name in the server's certificate.
const NAME: &str = "servlet.polder.invalid";
/// What the server hands to QUIC at once.
static PIECE: [u8; 1 << 18] = [0x5A; 1 << 18];
/// Longest transfer.
const PATIENCE: Duration = Duration::from_secs(300);

/// The end that sends.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// The session's overlay; none: plain quinn.
    pub overlay: Option<Overlay>,
    /// Where plain quinn listens.
    pub listen: SocketAddr,
    /// Certificate (DER).
    pub chain: ByteBuf,
    /// Its key (PKCS #8 DER).
    pub key: ByteBuf,
}

/// The end that asks and takes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Client {
    /// The session's overlay; none: plain quinn.
    pub overlay: Option<Overlay>,
    /// The plain server.
    pub server: SocketAddr,
    /// The server's certificate (DER).
    pub root: ByteBuf,
    /// Bytes that warm up paths and windows, and are not measured.
    pub warm: u64,
    /// Bytes that are measured, all on one stream.
    pub bytes: u64,
}

/// What a client saw.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Of the measured stream.
    pub seconds: f64,
    /// CPU seconds of this end, also for what warmed it up.
    pub cpu_s: f64,
    /// The connection's path MTU at the end: bytes of a datagram.
    pub mtu: u16,
}

/// What a server says after each stream, of the whole connection.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Sent {
    /// Packets that QUIC sent.
    pub packets: u64,
    /// Of these, taken for lost: what they carried was sent again.
    pub lost: u64,
}

/// quinn as it comes, with our windows: they are no part of what is compared.
fn plain_transport() -> TransportConfig {
    let (limits, mut transport) = (Limits::default(), TransportConfig::default());
    transport
        .stream_receive_window(VarInt::from_u32(limits.stream_window))
        .receive_window(VarInt::from_u32(limits.window))
        .send_window(u64::from(limits.window));
    transport
}

/// Serves until it is killed; says a frame when it is ready, and one after each stream. Errors: the configuration, an address outside the laboratory, the system.
pub fn serve(config: &Server) -> Result<(), LabError> {
    let tls = server_tls(&config.chain, &config.key)?;
    config.overlay.as_ref().map_or(Ok(()), Overlay::check)?;
    guard::here([config.listen])?;
    runtime()?.block_on(async {
        let Some(overlay) = &config.overlay else {
            let tls = QuicServerConfig::try_from(tls).map_err(wrong)?;
            let mut server = quinn::ServerConfig::with_crypto(Arc::new(tls));
            server.transport_config(Arc::new(plain_transport()));
            let endpoint = Endpoint::server(server, config.listen)?;
            say(&());
            while let Some(incoming) = endpoint.accept().await {
                let Ok(connection) = incoming.await else { continue };
                tokio::spawn(pour(connection));
            }
            return Ok(());
        };
        let me = overlay.servlet()?;
        let wire = Arc::new(UdpWire::bind(me)?);
        let end = ServletEnd::new(wire, tls, &overlay.limits(), overlay.spread(), Arc::new(Counters::default()), 1)?;
        end.host(&overlay.hosted()?, overlay.list()?, 1).map_err(system)?;
        say(&());
        while let Some(incoming) = end.accept().await {
            let Ok(incoming) = end.welcome(incoming) else { continue };
            let Ok(connection) = incoming.await else { continue };
            tokio::spawn(pour(connection));
        }
        Ok(())
    })
}

/// Answers eight bytes with so many.
async fn pour(connection: Connection) {
    while let Ok((mut send, mut receive)) = connection.accept_bi().await {
        let mut asked = [0; 8];
        if receive.read_exact(&mut asked).await.is_err() {
            return;
        }
        let mut left = u64::from_be_bytes(asked);
        while left > 0 {
            let piece = Bytes::from_static(&PIECE).slice(..left.min(PIECE.len() as u64) as usize);
            left -= piece.len() as u64;
            if send.write_chunk(piece).await.is_err() {
                return;
            }
        }
        let _ = send.finish();
        let path = connection.stats().path;
        say(&Sent { packets: path.sent_packets, lost: path.lost_packets });
    }
}

/// Asks for what is to be measured, and reports. Errors: as [`serve`], and a transfer that breaks or takes too long.
pub fn fetch(config: &Client) -> Result<Report, LabError> {
    let tls = client_tls(&config.root)?;
    config.overlay.as_ref().map_or(Ok(()), Overlay::check)?;
    guard::here([config.server])?;
    let any = SocketAddr::from(([0, 0, 0, 0], 0));
    runtime()?.block_on(async {
        let Some(overlay) = &config.overlay else {
            let tls = QuicClientConfig::try_from(tls).map_err(wrong)?;
            let mut client = quinn::ClientConfig::new(Arc::new(tls));
            client.transport_config(Arc::new(plain_transport()));
            let mut endpoint = Endpoint::client(any)?;
            endpoint.set_default_client_config(client);
            let connection = endpoint.connect(config.server, NAME).map_err(wrong)?.await.map_err(system)?;
            return measured(&connection, config).await;
        };
        let (wire, counters) = (Arc::new(UdpWire::bind(any)?), Arc::new(Counters::default()));
        let end = ForwarderEnd::new(&overlay.ticket()?, overlay.list()?, overlay.spread(), wire, Clock::system(), counters, 1);
        let end = end.map_err(system)?;
        let connection = end.connect(tls, &overlay.limits()).await.map_err(system)?;
        measured(&connection, config).await
    })
}

async fn measured(connection: &Connection, config: &Client) -> Result<Report, LabError> {
    let spent = cpu_s();
    take(connection, config.warm).await?;
    let began = Instant::now();
    take(connection, config.bytes).await?;
    let path = connection.stats().path;
    Ok(Report { seconds: began.elapsed().as_secs_f64(), cpu_s: cpu_s() - spent, mtu: path.current_mtu })
}

/// CPU seconds of this thread, in which all of the runtime's work is done.
fn cpu_s() -> f64 {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    told.split(' ').next().and_then(|first| first.parse::<f64>().ok()).map_or(f64::NAN, |nanos| nanos / 1e9)
}

async fn take(connection: &Connection, bytes: u64) -> Result<(), LabError> {
    let reading = async {
        let (mut send, mut receive) = connection.open_bi().await.map_err(system)?;
        send.write_all(&bytes.to_be_bytes()).await.map_err(system)?;
        let mut had = 0;
        while let Some(chunk) = receive.read_chunk(usize::MAX, true).await.map_err(system)? {
            had += chunk.bytes.len() as u64;
        }
        if had == bytes { Ok(()) } else { Err(system(format!("{had} of {bytes} bytes came"))) }
    };
    tokio::time::timeout(PATIENCE, reading).await.map_err(|_| system("a transfer that takes too long"))?
}
