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

fn bob() -> UserId {
    UserId::Key(IdentityKey(PublicKey([9; 32])))
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
    let copies = devices.iter().map(|number| (device(*number), CopyState::Queued)).collect();
    OutboxItem { to: bob(), envelope: envelope(number), deadline: NOW.plus_secs(30 * 86_400), copies }
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
    outbox.handle_read(&device(1), &id, now);
    assert_eq!(actions(&mut outbox), [OutboxAction::Changed { id, state: MessageState::Read }]);
    outbox.handle_ack(&device(1), &id, DeliveryStatus::Duplicate, now);
    assert_eq!(actions(&mut outbox), [], "never backwards");
    outbox.handle_ack(&device(2), &id, DeliveryStatus::Duplicate, now);
    assert!(matches!(actions(&mut outbox)[..], [OutboxAction::Finished { state: MessageState::Read, .. }]));
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
    outbox.set_devices(&bob(), &[device(1)], now);
    assert_eq!(sends(&mut outbox), [device(1), device(1)]);
    outbox.set_devices(&bob(), &[device(1), device(2)], now);
    assert_eq!(sends(&mut outbox), [device(2), device(2)]);
    // Device 1 was removed by its owner: nothing waits for it any more.
    outbox.set_devices(&bob(), &[device(2)], now);
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
    assert_eq!(restored.copies, BTreeMap::from([(device(1), CopyState::Delivered), (device(2), CopyState::Queued)]));
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

#[test]
fn the_inbox_knows_repetitions_and_gaps_and_is_bounded() {
    let mut inbox = Inbox::new();
    assert_eq!(inbox.receive(device(1), &envelope(5)), Received::New { missing: 0 });
    assert_eq!(inbox.receive(device(1), &envelope(5)), Received::Duplicate);
    assert_eq!(inbox.receive(device(2), &envelope(5)), Received::New { missing: 0 }, "another device's id is another message");
    assert_eq!(inbox.receive(device(1), &envelope(8)), Received::New { missing: 2 });
    assert_eq!(inbox.receive(device(1), &envelope(6)), Received::New { missing: 0 }, "late, out of order");
    assert_eq!(inbox.receive(device(1), &envelope(9)), Received::New { missing: 0 });
    for number in 10..1_000 {
        inbox.receive(device(1), &envelope(number));
    }
    for number in 0..2_000u16 {
        let mut key = [0; 32];
        key[..2].copy_from_slice(&number.to_be_bytes());
        inbox.receive(DeviceKey(PublicKey(key)), &envelope(1));
    }
    assert_eq!(inbox.device_count(), INBOX_DEVICES_MAX);
    let (first, last) = (DeviceKey(PublicKey([0; 32])), device(1));
    assert!(!inbox.contains(&first, &envelope(1).id) && !inbox.contains(&last, &envelope(5).id));
}

proptest! {
    /// Whatever is lost, repeated or late: each message is new exactly once at the receiver, and the sender comes to rest.
    #[test]
    fn messages_arrive_exactly_once(
        script in proptest::collection::vec((0u8..3, any::<bool>(), any::<bool>()), 1..200),
    ) {
        let mut now = Instant::now();
        let mut outbox = Outbox::new(OutboxTimers::default());
        let mut inboxes: BTreeMap<DeviceKey, Inbox> = BTreeMap::new();
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
                let envelope = outbox.item(&id).expect("waits").envelope.clone();
                for _ in 0..=u8::from(is_repeated) {
                    let received = inboxes.entry(to).or_default().receive(device(100), &envelope);
                    new += usize::from(received != Received::Duplicate);
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
