#![allow(missing_docs, clippy::print_stdout)]
use std::time::{Duration, Instant};
use halloo_simulator::presence::{Town, TownPlan, rows};
fn show(name: &str, m: &rows::Measured) {
    let mut d = m.delays.clone(); d.sort();
    println!("{name}: upd {} owed {} deliv {} msg/d {:.3} B/d {:.0} dup {} graft {} hops {:.2}/{} {:?} slowest {:?} median {:?} lacking {} hb {} hbB {}", m.updates, m.owed, m.delivered, m.messages_per_delivery(), m.bytes_per_delivery(), m.duplicates, m.grafts, m.hops().0, m.hops().1, m.hops, m.slowest, d.get(d.len()/2), m.lacking.len(), m.heartbeats, m.heartbeat_bytes);
}
fn main() {
    let seed: u64 = std::env::args().nth(1).map_or(1, |a| a.parse().unwrap());
    let t = Instant::now();
    let mut town = Town::new(TownPlan::contacts_only(seed, 100, 50, 16));
    town.start(Duration::from_secs(10));
    town.network.run_for(Duration::from_secs(20));
    let m = rows::steady(&mut town, Duration::from_secs(1), Duration::from_secs(10), Duration::from_secs(3));
    show("warm", &m);
    let m = rows::steady(&mut town, Duration::from_secs(1), Duration::from_secs(10), Duration::from_secs(3));
    show("busy", &m);
    let m = rows::steady(&mut town, Duration::from_secs(600), Duration::from_secs(1800), Duration::from_secs(13));
    show("quiet", &m);
    let m = rows::steady(&mut town, Duration::from_secs(1), Duration::from_secs(10), Duration::from_secs(3));
    show("busy", &m);
    let _f = rows::freeze(&mut town, 0.2, 5);
    let m = rows::steady(&mut town, Duration::from_secs(1), Duration::from_secs(6), Duration::from_secs(4));
    show("frozen", &m); println!("{:?}", &m.delays[m.delays.len()-12..]);
    for (v, o) in &m.lacking { let shared: Vec<_> = town.graph.contacts(v.index()).filter(|c| town.network.is_connected(*v, halloo_simulator::NodeId(*c as u32)) && (town.graph.are_contacts(*c, o.index()) || *c == o.index())).map(|c| (c, town.network.state(halloo_simulator::NodeId(c as u32)))).collect(); println!("{v:?} {o:?} {shared:?}"); }
    town.network.run_for(Duration::from_secs(30));
    let m = rows::steady(&mut town, Duration::from_secs(1), Duration::from_secs(10), Duration::from_secs(3));
    show("after", &m);
    println!("{:?} {:?}", t.elapsed(), town.counters());
}
