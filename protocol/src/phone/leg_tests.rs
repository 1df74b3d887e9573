//! A phone's stream, without sockets.

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::super::AudioCodec;
use super::super::negotiation::{Events, Keys, PayloadTypes};
use super::super::sdes::{MasterKey, Suite};
use super::super::sdp::Direction;
use super::*;

const PHONE: &str = "192.0.2.2:4000";
const CLOCK: NtpTime = NtpTime(5 << 32);

fn agreed(codec: AudioCodec) -> Agreed {
    Agreed {
        codec,
        types: PayloadTypes { to_phone: 111, from_phone: 96 },
        events: Some(Events { types: PayloadTypes { to_phone: 110, from_phone: 101 }, clock_hz: 8_000 }),
        media_to: Some(PHONE.parse().unwrap()),
        reports_to: Some("192.0.2.2:4001".parse().unwrap()),
        is_rtcp_muxed: false,
        direction: Direction::SendRecv,
        keys: None,
    }
}

fn packet(payload_type: u8, sequence: u16, timestamp: u32, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    let header = Header { payload_type, marker: false, sequence, timestamp, ssrc: 9, payload_at: 12, is_padded: false };
    header.write(payload, &mut packet);
    packet
}

struct Rig {
    stream: PhoneStream,
    now: Instant,
}

impl Rig {
    fn new(agreed: &Agreed) -> Self {
        let mut stream = PhoneStream::new(&mut StdRng::seed_from_u64(3));
        let now = Instant::now();
        assert!(stream.configure(agreed, now));
        Self { stream, now }
    }

    fn take(&mut self, mut datagram: Vec<u8>, source: &str) -> Incoming {
        self.stream.handle_media(&mut datagram, source.parse().unwrap(), self.now, CLOCK)
    }

    fn media(&mut self, datagram: Vec<u8>) -> Passed {
        match self.take(datagram, PHONE) {
            Incoming::Media(passed) => passed,
            other => panic!("{other:?}"),
        }
    }

    fn send(&mut self, sequence: u64, payload: &[u8]) -> Result<(SocketAddr, Vec<u8>), NotSent> {
        let mut packet = Vec::new();
        let what = ToPhone { is_event: false, sequence, timestamp: sequence.wrapping_mul(160), marker: false, payload };
        let to = self.stream.send(what, self.now, &mut packet)?;
        Ok((to, packet))
    }

    fn pass_ms(&mut self, ms: u64) {
        self.now += Duration::from_millis(ms);
    }
}

#[test]
fn payloads_pass_unchanged_and_gaps_stay() {
    let mut rig = Rig::new(&agreed(AudioCodec::Pcmu));
    let first = packet(96, 500, 1_000, b"one");
    let one = rig.media(first.clone());
    assert_eq!((&first[one.payload.clone()], one.marker), (&b"one"[..], true));
    rig.pass_ms(60);
    let four = rig.media(packet(96, 503, 1_480, b"four"));
    assert_eq!((four.sequence - one.sequence, four.timestamp - one.timestamp, four.marker), (3, 480, false));
    let stats = rig.stream.stats();
    assert_eq!((stats.received, stats.received_bytes, stats.lost), (2, 7, 2));
    let (to, sent) = rig.send(70, b"back").unwrap();
    let header = Header::parse(&sent).unwrap();
    assert_eq!((to, header.payload_type, &sent[12..]), (PHONE.parse().unwrap(), 111, &b"back"[..]));
    let (_, later) = rig.send(73, b"back").unwrap();
    let later = Header::parse(&later).unwrap();
    assert_eq!((later.sequence - header.sequence, later.timestamp - header.timestamp, later.ssrc), (3, 480, header.ssrc));
}

