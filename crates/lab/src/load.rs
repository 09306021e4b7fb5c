//! A load generator for access points and for the proxies beside them: HTTP/1.1 or HTTP/2 over TLS with a client certificate.
//!
//! wrk and h2load present no client certificate, so this one drives all. Closed loop (`rate` 0: every connection asks again as
//! soon as it is answered) or open loop (requests are due at fixed moments, and a late answer counts from the moment its request
//! was due, so that a server which stalls cannot hide it). CPU time of the servers is read from `/proc` at the two ends of the
//! window that counts.

mod exchange;

use crate::{LabError, guard};
use exchange::Session;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, LocalSet};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, version::TLS13};

/// Handshakes under way at once: a crowd is let in as fast as the server takes it, not faster.
const AT_ONCE: usize = 16;
/// A request without an answer for so long has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// What to ask, of whom, how.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Loopback, or an address of the laboratory.
    pub target: SocketAddr,
    /// The name that the server's certificate must bear.
    pub name: String,
    /// Roots (DER) that the server's certificate is checked against.
    pub roots: Vec<ByteBuf>,
    /// The client's certificate chain (DER, leaf first).
    pub chain: Vec<ByteBuf>,
    /// Its key (PKCS #8 DER).
    pub key: ByteBuf,
    /// HTTP/2 instead of HTTP/1.1.
    pub http2: bool,
    /// Ask for `http://host/path` (a proxy) instead of `/path`; HTTP/2: `:scheme http` instead of `https`.
    pub absolute: bool,
    /// Host and port of the site.
    pub authority: String,
    /// Begins with a slash.
    pub path: String,
    /// Bytes that every answer must have.
    pub size: u64,
    /// TLS connections.
    pub connections: usize,
    /// Requests at once on each (HTTP/2).
    pub streams: usize,
    /// Requests a second on all connections together; 0: as many as are answered.
    pub rate: u64,
    /// Milliseconds that do not count, after every connection stands.
    pub warm_ms: u64,
    /// Milliseconds that count.
    pub milliseconds: u64,
    /// Processes whose CPU time and memory is read.
    pub pids: Vec<u32>,
}

/// What came of it.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Requests answered whole within the window that counts.
    pub requests: u64,
    /// Requests or connections that failed, at any time.
    pub failed: u64,
    /// Why the first did.
    pub error: String,
    /// The window's length.
    pub seconds: f64,
    /// CPU time that `pids` spent in the window, in ticks of the kernel's clock.
    pub cpu_ticks: u64,
    /// Resident memory of `pids` before the first connection and with all of them, in pages.
    pub resident_pages: (u64, u64),
    /// Seconds until all connections stood.
    pub connected_s: f64,
    /// Latency of half of the requests, in microseconds.
    pub p50_us: u64,
    /// Of 99 in a hundred.
    pub p99_us: u64,
    /// Of the slowest.
    pub worst_us: u64,
}

/// The moments of a run, once all connections stand.
#[derive(Clone, Copy)]
struct Window {
    begin: Instant,
    count: Instant,
    end: Instant,
}

#[derive(Default)]
struct Seen {
    latencies: Vec<u32>,
    failed: u64,
    error: String,
}

impl Seen {
    fn fail(&mut self, why: String) {
        self.failed += 1;
        if self.error.is_empty() {
            self.error = why;
        }
    }
}

/// Runs the load. Errors: the configuration; a target outside the laboratory; the system.
pub fn run(config: &Config) -> Result<Report, LabError> {
    guard::here([config.target])?;
    if config.connections == 0 || config.streams == 0 || config.milliseconds == 0 {
        return Err(LabError::Config("connections, streams and milliseconds are at least 1".into()));
    }
    let tls = connector(config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, drive(Rc::new(config.clone()), tls))
}

