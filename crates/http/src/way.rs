//! A candidate for the next step of a tunnel, and what was measured of it.

use crate::link::Leg;
use crate::plane::Plane;
use polder_plan::Stage;
use polder_types::{Delivery, Peer};
use std::sync::Arc;
use std::time::Duration;

/// Added to every estimate: a lost packet costs TCP at least 200 ms (Linux's shortest retransmission time).
const FLOOR: Duration = Duration::from_millis(250);
/// Late, where nothing was measured: the first timeout of RFC 6298 for a way of unknown length, half of it for one hop.
const UNMEASURED: Duration = Duration::from_millis(1000);

/// One candidate for the next step.
#[derive(Clone)]
pub(crate) enum Way {
    /// To the site over TCP, as its delivery says.
    Tcp(Delivery),
    /// To the site over its agent's own connection.
    DialOut,
    /// To a node, for this stage.
    Node(Arc<Peer>, Stage),
}

impl PartialEq for Way {
    fn eq(&self, other: &Way) -> bool {
        match (self, other) {
            (Way::Node(a, x), Way::Node(b, y)) => a.name == b.name && x == y,
            (Way::Tcp(..), Way::Tcp(..)) | (Way::DialOut, Way::DialOut) => true,
            _ => false,
        }
    }
}

impl Way {
    /// Whether the link that it needs is up; what needs none is.
    pub(crate) fn is_up(&self, plane: &Plane) -> bool {
        match self {
            Way::Node(peer, _) => plane.links.is_up(peer),
            Way::Tcp(..) | Way::DialOut => true,
        }
    }

    /// Whether it leads out of the overlay.
    pub(crate) fn ends_here(&self) -> bool {
        matches!(self, Way::Tcp(..) | Way::DialOut)
    }

    /// After how long an answer is late.
    pub(crate) fn patience(&self, plane: &Plane) -> Duration {
        let Way::Node(peer, stage) = self else { return UNMEASURED };
        let Some(rtt) = plane.links.rtt(peer) else { return UNMEASURED / 2 };
        let late = plane.links.measured(peer).and_then(|measured| measured.open[Leg::from(*stage) as usize].late());
        match (late, stage) {
            (Some(late), _) => late + FLOOR,
            (None, Stage::Beacon | Stage::Servlet) => 4 * rtt + UNMEASURED / 2,
            (None, Stage::Entry | Stage::Ring(_)) => 4 * rtt + UNMEASURED,
        }
    }

    pub(crate) fn measure_open(&self, plane: &Plane, took: Duration) {
        if let Way::Node(peer, stage) = self
            && let Some(measured) = plane.links.measured(peer)
        {
            measured.open[Leg::from(*stage) as usize].note(took);
        }
    }
}
