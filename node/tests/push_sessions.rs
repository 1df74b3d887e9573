//! Goal: a gateway gets the right ones of a user's clients to open a session, in modes A, B and C, and clients take requests of nobody else, and each once.
//! Method: three devices of bob's at a gateway whose key the test knows, so that it can sign what the gateway wouldn't send.

use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use halloo::Node;
use halloo::handle::authority::{EnrolOptions, InviteOptions};
use halloo::handle::events::Event;
use halloo::handle::push::{PushChannel, PushTarget};
use halloo::handle::push_sessions::{
    PushAcceptance, PushApplication, PushSessionBrought, PushSessionChoice, PushSessionClient, PushSessionOptions,
    PushSessionReport, PushSettingsChange, PushSubscription,
};
use halloo::identity::LocalIdentity;
use halloo::store::Store;
use halloo_protocol::directory::Helper;
use halloo_protocol::identity::{UserId, Username};
use halloo_protocol::key::{DeviceKey, SecretKey};
use halloo_protocol::node::Roles;
use halloo_protocol::push::session::encapsulation::Encapsulation;
use halloo_protocol::push::session::{Asks, Sends, SessionInitiation, SessionMode, SessionNonce};
use halloo_protocol::time::UnixTime;
use halloo_protocol::wire::{Extensions, Signed};

const DEADLINE: Duration = Duration::from_secs(30);
const IMEI: &str = "imei:490154203237518";
const UUID: &str = "uuid:urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6";

fn now() -> UnixTime {
    UnixTime(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs())
}

fn gateway_key() -> SecretKey {
    SecretKey::from_bytes([91; 32])
}

async fn ready(node: &Node) {
    event(node, |event| matches!(event, Event::Ready(_)).then_some(())).await;
}

/// What `wanted` makes of the first event it takes.
async fn event<T>(node: &Node, wanted: impl Fn(&Event) -> Option<T>) -> T {
    let mut events = node.subscribe_after(0);
    let wait = async {
        while let Some(record) = events.recv().await {
            if let Some(found) = wanted(&record.event) {
                return found;
            }
        }
        panic!("the node ended");
    };
    tokio::time::timeout(DEADLINE, wait).await.expect("in time")
}

async fn gateway() -> Node {
    let store = Store::in_memory().expect("memory");
    let identity = LocalIdentity::in_memory(&store, SecretKey::from_bytes([90; 32]), gateway_key(), now()).expect("an identity");
    let roles = Roles::AUTHORITY.union(Roles::DIRECTORY).union(Roles::GATEWAY);
    let node = Node::builder(identity).store(store).lab(true).role(roles).spawn().await.expect("starts");
    ready(&node).await;
    node
}

/// A device of bob's.
async fn device(gateway: &Node, number: u8) -> Node {
    let store = Store::in_memory().expect("memory");
    let keys = (SecretKey::from_bytes([50; 32]), SecretKey::from_bytes([number; 32]));
    let identity = LocalIdentity::in_memory(&store, keys.0, keys.1, now()).expect("an identity");
    let builder = Node::builder(identity).store(store).mdns(false).upnp(false).lab(true).languages(vec!["de".into()]);
    let node = builder.listen("/ip4/127.0.0.1/tcp/0".parse().expect("an address")).spawn().await.expect("starts");
    let invite = gateway.authority().invite(InviteOptions::default()).await.expect("an invite");
    let options = EnrolOptions { username: "bob@example".into(), invite: Some(invite.code) };
    node.enrol(options).await.expect("enrolled");
    ready(&node).await;
    node
}

fn mail() -> PushApplication {
    PushApplication { id: "org.example.mail".into(), name: "Mail".into() }
}

async fn set(node: &Node, change: PushSettingsChange) {
    node.push().change_settings(change).await.expect("changed");
}

async fn peer_id(node: &Node) -> String {
    node.status().await.expect("a status").peer_id
}

/// The phone (with an IMEI) and the laptop (with a UUID) are subscribed, the tablet isn't.
async fn cast() -> (Node, [Node; 3]) {
    let gateway = gateway().await;
    let devices = [device(&gateway, 51).await, device(&gateway, 52).await, device(&gateway, 53).await];
    let subscription = PushSubscription { gateway: peer_id(&gateway).await, applications: vec![] };
    for (device, identifier) in devices.iter().zip([Some(IMEI), Some(UUID), None]) {
        set(
            device,
            PushSettingsChange {
                subscribe: identifier.map(|_| subscription.clone()),
                identifiers: Some(identifier.map(str::to_owned).into_iter().collect()),
                applications: Some(vec![mail()]),
                ..PushSettingsChange::default()
            },
        )
        .await;
        let target = PushTarget { channel: PushChannel::Stream {}, gateway: None };
        device.push().register(target).await.expect("registered");
    }
    (gateway, devices)
}

