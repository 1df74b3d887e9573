use super::*;

const FLOW: Flow = Flow {
    transport: Transport::Udp,
    peer: SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 5060),
    connection: 0,
};

fn request(method: &str, branch: &str) -> Message {
    let mut message = Message::request(method, "sip:a@b");
    message.add("via", format!("SIP/2.0/UDP h;branch=z9hG4bK{branch}"));
    message.add("from", "<sip:x@y>;tag=1");
    message.add("to", "<sip:a@b>");
    message.add("call-id", "c");
    message.add("cseq", format!("1 {method}"));
    message
}

/// Runs until `end` and tells when something was sent, in milliseconds, and what else came out.
fn run(transactions: &mut Transactions, start: Instant, end: Duration) -> (Vec<u128>, Vec<Output>) {
    let (mut sent, mut others, mut now) = (Vec::new(), Vec::new(), start);
    loop {
        while let Some(output) = transactions.poll_output() {
            match output {
                Output::Send(..) => sent.push(now.duration_since(start).as_millis()),
                other => others.push(other),
            }
        }
        match transactions.poll_timeout() {
            Some(at) if at <= start + end => now = at.max(now),
            _ => return (sent, others),
        }
        transactions.handle_timeout(now);
    }
}

#[test]
fn an_invite_is_sent_seven_times_and_another_request_eleven_times() {
    for (method, expected) in [
        ("INVITE", vec![0, 500, 1_500, 3_500, 7_500, 15_500, 31_500]),
        ("MESSAGE", vec![0, 500, 1_500, 3_500, 7_500, 11_500, 15_500, 19_500, 23_500, 27_500, 31_500]),
    ] {
        let (mut transactions, now) = (Transactions::new(), Instant::now());
        let id = transactions.request(request(method, "1"), FLOW, now).expect("room");
        let (sent, others) = run(&mut transactions, now, Duration::from_secs(60));
        assert_eq!((sent, others), (expected, vec![Output::TimedOut(id)]), "{method}");
        assert!(transactions.is_empty());
    }
}

#[test]
fn an_answer_ends_repetition_and_a_refusal_is_acknowledged_each_time() {
    let (mut transactions, now) = (Transactions::new(), Instant::now());
    let invite = request("INVITE", "1");
    let id = transactions.request(invite.clone(), FLOW, now).expect("room");
    let ringing = Message::answer(&invite, 180, "Ringing", Some("t"));
    let busy = Message::answer(&invite, 486, "Busy Here", Some("t"));
    for response in [&ringing, &busy, &busy] {
        assert_eq!(transactions.receive(response.clone(), FLOW, now), None);
    }
    let (sent, others) = run(&mut transactions, now, Duration::from_secs(60));
    assert_eq!(sent, [0, 0, 0], "the INVITE and two ACKs");
    assert_eq!(others, [Output::Response(id, ringing), Output::Response(id, busy)]);
    assert!(transactions.is_empty());
}

#[test]
fn every_acceptance_of_an_invite_is_told() {
    let (mut transactions, now) = (Transactions::new(), Instant::now());
    let invite = request("INVITE", "1");
    let id = transactions.request(invite.clone(), FLOW, now).expect("room");
    let ok = Message::answer(&invite, 200, "OK", Some("t"));
    transactions.receive(ok.clone(), FLOW, now);
    transactions.receive(ok.clone(), FLOW, now);
    let (sent, others) = run(&mut transactions, now, Duration::from_secs(60));
    assert_eq!((sent, others), (vec![0], vec![Output::Response(id, ok.clone()), Output::Response(id, ok)]));
}

#[test]
fn an_acceptance_is_sent_until_acknowledged() {
    let (mut transactions, now) = (Transactions::new(), Instant::now());
    let invite = request("INVITE", "1");
    let ok = Message::answer(&invite, 200, "OK", Some("t"));
    let id = transactions.accept(&invite, FLOW, now).expect("room");
    transactions.respond(id, &ok, now);
    let (sent, others) = run(&mut transactions, now, Duration::from_secs(60));
    assert_eq!(sent, [0, 500, 1_500, 3_500, 7_500, 11_500, 15_500, 19_500, 23_500, 27_500, 31_500]);
    assert_eq!(others, [Output::Unacknowledged(id)]);

    let id = transactions.accept(&invite, FLOW, now).expect("room");
    transactions.respond(id, &ok, now);
    transactions.acknowledged(id);
    let (sent, others) = run(&mut transactions, now, Duration::from_secs(60));
    assert_eq!((sent, others), (vec![0], vec![]));
    assert!(transactions.is_empty());
}

