//! Site role: reads access points' words about users, and makes what the origin is told.
//!
//! A word counts once. What is counted is the answer: hops may have to carry a tunnel a second way before the first has
//! answered, and then the same word arrives again. It may arrive [`PRESENTED`] times, and only one of those tunnels ever
//! gets a byte from the origin; from then on the word is spent.

use crate::plane::{Plane, World, unix_millis};
use polder_tls::{BadWord, Unsealer};
use polder_types::{Identity, Kind, Told};
use polder_wire::proxy2::{self, Proxy2};
use polder_wire::word::{SealedWord, UserWord};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// How often one word may arrive before it is answered.
const PRESENTED: u32 = 4;
/// Sessions in all, and of one access point: an hour's, with room for restarts.
const SESSIONS: (usize, usize) = (4096, 16);
/// Words of one session that are remembered at once: within the window of time, more than a node opens tunnels.
const REMEMBERED: usize = 1 << 16;

/// Why a tunnel has no user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Untold {
    /// There is no word.
    #[error(
        "a tunnel came without a word about its user: its access point or servlet is older than the site's wish, or hides it"
    )]
    Missing,
    /// It cannot be opened, or its session is nobody's.
    #[error(transparent)]
    Bad(#[from] BadWord),
    /// It is about another tunnel.
    #[error("a word about a user is meant for another host or port")]
    Elsewhere,
    /// Too old or too young.
    #[error("a word about a user is too old or from the future: look at the clocks of nodes and site")]
    Stale,
    /// It has been answered, or has come too often.
    #[error("a word about a user has come before: a servlet repeats it")]
    Replayed,
    /// More sessions or words than are kept.
    #[error("more words about users come than can be remembered")]
    Limit,
}

/// What has been heard.
pub(crate) struct Hearing {
    /// Unix milliseconds: older words may have been heard by a process before this one.
    born: i64,
    sessions: Mutex<HashMap<Vec<u8>, Session>>,
}

struct Session {
    unsealer: Arc<Unsealer>,
    heard: HashMap<u64, Heard>,
    swept: i64,
}

struct Heard {
    at: i64,
    times: u32,
    /// Which of them was answered; 0: none yet.
    answered: Arc<AtomicU32>,
}

impl Default for Hearing {
    fn default() -> Self {
        Hearing { born: unix_millis(), sessions: Mutex::default() }
    }
}

impl Hearing {
    /// Reads the word of a tunnel to our own `site`.
    pub(crate) fn hear(&self, world: &World, told: &Told, text: Option<&str>) -> Result<TunnelUser, Untold> {
        let sealed = SealedWord::from_text(text.ok_or(Untold::Missing)?).ok_or(BadWord::Sealed)?;
        let now = unix_millis();
        let unsealer = self.session(world, told, &sealed.session, now)?;
        if world.tls.is_revoked(&unsealer.node) || unsealer.node.not_after < now / 1000 {
            return Err(BadWord::Signer.into());
        }
        let plain = unsealer.open(sealed.number, &sealed.message)?;
        let word = UserWord::decode(&plain).ok_or(BadWord::Sealed)?;
        let window = i64::from(told.window) * 1000;
        if (now - word.at).abs() > window || word.at < self.born {
            return Err(Untold::Stale);
        }
        let domain = world.tls.trust_domain();
        let (kind, name) = Identity::parse_uri(&word.user, domain).map_err(|_| BadWord::Signer)?;
        if kind != Kind::User {
            return Err(BadWord::Signer.into());
        }
        let name = name.to_owned();
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let session = sessions.get_mut(&sealed.session).ok_or(Untold::Limit)?;
        let (answered, turn) = session.remember(sealed.number, word.at, now, window)?;
        Ok(TunnelUser { name, word, answered, turn })
    }

