//! The simulator drives any machine: here one that passes a number on, and counts how often it was asked.
use std::time::{Duration, Instant};

use halloo_protocol::time::Now;
use halloo_simulator::{Closed, Input, Kind, Latency, Machine, Network, NodeId, Outbox, Settings};

/// Passes what it gets to the next of `count` nodes after a second, until it is used up.
struct Relay {
    me: NodeId,
    count: u32,
    next: Option<(Instant, u32)>,
    lost: Vec<NodeId>,
}

impl Machine for Relay {
    type Message = u32;
    type Event = &'static str;
    type World = u64;

    fn handle(&mut self, passed: &mut u64, now: Now, input: Input<u32>, out: &mut Outbox<Self>) {
        match input {
            Input::Message { message: 0, .. } => out.event("done"),
            Input::Message { message, .. } => self.next = Some((now.instant + Duration::from_secs(1), message)),
            Input::Timeout => {
                if let Some((_, left)) = self.next.take_if(|(at, _)| *at <= now.instant) {
                    *passed += 1;
                    let next = NodeId((self.me.0 + 1) % self.count);
                    out.send(next, Kind(1), 4, left - 1);
                    out.keep(next, true);
                }
            }
            Input::Disconnected { peer, reason: Closed::Lost } => self.lost.push(peer),
            _ => {}
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.next.map(|(at, _)| at)
    }
}

fn ring(loss: f64, latency: Latency) -> Network<Relay> {
    let settings = Settings { loss, latency, ..Settings::default() };
    let mut network = Network::new(0, settings, 7);
    for number in 0..5 {
        let node = network.add(Relay { me: NodeId(number), count: 5, next: None, lost: Vec::new() }, false);
        network.start(node);
    }
    let now = network.now();
    network.with(NodeId(0), |relay, _, _, _| relay.next = Some((now.instant, 20)));
    network
}

#[test]
fn time_connections_and_counts_are_exact() {
    let mut network = ring(0.0, Latency::Fixed(Duration::from_millis(100)));
    let done = network.run_until_event(Duration::from_secs(60), |node, event| (*event == "done").then_some(node));
    assert_eq!(done, Some(NodeId(0)), "twenty steps round five nodes");
    // Five cold contacts of 150 ms, fifteen over open connections of 50 ms, 19 pauses.
    assert_eq!(network.elapsed(), Duration::from_millis(5 * 150 + 15 * 50 + 19_000));
    assert_eq!((network.world, network.traffic().messages(Kind(1)), network.traffic().handshakes), (20, 20, 5));
}

#[test]
fn a_frozen_node_is_silent_and_missed_by_its_peers_only_after_a_while() {
    let mut network = ring(0.0, Latency::Map);
    network.run_for(Duration::from_secs(8));
    network.freeze(NodeId(3));
    network.run_for(Duration::from_secs(14));
    assert!(network.nodes().all(|node| network.machine(node).lost.is_empty()));
    network.run_for(Duration::from_secs(17));
    assert_eq!(network.machine(NodeId(2)).lost, [NodeId(3)]);
    assert!(network.take_events().next().is_none(), "the number is stuck");
}

#[test]
fn loss_delays_and_the_same_seed_gives_the_same_run() {
    let run = |loss| {
        let mut network = ring(loss, Latency::Map);
        network.run_until_event(Duration::from_secs(60), |_, event| (*event == "done").then_some(())).expect("it arrives");
        (network.elapsed(), network.digest())
    };
    assert_eq!(run(0.2), run(0.2));
    assert!(run(0.5).0 > run(0.0).0);
}
