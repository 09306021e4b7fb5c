//! What a user's forwarder says at the head of a stream of the spread plane, and what the servlet answers.
//!
//! ```text
//! version 1 = 1 | flags 1 (1: a trace follows) | port 2 | length of host 1 | host | [trace 16 | span 8]
//! answer 1: 0 the site is reached, its bytes follow; else why not
//! ```

use crate::ProxyError;

const VERSION: u8 = 1;
const TRACED: u8 = 1;
/// Bytes before the host.
pub const FIXED: usize = 5;
const TRACE: usize = 24;
/// Most bytes of an opening.
pub const MOST: usize = FIXED + 255 + TRACE;

/// Where a stream is to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// Host, lower case.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Trace and parent span, neither 0.
    pub trace: Option<(u128, u64)>,
}

impl Opening {
    /// As bytes; `None` when the host is no name of 1 to 253 characters.
    pub fn encode(&self) -> Option<Vec<u8>> {
        if !is_host(self.host.as_bytes()) {
            return None;
        }
        let length = u8::try_from(self.host.len()).ok()?;
        let [high, low] = self.port.to_be_bytes();
        let mut out = vec![VERSION, if self.trace.is_some() { TRACED } else { 0 }, high, low, length];
        out.extend(self.host.as_bytes());
        if let Some((trace, span)) = self.trace {
            out.extend(trace.to_be_bytes());
            out.extend(span.to_be_bytes());
        }
        Some(out)
    }

    /// Bytes of the whole, once its first [`FIXED`] are there; `None`: of no version known here.
    pub fn length(fixed: &[u8; FIXED]) -> Option<usize> {
        let [version, flags, _, _, host] = *fixed;
        let good = version == VERSION && flags <= TRACED;
        good.then(|| FIXED + usize::from(host) + if flags == TRACED { TRACE } else { 0 })
    }

    /// Reads exactly one; `None` when it is none.
    pub fn decode(bytes: &[u8]) -> Option<Opening> {
        let fixed = bytes.first_chunk::<FIXED>()?;
        if Opening::length(fixed)? != bytes.len() {
            return None;
        }
        let (host, trace) = bytes[FIXED..].split_at_checked(usize::from(fixed[4]))?;
        if !is_host(host) {
            return None;
        }
        let trace = match trace {
            [] => None,
            trace => {
                let (trace, span) = (trace.first_chunk::<16>()?, trace.last_chunk::<8>()?);
                let (trace, span) = (u128::from_be_bytes(*trace), u64::from_be_bytes(*span));
                Some((trace, span)).filter(|_| trace != 0 && span != 0)
            }
        };
        let host = String::from_utf8(host.to_vec()).ok()?;
        Some(Opening { host, port: u16::from_be_bytes([fixed[2], fixed[3]]), trace })
    }
}

/// A DNS name or an address in lower case, without what could be taken for syntax elsewhere.
fn is_host(host: &[u8]) -> bool {
    let good = |b: &u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b':' | b'[' | b']');
    (1..=253).contains(&host.len()) && host.iter().all(good)
}

const ERRORS: [ProxyError; 10] = [
    ProxyError::Denied,
    ProxyError::Prohibited,
    ProxyError::Unavailable,
    ProxyError::Refused,
    ProxyError::Timeout,
    ProxyError::Terminated,
    ProxyError::Malformed,
    ProxyError::Limit,
    ProxyError::Loop,
    ProxyError::Internal,
];

/// The byte that answers an opening.
pub fn answer(outcome: Result<(), ProxyError>) -> u8 {
    let place = |error| ERRORS.iter().position(|known| *known == error).unwrap_or(ERRORS.len() - 1);
    outcome.map_or_else(|error| u8::try_from(place(error) + 1).unwrap_or(u8::MAX), |()| 0)
}

/// What the byte says. What is not known yet counts as an error of ours.
pub fn read_answer(byte: u8) -> Result<(), ProxyError> {
    match usize::from(byte) {
        0 => Ok(()),
        number => Err(ERRORS.get(number - 1).copied().unwrap_or(ProxyError::Internal)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn openings_come_back(
            host in "[a-z0-9._:-]{1,253}", port in any::<u16>(),
            trace in prop::option::of((1u128.., 1u64..)), cut in any::<prop::sample::Index>(),
        ) {
            let opening = Opening { host, port, trace };
            let bytes = opening.encode().unwrap();
            prop_assert_eq!(Opening::length(bytes.first_chunk().unwrap()), Some(bytes.len()));
            prop_assert!(bytes.len() <= MOST);
            prop_assert_eq!(Opening::decode(&bytes), Some(opening));
            prop_assert_eq!(Opening::decode(&bytes[..cut.index(bytes.len())]), None);
        }

        #[test]
        fn one_opening_has_one_spelling(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Some(opening) = Opening::decode(&bytes) {
                let again = opening.encode().unwrap();
                // A trace of zeros counts as none, as everywhere else.
                prop_assert!(again == bytes || opening.trace.is_none());
            }
        }
    }

    #[test]
    fn answers_keep_their_meaning() {
        assert_eq!(read_answer(answer(Ok(()))), Ok(()));
        for error in ERRORS {
            assert_eq!(read_answer(answer(Err(error))), Err(error));
        }
        assert_eq!(read_answer(200), Err(ProxyError::Internal));
    }

    #[test]
    fn hosts_are_names_only() {
        for host in ["", "A.example", "a b", "a\r\nb", "a/b", "\u{e9}"] {
            assert_eq!(Opening { host: host.into(), port: 1, trace: None }.encode(), None, "{host:?}");
        }
    }
}
