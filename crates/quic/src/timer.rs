//! When each session wants to be looked at again.

use polder_spread::Micros;
use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use tokio::sync::Notify;

/// Deadlines by session.
#[derive(Debug, Default)]
pub(crate) struct Timer {
    state: Mutex<State>,
    /// Told when the first deadline has come nearer.
    pub(crate) sooner: Notify,
}

#[derive(Debug, Default)]
struct State {
    order: BTreeSet<(Micros, SocketAddr)>,
    due: HashMap<SocketAddr, Micros>,
}

impl Timer {
    /// Sets or clears a session's deadline.
    pub(crate) fn set(&self, who: SocketAddr, when: Option<Micros>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.due.get(&who).copied() == when {
            return;
        }
        let first = state.order.first().map(|(due, _)| *due);
        if let Some(old) = state.due.remove(&who) {
            state.order.remove(&(old, who));
        }
        if let Some(when) = when {
            state.due.insert(who, when);
            state.order.insert((when, who));
            if first.is_none_or(|first| when < first) {
                self.sooner.notify_one();
            }
        }
    }

    /// The first deadline.
    pub(crate) fn first(&self) -> Option<Micros> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).order.first().map(|(due, _)| *due)
    }

    /// Takes out who is due at `now`.
    pub(crate) fn due(&self, now: Micros) -> Vec<SocketAddr> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out = Vec::new();
        while let Some((when, who)) = state.order.first().copied().filter(|(when, _)| *when <= now) {
            state.order.remove(&(when, who));
            state.due.remove(&who);
            out.push(who);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_come_in_order_and_once() {
        let timer = Timer::default();
        let who = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        for (port, due) in [(1, 30), (2, 10), (3, 20), (1, 5), (2, 40)] {
            timer.set(who(port), Some(Micros(due)));
        }
        timer.set(who(3), None);
        assert_eq!((timer.first(), timer.due(Micros(4))), (Some(Micros(5)), vec![]));
        assert_eq!((timer.due(Micros(100)), timer.first()), (vec![who(1), who(2)], None));
    }
}
