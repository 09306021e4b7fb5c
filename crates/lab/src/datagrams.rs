//! A bare forwarder of datagrams: receives runs, sends them on unchanged, to one place, or both ways between that place and who
//! spoke last. It shows what passing a packet costs at the least, under any relay.

use crate::spread::say;
use crate::{LabError, guard};
use polder_sock::{Interest, Ready, RunInbox, RunOutbox, ToSend, bind_runs};
use serde::Deserialize;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};

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
    /// What comes from `to` goes to whom anything else came from last.
    #[serde(default)]
    pub both_ways: bool,
}

/// Forwards until it is killed; says a frame when it listens. Errors: an address outside the laboratory; the system.
pub fn run(config: &Config) -> Result<(), LabError> {
    guard::here([config.listen, config.to])?;
    let socket = bind_runs(config.listen, BUFFER, false)?;
    let ready = Ready::new()?;
    ready.add(socket.as_fd(), 0, Interest::Read)?;
    say(&());
    let (mut forwarder, mut tokens) = (Forwarder::new(config), Vec::new());
    loop {
        ready.wait(&mut tokens, None)?;
        forwarder.turn(socket.as_fd());
    }
}

struct Forwarder {
    way: Way,
    inbox: RunInbox,
    outbox: RunOutbox,
}

impl Forwarder {
    fn new(config: &Config) -> Self {
        let way = Way { to: config.to, both: config.both_ways, client: None };
        Forwarder { way, inbox: RunInbox::new(BATCH), outbox: RunOutbox::default() }
    }

    /// Passes what waits; what cannot go is lost.
    fn turn(&mut self, socket: BorrowedFd<'_>) {
        let Ok(_) = self.inbox.receive(socket) else { return };
        let way = &mut self.way;
        let runs: Vec<ToSend<'_>> = self
            .inbox
            .runs()
            .filter_map(|run| Some(ToSend { to: way.after(run.from)?, segment: run.segment, bytes: run.bytes }))
            .collect();
        let mut rest = &runs[..];
        while !rest.is_empty() {
            let (gone, error) = self.outbox.send(socket, rest, false);
            rest = &rest[gone + usize::from(error.is_some())..];
        }
    }
}

struct Way {
    to: SocketAddr,
    both: bool,
    client: Option<SocketAddr>,
}

impl Way {
    /// Where what came from `from` goes; none: nobody has spoken yet who could be answered.
    fn after(&mut self, from: SocketAddr) -> Option<SocketAddr> {
        if self.both && from == self.to {
            return self.client;
        }
        self.client = Some(from);
        Some(self.to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::time::Duration;

    fn local() -> UdpSocket {
        bind_runs("127.0.0.1:0".parse().unwrap(), 1 << 20, false).unwrap()
    }

    fn at(socket: &UdpSocket) -> SocketAddr {
        socket.local_addr().unwrap()
    }

    fn wait(socket: &UdpSocket) {
        let (ready, mut tokens) = (Ready::new().unwrap(), Vec::new());
        ready.add(socket.as_fd(), 0, Interest::Read).unwrap();
        ready.wait(&mut tokens, Some(Duration::from_secs(20))).unwrap();
        assert!(!tokens.is_empty(), "nothing came");
    }

    /// A run of ten datagrams from `from` over `middle` to `to`, and nobody else: they come as one run.
    fn crosses(forwarder: &mut Forwarder, middle: &UdpSocket, from: &UdpSocket, to: &UdpSocket, others: &[&UdpSocket]) {
        let bytes: Vec<u8> = (0..12_950u32).map(|n| (n / 7) as u8).collect();
        let run = ToSend { to: at(middle), segment: 1300, bytes: &bytes };
        let (gone, error) = RunOutbox::default().send(from.as_fd(), &[run], false);
        assert!(gone == 1 && error.is_none(), "{error:?}");
        wait(middle);
        forwarder.turn(middle.as_fd());
        wait(to);
        let mut inbox = RunInbox::new(4);
        assert_eq!(inbox.receive(to.as_fd()).unwrap(), 1);
        let got = inbox.runs().next().unwrap();
        assert_eq!((got.from, got.segment, &*got.bytes), (at(middle), 1300, &bytes[..]));
        for other in others {
            assert_eq!(RunInbox::new(1).receive(other.as_fd()).unwrap(), 0);
        }
    }

    #[test]
    fn runs_cross_whole_between_the_server_and_who_spoke_last() {
        let (middle, server, old, new) = (local(), local(), local(), local());
        let mut forwarder = Forwarder::new(&Config { listen: at(&middle), to: at(&server), both_ways: true });
        assert_eq!(forwarder.way.after(at(&server)), None, "nobody has spoken yet");
        crosses(&mut forwarder, &middle, &old, &server, &[&new]);
        crosses(&mut forwarder, &middle, &server, &old, &[&new]);
        crosses(&mut forwarder, &middle, &new, &server, &[&old]);
        crosses(&mut forwarder, &middle, &server, &new, &[&old]);
    }

    #[test]
    fn one_way_is_the_default_and_all_goes_there() {
        let (middle, sink, source) = (local(), local(), local());
        let config = (at(&middle), at(&sink)); // a record without the last field
        let config: Config = rmp_serde::from_slice(&rmp_serde::to_vec(&config).unwrap()).unwrap();
        let mut forwarder = Forwarder::new(&config);
        crosses(&mut forwarder, &middle, &source, &sink, &[]);
        crosses(&mut forwarder, &middle, &sink, &sink, &[&source]);
    }

    #[test]
    fn addresses_of_others_are_refused() {
        let config = Config { listen: "127.0.0.1:0".parse().unwrap(), to: "192.0.2.1:1".parse().unwrap(), both_ways: false };
        assert!(matches!(run(&config), Err(LabError::Refused(why)) if why.contains("192.0.2.1")));
    }
}