fn connector(config: &Config) -> Result<TlsConnector, LabError> {
    let wrong = |error: &dyn std::fmt::Display| LabError::Config(error.to_string());
    let mut roots = RootCertStore::empty();
    for root in &config.roots {
        roots.add(CertificateDer::from(root.to_vec())).map_err(|error| wrong(&error))?;
    }
    let chain = config.chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
    let key = PrivatePkcs8KeyDer::from(config.key.to_vec()).into();
    let builder = ClientConfig::builder_with_protocol_versions(&[&TLS13]).with_root_certificates(roots);
    let mut tls = builder.with_client_auth_cert(chain, key).map_err(|error| wrong(&error))?;
    tls.alpn_protocols = vec![if config.http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
    Ok(TlsConnector::from(Arc::new(tls)))
}

async fn drive(config: Rc<Config>, tls: TlsConnector) -> Result<Report, LabError> {
    let seen = Rc::new(RefCell::new(Seen::default()));
    let (before, began) = (resident(&config.pids), Instant::now());
    let sessions = connect_all(&config, &tls, &seen).await;
    let connected_s = began.elapsed().as_secs_f64();
    let resident_pages = (before, resident(&config.pids));
    let begin = Instant::now();
    let count = begin + Duration::from_millis(config.warm_ms);
    let window = Window { begin, count, end: count + Duration::from_millis(config.milliseconds) };
    let mut askers = JoinSet::new();
    let lanes = config.connections * config.streams;
    for (lane, session) in sessions.into_iter().flat_map(|session| session.lanes(config.streams)).enumerate() {
        askers.spawn_local(ask(config.clone(), session, window, (lane, lanes), seen.clone()));
    }
    tokio::time::sleep_until(count.into()).await;
    let spent = ticks(&config.pids);
    tokio::time::sleep_until(window.end.into()).await;
    let cpu_ticks = ticks(&config.pids).saturating_sub(spent);
    while askers.join_next().await.is_some() {}
    let mut seen = seen.take();
    seen.latencies.sort_unstable();
    let at = |share: f64| seen.latencies.get((share * seen.latencies.len() as f64) as usize).copied().unwrap_or(0).into();
    Ok(Report {
        requests: seen.latencies.len() as u64,
        failed: seen.failed,
        seconds: window.end.duration_since(window.count).as_secs_f64(),
        cpu_ticks,
        resident_pages,
        connected_s,
        p50_us: at(0.5),
        p99_us: at(0.99),
        worst_us: seen.latencies.last().copied().unwrap_or(0).into(),
        error: seen.error,
    })
}

async fn connect_all(config: &Rc<Config>, tls: &TlsConnector, seen: &Rc<RefCell<Seen>>) -> Vec<Session> {
    let gate = Rc::new(Semaphore::new(AT_ONCE));
    let mut waiting = JoinSet::new();
    for _ in 0..config.connections {
        let (config, tls, gate) = (config.clone(), tls.clone(), gate.clone());
        waiting.spawn_local(async move {
            let _turn = gate.acquire().await;
            tokio::time::timeout(PATIENCE, connect(&config, &tls)).await.unwrap_or_else(|_| Err("no handshake in time".into()))
        });
    }
    let mut sessions = Vec::new();
    while let Some(done) = waiting.join_next().await {
        match done {
            Ok(Ok(session)) => sessions.push(session),
            Ok(Err(why)) => seen.borrow_mut().fail(why),
            Err(broken) => seen.borrow_mut().fail(broken.to_string()),
        }
    }
    sessions
}

async fn connect(config: &Config, tls: &TlsConnector) -> Result<Session, String> {
    let said = |what: &'static str| move |error: std::io::Error| format!("{what}: {error}");
    let tcp = TcpStream::connect(config.target).await.map_err(said("connect"))?;
    tcp.set_nodelay(true).map_err(said("nodelay"))?;
    let name = ServerName::try_from(config.name.clone()).map_err(|error| error.to_string())?;
    let stream: TlsStream<TcpStream> = tls.connect(name, tcp).await.map_err(said("handshake"))?;
    if config.http2 { Session::two(stream, config).await } else { Ok(Session::one(stream, config)) }
}

/// One lane asks again and again until the window ends; its first failure ends it.
async fn ask(config: Rc<Config>, mut session: Session, window: Window, place: (usize, usize), seen: Rc<RefCell<Seen>>) {
    let step = step(config.rate, place.1);
    let mut due = window.begin + step.unwrap_or_default().mul_f64(place.0 as f64 / place.1 as f64);
    loop {
        if step.is_some() {
            tokio::time::sleep_until(due.into()).await;
        } else {
            due = Instant::now();
        }
        if due >= window.end {
            return;
        }
        match tokio::time::timeout(PATIENCE, session.get(config.size)).await.unwrap_or_else(|_| Err("no answer in time".into())) {
            Ok(()) => {
                let now = Instant::now();
                if due >= window.count && now <= window.end + PATIENCE {
                    let took = now.duration_since(due).as_micros();
                    seen.borrow_mut().latencies.push(u32::try_from(took).unwrap_or(u32::MAX));
                }
            }
            Err(why) => return seen.borrow_mut().fail(why),
        }
        due += step.unwrap_or_default();
    }
}

/// Time between two requests of one of `lanes` lanes; `None`: no pause.
fn step(rate: u64, lanes: usize) -> Option<Duration> {
    (rate > 0).then(|| Duration::from_secs_f64(lanes as f64 / rate as f64))
}

/// CPU time of the processes so far, user and system (proc(5): fields 14 and 15).
fn ticks(pids: &[u32]) -> u64 {
    pids.iter().flat_map(|pid| numbers(&format!("/proc/{pid}/stat"), ") ", &[11, 12])).sum()
}

/// Resident pages of the processes.
fn resident(pids: &[u32]) -> u64 {
    pids.iter().flat_map(|pid| numbers(&format!("/proc/{pid}/statm"), "", &[1])).sum()
}

fn numbers(path: &str, after: &str, places: &[usize]) -> Vec<u64> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let rest = text.rfind(after).map_or("", |at| &text[if after.is_empty() { 0 } else { at + after.len() }..]);
    let fields: Vec<_> = rest.split_ascii_whitespace().collect();
    places.iter().filter_map(|&place| fields.get(place)?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_all_lanes_together_keep_the_rate() {
        assert_eq!(step(0, 8), None);
        assert_eq!(step(1000, 10), Some(Duration::from_millis(10)));
    }

    #[test]
    fn this_process_spends_time_and_has_memory() {
        let me = [std::process::id()];
        let began = ticks(&me);
        while ticks(&me) == began {
            std::hint::black_box((0..100_000u64).sum::<u64>());
        }
        assert!(resident(&me) > 0);
        assert_eq!((ticks(&[0]), resident(&[0])), (0, 0));
    }
}
