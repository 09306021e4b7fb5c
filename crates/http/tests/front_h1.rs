//! The proxy in HTTP/1: conversations over bytes.
#![allow(missing_docs, clippy::unwrap_used)]

mod front_common;

use front_common::*;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn connect_opens_a_tunnel_and_bytes_pass_both_ways() {
    let front = Front::access_point();
    let mut io = front.connect(false);
    io.write_all(b"CONNECT wiki.test:443 HTTP/1.1\r\nHost: wiki.test:443\r\n\r\nfirst ").await.unwrap();
    assert!(hear(&mut io, "\r\n\r\nfirst ").await.starts_with("HTTP/1.1 200 "));
    io.write_all(b"second").await.unwrap();
    hear(&mut io, "second").await;
    assert_eq!(front.origins.early.lock().unwrap().as_slice(), b"first ", "what came with the request travels with the open");
}

#[tokio::test]
async fn an_access_point_answers_connect_only_when_the_path_has() {
    let front = Front::access_point();
    let heard = front.say("CONNECT down.test:443 HTTP/1.1\r\nHost: down.test\r\n\r\n").await;
    assert!(heard.starts_with("HTTP/1.1 502 "));
    assert!(heard.contains("proxy-status: polder; error=destination_unavailable\r\n"), "{heard}");
}

#[tokio::test]
async fn a_forwarder_answers_at_once_but_not_for_what_it_does_not_carry() {
    let front = Front::forwarder();
    let heard = front.say("CONNECT down.test:443 HTTP/1.1\r\nHost: down.test\r\n\r\n").await;
    assert_eq!(heard, "HTTP/1.1 200 Connection established\r\n\r\n", "then the path fails and the connection ends");
    let heard = front.say("CONNECT else.test:443 HTTP/1.1\r\nHost: else.test\r\n\r\n").await;
    assert!(heard.starts_with("HTTP/1.1 403 "), "{heard}");
}

