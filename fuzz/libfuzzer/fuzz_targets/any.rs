//! Every target under libFuzzer: `POLDER_FUZZ=http1-request` chooses.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let wanted = std::env::var("POLDER_FUZZ").unwrap_or_default();
    let found = polder_fuzz::TARGETS.iter().find(|(name, _)| *name == wanted);
    found.unwrap_or_else(|| panic!("set POLDER_FUZZ to one of {:?}", polder_fuzz::TARGETS.map(|(name, _)| name))).1
});

fuzz_target!(|data: &[u8]| TARGET(data));
