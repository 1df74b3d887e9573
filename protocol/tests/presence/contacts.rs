//! What contacts see, what others don't, and what days and backups change.

use halloo_protocol::directory::Reachability;
use halloo_protocol::kademlia::DisconnectReason;
use halloo_protocol::presence::*;

use crate::net::{Net, circle};
use crate::support::NOW;

#[test]
fn contacts_see_each_other_and_nobody_else_sees_them() {
    let mut net = Net::new(3, &[]);
    net.befriend(0, 1);
    net.connect(0, 1);
    net.connect(0, 2);
    net.connect(1, 2);
    net.say(0, State::Dnd, "in a meeting");
    net.secs(2);
    let shown = net.sees(1, 0);
    assert_eq!((shown.state, shown.mood.as_str(), shown.source), (State::Dnd, "in a meeting", Source::Direct));
    assert_eq!(shown.reachability, Reachability::Direct);
    net.say(0, State::Offline, "");
    net.secs(1);
    assert_eq!(net.sees(1, 0).state, State::Offline);
    assert_eq!(net.sees(2, 0), Shown::unknown());
}

#[test]
fn a_contact_of_both_passes_on_unless_the_owner_forbids_it() {
    for may_pass_on in [true, false] {
        let mut net = Net::new(3, &[]);
        net.befriend(1, 2);
        for viewer in [1, 2] {
            net.befriend_with(viewer, 0, &[], may_pass_on);
            net.befriend_with(0, viewer, &[], true);
        }
        net.connect(0, 1);
        net.connect(1, 2);
        net.say(0, State::Online, "hello");
        net.secs(20);
        assert_eq!(net.sees(1, 0).state, State::Online);
        let shown = net.sees(2, 0);
        if may_pass_on {
            assert_eq!((shown.state, shown.source), (State::Online, Source::Contact));
        } else {
            assert_eq!(shown, Shown::unknown());
        }
    }
}

#[test]
fn a_stranger_on_the_line_is_told_nothing() {
    let mut net = Net::new(3, &[]);
    net.befriend(0, 1);
    net.connect(0, 1);
    net.connect(0, 2);
    net.puppets.push(2);
    net.say(0, State::Online, "hello");
    // It guesses tags, and even knows the topic (from a carrier).
    let topic = net.people[0].topic(NOW);
    let (asker, asked) = (net.people[2].key(), net.people[0].key());
    let names = vec![NamedTopic { slot: TopicSlot(0), name: TopicName::Tag(topic.tag(&asker, &asked)) }];
    let wants = vec![TopicWant { slot: TopicSlot(0), mode: Mode::Push, have: 0 }];
    net.inject(2, 0, vec![Part::Names(names), Part::Wants(wants)]);
    net.say(0, State::Away, "");
    net.secs(30);
    let told: Vec<_> = net.to_puppets.iter().filter(|(_, _, frame)| !frame.parts.is_empty()).collect();
    assert!(told.is_empty(), "{told:?}");
}

#[test]
fn a_removed_contact_finds_nothing_with_the_old_key() {
    let mut net = Net::new(3, &[]);
    net.befriend(0, 1);
    net.befriend(0, 2);
    net.befriend(1, 2);
    for (one, other) in [(0, 1), (0, 2), (1, 2)] {
        net.connect(one, other);
    }
    net.say(0, State::Online, "before");
    net.secs(2);
    assert_eq!(net.sees(2, 0).mood, "before");
    // 0 removes 2: a new key, which 1 gets. 2 stays connected, and asks on.
    let removed = net.people[2].identity();
    net.people[0].secret = PresenceSecret::new(2, [77; 32]);
    let (now, secret) = (net.now(), net.people[0].secret.clone());
    net.machines[0].remove_contact(now, &removed);
    net.machines[0].set_secret(now, secret);
    net.act(0);
    net.befriend_with(1, 0, &[], true);
    net.say(0, State::Away, "after");
    net.secs(60);
    assert_eq!(net.sees(1, 0).mood, "after");
    assert_eq!(net.sees(2, 0).mood, "before");
    net.secs(3_600);
    assert_eq!(net.sees(2, 0).state, State::Offline, "what it had has expired");
}

