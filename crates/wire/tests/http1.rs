//! The HTTP/1 parser against corpora and against itself in pieces.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::*;
use http::Method;
use proptest::prelude::*;
use std::path::PathBuf;

#[test]
fn the_corpus_of_requests_is_judged_as_its_names_say() {
    let corpus = corpus("http1-request");
    assert!(corpus.len() > 100);
    for (name, bytes) in &corpus {
        let seen = requests(&[bytes]);
        assert_eq!(seen.end.is_ok(), name.starts_with("ok-"), "{name}: {seen:?}");
        assert_eq!(requests(&byte_at_a_time(bytes)), seen, "{name}, byte at a time");
    }
}

#[test]
fn the_corpus_of_responses_is_judged_as_its_names_say() {
    for (name, bytes) in &corpus("http1-response") {
        let seen = responses(&[bytes], &Method::GET);
        assert_eq!(seen.end.is_ok(), name.starts_with("ok-"), "{name}: {seen:?}");
        let pieces = responses(&byte_at_a_time(bytes), &Method::GET);
        assert_eq!(pieces, seen, "{name}, byte at a time");
    }
}

#[test]
fn an_answer_to_head_has_no_body() {
    let bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nHTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n";
    let seen = responses(&[bytes], &Method::HEAD);
    assert_eq!((seen.messages.len(), seen.end), (2, Ok(())));
    assert!(seen.messages.iter().all(|(_, body)| body.is_empty()));
}

