//! A bare forwarder of datagrams: receives runs, sends them on unchanged, to one place. It shows what passing a packet costs at
//! the least, under any relay.

use crate::{LabError, guard};
use polder_sock::{Interest, Ready, RunInbox, RunOutbox, ToSend, bind_runs};
use serde::Deserialize;
use std::net::SocketAddr;
use std::os::fd::AsFd;

/// Runs of one turn, as our relay takes them.
const BATCH: usize = 32;
/// Room of its socket, likewise.
const BUFFER: usize = 4 << 20;

/// Where from and where to.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Loopback, or an address of the laboratory.
    pub listen: SocketAddr,
    /// Likewise.
    pub to: SocketAddr,
}

/// Forwards until it is killed. Errors: an address outside the laboratory; the system.
pub fn run(config: &Config) -> Result<(), LabError> {
    guard::here([config.listen, config.to])?;
    let socket = bind_runs(config.listen, BUFFER, false)?;
    let ready = Ready::new()?;
    ready.add(socket.as_fd(), 0, Interest::Read)?;
    let (mut inbox, mut outbox, mut tokens) = (RunInbox::new(BATCH), RunOutbox::default(), Vec::new());
    loop {
        ready.wait(&mut tokens, None)?;
        let Ok(_) = inbox.receive(socket.as_fd()) else { continue };
        let runs: Vec<ToSend<'_>> =
            inbox.runs().map(|run| ToSend { to: config.to, segment: run.segment, bytes: run.bytes }).collect();
        let mut rest = &runs[..];
        while !rest.is_empty() {
            let (gone, error) = outbox.send(socket.as_fd(), rest, false);
            rest = &rest[gone + usize::from(error.is_some())..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_others_are_refused() {
        let config = Config { listen: "127.0.0.1:0".parse().unwrap(), to: "192.0.2.1:1".parse().unwrap() };
        assert!(matches!(run(&config), Err(LabError::Refused(why)) if why.contains("192.0.2.1")));
    }
}
