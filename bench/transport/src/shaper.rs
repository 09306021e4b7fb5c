//! Relays that delay, lose and pace: one UDP socket towards the client, one towards the server, both real.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep_until};

/// Most bytes that wait for their turn in one direction.
const QUEUE: usize = 256 * 1024;

/// What a relay does to packets.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// One-way delay.
    pub delay: Duration,
    /// Share of packets lost, in each direction.
    pub loss: f64,
    /// Bytes per second in each direction.
    pub rate: f64,
}

/// A running relay.
pub struct Relay {
    /// Where clients send to.
    pub address: SocketAddr,
    /// Set: it takes packets and passes none on.
    pub dead: Arc<AtomicBool>,
}

/// Starts a relay in front of `server`. It ends with the runtime.
pub async fn start(server: SocketAddr, shape: Shape, seed: u64) -> std::io::Result<Relay> {
    let front = Arc::new(UdpSocket::bind("127.0.0.1:0").await?);
    let back = Arc::new(UdpSocket::bind("127.0.0.1:0").await?);
    back.connect(server).await?;
    let dead = Arc::new(AtomicBool::new(false));
    let address = front.local_addr()?;
    let client = Arc::new(std::sync::Mutex::new(None));
    tokio::spawn(carry(front.clone(), back.clone(), client.clone(), true, shape, seed, dead.clone()));
    tokio::spawn(carry(back, front, client, false, shape, seed ^ 0x5555, dead.clone()));
    Ok(Relay { address, dead })
}

type Client = Arc<std::sync::Mutex<Option<SocketAddr>>>;

async fn carry(
    from: Arc<UdpSocket>,
    to: Arc<UdpSocket>,
    client: Client,
    up: bool,
    shape: Shape,
    seed: u64,
    dead: Arc<AtomicBool>,
) {
    let mut dice = seed | 1;
    let mut queue: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    let (mut waiting, mut free) = (0usize, Instant::now());
    let mut buffer = vec![0; 65_536];
    loop {
        let due = queue.front().map(|(due, _)| *due);
        tokio::select! {
            biased;
            () = async { match due { Some(due) => sleep_until(due).await, None => std::future::pending().await } } => {
                while queue.front().is_some_and(|(due, _)| *due <= Instant::now()) {
                    let Some((_, packet)) = queue.pop_front() else { break };
                    waiting -= packet.len();
                    let _ = if up { to.try_send(&packet) } else {
                        let Some(to_whom) = *client.lock().expect("no panic inside") else { continue };
                        to.try_send_to(&packet, to_whom)
                    };
                }
            }
            received = from.recv_from(&mut buffer) => {
                let Ok((length, who)) = received else { continue };
                if up {
                    *client.lock().expect("no panic inside") = Some(who);
                }
                dice ^= dice << 13;
                dice ^= dice >> 7;
                dice ^= dice << 17;
                let lost = (dice >> 11) as f64 / (1u64 << 53) as f64 <= shape.loss;
                if lost || dead.load(Relaxed) || waiting + length > QUEUE {
                    continue;
                }
                let now = Instant::now();
                free = free.max(now) + Duration::from_secs_f64(length as f64 / shape.rate);
                waiting += length;
                queue.push_back((free + shape.delay, buffer[..length].to_vec()));
            }
        }
    }
}
