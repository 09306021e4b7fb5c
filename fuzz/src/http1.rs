//! The HTTP/1 parsers.

use bytes::{Bytes, BytesMut};
use http::Method;
use polder_wire::http1::{BodyLength, BodyReader, HttpError, Piece, RequestReader, RequestTarget, ResponseReader};

/// Messages as (start, body) and how it ended: equal however the bytes arrive.
#[derive(Debug, PartialEq)]
struct Seen {
    messages: Vec<(String, Vec<u8>)>,
    end: Option<HttpError>,
}

type Head = Option<(String, BodyLength, bool)>;

fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>, mut next: impl FnMut(&mut BytesMut) -> Result<Head, HttpError>) -> Seen {
    let mut buffer = BytesMut::new();
    let mut seen = Seen { messages: Vec::new(), end: None };
    let mut body: Option<BodyReader> = None;
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            let step = match body.as_mut() {
                Some(reader) => match reader.next(&mut buffer) {
                    Ok(Piece::More) => break,
                    Ok(Piece::End) => {
                        body = None;
                        Ok(())
                    }
                    Ok(Piece::Data(data)) => {
                        assert!(!data.is_empty(), "an empty piece would be taken for the end");
                        if let Some((_, body)) = seen.messages.last_mut() {
                            body.extend_from_slice(&data);
                        }
                        Ok(())
                    }
                    Err(error) => Err(error),
                },
                None => match next(&mut buffer) {
                    Ok(None) => break,
                    Ok(Some((head, length, switches))) => {
                        seen.messages.push((head, Vec::new()));
                        if switches {
                            return seen;
                        }
                        body = Some(BodyReader::new(length));
                        Ok(())
                    }
                    Err(error) => Err(error),
                },
            };
            if let Err(error) = step {
                seen.end = Some(error);
                return seen;
            }
        }
    }
    seen
}

/// Whole, byte at a time and cut in the middle, a request stream reads the same; what is accepted is unambiguous.
pub(crate) fn request(data: &[u8]) {
    let seen = || {
        let mut reader = RequestReader::default();
        move |buffer: &mut BytesMut| {
            let before = buffer.clone();
            let Some(head) = reader.next(buffer)? else { return Ok(None) };
            let block = &before[..before.len() - buffer.len()];
            let text = String::from_utf8_lossy(block).to_ascii_lowercase();
            assert!(!text.replace("\r\n", "").contains(['\r', '\n', '\0']), "odd octets in {text:?}");
            let count = |name: &str| text.matches(&format!("\n{name}:")).count();
            assert!(count("host") <= 1 && count("content-length") + count("transfer-encoding") <= 1, "{text:?}");
            if let RequestTarget::Absolute { path, .. } = &head.target {
                assert!(path.starts_with(b"/") || (path.as_ref() == b"*" && head.method == Method::OPTIONS));
            }
            let fields: Vec<_> = head.fields.iter().collect();
            let text = format!("{} {:?} {:?} {fields:?}", head.method, head.target, head.host);
            Ok(Some((text, head.length, head.method == Method::CONNECT)))
        }
    };
    compare(data, seen);
}

/// The same for answers, to GET and to HEAD.
pub(crate) fn response(data: &[u8]) {
    for method in [Method::GET, Method::HEAD] {
        let seen = || {
            let (mut reader, method) = (ResponseReader::default(), method.clone());
            move |buffer: &mut BytesMut| {
                let Some(head) = reader.next(buffer, &method)? else { return Ok(None) };
                assert!((100..600).contains(&head.status));
                assert!(!head.persists() || head.length != BodyLength::UntilClose);
                let fields: Vec<_> = head.fields.iter().collect();
                Ok(Some((format!("{} {fields:?}", head.status), head.length, head.status == 101)))
            }
        };
        compare(data, seen);
    }
}

fn compare<F: FnMut(&mut BytesMut) -> Result<Head, HttpError>>(data: &[u8], reader: impl Fn() -> F) {
    let whole = read([data].into_iter(), reader());
    assert_eq!(read(data.chunks(1), reader()), whole);
    let (left, right) = data.split_at(data.len() / 2);
    assert_eq!(read([left, right].into_iter(), reader()), whole);
}

/// A chunked body read through a buffer and read without a copy is the same body.
pub(crate) fn body(data: &[u8]) {
    let mut buffered = BodyReader::new(BodyLength::Chunked);
    let mut buffer = BytesMut::from(data);
    let mut content = Vec::new();
    let end = loop {
        match buffered.next(&mut buffer) {
            Ok(Piece::Data(data)) => content.extend_from_slice(&data),
            other => break other,
        }
    };
    let mut direct = BodyReader::new(BodyLength::Chunked);
    let (mut rest, mut copied) = (BytesMut::new(), Vec::new());
    let mut last = Ok(Piece::More);
    for piece in data.chunks(7) {
        let mut piece = Bytes::copy_from_slice(piece);
        if rest.is_empty() && last == Ok(Piece::More) {
            copied.extend_from_slice(&direct.direct(&mut piece));
        }
        rest.extend_from_slice(&piece);
        while last == Ok(Piece::More) {
            match direct.next(&mut rest) {
                Ok(Piece::Data(data)) => copied.extend_from_slice(&data),
                Ok(Piece::More) => break,
                other => last = other,
            }
        }
    }
    assert_eq!((last, copied), (end, content));
}
