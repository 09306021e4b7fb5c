//! Fuzz targets. Each takes any bytes and panics when its first line does not hold.
//!
//! `cargo run -p polder-fuzz --bin run` mutates the seeds of `fuzz/corpus` on a stable toolchain for a bounded time;
//! `fuzz/libfuzzer` wraps the same targets for `cargo fuzz`, which needs a nightly toolchain and is better at finding news.

mod front;
mod http1;
mod schema;
mod spread;

use polder_types::{Identity, Kind};
use polder_wire::FrameCounter;
use polder_wire::gre;
use polder_wire::proxy2::{self, Proxy2};
use polder_wire::word::{SealedWord, UserWord};

/// Takes any bytes; panics when what must hold does not.
pub type Target = fn(&[u8]);

/// Name and function of each target.
pub const TARGETS: [(&str, Target); 18] = [
    ("http1-request", http1::request),
    ("http1-response", http1::response),
    ("body", http1::body),
    ("problem", problem),
    ("snapshot", schema::snapshot),
    ("event", schema::event),
    ("config", schema::config),
    ("gre", gre_header),
    ("proxy2", proxy2_header),
    ("word", word),
    ("certificate", certificate),
    ("frames", frames),
    ("hello", hello),
    ("front", front::h1),
    ("front-h2", front::h2),
    ("spread", spread::packet),
    ("opening", spread::opening),
    ("detour", spread::detour),
];

/// Whatever a Proxy-Status field or an Accept field holds, reading it ends, and what we write ourselves is read back.
fn problem(data: &[u8]) {
    let error = polder_wire::parse_proxy_status(data).unwrap_or(polder_wire::ProxyError::Internal);
    assert_eq!(polder_wire::parse_proxy_status(polder_wire::proxy_status(error).as_bytes()), Some(error));
    let detail = String::from_utf8_lossy(data).into_owned();
    let refusal = polder_wire::Refusal { error, detail: detail.into() };
    let page = polder_wire::Problem::new(&refusal, Some(data), 1);
    let inside = page.body.split_once("<main>").map_or("", |(_, main)| main);
    assert!(!inside.to_lowercase().contains("<script"), "what a client sent must not become markup");
    assert!(!page.body.contains('\0') || page.content_type.starts_with("text/html"));
}

/// A header that decodes is, byte for byte, the one that would be written; the rest of the codec never panics.
fn gre_header(data: &[u8]) {
    let mut packet = data.to_vec();
    if let Ok((key, inside)) = gre::decode(&mut packet) {
        let written = gre::encode(key, inside);
        assert_eq!(written.as_ref().map(|header| header.as_slice()), Ok(&data[..gre::GRE_HEADER]));
        assert!(gre::endpoints(inside).is_some());
    }
    let mut packet = data.to_vec();
    if let Ok(inside) = gre::strip_ipv4(&mut packet) {
        assert!(inside.len() + 20 <= data.len());
    }
    let mut packet = data.to_vec();
    if gre::clamp_mss(&mut packet, 1400) {
        assert_eq!(packet.len(), data.len());
        assert!(!gre::clamp_mss(&mut packet, 1400), "once is enough");
    } else {
        assert_eq!(packet, data, "what is not clamped is not touched");
    }
}

/// A header that decodes would be written so that it is read the same; a longer input changes nothing.
fn proxy2_header(data: &[u8]) {
    if let Ok(Some((header, length))) = Proxy2::decode(data) {
        assert!(length <= data.len() && header.tlvs.iter().all(|(kind, _)| *kind != proxy2::CRC32C));
        assert_eq!(Proxy2::decode(&data[..length]), Ok(Some((header.clone(), length))));
        let written = header.encode().expect("what was read fits");
        assert_eq!(Proxy2::decode(&written), Ok(Some((header, written.len()))));
    }
}

/// The text of a word has one spelling; what it holds may be anything and is read without harm.
fn word(data: &[u8]) {
    if let Some(sealed) = std::str::from_utf8(data).ok().and_then(SealedWord::from_text) {
        assert_eq!(sealed.to_text().as_bytes(), data);
        let _ = UserWord::decode(&sealed.message);
    }
    if let Some(word) = UserWord::decode(data) {
        assert_eq!(UserWord::decode(&word.encode().expect("what was read fits")), Some(word));
    }
}

