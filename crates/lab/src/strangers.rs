//! Strangers who open TCP connections: half handshakes, connections that never get on, and scans. One loop drives them all.

use crate::hello::client_hello;
use crate::{LabError, chance::Chance, guard, pace::Pace};
use polder_sock::{Interest, Ready};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// What a stranger does with a connection.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Act {
    /// Sends a ClientHello for this name, takes the server's flight, and leaves.
    Handshake(String),
    /// Sends these bytes one by one, `drip_ms` apart, for as long as the server bears it: slowloris.
    Drip(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Leaves as soon as the connection is open: a scan.
    Look,
}

/// A crowd of strangers.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What they do.
    pub act: Act,
    /// Whom they visit, in turn. A scan visits each once.
    pub targets: Vec<SocketAddr>,
    /// New connections a second.
    pub rate: u64,
    /// Most at once.
    pub at_once: usize,
    /// Milliseconds between two dripped bytes.
    pub drip_ms: u64,
    /// Milliseconds until a stranger gives up on an answer.
    pub patience_ms: u64,
    /// New ones come for so long.
    pub milliseconds: u64,
    /// Seed of the hellos.
    pub seed: u64,
}

/// How they fared.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Connections tried.
    pub tried: u64,
    /// Connections that opened.
    pub opened: u64,
    /// Connections on which the server sent something.
    pub answered: u64,
    /// Connections that the server refused or closed.
    pub closed: u64,
    /// Connections that nobody answered within the patience.
    pub silent: u64,
    /// Not tried, for too many were open.
    pub forgone: u64,
    /// Most that were open at once.
    pub most_open: u64,
    /// Open ports found, `address:port`; scans only.
    pub found: Vec<String>,
    /// How long it took.
    pub seconds: f64,
}

struct Stranger {
    socket: Socket,
    target: SocketAddr,
    since: Instant,
    opened: bool,
    sent: usize,
    next_drip: Instant,
}

struct Crowd<'a> {
    config: &'a Config,
    ready: Ready,
    strangers: HashMap<u64, Stranger>,
    chance: Chance,
    next: u64,
    open: u64,
    report: Report,
}

/// Lets the crowd loose. Errors: refused by the guard.
pub fn run(config: &Config) -> Result<Report, LabError> {
    let addresses: Vec<_> = config.targets.iter().map(SocketAddr::ip).collect();
    let time = Duration::from_millis(config.milliseconds);
    guard::check(&addresses, config.rate, time)?;
    if config.targets.is_empty() || config.at_once == 0 {
        return Err(LabError::Config("no target, or no connection allowed at once".into()));
    }
    let (ready, chance) = (Ready::new()?, Chance(config.seed));
    let mut crowd = Crowd { config, ready, strangers: HashMap::new(), chance, next: 0, open: 0, report: Report::default() };
    let (started, patience) = (Instant::now(), Duration::from_millis(config.patience_ms));
    let mut pace = Pace::new(config.rate, time);
    let most = if config.act == Act::Look { config.targets.len() as u64 } else { u64::MAX };
    while let Some(due) = pace.due() {
        for _ in 0..due.min(most - crowd.next) {
            crowd.admit()?;
        }
        crowd.serve(Duration::ZERO)?;
        if crowd.next == most {
            break;
        }
    }
    let last = Instant::now() + patience;
    while !matches!(config.act, Act::Drip(_)) && !crowd.strangers.is_empty() && Instant::now() < last {
        crowd.serve(Duration::from_millis(5))?;
    }
    crowd.report.seconds = started.elapsed().as_secs_f64();
    Ok(crowd.report)
}