#[test]
fn nobody_but_the_phone_is_heard() {
    let mut rig = Rig::new(&agreed(AudioCodec::Pcmu));
    let good = || packet(96, 1, 160, b"audio");
    assert_eq!(rig.take(good(), "203.0.113.9:4000"), Incoming::Dropped(Dropped::Source));
    // What isn't a packet of the call settles nothing.
    assert_eq!(rig.take(packet(5, 1, 160, b"audio"), "192.0.2.2:9"), Incoming::Dropped(Dropped::Format));
    assert_eq!(rig.send(1, b"x").unwrap().0, PHONE.parse().unwrap());
    // Behind an address translator the port is another.
    assert!(matches!(rig.take(good(), "192.0.2.2:61000"), Incoming::Media(_)));
    assert_eq!(rig.send(2, b"x").unwrap().0, "192.0.2.2:61000".parse().unwrap());
    assert_eq!(rig.take(packet(96, 2, 320, b"evil"), PHONE), Incoming::Dropped(Dropped::Source), "settled");
    // Neither does a description that says the same again; one that says something else does.
    rig.stream.configure(&agreed(AudioCodec::Pcmu), rig.now);
    assert_eq!(rig.take(packet(96, 2, 320, b"evil"), PHONE), Incoming::Dropped(Dropped::Source));
    let moved = Agreed { media_to: Some("192.0.2.7:5000".parse().unwrap()), ..agreed(AudioCodec::Pcmu) };
    rig.stream.configure(&moved, rig.now);
    assert!(matches!(rig.take(packet(96, 2, 320, b"moved"), "192.0.2.7:5000"), Incoming::Media(_)));
    assert_eq!(rig.stream.stats().dropped.source, 3);
    // The address of the signalling will do too.
    let hidden = Agreed { media_to: Some("10.0.0.5:4000".parse().unwrap()), ..agreed(AudioCodec::Pcmu) };
    let mut rig = Rig::new(&hidden);
    assert_eq!(rig.take(good(), "192.0.2.2:4000"), Incoming::Dropped(Dropped::Source));
    rig.stream.expect_from("192.0.2.2".parse().unwrap());
    assert!(matches!(rig.take(good(), "192.0.2.2:4000"), Incoming::Media(_)));
}

#[test]
fn nobody_is_sent_a_stream_that_they_didnt_ask_for() {
    let described =
        |address: &str| Agreed { media_to: Some(address.parse().unwrap()), reports_to: None, ..agreed(AudioCodec::Pcmu) };
    let mut rig = Rig::new(&described("198.51.100.1:53"));
    rig.stream.expect_from("192.0.2.2".parse().unwrap());
    assert_eq!(rig.send(1, b"x").unwrap().0, "198.51.100.1:53".parse().unwrap(), "for a moment");
    rig.pass_ms(5_000);
    assert_eq!(rig.send(2, b"x"), Err(NotSent::Nowhere));
    assert!(matches!(rig.take(packet(96, 1, 160, b"mine"), "198.51.100.1:53"), Incoming::Media(_)), "somebody is there");
    assert!(rig.send(3, b"x").is_ok());
    // Another address each few seconds is no way either.
    for port in 1..=20 {
        rig.stream.configure(&described(&format!("198.51.100.1:{port}")), rig.now);
        assert_eq!(rig.send(3 + port, b"x").is_ok(), port <= 7, "{port}");
    }
    // Where the signalling comes from a phone may listen for as long as it likes.
    rig.stream.configure(&described("192.0.2.2:4000"), rig.now);
    rig.pass_ms(60_000);
    assert!(rig.send(40, b"x").is_ok());
    // Services of the edge's own machine are no phone that is elsewhere.
    let mut rig = Rig::new(&described("127.0.0.1:8080"));
    rig.stream.expect_from("192.0.2.2".parse().unwrap());
    assert_eq!(rig.send(1, b"x"), Err(NotSent::Nowhere));
}

#[test]
fn what_is_no_audio_is_passed_over() {
    let mut rig = Rig::new(&agreed(AudioCodec::Pcmu));
    assert_eq!(rig.take(vec![0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42], PHONE), Incoming::Dropped(Dropped::Check));
    assert_eq!(rig.take(packet(13, 1, 0, b"\x40"), PHONE), Incoming::Dropped(Dropped::ComfortNoise));
    assert_eq!(rig.take(b"\r\n".to_vec(), PHONE), Incoming::Dropped(Dropped::Noise));
    assert_eq!(rig.take(packet(5, 1, 0, b"g723"), PHONE), Incoming::Dropped(Dropped::Format));
    assert_eq!(rig.take(packet(96, 1, 0, b""), "192.0.2.2:7"), Incoming::Dropped(Dropped::Noise));
    assert_eq!(rig.stream.stats().dropped, DropCounts { ignored: 4, format: 1, ..DropCounts::default() });
    assert_eq!(rig.send(1, b"x").unwrap().0, "192.0.2.2:7".parse().unwrap(), "it shows the way back");
}

