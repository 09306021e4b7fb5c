//! Looks at this process's memory, and says when it is too much.

use polder_flow::Watermark;
use polder_http::plane::Plane;
use polder_http::pressure::LOOK;
use std::sync::Arc;

/// Tells the plane's [`polder_http::pressure::Pressure`] four times a second, for as long as the engine runs.
pub(crate) async fn watch(plane: Arc<Plane>) {
    loop {
        tokio::time::sleep(LOOK).await;
        let limit = plane.world().map_or(0, |world| world.plan.limits.memory_bytes);
        let resident = if limit == 0 { 0 } else { resident() };
        let (level, new) = plane.pressure.look(resident, limit);
        if new {
            let (what, text) = match level {
                Watermark::Calm => ("info", "below 80 %: everybody is served again"),
                Watermark::High => ("warn", "above 80 %: strangers are turned away, nothing idle is kept"),
                Watermark::Full => ("error", "above 95 %: no new connections and tunnels, the idlest are closed"),
            };
            plane.log(
                what,
                "memory",
                format!("{resident} of {limit} bytes, {text}; raise it, lower limits.connections, or add nodes"),
            );
        }
        if level == Watermark::Full {
            polder_sock::give_memory_back();
        }
    }
}

/// Resident bytes of this process; 0 where the system does not say.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()).unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_process_knows_what_it_holds() {
        let before = super::resident();
        let held = vec![1u8; 64 << 20];
        assert!(super::resident() > before + (48 << 20), "of {}", held.len());
    }
}
