//! One request and its answer, in either version of HTTP.

use super::Config;
use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use http::{Method, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// Largest head of an answer.
const HEAD: usize = 16 * 1024;
/// HTTP/2 windows; what is measured is the server, so the client never makes it wait.
const WINDOW: u32 = 16 << 20;

/// A connection with its request, or one of an HTTP/2 connection's lanes.
pub(super) enum Session {
    /// HTTP/1.1: the stream, the request, and what has been read.
    One { stream: Box<TlsStream<TcpStream>>, request: Vec<u8>, buffer: Vec<u8> },
    /// HTTP/2.
    Two { send: SendRequest<Bytes>, request: Request<()> },
}

impl Session {
    /// Over HTTP/1.1.
    pub(super) fn one(stream: TlsStream<TcpStream>, config: &Config) -> Self {
        let Config { authority, path, .. } = config;
        let target = if config.absolute { format!("http://{authority}{path}") } else { path.clone() };
        let request = format!("GET {target} HTTP/1.1\r\nHost: {authority}\r\n\r\n").into_bytes();
        Session::One { stream: Box::new(stream), request, buffer: vec![0; 32 * 1024] }
    }

    /// Over HTTP/2; the connection runs in a task of its own.
    pub(super) async fn two(stream: TlsStream<TcpStream>, config: &Config) -> Result<Self, String> {
        let mut builder = Builder::new();
        builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW).enable_push(false);
        let (send, connection) = builder.handshake(stream).await.map_err(|error| format!("HTTP/2: {error}"))?;
        tokio::task::spawn_local(connection);
        let scheme = if config.absolute { "http" } else { "https" };
        let uri = format!("{scheme}://{}{}", config.authority, config.path);
        let request = Request::builder().method(Method::GET).uri(uri).body(()).map_err(|error| error.to_string())?;
        Ok(Session::Two { send, request })
    }

    /// `streams` lanes; HTTP/1.1 has one.
    pub(super) fn lanes(self, streams: usize) -> Vec<Session> {
        match &self {
            Session::One { .. } => vec![self],
            Session::Two { send, request } => {
                (0..streams).map(|_| Session::Two { send: send.clone(), request: request.clone() }).collect()
            }
        }
    }

    /// One GET to its last byte. Errors: words for people; the connection is of no more use.
    pub(super) async fn get(&mut self, size: u64) -> Result<(), String> {
        match self {
            Session::One { stream, request, buffer } => one(stream, request, buffer, size).await,
            Session::Two { send, request } => two(send, request, size).await,
        }
    }
}

async fn one(stream: &mut TlsStream<TcpStream>, request: &[u8], buffer: &mut [u8], size: u64) -> Result<(), String> {
    stream.write_all(request).await.map_err(|error| format!("write: {error}"))?;
    let mut have = 0;
    let head = loop {
        let end = buffer[..have].windows(4).position(|four| four == b"\r\n\r\n");
        match end {
            Some(end) => break end + 4,
            None if have >= HEAD => return Err("the answer's head does not end".into()),
            None => have += some(stream, &mut buffer[have..]).await?,
        }
    };
    judge(&buffer[..head], size)?;
    let mut left = size.checked_sub((have - head) as u64).ok_or("more came than was asked for")?;
    while left > 0 {
        let room = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        left -= some(stream, &mut buffer[..room]).await? as u64;
    }
    Ok(())
}

async fn some(stream: &mut TlsStream<TcpStream>, room: &mut [u8]) -> Result<usize, String> {
    match stream.read(room).await {
        Ok(0) => Err("the server hung up".into()),
        Ok(count) => Ok(count),
        Err(error) => Err(format!("read: {error}")),
    }
}

/// Whether a head says 200 and the right length.
fn judge(head: &[u8], size: u64) -> Result<(), String> {
    let text = String::from_utf8_lossy(head);
    let mut lines = text.split("\r\n");
    let status = lines.next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        return Err(format!("answered {status:?}"));
    }
    let fields = lines.filter_map(|line| line.split_once(':'));
    let length = fields
        .filter(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .map(|(_, value)| value.trim().parse::<u64>())
        .next();
    match length {
        Some(Ok(length)) if length == size => Ok(()),
        _ => Err(format!("expected {size} bytes: {text}")),
    }
}

async fn two(send: &mut SendRequest<Bytes>, request: &Request<()>, size: u64) -> Result<(), String> {
    let said = |error: h2::Error| format!("HTTP/2: {error}");
    std::future::poll_fn(|cx| send.poll_ready(cx)).await.map_err(said)?;
    let (answer, _) = send.send_request(request.clone(), true).map_err(said)?;
    let answer = answer.await.map_err(said)?;
    if answer.status() != 200 {
        return Err(format!("answered {}", answer.status()));
    }
    let mut body = answer.into_body();
    let mut left = size;
    while let Some(data) = body.data().await {
        let data = data.map_err(said)?;
        let _ = body.flow_control().release_capacity(data.len());
        left = left.checked_sub(data.len() as u64).ok_or("more came than was asked for")?;
    }
    if left == 0 { Ok(()) } else { Err(format!("{left} bytes did not come")) }
}

#[cfg(test)]
mod tests {
    use super::judge;

    #[test]
    fn only_the_file_itself_counts_as_an_answer() {
        assert_eq!(judge(b"HTTP/1.1 200 OK\r\nServer: x\r\ncontent-LENGTH: 1000\r\n\r\n", 1000), Ok(()));
        for other in [
            "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 1000\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
            "",
        ] {
            assert!(judge(other.as_bytes(), 1000).is_err(), "{other}");
        }
    }
}
