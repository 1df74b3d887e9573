//! Goal: phones see presence and write messages through the overlay, and a user's phones and devices agree on what was read. Method: Debian's baresip and a client
//! of our own at the edges of two real daemons.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use halloo_protocol::sip::message::Message;
use halloo_tests::cli::Invocation;
use halloo_tests::phone::{Phone, PhoneAccount, wait_devices};
use halloo_tests::sip_client::SipClient;
use halloo_tests::{Daemon, Plan, eventually};
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(40);
const COMPOSING: &str = "application/im-iscomposing+xml";

fn edge() -> [&'static str; 2] {
    ["--sip", "127.0.0.1:0"]
}

fn body(message: &Message) -> String {
    String::from_utf8_lossy(&message.body).into_owned()
}

fn text_to(client: &mut SipClient, to: &str, text: &str) -> u16 {
    let request = client.request("MESSAGE", to).with_body("text/plain", text);
    client.exchange(request).status()
}

fn subscribe(client: &mut SipClient, to: &str, expires: &str) -> Message {
    let mut request = client.request("SUBSCRIBE", to);
    request.add("event", "presence");
    request.add("expires", expires);
    request
}

fn publish(client: &mut SipClient, account: &PhoneAccount, activity: &str, if_match: Option<&str>) -> Message {
    let document = format!(
        "<presence xmlns='urn:ietf:params:xml:ns:pidf' xmlns:dm='urn:ietf:params:xml:ns:pidf:data-model' xmlns:r='urn:ietf:params:xml:ns:pidf:rpid' \
         entity='{}'><tuple id='a'><status><basic>open</basic></status></tuple><note>in town</note><dm:person id='p'><r:activities>{activity}</r:activities></dm:person></presence>",
        account.uri
    );
    let mut request = client.request("PUBLISH", &account.uri);
    request.add("event", "presence");
    if let Some(etag) = if_match {
        request.add("sip-if-match", etag);
    }
    request.with_body("application/pidf+xml", document)
}

fn composing(state: &str) -> String {
    format!(
        "<isComposing xmlns='urn:ietf:params:xml:ns:im-iscomposing'><state>{state}</state><refresh>60</refresh></isComposing>"
    )
}

#[track_caller]
fn shows_presence(seen_by: &Daemon, user: &str, state: &str) {
    eventually(PATIENCE, &format!("{user} is {state}"), || {
        let view = seen_by.api().get(&format!("/v1/presence/contacts/{user}"))?;
        if view["state"] == state { Ok(()) } else { Err(view.to_string()) }
    });
}

#[track_caller]
fn has_unread(of: &Daemon, with: &str, count: u64) {
    eventually(PATIENCE, &format!("{count} unread of {with}"), || {
        let list = of.api().get("/v1/conversations")?;
        let found = list["conversations"].as_array().into_iter().flatten().find(|entry| entry["with"] == with);
        let unread = found.and_then(|entry| entry["unread"].as_u64());
        if unread == Some(count) { Ok(()) } else { Err(list.to_string()) }
    });
}

