//! What the control plane tells the spread plane's ends, and asks of them: MessagePack, externally tagged. Python's half is
//! `polder/snapshot/spread.py`.

use polder_spread::{Fec, Hosted, Member, Members, Ticket};
use polder_types::SiteName;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use std::sync::Arc;

/// A versioned member list.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberList {
    /// Version.
    pub version: u32,
    /// Relays.
    pub list: Vec<Member>,
}

impl MemberList {
    /// Ready for use; why not, else.
    pub fn members(&self) -> Result<Arc<Members>, String> {
        Members::new(self.version, self.list.clone()).map(Arc::new).map_err(|e| e.to_string())
    }
}

/// Redundancy.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redundancy {
    /// Extra copies per packet, 0 to 4.
    pub copies: f64,
    /// Instead: (datagrams, repairs) of a group of forward error correction.
    pub fec: Option<(u8, u8)>,
}

impl Redundancy {
    /// Its forward error correction.
    pub(crate) fn fec(&self) -> Option<Fec> {
        self.fec.map(|(sources, repairs)| Fec { sources, repairs })
    }
}

/// What a user's forwarder asks of its access point.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AskTicket {
    /// Host that tunnels go to.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Session that is to be carried on.
    pub renews: Option<ByteBuf>,
    /// Of packets towards the user.
    pub redundancy: Redundancy,
}

/// The same, as the access point's control plane gets it: with what the user's certificate proved, and rules have allowed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WantTicket {
    /// Site.
    pub site: SiteName,
    /// SPIFFE id of the user.
    pub user: Arc<str>,
    /// SHA-256 of the user's SubjectPublicKeyInfo.
    pub key: ByteBuf,
    /// End of the user's certificate, Unix seconds.
    pub not_after: i64,
    /// As asked.
    pub renews: Option<ByteBuf>,
    /// As asked.
    pub redundancy: Redundancy,
}

/// A user's session with a site.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserTicket {
    /// Site.
    pub site: SiteName,
    /// Its host names and ports.
    pub hosts: Vec<Arc<str>>,
    /// Ports.
    pub ports: Vec<u16>,
    /// SHA-256 of the servlet's public key.
    pub pin: ByteBuf,
    /// The overlay's time when the ticket was made, Unix microseconds.
    pub now: u64,
    /// Ticket.
    pub ticket: Ticket,
    /// Relays.
    pub members: MemberList,
    /// Redundancy.
    pub redundancy: Redundancy,
    /// The site's session goes on under this ticket; else it is another one, and an older one keeps what is open.
    pub renews: bool,
    /// Use it for tunnels, as soon as it is up.
    pub prefer: bool,
}

/// A session that a servlet is to expect.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guest {
    /// The servlet's half.
    pub hosted: Hosted,
    /// Session that this one carries on.
    pub renews: Option<ByteBuf>,
    /// SPIFFE id of the user.
    pub user: Arc<str>,
    /// SHA-256 of the user's SubjectPublicKeyInfo.
    pub key: ByteBuf,
    /// The only site that the session may go to.
    pub site: SiteName,
    /// Redundancy towards the user.
    pub redundancy: Redundancy,
}

/// One order.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Servlet: expect a session, or carry one on.
    Expect(Box<Guest>),
    /// Forwarder: begin a session, or carry it on.
    Ticket(Box<UserTicket>),
    /// Forwarder: whether a site's tunnels use its session.
    Prefer {
        /// Site.
        site: SiteName,
        /// Whether.
        on: bool,
    },
    /// Forwarder: what there is.
    Sessions,
}

/// What a relay of a session is like now.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PathNow {
    /// Where.
    pub relay: String,
    /// `live`, `suspect`, `untried`, `unusable`.
    pub state: String,
    /// Share of what is sent that goes over it.
    pub weight: f64,
    /// Share lost.
    pub loss: f64,
    /// Microseconds later than over the quickest.
    pub delay_us: Option<u32>,
    /// Packets sent over it.
    pub sent: u64,
    /// Packets that came over it.
    pub received: u64,
    /// Of those, copies of what had come before.
    pub duplicates: u64,
    /// Longest datagram that it is known to carry.
    pub mtu: u16,
}

/// A user's session now.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SessionNow {
    /// Site.
    pub site: SiteName,
    /// Whether QUIC is connected.
    pub up: bool,
    /// Whether tunnels use it.
    pub prefer: bool,
    /// QUIC's smoothed round trip, µs; 0: not connected.
    pub rtt_us: u64,
    /// Mean time from opening a stream to its acceptance, µs; 0: none yet.
    pub open_us: u64,
    /// Round trip to the same servlet through an access point, µs; 0: not measured yet.
    pub tunnel_rtt_us: u64,
    /// Tunnels opened over it.
    pub tunnels: u64,
    /// Tunnels that were to go over it and did not.
    pub failed: u64,
    /// What carries it now: `relays`, or `tunnel` while no relay answers.
    pub carrier: String,
    /// How often relays had to be replaced by a tunnel.
    pub detours: u64,
    /// Datagrams regained by repairs.
    pub recovered: u64,
    /// Seconds until the ticket ends.
    pub ends_in: f64,
    /// Relays.
    pub paths: Vec<PathNow>,
}
