//! Where a tunnel goes next.

use crate::SitePlan;
use polder_types::{Limits, PathMode, Peer};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// What the tunnel has reached: at each stage another role's table decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// At the access point, from a user.
    Entry,
    /// On the ring, towards the owner of this beacon key.
    Ring(u8),
    /// At a beacon.
    Beacon,
    /// At a servlet.
    Servlet,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stage::Entry => f.write_str("entry"),
            Stage::Ring(key) => write!(f, "ring;k={key}"),
            Stage::Beacon => f.write_str("beacon"),
            Stage::Servlet => f.write_str("servlet"),
        }
    }
}

impl FromStr for Stage {
    type Err = ();

    /// Parses what a peer may say: never `entry`, which only a user's own request has.
    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "beacon" => Ok(Stage::Beacon),
            "servlet" => Ok(Stage::Servlet),
            _ => {
                let key = text.strip_prefix("ring;k=").ok_or(())?;
                let plain = key.bytes().all(|c| c.is_ascii_digit()) && (key == "0" || !key.starts_with('0'));
                if plain { key.parse().map(Stage::Ring).map_err(|_| ()) } else { Err(()) }
            }
        }
    }
}

/// One candidate for the next step.
#[derive(Clone, Debug)]
pub enum Hop {
    /// Out of the overlay, to the site.
    Deliver,
    /// To another node.
    Next(Arc<Peer>, Stage),
}

impl SitePlan {
    /// The candidates for the next step from here, best first, without repetitions. `from` is the node that asks; `spread`
    /// turns the order of beacon keys in mode `ring`, so that one key's owner does not carry everything.
    ///
    /// WebSOS §III decides: am I a servlet, am I a beacon, else go on. That makes a node quicker for the sites it serves,
    /// and any user can measure it. So a node passes over itself while another can play the role (`docs/design/masking.md`):
    /// a tunnel then crosses as many nodes wherever it begins. With `shortcuts` the paper's order holds.
    pub fn route(&self, stage: Stage, spread: usize, from: Option<&str>) -> Vec<Hop> {
        let mut hops = Vec::with_capacity(4);
        let delivers = self.delivery.is_some();
        if delivers && (self.shortcuts || stage == Stage::Servlet) {
            hops.push(Hop::Deliver);
        }
        if stage == Stage::Servlet {
            return hops;
        }
        if self.shortcuts || stage != Stage::Entry {
            self.to_servlets(&mut hops);
        }
        match stage {
            Stage::Entry => self.enter(&mut hops, spread),
            Stage::Ring(key) => self.along(&mut hops, key),
            Stage::Beacon | Stage::Servlet => {}
        }
        if !self.shortcuts {
            self.to_servlets(&mut hops);
            // Back through the asker is a path of two nodes where others have three.
            hops.sort_by_key(|hop| matches!(hop, Hop::Next(peer, _) if from == Some(&*peer.name)));
            if delivers {
                hops.push(Hop::Deliver);
            }
        }
        hops
    }

    /// How long an opener at `stage` may wait: `open_timeout_ms` for each leg of the way that is left. On the ring that is
    /// as many as ½·log2 of a thousand nodes; further hops take their time from those that answer sooner.
    pub fn patience(&self, stage: Stage, limits: &Limits) -> Duration {
        let legs = match (stage, self.mode) {
            (Stage::Servlet, _) => 1,
            (Stage::Beacon, _) => 2,
            (Stage::Entry, PathMode::Beacon | PathMode::Direct) => 3,
            (Stage::Ring(_), _) => 6,
            (Stage::Entry, PathMode::Ring) => 7,
        };
        legs * Duration::from_millis(u64::from(limits.open_timeout_ms))
    }

    fn to_servlets(&self, hops: &mut Vec<Hop>) {
        add(hops, self.beacon.as_deref().unwrap_or_default(), Stage::Servlet);
    }

    fn enter(&self, hops: &mut Vec<Hop>, spread: usize) {
        match self.mode {
            PathMode::Ring => {
                for step in 0..self.ring.len() {
                    self.along(hops, self.ring[(spread + step) % self.ring.len()].key);
                }
            }
            PathMode::Beacon => add(hops, &self.beacons, Stage::Beacon),
            PathMode::Direct => {
                add(hops, &self.servlets, Stage::Servlet);
                self.to_servlets(hops); // what others ask a beacon for, this node may know
                add(hops, &self.beacons, Stage::Beacon);
            }
        }
    }

    fn along(&self, hops: &mut Vec<Hop>, key: u8) {
        if let Some(route) = self.ring.iter().find(|route| route.key == key && !route.owner) {
            add(hops, &route.hops, Stage::Ring(key));
        }
    }
}

/// Appends peers that are not there yet at the same stage.
fn add(hops: &mut Vec<Hop>, peers: &[Arc<Peer>], stage: Stage) {
    for peer in peers {
        let there = hops.iter().any(|hop| matches!(hop, Hop::Next(p, s) if p.name == peer.name && *s == stage));
        if !there {
            hops.push(Hop::Next(peer.clone(), stage));
        }
    }
}