/// gunicorn's corpus, when it is at hand (`POLDER_DATA`): raw requests that a server must accept or refuse. Polder is
/// stricter: what it refuses of the valid ones is listed with the reason.
#[test]
fn gunicorns_corpus() {
    const STRICTER: [(&str, &str); 21] = [
        ("002", "Host with `=`"),
        ("003", "Host with `=`"),
        ("005", "a fragment in the target"),
        ("025", "coding other than chunked"),
        ("025_line", "coding other than chunked"),
        ("028", "white space before the colon"),
        ("029", "coding other than chunked"),
        ("030", "coding other than chunked"),
        ("031compat", "method in lower case"),
        ("031compat2", "method in lower case"),
        ("040", "framing with an underscore"),
        ("040_compat", "framing with an underscore"),
        ("024", "a head longer than 16 KiB"),
        ("rfc9112_leading_crlf_01", "an empty line before the request"),
        ("rfc9112_smuggle_gzip_chunked_01", "coding other than chunked"),
        ("rfc9112_smuggle_te_identity_chunked_01", "coding other than chunked"),
        ("rfc9112_target_absolute_https_01", "https in absolute form"),
        ("rfc9112_target_absolute_userinfo_01", "user information"),
        ("compat_obs_fold", "folded line"),
        ("compat_obs_fold_huge", "folded line"),
        ("099", "a body shorter than its Content-Length in this copy"),
    ];
    const LAXER: [(&str, &str); 7] = [
        ("006", "a target of 4 KiB"),
        ("007", "a field of 8 KiB"),
        ("008", "a field of 8 KiB"),
        ("010", "a head of many bytes, by a setting of gunicorn's test"),
        ("017", "a long field, by a setting of gunicorn's test"),
        ("019", "X-Forwarded fields that disagree: they are stripped"),
        ("limit_header_default_01", "a field of 8 KiB"),
    ];
    let Some(data) = std::env::var_os("POLDER_DATA").map(PathBuf::from) else { return };
    let folder = data.join("http1/gunicorn");
    let mut wrong = Vec::new();
    for (name, text) in files(&folder.join("invalid")) {
        // Those about the PROXY protocol are refused as requests, too.
        let bytes = with_host(&unescape(&text));
        let seen = requests(&[&bytes]);
        if seen.end.is_err() == LAXER.iter().any(|(n, _)| *n == name) {
            wrong.push(format!("invalid/{name}: {:?}", seen.end));
        }
    }
    for (name, text) in files(&folder.join("valid")) {
        if name.starts_with("pp_") && name != "pp_03" {
            continue; // PROXY protocol before the request: another protocol
        }
        // In 020 the second request is the body of the first: its length must not change.
        let bytes = if name == "020" { unescape(&text) } else { with_host(&unescape(&text)) };
        let seen = requests(&[&bytes]);
        let stricter = STRICTER.iter().any(|(n, _)| *n == name);
        if seen.end.is_err() != stricter {
            wrong.push(format!("valid/{name}: {:?}", seen.end));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// In these files line ends are dropped, then `\r`, `\n`, `\0`, `\t` and `\xHH` are escapes.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text.iter().copied().filter(|b| *b != b'\n').peekable();
    while let Some(b) = rest.next() {
        let escape = if b == b'\\' { rest.peek().copied() } else { None };
        match escape {
            Some(b'r') => out.push(b'\r'),
            Some(b'n') => out.push(b'\n'),
            Some(b't') => out.push(b'\t'),
            Some(b'0') => out.push(0),
            Some(b'x') => {
                rest.next();
                let digits: String = rest.by_ref().take(2).map(char::from).collect();
                out.push(u8::from_str_radix(&digits, 16).unwrap());
                continue;
            }
            _ => {
                out.push(b);
                continue;
            }
        }
        rest.next();
    }
    out
}

/// Many of the files have no Host, which alone would refuse them: each HTTP/1.1 head gets one.
fn with_host(bytes: &[u8]) -> Vec<u8> {
    let text: Vec<u8> = bytes.to_vec();
    let lower = text.to_ascii_lowercase();
    if lower.windows(6).any(|w| w == b"\nhost:") {
        return text;
    }
    let marker = b" HTTP/1.1\r\n";
    let mut out = Vec::new();
    let mut at = 0;
    while let Some(found) = text[at..].windows(marker.len()).position(|w| w == marker) {
        let end = at + found + marker.len();
        out.extend_from_slice(&text[at..end]);
        out.extend_from_slice(b"Host: a.example\r\n");
        at = end;
    }
    out.extend_from_slice(&text[at..]);
    out
}

/// Words that parsers stumble over, so that random joins of them get far.
fn words() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        prop::sample::select(vec![
            "GET ",
            "POST ",
            "CONNECT ",
            "OPTIONS ",
            "/ ",
            "* ",
            "http://a.example/ ",
            "a.example:443 ",
            "HTTP/1.1\r\n",
            "HTTP/1.0\r\n",
            "Host: a.example\r\n",
            "Content-Length: 3\r\n",
            "Content-Length: 0\r\n",
            "Transfer-Encoding: chunked\r\n",
            "\r\n",
            "\n",
            "\r",
            "abc",
            "3\r\nabc\r\n",
            "0\r\n\r\n",
            "5;x=y\r\n",
            "X: y\r\n",
            " ",
            "\t",
            ":",
            "Connection: close\r\n",
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.1 100 \r\n",
            "HTTP/1.1 101 \r\n",
            "HTTP/1.1 304 \r\n",
            "Content_Length: 1\r\n",
        ])
        .prop_map(|s| s.as_bytes().to_vec()),
        prop::sample::select(vec![
            &b"GET / HTTP/1.1\r\nHost: a.example\r\n"[..],
            b"POST http://a.example/x HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
        ])
        .prop_map(<[u8]>::to_vec),
        prop::collection::vec(any::<u8>(), 0..4),
    ];
    prop::collection::vec(word, 0..16).prop_map(|words| words.concat())
}

