//! Outbox and inbox.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::identity::UserId;
use crate::key::{DeviceKey, IdentityKey, PublicKey};
use crate::test_identity::NOW;
use crate::wire;

fn device(number: u8) -> DeviceKey {
    DeviceKey(PublicKey([number; 32]))
}

fn bobs_key() -> IdentityKey {
    IdentityKey(PublicKey([9; 32]))
}

fn bob() -> UserId {
    UserId::Key(bobs_key())
}

fn envelope(number: u64) -> Envelope {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&number.to_be_bytes());
    Envelope {
        id: MessageId(id),
        conversation: ConversationId([1; 16]),
        counter: number,
        sent_at: NOW,
        body: MessageBody::Text(format!("message {number}")),
        extensions: Extensions::none(),
    }
}

fn item(number: u64, devices: &[u8]) -> OutboxItem {
    let copies = devices.iter().map(|number| (device(*number), Copy::to(0))).collect();
    let with = Correspondent::User(bob());
    let deadline = NOW.plus_secs(30 * 86_400);
    OutboxItem { to: vec![bob().into()], own: None, with, envelope: envelope(number), deadline, copies }
}

fn actions(outbox: &mut Outbox) -> Vec<OutboxAction> {
    std::iter::from_fn(|| outbox.poll_action()).collect()
}

fn sends(outbox: &mut Outbox) -> Vec<DeviceKey> {
    let to_device = |action| match action {
        OutboxAction::Send { device, .. } => Some(device),
        _ => None,
    };
    actions(outbox).into_iter().filter_map(to_device).collect()
}

#[test]
fn every_device_gets_its_copy_and_one_delivery_is_a_delivered_message() {
    let now = Instant::now();
    let mut outbox = Outbox::new(OutboxTimers::default());
    let id = envelope(1).id;
    outbox.push(item(1, &[1, 2]), now).expect("room");
    let send = |number| OutboxAction::Send { device: device(number), id };
    assert_eq!(actions(&mut outbox), [send(1), send(2)], "on a stream it is no farther than here");
    outbox.handle_ack(&device(1), &id, DeliveryStatus::Accepted, now);
    assert_eq!(actions(&mut outbox), [OutboxAction::Changed { id, state: MessageState::Delivered }]);
    outbox.handle_ack(&device(1), &id, DeliveryStatus::Duplicate, now);
    assert_eq!(actions(&mut outbox), [], "never backwards");
    assert_eq!(outbox.item(&id).expect("waits").state_with(|_| true), MessageState::Read);
    outbox.handle_ack(&device(2), &id, DeliveryStatus::Duplicate, now);
    assert!(matches!(actions(&mut outbox)[..], [OutboxAction::Finished { state: MessageState::Delivered, .. }]));
    assert!(outbox.is_empty());
    assert_eq!(outbox.poll_timeout(), None);
}

#[test]
fn a_copy_in_a_mailbox_is_sent_and_goes_on_being_tried() {
    let now = Instant::now();
    let mut outbox = Outbox::new(OutboxTimers::default());
    let id = envelope(1).id;
    outbox.push(item(1, &[1]), now).expect("room");
    assert_eq!(sends(&mut outbox), [device(1)]);
    outbox.handle_failed(&device(1), &id, now);
    outbox.handle_left(&device(1), &id, now);
    assert_eq!(actions(&mut outbox), [OutboxAction::Changed { id, state: MessageState::Sent }]);
    let later = now + Duration::from_secs(5);
    outbox.handle_timeout(later, NOW);
    assert_eq!(sends(&mut outbox), [device(1)]);
    outbox.handle_failed(&device(1), &id, later);
    assert_eq!(outbox.item(&id).expect("waits").state(), MessageState::Sent, "a failed try takes nothing out of the mailbox");
    outbox.handle_ack(&device(1), &id, DeliveryStatus::Duplicate, later);
    outbox.handle_left(&device(1), &id, later);
    assert!(matches!(actions(&mut outbox)[..], [OutboxAction::Finished { state: MessageState::Delivered, .. }]));
}

#[test]
fn copies_are_repeated_with_growing_pauses_and_at_once_when_a_device_is_back() {
    let start = Instant::now();
    let mut outbox = Outbox::new(OutboxTimers::default());
    outbox.push(item(1, &[1]), start).expect("room");
    let mut times = Vec::new();
    while times.len() < 12 {
        if !sends(&mut outbox).is_empty() {
            times.push(outbox.poll_timeout().expect("waits"));
        }
        outbox.handle_timeout(outbox.poll_timeout().expect("waits"), NOW);
    }
    let pauses: Vec<u64> = times.windows(2).map(|pair| (pair[1] - pair[0]).as_secs()).collect();
    assert_eq!(pauses, [4, 8, 16, 32, 64, 128, 256, 512, 600, 600, 600]);
    let now = times[11] + Duration::from_secs(1);
    sends(&mut outbox);
    outbox.handle_reachable(&device(2), now);
    assert!(sends(&mut outbox).is_empty());
    outbox.handle_reachable(&device(1), now);
    assert_eq!(sends(&mut outbox), [device(1)]);
}

