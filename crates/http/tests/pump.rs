//! Carrying bytes, on a clock that stands still while there is work.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use polder_http::counters::{Counters, Measures};
use polder_http::pressure::Pressure;
use polder_http::pump::{End, Terms, pump};
use polder_http::tunnel::{Sink, Source, Tunnel};
use proptest::prelude::*;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex, split};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

const TERMS: Terms = Terms { idle: Duration::from_secs(60), stall: Duration::from_secs(10), waiting: 4 };

/// One end of a tunnel, and what the pump sees of it.
fn end(room: usize) -> (DuplexStream, Tunnel) {
    let (here, there) = duplex(room);
    let (read, write) = split(there);
    (here, Tunnel { source: Source::io(read), sink: Sink::io(write) })
}

fn start(room: usize, terms: Terms, counters: &Arc<Counters>) -> (DuplexStream, DuplexStream, JoinHandle<End>) {
    let (user, near) = end(room);
    let (site, far) = end(room);
    let counters = counters.clone();
    let pumping =
        tokio::spawn(async move { pump(near, far, terms, counters.meter(&Measures::default(), &Pressure::default())).await });
    (user, site, pumping)
}

#[tokio::test(start_paused = true)]
async fn both_directions_end_one_by_one() {
    let counters = Arc::default();
    let (mut user, mut site, pumping) = start(1024, TERMS, &counters);
    user.write_all(b"question").await.unwrap();
    user.shutdown().await.unwrap();
    let mut all = Vec::new();
    site.read_to_end(&mut all).await.unwrap();
    site.write_all(b"a long answer").await.unwrap();
    drop(site);
    let mut answer = Vec::new();
    user.read_to_end(&mut answer).await.unwrap();
    assert_eq!((all.as_slice(), answer.as_slice()), (&b"question"[..], &b"a long answer"[..]));
    assert_eq!(pumping.await.unwrap(), End::Finished);
    assert_eq!((counters.bytes_up.get(), counters.bytes_down.get()), (8, 13));
}

#[tokio::test(start_paused = true)]
async fn silence_ends_a_tunnel_after_one_to_two_idle_times() {
    let counters = Arc::default();
    let (mut user, mut site, pumping) = start(1024, TERMS, &counters);
    let began = Instant::now();
    for _ in 0..10 {
        sleep(Duration::from_secs(59)).await;
        user.write_all(b"x").await.unwrap();
        site.read_u8().await.unwrap();
    }
    assert_eq!(pumping.await.unwrap(), End::Idle);
    let after = began.elapsed() - Duration::from_secs(590);
    assert!((TERMS.idle..=2 * TERMS.idle).contains(&after), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn a_paused_receiver_is_left_alone_while_few_wait() {
    let counters: Arc<Counters> = Arc::default();
    let (mut user, mut site, pumping) = start(16, Terms { idle: Duration::from_secs(600), ..TERMS }, &counters);
    let sent = tokio::spawn(async move { site.write_all(&[1; 1000]).await });
    sleep(Duration::from_secs(300)).await; // a paused film
    assert_eq!(counters.receivers_waiting.get(), 1);
    let mut film = vec![0; 1000];
    user.read_exact(&mut film).await.unwrap();
    sent.await.unwrap().unwrap();
    assert_eq!(counters.receivers_waiting.get(), 0);
    drop(user);
    assert_ne!(pumping.await.unwrap(), End::Idle);
}

#[tokio::test(start_paused = true)]
async fn receivers_that_take_nothing_are_cut_when_too_many_wait() {
    let counters: Arc<Counters> = Arc::default();
    let terms = Terms { idle: Duration::from_secs(86_400), ..TERMS };
    let mut held = Vec::new();
    let mut pumps = Vec::new();
    for _ in 0..20 {
        let (user, mut site, pumping) = start(16, terms, &counters);
        tokio::spawn(async move { site.write_all(&[1; 1000]).await });
        held.push(user);
        pumps.push(pumping);
    }
    sleep(Duration::from_secs(60)).await;
    assert_eq!(counters.receivers_waiting.get(), terms.waiting, "as many as may wait are left");
    let mut cut = 0;
    for pumping in &mut pumps {
        if pumping.is_finished() {
            assert_eq!(pumping.await.unwrap(), End::Broken);
            cut += 1;
        }
    }
    assert_eq!(cut, 16);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever the chunks and however narrow the pipes: what goes in comes out, whole and in order, both ways.
    #[test]
    fn nothing_is_lost_or_turned(
        up in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..5000), 0..20),
        down in proptest::collection::vec(any::<u8>(), 0..100_000),
        room in 1usize..10_000,
        early in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let counters: Arc<Counters> = Arc::default();
            let (mut user, mut near) = end(room);
            let (mut site, far) = end(room);
            near.source.unread(Bytes::from(early.clone()));
            let meter = counters.clone();
            let pumping = tokio::spawn(async move { pump(near, far, TERMS, meter.meter(&Measures::default(), &Pressure::default())).await });
            let said: Vec<u8> = early.iter().chain(up.iter().flatten()).copied().collect();
            let answer = down.clone();
            let at_site = tokio::spawn(async move {
                let (mut read, mut write) = split(&mut site);
                let mut heard = Vec::new();
                let (_, _) = tokio::join!(read.read_to_end(&mut heard), async {
                    write.write_all(&answer).await.unwrap();
                    write.shutdown().await.unwrap();
                });
                heard
            });
            let (mut read, mut write) = split(&mut user);
            let mut heard = Vec::new();
            let (_, ()) = tokio::join!(read.read_to_end(&mut heard), async {
                for chunk in &up {
                    write.write_all(chunk).await.unwrap();
                }
                write.shutdown().await.unwrap();
            });
            assert!(heard == down && at_site.await.unwrap() == said);
            assert_eq!(pumping.await.unwrap(), End::Finished);
        });
    }
}
