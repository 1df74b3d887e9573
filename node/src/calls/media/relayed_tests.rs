//! Two ends in one process over our own media relay, on loopback, in real time.

use std::net::SocketAddr;

use halloo_protocol::redact::Redacted;
use halloo_relay::auth::Credentials;
use halloo_relay::config::{Config, Secret, TlsIdentity};
use halloo_relay::server::Server;
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

use super::tone::{dominant_frequency, write_tone};
use super::*;

/// No event of a healthy session takes longer.
const EVENT_DEADLINE: Duration = Duration::from_secs(30);

const SECRET: &str = "a relay's secret";

/// A relay that ends with the value.
struct Relay {
    address: SocketAddr,
    addresses: Vec<SocketAddr>,
    tcp: SocketAddr,
    tls: TlsServer,
    stop: Option<oneshot::Sender<()>>,
    task: AbortOnDropHandle<()>,
}

impl Relay {
    fn start(ip: &str) -> Self {
        Self::start_at(&[ip])
    }

    fn start_at(ips: &[&str]) -> Self {
        let mut config = Config::default();
        config.listen = ips.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), 0)).collect();
        config.listen_tcp = vec![SocketAddr::new(ips[0].parse().unwrap(), 0)];
        config.listen_tls = config.listen_tcp.clone();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let identity = TlsIdentity { certificate: made.cert.der().to_vec(), key: made.signing_key.serialize_der() };
        let certificate = Sha256::digest(&identity.certificate).into();
        config.tls_identity = Some(identity);
        config.is_lab = true;
        config.auth_secrets = vec![Secret(SECRET.to_owned())];
        let server = Server::bind(config).unwrap();
        let addresses: Vec<SocketAddr> = server.local_addresses().collect();
        let is_tcp = |(protocol, address)| (protocol == halloo_relay::server::Protocol::Tcp).then_some(address);
        let tcp = server.endpoints().find_map(is_tcp).unwrap();
        let is_tls = |(protocol, address)| (protocol == halloo_relay::server::Protocol::Tls).then_some(address);
        let tls = TlsServer { address: server.endpoints().find_map(is_tls).unwrap(), certificate };
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            server.run(async { drop(stopped.await) }).await.unwrap();
        });
        Self { address: addresses[0], addresses, tcp, tls, stop: Some(stop), task: AbortOnDropHandle::new(task) }
    }

    fn access(&self) -> RelayServer {
        self.access_at(self.address)
    }

    fn access_at(&self, address: SocketAddr) -> RelayServer {
        let soon = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() + 600;
        let (username, password) = Credentials::issue(SECRET.as_bytes(), "ann", halloo_relay::UnixTime(soon));
        RelayServer { address, stream: None, tls: None, username, password: Redacted(password) }
    }

    /// Told to stop, it goes on as long as anything is relayed.
    async fn drain(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        tokio::time::timeout(EVENT_DEADLINE, self.task).await.expect("it ends when nothing is relayed").unwrap();
    }
}

fn config(ip: &str) -> MediaConfig {
    MediaConfig::default().lab(true).bind([ip.parse().unwrap()])
}

/// The next event but for marks, which come where they come.
async fn event(session: &mut MediaSession) -> MediaEvent {
    loop {
        let event = tokio::time::timeout(EVENT_DEADLINE, session.next_event()).await;
        match event.expect("an event in time").expect("the session runs") {
            MediaEvent::IceConnected | MediaEvent::FirstAudio => {}
            event => return event,
        }
    }
}

/// The path of a session that has just begun.
async fn connected(session: &mut MediaSession) -> MediaPath {
    loop {
        if let MediaEvent::Connected(path) = event(session).await {
            return path;
        }
    }
}

async fn call(caller: MediaConfig, callee: MediaConfig) -> (MediaSession, MediaSession) {
    let (pending, offer) = offer(caller).await.unwrap();
    let (callee, answer) = answer(callee, &offer).await.unwrap();
    let caller = pending.accept(&answer).await.unwrap();
    (caller, callee)
}