#[test]
fn devices_are_asked_for_and_later_ones_get_a_copy_too() {
    let now = Instant::now();
    let mut outbox = Outbox::new(OutboxTimers::default());
    outbox.push(item(1, &[]), now).expect("room");
    outbox.push(item(2, &[]), now).expect("room");
    assert_eq!(actions(&mut outbox).len(), 2, "one question each, as each came");
    outbox.set_devices(&bob(), &bobs_key(), &[device(1)], now);
    assert_eq!(sends(&mut outbox), [device(1), device(1)]);
    outbox.set_devices(&bob(), &bobs_key(), &[device(1), device(2)], now);
    assert_eq!(sends(&mut outbox), [device(2), device(2)]);
    // Device 1 was removed by its owner: nothing waits for it any more.
    outbox.set_devices(&bob(), &bobs_key(), &[device(2)], now);
    outbox.handle_ack(&device(2), &envelope(1).id, DeliveryStatus::Accepted, now);
    assert!(actions(&mut outbox).iter().any(|action| matches!(action, OutboxAction::Finished { .. })));
    assert_eq!(outbox.len(), 1);
}

#[test]
fn refusal_deadline_and_unreachable_recipients_end_in_failure() {
    let now = Instant::now();
    let mut outbox = Outbox::new(OutboxTimers::default());
    for (number, devices) in [(1, &[1][..]), (2, &[1]), (3, &[])] {
        outbox.push(item(number, devices), now).expect("room");
    }
    let refused = DeliveryStatus::Refused(crate::call::Reason::NOT_ALLOWED);
    outbox.handle_ack(&device(1), &envelope(1).id, refused, now);
    let ended = |outbox: &mut Outbox| {
        let is_failed = |action: &OutboxAction| matches!(action, OutboxAction::Finished { state: MessageState::Failed, .. });
        actions(outbox).iter().filter(|action| is_failed(action)).count()
    };
    assert_eq!(ended(&mut outbox), 1);
    let full = DeliveryStatus::Refused(crate::call::Reason::TOO_MANY);
    outbox.handle_ack(&device(1), &envelope(2).id, full, now);
    assert_eq!(outbox.len(), 2, "room may come");
    let deadline = NOW.plus_secs(30 * 86_400);
    outbox.handle_timeout(now, deadline);
    assert_eq!(ended(&mut outbox), 0);
    outbox.handle_timeout(now, deadline.plus_secs(1));
    assert_eq!(ended(&mut outbox), 2);
}

#[test]
fn a_failed_try_is_queued_again_and_items_survive_a_restart() {
    let now = Instant::now();
    let mut outbox = Outbox::new(OutboxTimers::default());
    let id = envelope(1).id;
    outbox.push(item(1, &[1, 2]), now).expect("room");
    outbox.handle_ack(&device(1), &id, DeliveryStatus::Accepted, now);
    outbox.handle_failed(&device(2), &id, now);
    let stored = wire::encode(outbox.item(&id).expect("waits"));
    let restored: OutboxItem = wire::decode(&stored, 64 * 1024).expect("own bytes");
    assert_eq!(restored.copies.values().map(|copy| copy.state).collect::<Vec<_>>(), [CopyState::Delivered, CopyState::Queued]);
    let mut outbox = Outbox::new(OutboxTimers::default());
    outbox.push(restored, now).expect("room");
    assert_eq!(sends(&mut outbox), [device(2)], "the delivered copy isn't sent again");
}

#[test]
fn the_outbox_is_bounded_and_takes_no_nonsense() {
    let now = Instant::now();
    let mut outbox = Outbox::new(OutboxTimers::default());
    for number in 1..=1_024 {
        outbox.push(item(number, &[1]), now).expect("room");
    }
    assert_eq!(outbox.push(item(2_000, &[1]), now), Err(OutboxError::Full));
    assert_eq!(outbox.push(item(5, &[1]), now), Err(OutboxError::Duplicate(envelope(5).id)));
    let mut long = item(3_000, &[1]);
    long.envelope.body = MessageBody::Text("x".repeat(TEXT_BYTES_MAX + 1));
    assert!(matches!(outbox.push(long, now), Err(OutboxError::Invalid(_))));
    outbox.handle_ack(&device(7), &envelope(5).id, DeliveryStatus::Accepted, now);
    outbox.handle_ack(&device(1), &envelope(9_999).id, DeliveryStatus::Accepted, now);
    assert_eq!(outbox.len(), 1_024, "acknowledgements of strangers change nothing");
}

