//! A session's detour: its datagrams as frames of a tunnel through an access point, while no relay answers.

use super::user::Held;
use crate::forwarder;
use crate::plane::Plane;
use crate::tunnel::{Sink, Source, Tunnel};
use bytes::BytesMut;
use polder_quic::{Attached, DetourInlet};
use polder_spread::{Carriage, Carrier};
use polder_wire::detour::{Frame, Frames, Word, put_datagrams, word};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// Pauses between attempts to open a detour, the first and the longest; after one that stood for longer, the first again.
const AGAIN: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// Between two measurements of the way through an access point.
const SOUND: Duration = Duration::from_secs(60);

/// Carries datagrams until the stream ends or another detour takes its place. `orders`: at the user's end, whether the detour carries; the
/// servlet's end hears it from there.
pub(super) async fn carry(tunnel: Tunnel, attached: Attached, orders: Option<watch::Receiver<bool>>) {
    let inlet = attached.inlet();
    let obeys = orders.is_none();
    tokio::select! {
        _ = say(tunnel.sink, attached, orders) => {}
        () = hear(tunnel.source, &inlet, obeys) => {}
    }
}

async fn say(mut sink: Sink, mut attached: Attached, mut orders: Option<watch::Receiver<bool>>) -> io::Result<()> {
    match &mut orders {
        // Until a first byte comes, those on the path do not know that it stands, and would ask somebody else.
        None => sink.send(word(Word::Here)).await?,
        Some(orders) => orders.mark_changed(),
    }
    loop {
        tokio::select! {
            biased;
            told = told(&mut orders) => {
                let Some(carries) = told else { return Ok(()) };
                sink.send(word(if carries { Word::Stream } else { Word::Relays })).await?;
                attached.inlet().carry(carries);
            }
            next = attached.next() => {
                let Some(datagrams) = next else { return Ok(()) };
                let mut frames = BytesMut::new();
                put_datagrams(&datagrams.bytes, datagrams.segment, &mut frames);
                sink.send(frames.freeze()).await?;
            }
        }
    }
}

async fn told(orders: &mut Option<watch::Receiver<bool>>) -> Option<bool> {
    match orders {
        None => std::future::pending().await,
        Some(orders) => orders.changed().await.ok().map(|()| *orders.borrow_and_update()),
    }
}

async fn hear(mut source: Source, inlet: &DetourInlet, obeys: bool) {
    let mut frames = Frames::default();
    while let Some(Ok(chunk)) = source.next().await {
        frames.push(&chunk);
        loop {
            match frames.take() {
                Ok(Some(Frame::Datagram(datagram))) => inlet.hand(&datagram),
                Ok(Some(Frame::Word(word))) if obeys => inlet.carry(word == Word::Stream),
                Ok(Some(Frame::Word(_))) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
}

/// Decides for one session of a user what carries it, and keeps a detour while one is wanted. Never ends by itself.
pub(super) async fn watch(plane: Arc<Plane>, held: Arc<Held>) {
    let mut carriage = Carriage::new(held.end.seen().0);
    let carries = watch::Sender::new(false);
    // Dropped with this, streams end.
    let (mut streams, mut soundings) = (JoinSet::new(), JoinSet::new());
    let mut sound_at = Instant::now();
    let (mut pause, mut again, mut began) = (AGAIN.0, Instant::now(), Instant::now());
    loop {
        let (now, seen) = held.end.seen();
        let orders = carriage.look(now, seen);
        if orders.ask {
            held.end.ask_relays();
        }
        let detoured = orders.carrier == Carrier::Detour;
        if carries.send_if_modified(|carries| std::mem::replace(carries, detoured) != detoured) {
            held.changed(&plane, detoured);
        }
        if streams.try_join_next().is_some() {
            if began.elapsed() > AGAIN.1 {
                pause = AGAIN.0;
            }
            again = Instant::now() + pause;
            pause = (pause * 2).min(AGAIN.1);
        }
        if !orders.wanted {
            streams.abort_all();
            pause = AGAIN.0;
        } else if streams.is_empty() && Instant::now() >= again {
            began = Instant::now();
            streams.spawn(open(plane.clone(), held.clone(), carries.subscribe()));
        }
        while soundings.try_join_next().is_some() {}
        if sound_at <= Instant::now() && held.is_up() && !orders.wanted && soundings.is_empty() {
            sound_at = Instant::now() + SOUND;
            soundings.spawn(sound(plane.clone(), held.clone()));
        }
        let wait = Duration::from_micros(orders.next.0.saturating_sub(now.0));
        sleep_until(Instant::now() + wait).await;
    }
}

/// Measures how long the way to the same servlet through an access point is: a path opens in one round trip.
async fn sound(plane: Arc<Plane>, held: Arc<Held>) {
    let Some((target, claim)) = held.claim() else { return };
    let began = Instant::now();
    if forwarder::detour(&plane, target, claim).await.is_ok() {
        held.soundings.note(began.elapsed());
    }
}

async fn open(plane: Arc<Plane>, held: Arc<Held>, orders: watch::Receiver<bool>) {
    let Some((target, claim)) = held.claim() else { return };
    match forwarder::detour(&plane, target, claim).await {
        Ok(tunnel) => {
            if let Some(attached) = held.end.attach() {
                carry(tunnel, attached, Some(orders)).await;
            }
        }
        Err(error) => plane.log("debug", "spread", format!("no detour: {}", error.token())),
    }
}
