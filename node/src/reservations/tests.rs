use std::collections::HashSet;

use super::*;

/// Drives a supervisor in virtual time and plays the owner.
struct Bench {
    supervisor: Reservations,
    now: Instant,
    relays: Vec<PeerId>,
    /// Listeners made and not closed.
    listeners: Vec<(PeerId, ListenerId)>,
    asked: Vec<PeerId>,
    disconnected: Vec<PeerId>,
    events: Vec<Event>,
}

impl Bench {
    fn new(candidates: usize) -> Self {
        let relays: Vec<_> = (0..candidates).map(|_| PeerId::random()).collect();
        let mut bench = Self {
            supervisor: Reservations::new(WANTED, 7),
            now: Instant::now(),
            relays,
            listeners: Vec::new(),
            asked: Vec::new(),
            disconnected: Vec::new(),
            events: Vec::new(),
        };
        let candidates = bench.relays.iter().map(|relay| candidate(*relay)).collect();
        bench.supervisor.set_candidates(candidates, bench.now);
        bench.supervisor.set_needed(true, bench.now);
        bench.drain();
        bench
    }

    fn drain(&mut self) {
        while let Some(output) = self.supervisor.poll_output() {
            match output {
                Output::Listen { relay, address } => {
                    assert!(address.to_string().ends_with("/p2p-circuit"));
                    let listener = ListenerId::next();
                    self.listeners.push((relay, listener));
                    self.asked.push(relay);
                    self.supervisor.handle_listening(relay, listener);
                }
                Output::Disconnect { relay } => self.disconnected.push(relay),
                Output::Event(event) => self.events.push(event),
            }
        }
    }

    fn take_asked(&mut self) -> Vec<PeerId> {
        std::mem::take(&mut self.asked)
    }

    fn listener(&self, relay: PeerId) -> ListenerId {
        let mut found = self.listeners.iter().filter(|(id, _)| *id == relay);
        found.next_back().expect("asked").1
    }

    fn accept(&mut self, relay: PeerId) {
        let (listener, address) = (self.listener(relay), circuit(relay));
        self.supervisor.handle_new_address(listener, &address, self.now);
        self.drain();
    }

    fn close(&mut self, relay: PeerId) {
        let listener = self.listener(relay);
        self.listeners.retain(|(_, id)| *id != listener);
        self.supervisor.handle_listener_closed(listener, "no".to_owned(), self.now);
        self.drain();
    }

    /// Lets time pass up to the next deadline, which has to exist.
    fn next_deadline(&mut self) {
        self.now = self.supervisor.poll_timeout().expect("a deadline");
        self.supervisor.handle_timeout(self.now);
        self.drain();
    }

    fn advance(&mut self, by: Duration) {
        let end = self.now + by;
        while self.supervisor.poll_timeout().is_some_and(|t| t <= end) {
            self.next_deadline();
        }
        self.now = end;
    }

    fn disconnect(&mut self, relay: PeerId) {
        self.supervisor.handle_disconnected(relay, self.now);
        self.drain();
    }

    fn reserved(&self) -> HashSet<PeerId> {
        self.supervisor.reserved().collect()
    }

    fn lost(&self, relay: PeerId) -> Option<&LossReason> {
        self.events.iter().rev().find_map(|event| match event {
            Event::Lost { relay: id, reason } if *id == relay => Some(reason),
            _ => None,
        })
    }
}

fn candidate(relay: PeerId) -> Candidate {
    Candidate { relay, addresses: vec!["/ip4/192.0.2.1/tcp/4001".parse().expect("an address")] }
}

fn circuit(relay: PeerId) -> Multiaddr {
    let address = "/ip4/192.0.2.1/tcp/4001".parse().expect("an address");
    circuit_address(relay, &address, Some(PeerId::random()))
}

#[test]
fn the_two_best_are_asked_and_no_more() {
    let mut bench = Bench::new(4);
    assert_eq!(bench.take_asked(), bench.relays[..2]);
    bench.accept(bench.relays[0]);
    bench.accept(bench.relays[1]);
    assert_eq!(bench.reserved().len(), 2);
    assert_eq!(bench.supervisor.poll_timeout(), None);
    assert!(bench.take_asked().is_empty());
}

#[test]
fn nothing_is_asked_unless_needed() {
    let now = Instant::now();
    let mut supervisor = Reservations::new(WANTED, 7);
    supervisor.set_candidates(vec![candidate(PeerId::random())], now);
    assert_eq!(supervisor.poll_output(), None);
    assert_eq!(supervisor.poll_timeout(), None);
}

