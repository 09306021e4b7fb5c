//! `polder-transport-bench KIND RELAYS DELAYS_MS LOSS DIE COPIES`: one connection over shaped relays; a line of JSON.
//!
//! KIND: `sprayed` (thresholds raised), `sprayed-default` (quinn's own thresholds), `sprayed-feedback`, `multipath` (noq,
//! every relay a path). DELAYS_MS: comma list, repeated over the relays. DIE: relays that die silently before the second half of
//! the pages; they die in their order. BBR in the environment: that congestion controller for quinn. The client asks for 8 MiB, then for 200 pages of 20 KB one after the other, as fast as they come.

mod shaper;
mod spray;

use shaper::{Shape, start};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tokio::net::UdpSocket;

type Failure = Box<dyn std::error::Error + Send + Sync>;
const BULK: u64 = 8 << 20;
const PAGE: u64 = 20_000;
const PAGES: usize = 200;
const RATE: f64 = 20e6 / 8.0;
const WINDOW: u32 = 8 << 20;

struct Keys {
    chain: Vec<rustls::pki_types::CertificateDer<'static>>,
    key: rustls::pki_types::PrivateKeyDer<'static>,
    roots: rustls::RootCertStore,
}

fn keys() -> Result<Keys, Failure> {
    let made = rcgen::generate_simple_self_signed(vec!["servlet".into()])?;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone())?;
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()).into();
    Ok(Keys { chain: vec![made.cert.der().clone()], key, roots })
}

/// Both libraries have the same shapes under other names.
macro_rules! ends {
    ($module:ident, $quic:ident, $transport:expr) => {
        mod $module {
            use super::*;
            use $quic::{ClientConfig, Connection, Endpoint, ServerConfig, TransportConfig};

            pub fn configs(keys: Keys, hint: usize) -> Result<(ServerConfig, ClientConfig), Failure> {
                let mut transport = TransportConfig::default();
                transport.receive_window(WINDOW.into()).stream_receive_window(WINDOW.into()).send_window(WINDOW.into());
                let tune: fn(&mut TransportConfig, usize) = $transport;
                tune(&mut transport, hint);
                let transport = Arc::new(transport);
                let mut server = ServerConfig::with_single_cert(keys.chain, keys.key)?;
                server.transport_config(transport.clone());
                let mut client = ClientConfig::with_root_certificates(Arc::new(keys.roots))?;
                client.transport_config(transport);
                Ok((server, client))
            }

            pub async fn serve(endpoint: Endpoint) {
                while let Some(incoming) = endpoint.accept().await {
                    tokio::spawn(async move {
                        let Ok(connection) = incoming.await else { return };
                        while let Ok((mut send, mut receive)) = connection.accept_bi().await {
                            tokio::spawn(async move {
                                let mut asked = [0; 8];
                                if receive.read_exact(&mut asked).await.is_ok() {
                                    let body = vec![7; u64::from_be_bytes(asked) as usize];
                                    let _ = send.write_all(&body).await;
                                    let _ = send.finish();
                                }
                            });
                        }
                    });
                }
            }

            pub async fn fetch(connection: &Connection, size: u64) -> Result<f64, Failure> {
                let began = Instant::now();
                let (mut send, mut receive) = connection.open_bi().await?;
                send.write_all(&size.to_be_bytes()).await?;
                send.finish()?;
                let body = receive.read_to_end(size as usize).await?;
                if body.len() as u64 != size {
                    return Err("short".into());
                }
                Ok(began.elapsed().as_secs_f64() * 1000.0)
            }

            pub async fn measure(connection: &Connection, die: impl FnOnce()) -> Result<(f64, Vec<f64>, Vec<f64>), Failure> {
                let bulk = fetch(connection, BULK).await?;
                let (mut quiet, mut after) = (Vec::new(), Vec::new());
                for _ in 0..PAGES / 2 {
                    quiet.push(fetch(connection, PAGE).await?);
                }
                die();
                for _ in 0..PAGES / 2 {
                    after.push(fetch(connection, PAGE).await?);
                }
                Ok((bulk, quiet, after))
            }
        }
    };
}

// Packets that overtake one another are no loss: with a hint of 1 one is given up when thousands came after it, or after twice
// the round trip.
ends!(one, quinn, |transport, tolerant| {
    transport.mtu_discovery_config(None);
    if tolerant == 1 {
        transport.packet_threshold(4096).time_threshold(2.0);
    }
    if std::env::var_os("BBR").is_some() {
        transport.congestion_controller_factory(Arc::new(quinn::congestion::BbrConfig::default()));
    }
});
ends!(many, noq, |transport, relays| {
    let paths = u32::try_from(relays + 1).unwrap_or(u32::MAX);
    transport.max_concurrent_multipath_paths(paths).mtu_discovery_config(None);
    transport.default_path_max_idle_timeout(Some(Duration::from_secs(3)));
});

