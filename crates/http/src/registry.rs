//! Live connections by identity, so that a revocation cuts them.

use polder_types::Identity;
use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinHandle};

type Table = Arc<Mutex<(u64, HashMap<u64, (Arc<Identity>, AbortHandle)>)>>;

/// Live connections.
#[derive(Default)]
pub struct Registry {
    table: Table,
}

struct Guard {
    table: Table,
    id: u64,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).1.remove(&self.id);
    }
}

impl Registry {
    /// Runs `work` as a task that ends when `identity` is cut. What the task owns is dropped then; its HTTP/2 streams fail.
    pub fn spawn(&self, identity: Arc<Identity>, work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        // The task waits for its own registration, so that it cannot end before it is listed.
        let (listed, wait) = oneshot::channel::<Guard>();
        let task = tokio::spawn(async move {
            let _guard = wait.await;
            work.await;
        });
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.0 += 1;
        let id = table.0;
        table.1.insert(id, (identity, task.abort_handle()));
        drop(table);
        let _ = listed.send(Guard { table: self.table.clone(), id });
        task
    }

    /// Ends every connection whose identity is `unworthy`; returns how many.
    pub fn cut(&self, unworthy: impl Fn(&Identity) -> bool) -> u64 {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let cut: Vec<_> = table.1.values().filter(|(who, _)| unworthy(who)).map(|(_, task)| task.clone()).collect();
        drop(table); // a task that ends at once takes itself out of the table
        cut.iter().for_each(AbortHandle::abort);
        cut.len() as u64
    }

    /// Live connections.
    pub fn len(&self) -> usize {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).1.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