#[test]
fn a_refusal_turns_to_the_next_candidate_at_once() {
    let mut bench = Bench::new(3);
    bench.take_asked();
    bench.close(bench.relays[0]);
    assert_eq!(bench.take_asked(), [bench.relays[2]]);
    assert!(matches!(bench.events[..], [Event::Refused { .. }]));
}

#[test]
fn a_silent_relay_is_raced_and_kept_if_it_answers_after_all() {
    let mut bench = Bench::new(3);
    bench.take_asked();
    bench.accept(bench.relays[1]);
    bench.advance(PATIENCE);
    assert_eq!(bench.take_asked(), [bench.relays[2]]);
    bench.accept(bench.relays[2]);
    bench.accept(bench.relays[0]);
    assert_eq!(bench.reserved().len(), 3);
    bench.close(bench.relays[2]);
    assert!(bench.take_asked().is_empty(), "two are left");
}

#[test]
fn a_lost_relay_is_replaced_and_tried_again_with_growing_waits() {
    let mut bench = Bench::new(1);
    let relay = bench.relays[0];
    bench.accept(relay);
    bench.take_asked();
    let mut waits = Vec::new();
    for _ in 0..12 {
        let since = bench.now;
        bench.close(relay);
        assert!(bench.take_asked().is_empty(), "not at once");
        bench.next_deadline();
        assert_eq!(bench.take_asked(), [relay]);
        waits.push(bench.now - since);
    }
    let base = |n: u32| BACKOFF_FIRST.saturating_mul(1 << n).min(BACKOFF_MAX);
    for (n, wait) in (0..).zip(&waits) {
        assert!(*wait >= base(n) / 2 && *wait <= base(n) * 3 / 2, "{n}: {wait:?}");
    }
    assert!(matches!(bench.lost(relay), Some(LossReason::ListenerClosed(_))));
}

#[test]
fn a_stable_reservation_clears_the_record() {
    let mut bench = Bench::new(1);
    let relay = bench.relays[0];
    for _ in 0..6 {
        bench.close(relay);
        bench.next_deadline();
    }
    bench.accept(relay);
    bench.advance(STABLE_AFTER);
    let since = bench.now;
    bench.close(relay);
    bench.next_deadline();
    assert!(bench.now - since <= BACKOFF_FIRST * 3 / 2);
}

#[test]
fn a_closed_connection_loses_the_reservation_before_the_listener_says_so() {
    let mut bench = Bench::new(3);
    bench.accept(bench.relays[0]);
    bench.accept(bench.relays[1]);
    bench.take_asked();
    bench.disconnect(bench.relays[0]);
    assert_eq!(bench.take_asked(), [bench.relays[2]]);
    assert_eq!(bench.lost(bench.relays[0]), Some(&LossReason::Disconnected));
    let events = bench.events.len();
    bench.close(bench.relays[0]);
    assert_eq!(bench.events.len(), events, "said once");
}

#[test]
fn a_renewal_that_repeats_an_address_is_no_news() {
    let mut bench = Bench::new(1);
    let (listener, address) = (bench.listener(bench.relays[0]), circuit(bench.relays[0]));
    for _ in 0..3 {
        bench.supervisor.handle_new_address(listener, &address, bench.now);
    }
    bench.drain();
    assert_eq!(bench.events.len(), 1);
    assert_eq!(bench.supervisor.addresses().count(), 1);
    bench.supervisor.handle_expired_address(listener, &address);
    assert_eq!(bench.supervisor.addresses().count(), 0);
}

#[test]
fn sleep_renews_everything_once_the_old_connections_are_gone() {
    let mut bench = Bench::new(2);
    let (first, second) = (bench.relays[0], bench.relays[1]);
    bench.accept(first);
    bench.accept(second);
    bench.take_asked();
    bench.supervisor.handle_wake(bench.now);
    bench.drain();
    assert_eq!(bench.disconnected, [first, second]);
    assert_eq!(bench.lost(first), Some(&LossReason::Slept));
    assert!(bench.take_asked().is_empty(), "the old ones are closing");
    bench.disconnect(first);
    assert_eq!(bench.take_asked(), [first]);
    // The other connection does not close; it is not waited for without end.
    bench.next_deadline();
    assert_eq!(bench.take_asked(), [second]);
}

#[test]
fn a_changed_network_renews_one_after_the_other() {
    let mut bench = Bench::new(2);
    let (first, second) = (bench.relays[0], bench.relays[1]);
    bench.accept(first);
    bench.accept(second);
    bench.take_asked();
    bench.supervisor.handle_network_changed(bench.now);
    bench.drain();
    assert_eq!(bench.disconnected, [first]);
    bench.disconnect(first);
    assert_eq!(bench.take_asked(), [first]);
    assert_eq!(bench.disconnected, [first], "the second still serves");
    bench.accept(first);
    assert_eq!(bench.disconnected, [first, second]);
    bench.disconnect(second);
    bench.accept(second);
    assert_eq!(bench.reserved().len(), 2);
    assert_eq!(bench.disconnected.len(), 2);
}