fn user(number: u8) -> (UserId, IdentityKey) {
    let identity = IdentityKey(PublicKey([number; 32]));
    (UserId::Key(identity), identity)
}

/// A text to a group of these users, from user 100.
fn to_group(number: u64, users: &[u8]) -> OutboxItem {
    let recipient = |number: &u8| {
        let (user, identity) = user(*number);
        Recipient { user, identity: Some(identity) }
    };
    OutboxItem {
        to: users.iter().map(recipient).collect(),
        own: Some(user(100).0),
        with: Correspondent::Group(crate::id::GroupId([3; 16])),
        envelope: envelope(number),
        deadline: NOW.plus_secs(86_400),
        copies: BTreeMap::new(),
    }
}

fn resolved(outbox: &mut Outbox) -> Vec<UserId> {
    let to_user = |action| match action {
        OutboxAction::Resolve { to } => Some(to),
        _ => None,
    };
    actions(outbox).into_iter().filter_map(to_user).collect()
}

#[test]
fn a_group_gets_a_copy_per_device_and_is_as_far_as_the_last_member() {
    let now = Instant::now();
    let mut outbox = Outbox::new(OutboxTimers::default());
    outbox.push(to_group(1, &[1, 2]), now).expect("room");
    let id = envelope(1).id;
    assert_eq!(resolved(&mut outbox), [user(1).0, user(2).0, user(100).0]);
    outbox.set_devices(&user(1).0, &user(1).1, &[device(11), device(12)], now);
    outbox.set_devices(&user(2).0, &user(9).1, &[device(66)], now);
    assert_eq!(sends(&mut outbox), [device(11), device(12)], "a name under another key isn't the member");
    outbox.set_devices(&user(2).0, &user(2).1, &[device(21)], now);
    outbox.set_devices(&user(100).0, &user(100).1, &[device(101)], now);
    assert_eq!(sends(&mut outbox), [device(21), device(101)]);
    outbox.handle_ack(&device(11), &id, DeliveryStatus::Accepted, now);
    outbox.handle_ack(&device(101), &id, DeliveryStatus::Accepted, now);
    let item = outbox.item(&id).expect("waits").clone();
    assert_eq!(item.state(), MessageState::Queued, "own devices don't count, and 2 hasn't got it");
    let of_members: Vec<_> = item.members(|reader| *reader == user(1).0).map(|(_, state)| state).collect();
    assert_eq!(of_members, [MessageState::Read, MessageState::Queued]);
    assert_eq!((item.user_of(&device(21)), item.user_of(&device(101))), (Some(&user(2).0), Some(&user(100).0)));
    assert_eq!(item.envelope_for(&device(21)), item.envelope);
    let MessageBody::Own(signal) = item.envelope_for(&device(101)).body else { panic!("a copy") };
    let OwnSignal::Sent(copy) = *signal else { panic!("of what was sent") };
    assert_eq!((copy.with, copy.counter), (item.with.clone(), 1));
    assert_eq!(wire::decode::<MessageBody>(&copy.body, 1_000), Ok(item.envelope.body));
    outbox.handle_ack(&device(12), &id, DeliveryStatus::Accepted, now);
    outbox.handle_ack(&device(21), &id, DeliveryStatus::Refused(crate::call::Reason::NOT_ALLOWED), now);
    let ended = actions(&mut outbox).into_iter().last();
    assert!(
        matches!(ended, Some(OutboxAction::Finished { state: MessageState::Delivered, .. })),
        "who refuses doesn't count: {ended:?}"
    );
}

/// A name may be another's by the time that its devices are found: they get nothing, and whoever wrote is told why.
#[test]
fn a_message_for_one_key_goes_to_no_other_that_has_the_name() {
    let now = Instant::now();
    let mut outbox = Outbox::new(OutboxTimers::default());
    let (name, meant) = user(1);
    let other = user(9).1;
    for (number, identity) in [(1, Some(meant)), (2, Some(meant)), (3, None)] {
        let to = Recipient { user: name.clone(), identity };
        outbox.push(OutboxItem::to_recipient(to, envelope(number), NOW.plus_secs(86_400)), now).expect("room");
    }
    outbox.push(to_group(4, &[1]), now).expect("room");
    actions(&mut outbox);
    outbox.set_devices(&name, &other, &[device(66)], now);
    let sent: Vec<_> = actions(&mut outbox);
    assert!(
        matches!(&sent[..], [OutboxAction::Send { device: to, id }] if *to == device(66) && *id == envelope(3).id),
        "what is for whoever has the name alone: {sent:?}"
    );
    let waiting: Vec<_> = outbox.for_other_key(&name, &other).collect();
    assert_eq!(waiting, [envelope(1).id, envelope(2).id], "groups see to their members themselves");
    assert_eq!(outbox.for_other_key(&name, &meant).count(), 0);

    outbox.refuse(&envelope(1).id, &[device(66)], crate::call::Reason::OTHER_IDENTITY, now);
    let Some(OutboxAction::Finished { state, item }) = outbox.poll_action() else { panic!("it is given up") };
    assert_eq!(state, MessageState::Failed);
    assert_eq!(item.copies[&device(66)].state, CopyState::Failed(crate::call::Reason::OTHER_IDENTITY));
    assert_eq!(outbox.poll_action(), None);
    // The name is theirs again before the other is given up.
    outbox.set_devices(&name, &meant, &[device(11)], now);
    assert_eq!(sends(&mut outbox), [device(11); 3], "theirs, what is for anybody of the name, and the group's");
    assert_eq!(outbox.for_other_key(&name, &other).count(), 1, "not all have got it");
}