    /// The session that `opening` opens, opened once.
    fn session(&self, world: &World, told: &Told, opening: &[u8], now: i64) -> Result<Arc<Unsealer>, Untold> {
        let known = |sessions: &HashMap<Vec<u8>, Session>| sessions.get(opening).map(|session| session.unsealer.clone());
        let now = now / 1000;
        let held = known(&self.sessions.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(held) = held {
            return if held.not_after >= now { Ok(held) } else { Err(BadWord::Time.into()) };
        }
        let site = &world.tls.me().name;
        let unsealer = Arc::new(world.tls.open_session(site, (&told.seal_secret, &told.seal_public), opening, now)?);
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        // Two tunnels may have opened it at once.
        if let Some(held) = known(&sessions) {
            return Ok(held);
        }
        sessions.retain(|_, session| session.unsealer.not_after >= now);
        let of_node = sessions.values().filter(|session| session.unsealer.node.uri == unsealer.node.uri).count();
        if sessions.len() >= SESSIONS.0 || of_node >= SESSIONS.1 {
            return Err(Untold::Limit);
        }
        sessions.insert(opening.to_vec(), Session { unsealer: unsealer.clone(), heard: HashMap::new(), swept: now });
        Ok(unsealer)
    }
}

impl Session {
    /// Counts one arrival of word `number`, said `at`.
    fn remember(&mut self, number: u64, at: i64, now: i64, window: i64) -> Result<(Arc<AtomicU32>, u32), Untold> {
        if self.heard.len() >= REMEMBERED || now - self.swept > window {
            // What is older than the window is refused for its age.
            self.heard.retain(|_, heard| heard.at + window >= now);
            self.swept = now;
        }
        if self.heard.len() >= REMEMBERED {
            return Err(Untold::Limit);
        }
        let heard = self.heard.entry(number).or_insert_with(|| Heard { at, times: 0, answered: Arc::default() });
        heard.times += 1;
        if heard.times > PRESENTED || heard.answered.load(Relaxed) != 0 {
            return Err(Untold::Replayed);
        }
        Ok((heard.answered.clone(), heard.times))
    }
}

/// The user of one tunnel.
#[derive(Clone, Debug)]
pub(crate) struct TunnelUser {
    /// Last segment of the SPIFFE id.
    pub(crate) name: String,
    pub(crate) word: UserWord,
    answered: Arc<AtomicU32>,
    turn: u32,
}

impl TunnelUser {
    /// To be asked at the first byte of an answer: whether this tunnel is the one that the word was good for.
    pub(crate) fn spend(&self) -> impl FnOnce() -> bool + Send + 'static {
        let (answered, turn) = (self.answered.clone(), self.turn);
        move || answered.compare_exchange(0, turn, Relaxed, Relaxed).map_or_else(|by| by == turn, |_| true)
    }

    /// The PROXY header for the origin. A user whose address is not known gets one that is always the same and nobody else's.
    pub(crate) fn proxy2(&self, told: &Told) -> Option<Vec<u8>> {
        let port = self.word.port;
        let source = self.word.address.unwrap_or_else(|| IpAddr::V6(pseudonym(told, &self.word.user)));
        let to = if source.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
        let groups = self.word.groups.join(",");
        let tlvs = [
            (proxy2::AUTHORITY, self.word.host.as_bytes()),
            (proxy2::USER, self.word.user.as_bytes()),
            (proxy2::GROUPS, groups.as_bytes()),
        ];
        let tlvs = tlvs.into_iter().map(|(kind, value)| (kind, value.to_vec())).collect();
        Proxy2 { addresses: Some((SocketAddr::new(source, 0), SocketAddr::new(to, port))), tlvs }.encode()
    }
}

/// A unique local address (RFC 4193): a prefix of the site's own and a number of the user's.
fn pseudonym(told: &Told, user: &str) -> Ipv6Addr {
    let prefix = polder_tls::pseudonym(&told.seal_secret, b"prefix");
    let mut bytes = polder_tls::pseudonym(&told.seal_secret, user.as_bytes());
    bytes[0] = 0xfd;
    bytes[1..8].copy_from_slice(&prefix[1..8]);
    bytes.into()
}

/// Counts and tells why a tunnel has no user.
pub(crate) fn refuse(plane: &Plane, why: Untold) {
    let counter = if why == Untold::Missing { &plane.counters.words_missing } else { &plane.counters.words_refused };
    counter.up();
    plane.refused("user", why.to_string(), "", None);
}