#[test]
fn a_changed_network_retries_relays_that_failed() {
    let mut bench = Bench::new(1);
    for _ in 0..8 {
        bench.close(bench.relays[0]);
        bench.next_deadline();
    }
    bench.close(bench.relays[0]);
    bench.take_asked();
    bench.supervisor.handle_network_changed(bench.now);
    bench.drain();
    assert_eq!(bench.take_asked(), [bench.relays[0]]);
}

#[test]
fn what_is_no_longer_needed_is_given_up() {
    let mut bench = Bench::new(3);
    bench.accept(bench.relays[0]);
    bench.supervisor.set_needed(false, bench.now);
    bench.drain();
    assert_eq!(bench.disconnected, bench.relays[..2]);
    assert_eq!(bench.lost(bench.relays[0]), Some(&LossReason::NotNeeded));
    bench.take_asked();
    bench.advance(BACKOFF_MAX);
    assert!(bench.take_asked().is_empty());
}

#[test]
fn a_relay_no_longer_named_keeps_its_reservation_until_lost() {
    let mut bench = Bench::new(2);
    let (old, kept) = (bench.relays[0], bench.relays[1]);
    bench.accept(old);
    bench.accept(kept);
    let fresh = PeerId::random();
    bench.supervisor.set_candidates(vec![candidate(kept), candidate(fresh)], bench.now);
    bench.drain();
    bench.take_asked();
    assert_eq!(bench.reserved(), HashSet::from([old, kept]));
    bench.close(old);
    assert_eq!(bench.take_asked(), [fresh]);
    bench.close(kept);
    bench.close(fresh);
    bench.advance(BACKOFF_MAX);
    assert!(!bench.asked.contains(&old));
}

#[test]
fn the_next_address_of_a_relay_follows_a_failure() {
    let now = Instant::now();
    let relay = PeerId::random();
    let addresses: Vec<Multiaddr> =
        ["/ip4/192.0.2.1/tcp/1", "/ip6/2001:db8::1/tcp/2"].map(|text| text.parse().expect("an address")).to_vec();
    let mut supervisor = Reservations::new(WANTED, 7);
    supervisor.set_needed(true, now);
    supervisor.set_candidates(vec![Candidate { relay, addresses: addresses.clone() }], now);
    for address in [&addresses[0], &addresses[1], &addresses[0]] {
        assert_eq!(supervisor.poll_output(), Some(Output::Listen { relay, address: circuit_address(relay, address, None) }));
        supervisor.handle_listen_failed(relay, "no".to_owned(), now);
        assert!(matches!(supervisor.poll_output(), Some(Output::Event(Event::Refused { .. }))));
        let later = supervisor.poll_timeout().expect("a deadline");
        supervisor.handle_timeout(later);
    }
}

#[test]
fn candidates_are_bounded_and_told_apart() {
    let now = Instant::now();
    let mut supervisor = Reservations::new(usize::MAX, 7);
    let twice = candidate(PeerId::random());
    let mut candidates = vec![twice.clone(), twice];
    candidates.extend((0..100).map(|_| candidate(PeerId::random())));
    supervisor.set_candidates(candidates, now);
    supervisor.set_needed(true, now);
    let asked = std::iter::from_fn(|| supervisor.poll_output()).count();
    assert!(asked < MAX_CANDIDATES);
}

mod network {
    use libp2p::swarm::SwarmEvent;

    use super::*;
    use crate::{
        reservations::driver::{observe, perform},
        swarm::SwarmOptions,
        test_swarm::{TestPeer, lab, until},
    };

    async fn relay() -> TestPeer {
        let options = SwarmOptions { relay_server: true, ..lab() };
        let mut relay = TestPeer::listening_with("/ip4/127.0.0.1/tcp/0", options).await;
        let address = relay.addresses().swap_remove(0);
        relay.swarm.add_external_address(address);
        relay
    }

    /// A peer's swarm with a supervisor that hears its events.
    struct Supervised {
        seen: usize,
        supervisor: Reservations,
        events: Vec<Event>,
    }

