//! Who fell silent: by whose word it is believed, and by whose it isn't.

use halloo_protocol::directory::Reachability;
use halloo_protocol::kademlia::DisconnectReason;
use halloo_protocol::presence::*;

use crate::net::{Net, Person, carried, circle};

#[test]
fn silence_is_told_by_the_carriers_of_who_fell_silent() {
    let mut net = Net::new(5, &[2, 3, 4]);
    net.befriend_with(1, 0, &[2, 4], true);
    net.befriend_with(0, 1, &[3], true);
    let now = net.now();
    let keys: Vec<_> = net.people.iter().map(Person::key).collect();
    net.machines[0].set_carriers(now, vec![keys[2], keys[4]]);
    net.machines[1].set_carriers(now, vec![keys[3]]);
    net.act(0);
    net.act(1);
    net.say(0, State::Online, "");
    net.secs(30);
    assert_eq!(net.sees(1, 0).state, State::Online);
    net.frozen.push(0);
    net.secs(25);
    assert_eq!((net.sees(1, 0).state, net.sees(1, 0).source), (State::Offline, Source::Hint));
    // Who comes online later is told so too.
    net.disconnect(1, 3, DisconnectReason::Left);
    net.secs(10);
    assert_eq!(net.sees(1, 0).state, State::Offline);
}

#[test]
fn silence_of_a_neighbour_is_believed_with_one_other_witness() {
    let mut net = Net::new(3, &[2]);
    net.befriend_with(1, 0, &[2], true);
    net.befriend_with(0, 1, &[2], true);
    let (now, carrier) = (net.now(), net.people[2].key());
    net.machines[0].set_carriers(now, vec![carrier]);
    net.machines[1].set_carriers(now, vec![carrier]);
    net.act(0);
    net.act(1);
    net.connect(0, 1);
    net.say(0, State::Away, "on the train");
    net.secs(30);
    assert_eq!((net.sees(1, 0).state, net.sees(1, 0).source), (State::Away, Source::Direct));
    net.frozen.push(0);
    net.secs(25);
    assert_eq!((net.sees(1, 0).state, net.sees(1, 0).source), (State::Offline, Source::Hint));
}

#[test]
fn whoever_fell_silent_towards_us_and_does_not_answer_is_gone_without_another_witness() {
    // Nobody else at all; and somebody who knows nothing of it.
    for others in [0, 1] {
        let mut net = Net::new(3, &[]);
        net.befriend(0, 1);
        net.connect(0, 1);
        (0..others).for_each(|_| net.connect(1, 2));
        net.say(0, State::Away, "on the train");
        net.secs(5);
        assert_eq!(net.sees(1, 0).state, State::Away);
        net.frozen.push(0);
        net.secs(30);
        assert_eq!((net.sees(1, 0).state, net.sees(1, 0).source), (State::Offline, Source::Hint), "{others} others");
        // It goes on, and meets us: nothing new need be said for that.
        net.frozen.clear();
        net.links.clear();
        net.connect(0, 1);
        assert_eq!((net.sees(1, 0).state, net.sees(1, 0).source), (State::Away, Source::Direct));
    }
}

#[test]
fn whoever_answers_is_there_though_a_connection_died() {
    let mut net = Net::new(3, &[]);
    net.befriend(0, 1);
    net.connect(0, 1);
    net.connect(1, 2);
    net.say(0, State::Online, "");
    net.secs(5);
    net.links.remove(0);
    net.secs(40);
    assert_eq!(net.sees(1, 0).state, State::Online);
    assert!(
        !net.actions
            .iter()
            .any(|(who, action)| *who == 1 && matches!(action, Action::Changed { shown, .. } if shown.state == State::Offline))
    );
}

#[test]
fn who_is_cut_off_judges_nobody_until_somebody_is_heard() {
    let mut net = Net::new(4, &[]);
    net.befriend(0, 1);
    net.befriend(2, 1);
    for neighbour in [0, 2, 3] {
        net.connect(neighbour, 1);
    }
    net.say(0, State::Online, "");
    net.say(2, State::Online, "");
    net.secs(5);
    net.frozen.extend([0, 2, 3]);
    net.secs(300);
    assert_eq!((net.sees(1, 0).state, net.sees(1, 2).state), (State::Online, State::Online), "it may be we who are gone");
    // The way is free again: 2 is found, 0 isn't.
    net.frozen.retain(|frozen| *frozen == 0);
    net.links.clear();
    net.connect(3, 1);
    net.secs(60);
    assert_eq!((net.sees(1, 0).state, net.sees(1, 2).state), (State::Offline, State::Online));
}