fn order(devices: &[&str]) -> PushSessionOptions {
    PushSessionOptions {
        identity: "bob".into(),
        devices: devices.iter().map(|text| (*text).to_owned()).collect(),
        application: Some(mail()),
        ask: Asks::NAMED.iter().map(|(_, name)| (*name).to_owned()).collect(),
        content: Some("you have mail".into()),
        ..PushSessionOptions::default()
    }
}

async fn outcome<'a>(report: &'a PushSessionReport, node: &Node) -> (&'a PushSessionClient, &'a str) {
    let peer = peer_id(node).await;
    let client = report.clients.iter().find(|client| client.peer_id == peer).unwrap_or_else(|| panic!("{report:?}"));
    (client, &client.outcome)
}

#[tokio::test]
async fn the_client_that_is_wanted_opens_a_session_and_the_others_are_left_alone() {
    let (gateway, [phone, laptop, tablet]) = cast().await;
    let report = gateway.push().request_sessions(order(&[IMEI])).await.expect("a report");
    assert_eq!(report.mode, "A", "{report:?}");
    let (client, word) = outcome(&report, &phone).await;
    assert_eq!(word, "open", "{report:?}");
    assert_eq!(client.answers["capabilities"]["applications"][0]["id"], "org.example.mail", "{report:?}");
    assert_eq!(client.answers["capabilities"]["languages"][0], "de");
    assert_eq!(client.answers["preferences"]["sessions"], "always");
    assert_eq!(client.answers["subscription"]["gateway"], peer_id(&gateway).await);
    assert!(client.answers["security"]["clock"].is_string());
    for other in [&laptop, &tablet] {
        let (client, word) = outcome(&report, other).await;
        assert_eq!((word, client.reason.as_deref()), ("left", Some("not wanted")), "{report:?}");
    }
    let id = event(&phone, |event| match event {
        Event::PushSessionRequested { id, status, application, .. } => {
            assert_eq!((status.as_str(), application.as_ref()), ("opening", Some(&mail())));
            Some(id.clone())
        }
        _ => None,
    })
    .await;
    event(&phone, |event| matches!(event, Event::PushSessionOpened { id: opened, .. } if *opened == id).then_some(())).await;
    let activated =
        |event: &Event| matches!(event, Event::PushApplicationActivated { application, .. } if *application == mail());
    event(&phone, |event| activated(event).then_some(())).await;
    let mailed = BASE64URL_NOPAD.encode(b"you have mail");
    event(&phone, |event| matches!(event, Event::PushContent { content, .. } if *content == mailed).then_some(())).await;
    event(&gateway, |event| matches!(event, Event::PushSessionOpened { id: opened, .. } if *opened == id).then_some(())).await;

    // To all of them: who is there already gets the content, and nobody is asked twice.
    let report = gateway.push().request_sessions(order(&[])).await.expect("a report");
    assert_eq!(report.mode, "B", "{report:?}");
    assert_eq!(outcome(&report, &phone).await.1, "delivered", "{report:?}");
    assert_eq!(outcome(&report, &laptop).await.1, "open", "{report:?}");
    let (client, word) = outcome(&report, &tablet).await;
    assert_eq!((word, client.reason.as_deref()), ("left", Some("not subscribed")), "{report:?}");
    assert_eq!(
        gateway
            .push()
            .request_sessions(PushSessionOptions { identity: "carol".into(), ..order(&[]) })
            .await
            .map(|_| ())
            .expect_err("nobody")
            .to_string(),
        "no client of this identity is registered here"
    );
}

#[tokio::test]
async fn where_an_identifier_is_unknown_the_clients_compare() {
    let (gateway, [phone, laptop, tablet]) = cast().await;
    let report = gateway.push().request_sessions(order(&[IMEI, "badge:7"])).await.expect("a report");
    assert_eq!(report.mode, "C", "{report:?}");
    assert_eq!(outcome(&report, &phone).await.1, "open", "{report:?}");
    let (client, word) = outcome(&report, &laptop).await;
    assert_eq!((word, client.reason.as_deref()), ("ignored", Some("for another client")), "{report:?}");
    assert_eq!(outcome(&report, &tablet).await.1, "left", "{report:?}");
    let refused = phone.push().request_sessions(order(&[])).await.expect_err("no gateway");
    assert!(refused.to_string().contains("gateway"), "{refused}");
}

/// A request for bob's clients as the gateway would sign it, or somebody else.
fn signed(key: &SecretKey, authority: &str, nonce: u8, at: UnixTime) -> Signed<SessionInitiation> {
    let gateway = DeviceKey(key.public());
    let initiation = SessionInitiation {
        gateway,
        nonce: SessionNonce([nonce; 16]),
        created_at: at,
        expires_at: at.plus_secs(60),
        mode: SessionMode::All,
        identity: UserId::Named { authority: authority.parse().expect("a key"), name: Username::new("bob").expect("a name") },
        identifiers: vec![],
        server: Helper { device: gateway, addresses: vec![] },
        application: None,
        asks: Asks::default(),
        sends: Sends::default(),
        content: vec![],
        extensions: Extensions::none(),
    };
    Signed::sign(initiation, key)
}

