//! Phones that are nothing but a socket and a description, bridged to calls between real nodes in this process.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use halloo::calls::media::tone::{dominant_frequency, tone, write_tone};
use halloo::handle::calls::{AnswerOptions, CallOutcome, CallResult, DialOptions};
use halloo::sip::media::{AudioCodec, Hold, LegEvent, PhoneLeg, PhoneMedia, PhoneMediaConfig, Security};
use halloo::testnet::{Network, NetworkOptions, UserOptions};
use halloo::{Event, EventStream, Node};
use halloo_protocol::phone::rtp::Header;
use halloo_protocol::phone::sdes::{Crypto, MasterKey, Suite};
use halloo_protocol::phone::sdp::Description;
use halloo_protocol::phone::srtp::{Opener, Protector};
use tokio::net::UdpSocket;

const LOCAL: &str = "127.0.0.1";
/// No event takes longer.
const PATIENCE: Duration = Duration::from_secs(20);
/// Bytes of 20 ms of G.711.
const FRAME_BYTES: usize = 160;

/// A phone: it has a description, and sends and takes RTP.
struct Phone {
    socket: UdpSocket,
    /// Where the edge takes its packets.
    edge: Option<SocketAddr>,
    payload_type: u8,
    /// The number of its next packet, without end.
    index: u64,
    timestamp: u32,
    keys: Option<(MasterKey, Protector, Option<Opener>)>,
}

impl Phone {
    async fn new(payload_type: u8, is_secure: bool) -> Self {
        let key = MasterKey::random(Suite::Aes128Sha1Of80, &mut rand::rng());
        let protector = Protector::new(Suite::Aes128Sha1Of80, &key).unwrap();
        Self {
            socket: UdpSocket::bind((LOCAL, 0)).await.unwrap(),
            edge: None,
            payload_type,
            index: 65_500,
            timestamp: u32::MAX - 1_000,
            keys: is_secure.then_some((key, protector, None)),
        }
    }

    /// Its description, with these lines at the end.
    fn sdp(&self, lines: &str) -> String {
        let (port, number) = (self.socket.local_addr().unwrap().port(), self.payload_type);
        let (transport, crypto) = match &self.keys {
            Some((key, ..)) => {
                let crypto = Crypto { tag: 1, suite: Suite::Aes128Sha1Of80, key: key.clone() };
                ("RTP/SAVP", format!("a=crypto:{}\r\n", crypto.to_value()))
            }
            None => ("RTP/AVP", String::new()),
        };
        format!(
            "v=0\r\no=- 1 1 IN IP4 {LOCAL}\r\ns=-\r\nc=IN IP4 {LOCAL}\r\nt=0 0\r\nm=audio {port} {transport} {number}\r\n{crypto}{lines}"
        )
    }

    /// What the edge has said.
    fn take(&mut self, sdp: &str) {
        let description = Description::parse(sdp.as_bytes()).unwrap();
        let section = &description.sections[0];
        self.edge = Some(SocketAddr::new(LOCAL.parse().unwrap(), section.port));
        if let Some((.., opener)) = &mut self.keys {
            let crypto = &section.keys[0];
            *opener = Opener::new(crypto.suite, &crypto.key);
        }
    }

    /// One packet further.
    fn skip(&mut self) {
        self.index += 1;
        self.timestamp = self.timestamp.wrapping_add(FRAME_BYTES as u32);
    }

    async fn send(&mut self, payload: &[u8]) {
        let mut packet = Vec::new();
        let header = Header {
            payload_type: self.payload_type,
            marker: false,
            sequence: self.index as u16,
            timestamp: self.timestamp,
            ssrc: 77,
            payload_at: 12,
            is_padded: false,
        };
        header.write(payload, &mut packet);
        if let Some((_, protector, _)) = &mut self.keys {
            assert!(protector.protect(self.index, &mut packet));
        }
        self.skip();
        self.socket.send_to(&packet, self.edge.unwrap()).await.unwrap();
    }