#[test]
fn a_phone_that_holds_misses_nothing() {
    let mut rig = Rig::new(&agreed(AudioCodec::Pcmu));
    let before = Header::parse(&rig.send(100, b"x").unwrap().1).unwrap();
    let held = Agreed { direction: Direction::SendOnly, ..agreed(AudioCodec::Pcmu) };
    rig.stream.configure(&held, rig.now);
    for sequence in 101..150 {
        assert_eq!(rig.send(sequence, b"x").unwrap_err(), NotSent::NotWanted);
    }
    // Its music is heard.
    rig.media(packet(96, 1, 160, b"music"));
    rig.stream.configure(&agreed(AudioCodec::Pcmu), rig.now);
    rig.pass_ms(1_000);
    let after = Header::parse(&rig.send(150, b"x").unwrap().1).unwrap();
    assert_eq!((after.sequence - before.sequence, after.timestamp - before.timestamp), (1, 50 * 160));
    let silent = Agreed { direction: Direction::Inactive, ..agreed(AudioCodec::Pcmu) };
    rig.stream.configure(&silent, rig.now);
    assert_eq!(rig.take(packet(96, 2, 320, b"still"), PHONE), Incoming::Dropped(Dropped::NotSending));
}

#[test]
fn keys_that_are_pressed_pass_between_clocks() {
    let mut rig = Rig::new(&agreed(AudioCodec::Opus));
    let audio = rig.media(packet(96, 10, 960, b"opus"));
    rig.pass_ms(20);
    // Three packets of one event: all have its time, and grow.
    let mut last = None;
    for (index, duration) in [(0u16, 160u16), (1, 320), (2, 480)] {
        let [high, low] = duration.to_be_bytes();
        let passed = rig.media(packet(101, 11 + index, 77_777, &[5, 10, high, low]));
        assert!(passed.is_event);
        assert_eq!(passed.event, [5, 10, ((duration * 6) >> 8) as u8, (duration * 6) as u8]);
        assert_eq!((passed.sequence - audio.sequence, passed.timestamp - audio.timestamp), (u64::from(index) + 1, 960));
        last = Some(passed);
    }
    let mut packet = Vec::new();
    let event = last.map(|passed| passed.event).unwrap();
    let what = ToPhone { is_event: true, sequence: 1, timestamp: 4_800, marker: true, payload: &event };
    rig.stream.send(what, rig.now, &mut packet).unwrap();
    assert_eq!((packet[1], &packet[12..]), (0x80 | 110, &[5, 10, 1, 0xE0][..]));
}

#[test]
fn encrypted_packets_pass_and_others_dont() {
    let suite = Suite::Aes128Sha1Of80;
    let key = |byte: u8| MasterKey::new(suite, &[byte; 30]).unwrap();
    let keys = Keys { suite, to_phone: key(1), from_phone: key(2) };
    let secure = Agreed { keys: Some(keys), ..agreed(AudioCodec::Pcmu) };
    let mut rig = Rig::new(&secure);
    let mut phone = (Protector::new(suite, &key(2)).unwrap(), Opener::new(suite, &key(1)).unwrap());
    assert_eq!(rig.take(packet(96, 1, 160, b"plain audio"), PHONE), Incoming::Dropped(Dropped::NotAuthentic));
    for (sequence, source) in [(1, PHONE), (2, "203.0.113.50:7")] {
        let mut sealed = packet(96, sequence, 160, b"audio");
        assert!(phone.0.protect(sequence.into(), &mut sealed));
        assert!(matches!(rig.take(sealed.clone(), source), Incoming::Media(_)), "the key decides, not the address");
        assert_eq!(rig.take(sealed, "203.0.113.99:7"), Incoming::Dropped(Dropped::NotAuthentic), "a copy");
        assert_eq!(rig.send(sequence.into(), b"x").unwrap().0, source.parse().unwrap());
    }
    let (_, mut sealed) = rig.send(3, b"secret").unwrap();
    assert_ne!(&sealed[12..18], b"secret");
    let length = phone.1.open(&mut sealed).unwrap();
    assert_eq!(&sealed[12..length], b"secret");
    // Reports are encrypted too.
    rig.pass_ms(5_000);
    let mut report = Vec::new();
    assert_eq!(rig.stream.report(rig.now, CLOCK, false, &mut report), None, "nobody knows where the phone takes them now");
    rtp::write_reports(9, CLOCK, None, None, false, &mut report);
    let source = "203.0.113.50:8".parse().unwrap();
    assert_eq!(rig.stream.handle_reports(&mut report.clone(), source, rig.now, CLOCK), Incoming::Dropped(Dropped::NotAuthentic));
    assert!(phone.0.protect_reports(&mut report));
    assert_eq!(rig.stream.handle_reports(&mut report, source, rig.now, CLOCK), Incoming::Reports);
    rig.pass_ms(5_000);
    assert_eq!(rig.stream.report(rig.now, CLOCK, false, &mut report), Some(source));
    assert!(phone.1.open_reports(&mut report).is_ok());
    // The same keys once more change nothing; another one begins another stream.
    let ssrc = |rig: &mut Rig, sequence| Header::parse(&rig.send(sequence, b"x").unwrap().1).unwrap().ssrc;
    let before = ssrc(&mut rig, 9);
    assert_eq!(rig.send(9, b"y").unwrap_err(), NotSent::Repeated);
    rig.stream.configure(&secure, rig.now);
    assert_eq!(ssrc(&mut rig, 10), before);
    let other = Keys { suite, to_phone: key(3), from_phone: key(2) };
    rig.stream.configure(&Agreed { keys: Some(other), ..secure }, rig.now);
    assert_ne!(ssrc(&mut rig, 11), before);
}