struct Asked {
    kind: String,
    relays: usize,
    delays: Vec<u64>,
    loss: f64,
    die: usize,
    copies: f64,
}

fn asked() -> Option<Asked> {
    let mut words = std::env::args().skip(1);
    let kind = words.next()?;
    let relays = words.next()?.parse().ok()?;
    let delays = words.next()?.split(',').map(|word| word.parse().ok()).collect::<Option<Vec<_>>>()?;
    Some(Asked {
        kind,
        relays,
        delays,
        loss: words.next()?.parse().ok()?,
        die: words.next()?.parse().ok()?,
        copies: words.next()?.parse().ok()?,
    })
}

async fn relays(asked: &Asked, server: SocketAddr) -> Result<Vec<shaper::Relay>, Failure> {
    let mut made = Vec::new();
    for number in 0..asked.relays {
        let delay = Duration::from_millis(asked.delays[number % asked.delays.len()]);
        let shape = Shape { delay, loss: asked.loss, rate: RATE };
        made.push(start(server, shape, 0x9E37_79B9_7F4A_7C15 ^ (number as u64 * 7919)).await?);
    }
    Ok(made)
}

async fn sprayed(asked: &Asked) -> Result<(f64, Vec<f64>, Vec<f64>), Failure> {
    let how = spray::Spread { copies: asked.copies, run: 8, feedback: asked.kind == "sprayed-feedback" };
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    let relays = relays(asked, socket.local_addr()?).await?;
    let addresses: Vec<_> = relays.iter().map(|relay| relay.address).collect();
    let configs = one::configs(keys()?, usize::from(asked.kind != "sprayed-default"))?;
    let runtime = || Arc::new(quinn::TokioRuntime);
    let server = spray::Spray::new(socket, &[], how);
    let server = quinn::Endpoint::new_with_abstract_socket(Default::default(), Some(configs.0), server, runtime())?;
    tokio::spawn(one::serve(server));
    let client = spray::Spray::new(UdpSocket::bind("127.0.0.1:0").await?, &addresses, how);
    let client = quinn::Endpoint::new_with_abstract_socket(Default::default(), None, client, runtime())?;
    let connection = client.connect_with(configs.1, spray::PEER, "servlet")?.await?;
    one::measure(&connection, || relays.iter().take(asked.die).for_each(|relay| relay.dead.store(true, Relaxed))).await
}

async fn multipath(asked: &Asked) -> Result<(f64, Vec<f64>, Vec<f64>), Failure> {
    let configs = many::configs(keys()?, asked.relays)?;
    let server = noq::Endpoint::server(configs.0, "127.0.0.1:0".parse()?)?;
    let relays = relays(asked, server.local_addr()?).await?;
    tokio::spawn(many::serve(server));
    let client = noq::Endpoint::client("127.0.0.1:0".parse()?)?;
    let connection = client.connect_with(configs.1, relays[0].address, "servlet")?.await?;
    connection.handshake_confirmed().await?;
    for relay in &relays[1..] {
        // Connection ids for further paths come with the peer's next packets.
        let opened = async {
            while let Err(error) = connection.open_path(relay.address, noq::PathStatus::Available).await {
                if !matches!(error, noq::PathError::RemoteCidsExhausted) {
                    return Err(error);
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Ok(())
        };
        tokio::time::timeout(Duration::from_secs(5), opened).await??;
    }
    many::measure(&connection, || relays.iter().take(asked.die).for_each(|relay| relay.dead.store(true, Relaxed))).await
}

fn at(sorted: &[f64], share: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * share).round() as usize]
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Failure> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let asked = asked().ok_or("see the head of main.rs for the words")?;
    let limit = Duration::from_secs(40);
    let work = async { if asked.kind == "multipath" { multipath(&asked).await } else { sprayed(&asked).await } };
    let (bulk, mut quiet, mut after) = tokio::time::timeout(limit, work).await.map_err(|_| "not done within 40 s")??;
    quiet.sort_by(f64::total_cmp);
    after.sort_by(f64::total_cmp);
    println!(
        r#"{{"bulk_ms":{bulk:.1},"page_ms":{:.2},"page_p99_ms":{:.2},"after_ms":{:.2},"after_p99_ms":{:.2},"worst_ms":{:.2}}}"#,
        at(&quiet, 0.5),
        at(&quiet, 0.99),
        at(&after, 0.5),
        at(&after, 0.99),
        at(&after, 1.0)
    );
    Ok(())
}
