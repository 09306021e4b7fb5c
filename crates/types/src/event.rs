//! What the data plane tells the control plane.

use crate::{Kind, RingId};
use serde::{Deserialize, Serialize};

/// Identifies an inbound control call until it is answered, or an outbound one until its answer arrives.
pub type CallId = u64;

/// One event. They cross to Python as MessagePack, externally tagged: `{"call": {…}}`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A peer calls; answer with `reply(id, …)`.
    Call {
        /// For `reply`.
        id: CallId,
        /// Caller's kind, from its verified certificate.
        kind: Kind,
        /// Caller's name, from its verified certificate.
        name: String,
        /// Caller's ring id, from its verified certificate.
        ring_id: Option<RingId>,
        /// Caller's source address.
        source: String,
        /// Method name.
        method: String,
        /// Body.
        #[serde(with = "serde_bytes")]
        body: Vec<u8>,
    },
    /// The answer to `call`.
    Answer {
        /// What `call` returned.
        id: CallId,
        /// HTTP status; 0 when no answer came: then `body` says why in UTF-8.
        status: u16,
        /// Body.
        #[serde(with = "serde_bytes")]
        body: Vec<u8>,
    },
    /// A link came up or went down.
    Link {
        /// Peer's name.
        name: String,
        /// Whether it is up.
        up: bool,
        /// Handshake or ping time in microseconds; 0 when unknown.
        rtt_us: u64,
        /// Why it went down; empty when up.
        reason: String,
    },
    /// A site's agent dialled this node (its first connection), or its last connection ended.
    DialOut {
        /// The site.
        site: String,
        /// Whether an agent is connected now.
        up: bool,
    },
    /// Forwarder: tunnels go to this target, and a session of the spread plane would be of use.
    SpreadWanted {
        /// Host.
        host: String,
        /// Port.
        port: u16,
    },
    /// Forwarder: a session of the spread plane is up, or is over.
    SpreadSession {
        /// The site.
        site: String,
        /// Whether it is up.
        up: bool,
        /// Why it is over; empty when up.
        reason: String,
    },
    /// Something was refused that the operator should see: a foreign certificate, a self-chosen ring id, a denied user.
    Refused {
        /// `certificate`, `identity`, `access`, `limit`, `target`, `hop`, `user`.
        what: String,
        /// Human text: whose fault and how to mend it. Never a secret.
        why: String,
        /// Who, as far as known.
        who: String,
        /// Source address.
        source: String,
    },
    /// A log record of the native side.
    Log {
        /// `error`, `warn`, `info`, `debug`.
        level: String,
        /// Module.
        target: String,
        /// Text.
        text: String,
    },
    /// A part of a sampled trace has ended.
    Span {
        /// Trace id, 32 hexadecimal digits.
        trace: String,
        /// Span id, 16 hexadecimal digits.
        span: String,
        /// The parent's; empty at a root.
        parent: String,
        /// What it was: `access point`, `forwarder`, `hop`, `ask`, `deliver`.
        name: String,
        /// Stage that a hop was asked for; empty elsewhere.
        stage: String,
        /// Token of RFC 9209, or `given_up`; empty: it went well.
        error: String,
        /// Begin in microseconds of Unix time.
        began_us: u64,
        /// Duration in microseconds.
        took_us: u64,
    },
    /// Events were dropped because the queue was full.
    Lost {
        /// How many since the last such event.
        count: u64,
    },
}
