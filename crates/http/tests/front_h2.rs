//! The proxy in HTTP/2.
#![allow(missing_docs, clippy::unwrap_used)]

mod front_common;

use bytes::Bytes;
use front_common::*;
use h2::Reason;
use h2::client::{Builder, SendRequest};
use http::{Method, Request, Response, Uri};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

type Client = SendRequest<Bytes>;

async fn client(front: &Front) -> (Client, JoinHandle<Result<(), h2::Error>>) {
    let (client, connection) = Builder::new().initial_max_send_streams(1000).handshake(front.connect(true)).await.unwrap();
    let task = tokio::spawn(connection);
    (client, task)
}

fn connect(authority: &str) -> Request<()> {
    let uri: Uri = authority.parse().unwrap();
    Request::builder().method(Method::CONNECT).uri(uri).body(()).unwrap()
}

async fn ask(client: &Client, request: Request<()>) -> Response<Bytes> {
    let (response, _) = client.clone().ready().await.unwrap().send_request(request, true).unwrap();
    let (head, body) = response.await.unwrap().into_parts();
    Response::from_parts(head, collect(body).await.unwrap())
}

fn get(uri: &str) -> Request<()> {
    Request::builder().uri(uri).body(()).unwrap()
}

fn text(response: &Response<Bytes>) -> String {
    String::from_utf8_lossy(response.body()).into_owned()
}

#[tokio::test]
async fn data_that_follows_connect_travels_with_the_open() {
    let front = Front::access_point();
    let (client, _task) = client(&front).await;
    let (response, mut stream) = client.clone().ready().await.unwrap().send_request(connect("wiki.test:443"), false).unwrap();
    stream.send_data("first ".into(), false).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.status(), 200);
    stream.send_data("second".into(), true).unwrap();
    assert_eq!(collect(response.into_body()).await.unwrap(), "first second");
    assert_eq!(front.origins.early.lock().unwrap().as_slice(), b"first ");
}

#[tokio::test]
async fn refusals_have_a_status_and_a_reason() {
    let front = Front::access_point();
    let (client, _task) = client(&front).await;
    for (target, status, error) in [
        ("127.0.0.1:443", 403, "destination_ip_prohibited"),
        ("private.test:443", 403, "http_request_denied"),
        ("down.test:443", 502, "destination_unavailable"),
        ("wiki.test", 400, "http_request_error"),
    ] {
        let response = ask(&client, connect(target)).await;
        assert_eq!(response.status(), status, "{target}");
        assert_eq!(response.headers()["proxy-status"], format!("polder; error={error}"));
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        assert!(text(&response).contains(error), "{}", text(&response));
    }
}

#[tokio::test]
async fn plain_http_is_exchanged_with_the_origin() {
    let front = Front::access_point();
    let (client, _task) = client(&front).await;
    let request = Request::builder()
        .uri("http://wiki.test/p?q")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .header("x-forwarded-for", "1.2.3.4")
        .header("polder-user", "root")
        .header("content_length", "7")
        .body(())
        .unwrap();
    let response = ask(&client, request).await;
    assert_eq!(text(&response), "GET /p?q plain [] Host=wiki.test;cookie=a=1; b=2;Via=2 polder;");
    assert_eq!(response.headers()["via"], "1.1 polder");
    let response = ask(&client, get("http://wiki.test/chunked")).await;
    assert_eq!(text(&response), "abcde");
    let response = ask(&client, get("http://wiki.test/hop")).await;
    assert!(!response.headers().contains_key("x-secret") && !response.headers().contains_key("keep-alive"));
    let head = Request::builder().method(Method::HEAD).uri("http://wiki.test/h").body(()).unwrap();
    let response = ask(&client, head).await;
    assert_eq!((response.headers()["content-length"].as_bytes(), response.body().len()), (&b"12345"[..], 0));
    assert_eq!(front.origins.opened.load(Relaxed), 1, "one tunnel was enough");
}

