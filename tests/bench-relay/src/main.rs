//! `scripts/bench relay`: halloo-relay beside coturn, turn-server and bare forwarders, in rounds that take turns.
//!
//! Each relay has a core of its own with no other at work beside it, the generator has another. The main figure is the relay's processor time
//! per packet that arrives, and of that the ratio to another relay's in the same round: whatever else the machine does meanwhile
//! disturbs packets per second and delays much more.
#![cfg_attr(target_os = "linux", allow(clippy::print_stdout, reason = "the table is what this program is for"))]

#[cfg(target_os = "linux")]
mod bench;
#[cfg(target_os = "linux")]
mod delays;
#[cfg(target_os = "linux")]
mod forward;
#[cfg(target_os = "linux")]
mod load;
#[cfg(target_os = "linux")]
mod process;
#[cfg(target_os = "linux")]
mod relays;
#[cfg(target_os = "linux")]
mod report;
#[cfg(target_os = "linux")]
mod rows;
#[cfg(target_os = "linux")]
mod turn;

#[cfg(target_os = "linux")]
fn main() -> anyhow::Result<()> {
    bench::main()
}

#[cfg(not(target_os = "linux"))]
fn main() {}