/// An outside scan finds no open relay (issue: claim 4).
#[tokio::test]
async fn nothing_but_registered_targets_is_carried() {
    let front = Front::access_point();
    for target in [
        "127.0.0.1:443",
        "10.0.0.1:443",
        "169.254.169.254:80",
        "[::1]:443",
        "localhost:80",
        "wiki.test:22",
        "else.test:443",
        "2130706433:80",
        "wiki.test.evil.test:443",
    ] {
        let heard = front.say(&format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n")).await;
        assert!(heard.starts_with("HTTP/1.1 403 ") && heard.contains("error=destination_ip_prohibited"), "{target}: {heard}");
        let heard = front.say(&format!("GET http://{target}/ HTTP/1.1\r\nHost: wiki.test\r\n{CLOSE}\r\n")).await;
        assert!(heard.starts_with("HTTP/1.1 403 "), "Host does not stand in for the target: {target}: {heard}");
    }
    let heard = front.say("CONNECT private.test:443 HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(heard.contains("error=http_request_denied"), "{heard}");
    assert_eq!(front.origins.opened.load(Relaxed), 0);
    assert_eq!((front.counter("refused_prohibited"), front.counter("refused_denied")), (18, 1));
}

#[tokio::test]
async fn bytes_behind_a_refused_connect_are_not_read_as_requests() {
    let front = Front::access_point();
    let heard = front.say(&format!("CONNECT else.test:443 HTTP/1.1\r\nHost: else.test\r\n\r\n{}", get("/smuggled", CLOSE))).await;
    assert_eq!(heard.matches("HTTP/1.1 ").count(), 1, "{heard}");
    assert!(heard.contains("Connection: close\r\n"));
    assert_eq!(front.origins.opened.load(Relaxed), 0);
}

#[tokio::test]
async fn absolute_form_is_asked_of_the_origin_in_origin_form() {
    let front = Front::access_point();
    let extra = "Proxy-Authorization: Basic x\r\nProxy-Connection: keep-alive\r\nX-Forwarded-For: 1.2.3.4\r\nx_forwarded_host: e\r\nForwarded: for=x\r\n\
                 Polder-User: root\r\nX-Real-IP: 1.2.3.4\r\nConnection: x-mine\r\nX-Mine: y\r\nTE: trailers\r\nCookie: a=b\r\nVia: 1.0 fred\r\n";
    let heard = front.say(&(get("/p?q=1", extra) + &get("/last", CLOSE))).await;
    assert!(heard.contains("GET /p?q=1 plain [] Host=wiki.test;Cookie=a=b;Via=1.0 fred;Via=1.1 polder;"), "{heard}");
    assert!(heard.contains("GET /last plain [] Host=wiki.test;Via=1.1 polder;"), "{heard}");
    assert_eq!(front.origins.opened.load(Relaxed), 1, "both on one tunnel");
    assert_eq!((front.counter("reused"), front.counter("exchanges")), (1, 2));
}

#[tokio::test]
async fn trace_fields_stop_here_unless_origins_shall_have_them() {
    let front = Front::access_point();
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let fields = format!("Traceparent: {parent}\r\nTraceState: a=b\r\nbaggage: user=ann\r\n{CLOSE}");
    let heard = front.say(&get("/p", &fields)).await;
    assert!(heard.contains("GET /p plain [] Host=wiki.test;Via=1.1 polder;"), "{heard}");
    front.ctx.pass_traces(true);
    let heard = front.say(&get("/p", &fields)).await;
    assert!(heard.contains(&format!("Traceparent={parent};TraceState=a=b;baggage=user=ann;Via=1.1 polder;")), "{heard}");
}

#[tokio::test]
async fn the_target_wins_over_host() {
    let front = Front::access_point();
    let heard = front.say(&format!("GET http://WIKI.test:80/ HTTP/1.1\r\nHost: shop.test\r\n{CLOSE}\r\n")).await;
    assert!(heard.contains("Host=wiki.test;"), "{heard}");
}

#[tokio::test]
async fn bodies_are_framed_anew() {
    let front = Front::access_point();
    let post =
        |framing: &str, body: &str| format!("POST http://wiki.test/b HTTP/1.1\r\nHost: wiki.test\r\n{framing}\r\n\r\n{body}");
    let text = post("Content-Length: 5", "hello")
        + &post("Transfer-Encoding: chunked", "3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\nT: x\r\n\r\n")
        + &get("/z", CLOSE);
    let heard = front.say(&text).await;
    assert!(heard.contains("POST /b plain [hello] Host=wiki.test;Via=1.1 polder;Content-Length=5;"), "{heard}");
    assert!(heard.contains("POST /b chunked [abcde] Host=wiki.test;Via=1.1 polder;Transfer-Encoding=chunked;"), "{heard}");
    assert!(heard.contains("GET /z plain []"), "{heard}");
}

#[tokio::test]
async fn answers_keep_their_meaning_for_every_client() {
    let front = Front::access_point();
    let heard = front.say(&get("/chunked", CLOSE)).await;
    assert!(
        heard.ends_with("Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"),
        "{heard}"
    );
    let heard = front.say("GET http://wiki.test/chunked HTTP/1.0\r\nHost: wiki.test\r\n\r\n").await;
    assert!(heard.ends_with("Connection: close\r\n\r\nabcde"), "HTTP/1.0 knows no chunks: {heard}");
    let heard = front.say(&(get("/until-close", "") + &get("/x", CLOSE))).await;
    assert!(heard.contains("a\r\nto the end\r\n0\r\n\r\nHTTP/1.1 200"), "an answer until close becomes chunks: {heard}");
    let heard = front.say(&get("/hop", CLOSE)).await;
    for gone in ["X-Secret", "Keep-Alive", "Alt-Svc"] {
        assert!(!heard.contains(gone), "{gone}: {heard}");
    }
    assert!(heard.contains("X-Kept: 2\r\n") && heard.contains("Via: 1.1 polder\r\n"), "{heard}");
    let heard = front.say(&get("/not-modified", CLOSE)).await;
    assert!(
        heard.contains("304 Not Modified") && heard.contains("Content-Length: 99\r\n") && heard.ends_with("\r\n\r\n"),
        "{heard}"
    );
    let head = get("/h", "").replace("GET", "HEAD") + &get("/after", CLOSE);
    let heard = front.say(&head).await;
    assert!(heard.contains("Content-Length: 12345\r\n\r\nHTTP/1.1 200 OK"), "{heard}");
}

#[tokio::test]
async fn interim_answers_pass_and_the_body_follows() {
    let front = Front::access_point();
    let mut io = front.connect(false);
    let head = format!(
        "POST http://wiki.test/continue HTTP/1.1\r\nHost: wiki.test\r\nExpect: 100-continue\r\nContent-Length: 3\r\n{CLOSE}\r\n"
    );
    io.write_all(head.as_bytes()).await.unwrap();
    assert!(hear(&mut io, "\r\n\r\n").await.starts_with("HTTP/1.1 100 Continue\r\n"));
    io.write_all(b"abc").await.unwrap();
    assert!(hear(&mut io, "[abc]").await.starts_with("HTTP/1.1 200 OK\r\n"));
}

#[tokio::test]
async fn an_origin_may_answer_before_it_has_heard_all() {
    let front = Front::access_point();
    let mut io = front.connect(false);
    io.write_all(b"POST http://wiki.test/early HTTP/1.1\r\nHost: wiki.test\r\nContent-Length: 1000000\r\n\r\nsome")
        .await
        .unwrap();
    let heard = hear(&mut io, "no").await;
    assert!(heard.starts_with("HTTP/1.1 413 "), "{heard}");
    let mut rest = Vec::new();
    io.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty(), "then the connection ends: the rest of the body is not a request");
}

#[tokio::test]
async fn websockets_pass_in_absolute_form() {
    let front = Front::access_point();
    let mut io = front.connect(false);
    io.write_all(get("/ws", "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n").as_bytes()).await.unwrap();
    let heard = hear(&mut io, "\r\n\r\n").await;
    assert!(
        heard.starts_with("HTTP/1.1 101 ")
            && heard.contains("Upgrade: websocket\r\n")
            && heard.contains("Connection: upgrade\r\n"),
        "{heard}"
    );
    io.write_all(b"\x81\x02hi").await.unwrap();
    let mut frame = [0; 4];
    io.read_exact(&mut frame).await.unwrap();
    assert_eq!(&frame, b"\x81\x02hi");
}

#[tokio::test]
async fn an_upgrade_that_nobody_asked_for_is_an_error_of_the_site() {
    let front = Front::access_point();
    let heard = front.say(&get("/ws", CLOSE)).await;
    assert!(heard.starts_with("HTTP/1.1 502 "), "{heard}");
}

#[tokio::test]
async fn what_may_be_said_twice_is_said_again_when_a_path_breaks() {
    let front = Front::access_point();
    front.origins.broken.store(2, Relaxed);
    let heard = front.say(&get("/again", CLOSE)).await;
    assert!(heard.contains("GET /again"), "{heard}");
    assert_eq!((front.origins.opened.load(Relaxed), front.counter("retried")), (3, 2));
    front.origins.broken.store(1, Relaxed);
    let heard =
        front.say(&format!("POST http://wiki.test/once HTTP/1.1\r\nHost: wiki.test\r\nContent-Length: 1\r\n{CLOSE}\r\nx")).await;
    assert!(heard.starts_with("HTTP/1.1 502 ") && heard.contains("connection_terminated"), "{heard}");
    assert_eq!(front.origins.opened.load(Relaxed), 4, "once only");
}

#[tokio::test]
async fn broken_answers_are_not_passed_off_as_whole() {
    let front = Front::access_point();
    let heard = front.say(&get("/nonsense", CLOSE)).await;
    assert!(heard.starts_with("HTTP/1.1 502 ") && heard.contains("connection_terminated"), "{heard}");
    let heard = front.say(&get("/cut", CLOSE)).await;
    assert!(heard.starts_with("HTTP/1.1 502 "), "nothing had left yet: {heard}");
    let heard = front.say(&(get("/cut-late", "") + &get("/next", CLOSE))).await;
    assert!(heard.ends_with("\r\n\r\nhalf"), "the connection ends where the answer broke: {heard}");
}

#[tokio::test]
async fn malformed_requests_are_refused_and_end_the_connection() {
    let front = Front::access_point();
    for text in [
        "GET http://wiki.test/ HTTP/1.1\r\n\r\n".to_owned(),
        "GET http://wiki.test/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_owned(),
        "GET https://wiki.test/ HTTP/1.1\r\nHost: wiki.test\r\n\r\n".to_owned(),
        get("/", "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"),
        get("/", "Transfer-Encoding: gzip\r\n"),
        "GET / HTTP/1.1\nHost: a\n\n".to_owned(),
        "\x16\x03\x01\0\n".to_owned(),
        get("/", "").replace("GET", "TRACE"),
    ] {
        let heard = front.say(&(text.clone() + &get("/smuggled", CLOSE))).await;
        assert!(heard.starts_with("HTTP/1.1 400 ") && heard.contains("error=http_request_error"), "{text:?}: {heard}");
        assert_eq!(heard.matches("HTTP/1.1 ").count(), 1, "{heard}");
    }
    let heard = front
        .say("POST http://wiki.test/ HTTP/1.1\r\nHost: wiki.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloXX\r\n")
        .await;
    assert!(heard.starts_with("HTTP/1.1 400 "), "{heard}");
    assert_eq!(front.counter("refused_malformed"), 9);
    assert!(front.told.0.lock().unwrap().iter().all(|t| t.contains("spiffe://o.test/user/ann at 127.0.0.1")));
}

#[tokio::test]
async fn loops_are_noticed() {
    let front = Front::access_point();
    let heard =
        front.say(&get("/", &format!("Via: 1.1 polder, 1.1 polder\r\nVia: 1.1 x, 2 polder\r\nVia: 1.1 polder\r\n{CLOSE}"))).await;
    assert!(heard.starts_with("HTTP/1.1 508 ") && heard.contains("proxy_loop_detected"), "{heard}");
}

#[tokio::test]
async fn people_see_a_page() {
    let front = Front::access_point();
    let heard =
        front.say(&format!("GET http://private.test/ HTTP/1.1\r\nHost: x\r\nAccept: text/html,*/*;q=0.8\r\n{CLOSE}\r\n")).await;
    assert!(
        heard.contains("content-type: text/html; charset=utf-8\r\n") && heard.contains("<h1>You may not read this site</h1>"),
        "{heard}"
    );
}

#[tokio::test]
async fn a_refusal_does_not_end_a_connection_without_need() {
    let front = Front::access_point();
    let denied = "GET http://private.test/ HTTP/1.1\r\nHost: x\r\n\r\n";
    let heard = front.say(&(denied.to_owned() + &get("/after", CLOSE))).await;
    assert!(heard.starts_with("HTTP/1.1 403 ") && heard.contains("GET /after"), "{heard}");
}

#[tokio::test]
async fn the_proxy_is_no_web_server() {
    let front = Front::access_point();
    for (path, status) in [("/", 421), ("/index.html", 421), ("/.well-known/polder", 404), ("/proxy.pac", 421)] {
        let heard = front.say(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{CLOSE}\r\n")).await;
        assert!(heard.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {heard}");
    }
    let heard = front.say(&format!("OPTIONS * HTTP/1.1\r\nHost: localhost\r\n{CLOSE}\r\n")).await;
    assert!(heard.starts_with("HTTP/1.1 421 "), "{heard}");
}

#[tokio::test]
async fn a_forwarder_serves_its_pac_to_loopback_names_only() {
    let front = Front::forwarder();
    for host in ["localhost", "127.0.0.1:8118", "[::1]:8118", "127.1.2.3"] {
        let heard = front.say(&format!("GET /proxy.pac HTTP/1.1\r\nHost: {host}\r\n{CLOSE}\r\n")).await;
        assert!(
            heard.contains("content-type: application/x-ns-proxy-autoconfig\r\n") && heard.ends_with("PROXY 127.0.0.1:1\"; }"),
            "{heard}"
        );
        assert!(!heard.to_lowercase().contains("access-control"), "{heard}");
    }
    for host in ["evil.test", "localhost.evil.test", "10.0.0.1", "wiki.test"] {
        let heard = front.say(&format!("GET /proxy.pac HTTP/1.1\r\nHost: {host}\r\n{CLOSE}\r\n")).await;
        assert!(heard.starts_with("HTTP/1.1 421 ") && !heard.contains("FindProxyForURL"), "a re-bound name: {host}: {heard}");
    }
    let heard = front.say(&format!("GET / HTTP/1.1\r\nHost: localhost\r\n{CLOSE}\r\n")).await;
    assert!(heard.contains("{\"polder\":\"forwarder\""), "{heard}");
    let heard = front.say(&format!("POST /proxy.pac HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n{CLOSE}\r\n")).await;
    assert!(heard.starts_with("HTTP/1.1 405 "), "{heard}");
}

#[tokio::test(start_paused = true)]
async fn slow_heads_slow_bodies_and_silent_origins_are_bounded() {
    let front = Front::access_point();
    let began = tokio::time::Instant::now();
    let heard = front.say("GET http://wiki.test/ HTTP/1.1\r\nHost: wi").await;
    assert_eq!(heard, "");
    assert_eq!((began.elapsed().as_secs(), front.counter("over_header_timeout")), (10, 1));

    let mut io = front.connect(false);
    io.write_all(b"POST http://wiki.test/b HTTP/1.1\r\nHost: wiki.test\r\nContent-Length: 100000\r\n\r\n").await.unwrap();
    let (mut read, mut write) = tokio::io::split(io);
    let drip = tokio::spawn(async move {
        while write.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    let mut heard = Vec::new();
    read.read_to_end(&mut heard).await.unwrap();
    drip.abort();
    assert!(String::from_utf8_lossy(&heard).starts_with("HTTP/1.1 400 "), "{}", String::from_utf8_lossy(&heard));
    assert_eq!(front.counter("over_body_rate"), 1);

    let began = tokio::time::Instant::now();
    let heard = front.say(&get("/late", CLOSE)).await;
    assert!(heard.starts_with("HTTP/1.1 504 ") && began.elapsed().as_secs() == 600, "{heard}");
}

#[tokio::test(start_paused = true)]
async fn idle_connections_and_tunnels_end() {
    let front = Front::access_point();
    let began = tokio::time::Instant::now();
    assert!(front.say(&get("/", "")).await.contains("GET /"));
    assert_eq!(began.elapsed().as_secs(), 60, "keep-alive");
    let began = tokio::time::Instant::now();
    let heard = front.say("CONNECT wiki.test:443 HTTP/1.1\r\nHost: wiki.test\r\n\r\n").await;
    assert!(heard.starts_with("HTTP/1.1 200 "));
    assert!((600..=1200).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    assert_eq!(front.counter("over_idle"), 1);
}

#[tokio::test]
async fn limits_per_identity_are_told_and_lifted() {
    let mut limits = limits();
    limits.tunnels_per_identity = 2;
    let front = Front::with(limits, None);
    let mut tunnels = Vec::new();
    for _ in 0..2 {
        let mut io = front.connect(false);
        io.write_all(b"CONNECT wiki.test:443 HTTP/1.1\r\nHost: wiki.test\r\n\r\n").await.unwrap();
        hear(&mut io, "\r\n\r\n").await;
        tunnels.push(io);
    }
    let third = "CONNECT wiki.test:443 HTTP/1.1\r\nHost: wiki.test\r\n\r\n";
    let heard = front.say(third).await;
    assert!(heard.starts_with("HTTP/1.1 429 ") && heard.contains("retry-after: "), "{heard}");
    assert_eq!(front.counter("over_tunnels"), 1);
    assert!(front.told.0.lock().unwrap()[0].contains("limits.tunnels_per_identity"));
    let mut one = tunnels.pop().unwrap();
    one.shutdown().await.unwrap();
    let mut rest = Vec::new();
    one.read_to_end(&mut rest).await.unwrap();
    drop(one);
    // The permit goes with the task, which ends after the client has seen the end.
    let mut io = loop {
        let mut io = front.connect(false);
        io.write_all(third.as_bytes()).await.unwrap();
        if hear(&mut io, "\r\n\r\n").await.starts_with("HTTP/1.1 200 ") {
            break io;
        }
    };
    io.write_all(b"x").await.unwrap();
}

#[tokio::test]
async fn draining_lets_requests_end_and_takes_no_more() {
    let front = Front::access_point();
    let mut io = front.connect(false);
    io.write_all(get("/one", "").as_bytes()).await.unwrap();
    hear(&mut io, "GET /one").await;
    front.ctx.drain();
    let mut rest = Vec::new();
    io.read_to_end(&mut rest).await.unwrap();
    let heard = front.say(&get("/two", "")).await;
    assert!(heard.is_empty() || heard.contains("Connection: close"), "{heard}");
}

#[tokio::test]
async fn a_client_that_leaves_frees_what_it_held() {
    let front = Front::access_point();
    let mut io = front.connect(false);
    io.write_all(get("/late", "").as_bytes()).await.unwrap();
    while front.ctx.tunnels_of("spiffe://o.test/user/ann") == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(io);
    while front.ctx.tunnels_of("spiffe://o.test/user/ann") > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn pipelined_requests_wait_their_turn() {
    let front = Front::access_point();
    let many: String = (0..300).map(|n| get(&format!("/{n}"), "")).collect();
    let heard = front.say(&(many + &get("/last", CLOSE))).await;
    let order: Vec<_> = heard.match_indices("GET /").map(|(at, _)| heard[at + 5..].split(' ').next().unwrap()).collect();
    assert_eq!(order.len(), 301);
    assert!(order.iter().take(300).enumerate().all(|(n, got)| *got == n.to_string()));
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_takes_nothing_is_cut_and_a_slow_one_is_not() {
    let front = Front::access_point();
    let began = tokio::time::Instant::now();
    let mut idle = front.connect(false);
    idle.write_all(get("/big", CLOSE).as_bytes()).await.unwrap();
    while front.counter("over_stall") == 0 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!((10..60).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());

    let mut slow = front.connect(false);
    slow.write_all(get("/big", CLOSE).as_bytes()).await.unwrap();
    let (mut heard, mut buffer) = (0, [0; 20_000]);
    while let Ok(n @ 1..) = slow.read(&mut buffer).await {
        heard += n;
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    assert!(heard > 1_000_000, "{heard}");
    assert_eq!(front.counter("over_stall"), 1);
}

/// Whose receivers have much to take opens few tunnels more: each would fetch as much again through links that all share.
#[tokio::test(start_paused = true)]
async fn who_leaves_much_waiting_opens_few_tunnels() {
    let mut limits = limits();
    (limits.stalled_per_identity, limits.tunnel_rate_per_identity) = (2, 20);
    let front = Front::with(limits, None);
    let mut waiting = Vec::new();
    let mut open = async || {
        let mut io = front.connect(false);
        io.write_all(b"CONNECT wiki.test:443 HTTP/1.1\r\nHost: wiki.test\r\n\r\n").await.unwrap();
        let answer = hear(&mut io, "\r\n\r\n").await;
        // What is sent comes back, and is not taken.
        waiting.push(tokio::spawn(async move { io.write_all(&[0; 1 << 20]).await }));
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        answer.starts_with("HTTP/1.1 200")
    };
    let mut opened = 0;
    while open().await {
        opened += 1;
    }
    assert!((3..=5).contains(&opened), "{opened} of a burst of 40");
    assert_eq!(front.counter("over_tunnel_rate"), 1);
}

/// Receivers that take nothing may hold windows of links that all share: a user has so many of them, and no more.
#[tokio::test(start_paused = true)]
async fn one_user_may_leave_so_many_receivers_waiting() {
    let mut limits = limits();
    limits.stalled_per_identity = 2;
    let front = Front::with(limits, None);
    let mut waiting = Vec::new();
    for _ in 0..3 {
        let mut io = front.connect(false);
        io.write_all(b"CONNECT wiki.test:443 HTTP/1.1\r\nHost: wiki.test\r\n\r\n").await.unwrap();
        hear(&mut io, "\r\n\r\n").await;
        // What is sent comes back, and is not taken.
        waiting.push(tokio::spawn(async move { io.write_all(&[0; 1 << 20]).await }));
    }
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    let cut = waiting.iter().filter(|task| task.is_finished()).count();
    assert_eq!((cut, front.counter("over_stalled_per_identity"), front.counter("tunnels_open")), (1, 1, 2));
}
