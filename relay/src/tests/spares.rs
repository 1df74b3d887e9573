//! Sockets that wait for the next allocation of their user.

use super::harness::*;
use crate::allocation::spares::SPARE_LIFETIME;

/// The port of an allocation that the client makes.
fn allocate(lab: &mut Lab, client: &mut Client) -> u16 {
    client.allocate(lab).port()
}

#[test]
fn a_users_next_allocation_gets_the_socket_that_was_given_back() {
    let mut lab = Lab::new();
    let mut ann = Client::ann("192.0.2.1:1");
    let port = allocate(&mut lab, &mut ann);
    ann.refresh(&mut lab, 0);
    assert_eq!((lab.sink.open.len(), lab.sink.parked.len()), (0, 1));
    let bobs = allocate(&mut lab, &mut Client::bob("192.0.2.1:2"));
    assert_ne!(bobs, port, "nobody gets another user's");
    assert_eq!(allocate(&mut lab, &mut Client::ann("192.0.2.1:3")), port);
    assert_eq!((lab.sink.open.len(), lab.sink.parked.len()), (2, 0));
}

#[test]
fn one_that_somebody_still_sends_to_is_not_used_again() {
    let mut lab = Lab::new();
    let mut ann = Client::ann("192.0.2.1:1");
    let port = allocate(&mut lab, &mut ann);
    ann.refresh(&mut lab, 0);
    // The driver has closed it.
    lab.sink.parked.clear();
    assert_ne!(allocate(&mut lab, &mut Client::ann("192.0.2.1:2")), port);
    lab.sink.open.clear();
}

#[test]
fn they_wait_for_a_minute() {
    let mut lab = Lab::new();
    let mut ann = Client::ann("192.0.2.1:1");
    allocate(&mut lab, &mut ann);
    ann.refresh(&mut lab, 0);
    assert_eq!(lab.relay.poll_timeout(), Some(lab.now + SPARE_LIFETIME));
    lab.pass(SPARE_LIFETIME);
    lab.tick();
    assert!(lab.sink.parked.is_empty());
}

#[test]
fn they_are_few_and_give_way_when_ports_run_out() {
    let mut lab = Lab::with(|settings| {
        settings.ports = (50_000, 50_127);
        settings.limits.allocations_per_user_max = 200;
    });
    let mut clients: Vec<_> = (1..=128).map(|port| Client::ann(&format!("192.0.2.1:{port}"))).collect();
    for client in &mut clients[..8] {
        allocate(&mut lab, client);
    }
    for client in &mut clients[..8] {
        client.refresh(&mut lab, 0);
    }
    assert_eq!(lab.sink.parked.len(), 2, "a 64th of the ports");
    let mut bobs: Vec<_> = (1..=128).map(|port| Client::bob(&format!("192.0.2.2:{port}"))).collect();
    for client in &mut bobs {
        allocate(&mut lab, client);
    }
    assert_eq!((lab.sink.open.len(), lab.sink.parked.len()), (128, 0), "every port can be had");
}

#[test]
fn a_relay_that_drains_keeps_none() {
    let mut lab = Lab::new();
    let mut ann = Client::ann("192.0.2.1:1");
    allocate(&mut lab, &mut ann);
    lab.relay.shared().drain();
    ann.refresh(&mut lab, 0);
    assert!(lab.sink.open.is_empty() && lab.sink.parked.is_empty());
}