/// A certificate is read before its chain is verified: whoever it names has a name that may be, and a node a ring id.
fn certificate(data: &[u8]) {
    if let Ok(identity) = polder_tls::read_leaf(data, "o.test", 1_800_000_000) {
        let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
        assert!((1..=63).contains(&identity.name.len()) && identity.name.bytes().all(good));
        assert_eq!(Identity::parse_uri(&identity.uri, "o.test"), Ok((identity.kind, &*identity.name)));
        assert!(identity.kind != Kind::Node || identity.ring_id.is_some());
        assert!(identity.kind == Kind::User || identity.groups.is_empty());
    }
    if let Ok((_, name)) = std::str::from_utf8(data).map_or(Err(()), |text| Identity::parse_uri(text, "o.test").map_err(drop)) {
        assert!((1..=63).contains(&name.len()));
    }
}

/// However an HTTP/2 stream is cut, as many frames are counted.
fn frames(data: &[u8]) {
    let whole = FrameCounter::default().count(data);
    let mut drip = FrameCounter::default();
    assert_eq!(data.iter().map(|byte| drip.count(&[*byte])).sum::<u32>(), whole);
    assert!(whole as usize * 9 <= data.len());
}

/// A stranger's first flight: rustls takes it or refuses it, and never asks for more than a handshake may be.
fn hello(data: &[u8]) {
    let mut acceptor = rustls::server::Acceptor::default();
    let mut rest = data;
    while !rest.is_empty() {
        match acceptor.read_tls(&mut rest) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                assert!(hello.server_name().is_none_or(|name| name.len() <= 253));
                assert!(hello.alpn().is_none_or(|names| names.map(<[u8]>::len).sum::<usize>() <= data.len()));
                return;
            }
            Err(_) => return,
        }
    }
}

/// Seeds of a target: the files of its corpus; the proxy starts from requests.
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let folders: &[&str] = match target {
        "front" => &["front", "http1-request"],
        name => &[name],
    };
    let files = folders.iter().filter_map(|folder| std::fs::read_dir(corpus.join(folder)).ok()).flatten().flatten();
    let mut paths: Vec<_> = files.map(|file| file.path()).collect();
    paths.sort();
    paths.iter().filter_map(|path| std::fs::read(path).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seeds, among them every input that once failed, hold.
    #[test]
    fn seeds_hold() {
        for (name, target) in TARGETS {
            let seeds = seeds(name);
            assert!(seeds.len() > 1, "{name} has no seeds");
            seeds.iter().for_each(|seed| target(seed));
        }
    }

    /// Else a target could hold because nothing gets past its first check.
    #[test]
    fn seeds_get_far() {
        let decodes = |name: &str, good: fn(&[u8]) -> bool| seeds(name).iter().any(|seed| good(seed));
        assert!(decodes("snapshot", |s| polder_types::decode::<polder_types::Snapshot>(s)
            .is_ok_and(|s| polder_plan::Plan::compile(&s, "me").is_ok())));
        assert!(decodes("event", |s| polder_types::decode::<polder_types::Event>(s).is_ok()));
        assert!(decodes("config", |s| polder_types::decode::<polder_types::EngineConfig>(s).is_ok()));
        assert!(decodes("gre", |s| gre::decode(&mut s.to_vec()).is_ok()));
        assert!(decodes("proxy2", |s| matches!(Proxy2::decode(s), Ok(Some(_)))));
        assert!(decodes("certificate", |s| polder_tls::read_leaf(s, "o.test", 1_800_000_000).is_ok()));
        assert!(decodes("frames", |s| FrameCounter::default().count(s) > 2));
        assert!(decodes("word", |s| UserWord::decode(s).is_some()));
        assert!(decodes("word", |s| std::str::from_utf8(s).is_ok_and(|s| SealedWord::from_text(s).is_some())));
    }
}
