//! The spread plane without a control plane: an overlay whose keys come from one description, for experiments with many relays.
//!
//! Relays and ends are the product's ([`polder_spread`], [`polder_quic`]); what is the laboratory's own is that every tool derives
//! ticket and keys by itself from the description, and that a session ends at TCP listeners. All relays may run in one process:
//! each has its own socket, which somebody opened on its host.

pub mod bulk;
pub mod ends;
pub mod relays;

use crate::{LabError, guard};
use polder_quic::Limits;
use polder_spread::issue::{Grant, issue};
use polder_spread::{
    Fec, Hosted, Member, Members, NodeId, PeerKey, RunLength, SessionId, SpreadConfig, Terms, Ticket, epoch_key, grant_key,
    peer_key,
};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;

/// The one epoch of an experiment.
const EPOCH: u32 = 1;
/// The one grant of every relay.
const GRANT: [u8; 8] = [1; 8];

/// Loss that is no congestion without feedback, and round trips after which a packet counts as lost.
const NAIVE: (f64, f32) = (0.3, 2.5);

/// A member of the overlay.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Its id.
    pub id: u64,
    /// Where it takes datagrams.
    pub address: SocketAddr,
    /// The relay's secret, 32 bytes.
    pub secret: ByteBuf,
}

/// What all tools of an experiment are told.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Overlay {
    /// The relays, and the servlet.
    pub members: Vec<Node>,
    /// Id of the servlet. Its own relay stays out of the ticket: with it there would be a way without any relay.
    pub servlet: u64,
    /// The session's number, 16 bytes.
    pub session: ByteBuf,
    /// Its key, 32 bytes.
    pub key: ByteBuf,
    /// Begin, Unix seconds.
    pub starts: u32,
    /// Life, seconds.
    pub lasts: u16,
    /// How both ends spread.
    pub mode: Mode,
}

/// How an end spreads.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mode {
    /// As in the paper: no feedback, every packet over a relay of its own.
    pub naive: bool,
    /// Extra copies per packet.
    pub copies: f64,
    /// Sources and repairs, instead of or beside copies.
    pub fec: Option<(u8, u8)>,
}

fn fixed<const N: usize>(bytes: &ByteBuf, what: &str) -> Result<[u8; N], LabError> {
    bytes.as_slice().try_into().map_err(|_| LabError::Config(format!("{what} has {N} bytes")))
}

/// Writes a frame to stdout: four bytes of length, MessagePack. Who reads them may have gone: no harm.
pub(crate) fn say(value: &impl Serialize) {
    let bytes = rmp_serde::to_vec_named(value).unwrap_or_default();
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(&(bytes.len() as u32).to_be_bytes()).and_then(|()| out.write_all(&bytes)).and_then(|()| out.flush());
}

impl Overlay {
    /// Only the laboratory's addresses, or loopback.
    fn check(&self) -> Result<(), LabError> {
        guard::here(self.members.iter().map(|node| node.address))
    }

    fn list(&self) -> Result<Arc<Members>, LabError> {
        let list = self.members.iter().map(|node| Member { id: NodeId(node.id), address: node.address }).collect();
        Members::new(1, list).map(Arc::new).map_err(|error| LabError::Config(error.to_string()))
    }

    fn spread(&self) -> SpreadConfig {
        let Mode { naive, copies, fec } = self.mode;
        let fec = fec.map(|(sources, repairs)| Fec { sources, repairs });
        let run = if naive { RunLength::Fixed(1) } else { SpreadConfig::default().run };
        SpreadConfig { copies, fec, run, naive, ..SpreadConfig::default() }
    }

    /// Without feedback nothing leaves dead relays: what copies do not save is lost for good, and is no congestion; and packets over
    /// far relays count as lost, which costs no more than another copy.
    fn limits(&self) -> Limits {
        let usual = Limits::default();
        let (tolerated, overtaken) = if self.mode.naive { NAIVE } else { (usual.tolerated, usual.overtaken) };
        Limits { tolerated, overtaken, ..usual }
    }

    fn terms(&self) -> Terms {
        Terms { starts: self.starts, lasts: self.lasts, pace: 17, rate: 17 }
    }

    /// Where the servlet takes datagrams.
    fn servlet(&self) -> Result<SocketAddr, LabError> {
        let me = self.members.iter().find(|node| node.id == self.servlet);
        Ok(me.ok_or_else(|| LabError::Config("the servlet is no member".into()))?.address)
    }

    fn relays(&self) -> impl Iterator<Item = &Node> {
        self.members.iter().filter(|node| node.id != self.servlet)
    }

    /// The user's half.
    fn ticket(&self) -> Result<Ticket, LabError> {
        let grant = |node: &Node| {
            let key = grant_key(&epoch_key(&fixed(&node.secret, "a relay's secret")?, EPOCH), GRANT);
            Ok(Grant { relay: NodeId(node.id), address: node.address, epoch: EPOCH, grant: GRANT, key })
        };
        let grants = self.relays().map(grant).collect::<Result<Vec<_>, LabError>>()?;
        let (session, key) = (SessionId(fixed(&self.session, "session")?), fixed(&self.key, "key")?);
        let made = issue(session, key, NodeId(self.servlet), self.terms(), 1, &grants);
        made.ok_or_else(|| LabError::Config("a key is unusable".into()))
    }

    /// The servlet's half.
    fn hosted(&self) -> Result<Hosted, LabError> {
        let me = NodeId(self.servlet);
        let peer = |node: &Node| {
            let key = peer_key(&epoch_key(&fixed(&node.secret, "a relay's secret")?, EPOCH), me);
            Ok(PeerKey { relay: NodeId(node.id), epoch: EPOCH, key })
        };
        let relays = self.relays().map(peer).collect::<Result<_, LabError>>()?;
        let (session, key) = (SessionId(fixed(&self.session, "session")?), fixed(&self.key, "key")?);
        Ok(Hosted { session, key, terms: self.terms(), me, relays })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlay(address: &str) -> Overlay {
        let node = |id: u64| Node { id, address: address.parse().unwrap(), secret: ByteBuf::from([id as u8; 32]) };
        Overlay {
            members: vec![node(1), node(2), node(3)],
            servlet: 3,
            session: ByteBuf::from([4; 16]),
            key: ByteBuf::from([5; 32]),
            starts: 1,
            lasts: 60,
            mode: Mode { naive: true, copies: 2.0, fec: None },
        }
    }

    #[test]
    fn the_servlet_is_a_member_and_no_relay_of_its_own_session() {
        let made = overlay("198.18.1.1:7001");
        assert!(made.check().is_ok() && made.list().unwrap().list().len() == 3);
        let ids: Vec<_> = made.ticket().unwrap().relays.iter().map(|relay| relay.id.0).collect();
        assert_eq!(ids, [1, 2]);
        assert_eq!(made.hosted().unwrap().relays.len(), 2);
        assert_eq!(made.spread().run, RunLength::Fixed(1));
    }

    #[test]
    fn strangers_addresses_and_short_keys_are_refused() {
        assert!(matches!(overlay("192.0.2.1:7001").check(), Err(LabError::Refused(_))));
        let short = Overlay { key: ByteBuf::from([5; 31]), ..overlay("198.18.1.1:7001") };
        assert!(matches!(short.ticket(), Err(LabError::Config(why)) if why.contains("32 bytes")));
    }
}