#[tokio::test]
async fn bodies_pass_sized_and_unsized() {
    let front = Front::access_point();
    let (client, _task) = client(&front).await;
    for (length, how) in [(Some("5"), "plain"), (None, "chunked")] {
        let mut request = Request::builder().method(Method::POST).uri("http://wiki.test/b");
        request = length.into_iter().fold(request, |request, length| request.header("content-length", length));
        let (response, mut stream) =
            client.clone().ready().await.unwrap().send_request(request.body(()).unwrap(), false).unwrap();
        stream.send_data("he".into(), false).unwrap();
        stream.send_data("llo".into(), true).unwrap();
        let body = collect(response.await.unwrap().into_body()).await.unwrap();
        assert!(body.starts_with(format!("POST /b {how} [hello]").as_bytes()), "{body:?}");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_is_reset() {
    let front = Front::access_point();
    let (client, _task) = client(&front).await;
    let (response, _) = client.clone().ready().await.unwrap().send_request(get("http://wiki.test/cut-late"), true).unwrap();
    let body = response.await.unwrap().into_body();
    assert_eq!(collect(body).await.unwrap_err().reason(), Some(Reason::CANCEL));
    let response = ask(&client, get("http://wiki.test/nonsense")).await;
    assert_eq!(
        (response.status().as_u16(), response.headers()["proxy-status"].as_bytes()),
        (502, &b"polder; error=connection_terminated"[..])
    );
}

#[tokio::test]
async fn what_http1_refuses_http2_refuses() {
    let front = Front::access_point();
    let (client, _task) = client(&front).await;
    let differs = Request::builder().uri("http://wiki.test/").header("host", "shop.test").body(()).unwrap();
    let trace = Request::builder().method(Method::TRACE).uri("http://wiki.test/").body(()).unwrap();
    let many =
        (0..101).fold(Request::builder().uri("http://wiki.test/"), |r, i| r.header(format!("x{i}"), "y")).body(()).unwrap();
    let user = get("http://u:p@wiki.test/");
    for request in [differs, trace, many, user] {
        let what = format!("{request:?}");
        assert_eq!(ask(&client, request).await.status(), 400, "{what}");
    }
    assert_eq!(ask(&client, get("https://wiki.test/")).await.status(), 421, "https is asked of the proxy itself");
    assert_eq!(front.origins.opened.load(Relaxed), 0);
}

#[tokio::test]
async fn a_long_header_list_does_not_reach_us() {
    let front = Front::access_point();
    let (client, _task) = client(&front).await;
    let request = Request::builder().uri("http://wiki.test/").header("x", "y".repeat(20_000)).body(()).unwrap();
    let (response, _) = client.clone().ready().await.unwrap().send_request(request, true).unwrap();
    let status = response.await.map(|response| response.status().as_u16());
    assert!(matches!(status, Ok(431) | Err(_)), "{status:?}");
    assert_eq!(front.counter("requests"), 0);
}

#[tokio::test]
async fn extended_connect_is_not_offered() {
    let front = Front::access_point();
    let (client, _task) = client(&front).await;
    assert_eq!(ask(&client, get("http://wiki.test/")).await.status(), 200);
    assert!(!client.is_extended_connect_protocol_enabled());
}

#[tokio::test]
async fn rapid_resets_end_the_connection() {
    let front = Front::access_point();
    let (client, task) = client(&front).await;
    for _ in 0..200 {
        let Ok(mut ready) = client.clone().ready().await else { break };
        let Ok((response, mut stream)) = ready.send_request(get("http://wiki.test/late"), false) else { break };
        // Long enough for the request to be taken up, as an attacker would.
        let _ = tokio::time::timeout(Duration::from_millis(2), response).await;
        stream.send_reset(Reason::CANCEL);
    }
    let ended = task.await.unwrap();
    assert_eq!(ended.unwrap_err().reason(), Some(Reason::ENHANCE_YOUR_CALM));
    assert_eq!(front.counter("over_resets"), 1);
    assert!(front.counter("requests") < 100, "{}", front.counter("requests"));
}

#[tokio::test]
async fn cancelled_requests_leave_nothing_behind() {
    let front = Front::access_point();
    let (client, _task) = client(&front).await;
    let (response, mut stream) = client.clone().ready().await.unwrap().send_request(get("http://wiki.test/late"), false).unwrap();
    while front.origins.opened.load(Relaxed) == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    stream.send_reset(Reason::CANCEL);
    drop((response, stream));
    while front.ctx.tunnels_of("spiffe://o.test/user/ann") > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn idle_connections_are_sent_away() {
    let front = Front::access_point();
    let (client, task) = client(&front).await;
    assert_eq!(ask(&client, get("http://wiki.test/")).await.status(), 200);
    drop(client);
    let began = tokio::time::Instant::now();
    let _ = task.await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(620), "{:?}", began.elapsed());
}

#[tokio::test]
async fn draining_says_goaway_and_lets_streams_end() {
    let front = Front::access_point();
    let (client, task) = client(&front).await;
    let (response, mut stream) = client.clone().ready().await.unwrap().send_request(connect("wiki.test:443"), false).unwrap();
    let response = response.await.unwrap();
    front.ctx.drain();
    stream.send_data("still here".into(), true).unwrap();
    assert_eq!(collect(response.into_body()).await.unwrap(), "still here");
    drop((client, stream));
    assert!(task.await.unwrap().is_ok());
}

/// An HTTP/2 connection by hand, after its greeting.
async fn by_hand(front: &Front) -> tokio::io::DuplexStream {
    let mut io = front.connect(true);
    io.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    io
}

/// PINGs are answered at the pace of the identity's budget; a second connection has none of its own, another user has.
#[tokio::test(start_paused = true)]
async fn frames_that_carry_nothing_wait_for_their_budget() {
    let mut limits = limits();
    limits.frame_rate_per_identity = 100;
    limits.flood_patience_ms = 20_000;
    let mut front = Front::with(limits, None);
    let ping = b"\0\0\x08\x06\0\0\0\0\0polder!!";
    let answered = async |front: &Front, pings: usize| {
        let mut io = by_hand(front).await;
        let (began, mut seen, mut buffer) = (tokio::time::Instant::now(), 0, vec![0; 65536]);
        io.write_all(&ping.repeat(pings)).await.unwrap();
        let mut heard = Vec::new();
        while seen < pings {
            let n = io.read(&mut buffer).await.unwrap();
            assert!(n > 0, "cut after {seen}");
            heard.extend_from_slice(&buffer[..n]);
            seen = heard.windows(8).filter(|part| part == b"polder!!").count();
        }
        began.elapsed()
    };
    assert!(answered(&front, 150).await < Duration::from_millis(500), "a burst passes");
    let second = answered(&front, 1500).await;
    assert!(second > Duration::from_secs(5), "{second:?} for 1500 at 100 a second");
    assert!(front.counter("over_frames") > 0);
    let mut bob = polder_types::Identity::clone(front.who.as_deref().unwrap());
    bob.uri = "spiffe://o.test/user/bob".into();
    front.who = Some(std::sync::Arc::new(bob));
    assert!(answered(&front, 150).await < Duration::from_millis(500), "his budget is his own");
}

/// Who sends more than his budget for long is cut, however much of it waits in buffers.
#[tokio::test(start_paused = true)]
async fn who_floods_on_is_cut() {
    let mut limits = limits();
    limits.frame_rate_per_identity = 100;
    limits.flood_patience_ms = 15_000;
    let front = Front::with(limits, None);
    let mut io = by_hand(&front).await;
    let (mut reader, mut writer) = tokio::io::split(&mut io);
    let began = tokio::time::Instant::now();
    let flood = async { while writer.write_all(&b"\0\0\x08\x06\0\0\0\0\0polder!!".repeat(100)).await.is_ok() {} };
    let listen = async { while reader.read(&mut [0; 4096]).await.is_ok_and(|n| n > 0) {} };
    tokio::join!(flood, listen);
    let lasted = began.elapsed();
    assert!((Duration::from_secs(15)..Duration::from_secs(20)).contains(&lasted), "{lasted:?}");
    assert_eq!(front.counter("over_flood_patience"), 1);
}

/// A flood of requests is read in turns, though HTTP/2 asks for more after each stream that it has accepted.
#[tokio::test]
async fn a_flood_of_requests_is_read_in_turns() {
    const REQUESTS: u32 = 8000;
    let mut limits = limits();
    (limits.streams_per_client, limits.frame_rate_per_identity) = (REQUESTS, 100_000_000);
    let front = Front::with(limits, None);
    let mut flood = Vec::new();
    for number in 0..REQUESTS {
        flood.extend_from_slice(b"\0\0\x10\x01\x05");
        flood.extend_from_slice(&(2 * number + 1).to_be_bytes());
        flood.extend_from_slice(b"\x82\x86\x84\x41\x0bnobody.test");
    }
    let (mut reader, mut writer) = tokio::io::split(by_hand(&front).await);
    let listening = tokio::spawn(async move { while reader.read(&mut [0; 65536]).await.is_ok_and(|n| n > 0) {} });
    let (mut said, mut most) = (writer.write(&flood).await.unwrap(), 0);
    while said < flood.len() {
        // As much as has been read since this task had a step.
        let more = writer.write(&flood[said..]).await.unwrap();
        (said, most) = (said + more, most.max(more));
    }
    listening.abort();
    assert!(most <= 16 * 1024, "{most} bytes of heads in a step");
}

/// Who takes more than his share of the thread waits for turns, and is served all the same; the share is of all his connections.
#[tokio::test]
async fn who_takes_more_than_his_share_takes_turns() {
    let mut limits = limits();
    limits.work_percent_per_identity = 1;
    limits.frame_rate_per_identity = 100_000_000;
    let mut front = Front::with(limits, None);
    let pings = b"\0\0\x08\x06\0\0\0\0\0polder!!".repeat(200);
    let answered = async |io: &mut tokio::io::DuplexStream| {
        let (mut heard, mut buffer) = (Vec::new(), vec![0; 65536]);
        io.write_all(&pings).await.unwrap();
        while heard.windows(8).filter(|part| part == b"polder!!").count() < 200 {
            let n = io.read(&mut buffer).await.unwrap();
            assert!(n > 0, "cut");
            heard.extend_from_slice(&buffer[..n]);
        }
    };
    let ann = front.who.clone();
    let mut bob = polder_types::Identity::clone(ann.as_deref().unwrap());
    bob.uri = "spiffe://o.test/user/bob".into();
    front.who = Some(std::sync::Arc::new(bob));
    let mut other = by_hand(&front).await;
    front.who = ann;
    let (mut first, mut second) = (by_hand(&front).await, by_hand(&front).await);
    let began = std::time::Instant::now();
    while front.counter("over_work") == 0 {
        tokio::join!(answered(&mut first), answered(&mut second));
        // Else she is alone, and has the whole thread. One PING is no work.
        other.write_all(b"\0\0\x08\x06\0\0\0\0\0another.").await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(60), "a minute's work is within one per cent");
    }
    tokio::join!(answered(&mut first), answered(&mut second), answered(&mut other));
}

#[tokio::test]
async fn what_ends_a_connection_is_counted_by_its_reason() {
    let front = Front::access_point();
    let ends = async |frames: &[u8]| {
        let mut io = by_hand(&front).await;
        let _ = io.write_all(frames).await;
        let mut heard = Vec::new();
        let _ = io.read_to_end(&mut heard).await;
    };
    ends(b"\0\0\x05\x06\0\0\0\0\0short").await; // FRAME_SIZE_ERROR
    assert_eq!((front.counter("refused_protocol"), front.counter("over_resets")), (1, 0));
    let mut endless = b"\0\0\x01\x01\0\0\0\0\x01\x82".to_vec();
    endless.extend(b"\0\0\0\x09\0\0\0\0\x01".repeat(10_000)); // CONTINUATION without end
    ends(&endless).await;
    assert_eq!(front.counter("over_resets") + front.counter("refused_protocol"), 2);
}

#[tokio::test]
async fn bounds_of_heads_are_knobs() {
    let mut limits = limits();
    (limits.head_bytes, limits.head_fields) = (2000, 20);
    let front = Front::with(limits, None);
    let (client, _task) = client(&front).await;
    let fields = |count| (0..count).fold(Request::builder().uri("http://wiki.test/"), |r, i| r.header(format!("x{i}"), "y"));
    assert_eq!(ask(&client, fields(20).body(()).unwrap()).await.status(), 200);
    assert_eq!(ask(&client, fields(21).body(()).unwrap()).await.status(), 400);
    let lines = |count: usize| "x: y\r\n".repeat(count);
    let head = |lines: String| format!("GET http://wiki.test/ HTTP/1.1\r\nHost: wiki.test\r\nConnection: close\r\n{lines}\r\n");
    assert!(front.say(&head(lines(18))).await.starts_with("HTTP/1.1 200 "));
    assert!(front.say(&head(lines(19))).await.starts_with("HTTP/1.1 400 "));
    assert!(front.say(&head(format!("x: {}\r\n", "y".repeat(1800)))).await.starts_with("HTTP/1.1 200 "));
    assert!(front.say(&head(format!("x: {}\r\n", "y".repeat(2000)))).await.starts_with("HTTP/1.1 400 "));
}

/// From 80 % on nothing idle is kept, from 95 % on tunnels are refused and the silent are closed, and then connections without any; then
/// all is as before.
#[tokio::test(start_paused = true)]
async fn memory_is_shed() {
    let front = Front::access_point();
    let (first, task) = client(&front).await;
    let silent = first.clone().ready().await.unwrap().send_request(connect("wiki.test:443"), false).unwrap();
    assert_eq!(silent.0.await.unwrap().status(), 200);
    front.pressure.look(85, 100);
    assert_eq!(ask(&first, get("http://wiki.test/")).await.status(), 200);
    assert_eq!(ask(&first, get("http://wiki.test/")).await.status(), 200);
    assert_eq!((front.counter("shed_idle"), front.counter("reused")), (2, 0));
    assert_eq!(front.counter("tunnels_open"), 1);
    for _ in 0..20 {
        front.pressure.look(96, 100);
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    assert_eq!((front.counter("tunnels_open"), front.counter("shed_open_tunnels")), (0, 1), "silent for twenty looks");
    let _ = task.await.unwrap();
    assert_eq!(front.counter("shed_idle"), 3, "the connection that carries nothing any more");
    let (client, _task) = client(&front).await;
    let refused = ask(&client, connect("wiki.test:443")).await;
    assert_eq!(refused.status(), 429);
    assert!(refused.headers().contains_key("retry-after") && front.counter("shed_tunnels") > 0);
    front.pressure.look(70, 100);
    assert_eq!(ask(&client, get("http://wiki.test/")).await.status(), 200);
    assert_eq!(ask(&client, get("http://wiki.test/")).await.status(), 200);
    assert_eq!(front.counter("reused"), 1);
}
