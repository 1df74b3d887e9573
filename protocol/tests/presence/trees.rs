//! How documents travel: over trees, and over carriers where no contact brings them.

use halloo_protocol::kademlia::DisconnectReason;
use halloo_protocol::presence::*;

use crate::net::{Net, Person, carried, circle};

#[test]
fn carriers_bring_what_no_contact_brings() {
    let mut net = carried();
    net.say(0, State::Online, "hello");
    net.secs(2);
    let shown = net.sees(1, 0);
    assert_eq!((shown.state, shown.source), (State::Online, Source::Carrier));
    net.say(0, State::Away, "");
    net.secs(1);
    assert_eq!(net.sees(1, 0).state, State::Away);
    // Who comes online gets the newest at once.
    net.disconnect(1, 3, DisconnectReason::Left);
    net.say(0, State::Dnd, "");
    net.secs(10);
    assert_eq!(net.sees(1, 0).state, State::Dnd);
}

#[test]
fn a_carrier_that_keeps_back_is_exchanged_when_the_last_word_is_over() {
    let mut net = Net::new(5, &[2, 3, 4]);
    net.befriend_with(1, 0, &[2], true);
    net.befriend_with(0, 1, &[3, 4], true);
    let now = net.now();
    let keys: Vec<_> = net.people.iter().map(Person::key).collect();
    net.machines[0].set_carriers(now, vec![keys[2]]);
    net.machines[1].set_carriers(now, vec![keys[3], keys[4]]);
    net.act(0);
    net.act(1);
    net.say(0, State::Online, "first");
    net.secs(5);
    assert_eq!(net.sees(1, 0).mood, "first");
    // One of the two brings it; which one is chance.
    let brings = |net: &Net, carrier: usize| net.machines[carrier].counters().documents > 0;
    net.withholding = vec![if brings(&net, 3) { 3 } else { 4 }];
    net.say(0, State::Away, "second");
    net.secs(10);
    assert_eq!(net.sees(1, 0).mood, "first", "it is kept back");
    net.secs(3_700);
    let shown = net.sees(1, 0);
    assert_eq!((shown.state, shown.mood.as_str()), (State::Away, "second"));
}

#[test]
fn each_document_goes_over_the_tree_once() {
    let mut net = circle();
    let before: u64 = net.machines.iter().map(|machine| machine.counters().documents).sum();
    for number in 0..10 {
        net.say(0, State::Online, &format!("{number}"));
        net.secs(5);
    }
    let sent = net.machines.iter().map(|machine| machine.counters().documents).sum::<u64>() - before;
    assert_eq!(sent, 40, "four contacts, ten times");
}

#[test]
fn a_parent_that_falls_silent_is_replaced_within_two_seconds() {
    let mut net = circle();
    net.frozen.push(1);
    net.say(0, State::Away, "news");
    net.secs(2);
    for viewer in [2, 3, 4] {
        assert_eq!(net.sees(viewer, 0).mood, "news", "{viewer}");
    }
}

#[test]
fn a_neighbour_that_promises_and_keeps_back_is_passed_over() {
    let mut net = circle();
    // 1 is played by the test: it announces everything, gives nothing.
    net.puppets.push(1);
    for round in 0..5 {
        let mood = format!("news {round}");
        for to in [3, 4] {
            let digests = (0..16).map(|slot| Digest { slot: TopicSlot(slot), sequence: u64::MAX - 1, hops: 0 }).collect();
            net.inject(1, to, vec![Part::Digests(digests)]);
        }
        net.say(0, State::Away, &mood);
        net.secs(15);
        for viewer in [3, 4] {
            assert_eq!(net.sees(viewer, 0).mood, mood, "{viewer} in round {round}");
        }
    }
}