#[test]
fn own_devices_that_are_away_hold_nothing_up() {
    let now = Instant::now();
    let mut outbox = Outbox::new(OutboxTimers::default());
    let own = |number| OutboxItem { own: Some(user(100).0), ..item(number, &[1]) };
    outbox.push(own(1), now).expect("room");
    let id = envelope(1).id;
    outbox.handle_ack(&device(1), &id, DeliveryStatus::Accepted, now);
    outbox.set_devices(&user(100).0, &user(100).1, &[device(101)], now);
    assert_eq!(outbox.len(), 1, "the own device is to get it");
    outbox.handle_left(&device(101), &id, now);
    assert!(outbox.is_empty(), "it lies in the own device's mailbox");
    for number in 2..=1_000 {
        outbox.push(own(number), now).expect("there is always room");
        outbox.handle_ack(&device(1), &envelope(number).id, DeliveryStatus::Accepted, now);
    }
    assert_eq!(outbox.len(), OWN_ONLY_MAX);
    outbox.set_devices(&user(100).0, &user(100).1, &[], now);
    assert!(outbox.is_empty(), "there are none any more");
    // Nobody else is in the group: nothing to wait for.
    outbox.push(OutboxItem { own: None, ..to_group(2_000, &[]) }, now).expect("room");
    assert!(matches!(actions(&mut outbox).last(), Some(OutboxAction::Finished { state: MessageState::Delivered, .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn copies_are_bounded(members in 1_u8..64, devices in 1_u8..40) {
        let now = Instant::now();
        let mut outbox = Outbox::new(OutboxTimers::default());
        let users: Vec<u8> = (1..=members).collect();
        outbox.push(to_group(1, &users), now).expect("room");
        for round in 0..4_u8 {
            for number in &users {
                let devices: Vec<DeviceKey> = (0..devices).map(|place| DeviceKey(PublicKey([[*number, place, round, 1].as_slice(), &[0; 28]].concat().try_into().expect("32 bytes")))).collect();
                let (user, identity) = user(*number);
                outbox.set_devices(&user, &identity, &devices, now);
            }
        }
        let item = outbox.item(&envelope(1).id).expect("waits");
        prop_assert!(item.copies.len() <= COPIES_MAX);
        prop_assert!(item.members(|_| false).count() == usize::from(members));
        prop_assert!(wire::encoded_len(item) < 64 * 1024);
    }
}

proptest! {
    /// Whatever is lost, repeated or late: each message is new exactly once at the receiver, and the sender comes to rest.
    #[test]
    fn messages_arrive_exactly_once(
        script in proptest::collection::vec((0u8..3, any::<bool>(), any::<bool>()), 1..200),
    ) {
        let mut now = Instant::now();
        let mut outbox = Outbox::new(OutboxTimers::default());
        let mut seen = std::collections::BTreeSet::new();
        let mut new = 0;
        for number in 1..=3 {
            outbox.push(item(number, &[1, 2]), now).expect("room");
        }
        let mut script = script.into_iter();
        for _ in 0..1_000 {
            while let Some(action) = outbox.poll_action() {
                let OutboxAction::Send { device: to, id } = action else { continue };
                let (loss, is_repeated, is_ack_lost) = script.next().unwrap_or((1, false, false));
                if loss == 0 {
                    outbox.handle_failed(&to, &id, now);
                    continue;
                }
                let envelope = outbox.item(&id).expect("waits").envelope_for(&to);
                for _ in 0..=u8::from(is_repeated) {
                    new += usize::from(seen.insert((to, envelope.id)));
                    if !is_ack_lost {
                        outbox.handle_ack(&to, &id, DeliveryStatus::Accepted, now);
                    }
                }
            }
            let Some(next) = outbox.poll_timeout() else { break };
            now = next;
            outbox.handle_timeout(now, NOW);
        }
        prop_assert!(outbox.is_empty());
        prop_assert_eq!(new, 6);
    }
}