#[test]
fn phones_at_two_nodes_see_each_other_write_and_agree_on_what_was_read() {
    let mut network = Plan::new(["alice", "bob"]).args("alice", edge()).args("bob", edge()).start();
    let folder = tempfile::tempdir().expect("a folder");
    network.befriend(&network.users[0], &network.users[1]);
    let [alice, bob] = network.users();
    let theirs = PhoneAccount::add(bob, "udp");
    eventually(PATIENCE, "bob's account is in the directory", || {
        let found = alice.api().get(&format!("/v1/users/{}?fresh=true", bob.username))?;
        if found["devices"].as_array().map(Vec::len) == Some(2) { Ok(()) } else { Err(found.to_string()) }
    });
    let accounts = [PhoneAccount::add(alice, "udp"), theirs];
    let mut phone = Phone::messaging(folder.path(), "alice-phone", &accounts[0], &accounts[1].uri);
    let mut client = SipClient::new(&accounts[1]);
    client.register();

    // Presence: bob's phone says that he is busy; alice's phone is told, and so is her native device.
    let busy = publish(&mut client, &accounts[1], "<r:busy/>", None);
    let published = client.exchange(busy);
    assert_eq!(published.status(), 200, "{published:?}");
    let etag = published.get("sip-etag").expect("a name").to_owned();
    shows_presence(alice, &bob.username, "dnd");
    eventually(PATIENCE, "alice's phone is told that bob is busy", || {
        let log = phone.log();
        if log.contains("<rpid:busy/>") { Ok(()) } else { Err(log) }
    });
    // What was named before isn't any more; what is taken away isn't said any more.
    let stale = publish(&mut client, &accounts[1], "<r:away/>", Some("nonsense"));
    assert_eq!(client.exchange(stale).status(), 412);
    let mut gone = client.request("PUBLISH", &accounts[1].uri);
    gone.add("event", "presence");
    gone.add("sip-if-match", etag);
    gone.add("expires", "0");
    assert_eq!(client.exchange(gone).status(), 200);
    shows_presence(alice, &bob.username, "online");

    // Messages: from phone to phone, and read on one is read on the other.
    phone.tell("message", "hallo from a phone");
    let message = client.take("MESSAGE", |message| body(message) == "hallo from a phone");
    assert_eq!(message.from().expect("a sender").uri, "sip:alice@example");
    assert_eq!(message.get("p-asserted-identity"), Some("\"alice\" <sip:alice@example>"));
    has_unread(bob, &alice.username, 0);
    assert_eq!(text_to(&mut client, "sip:alice@example", "hallo back"), 202);
    eventually(PATIENCE, "alice's phone has it", || {
        let log = phone.log();
        if log.contains("hallo back") { Ok(()) } else { Err(log) }
    });

    // That somebody writes goes through as well, both ways; nobody keeps it, and who doesn't let others know what was read doesn't tell this either.
    let writes = client.request("MESSAGE", "sip:alice@example").with_body(COMPOSING, composing("active"));
    assert_eq!(client.exchange(writes).status(), 200);
    let heard = alice.wait_event(PATIENCE, "composing", |_| true);
    assert_eq!((&heard["from"], &heard["for_secs"]), (&json!(bob.username), &json!(60)));
    for (option, state) in [(&[][..], "active"), (&["--stop"], "idle")] {
        let told = Invocation::new(alice.home()).args(["msg", "typing", &bob.username]).args(option).run().ok();
        assert_eq!(told["told"], true);
        let word = client.take("MESSAGE", |message| message.get("content-type") == Some(COMPOSING));
        assert!(body(&word).contains(&format!("<state>{state}</state>")), "{word:?}");
        assert_eq!(word.from().expect("a sender").uri, "sip:alice@example");
    }
    alice.cli(["privacy", "set", "--receipts", "off"]).ok();
    assert_eq!(alice.cli(["msg", "typing", &bob.username]).ok()["told"], false);

    // Bob's phone is off, so a message waits for it; one that bob reads on his native device meanwhile isn't for it any more.
    let mut off = client.request("REGISTER", "sip:example");
    off.add("expires", "0");
    assert_eq!(client.exchange(off).status(), 200);
    alice.cli(["msg", "send", &bob.username, "read elsewhere"]).ok();
    has_unread(bob, &alice.username, 1);
    bob.api().post("/v1/conversations/read", &json!({"with": alice.username})).expect("marked");
    alice.cli(["msg", "send", &bob.username, "kept for the phone"]).ok();
    has_unread(bob, &alice.username, 1);
    // Devices tell each other what was read within a second; nothing shows when a phone's account has heard it.
    std::thread::sleep(Duration::from_secs(3));
    client.register();
    let kept = client.take("MESSAGE", |_| true);
    assert_eq!(body(&kept), "kept for the phone", "once each, and not what was read elsewhere");
    has_unread(bob, &alice.username, 0);
}

#[test]
fn subscriptions_tell_nothing_of_strangers_and_end_as_they_are_asked_to() {
    let mut network = Plan::new(["alice", "bob", "carol"]).args("alice", edge()).start();
    network.befriend(&network.users[0], &network.users[1]);
    let [alice, _bob, _carol] = network.users();
    let account = PhoneAccount::add(alice, "udp");
    let mut client = SipClient::new(&account);
    let state = |notice: &Message| notice.get("subscription-state").unwrap_or_default().to_owned();

    // Whoever isn't a contact, there or not, is pending; nobody was asked by that.
    for stranger in ["sip:carol@example", "sip:nobody@example"] {
        let request = subscribe(&mut client, stranger, "600");
        let answer = client.exchange(request);
        assert_eq!((answer.status(), answer.get("expires")), (200, Some("600")), "{answer:?}");
        let notice = client.take("NOTIFY", |notice| notice.call_id() == answer.call_id());
        assert!(state(&notice).starts_with("pending") && notice.body.is_empty(), "{notice:?}");
    }
    let contacts = alice.cli(["contact", "list"]).ok();
    assert!(!contacts.to_string().contains("carol"), "{contacts}");

    // A contact is told, until the phone ends it, within its dialogue alone.
    let request = subscribe(&mut client, "sip:bob@example", "600");
    let answer = client.exchange(request.clone());
    let notice = client.take("NOTIFY", |notice| state(notice).starts_with("active"));
    assert!(body(&notice).contains("entity=\"sip:bob@example\"") && body(&notice).contains("<basic>"), "{notice:?}");
    let mut end = subscribe(&mut client, "sip:bob@example", "0");
    for name in ["call-id", "from"] {
        end.set(name, answer.get(name).expect("it has one"));
    }
    let mut other = end.clone();
    end.set("to", answer.get("to").expect("it has one"));
    other.set("to", "<sip:bob@example>;tag=another");
    assert_eq!(client.exchange(other).status(), 481);
    assert_eq!(client.exchange(end).status(), 200);
    client.take("NOTIFY", |notice| state(notice) == "terminated;reason=timeout");

    // All contacts in one.
    let mut list = subscribe(&mut client, "sip:alice@example", "600");
    list.add("supported", "eventlist");
    let answer = client.exchange(list);
    assert_eq!((answer.status(), answer.get("require")), (200, Some("eventlist")));
    let notice = client.take("NOTIFY", |notice| notice.get("require") == Some("eventlist"));
    assert!(notice.get("content-type").is_some_and(|kind| kind.starts_with("multipart/related")), "{notice:?}");
    for part in ["<resource uri=\"sip:bob@example\">", "fullState=\"true\"", "entity=\"sip:bob@example\""] {
        assert!(body(&notice).contains(part), "{part}: {}", body(&notice));
    }

    // What can't be: another event, too brief, another's presence or name.
    let mut dialog = subscribe(&mut client, "sip:bob@example", "600");
    dialog.set("event", "dialog");
    let refused = client.exchange(dialog);
    assert_eq!((refused.status(), refused.get("allow-events")), (489, Some("presence")));
    let brief = subscribe(&mut client, "sip:bob@example", "5");
    let refused = client.exchange(brief);
    assert_eq!((refused.status(), refused.get("min-expires")), (423, Some("60")));
    let bob = PhoneAccount { uri: "sip:bob@example".to_owned(), ..account.clone() };
    let others = publish(&mut client, &bob, "<r:away/>", None);
    assert_eq!(client.exchange(others).status(), 403);
    let mut liar = client.request("MESSAGE", "sip:bob@example").with_body("text/plain", "I am bob");
    liar.set("from", "<sip:bob@example>;tag=x");
    assert!(matches!(client.exchange(liar).status(), 403 | 407), "alice's password opens nothing of bob's");
    let picture = client.request("MESSAGE", "sip:bob@example").with_body("image/png", "x");
    assert_eq!(client.exchange(picture).status(), 415);
}

