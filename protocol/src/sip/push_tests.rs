use super::super::message::Message;
use super::super::registrar::Registrar;
use super::super::transaction::{Flow, Transport};
use super::*;
use crate::push::phone::PhonePushStatus;
use crate::time::UnixTime;
use crate::wire::Extensions;

const NOW: UnixTime = UnixTime(1_700_000_000);
const ENDPOINT: &str = "pn-provider=webpush;pn-prid=https://push.example/a%3Fb%3Dc%3Bd";

fn wish(params: &str) -> Result<PushWish, RegisterError> {
    PushWish::of(&SipUri::parse(&format!("sip:bob@192.0.2.1;{params}")).expect("a URI"))
}

fn flow(connection: u64) -> Flow {
    let transport = if connection == 0 { Transport::Udp } else { Transport::Tcp };
    Flow { transport, peer: "127.0.0.1:5060".parse().expect("one"), connection }
}

fn registered(registrar: &mut Registrar, cseq: u32, contact: &str, flow: Flow, now: UnixTime) {
    let mut request = Message::request("REGISTER", "sip:example");
    request.add("call-id", "c");
    request.add("cseq", format!("{cseq} REGISTER"));
    request.add("contact", contact);
    registrar.register("bob", &request, flow, now).expect("taken");
}

#[test]
fn parameters_of_each_service_are_read() {
    for (params, target) in [
        (ENDPOINT.to_owned(), PhoneTarget::WebPush { endpoint: "https://push.example/a?b=c;d".into() }),
        (
            "pn-provider=FCM;pn-param=my-project;pn-prid=abc:def".to_owned(),
            PhoneTarget::Fcm { project: "my-project".into(), token: "abc:def".into() },
        ),
        (
            "pn-provider=apns;pn-param=DEF123GHIJ.com.example.app.voip;pn-prid=00fF".to_owned(),
            PhoneTarget::Apns { team: "DEF123GHIJ".into(), topic: "com.example.app.voip".into(), token: vec![0, 255] },
        ),
    ] {
        let Ok(PushWish::Wake(read)) = wish(&params) else { panic!("{params}") };
        assert_eq!(read.target(), Ok(target), "{params}");
        assert!(!format!("{read:?}").contains("push.example"), "a secret");
    }
}

#[test]
fn what_no_service_can_use_is_refused() {
    let long = format!("pn-provider=webpush;pn-prid=https://push.example/{}", "a".repeat(2_000));
    for (params, status) in [
        ("pn-provider=acme;pn-prid=1", 555),
        ("pn-prid=1", 400),
        ("pn-provider=webpush", 400),
        ("pn-provider=webpush;pn-prid=ftp://push.example", 400),
        ("pn-provider=webpush;pn-prid=https://push.example/%0d%0aX", 400),
        ("pn-provider=fcm;pn-prid=abc", 400),
        ("pn-provider=apns;pn-param=nodot;pn-prid=00", 400),
        ("pn-provider=apns;pn-param=TEAM.topic;pn-prid=xyz", 400),
        (long.as_str(), 400),
    ] {
        assert_eq!(wish(params).map_err(RegisterError::status), Err(status), "{params}");
    }
    assert_eq!(wish("pn-provider"), Ok(PushWish::Query));
    assert_eq!(wish("transport=tcp"), Ok(PushWish::None));
}

#[test]
fn a_phone_is_told_what_there_is() {
    let offer = PhonePushed {
        status: PhonePushStatus::Offered,
        ways: vec![PushWay::WebPush, PushWay::Fcm],
        vapid_key: Some([4; 65]),
        extensions: Extensions::none(),
    };
    let key = data_encoding::BASE64URL_NOPAD.encode(&[4; 65]);
    let web_push = format!("*;+sip.pns=\"webpush\";+sip.vapid=\"{key}\"");
    assert_eq!(offered(&offer), [web_push.clone(), "*;+sip.pns=\"fcm\"".to_owned()]);
    let asked = [wish(ENDPOINT).expect("read")];
    assert_eq!(feature_caps(&offer, &asked, true), [format!("{web_push};+sip.pnsreg=\"120\"")]);
    assert_eq!(feature_caps(&offer, &[PushWish::None], false), [String::new(); 0]);
}

#[test]
fn who_can_be_woken_outlives_its_connection_until_its_service_says_otherwise() {
    let mut registrar = Registrar::new();
    registered(&mut registrar, 1, &format!("<sip:bob@192.0.2.1:1;{ENDPOINT}>"), flow(1), NOW);
    registered(&mut registrar, 2, "<sip:bob@192.0.2.2>", flow(1), NOW);
    registrar.flow_closed(flow(1));
    let left: Vec<bool> = registrar.bindings("bob", NOW).iter().map(|binding| binding.is_asleep).collect();
    assert_eq!(left, [true], "the other one is gone");
    registrar.keep_datagrams();
    // It comes back from another port: the same app.
    registered(&mut registrar, 3, &format!("<sip:bob@192.0.2.1:2;{ENDPOINT}>"), flow(2), NOW);
    let binding = registrar.bindings("bob", NOW).first().map(|binding| (binding.is_asleep, binding.flow));
    assert_eq!((binding, registrar.len()), (Some((false, flow(2))), 1));

    let Ok(PushWish::Wake(app)) = wish(ENDPOINT) else { panic!("read") };
    let mut open = registrar.clone();
    open.push_gone("bob", &app);
    assert_eq!(open.len(), 1, "its connection is there");
    registrar.flow_closed(flow(2));
    registrar.push_gone("bob", &app);
    assert!(registrar.is_empty());
}

#[test]
fn sleepers_are_asked_to_register_again_in_time() {
    let mut registrar = Registrar::new();
    registered(&mut registrar, 1, &format!("<sip:bob@192.0.2.1:1;{ENDPOINT}>;expires=3600"), flow(0), NOW);
    registered(&mut registrar, 2, "<sip:bob@192.0.2.2>;expires=3600", flow(0), NOW);
    assert!(registrar.to_refresh(NOW.plus_secs(3_479)).is_empty());
    assert_eq!(registrar.to_refresh(NOW.plus_secs(3_480)).len(), 1);
    registered(&mut registrar, 3, &format!("<sip:bob@192.0.2.1:1;{ENDPOINT}>;expires=60"), flow(0), NOW);
    assert!(registrar.to_refresh(NOW.plus_secs(29)).is_empty());
    assert_eq!(registrar.to_refresh(NOW.plus_secs(30)).len(), 1);
    registered(&mut registrar, 4, &format!("<sip:bob@192.0.2.1:1;{ENDPOINT}>;expires=60;+sip.pnsreg"), flow(0), NOW);
    assert!(registrar.to_refresh(NOW.plus_secs(50)).is_empty(), "it does so by itself");
}

#[test]
fn a_burst_of_events_is_one_push() {
    let Ok(PushWish::Wake(app)) = wish(ENDPOINT) else { panic!("read") };
    let start = Instant::now();
    let at = |secs| start + Duration::from_secs(secs);
    let mut waking = Waking::default();
    assert!(waking.begin("bob", &app, false, at(0)) && !waking.begin("bob", &app, false, at(54)));
    assert!(waking.begin("bob", &app, true, at(5)), "a call doesn't wait so long");
    assert!(!waking.begin("bob", &app, true, at(9)));
    assert!(waking.begin("carol", &app, false, at(9)), "another account");
    waking.end("bob", &app);
    assert!(waking.begin("bob", &app, true, at(9)), "it had come");
    waking.expire(at(70));
    assert!(waking.begin("bob", &app, false, at(70)));
}