#[test]
fn a_request_that_comes_again_is_answered_again_and_told_once() {
    let (mut transactions, now) = (Transactions::new(), Instant::now());
    let message = request("MESSAGE", "1");
    let new = transactions.receive(message.clone(), FLOW, now).expect("it is new");
    let id = transactions.accept(&new, FLOW, now).expect("room");
    assert_eq!(transactions.receive(message.clone(), FLOW, now), None);
    transactions.respond(id, &Message::answer(&message, 200, "OK", Some("t")), now);
    assert_eq!(transactions.receive(message.clone(), FLOW, now), None);
    let (sent, others) = run(&mut transactions, now, Duration::from_secs(60));
    assert_eq!((sent, others), (vec![0, 0], vec![]));
    assert!(transactions.receive(message, FLOW, now).is_some(), "forgotten after 64 T1");
}

#[test]
fn an_invite_is_taken_back_early_and_not_once_it_is_answered() {
    let (mut transactions, now) = (Transactions::new(), Instant::now());
    let invite = request("INVITE", "1");
    let id = transactions.accept(&invite, FLOW, now).expect("room");
    let mut cancel = request("CANCEL", "1");
    cancel.set("cseq", "1 CANCEL");
    assert_eq!(transactions.receive(cancel.clone(), FLOW, now), None);
    let (_, others) = run(&mut transactions, now, Duration::ZERO);
    assert_eq!(others, [Output::Cancelled(id)]);
    transactions.respond(id, &Message::answer(&invite, 487, "Request Terminated", Some("t")), now);
    let mut ack = request("ACK", "1");
    ack.set("cseq", "1 ACK");
    assert_eq!(transactions.receive(ack, FLOW, now), None, "the ACK to a refusal ends here");
    let (_, others) = run(&mut transactions, now, Duration::from_secs(60));
    assert_eq!(others, []);
    let stray = request("CANCEL", "2");
    assert_eq!(transactions.receive(stray.clone(), FLOW, now), Some(stray), "for nothing: 481");
}

#[test]
fn our_invite_is_taken_back() {
    let (mut transactions, now) = (Transactions::new(), Instant::now());
    let invite = request("INVITE", "1");
    let id = transactions.request(invite.clone(), FLOW, now).expect("room");
    transactions.receive(Message::answer(&invite, 180, "Ringing", Some("t")), FLOW, now);
    transactions.cancel(id, Some("SIP;cause=200;text=\"Call completed elsewhere\""), now);
    let sent: Vec<String> = std::iter::from_fn(|| transactions.poll_output())
        .filter_map(|output| match output {
            Output::Send(_, bytes) => String::from_utf8(bytes).ok(),
            _ => None,
        })
        .collect();
    assert!(sent[1].starts_with("CANCEL sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\n"), "{}", sent[1]);
    assert!(sent[1].contains("CSeq: 1 CANCEL\r\n") && sent[1].contains("Reason: SIP;cause=200"), "{}", sent[1]);
}

#[test]
fn a_flood_fills_nothing_beyond_its_bounds() {
    let (mut transactions, now) = (Transactions::new(), Instant::now());
    for n in 0..20_000 {
        let message = request("OPTIONS", &n.to_string());
        let id = transactions.accept(&message, FLOW, now).expect("answered ones make room");
        transactions.respond(id, &Message::answer(&message, 200, "OK", None), now);
        transactions.poll_output();
    }
    assert!(transactions.len() <= SERVERS_MAX);
    assert!(transactions.answered.len() <= SERVERS_MAX);
}

#[test]
fn a_plain_via_and_one_with_all_that_is_allowed_are_the_same_hop() {
    let keys = |via: &str| {
        let mut message = request("MESSAGE", "x");
        message.set("via", via);
        (server_key(&message, "MESSAGE"), client_key(&message))
    };
    let plain = keys("SIP/2.0/UDP phone.example:5060;rport;branch=z9hG4bK1");
    assert_eq!(plain, ("z9hG4bK1 phone.example:5060 MESSAGE".to_owned(), "z9hG4bK1 MESSAGE".to_owned()));
    for via in [
        "SIP / 2.0 / UDP   Phone.Example : 5060 ; rport ; branch = z9hG4bK1",
        "SIP/2.0/UDP phone.example:05060;Branch=z9hG4bK1;rport",
        "SIP/2.0/UDP phone.example:5060;branch=z9hG4bK1, SIP/2.0/UDP other:1;branch=z9hG4bK2",
    ] {
        assert_eq!(keys(via), plain, "{via}");
    }
}
