//! Live connections by identity, so that a revocation cuts them.
//!
//! A connection is believed for as long as the newest certificate that its holder has shown here since: whoever renews and
//! comes again, with the same key and the same groups, proves that he is still wanted, and his older connections stay, past
//! the end of the certificate that they were opened with and past the retirement of its issuer.

use polder_types::Identity;
use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinHandle};

/// Who holds connections: identity, key, groups. Other groups are other rights, which old connections must not inherit.
type Holder = (Arc<str>, [u8; 32], Vec<Arc<str>>);

#[derive(Default)]
struct Table {
    numbers: u64,
    live: HashMap<u64, (Arc<Identity>, AbortHandle)>,
    /// The latest to end of a holder's certificates, and the number of his live connections.
    holders: HashMap<Holder, (Arc<Identity>, usize)>,
}

/// Live connections.
#[derive(Default)]
pub struct Registry {
    table: Arc<Mutex<Table>>,
}

struct Guard {
    table: Arc<Mutex<Table>>,
    id: u64,
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

fn holder(identity: &Identity) -> Holder {
    (identity.uri.clone(), identity.key_hash, identity.groups.clone())
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut table = lock(&self.table);
        let Some((identity, _)) = table.live.remove(&self.id) else { return };
        let key = holder(&identity);
        if let Some((_, count)) = table.holders.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                table.holders.remove(&key);
            }
        }
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
        let mut table = lock(&self.table);
        table.numbers += 1;
        let id = table.numbers;
        let (latest, count) = table.holders.entry(holder(&identity)).or_insert_with(|| (identity.clone(), 0));
        if identity.not_after > latest.not_after {
            *latest = identity.clone();
        }
        *count += 1;
        table.live.insert(id, (identity, task.abort_handle()));
        drop(table);
        let _ = listed.send(Guard { table: self.table.clone(), id });
        task
    }

    /// Ends every connection that is `unworthy`, judged by the latest identity that its holder has shown; `told` hears each such
    /// identity once, before its connections end. Returns how many ended.
    pub fn cut(&self, unworthy: impl Fn(&Identity) -> bool, told: impl Fn(&Identity)) -> u64 {
        let table = lock(&self.table);
        let mut cut = Vec::new();
        let mut who = HashMap::new();
        for (identity, task) in table.live.values() {
            if unworthy(table.holders.get(&holder(identity)).map_or(identity, |(latest, _)| latest)) {
                cut.push(task.clone());
                who.insert(identity.uri.clone(), identity.clone());
            }
        }
        drop(table); // a task that ends at once takes itself out of the table
        who.values().for_each(|identity| told(identity));
        cut.iter().for_each(AbortHandle::abort);
        cut.len() as u64
    }

    /// Live connections.
    pub fn len(&self) -> usize {
        lock(&self.table).live.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use polder_types::Kind;
    use std::cell::RefCell;
    use std::future::pending;

    fn ann(not_after: i64, groups: &[&str], key: u8) -> Arc<Identity> {
        by(None, not_after, groups, key)
    }

    fn by(issuer: Option<[u8; 32]>, not_after: i64, groups: &[&str], key: u8) -> Arc<Identity> {
        Arc::new(Identity {
            kind: Kind::User,
            name: "ann".into(),
            uri: "spiffe://o.test/user/ann".into(),
            ring_id: None,
            groups: groups.iter().map(|group| (*group).into()).collect(),
            key_hash: [key; 32],
            not_after,
            issuer,
        })
    }

    #[tokio::test]
    async fn a_renewed_holder_keeps_older_connections() {
        let registry = Registry::default();
        let old = registry.spawn(ann(100, &["staff"], 1), pending());
        let expired = |now: i64| move |latest: &Identity| latest.not_after < now;
        assert_eq!(registry.cut(expired(100), |_| {}), 0);
        let new = registry.spawn(ann(200, &["staff"], 1), pending());
        assert_eq!(registry.cut(expired(150), |_| {}), 0, "the newer handshake speaks for the older connection");
        new.abort();
        assert!(new.await.unwrap_err().is_cancelled());
        assert_eq!(registry.cut(expired(150), |_| {}), 0, "also when that connection has ended");
        assert_eq!(registry.cut(expired(201), |_| {}), 1);
        assert!(old.await.unwrap_err().is_cancelled());
        assert!(registry.is_empty() && lock(&registry.table).holders.is_empty());
    }

    #[tokio::test]
    async fn other_groups_or_another_key_extend_nothing() {
        let registry = Registry::default();
        let _old = registry.spawn(ann(100, &["staff", "root"], 1), pending());
        let _fewer = registry.spawn(ann(200, &["staff"], 1), pending());
        let _other = registry.spawn(ann(200, &["staff", "root"], 2), pending());
        let told = RefCell::new(Vec::new());
        assert_eq!(registry.cut(|latest| latest.not_after < 150, |who| told.borrow_mut().push(who.not_after)), 1);
        assert_eq!(*told.borrow(), [100]);
        tokio::task::yield_now().await;
        assert_eq!(registry.cut(|_| true, |_| {}), 2);
    }

    #[tokio::test]
    async fn a_holder_whose_certificate_came_anew_outlives_his_former_issuer() {
        let (registry, retired) = (Registry::default(), [7; 32]);
        let revoked = |latest: &Identity| latest.issuer == Some(retired);
        let _moved = registry.spawn(by(Some(retired), 100, &["staff"], 1), pending());
        let _again = registry.spawn(by(Some([8; 32]), 200, &["staff"], 1), pending());
        let _stays = registry.spawn(by(Some(retired), 100, &["staff"], 2), pending());
        assert_eq!(registry.cut(revoked, |_| {}), 1, "only whoever has nothing of the new issuer");
        tokio::task::yield_now().await;
        assert_eq!(registry.len(), 2);
        let _stolen = registry.spawn(by(Some(retired), 300, &["staff"], 1), pending());
        assert_eq!(registry.cut(revoked, |_| {}), 3, "a later word of the retired issuer counts against its holder");
    }
}
