//! Attack tools work in the laboratory only. Every tool asks here before it sends its first packet.
//!
//! The laboratory leaves a mark, `/run/polder-lab`, on a file system that only its own mount namespace sees; it holds the
//! number of the network namespace that the run was started from. This guards against mistakes, not against malice: who wants
//! to flood a network needs no tool of ours.

use crate::LabError;
use crate::fabric::covers;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// Where the laboratory's mark lies.
pub const MARK: &str = "/run/polder-lab";
/// Where its hosts' namespaces have their names.
pub const NAMES: &str = "/run/netns";
/// The machine's first network namespace on kernels that number it so (6.17 and newer).
const INITIAL: u64 = 0xEFFF_FFF9;
/// Longest attack.
const LONGEST: Duration = Duration::from_secs(600);
/// Most packets or connections a second.
const FASTEST: u64 = 1_000_000;

/// Networks that a laboratory uses: benchmarking (RFC 2544 App. C.2.2) and documentation (RFC 3849).
pub fn in_lab(address: IpAddr) -> bool {
    covers(IpAddr::V4(Ipv4Addr::new(198, 18, 0, 0)), 15, address)
        || covers(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0)), 32, address)
}

/// Tools that attack nobody need no mark, but addresses of this machine or of a laboratory. The error says which is neither.
pub fn here(addresses: impl IntoIterator<Item = SocketAddr>) -> Result<(), LabError> {
    match addresses.into_iter().find(|address| !address.ip().is_loopback() && !in_lab(address.ip())) {
        Some(stranger) => Err(LabError::Refused(format!("{stranger} is neither loopback nor an address of the laboratory"))),
        None => Ok(()),
    }
}

/// Whether this process may attack `targets` at `rate` a second for `time`. Errors say which bound is broken.
pub fn check(targets: &[IpAddr], rate: u64, time: Duration) -> Result<(), LabError> {
    bounds(targets, rate, time)?;
    inside(Path::new(MARK), Path::new(NAMES))
}

fn bounds(targets: &[IpAddr], rate: u64, time: Duration) -> Result<(), LabError> {
    if let Some(stranger) = targets.iter().find(|&&target| !in_lab(target)) {
        return Err(LabError::Refused(format!("{stranger} is not an address of the laboratory (198.18.0.0/15, 2001:db8::/32)")));
    }
    if rate > FASTEST || time > LONGEST {
        let most = LONGEST.as_secs();
        return Err(LabError::Refused(format!("an attack is bounded to {FASTEST} a second and {most} seconds")));
    }
    Ok(())
}

/// Whether this process stands in a network namespace that the laboratory named and that is not the machine's own.
fn inside(mark: &Path, names: &Path) -> Result<(), LabError> {
    let refuse = |why: &str| LabError::Refused(format!("{why}; attack tools run only inside `polder lab`"));
    let text = fs::read_to_string(mark).map_err(|_| refuse("this is not a laboratory"))?;
    let outside: u64 = text.trim().parse().map_err(|_| refuse("the laboratory's mark is not readable"))?;
    let here = fs::metadata("/proc/self/ns/net")?.ino();
    if here == outside || here == INITIAL {
        return Err(refuse("this process is in the machine's own network"));
    }
    let named = fs::read_dir(names)?;
    if named.flatten().any(|entry| entry.metadata().is_ok_and(|data| data.ino() == here)) {
        Ok(())
    } else {
        Err(refuse("this network namespace is none of the laboratory's hosts"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attacks_outside_the_laboratory_are_refused() {
        let lab: IpAddr = "198.18.0.9".parse().unwrap();
        let error = check(&[lab], 10, Duration::from_secs(1)).unwrap_err();
        assert!(error.to_string().contains("not a laboratory"), "{error}");
    }

    #[test]
    fn strangers_and_unbounded_attacks_are_refused() {
        for stranger in ["8.8.8.8", "10.0.0.1", "198.20.0.1", "127.0.0.1", "2001:db9::1", "::1"] {
            let error = bounds(&[stranger.parse().unwrap()], 10, Duration::from_secs(1)).unwrap_err();
            assert!(error.to_string().contains(stranger), "{error}");
        }
        let lab: IpAddr = "2001:db8::9".parse().unwrap();
        assert!(bounds(&[lab], FASTEST + 1, Duration::from_secs(1)).is_err());
        assert!(bounds(&[lab], 1, LONGEST + Duration::from_secs(1)).is_err());
        assert!(bounds(&[lab, "198.19.255.255".parse().unwrap()], FASTEST, LONGEST).is_ok());
    }

    #[test]
    fn tools_that_attack_nobody_work_here_and_in_the_laboratory() {
        let address = |text: &str| text.parse().unwrap();
        assert!(here(["198.19.2.10:443", "127.0.0.1:8443", "[::1]:1", "[2001:db8::1]:443"].map(address)).is_ok());
        for stranger in ["192.0.2.1:443", "0.0.0.0:443"] {
            let error = here(["127.0.0.1:1", stranger].map(address)).unwrap_err();
            assert!(matches!(&error, LabError::Refused(why) if why.contains(stranger)), "{error}");
        }
    }

    #[test]
    fn a_mark_that_names_this_namespace_or_none_is_refused() {
        let directory = std::env::temp_dir().join(format!("polder-guard-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let mark = directory.join("mark");
        let here = fs::metadata("/proc/self/ns/net").unwrap().ino();
        for (text, why) in [(here.to_string(), "own network"), ("x".into(), "not readable"), ("1".into(), "")] {
            fs::write(&mark, text).unwrap();
            let error = inside(&mark, &directory).unwrap_err();
            assert!(error.to_string().contains(why) && matches!(error, LabError::Refused(_)), "{error}");
        }
        fs::remove_dir_all(&directory).unwrap();
    }
}
