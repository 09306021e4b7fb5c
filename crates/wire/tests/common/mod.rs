//! Reads whole conversations, in pieces of any size.
#![allow(dead_code, missing_docs, clippy::unwrap_used)]

use bytes::BytesMut;
use http::Method;
use polder_wire::http1::*;
use std::path::{Path, PathBuf};

/// What a reader saw: each message's start and body, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub messages: Vec<(String, Vec<u8>)>,
    pub end: Result<(), HttpError>,
}

pub fn requests(pieces: &[&[u8]]) -> Seen {
    let mut reader = RequestReader::default();
    read(pieces, move |buffer| {
        Ok(reader.next(buffer)?.map(|head| {
            let fields: Vec<_> = head.fields.iter().collect();
            (
                format!("{} {:?} {:?} {:?} {fields:?}", head.method, head.target, head.version, head.host),
                head.length,
                head.method == Method::CONNECT,
            )
        }))
    })
}

pub fn responses(pieces: &[&[u8]], method: &Method) -> Seen {
    let mut reader = ResponseReader::default();
    read(pieces, move |buffer| {
        Ok(reader.next(buffer, method)?.map(|head| {
            let fields: Vec<_> = head.fields.iter().collect();
            (format!("{} {:?} {fields:?}", head.status, head.version), head.length, head.status == 101)
        }))
    })
}

type Head = Option<(String, BodyLength, bool)>;

fn read(pieces: &[&[u8]], mut next: impl FnMut(&mut BytesMut) -> Result<Head, HttpError>) -> Seen {
    let mut buffer = BytesMut::new();
    let mut messages: Vec<(String, Vec<u8>)> = Vec::new();
    let mut body: Option<BodyReader> = None;
    let mut tunnel = false;
    for piece in pieces {
        buffer.extend_from_slice(piece);
        let step = loop {
            if tunnel {
                break Ok(()); // what follows is not HTTP
            }
            match body.as_mut().map(|reader| reader.next(&mut buffer)) {
                Some(Err(e)) => break Err(e),
                Some(Ok(Piece::More)) => break Ok(()),
                Some(Ok(Piece::Data(data))) => messages.last_mut().unwrap().1.extend_from_slice(&data),
                Some(Ok(Piece::End)) => body = None,
                None => match next(&mut buffer) {
                    Err(e) => break Err(e),
                    Ok(None) => break Ok(()),
                    Ok(Some((head, length, switches))) => {
                        messages.push((head, Vec::new()));
                        body = Some(BodyReader::new(length));
                        tunnel = switches;
                    }
                },
            }
        };
        if let Err(e) = step {
            return Seen { messages, end: Err(e) };
        }
    }
    let whole = tunnel || body.as_ref().map_or(buffer.is_empty(), BodyReader::complete_at_eof);
    Seen { messages, end: if whole { Ok(()) } else { Err(HttpError::Truncated) } }
}

pub fn byte_at_a_time(bytes: &[u8]) -> Vec<&[u8]> {
    bytes.chunks(1).collect()
}

pub fn corpus(name: &str) -> Vec<(String, Vec<u8>)> {
    files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name))
}

pub fn files(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
    let mut files: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "http"))
        .map(|path: PathBuf| (path.file_stem().unwrap().to_string_lossy().into_owned(), std::fs::read(&path).unwrap()))
        .collect();
    files.sort();
    files
}
