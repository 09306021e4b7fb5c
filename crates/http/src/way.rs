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
    /// Nowhere: to the end of a session of the spread plane in this process.
    Session,
    /// To a node, for this stage.
    Node(Arc<Peer>, Stage),
}

/// Candidates within this time are all alike: there, other things than distance decide.
const NEAR_MS: f64 = 20.0;
/// Steps of distance for each doubling: what differs by less than a third is alike, and keeps the order that spreads load.
const STEPS: f64 = 2.5;

impl PartialEq for Way {
    fn eq(&self, other: &Way) -> bool {
        match (self, other) {
            (Way::Node(a, x), Way::Node(b, y)) => a.name == b.name && x == y,
            (Way::Tcp(..), Way::Tcp(..)) | (Way::DialOut, Way::DialOut) | (Way::Session, Way::Session) => true,
            _ => false,
        }
    }
}

impl Way {
    /// Whether the link that it needs is up; what needs none is.
    pub(crate) fn is_up(&self, plane: &Plane) -> bool {
        match self {
            Way::Node(peer, _) => plane.links.is_up(peer),
            Way::Tcp(..) | Way::DialOut | Way::Session => true,
        }
    }

    /// Whether it leads out of the overlay.
    pub(crate) fn ends_here(&self) -> bool {
        matches!(self, Way::Tcp(..) | Way::DialOut | Way::Session)
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

    /// How far it leads, of a beacon or servlet: how long opening a path through it takes, coarsely; where nobody tried of late, the
    /// link's round trip, which is the least that it can take. All others are alike.
    fn distance(&self, plane: &Plane) -> u32 {
        let (peer, leg) = match self {
            Way::Node(peer, Stage::Servlet) => (peer, Leg::Servlet),
            Way::Node(peer, Stage::Beacon) => (peer, Leg::Beacon),
            Way::Node(_, Stage::Entry | Stage::Ring(_)) | Way::Tcp(..) | Way::DialOut | Way::Session => return 0,
        };
        let least = plane.links.rtt(peer).unwrap_or(UNMEASURED);
        let opened = plane.links.measured(peer).and_then(|measured| measured.opened_lately(leg, plane.now()));
        step(opened.map_or(least, |open| open.max(least)))
    }

    /// How far the site is by this access point: how long opening a path by it took of late, coarsely; where nobody tried, twice its
    /// round trip, for a path goes on behind it. So another is tried only where it may halve the way. What is alike goes by the
    /// round trip; an access point that was not measured stands behind all that were.
    pub(crate) fn entry_distance(&self, plane: &Plane) -> (u32, Duration) {
        let Way::Node(peer, _) = self else { return (u32::MAX, Duration::MAX) };
        let opened = plane.links.measured(peer).and_then(|measured| measured.opened_lately(Leg::AccessPoint, plane.now()));
        entry_distance(plane.links.rtt(peer), opened)
    }

    fn role(&self) -> u8 {
        match self {
            Way::Tcp(..) | Way::DialOut | Way::Session => 0,
            Way::Node(_, Stage::Servlet) => 1,
            Way::Node(_, Stage::Beacon) => 2,
            Way::Node(_, Stage::Entry | Stage::Ring(_)) => 3,
        }
    }

    pub(crate) fn measure_open(&self, plane: &Plane, took: Duration) {
        if let Way::Node(peer, stage) = self
            && let Some(measured) = plane.links.measured(peer)
        {
            measured.opened(Leg::from(*stage), took, plane.now());
        }
    }
}

/// Candidates of one role that stand side by side are ordered by distance; the order of roles stays: a node that plays one itself comes
/// last for others to be asked first, or its role would show in its answers' times; and so does the node that asks.
pub(crate) fn nearest_first(ways: &mut [Way], plane: &Plane, from: Option<&str>) {
    let asks = |way: &Way| matches!(way, Way::Node(peer, _) if from == Some(&*peer.name));
    order(ways, |way| (way.role(), asks(way)), |way| way.distance(plane));
}

fn order<T, R: PartialEq>(all: &mut [T], role: impl Fn(&T) -> R, distance: impl Fn(&T) -> u32) {
    for run in all.chunk_by_mut(|a, b| role(a) == role(b)) {
        run.sort_by_cached_key(&distance);
    }
}

fn entry_distance(rtt: Option<Duration>, opened: Option<Duration>) -> (u32, Duration) {
    match rtt {
        Some(rtt) => (step(opened.map_or(2 * rtt, |open| open.max(rtt))), rtt),
        None => (u32::MAX, Duration::MAX),
    }
}

/// A time as a number of steps.
fn step(time: Duration) -> u32 {
    let far = time.as_secs_f64() * 1000.0 / NEAR_MS;
    if far <= 1.0 { 0 } else { 1 + (far.log2() * STEPS) as u32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_keep_their_places() {
        let mut all = [(1, 5), (1, 2), (0, 0), (1, 1), (2, 9), (2, 3), (3, 0)];
        order(&mut all, |way| way.0, |way| way.1);
        assert_eq!(all, [(1, 2), (1, 5), (0, 0), (1, 1), (2, 3), (2, 9), (3, 0)]);
        let mut alike = [(1, 0, 'b'), (1, 0, 'a')];
        order(&mut alike, |way| way.0, |way| way.1);
        assert_eq!(alike, [(1, 0, 'b'), (1, 0, 'a')], "what is alike keeps its order");
    }

    #[test]
    fn an_access_point_is_judged_by_the_whole_way() {
        let ms = Duration::from_millis;
        let all = |near_opened: Option<u64>, other_opened: Option<u64>| {
            let mut all = [
                ('u', entry_distance(None, None)),
                ('f', entry_distance(Some(ms(200)), None)),
                ('o', entry_distance(Some(ms(40)), other_opened.map(ms))),
                ('n', entry_distance(Some(ms(15)), near_opened.map(ms))),
            ];
            all.sort_by_key(|(_, distance)| *distance);
            all.map(|(name, _)| name)
        };
        assert_eq!(all(None, None), ['n', 'o', 'f', 'u'], "the nearest is asked first");
        assert_eq!(all(Some(75), None), ['n', 'o', 'f', 'u'], "another cannot be twice as quick");
        assert_eq!(all(Some(740), None), ['o', 'f', 'n', 'u'], "the nearest leads far round: another is tried");
        assert_eq!(all(Some(740), Some(230)), ['o', 'f', 'n', 'u'], "and stays");
        assert_eq!(all(Some(110), Some(115)), ['n', 'o', 'f', 'u'], "what is alike goes by the round trip");
    }

    #[test]
    fn near_ones_are_alike_and_far_ones_go_by_thirds() {
        let steps = |ms: u64| step(Duration::from_millis(ms));
        assert_eq!((steps(0), steps(1), steps(20)), (0, 0, 0));
        assert_eq!(steps(100), steps(105));
        assert!(steps(21) > steps(20) && steps(140) > steps(100) && steps(1000) > steps(500));
        assert!(step(Duration::MAX) > steps(60_000));
    }
}