impl Crowd<'_> {
    fn admit(&mut self) -> Result<(), LabError> {
        if self.strangers.len() >= self.config.at_once {
            self.report.forgone += 1;
            return Ok(());
        }
        let target = self.config.targets[self.next as usize % self.config.targets.len()];
        let socket = Socket::new(Domain::for_address(target), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        // Leaving is a reset: no state stays behind on this side.
        socket.set_linger(Some(Duration::ZERO))?;
        self.report.tried += 1;
        let (token, now) = (self.next, Instant::now());
        self.next += 1;
        match socket.connect(&SockAddr::from(target)) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(_) => {
                self.report.closed += 1;
                return Ok(());
            }
        }
        self.ready.add(socket.as_fd(), token, Interest::Write)?;
        self.strangers.insert(token, Stranger { socket, target, since: now, opened: false, sent: 0, next_drip: now });
        Ok(())
    }

    /// Lets everybody do what he can now; waits at most `wait` for something to happen.
    fn serve(&mut self, wait: Duration) -> Result<(), LabError> {
        let mut tokens = Vec::new();
        self.ready.wait(&mut tokens, Some(wait))?;
        for token in tokens {
            let Some(stranger) = self.strangers.get_mut(&token) else { continue };
            let stays = if stranger.opened { self.hear(token) } else { self.begin(token)? };
            if !stays {
                self.leave(token);
            }
        }
        self.drip();
        self.lose_patience();
        Ok(())
    }

    /// The connection's outcome is known: say the first word. `false`: this one leaves.
    fn begin(&mut self, token: u64) -> Result<bool, LabError> {
        let Some(stranger) = self.strangers.get_mut(&token) else { return Ok(false) };
        if stranger.socket.take_error()?.is_some() {
            self.report.closed += 1;
            return Ok(false);
        }
        stranger.opened = true;
        self.open += 1;
        self.report.opened += 1;
        self.report.most_open = self.report.most_open.max(self.open);
        match &self.config.act {
            Act::Look => {
                self.report.found.push(stranger.target.to_string());
                return Ok(false);
            }
            Act::Handshake(name) => {
                let mut random = [0; 96];
                for word in random.chunks_mut(8) {
                    word.copy_from_slice(&self.chance.draw().to_le_bytes());
                }
                let hello = client_hello(name, &["h2", "http/1.1"], &random);
                if (&stranger.socket).write(&hello).is_err() {
                    self.report.closed += 1;
                    return Ok(false);
                }
            }
            Act::Drip(_) => {}
        }
        self.ready.change(stranger.socket.as_fd(), token, Interest::Read)?;
        Ok(true)
    }

    /// The server said something or went away.
    fn hear(&mut self, token: u64) -> bool {
        let Some(stranger) = self.strangers.get_mut(&token) else { return false };
        let mut buffer = [0; 4096];
        match (&stranger.socket).read(&mut buffer) {
            Ok(0) => self.report.closed += 1,
            Ok(_) => self.report.answered += 1,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
            Err(_) => self.report.closed += 1,
        }
        false
    }

    fn drip(&mut self) {
        let Act::Drip(bytes) = &self.config.act else { return };
        let (now, gap) = (Instant::now(), Duration::from_millis(self.config.drip_ms));
        let mut gone = Vec::new();
        for (&token, stranger) in &mut self.strangers {
            if !stranger.opened || now < stranger.next_drip {
                continue;
            }
            // After the last byte the last one again: a header line that never ends.
            let Some(byte) = bytes.get(stranger.sent).or(bytes.last()) else { continue };
            stranger.sent += 1;
            stranger.next_drip = now + gap;
            if (&stranger.socket).write(&[*byte]).is_err() {
                gone.push(token);
            }
        }
        for token in gone {
            self.report.closed += 1;
            self.leave(token);
        }
    }

    fn lose_patience(&mut self) {
        let patience = Duration::from_millis(self.config.patience_ms);
        let waits = |stranger: &Stranger| !stranger.opened || !matches!(self.config.act, Act::Drip(_));
        let lost: Vec<u64> = self
            .strangers
            .iter()
            .filter(|(_, stranger)| waits(stranger) && stranger.since.elapsed() > patience)
            .map(|(&token, _)| token)
            .collect();
        for token in lost {
            self.report.silent += 1;
            self.leave(token);
        }
    }

    fn leave(&mut self, token: u64) {
        if self.strangers.remove(&token).is_some_and(|stranger| stranger.opened) {
            self.open -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_outside_the_laboratory_are_refused() {
        let config = Config {
            act: Act::Look,
            targets: vec!["198.18.2.1:7443".parse().unwrap()],
            rate: 10,
            at_once: 10,
            drip_ms: 0,
            patience_ms: 100,
            milliseconds: 100,
            seed: 1,
        };
        assert!(matches!(run(&config), Err(LabError::Refused(_))));
        let stray = Config { targets: vec!["127.0.0.1:80".parse().unwrap()], ..config };
        assert!(run(&stray).unwrap_err().to_string().contains("not an address of the laboratory"));
    }
}