#[test]
fn one_witness_alone_makes_nobody_offline_nor_dialled() {
    let mut net = carried();
    net.say(0, State::Online, "");
    net.secs(30);
    // The carrier is the only one who misses it, or says so.
    net.disconnect(0, 2, DisconnectReason::Lost);
    let owner = net.people[0].key();
    net.wanted.clear();
    net.frozen.push(0);
    net.secs(60);
    assert_eq!((net.sees(1, 0).state, net.sees(1, 0).source), (State::Online, Source::Carrier));
    assert!(
        !net.actions.iter().any(|(who, action)| *who == 1 && matches!(action, Action::Probe { device, .. } if *device == owner))
    );
    assert!(net.probes.is_empty());
}

#[test]
fn a_neighbours_witness_reaches_those_who_come_later() {
    // 1 is a neighbour of 0; 3 asks the carrier, when all is over.
    let mut net = Net::new(4, &[2]);
    for viewer in [1, 3] {
        net.befriend_with(viewer, 0, &[2], true);
        net.befriend_with(0, viewer, &[2], true);
    }
    let (now, carrier) = (net.now(), net.people[2].key());
    for who in [0, 1] {
        net.machines[who].set_carriers(now, vec![carrier]);
        net.act(who);
    }
    net.connect(0, 1);
    net.say(0, State::Online, "");
    net.secs(30);
    net.frozen.push(0);
    net.secs(60);
    assert_eq!(net.sees(1, 0).state, State::Offline);
    let now = net.now();
    net.machines[3].set_carriers(now, vec![carrier]);
    net.act(3);
    net.secs(5);
    assert_eq!((net.sees(3, 0).state, net.sees(3, 0).source), (State::Offline, Source::Hint));
}

#[test]
fn silence_is_told_behind_the_document_that_it_is_about() {
    // 0 and 1 are carriers of the owners, 2 is that of the watchers: 3, who is there from the start, and 4, who comes later and asks for more
    // documents than go in a frame.
    let owners = 5..75;
    let mut net = Net::new(75, &[0, 1, 2]);
    let keys: Vec<_> = net.people.iter().map(Person::key).collect();
    for owner in owners.clone() {
        net.befriend_with(3, owner, &[0, 1], true);
        net.befriend_with(4, owner, &[0, 1], true);
        let now = net.now();
        net.machines[owner].set_carriers(now, vec![keys[0], keys[1]]);
        net.act(owner);
        net.say(
            owner,
            State::Online,
            &"at the station, where trains come late and people have time to write what they do; ".repeat(2),
        );
    }
    let now = net.now();
    net.machines[3].set_carriers(now, vec![keys[2]]);
    net.act(3);
    net.secs(30);
    let gone: Vec<_> = owners.clone().step_by(2).collect();
    net.frozen.extend(&gone);
    net.secs(60);
    let now = net.now();
    net.machines[4].set_carriers(now, vec![keys[2]]);
    net.act(4);
    net.secs(5);
    for owner in owners {
        let state = if gone.contains(&owner) { State::Offline } else { State::Online };
        for viewer in [3, 4] {
            assert_eq!(net.sees(viewer, owner).state, state, "{owner} at {viewer}");
        }
    }
}

#[test]
fn silence_is_told_by_two_and_shown_as_a_hint() {
    let mut net = circle();
    net.frozen.push(0);
    net.secs(25);
    for viewer in 1..5 {
        let shown = net.sees(viewer, 0);
        assert_eq!((shown.state, shown.source), (State::Offline, Source::Hint), "{viewer}");
    }
    // It was only asleep.
    net.frozen.clear();
    for other in [1, 2] {
        net.disconnect(0, other, DisconnectReason::Idle);
        net.connect(0, other);
    }
    net.secs(3);
    for viewer in 1..5 {
        assert_eq!(net.sees(viewer, 0).state, State::Online, "{viewer}");
    }
}

#[test]
fn one_witness_alone_is_not_believed() {
    let mut net = Net::new(3, &[]);
    for (one, other) in [(0, 1), (0, 2), (1, 2)] {
        net.befriend(one, other);
    }
    net.connect(0, 1);
    net.connect(1, 2);
    for who in 0..3 {
        net.say(who, State::Online, "");
    }
    net.secs(30);
    net.frozen.push(0);
    net.secs(60);
    assert_eq!((net.sees(1, 0).state, net.sees(1, 0).source), (State::Offline, Source::Hint), "it has seen for itself");
    assert_eq!(net.sees(2, 0).state, State::Online, "it has one word for it");
    net.secs(3_600);
    assert_eq!(net.sees(2, 0).state, State::Offline, "its own word is over");
    let wanted = |(who, action): &(usize, Action)| *who == 2 && matches!(action, Action::KeeperLeaseWanted { .. });
    assert!(net.actions.iter().any(wanted));
    let (now, owner) = (net.now(), (net.people[0].identity(), net.people[0].key()));
    net.machines[2].handle_keeper_lease(now, &owner.0, &owner.1, now.unix.plus_secs(600));
    let shown = net.sees(2, 0);
    assert_eq!((shown.state, shown.reachability, shown.source), (State::Online, Reachability::Push, Source::Lease));
}
