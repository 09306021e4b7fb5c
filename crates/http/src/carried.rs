//! Site role: streams that are open now, by the servlet that they came over.
//!
//! A servlet is known by its node name (dial-out) or its inner address (GRE). The agent keeps a dismissed servlet for as long
//! as it carries, and cuts what a burned one carries at once.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Streams by servlet.
#[derive(Default)]
pub struct Carried {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    open: HashMap<Arc<str>, Entry>,
    cut: HashSet<Arc<str>>,
}

struct Entry {
    streams: u64,
    cut: watch::Sender<bool>,
}

impl Carried {
    /// Counts one stream over `servlet`; `None` when its streams are cut.
    pub(crate) fn hold(&self, servlet: &str) -> Option<Held<'_>> {
        let mut table = self.table();
        if table.cut.contains(servlet) {
            return None;
        }
        let servlet: Arc<str> = servlet.into();
        let entry = table.open.entry(servlet.clone()).or_insert_with(|| Entry { streams: 0, cut: watch::Sender::new(false) });
        entry.streams += 1;
        let cut = entry.cut.subscribe();
        Some(Held { all: self, servlet, cut })
    }

    /// Ends the streams of exactly those servlets, and takes no new ones from them.
    pub fn cut(&self, servlets: &[Arc<str>]) {
        let mut table = self.table();
        table.cut = servlets.iter().cloned().collect();
        for servlet in servlets {
            if let Some(entry) = table.open.get(servlet) {
                entry.cut.send_replace(true);
            }
        }
    }

    /// Streams open now by servlet.
    pub fn streams(&self) -> BTreeMap<String, u64> {
        self.table().open.iter().map(|(servlet, entry)| (servlet.to_string(), entry.streams)).collect()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One open stream.
pub(crate) struct Held<'a> {
    all: &'a Carried,
    servlet: Arc<str>,
    cut: watch::Receiver<bool>,
}

impl Held<'_> {
    /// Does `work` unless the servlet is cut meanwhile; what `work` owns is dropped then, which resets its connections.
    pub(crate) async fn carry<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut cut = self.cut.clone();
        tokio::select! {
            biased;
            _ = cut.wait_for(|cut| *cut) => None,
            done = work => Some(done),
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut table = self.all.table();
        if let Some(entry) = table.open.get_mut(&self.servlet) {
            entry.streams -= 1;
            if entry.streams == 0 {
                table.open.remove(&self.servlet);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_counted_by_servlet_and_cut_by_servlet() {
        let carried = Carried::default();
        let (one, two, other) = (carried.hold("n1"), carried.hold("n1"), carried.hold("n2"));
        assert_eq!(carried.streams(), BTreeMap::from([("n1".into(), 2), ("n2".into(), 1)]));
        carried.cut(&["n1".into()]);
        assert!(carried.hold("n1").is_none(), "nothing new over a servlet that is cut");
        let done = |held: &Held<'_>| {
            let work = held.carry(std::future::ready(7));
            tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
        };
        assert_eq!((done(one.as_ref().unwrap()), done(other.as_ref().unwrap())), (None, Some(7)));
        drop((one, two, other));
        assert!(carried.streams().is_empty());
        carried.cut(&[]);
        assert_eq!(done(&carried.hold("n1").unwrap()), Some(7), "drawn again it starts afresh");
    }
}
