//! Goal: what a newer version adds passes through an older one unharmed. Method: a record and a message with extensions
//! that no version knows, through a daemon; the extensions are read back byte by byte, a critical one is refused.

use std::time::Duration;

use halloo_protocol::directory::DeviceEntry;
use halloo_protocol::id::{ConversationId, MessageId};
use halloo_protocol::identity::UserId;
use halloo_protocol::kademlia::StoreRefusal;
use halloo_protocol::message::{Content, DeliveryStatus, Envelope, MessageAck, MessageBody, MessageDeliver};
use halloo_protocol::wire::{self, Extensions, FrameKind, Message};
use halloo_tests::attacker::{Attacker, Forger, Sealer, now, record_key};
use halloo_tests::{Network, eventually};

const UNKNOWN: u16 = 0x0777;
const CRITICAL: u16 = 0x8777;
const CONTENT: &[u8] = b"from a version to come";
const ARRIVAL_TIME_MAX: Duration = Duration::from_secs(10);

fn unknown() -> Extensions {
    Extensions::none().with(UNKNOWN, CONTENT.to_vec())
}

#[test]
fn a_record_with_unknown_extensions_passes_through_unharmed() {
    let mut network = Network::of(["alice", "mallory"]);
    let forger = Forger::of_user(&network, &network.users[1], 1);
    network.users[1].kill();
    let entry = DeviceEntry { extensions: unknown(), ..forger.entry(1) };
    let mut record = forger.record(forger.parts(entry));
    record.extensions = unknown();
    let mut writer = Attacker::connect(&network.bootstrap(), &forger.device, &forger.hello(None));
    writer.store(&record).expect("unknown extensions are no reason to refuse");

    // The next reader gets it through a daemon that didn't get it from us.
    let [alice, mallory] = network.users.as_slice() else { panic!("two users") };
    let found = alice.cli(["resolve", &mallory.username, "--fresh", "--settled"]).ok();
    let peer = halloo::address::peer_id(&forger.device_key()).expect("a key").to_string();
    let devices = found["devices"].as_array().expect("a list");
    assert!(devices.iter().any(|device| device["peer_id"] == peer.as_str()), "{found}");
    let key = record_key(&network, mallory);
    let held = writer.find_record(key).expect("held");
    let parts = held.entries.iter().find(|parts| parts.device() == forger.device_key()).expect("our entry");
    assert_eq!(parts.entry().extensions.find(UNKNOWN), Some(CONTENT));
    assert_eq!(held.extensions.find(UNKNOWN), Some(CONTENT));
    assert!(parts.entry.verify(&forger.device_key().0).is_ok(), "the signature still covers what was sent");

    let critical = DeviceEntry { extensions: Extensions::none().with(CRITICAL, vec![]), ..forger.entry(2) };
    let refused = writer.store(&forger.record(forger.parts(critical))).expect_err("must be understood, and isn't");
    assert_eq!(refused.0, StoreRefusal::Invalid, "{refused:?}");
}

#[test]
fn a_message_with_unknown_extensions_is_delivered() {
    let mut network = Network::of(["alice", "mallory"]);
    let forger = Forger::of_user(&network, &network.users[1], 1);
    network.users[1].kill();
    let [alice, mallory] = network.users.as_slice() else { panic!("two users") };
    let mut writer = Attacker::connect(&alice.addresses()[0], &forger.device, &forger.hello(None));
    let mut reader = Attacker::connect(&network.bootstrap(), &forger.device, &forger.hello(None));
    let record = reader.find_record(record_key(&network, alice)).expect("alice is in the directory");
    let mut sealer = Sealer::new(&forger, &record);
    let mut message = |number: u8, extensions: Extensions| {
        let content = sealer.seal(&Envelope {
            id: MessageId([number; 16]),
            conversation: conversation(&network),
            counter: u64::from(number),
            sent_at: now(),
            body: MessageBody::Text(format!("message {number}")),
            extensions: extensions.clone(),
        });
        MessageDeliver { content, extensions }
    };
    let first = message(1, unknown());
    let answer: MessageAck = writer.ask(&first).expect("a message answer");
    assert_eq!(answer.status, DeliveryStatus::Accepted);
    let answer: MessageAck = writer.ask(&first).expect("a message answer");
    assert_eq!(answer.status, DeliveryStatus::Duplicate, "a repetition is acknowledged and not shown again");
    alice.wait_event(ARRIVAL_TIME_MAX, "message_received", |event| event["text"] == "message 1");

    let critical = message(2, Extensions::none().with(CRITICAL, vec![]));
    let answer = writer.ask_raw(MessageDeliver::KIND, wire::encode(&critical));
    assert_eq!(answer.kind, FrameKind::UNSUPPORTED, "what must be understood and isn't is told, not dropped");
    let answer: MessageAck = writer.ask(&message(3, Extensions::none())).expect("the stream goes on");
    assert_eq!(answer.status, DeliveryStatus::Accepted);
    eventually(ARRIVAL_TIME_MAX, "two messages, each once", || {
        let list = alice.api().get(&format!("/v1/messages?with={}", mallory.username))?;
        let texts: Vec<&str> = list["messages"].as_array().into_iter().flatten().filter_map(|m| m["text"].as_str()).collect();
        if texts == ["message 1", "message 3"] { Ok(()) } else { Err(list.to_string()) }
    });
    unencrypted_messages_are_refused(&network, &mut writer);
    strangers_messages_are_refused(&network);
}

/// Who publishes keys isn't taken back to messages that the relays' connections alone protect.
fn unencrypted_messages_are_refused(network: &Network, writer: &mut Attacker) {
    let envelope = Envelope {
        id: MessageId([50; 16]),
        conversation: conversation(network),
        counter: 50,
        sent_at: now(),
        body: MessageBody::Text("in the open".to_owned()),
        extensions: Extensions::none(),
    };
    let message = MessageDeliver { content: Content::Plain(envelope), extensions: Extensions::none() };
    let answer: MessageAck = writer.ask(&message).expect("a message answer");
    assert_eq!(answer.status, DeliveryStatus::Unencrypted);
}

fn conversation(network: &Network) -> ConversationId {
    let authority = network.authority.api().get("/v1/authority").expect("the authority shows itself");
    let authority = authority["key"].as_str().expect("a key").parse().expect("a key");
    let user = |name: &str| UserId::Named { authority, name: name.parse().expect("a username") };
    ConversationId::of_pair(&user("alice"), &user("mallory"))
}

/// Who shows no certificate writes to nobody.
fn strangers_messages_are_refused(network: &Network) {
    use halloo_tests::attacker::{key, stranger_hello};
    let alice = &network.users[0];
    let mut stranger = Attacker::connect(&alice.addresses()[0], &key(99), &stranger_hello());
    let message = MessageDeliver {
        content: Content::Plain(Envelope {
            id: MessageId([99; 16]),
            conversation: conversation(network),
            counter: 1,
            sent_at: now(),
            body: MessageBody::Text("psst".to_owned()),
            extensions: Extensions::none(),
        }),
        extensions: Extensions::none(),
    };
    let answer: MessageAck = stranger.ask(&message).expect("a message answer");
    assert!(matches!(answer.status, DeliveryStatus::Refused(_)), "{answer:?}");
}
