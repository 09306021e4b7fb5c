//! Datagrams of the spread plane.

use polder_spread::issue::{Grant, issue};
use polder_spread::{
    Counters, Epoch, Inbound, Leg, Member, Members, Micros, NodeId, Outbox, Relay, RelayConfig, Session, SessionId, SpreadConfig,
    Terms, To, epoch_key, grant_key, peek,
};
use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

const NOW: Micros = Micros(1_800_000_000_000_000);
const KEY: [u8; 32] = [7; 32];

struct World {
    relay: Relay,
    user: Session,
    from: SocketAddr,
    good: Vec<u8>,
}

fn world() -> Option<World> {
    let at = |port| SocketAddr::from(([192, 0, 2, 1], port));
    let list = [1, 2].map(|id| Member { id: NodeId(id), address: at(id as u16) });
    let members = Arc::new(Members::new(1, list.to_vec()).ok()?);
    let hour = Duration::from_secs(3600);
    let config = RelayConfig {
        me: NodeId(1),
        epochs: vec![Epoch::new(1, &epoch_key(&KEY, 1), NOW - hour, NOW + hour)],
        members: vec![members.clone()],
        sessions: 16,
        span: Duration::from_secs(3),
        return_age: Duration::from_secs(30),
    };
    let relay = Relay::new(config, 1, NOW - hour, Arc::new(Counters::default()));
    let key = grant_key(&epoch_key(&KEY, 1), [3; 8]);
    let grant = Grant { relay: NodeId(1), address: at(1), epoch: 1, grant: [3; 8], key };
    let terms = Terms { starts: NOW.secs() as u32, lasts: 600, pace: 14, rate: 20 };
    let ticket = issue(SessionId([5; 16]), [6; 32], NodeId(2), terms, 1, &[grant])?;
    let mut user = Session::forwarder(&ticket, members, SpreadConfig::default(), NOW, 1).ok()?;
    let mut out = Outbox::default();
    user.send(NOW, b"a datagram", 10, &mut out);
    let good = out.runs().next()?.bytes.to_vec();
    Some(World { relay, user, from: at(9), good })
}

thread_local! {
    static WORLD: RefCell<Option<World>> = RefCell::new(world());
}

/// No bytes pass a relay or an end but a good packet, unchanged; and that passes.
pub(crate) fn packet(data: &[u8]) {
    WORLD.with_borrow_mut(|world| {
        let world = world.as_mut().expect("the library takes every key");
        let taken = world.relay.pass(NOW, world.from, &mut data.to_vec());
        let onward = matches!(peek(data), Some((Leg::Onward, _)));
        assert!(data == world.good || if onward { taken == Ok(To::Here) } else { taken.is_err() });
        assert!(world.user.receive(NOW, world.from, &mut data.to_vec(), &mut Inbound::default()).is_err());
        // the same bytes as changes to a good packet
        let mut bent = world.good.clone();
        bent.iter_mut().zip(data).for_each(|(byte, change)| *byte ^= change);
        let taken = world.relay.pass(NOW, world.from, &mut bent.clone());
        let onward = matches!(peek(&bent), Some((Leg::Onward, _)));
        assert!(bent == world.good || if onward { taken == Ok(To::Here) } else { taken.is_err() });
    });
}

/// What opens a stream has one spelling, but for a trace of zeros; a request for a ticket is read without harm.
pub(crate) fn opening(data: &[u8]) {
    use polder_wire::spread::{FIXED, MOST, Opening, answer, read_answer};
    if let Some(fixed) = data.first_chunk::<FIXED>() {
        assert!(Opening::length(fixed).is_none_or(|length| (FIXED..=MOST).contains(&length)));
    }
    if let Some(opening) = Opening::decode(data) {
        let again = opening.encode().expect("what was read can be said");
        assert!(again == data || opening.trace.is_none());
        assert_eq!(Opening::decode(&again), Some(opening));
    }
    if let Some(&byte) = data.first() {
        let _ = answer(read_answer(byte));
    }
    let _ = polder_types::decode::<polder_http::spread::order::AskTicket>(data);
}

/// A claim has one spelling; a stream's frames are the same however it is cut, and what was read can be said again.
pub(crate) fn detour(data: &[u8]) {
    use polder_wire::detour::{Claim, Frame, Frames, LONGEST, put_datagrams, word};
    if let Some(claim) = Claim::parse(data) {
        assert_eq!(claim.encode().as_bytes(), data);
    }
    let read = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let (mut frames, mut heard) = (Frames::default(), Vec::new());
        for piece in pieces {
            frames.push(piece);
            loop {
                match frames.take() {
                    Ok(Some(frame)) => heard.push(frame),
                    Ok(None) => break,
                    Err(_) => return heard,
                }
            }
        }
        heard
    };
    let whole = read(&mut std::iter::once(data));
    assert_eq!(whole, read(&mut data.chunks(7)));
    let mut said = bytes::BytesMut::new();
    for frame in &whole {
        match frame {
            Frame::Datagram(datagram) => {
                assert!((1..=LONGEST).contains(&datagram.len()));
                put_datagrams(datagram, datagram.len(), &mut said);
            }
            Frame::Word(spoken) => said.extend_from_slice(&word(*spoken)),
        }
    }
    assert!(data.starts_with(&said));
}