#[test]
fn reports_go_out_and_come_in() {
    let mut rig = Rig::new(&agreed(AudioCodec::Pcmu));
    for sequence in [1, 2, 4] {
        rig.media(packet(96, sequence, u32::from(sequence) * 160, b"audio"));
        rig.send(sequence.into(), b"audio").unwrap();
    }
    let mut report = Vec::new();
    assert_eq!(rig.stream.report(rig.now, CLOCK, false, &mut report), None, "not yet");
    let due = rig.stream.report_at().unwrap();
    rig.now = due;
    let to = rig.stream.report(rig.now, CLOCK, false, &mut report);
    assert_eq!(to, Some("192.0.2.2:4001".parse().unwrap()));
    let reports = Reports::parse(&report).unwrap();
    let (ssrc, middle) = reports.sender.unwrap();
    assert_eq!((reports.blocks[0].ssrc, reports.blocks[0].lost), (9, 1));
    // The phone answers 100 ms later, having lost a quarter.
    let block = rtp::Block {
        ssrc,
        fraction_lost: 64,
        lost: 1,
        highest: 4,
        jitter: 80,
        last_report: middle,
        since_last_report: 65_536 / 20,
    };
    let mut answer = Vec::new();
    rtp::write_reports(9, CLOCK, None, Some(block), false, &mut answer);
    let later = NtpTime(CLOCK.0 + (1 << 32) / 10);
    let reports_port = "192.0.2.2:4001".parse().unwrap();
    assert_eq!(rig.stream.handle_reports(&mut answer.clone(), reports_port, rig.now, later), Incoming::Reports);
    let stats = rig.stream.stats();
    assert_eq!((stats.phone_loss, stats.phone_jitter_ms), (Some(0.25), Some(10.0)));
    assert!(stats.round_trip.unwrap().as_millis().abs_diff(50) <= 1, "{stats:?}");
    let stranger = "203.0.113.9:4001".parse().unwrap();
    assert_eq!(rig.stream.handle_reports(&mut answer, stranger, rig.now, later), Incoming::Dropped(Dropped::Source));
    rig.stream.report(rig.now, CLOCK, true, &mut report).unwrap();
    assert!(Reports::parse(&report).unwrap().is_bye);
}

proptest! {
    #[test]
    fn anything_may_come(datagrams in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..20)) {
        let mut rig = Rig::new(&agreed(AudioCodec::Opus));
        for mut datagram in datagrams {
            // So that some are packets of the call.
            if datagram.len() > 2 && datagram[1] & 1 == 0 {
                (datagram[0], datagram[1]) = (0x80, if datagram[2] & 1 == 0 { 96 } else { 101 });
            }
            rig.take(datagram, PHONE);
            rig.pass_ms(7);
        }
        let _ = rig.send(u64::MAX, b"x");
    }
}