#[test]
fn what_waits_for_a_phone_comes_once_and_a_killed_node_loses_none_of_it() {
    /// More than are held for a phone at once.
    const COUNT: usize = 80;
    let mut network = Plan::new(["alice", "bob"]).args("bob", edge()).start();
    network.befriend(&network.users[0], &network.users[1]);
    let [alice, bob] = network.users();
    let account = PhoneAccount::add(bob, "udp");
    wait_devices(alice, &bob.username, 2);
    let mut client = SipClient::new(&account);
    // An account that was just made hears from its user's other devices who is a contact: only those are told what was read.
    client.register();
    eventually(PATIENCE, "a contact is told what the phone has taken", || {
        let sent = alice.api().post("/v1/messages", &json!({"to": bob.username, "text": "knock"}))?;
        client.take("MESSAGE", |_| true);
        let deadline = Instant::now() + Duration::from_secs(3);
        while Instant::now() < deadline {
            let list = alice.api().get(&format!("/v1/messages?with={}&limit=200", bob.username))?;
            let mut entries = list["messages"].as_array().into_iter().flatten();
            if entries.any(|entry| entry["id"] == sent["id"] && entry["state"] == "read") {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err("it isn't".to_owned())
    });
    client.register_for(0);
    let all: BTreeSet<String> = (0..COUNT).map(|number| format!("number {number}")).collect();
    for text in &all {
        alice.api().post("/v1/messages", &json!({"to": bob.username, "text": text})).expect("sent");
    }
    has_unread(bob, &alice.username, COUNT as u64);

    // Killed after the phone has taken most of them, which may not be noted yet. Requests that come again, as datagrams do, are the same ones.
    client.register();
    let (mut taken, requests) = (BTreeSet::new(), RefCell::new(BTreeSet::new()));
    let is_new = |message: &Message| requests.borrow_mut().insert(message.call_id().to_owned());
    for _ in 0..COUNT - 10 {
        let message = client.take("MESSAGE", is_new);
        assert!(taken.insert(body(&message)), "once each: {message:?}");
    }
    bob.kill();
    let address = account.address().to_string();
    bob.restart_with(&["--sip", &address]);
    client.register();
    while taken.len() < COUNT {
        taken.insert(body(&client.take("MESSAGE", is_new)));
    }
    assert_eq!(taken, all);

    // It is noted in the end, for the user's other device and the author; whoever registers now gets nothing of it.
    has_unread(bob, &alice.username, 0);
    eventually(PATIENCE, "alice sees that all were read", || {
        let list = alice.api().get(&format!("/v1/messages?with={}&limit=200", bob.username))?;
        let unread = list["messages"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|entry| entry["state"] != "read" && entry["text"] != "knock")
            .count();
        if unread == 0 { Ok(()) } else { Err(format!("{unread} aren't: {list}")) }
    });
    let mut other = SipClient::new(&account);
    other.register();
    alice.api().post("/v1/messages", &json!({"to": bob.username, "text": "the last one"})).expect("sent");
    assert_eq!(body(&other.take("MESSAGE", |_| true)), "the last one");
}
