//! Goal: a call reaches a device that nobody can dial, over the stream it keeps to its gateway (application-layer push), and neither a decline nor the
//! caller's giving up needs another way.
//! Method: bob's node publishes no address and holds no relay; only his gateway has a connection to him. Alice, who is no contact, calls; bob's
//! device rings from the payload. What the two say before an answer goes by the gateway: they are never connected.

use std::time::Duration;

use halloo::handle::authority::{EnrolOptions, InviteOptions};
use halloo::handle::calls::{CallResult, DialOptions};
use halloo::handle::contacts::{Audience, PrivacyChange};
use halloo::handle::directory::ResolveOptions;
use halloo::handle::events::Event;
use halloo::handle::push::{PushChannel, PushTarget};
use halloo::store::Store;
use halloo::{Node, fresh_identity};
use halloo_protocol::node::Roles;

const DEADLINE: Duration = Duration::from_secs(30);

async fn ready(node: &Node) {
    let mut events = node.subscribe_after(0);
    let wait = async {
        while let Some(record) = events.recv().await {
            if matches!(record.event, Event::Ready(_)) {
                return;
            }
        }
        panic!("the node ended before it was ready");
    };
    tokio::time::timeout(DEADLINE, wait).await.expect("ready in time");
}

/// The node that enrols, keeps the directory and pushes.
async fn infrastructure() -> Node {
    let store = Store::in_memory().expect("memory");
    let identity = fresh_identity(&store).expect("keys");
    let roles = Roles::AUTHORITY.union(Roles::DIRECTORY).union(Roles::GATEWAY);
    let node = Node::builder(identity).store(store).lab(true).role(roles).spawn().await.expect("starts");
    ready(&node).await;
    node
}

/// A user's node. One that isn't in the lab publishes no loopback address, so nobody can dial it.
async fn user(infrastructure: &Node, name: &str, in_lab: bool) -> Node {
    let store = Store::in_memory().expect("memory");
    let identity = fresh_identity(&store).expect("keys");
    let builder = Node::builder(identity).store(store).mdns(false).upnp(false).lab(in_lab);
    // Alice is nobody's contact here: how the device is woken stands in the entry for everybody.
    let builder = builder.privacy(PrivacyChange::all(Audience::Anyone));
    let node = builder.listen("/ip4/127.0.0.1/tcp/0".parse().expect("an address")).spawn().await.expect("starts");
    let invite = infrastructure.authority().invite(InviteOptions::default()).await.expect("an invite");
    let options = EnrolOptions { username: format!("{name}@example"), invite: Some(invite.code) };
    node.enrol(options).await.expect("enrolled");
    ready(&node).await;
    node
}

async fn next_incoming(node: &Node) -> (String, bool) {
    let mut events = node.subscribe_after(0);
    loop {
        let record = tokio::time::timeout(DEADLINE, events.recv()).await.expect("rings in time").expect("the node runs");
        if let Event::CallIncoming { call_id, via_push, .. } = record.event {
            return (call_id, via_push);
        }
    }
}

/// The gateway, bob, whom nobody but his gateway reaches, and alice, who is in the lab.
async fn cast() -> (Node, Node, Node) {
    let infrastructure = infrastructure().await;
    let bob = user(&infrastructure, "bob", false).await;
    let target = PushTarget { channel: PushChannel::Stream {}, gateway: None };
    bob.push().register(target).await.expect("registered");
    // The gateway's handle travels in bob's directory entry: wait until it is published.
    let published = async {
        loop {
            let found =
                infrastructure.directory().resolve("bob", ResolveOptions { fresh: true, settled: true }).await.expect("found");
            assert!(found.devices.iter().all(|device| device.addresses.is_empty()), "bob's addresses aren't published");
            let reports = infrastructure.why("bob").await.expect("explained");
            if reports.checks.iter().any(|check| check.name == "gateway") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(DEADLINE, published).await.expect("published in time");
    // Only now, so that bob's node never heard of hers and holds no connection to it.
    let alice = user(&infrastructure, "alice", true).await;
    (infrastructure, bob, alice)
}

/// Waits until a call is over at a node, and says how it ended.
async fn ended(node: &Node, call: &str) -> CallResult {
    let mut events = node.subscribe_after(0);
    loop {
        let record = tokio::time::timeout(DEADLINE, events.recv()).await.expect("over in time").expect("the node runs");
        if let Event::CallEnded(outcome) = record.event
            && outcome.call_id == call
        {
            return outcome.outcome;
        }
    }
}

/// Whether a node has been connected to bob's. Events come in order: all before the end of the call have come.
async fn has_met_bob(node: &Node, call: &str) -> bool {
    let mut events = node.subscribe_after(0);
    loop {
        let record = tokio::time::timeout(DEADLINE, events.recv()).await.expect("over in time").expect("the node runs");
        match record.event {
            Event::PeerUp { username, .. } if username.as_deref().is_some_and(|name| name.starts_with("bob@")) => return true,
            Event::CallEnded(outcome) if outcome.call_id == call => return false,
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_device_nobody_can_dial_rings_through_its_gateway() {
    let (_infrastructure, bob, alice) = cast().await;
    let answer = async {
        let (call_id, via_push) = next_incoming(&bob).await;
        assert!(via_push);
        bob.calls().decline(&call_id).await.expect("still ringing");
    };
    let calls = alice.calls();
    let (outcome, ()) = tokio::join!(calls.dial(DialOptions::to("bob")), answer);
    let outcome = outcome.expect("a call");
    assert_eq!(outcome.outcome, CallResult::Declined);
    assert!(outcome.ring_ms.is_some());
    assert!(!has_met_bob(&alice, &outcome.call_id).await, "the caller is no contact, and bob hasn't answered");
}

#[tokio::test]
async fn a_caller_who_gives_up_is_heard_by_a_device_nobody_can_dial() {
    let (_infrastructure, bob, alice) = cast().await;
    let give_up = async {
        let mut events = alice.subscribe_after(0);
        loop {
            let record = tokio::time::timeout(DEADLINE, events.recv()).await.expect("rings in time").expect("the node runs");
            if let Event::CallRinging { call_id, .. } = record.event {
                alice.calls().hangup(&call_id).await.expect("the call is there");
                return call_id;
            }
        }
    };
    let calls = alice.calls();
    let (outcome, call) = tokio::join!(calls.dial(DialOptions::to("bob")), give_up);
    assert_eq!(outcome.expect("a call").outcome, CallResult::Cancelled);
    // Long before the invite's time is over, which would be another outcome.
    assert_eq!(ended(&bob, &call).await, CallResult::Cancelled);
    assert!(!has_met_bob(&alice, &call).await, "bob hasn't answered");
}