async fn take(node: &Node, way: Encapsulation, request: &Signed<SessionInitiation>) -> (String, Option<String>) {
    let messages = way.encode(request).expect("fits").iter().map(|message| BASE64URL_NOPAD.encode(message)).collect();
    let brought = PushSessionBrought { encapsulation: way.name().into(), messages, sender: "+41".into() };
    let taken = node.push().take_session_request(brought).await.expect("taken");
    (taken.status, taken.reason)
}

#[tokio::test]
async fn requests_of_strangers_late_ones_and_replays_are_ignored_on_every_bearer() {
    let (gateway, [phone, laptop, tablet]) = cast().await;
    let authority = gateway.authority().show().await.expect("an authority").key;
    let mallory = SecretKey::from_bytes([66; 32]);
    let ignored = |reason: &str| ("ignored".to_owned(), Some(reason.to_owned()));
    let opening = ("opening".to_owned(), None);
    for (way, nonce) in Encapsulation::ALL.into_iter().zip(1..) {
        assert_eq!(take(&phone, way, &signed(&mallory, &authority, nonce, now())).await, ignored("not-subscribed"), "{way:?}");
        let good = signed(&gateway_key(), &authority, nonce, now());
        assert_eq!(take(&phone, way, &good).await, opening, "{way:?}");
        assert_eq!(take(&phone, way, &good).await, ignored("replayed"), "{way:?}");
        assert_eq!(take(&tablet, way, &good).await, ignored("not-subscribed"), "{way:?}");
        let late = signed(&gateway_key(), &authority, 100 + nonce, now().minus_secs(1_000));
        assert_eq!(take(&phone, way, &late).await, ignored("expired"), "{way:?}");
    }
    // The gateway knows of none of these: whoever comes for one gets no session.
    let opened = |event: &Event| matches!(event, Event::PushSessionOpened { .. });
    let marker = gateway.push().request_sessions(order(&[UUID])).await.expect("a report");
    assert_eq!(outcome(&marker, &laptop).await.1, "open", "{marker:?}");
    let mut events = phone.subscribe_after(0);
    while let Ok(Some(record)) = tokio::time::timeout(Duration::from_millis(200), events.recv()).await {
        assert!(!opened(&record.event), "{record:?}");
    }
    let broken = PushSessionBrought { encapsulation: "sms".into(), messages: vec!["AAAA".into()], sender: String::new() };
    assert!(phone.push().take_session_request(broken).await.is_err());
}

#[tokio::test]
async fn the_user_is_asked_if_they_want_to_be() {
    let (gateway, [phone, laptop, _tablet]) = cast().await;
    set(&laptop, PushSettingsChange { sessions: Some(PushAcceptance::Ask), ..PushSettingsChange::default() }).await;
    let report = gateway.push().request_sessions(order(&[UUID])).await.expect("a report");
    assert_eq!(outcome(&report, &laptop).await.1, "asking", "{report:?}");
    let id = event(&laptop, |event| match event {
        Event::PushSessionRequested { id, status, .. } if status == "asking" => Some(id.clone()),
        _ => None,
    })
    .await;
    let yes = laptop.push().answer_session_request(&id, PushSessionChoice { accept: true }).await.expect("answered");
    assert_eq!(yes.status, "opening");
    event(&laptop, |event| matches!(event, Event::PushSessionOpened { .. }).then_some(())).await;
    assert!(laptop.push().answer_session_request(&id, PushSessionChoice { accept: true }).await.is_err(), "once");

    set(&phone, PushSettingsChange { sessions: Some(PushAcceptance::Ask), ..PushSettingsChange::default() }).await;
    let authority = gateway.authority().show().await.expect("an authority").key;
    let asked = take(&phone, Encapsulation::Wsp, &signed(&gateway_key(), &authority, 9, now())).await;
    assert_eq!(asked.0, "asking");
    let id = SessionNonce([9; 16]).to_string();
    let no = phone.push().answer_session_request(&id, PushSessionChoice { accept: false }).await.expect("answered");
    assert_eq!((no.status.as_str(), no.reason.as_deref()), ("refused", Some("user")));
    set(&phone, PushSettingsChange { sessions: Some(PushAcceptance::Never), ..PushSettingsChange::default() }).await;
    let refused = take(&phone, Encapsulation::Wsp, &signed(&gateway_key(), &authority, 10, now())).await;
    assert_eq!(refused, ("refused".to_owned(), Some("preference".to_owned())));
}