async fn has_received(session: &MediaSession, packets: u64) {
    while session.stats().packets_received < packets {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The path once it hasn't changed for a second's worth of audio: with two relays there are several good ones.
async fn settled(session: &mut MediaSession, other: &MediaSession, mut path: MediaPath) -> MediaPath {
    loop {
        let received = other.stats().packets_received;
        tokio::select! {
            biased;
            event = event(session) => match event {
                MediaEvent::PathChanged(changed) => path = changed,
                event => assert!(matches!(event, MediaEvent::LocalCandidate(_)), "{event:?} instead of a path"),
            },
            () = has_received(other, received + 50) => return path,
        }
    }
}

fn pitch(path: &Path) -> f64 {
    let mut reader = hound::WavReader::open(path).unwrap();
    let samples: Vec<i16> = reader.samples().map(Result::unwrap).collect();
    dominant_frequency(&samples, 48_000).unwrap_or_default()
}

#[tokio::test]
async fn a_call_is_relayed_where_there_is_only_ipv6() {
    let relay = Relay::start("::1");
    assert!(relay.address.is_ipv6());
    let relayed = || config("::1").relays([relay.access()]).relayed_only(true);
    let (mut caller, mut callee) = call(relayed(), relayed()).await;
    for end in [&mut caller, &mut callee] {
        let path = connected(end).await;
        assert!(path.kind == PathKind::Relayed && path.local.is_ipv6() && path.remote.is_ipv6(), "{path:?}");
    }
}

/// Which end of a call uses the relays. The caller decides on the path; the callee has to tell it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leaver {
    Caller,
    Callee,
}

#[tokio::test]
async fn a_call_goes_on_over_its_second_relay_when_the_callers_first_leaves() {
    goes_on_over_the_second(Leaver::Caller).await;
}

#[tokio::test]
async fn a_call_goes_on_over_its_second_relay_when_the_callees_first_leaves() {
    goes_on_over_the_second(Leaver::Callee).await;
}

async fn goes_on_over_the_second(leaver: Leaver) {
    let relays = [Relay::start("127.0.0.1"), Relay::start("127.0.0.1")];
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    write_tone(file("440.wav"), 440.0, Duration::from_secs(60), 48_000).unwrap();
    let relayed = || config("127.0.0.1").relays(relays.iter().map(Relay::access)).relayed_only(true).play(file("440.wav"));
    let recorded = || config("127.0.0.1").record(file("heard.wav"));
    let (mut left, mut other) = match leaver {
        Leaver::Caller => call(relayed(), recorded()).await,
        Leaver::Callee => {
            let (caller, callee) = call(recorded(), relayed()).await;
            (callee, caller)
        }
    };
    let path = connected(&mut left).await;
    connected(&mut other).await;
    left.start();
    other.start();
    let path = settled(&mut left, &other, path).await;

    let (leaving, staying): (Vec<Relay>, Vec<Relay>) = relays.into_iter().partition(|relay| Some(relay.address) == path.relay);
    let [leaving, staying] = [leaving, staying].map(|mut one| one.pop().expect("one is used, the other isn't"));
    left.leave_relay(vec![leaving.address]).unwrap();
    loop {
        match event(&mut left).await {
            MediaEvent::PathChanged(path) if path.relay == Some(staying.address) => break,
            MediaEvent::PathChanged(path) => assert_eq!(path.relay, Some(leaving.address)),
            MediaEvent::LocalCandidate(candidate) => other.add_remote_candidate(&candidate).unwrap(),
            event => panic!("{event:?} instead of another path"),
        }
    }
    // The first one ends under it.
    drop(leaving);
    let received = other.stats().packets_received;
    tokio::time::timeout(EVENT_DEADLINE, has_received(&other, received + 100)).await.expect("audio over the second relay");
    assert_eq!(left.close().await.failure, None);
    let summary = other.close().await;
    assert_eq!(summary.failure, None);
    assert!((pitch(&file("heard.wav")) - 440.0).abs() < 2.0);
    let MediaStats { packets_received, packets_lost, .. } = summary.stats;
    eprintln!("{packets_received} packets, {packets_lost} lost on the way from relay to relay");
}

#[tokio::test]
async fn a_relay_that_leaves_ends_when_calls_have_given_their_addresses_back() {
    let relay = Relay::start_at(&["127.0.0.1", "::1"]);
    let both = || config("127.0.0.1").bind(["127.0.0.1", "::1"].map(|ip| ip.parse().unwrap()));
    let relayed = || both().relays(relay.addresses.iter().map(|address| relay.access_at(*address))).relayed_only(true);
    let (mut caller, mut callee) = call(relayed(), relayed()).await;
    connected(&mut caller).await;
    connected(&mut callee).await;
    // Another address of the same relay is no other relay: the call stays as long as this one does.
    caller.leave_relay(relay.addresses.clone()).unwrap();
    let drained = tokio::spawn(relay.drain());
    caller.start();
    callee.start();
    let goes_on = has_received(&callee, 50);
    tokio::time::timeout(EVENT_DEADLINE, goes_on).await.expect("a second of audio while the relay drains");
    assert!(!drained.is_finished());
    caller.close().await;
    callee.close().await;
    drained.await.unwrap();
}

/// A relay that is killed says nothing. What was lost until audio came back is printed.
#[tokio::test]
async fn a_call_goes_on_over_its_second_relay_when_the_first_dies() {
    let relays = [Relay::start("127.0.0.1"), Relay::start("127.0.0.1")];
    let relayed = || config("127.0.0.1").relays(relays.iter().map(Relay::access)).relayed_only(true);
    let (mut caller, mut callee) = call(relayed(), relayed()).await;
    let path = connected(&mut caller).await;
    connected(&mut callee).await;
    caller.start();
    callee.start();
    let path = settled(&mut caller, &callee, path).await;
    // Pairs that need not the first relay at either end are known to work by then.
    has_received(&callee, 100).await;
    let (carrier, _stays): (Vec<Relay>, Vec<Relay>) = relays.into_iter().partition(|relay| Some(relay.address) == path.relay);
    assert_eq!(carrier.len(), 1);
    drop(carrier);
    let died = std::time::Instant::now();
    let (before, before_too) = (callee.stats().packets_received, caller.stats().packets_received);
    tokio::time::timeout(EVENT_DEADLINE, async {
        has_received(&callee, before + 100).await;
        has_received(&caller, before_too + 100).await;
    })
    .await
    .expect("audio over the second relay");
    eprintln!("two seconds of audio at both ends {:?} after the relay died", died.elapsed());
    assert_eq!(caller.close().await.failure, None);
    assert_eq!(callee.close().await.failure, None);
}

#[tokio::test]
async fn where_udp_does_not_get_out_a_relay_is_reached_by_tcp() {
    is_reached_by(|relay, _| (Some(relay.tcp), None)).await;
}

#[tokio::test]
async fn where_only_tls_gets_out_a_relay_is_reached_by_tls() {
    // TCP is refused at once, or swallowed, or not offered.
    let refusing = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    is_reached_by(|relay, _| (Some(refusing), Some(relay.tls))).await;
    is_reached_by(|relay, silent| (Some(silent), Some(relay.tls))).await;
    is_reached_by(|relay, _| (None, Some(relay.tls))).await;
}

#[tokio::test]
async fn a_relay_that_shows_another_certificate_is_not_used() {
    let relay = Relay::start("127.0.0.1");
    let firewall = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let other = TlsServer { certificate: [7; 32], ..relay.tls };
    let blocked = RelayServer { tls: Some(other), ..relay.access_at(firewall.local_addr().unwrap()) };
    let caller = config("127.0.0.1").relays([blocked]).relayed_only(true);
    let (mut caller, callee) = call(caller, config("127.0.0.1")).await;
    loop {
        match event(&mut caller).await {
            MediaEvent::LocalCandidate(candidate) => panic!("{candidate} by a relay that isn't the one that was meant"),
            MediaEvent::RelayFailed(..) | MediaEvent::Failed(_) => break,
            _ => {}
        }
    }
    caller.close().await;
    callee.close().await;
}

/// A call whose caller has nothing but a relay, which UDP doesn't reach; of the connections these are known, of which the silent one says nothing.
async fn is_reached_by(ways: impl Fn(&Relay, SocketAddr) -> (Option<SocketAddr>, Option<TlsServer>)) {
    let relay = Relay::start("127.0.0.1");
    // Takes what comes and says nothing, as a firewall does.
    let firewall = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (stream, tls) = ways(&relay, silent.local_addr().unwrap());
    let blocked = RelayServer { stream, tls, ..relay.access_at(firewall.local_addr().unwrap()) };
    let caller = config("127.0.0.1").relays([blocked]).relayed_only(true);
    let (mut caller, callee) = call(caller, config("127.0.0.1")).await;
    caller.start();
    callee.start();
    loop {
        match event(&mut caller).await {
            MediaEvent::LocalCandidate(candidate) => callee.add_remote_candidate(&candidate).unwrap(),
            MediaEvent::Connected(path) => {
                assert_eq!((path.kind, path.relay), (PathKind::Relayed, Some(firewall.local_addr().unwrap())), "{path:?}");
                break;
            }
            other => panic!("{other:?} instead of a connection"),
        }
    }
    tokio::time::timeout(EVENT_DEADLINE, async {
        has_received(&callee, 100).await;
        has_received(&caller, 100).await;
    })
    .await
    .expect("audio through the connection");
    assert_eq!(caller.close().await.failure, None);
    callee.close().await;
}

#[tokio::test]
async fn a_call_goes_on_when_an_end_changes_its_uplink() {
    for mover in [Leaver::Caller, Leaver::Callee] {
        let (mut caller, mut callee) = call(config("127.0.0.1"), config("127.0.0.1")).await;
        connected(&mut caller).await;
        connected(&mut callee).await;
        caller.start();
        callee.start();
        has_received(&callee, 50).await;
        let (moved, other) = if mover == Leaver::Caller { (&caller, &callee) } else { (&callee, &caller) };
        let before = (moved.stats().packets_received, other.stats().packets_received);
        // Nothing is told to the other end: signalling may have gone with the uplink.
        moved.change_addresses(vec!["127.0.0.2".parse().unwrap()]).unwrap();
        let at = std::time::Instant::now();
        tokio::time::timeout(EVENT_DEADLINE, async {
            has_received(moved, before.0 + 100).await;
            has_received(other, before.1 + 100).await;
        })
        .await
        .expect("audio over the new uplink");
        eprintln!("two seconds of audio at both ends {:?} after the uplink changed", at.elapsed());
        assert!(moved.stats().path.unwrap().local.ip() == "127.0.0.2".parse::<std::net::IpAddr>().unwrap());
        assert_eq!(caller.close().await.failure, None);
        assert_eq!(callee.close().await.failure, None);
    }
}