    /// The next packet of media.
    async fn receive(&mut self) -> (Header, Vec<u8>) {
        let mut datagram = [0; 2_000];
        let receive = self.socket.recv_from(&mut datagram);
        let (length, source) = tokio::time::timeout(PATIENCE, receive).await.expect("a packet in time").unwrap();
        assert_eq!(Some(source), self.edge);
        let length = match &mut self.keys {
            Some((.., opener)) => opener.as_mut().unwrap().open(&mut datagram[..length]).unwrap(),
            None => length,
        };
        let header = Header::parse(&datagram[..length]).unwrap();
        let payload = datagram[header.payload(&datagram[..length]).unwrap()].to_vec();
        (header, payload)
    }
}

fn frame(index: usize) -> Vec<u8> {
    (0..FRAME_BYTES).map(|place| (place * 31 + index * 7) as u8).collect()
}

async fn event<T>(events: &mut EventStream, wanted: impl Fn(&Event) -> Option<T>) -> T {
    let found = async {
        loop {
            let record = events.recv().await.expect("the node runs");
            if let Some(found) = wanted(&record.event) {
                return found;
            }
        }
    };
    tokio::time::timeout(PATIENCE, found).await.expect("an event in time")
}

async fn next(leg: &mut PhoneLeg) -> LegEvent {
    let event = tokio::time::timeout(PATIENCE, leg.next_event()).await;
    event.expect("an event in time").expect("the leg goes on")
}

/// The codec of the call, once it is answered.
async fn agreed(leg: &mut PhoneLeg) -> AudioCodec {
    match next(leg).await {
        LegEvent::Agreed(agreed) => agreed.codec,
        other => panic!("{other:?}"),
    }
}

async fn network(late_media: bool) -> (Network, PhoneMedia) {
    let mut network = Network::start(NetworkOptions::default()).await.unwrap();
    network.add_user("alice").await.unwrap();
    // As an edge does: what is connected while it rings is of no use to it.
    let bob = ("bob".to_owned(), UserOptions { late_media, ..UserOptions::default() });
    network.add_users([bob]).await.unwrap();
    network.befriend("alice", "bob").await.unwrap();
    (network, PhoneMedia::new(PhoneMediaConfig { ports: 22_000..=22_199, advertised: None }))
}

async fn open(media: &PhoneMedia, security: Security) -> PhoneLeg {
    media.open(LOCAL.parse::<IpAddr>().unwrap(), security).await.unwrap()
}

fn dial(node: &Node, options: DialOptions) -> tokio::task::JoinHandle<CallOutcome> {
    let node = node.clone();
    tokio::spawn(async move { node.calls().dial(options).await.unwrap() })
}

async fn dialling(events: &mut EventStream) -> String {
    event(events, |event| match event {
        Event::CallDialing { call_id, .. } => Some(call_id.clone()),
        _ => None,
    })
    .await
}

