//! Who may go where.

use crate::{Plan, SitePlan};
use polder_types::{Identity, Kind, Rule};
use std::sync::Arc;

/// Why a request is not carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// No site registered this name and port.
    Unregistered,
    /// The revocation list in force is too old to trust it.
    Stale,
    /// The site's rules do not admit this user.
    Rules,
    /// Only users ask for sites.
    Kind,
}

impl Plan {
    /// Whether the revocation list is fresh enough for new work. `now` in Unix seconds.
    pub fn is_fresh(&self, now: i64) -> bool {
        self.fresh_until.is_none_or(|until| now <= until)
    }

    /// The site that `host:port` belongs to; nothing else decides where a request goes.
    pub fn find(&self, host: &str, port: u16) -> Option<&Arc<SitePlan>> {
        self.hosts.get(host).filter(|site| site.ports.contains(&port))
    }

    /// Whether `who` may be carried to `host:port`; `host` in lower case. Cheapest check first; default deny.
    pub fn admit(&self, who: &Identity, host: &str, port: u16, now: i64) -> Result<&Arc<SitePlan>, Denied> {
        let site = self.find(host, port).ok_or(Denied::Unregistered)?;
        if who.kind != Kind::User {
            return Err(Denied::Kind);
        }
        if !self.is_fresh(now) {
            return Err(Denied::Stale);
        }
        if site.admits(who) { Ok(site) } else { Err(Denied::Rules) }
    }
}

impl SitePlan {
    /// The rules alone: `deny` wins over `allow`; neither means no.
    pub fn admits(&self, who: &Identity) -> bool {
        let names = |rule: &Rule| match rule {
            Rule::User(name) => *name == who.name,
            Rule::Group(group) => who.groups.contains(group),
            Rule::Anyone => true,
        };
        !self.deny.iter().any(names) && self.allow.iter().any(names)
    }

    /// Whether this port may be asked for.
    pub fn has_port(&self, port: u16) -> bool {
        self.ports.contains(&port)
    }
}
