//! What a process remembers of the paths to each site: how often it may still try again, and who refused lately.

use polder_flow::{Millis, RetryBudget};
use polder_types::{Limits, PeerName, SiteName};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Who refused is asked after the others for so long.
const SHUNNED: Millis = 3000;
/// Peers remembered per site.
const MOST: usize = 32;
/// A site that nobody wanted for so long is forgotten: its budget has filled by then.
const UNUSED: Millis = 60_000;

/// By site. A forwarder, which knows no sites, keeps its only entry under an empty name.
#[derive(Default)]
pub(crate) struct Paths {
    sites: Mutex<HashMap<SiteName, Memory>>,
}

struct Memory {
    budget: RetryBudget,
    shunned: Vec<(PeerName, Millis)>,
    used: Millis,
}

impl Paths {
    /// A tunnel to `site` is wanted.
    pub(crate) fn wanted(&self, site: &SiteName, limits: &Limits, now: Millis) {
        let mut sites = self.lock();
        let memory = sites.entry(site.clone()).or_insert_with(|| Memory {
            budget: RetryBudget::full(limits.retry_burst, now),
            shunned: Vec::new(),
            used: now,
        });
        memory.used = now;
        memory.budget.work(limits.retry_percent, limits.retry_burst);
    }

    /// Whether a path to `site` may be tried beside or after one that did not answer well.
    pub(crate) fn may_try_again(&self, site: &SiteName, limits: &Limits, now: Millis) -> bool {
        self.lock().get_mut(site).is_none_or(|memory| memory.budget.take(limits.retry_burst, now))
    }

    /// `peer` could not carry to `site`.
    pub(crate) fn shun(&self, site: &SiteName, peer: &PeerName, now: Millis) {
        if let Some(memory) = self.lock().get_mut(site) {
            memory.shunned.retain(|(name, at)| name != peer && now < at + SHUNNED);
            memory.shunned.truncate(MOST - 1);
            memory.shunned.push((peer.clone(), now));
        }
    }

    /// `peer` carries to `site`.
    pub(crate) fn trust(&self, site: &SiteName, peer: &PeerName) {
        if let Some(memory) = self.lock().get_mut(site) {
            memory.shunned.retain(|(name, _)| name != peer);
        }
    }

    /// Who refused to carry to `site` lately.
    pub(crate) fn shunned(&self, site: &SiteName, now: Millis) -> Vec<PeerName> {
        let sites = self.lock();
        let shunned = sites.get(site).map(|memory| memory.shunned.as_slice()).unwrap_or_default();
        shunned.iter().filter(|(_, at)| now < at + SHUNNED).map(|(name, _)| name.clone()).collect()
    }

    /// Forgets sites that nobody wants.
    pub(crate) fn forget(&self, now: Millis) {
        self.lock().retain(|_, memory| now < memory.used + UNUSED);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SiteName, Memory>> {
        self.sites.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_refused_is_shunned_for_a_while_and_not_for_other_sites() {
        let (paths, a, b) = (Paths::default(), SiteName::from("a"), SiteName::from("b"));
        let limits = Limits::default();
        paths.wanted(&a, &limits, 0);
        paths.wanted(&b, &limits, 0);
        paths.shun(&a, &"n1".into(), 10);
        paths.shun(&a, &"n2".into(), 20);
        assert_eq!(paths.shunned(&a, 100), vec![PeerName::from("n1"), "n2".into()]);
        assert!(paths.shunned(&b, 100).is_empty());
        paths.trust(&a, &"n1".into());
        assert_eq!(paths.shunned(&a, 100), vec![PeerName::from("n2")]);
        assert!(paths.shunned(&a, 20 + SHUNNED).is_empty());
    }

    #[test]
    fn a_dead_site_uses_up_its_own_budget_only() {
        let (paths, dead, alive) = (Paths::default(), SiteName::from("dead"), SiteName::from("alive"));
        let limits = Limits::default();
        paths.wanted(&dead, &limits, 0);
        paths.wanted(&alive, &limits, 0);
        let granted = (0..1000).filter(|_| paths.may_try_again(&dead, &limits, 0)).count();
        assert_eq!(granted, 50);
        assert!(paths.may_try_again(&alive, &limits, 0));
        paths.forget(UNUSED);
        assert!(paths.lock().is_empty());
    }
}
