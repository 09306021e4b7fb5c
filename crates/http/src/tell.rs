//! Access point: its word about a user, for sites that ask who their users are (`docs/design/site-users.md`).

use crate::plane::{Plane, World, unix_millis, unix_now};
use crate::tunnel::Target;
use crate::word::Word;
use polder_plan::SitePlan;
use polder_tls::Sealer;
use polder_types::{Identity, SiteName};
use polder_wire::word::{SealedWord, UserWord};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Seconds for which a session is opened: opening one costs a fresh key agreement and a signature.
const LIFE: i64 = 3600;
/// It is not used in its last seconds: words travel, and clocks differ.
const SPARE: i64 = 120;
/// Sessions kept before those that have ended are looked for.
const MANY: usize = 1024;

/// Sessions with sites' agents.
#[derive(Default)]
pub(crate) struct Sealers {
    table: Mutex<HashMap<SiteName, Kept>>,
}

struct Kept {
    /// The site's key, and our own key and its end: when one changes, the session is over.
    of: (Vec<u8>, [u8; 32], i64),
    sealer: Arc<Sealer>,
}

impl Sealers {
    fn of(&self, world: &World, site: &SitePlan, key: &[u8]) -> Option<Arc<Sealer>> {
        let (now, me) = (unix_now(), world.tls.me());
        let of = (key.to_vec(), me.key_hash, me.not_after);
        {
            let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(kept) = table.get(&site.name).filter(|kept| kept.of == of && kept.sealer.not_after - SPARE > now) {
                return Some(kept.sealer.clone());
            }
            if table.len() > MANY {
                table.retain(|_, kept| kept.sealer.not_after > now);
            }
        }
        let sealer = Arc::new(world.tls.session(&site.name, key, now, LIFE)?);
        let kept = Kept { of, sealer: sealer.clone() };
        self.table.lock().unwrap_or_else(PoisonError::into_inner).insert(site.name.clone(), kept);
        Some(sealer)
    }
}

/// The word for a tunnel of `who` to `target` of `site`, whose connection came from `from`.
pub(crate) fn word(
    plane: &Arc<Plane>,
    world: &World,
    site: &SitePlan,
    who: &Identity,
    target: &Target,
    from: Option<IpAddr>,
) -> Word {
    let Some(tell) = &site.tell else { return Word::Nothing };
    let sealer = plane.sealers.of(world, site, &tell.key);
    let word = UserWord {
        at: 0,
        host: target.host.to_string(),
        port: target.port,
        user: who.uri.to_string(),
        groups: who.groups.iter().map(ToString::to_string).collect(),
        address: from.map(|ip| ip.to_canonical()).filter(|_| tell.address),
    };
    let plane = plane.clone();
    Word::Fresh(Arc::new(move || {
        let said = sealer.as_deref().and_then(|sealer| say(sealer, &word));
        if said.is_none() {
            plane.counters.words_failed.up();
            plane.refused("user", "no word about a user could be made: too many groups, or the site's key is no key", "", None);
        }
        said
    }))
}

fn say(sealer: &Sealer, word: &UserWord) -> Option<Arc<str>> {
    let plain = UserWord { at: unix_millis(), ..word.clone() }.encode()?;
    let (number, message) = sealer.seal(&plain)?;
    Some(SealedWord { session: sealer.opening.clone(), number, message }.to_text().into())
}