    impl Supervised {
        fn step(&mut self, peer: &mut TestPeer) {
            let now = Instant::now();
            for event in &peer.events[self.seen..] {
                observe(&mut self.supervisor, event, now);
            }
            self.seen = peer.events.len();
            if self.supervisor.poll_timeout().is_some_and(|t| t <= now) {
                self.supervisor.handle_timeout(now);
            }
            let events = perform(&mut self.supervisor, &mut peer.swarm, now);
            self.events.extend(events);
        }

        fn holds(&self, relays: &[PeerId]) -> bool {
            let held: HashSet<_> = self.supervisor.reserved().collect();
            held == relays.iter().copied().collect()
        }
    }

    #[tokio::test]
    async fn a_killed_relay_is_replaced_by_the_next() {
        let mut relays = [relay().await, relay().await, relay().await];
        let ids = relays.each_ref().map(|relay| relay.id);
        let mut bob = TestPeer::listening("/ip4/127.0.0.1/tcp/0").await;
        let mut alice = TestPeer::listening("/ip4/127.0.0.1/tcp/0").await;
        let mut supervised = Supervised { seen: 0, supervisor: Reservations::new(WANTED, 7), events: Vec::new() };
        let candidates = relays.iter().map(|relay| Candidate { relay: relay.id, addresses: relay.addresses() }).collect();
        let now = Instant::now();
        supervised.supervisor.set_candidates(candidates, now);
        supervised.supervisor.set_needed(true, now);
        let [first, second, third] = &mut relays;
        until(&mut [&mut bob, first, second, third], "two reservations", |peers| {
            supervised.step(peers[0]);
            supervised.holds(&ids[..2])
        })
        .await;
        let [killed, mut second, mut third] = relays;
        drop(killed);
        until(&mut [&mut bob, &mut second, &mut third], "the third takes its place", |peers| {
            supervised.step(peers[0]);
            supervised.holds(&ids[1..])
        })
        .await;
        assert!(supervised.events.iter().any(|event| matches!(
            event,
            Event::Lost { relay, .. } if *relay == ids[0]
        )));
        // The new address works.
        let through_third = supervised
            .supervisor
            .addresses()
            .find(|address| address.to_string().contains(&ids[2].to_string()))
            .cloned()
            .expect("an address");
        alice.swarm.dial(through_third).expect("a free dial slot");
        until(&mut [&mut bob, &mut alice, &mut second, &mut third], "connected through the third", |[bob, alice, ..]| {
            supervised.step(bob);
            alice.is_connected(bob.id)
        })
        .await;
    }

    #[tokio::test]
    async fn a_relay_that_does_not_relay_is_refused_and_another_found() {
        let mut plain = TestPeer::listening("/ip4/127.0.0.1/tcp/0").await;
        let mut relay = relay().await;
        let mut bob = TestPeer::listening("/ip4/127.0.0.1/tcp/0").await;
        let mut supervised = Supervised { seen: 0, supervisor: Reservations::new(1, 7), events: Vec::new() };
        let candidates = [&plain, &relay].map(|peer| Candidate { relay: peer.id, addresses: peer.addresses() });
        let now = Instant::now();
        supervised.supervisor.set_candidates(candidates.to_vec(), now);
        supervised.supervisor.set_needed(true, now);
        let (refusing, good) = (plain.id, relay.id);
        until(&mut [&mut bob, &mut plain, &mut relay], "a reservation at the real relay", |peers| {
            supervised.step(peers[0]);
            supervised.holds(&[good])
        })
        .await;
        assert!(supervised.events.iter().any(|event| matches!(
            event,
            Event::Refused { relay, .. } if *relay == refusing
        )));
        // What a dial of a listener's own events looks like is not the supervisor's business.
        assert!(!bob.events.iter().any(|event| matches!(event, SwarmEvent::ListenerError { .. })));
    }

    #[tokio::test]
    async fn after_sleep_the_reservation_is_made_anew() {
        let mut relay = relay().await;
        let mut bob = TestPeer::listening("/ip4/127.0.0.1/tcp/0").await;
        let mut supervised = Supervised { seen: 0, supervisor: Reservations::new(1, 7), events: Vec::new() };
        let now = Instant::now();
        let candidate = Candidate { relay: relay.id, addresses: relay.addresses() };
        supervised.supervisor.set_candidates(vec![candidate], now);
        supervised.supervisor.set_needed(true, now);
        for round in 1..=2 {
            until(&mut [&mut bob, &mut relay], "reserved", |peers| {
                supervised.step(peers[0]);
                let reserved = |event: &&Event| matches!(event, Event::Reserved { .. });
                supervised.events.iter().filter(reserved).count() == round
            })
            .await;
            if round == 1 {
                supervised.supervisor.handle_wake(Instant::now());
            }
        }
    }
}
