//! Traces: which way one tunnel's opening took, and where its time went.
//!
//! An access point or forwarder samples; the context travels with the tunnel's requests (`polder-trace` between nodes,
//! `traceparent`, W3C Trace Context, from forwarder to access point), and each process that traces tells its own part as
//! [`Event::Span`]. Nothing of it is ever in an answer: users and sites cannot get at spans. Whoever traces nothing passes
//! the context on.

use crate::plane::Plane;
use polder_types::Event;
use polder_wire::ProxyError;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Carries a context between nodes.
pub(crate) const FIELD: &str = "polder-trace";
/// Fields of W3C Trace Context and Baggage: how a user's programs and the site could find each other in other people's traces.
pub(crate) const FOREIGN: [&str; 3] = ["traceparent", "tracestate", "baggage"];

/// A sampled trace, and the span in it that asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// Names the trace; never 0.
    pub trace: u128,
    /// Names the span that becomes the parent; never 0.
    pub span: u64,
}

impl fmt::Display for Context {
    /// As between nodes: `TRACE-SPAN` in hexadecimal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}-{:016x}", self.trace, self.span)
    }
}

impl Context {
    /// Reads what [`fmt::Display`] writes; anything else is `None`.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let (trace, rest) = text.split_at_checked(32)?;
        let span = rest.strip_prefix(b"-").filter(|span| span.len() == 16)?;
        let trace = u128::from_str_radix(lower_hex(trace)?, 16).ok()?;
        let span = u64::from_str_radix(lower_hex(span)?, 16).ok()?;
        (trace != 0 && span != 0).then_some(Context { trace, span })
    }

    /// Reads a `traceparent` (W3C Trace Context §3.2); `None` if it is malformed or says "not sampled".
    pub fn of_traceparent(text: &[u8]) -> Option<Self> {
        let (version, rest) = text.split_at_checked(2)?;
        let rest = rest.strip_prefix(b"-").filter(|_| version != b"ff" && lower_hex(version).is_some())?;
        let (context, rest) = rest.split_at_checked(49)?;
        let (flags, more) = rest.strip_prefix(b"-")?.split_at_checked(2)?;
        // Later versions may add fields behind; this one must not.
        if !more.is_empty() && (version == b"00" || more[0] != b'-') {
            return None;
        }
        let sampled = u8::from_str_radix(lower_hex(flags)?, 16).ok()? & 1 == 1;
        Context::parse(context).filter(|_| sampled)
    }

    /// As `traceparent`, version 00, sampled.
    pub fn traceparent(&self) -> String {
        format!("00-{self}-01")
    }
}

fn lower_hex(text: &[u8]) -> Option<&str> {
    let good = text.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    std::str::from_utf8(text).ok().filter(|_| good)
}

/// A part of a trace; told when it is dropped, also when its work is given up in the middle.
pub(crate) struct Span<'a> {
    plane: &'a Plane,
    context: Context,
    parent: u64,
    name: &'static str,
    stage: String,
    error: &'static str,
    began: Instant,
    at: SystemTime,
}

impl<'a> Span<'a> {
    fn new(plane: &'a Plane, trace: u128, parent: u64, name: &'static str, stage: String) -> Self {
        let context = Context { trace, span: chance() };
        // Until something else is said: whoever waited for it does no longer.
        let error = "given_up";
        Span { plane, context, parent, name, stage, error, began: Instant::now(), at: SystemTime::now() }
    }

    /// What its children are told.
    pub(crate) fn context(&self) -> Context {
        self.context
    }

    /// How it went; it is told at once.
    pub(crate) fn end(mut self, error: Option<ProxyError>) {
        self.error = error.map_or("", ProxyError::token);
    }
}

impl Drop for Span<'_> {
    fn drop(&mut self) {
        let micros = |time: std::time::Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let event = Event::Span {
            trace: format!("{:032x}", self.context.trace),
            span: format!("{:016x}", self.context.span),
            parent: if self.parent == 0 { String::new() } else { format!("{:016x}", self.parent) },
            name: self.name.to_owned(),
            stage: std::mem::take(&mut self.stage),
            error: self.error.to_owned(),
            began_us: self.at.duration_since(UNIX_EPOCH).map_or(0, micros),
            took_us: micros(self.began.elapsed()),
        };
        if self.plane.offer(event) {
            self.plane.counters.spans.up();
        } else {
            self.plane.counters.spans_lost.up();
        }
    }
}

impl Plane {
    /// Begins a trace, or joins the one that a client brought, as the settings say.
    pub(crate) fn root(&self, brought: Option<Context>, name: &'static str) -> Option<Span<'_>> {
        let world = self.world()?;
        let tracing = world.plan.tracing.as_ref()?;
        match brought.filter(|_| tracing.honour) {
            Some(parent) => Some(Span::new(self, parent.trace, parent.span, name, String::new())),
            None if chance() % 1_000_000 < u64::from(tracing.sample_ppm) => {
                let trace = u128::from(chance()) << 64 | u128::from(chance());
                Some(Span::new(self, trace, 0, name, String::new()))
            }
            None => None,
        }
    }

    /// A part of the trace that `parent` belongs to, if this process traces.
    pub(crate) fn span(&self, parent: Option<Context>, name: &'static str, stage: impl ToString) -> Option<Span<'_>> {
        let parent = parent?;
        self.world()?.plan.tracing.as_ref()?;
        Some(Span::new(self, parent.trace, parent.span, name, stage.to_string()))
    }
}

/// 64 random bits, not 0. Not secret: each hasher has fresh keys.
fn chance() -> u64 {
    RandomState::new().hash_one(0u8).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_traceparent_is_read_strictly() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let context = Context::of_traceparent(good.as_bytes()).unwrap();
        assert_eq!(context.traceparent(), good);
        assert_eq!(Context::of_traceparent(good.replacen("00", "cc", 1).as_bytes()), Some(context), "a later version");
        assert_eq!(Context::of_traceparent(format!("{}-more", good.replacen("00", "01", 1)).as_bytes()), Some(context));
        for bad in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", // not sampled
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01x",
        ] {
            assert_eq!(Context::of_traceparent(bad.as_bytes()), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_context_survives_the_wire(trace in 1u128.., span in 1u64..) {
            let context = Context { trace, span };
            prop_assert_eq!(Context::parse(context.to_string().as_bytes()), Some(context));
            prop_assert_eq!(Context::of_traceparent(context.traceparent().as_bytes()), Some(context));
        }

        #[test]
        fn junk_is_none_or_comes_back_as_it_was(text in "[0-9a-f-]{0,60}") {
            if let Some(context) = Context::parse(text.as_bytes()) {
                prop_assert_eq!(context.to_string(), text);
            }
        }

        #[test]
        fn any_bytes_are_read_without_harm(text in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = (Context::parse(&text), Context::of_traceparent(&text));
        }
    }
}
