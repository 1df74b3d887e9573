//! What this process uses, by the system's word.

use std::time::Duration;

/// The kernel's clock ticks a second, as `/proc` counts them; the same on every Linux since 2.6.
const TICKS_PER_SEC: u64 = 100;

/// Processor time of this process so far, all threads.
#[must_use]
pub fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Fields are counted after the name in parentheses, which may hold spaces.
    let fields: Vec<u64> =
        stat.rsplit(')').next().unwrap_or_default().split(' ').map(|field| field.parse().unwrap_or(0)).collect();
    let ticks = fields.get(12).copied().unwrap_or(0) + fields.get(13).copied().unwrap_or(0);
    Duration::from_millis(ticks * 1_000 / TICKS_PER_SEC)
}

/// Its resident memory.
#[must_use]
pub fn resident_bytes() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").trim().parse::<i64>().unwrap_or(0) * 1024
}
