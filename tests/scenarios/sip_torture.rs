//! Goal: none of RFC 4475's messages harms an edge, and each is answered as `docs/sip.md` says. Method: all 49, over UDP, from one socket; after each the
//! edge must still serve.

use std::time::Duration;

use halloo_tests::Plan;
use halloo_tests::phone::PhoneAccount;
use halloo_tests::sip_client::SipClient;

/// What each is answered with; 0 for nothing. 401 and 407 are what anybody gets whose message is valid.
const EXPECTED: [(&str, u16); 49] = [
    ("wsinv", 407),
    ("intmeth", 407),
    ("esc01", 407),
    ("escnull", 401),
    ("esc02", 407),
    ("lwsdisp", 407),
    ("longreq", 407),
    ("dblreq", 401),
    ("semiuri", 407),
    ("transports", 407),
    ("mpart01", 407),
    ("unreason", 0),
    ("noreason", 0),
    ("badinv01", 400),
    ("clerr", 400),
    ("ncl", 400),
    ("scalar02", 400),
    ("scalarlg", 0),
    ("quotbal", 400),
    ("ltgtruri", 400),
    ("lwsruri", 400),
    ("lwsstart", 400),
    ("trws", 400),
    ("escruri", 400),
    ("baddate", 400),
    ("regbadct", 400),
    ("badaspec", 400),
    ("baddn", 400),
    ("badvers", 505),
    ("mismatch01", 400),
    ("mismatch02", 400),
    ("bigcode", 0),
    ("badbranch", 407),
    ("insuf", 400),
    ("unkscm", 416),
    ("novelsc", 416),
    ("unksm2", 416),
    ("bext01", 420),
    ("invut", 407),
    ("regaut01", 401),
    ("multi01", 400),
    ("mcl01", 400),
    ("bcast", 0),
    ("zeromf", 407),
    ("cparam01", 401),
    ("cparam02", 401),
    ("regescrt", 401),
    ("sdp01", 407),
    ("inv2543", 407),
];

#[test]
fn every_message_of_rfc_4475_is_answered_as_documented() {
    let mut network = Plan::new(["alice"]).args("alice", ["--sip", "127.0.0.1:0"]).start();
    let [alice] = network.users();
    let account = PhoneAccount::add(alice, "udp");
    let mut phone = SipClient::new(&account);
    let mut wrong = Vec::new();
    for (name, expected) in EXPECTED {
        let path = format!("{}/vectors/rfc4475/{name}.dat", env!("CARGO_MANIFEST_DIR"));
        let client = SipClient::new(&account);
        client.send(&std::fs::read(path).expect(name));
        let limit = if expected == 0 { Duration::from_millis(200) } else { Duration::from_secs(5) };
        let status = client.status_within(limit).unwrap_or(0);
        if status != expected {
            wrong.push(format!("{name}: {status}, not {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let register = phone.request("REGISTER", "sip:example");
    assert_eq!(phone.exchange(register).status(), 200, "the edge serves on");
}