fn cut<'a>(bytes: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut at: Vec<usize> = cuts.iter().map(|i| i.index(bytes.len() + 1)).collect();
    at.sort_unstable();
    let mut pieces = Vec::new();
    let mut start = 0;
    for end in at.into_iter().chain([bytes.len()]) {
        pieces.push(&bytes[start..end]);
        start = end;
    }
    pieces
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// However bytes are cut, the same is read; and nothing panics.
    #[test]
    fn requests_do_not_depend_on_how_they_arrive(bytes in words(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8)) {
        let whole = requests(&[&bytes]);
        prop_assert_eq!(&requests(&cut(&bytes, &cuts)), &whole);
        prop_assert_eq!(&requests(&byte_at_a_time(&bytes)), &whole);
    }

    #[test]
    fn responses_do_not_depend_on_how_they_arrive(bytes in words(), head in any::<bool>(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8)) {
        let method = if head { Method::HEAD } else { Method::GET };
        let whole = responses(&[&bytes], &method);
        prop_assert_eq!(&responses(&cut(&bytes, &cuts), &method), &whole);
        prop_assert_eq!(&responses(&byte_at_a_time(&bytes), &method), &whole);
    }

    /// What is accepted is what a stricter, slower reading accepts: one Host, one framing, no odd octet.
    #[test]
    fn accepted_heads_are_unambiguous(bytes in words()) {
        let mut buffer = bytes::BytesMut::from(bytes.as_slice());
        let before = buffer.len();
        if let Ok(Some(head)) = polder_wire::http1::RequestReader::default().next(&mut buffer) {
            let block = &bytes[..before - buffer.len()];
            let text = String::from_utf8_lossy(block).to_ascii_lowercase();
            prop_assert!(text.ends_with("\r\n\r\n") && !text.replace("\r\n", "").contains(['\r', '\n', '\0']));
            let count = |name: &str| text.matches(&format!("\n{name}:")).count();
            prop_assert!(count("host") <= 1 && count("content-length") + count("transfer-encoding") <= 1);
            prop_assert!(head.fields.len() <= 100 && block.len() <= 16384);
            for (name, value) in head.fields.iter() {
                prop_assert!(!name.is_empty() && !name.contains(|c: char| !c.is_ascii_graphic() || c == ':'));
                prop_assert!(value.trim_ascii() == value);
            }
        }
    }

    /// A body that Polder frames is the body that it reads.
    #[test]
    fn chunks_round_trip(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..6)) {
        let mut bytes = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for part in &parts {
            bytes.extend_from_slice(&polder_wire::http1::chunk_head(part.len()));
            bytes.extend_from_slice(part);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(polder_wire::http1::LAST_CHUNK);
        let seen = requests(&[&bytes]);
        prop_assert_eq!(seen.end, Ok(()));
        prop_assert_eq!(&seen.messages[0].1, &parts.concat());
    }

    /// Reading without a copy (`direct`) reads the same.
    #[test]
    fn direct_reading_reads_the_same(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..50), 0..6), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8)) {
        use polder_wire::http1::{BodyLength, BodyReader, Piece};
        let mut bytes = Vec::new();
        for part in &parts {
            bytes.extend_from_slice(&[&polder_wire::http1::chunk_head(part.len())[..], part, b"\r\n"].concat());
        }
        bytes.extend_from_slice(b"0\r\n\r\nnext");
        let mut reader = BodyReader::new(BodyLength::Chunked);
        let (mut buffer, mut body, mut ended) = (bytes::BytesMut::new(), Vec::new(), false);
        for piece in cut(&bytes, &cuts) {
            let mut piece = bytes::Bytes::copy_from_slice(piece);
            if buffer.is_empty() && !ended {
                body.extend_from_slice(&reader.direct(&mut piece));
            }
            buffer.extend_from_slice(&piece);
            while !ended {
                match reader.next(&mut buffer).unwrap() {
                    Piece::Data(data) => body.extend_from_slice(&data),
                    Piece::End => ended = true,
                    Piece::More => break,
                }
            }
        }
        prop_assert!(ended && reader.complete_at_eof());
        prop_assert_eq!(body, parts.concat());
        prop_assert_eq!(&buffer[..], b"next");
    }
}