#[test]
fn topics_change_daily_without_a_gap() {
    let mut net = circle();
    for _ in 0..30 {
        net.secs(3_600);
        for viewer in 0..5 {
            for owner in (0..5).filter(|owner| *owner != viewer) {
                assert_eq!(net.sees(viewer, owner).state, State::Online, "{viewer} of {owner}");
            }
        }
        assert!(net.machines.iter().all(|machine| machine.size().0 <= 10), "yesterday's topics are forgotten");
    }
}

#[test]
fn halves_of_a_network_agree_when_they_meet_again() {
    let mut net = circle();
    for (one, other) in [(0, 2), (1, 2), (1, 3), (1, 4)] {
        net.disconnect(one, other, DisconnectReason::Idle);
    }
    net.say(0, State::Away, "here");
    net.say(4, State::Dnd, "there");
    net.secs(60);
    assert_eq!((net.sees(1, 0).mood.as_str(), net.sees(3, 0).mood.as_str()), ("here", "start"));
    net.connect(1, 3);
    net.secs(20);
    for viewer in 0..5 {
        for (owner, mood) in [(0, "here"), (4, "there")] {
            if viewer != owner {
                assert_eq!(net.sees(viewer, owner).mood, mood, "{viewer} of {owner}");
            }
        }
    }
}

#[test]
fn a_device_restored_from_a_backup_goes_on_above_what_it_published() {
    let mut net = circle();
    // Another run of the same device has published far ahead, under a clock that was wrong.
    let topic = net.people[0].topic(net.now().unix);
    let ahead = net.people[0].document(NOW.0 + 50_000, net.now().unix);
    let passed = PassedDocument { place: TopicPlace::Topic(topic), hops: 1, document: ahead };
    net.inject(1, 0, vec![Part::Documents(vec![passed])]);
    net.secs(2);
    assert!(net.machines[0].sequence() > NOW.0 + 50_000);
    net.say(0, State::Away, "restored");
    net.secs(2);
    assert_eq!(net.sees(4, 0).mood, "restored");
}

#[test]
fn who_starts_again_before_anybody_noticed_is_heard_and_hears() {
    let mut excess = 0;
    // In one order or the other, the second process gives other numbers to its contacts' topics than the first.
    for (order, is_connected) in [([0, 3], false), ([3, 0], false), ([0, 3], true), ([3, 0], true)] {
        let mut net = Net::new(4, &[2]);
        let carrier = net.people[2].key();
        for other in order {
            for (one, other) in [(1, other), (other, 1)] {
                net.befriend_with(one, other, &[2], true);
                let now = net.now();
                net.machines[one].set_carriers(now, vec![carrier]);
                net.act(one);
            }
            net.say(other, State::Online, "");
            net.secs(10);
        }
        if is_connected {
            net.connect(0, 1);
        }
        net.say(1, State::Online, "");
        net.secs(30);
        let contacts = [0, 3].map(|contact| net.people[contact].contact(vec![carrier], true));
        net.restart(1, contacts.into(), vec![carrier]);
        net.say(1, State::Dnd, "again");
        net.secs(5);
        net.say(0, State::Away, "later");
        net.secs(5);
        let states = [(0, 1), (3, 1), (1, 0), (1, 3)].map(|(viewer, owner)| net.sees(viewer, owner).state);
        assert_eq!(states, [State::Dnd, State::Dnd, State::Away, State::Online], "{order:?}, connected: {is_connected}");
        excess += net.machines[2].counters().excess + net.machines[0].counters().excess;
    }
    assert_eq!(excess, 0, "nobody was taken for a flood");
}