async fn incoming(events: &mut EventStream) -> String {
    event(events, |event| match event {
        Event::CallIncoming { call_id, .. } => Some(call_id.clone()),
        _ => None,
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_phones_behind_two_nodes_get_each_others_bytes() {
    let (network, media) = network(true).await;
    let (alice, bob) = (network.node("alice").unwrap(), network.node("bob").unwrap());
    let (mut at_alice, mut at_bob) = (alice.subscribe(), bob.subscribe());
    // The caller's phone is plain, the other's encrypted.
    let (mut caller, mut callee) = (Phone::new(0, false).await, Phone::new(0, true).await);

    let mut caller_leg = open(&media, Security::Accepted).await;
    let offer = caller_leg.take_offer(caller.sdp("").as_bytes()).unwrap();
    assert_eq!(offer.codecs, [AudioCodec::Pcmu]);
    let outcome = dial(alice, DialOptions { passthrough: offer.codecs, ..DialOptions::to("bob@test") });
    let call = dialling(&mut at_alice).await;
    caller_leg.bridge(alice.calls().audio(&call).await.unwrap());
    assert!(alice.calls().audio(&call).await.is_err(), "it is taken");

    let rang = incoming(&mut at_bob).await;
    let offered = bob.calls().offered_audio(&rang).await.unwrap();
    assert_eq!(offered, [AudioCodec::Pcmu]);
    let mut callee_leg = open(&media, Security::Required).await;
    callee.take(&callee_leg.offer(&offered).unwrap());
    let codec = callee_leg.take_answer(callee.sdp("").replace("crypto:1", "crypto:2").as_bytes()).unwrap();
    bob.calls().answer(&rang, AnswerOptions { passthrough: vec![codec], ..AnswerOptions::default() }).await.unwrap();
    callee_leg.bridge(bob.calls().audio(&rang).await.unwrap());

    assert_eq!((agreed(&mut caller_leg).await, agreed(&mut callee_leg).await), (AudioCodec::Pcmu, AudioCodec::Pcmu));
    caller.take(&caller_leg.answer(AudioCodec::Pcmu).unwrap());
    assert_eq!((next(&mut caller_leg).await, next(&mut callee_leg).await), (LegEvent::Connected, LegEvent::Connected));
    let answer = callee_leg.agreed().unwrap().keys.clone().unwrap();
    callee.keys.as_mut().unwrap().2 = Opener::new(answer.suite, &answer.to_phone);

    let mut last: Option<Header> = None;
    for index in 0..100 {
        // One of ten is lost on its way from the phone.
        if index % 10 == 5 {
            caller.skip();
            continue;
        }
        caller.send(&frame(index)).await;
        let (header, payload) = callee.receive().await;
        assert_eq!(payload, frame(index));
        let step = if index % 10 == 6 { 2 } else { 1 };
        if let Some(last) = last {
            assert_eq!((header.sequence.wrapping_sub(last.sequence), header.ssrc), (step, last.ssrc), "a gap stays one");
        }
        last = Some(header);
        callee.send(&frame(index + 500)).await;
        assert_eq!(caller.receive().await.1, frame(index + 500));
    }

    // The caller's phone holds: it isn't sent anything, and misses nothing afterwards.
    let before = {
        callee.send(&frame(1)).await;
        caller.receive().await.0
    };
    assert_eq!(caller_leg.reanswer(caller.sdp("a=inactive\r\n").as_bytes()).unwrap().hold, Hold::Inactive);
    for index in 0..20 {
        callee.send(&frame(index)).await;
    }
    let dropped = async {
        while caller_leg.stats().to_phone.dropped < 20 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, dropped).await.expect("nothing is sent to it");
    assert_eq!(caller_leg.reanswer(caller.sdp("a=sendrecv\r\n").as_bytes()).unwrap().hold, Hold::Active);
    caller.send(&frame(3)).await;
    assert_eq!(callee.receive().await.1, frame(3));
    callee.send(&frame(4)).await;
    let (after, payload) = caller.receive().await;
    assert_eq!((payload, after.sequence.wrapping_sub(before.sequence)), (frame(4), 1));

    alice.calls().hangup(&call).await.unwrap();
    let outcome = outcome.await.unwrap();
    assert_eq!((outcome.outcome, outcome.codec), (CallResult::Completed, Some(AudioCodec::Pcmu)), "{outcome:?}");
    eprintln!("media {:?} ms after the answer", outcome.setup_ms);
    let stages = bob.calls().show(&rang).await.unwrap().stages;
    assert!(stages.iter().all(|stage| !stage.detail.contains("while it ring")), "{stages:?}");
    for leg in [&mut caller_leg, &mut callee_leg] {
        while next(leg).await != LegEvent::Ended {}
        // It is over and stays known, once, also until its last words are acknowledged.
        for (node, id) in [(alice, &call), (bob, &rang)] {
            let listed = node.calls().list().await.unwrap().calls;
            assert_eq!(listed.iter().filter(|entry| entry.call_id == *id).count(), 1, "{listed:?}");
            assert_eq!(node.calls().show(id).await.unwrap().call_id, *id);
        }
    }
    let (from, to) = (caller_leg.close().await, callee_leg.close().await);
    eprintln!("{from:?}\n{to:?}");
    assert_eq!((from.from_phone.packets, from.from_phone.lost, from.is_secure), (91, 10, false));
    assert_eq!((to.to_phone.packets, to.to_phone.lost, to.is_secure), (91, 10, true));
    assert!(from.from_phone.delay_mean_us > 0.0 && to.to_phone.delay_mean_us > 0.0);
    network.shutdown().await;
}

/// µ-law (ITU-T G.711), by the formula.
fn decode(byte: u8) -> i16 {
    let byte = !byte;
    let magnitude = ((i32::from(byte & 15) * 8 + 132) << (byte >> 4 & 7)) - 132;
    if byte & 128 == 0 { magnitude as i16 } else { -magnitude as i16 }
}

/// The byte whose sample is nearest.
fn encode(sample: i16) -> u8 {
    (0..=255).min_by_key(|byte| decode(*byte).abs_diff(sample)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_phone_without_opus_talks_to_somebody_without_phone() {
    let (network, media) = network(false).await;
    let (alice, bob) = (network.node("alice").unwrap(), network.node("bob").unwrap());
    let (mut at_alice, mut at_bob) = (alice.subscribe(), bob.subscribe());
    let file = |name: &str| network.scratch().join(name);
    write_tone(file("660.wav"), 660.0, Duration::from_secs(10), 48_000).unwrap();

    let mut phone = Phone::new(0, false).await;
    let mut leg = open(&media, Security::Accepted).await;
    let offer = leg.take_offer(phone.sdp("").as_bytes()).unwrap();
    let outcome = dial(alice, DialOptions { passthrough: offer.codecs, ..DialOptions::to("bob@test") });
    let call = dialling(&mut at_alice).await;
    leg.bridge(alice.calls().audio(&call).await.unwrap());
    let rang = incoming(&mut at_bob).await;
    let answer = AnswerOptions { play: Some(file("660.wav")), record: Some(file("heard.wav")), ..AnswerOptions::default() };
    bob.calls().answer(&rang, answer).await.unwrap();
    let codec = agreed(&mut leg).await;
    phone.take(&leg.answer(codec).unwrap());
    assert_eq!((codec, next(&mut leg).await), (AudioCodec::Pcmu, LegEvent::Connected));

    let said: Vec<u8> = tone(440.0, Duration::from_secs(2), 8_000).map(encode).collect();
    let mut heard: Vec<i16> = Vec::new();
    let mut clock = tokio::time::interval(Duration::from_millis(20));
    for frame in said.chunks(FRAME_BYTES) {
        clock.tick().await;
        phone.send(frame).await;
        heard.extend(phone.receive().await.1.into_iter().map(decode));
    }
    alice.calls().hangup(&call).await.unwrap();
    assert_eq!(outcome.await.unwrap().codec, Some(AudioCodec::Pcmu));
    let ended = event(&mut at_bob, |event| match event {
        Event::CallEnded(ended) => Some(ended.clone()),
        _ => None,
    });
    let ended = ended.await;
    assert_eq!((ended.outcome, ended.codec), (CallResult::Completed, Some(AudioCodec::Pcmu)));

    let found = dominant_frequency(&heard, 8_000).unwrap();
    assert!((found - 660.0).abs() < 3.0, "the phone heard {found} Hz");
    let mut reader = hound::WavReader::open(file("heard.wav")).unwrap();
    let samples: Vec<i16> = reader.samples().map(Result::unwrap).collect();
    let found = dominant_frequency(&samples, 48_000).unwrap();
    assert!((found - 440.0).abs() < 3.0, "the other end heard {found} Hz");
    network.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ends_without_a_codec_in_common_are_told() {
    let (network, media) = network(false).await;
    let (alice, bob) = (network.node("alice").unwrap(), network.node("bob").unwrap());
    let mut at_bob = bob.subscribe();
    let phone = Phone::new(9, false).await;
    let mut leg = open(&media, Security::Accepted).await;
    let offer = leg.take_offer(phone.sdp("").as_bytes()).unwrap();
    assert_eq!(offer.codecs, [AudioCodec::G722]);
    let outcome = dial(alice, DialOptions { passthrough: offer.codecs, ..DialOptions::to("bob@test") });
    let rang = incoming(&mut at_bob).await;
    bob.calls().answer(&rang, AnswerOptions::default()).await.unwrap();
    let ended = event(&mut at_bob, |event| match event {
        Event::CallEnded(ended) => Some(ended.clone()),
        _ => None,
    });
    let why = ended.await.reason.unwrap();
    assert!(why.contains("no audio codec in common: g722 offered, opus, pcmu, pcma usable here"), "{why}");
    assert_ne!(outcome.await.unwrap().outcome, CallResult::Completed);
    // A phone that is called and has none of what the caller has is refused before anybody answers.
    let mut leg = open(&media, Security::Accepted).await;
    leg.offer(&[AudioCodec::Opus]).unwrap();
    let refusal = leg.take_answer(phone.sdp("").as_bytes()).unwrap_err();
    assert_eq!((refusal.status(), refusal.warning()), (488, 305));
    network.shutdown().await;
}

/// As much of SIP as a phone needs that calls one number: the INVITE, answered with a description.
struct Registrar {
    socket: UdpSocket,
    request: String,
    from: SocketAddr,
}

impl Registrar {
    /// Waits for an INVITE: its description.
    async fn invited(socket: UdpSocket) -> (Self, Vec<u8>) {
        let mut datagram = [0; 8_000];
        loop {
            let receive = tokio::time::timeout(PATIENCE, socket.recv_from(&mut datagram));
            let (length, from) = receive.await.expect("a request in time").unwrap();
            let request = String::from_utf8_lossy(&datagram[..length]).into_owned();
            if let Some((head, body)) = request.split_once("\r\n\r\n").filter(|_| request.starts_with("INVITE")) {
                let body = body.as_bytes().to_vec();
                return (Self { socket, request: head.to_owned(), from }, body);
            }
        }
    }

    /// Waits for the BYE, and answers it.
    async fn taken_leave_of(&self) {
        let mut datagram = [0; 8_000];
        loop {
            let receive = tokio::time::timeout(PATIENCE, self.socket.recv_from(&mut datagram));
            let (length, from) = receive.await.expect("a BYE in time").unwrap();
            let request = String::from_utf8_lossy(&datagram[..length]).into_owned();
            if request.starts_with("BYE") {
                let named = |line: &&str| ["Via:", "From:", "To:", "Call-ID:", "CSeq:"].iter().any(|name| line.starts_with(name));
                let head: Vec<&str> = request.lines().filter(named).collect();
                let response = format!("SIP/2.0 200 OK\r\n{}\r\nContent-Length: 0\r\n\r\n", head.join("\r\n"));
                self.socket.send_to(response.as_bytes(), from).await.unwrap();
                return;
            }
        }
    }

    async fn answer(&self, sdp: &str) {
        let field = |name: &str| self.request.lines().find(|line| line.starts_with(name)).unwrap();
        let port = self.socket.local_addr().unwrap().port();
        let head = [field("Via:"), field("From:"), &format!("{};tag=edge", field("To:")), field("Call-ID:"), field("CSeq:")];
        let contact = format!("Contact: <sip:edge@{LOCAL}:{port}>\r\nContent-Type: application/sdp");
        let response =
            format!("SIP/2.0 200 OK\r\n{}\r\n{contact}\r\nContent-Length: {}\r\n\r\n{sdp}", head.join("\r\n"), sdp.len());
        self.socket.send_to(response.as_bytes(), self.from).await.unwrap();
    }
}

/// Debian's baresip speaks a tone, in a codec and by a protection of its choice, to somebody who has no phone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: needs baresip"]
async fn a_real_phone_is_heard_and_hears() {
    let (network, media) = network(false).await;
    let (alice, bob) = (network.node("alice").unwrap(), network.node("bob").unwrap());
    let (mut at_alice, mut at_bob) = (alice.subscribe(), bob.subscribe());
    for (codec, protection) in [("opus/48000/2", ""), ("PCMA/8000/1", ";mediaenc=srtp"), ("PCMU/8000/1", ";mediaenc=srtp-mand")] {
        let file = |name: &str| network.scratch().join(name);
        write_tone(file("660.wav"), 660.0, Duration::from_secs(10), 48_000).unwrap();
        let socket = UdpSocket::bind((LOCAL, 0)).await.unwrap();
        let edge = socket.local_addr().unwrap();
        let home = file("baresip");
        std::fs::create_dir_all(&home).unwrap();
        let modules = ["stdio", "opus", "g711", "srtp", "ausine", "aufile", "aubridge", "sndfile"]
            .map(|name| format!("module {name}.so\n"))
            .concat();
        // Its generator of tones knows one rate, and its reader of files no other than the codec's.
        write_tone(file("440.wav"), 440.0, Duration::from_secs(10), 8_000).unwrap();
        let narrow = format!("aufile,{}", file("440.wav").display());
        let source = if codec.starts_with("opus") { "ausine,440" } else { &narrow };
        let config = format!(
            "module_path /usr/lib/baresip/modules\n{modules}module_app account.so\nmodule_app menu.so\naudio_player aubridge,x\n\
audio_source {source}\nsip_listen {LOCAL}:0\nrtp_ports 23000-23100\nsnd_path {}\n",
            home.display()
        );
        std::fs::write(home.join("config"), config).unwrap();
        std::fs::write(home.join("accounts"), format!("<sip:carol@{edge}>;regint=0;audio_codecs={codec}{protection}\n")).unwrap();
        std::fs::write(home.join("contacts"), "").unwrap();
        let command = tokio::process::Command::new("baresip")
            .args(["-f", home.to_str().unwrap(), "-e", &format!("/dial sip:bob@{edge}"), "-t", "9"])
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .kill_on_drop(true)
            .spawn();
        let mut baresip = command.expect("baresip is installed");
        let (registrar, offer) = Registrar::invited(socket).await;
        let mut leg = open(&media, Security::Accepted).await;
        leg.expect_from(registrar.from.ip());
        let offer = leg.take_offer(&offer).unwrap();
        let outcome = dial(alice, DialOptions { passthrough: offer.codecs, ..DialOptions::to("bob@test") });
        let call = dialling(&mut at_alice).await;
        leg.bridge(alice.calls().audio(&call).await.unwrap());
        let rang = incoming(&mut at_bob).await;
        let answer = AnswerOptions { play: Some(file("660.wav")), record: Some(file("heard.wav")), ..AnswerOptions::default() };
        bob.calls().answer(&rang, answer).await.unwrap();
        let chosen = agreed(&mut leg).await;
        registrar.answer(&leg.answer(chosen).unwrap()).await;
        let talked = async {
            while leg.stats().from_phone.packets < 150 || leg.stats().phone_loss.is_none() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let talked = tokio::time::timeout(PATIENCE, talked).await;
        let stats = leg.stats();
        eprintln!("{codec}{protection}: {stats:?}");
        assert!(talked.is_ok(), "{codec}{protection}: {stats:?}");
        alice.calls().hangup(&call).await.unwrap();
        assert_eq!(outcome.await.unwrap().codec, Some(chosen));
        assert_eq!(stats.is_secure, !protection.is_empty());
        let _ended = event(&mut at_bob, |event| matches!(event, Event::CallEnded(_)).then_some(())).await;
        let mut reader = hound::WavReader::open(file("heard.wav")).unwrap();
        let samples: Vec<i16> = reader.samples().map(Result::unwrap).collect();
        let found = dominant_frequency(&samples, 48_000).unwrap();
        assert!((found - 440.0).abs() < 3.0, "{codec}: {found} Hz heard");
        // It ends by itself, and has written what it heard.
        registrar.taken_leave_of().await;
        baresip.wait().await.unwrap();
        let mut files = std::fs::read_dir(&home).unwrap().map(|file| file.unwrap().path());
        let heard = files.find(|path| path.to_string_lossy().ends_with("-dec.wav")).expect("what baresip heard");
        let heard = std::fs::read(heard).unwrap();
        std::fs::remove_dir_all(&home).unwrap();
        let samples: Vec<i16> = heard[44..].chunks_exact(2).map(|bytes| i16::from_le_bytes([bytes[0], bytes[1]])).collect();
        let rate = u32::from_le_bytes([heard[24], heard[25], heard[26], heard[27]]);
        let channels = usize::from(heard[22]);
        let mono: Vec<i16> = samples.chunks(channels).map(|frame| frame[0]).collect();
        let found = dominant_frequency(&mono, rate).unwrap();
        assert!((found - 660.0).abs() < 5.0, "{codec}: baresip heard {found} Hz");
    }
    network.shutdown().await;
}
