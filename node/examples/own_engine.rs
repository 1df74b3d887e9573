//! A call whose media are not the node's but those of an engine that the embedder brings.
//!
//! Alice's program drives a WebRTC engine itself, here `str0m`; it could as well be a browser's. The node carries its description, signed and
//! sealed, to bob, lends it a media relay, and tells it what bob's end says. Bob's node uses its own engine: neither end knows what the other has.
//! To show that the relay's credentials work, this engine offers nothing but the address that the relay lends it.
//!
//! `cargo run --example own_engine` starts the little network it needs by itself.

#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use std::collections::VecDeque;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use halloo::handle::call_media::{CallDescription, IceServer, MediaReport};
use halloo::handle::calls::{CallPath, DialOptions};
use halloo::testnet::{Network, NetworkOptions, UserOptions};
use halloo::{AutoAnswer, Event, Node};
use str0m::change::{SdpAnswer, SdpPendingOffer};
use str0m::media::{Direction, MediaKind, MediaTime, Mid};
use str0m::net::{Protocol, Receive};
use str0m::{Candidate, Input, Output, Rtc, RtcConfig};
use tokio::net::UdpSocket;
use turn_client_proto::api::{Transmit, TurnConfig, TurnEvent, TurnPollRet, TurnRecvRet};
use turn_client_proto::prelude::*;
use turn_client_proto::types::{TransportType, TurnCredentials};
use turn_client_proto::udp::TurnClientUdp;

type Failure = Box<dyn Error + Send + Sync>;

/// 20 ms of silence, as an Opus encoder writes it: a real program has a microphone.
const SILENCE: [u8; 3] = [0xF8, 0xFF, 0xFE];

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut network = Network::start(NetworkOptions::default()).await?;
    let alice = network.add_user("alice").await?;
    let answers = UserOptions { answer: Some(AutoAnswer::default()), ..UserOptions::default() };
    network.add_users([("bob".to_owned(), answers)]).await?;
    network.befriend("alice", "bob").await?;

    // Relays are found by themselves, some moments after the start.
    let server = loop {
        match alice.calls().ice_servers().await?.ice_servers.into_iter().next() {
            Some(server) => break server,
            None => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    };
    println!("alice may use {}", server.urls.join(", "));
    let (mut engine, offer) = Engine::start(&server).await?;

    let mut events = alice.subscribe();
    let options = DialOptions { offer: Some(offer), duration_ms: Some(1_000), ..DialOptions::to("bob") };
    let caller = alice.clone();
    let calling = tokio::spawn(async move { caller.calls().dial(options).await });
    let mut call_id = String::new();
    loop {
        tokio::select! {
            record = events.recv() => match record.map(|record| record.event) {
                Some(Event::CallDescription(description)) => {
                    call_id.clone_from(&description.call_id);
                    engine.accept(&description)?;
                }
                Some(Event::CallCandidate { candidate, .. }) => engine.add_remote(&candidate)?,
                Some(Event::CallEnded(outcome)) => {
                    println!("the call: {:?}, path {:?}", outcome.outcome, outcome.path);
                    break;
                }
                Some(_) => {}
                None => return Err("the node has stopped".into()),
            },
            step = engine.step() => match step? {
                Some(News::Connected) => tell_connected(&alice, &call_id).await?,
                Some(News::Candidate(candidate)) => alice.calls().trickle(&call_id, &candidate).await?,
                None => {}
            },
        }
    }
    calling.await??;
    println!("alice's engine has heard {}", if engine.heard > 0 { "bob" } else { "nothing" });
    network.shutdown().await;
    Ok(())
}

async fn tell_connected(alice: &Node, call_id: &str) -> Result<(), Failure> {
    println!("alice's engine is connected");
    Ok(alice.calls().report_media(call_id, MediaReport::Connected { path: Some(CallPath::Relayed) }).await?)
}

/// What the engine has to say.
enum News {
    Connected,
    /// A candidate that wasn't in the description. This engine has none; others do.
    #[allow(dead_code, reason = "shows where a candidate would go")]
    Candidate(String),
}

/// A WebRTC engine with one socket, and one address that a relay lends it.
struct Engine {
    socket: UdpSocket,
    local: SocketAddr,
    began: Instant,
    turn: TurnClientUdp,
    relay: SocketAddr,
    relayed: Option<SocketAddr>,
    rtc: Rtc,
    pending: Option<SdpPendingOffer>,
    audio: Mid,
    news: VecDeque<News>,
    wake_at: Instant,
    /// When the next 20 ms are due, once connected.
    speaks_at: Option<Instant>,
    spoken: u64,
    /// Packets of bob's.
    heard: u64,
}

impl Engine {
    /// Borrows an address from the relay and makes the offer.
    async fn start(server: &IceServer) -> Result<(Self, String), Failure> {
        let url = server.urls.iter().find_map(|url| url.strip_prefix("turn:")?.strip_suffix("?transport=udp"));
        let relay: SocketAddr = url.ok_or("no relay by UDP")?.parse()?;
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        let local = socket.local_addr()?;
        let credentials = TurnCredentials::new(&server.username, &server.credential);
        let began = Instant::now();
        let rtc = RtcConfig::new()
            .set_crypto_provider(Arc::new(str0m::crypto::from_feature_flags()))
            .clear_codecs()
            .enable_opus(true, false)
            .build(began);
        let turn = TurnClientUdp::allocate(local, relay, TurnConfig::new(credentials));
        let mut engine = Self {
            socket,
            local,
            began,
            turn,
            relay,
            relayed: None,
            rtc,
            pending: None,
            audio: Mid::from("0"),
            news: VecDeque::new(),
            wake_at: began,
            speaks_at: None,
            spoken: 0,
            heard: 0,
        };
        while engine.relayed.is_none() {
            engine.step().await?;
        }
        let mut changes = engine.rtc.sdp_api();
        engine.audio = changes.add_media(MediaKind::Audio, Direction::SendRecv, None, None, None);
        let (offer, pending) = changes.apply().ok_or("nothing to offer")?;
        engine.pending = Some(pending);
        Ok((engine, offer.to_sdp_string()))
    }

    /// Takes bob's answer.
    fn accept(&mut self, description: &CallDescription) -> Result<(), Failure> {
        let pending = self.pending.take().ok_or("answered already")?;
        // The relay lets through only whom it is told of: that is each address in the answer.
        for candidate in
            description.sdp.lines().filter_map(|line| line.strip_prefix("a=")).filter(|line| line.starts_with("candidate:"))
        {
            self.permit(candidate)?;
        }
        self.rtc.sdp_api().accept_answer(pending, SdpAnswer::from_sdp_string(&description.sdp)?)?;
        description.candidates.iter().try_for_each(|candidate| self.add_remote(candidate))
    }

    fn add_remote(&mut self, candidate: &str) -> Result<(), Failure> {
        // `remove-` before it takes one back; ICE finds out by itself.
        if candidate.starts_with("candidate:") && self.pending.is_none() {
            self.permit(candidate)?;
            self.rtc.add_remote_candidate(Candidate::from_sdp_string(candidate)?);
        }
        Ok(())
    }

    fn permit(&mut self, candidate: &str) -> Result<(), Failure> {
        let address = Candidate::from_sdp_string(candidate)?.addr().ip();
        let now = self.turn_time();
        // One that has it already is fine.
        let _ = self.turn.create_permission(TransportType::Udp, address, now);
        Ok(())
    }

    fn turn_time(&self) -> turn_client_proto::types::Instant {
        turn_client_proto::types::Instant::from_nanos(i64::try_from(self.began.elapsed().as_nanos()).unwrap_or(i64::MAX))
    }

    /// Does what is due, then waits for a datagram or until something else is.
    async fn step(&mut self) -> Result<Option<News>, Failure> {
        if self.speaks_at.is_some_and(|at| at <= Instant::now()) {
            self.speak()?;
        }
        self.rtc.handle_input(Input::Timeout(Instant::now()))?;
        self.drain().await?;
        self.serve_relay().await?;
        if let Some(news) = self.news.pop_front() {
            return Ok(Some(news));
        }
        let mut buffer = vec![0; 2_000];
        let soon = Instant::now() + Duration::from_millis(50);
        let wake_at = [Some(self.wake_at), self.speaks_at].into_iter().flatten().fold(soon, Instant::min);
        tokio::select! {
            () = tokio::time::sleep_until(wake_at.into()) => {}
            received = self.socket.recv_from(&mut buffer) => {
                let (length, source) = received?;
                self.receive(&buffer[..length], source).await?;
            }
        }
        Ok(None)
    }

    /// What comes is the relay's: its own words, or what it hands over.
    async fn receive(&mut self, datagram: &[u8], source: SocketAddr) -> Result<(), Failure> {
        let now = self.turn_time();
        let transmit = Transmit::new(datagram, TransportType::Udp, source, self.local);
        let handed = match self.turn.recv(transmit, now) {
            TurnRecvRet::PeerData(data) => (data.peer, data.data().to_vec()),
            _ => return Ok(()),
        };
        let Some(relayed) = self.relayed else { return Ok(()) };
        if let Ok(receive) = Receive::new(Protocol::Udp, handed.0, relayed, &handed.1) {
            self.rtc.handle_input(Input::Receive(Instant::now(), receive))?;
            self.drain().await?;
        }
        Ok(())
    }

    /// Does what the engine wants done.
    async fn drain(&mut self) -> Result<(), Failure> {
        loop {
            match self.rtc.poll_output()? {
                Output::Timeout(at) => {
                    self.wake_at = at;
                    return Ok(());
                }
                Output::Transmit(out) => {
                    let now = self.turn_time();
                    // Without a permission yet there is nothing to send by; ICE tries again.
                    if let Ok(Some(built)) = self.turn.send_to(TransportType::Udp, out.destination, &out.contents[..], now) {
                        self.socket.send_to(&built.data.build(), self.relay).await?;
                    }
                }
                Output::Event(str0m::Event::Connected) => {
                    self.speaks_at = Some(Instant::now());
                    self.news.push_back(News::Connected);
                }
                Output::Event(str0m::Event::MediaData(_)) => self.heard += 1,
                Output::Event(_) => {}
            }
        }
    }

    async fn serve_relay(&mut self) -> Result<(), Failure> {
        for _ in 0..32 {
            let now = self.turn_time();
            if matches!(self.turn.poll(now), TurnPollRet::WaitUntil(_) | TurnPollRet::Closed) {
                break;
            }
        }
        while let Some(event) = self.turn.poll_event() {
            match event {
                TurnEvent::AllocationCreated(TransportType::Udp, relayed) => {
                    self.relayed = Some(relayed);
                    self.rtc.add_local_candidate(Candidate::relayed(relayed, self.local, Protocol::Udp)?);
                    self.drain().await?;
                }
                TurnEvent::AllocationCreateFailed(_) => return Err("the relay lends no address".into()),
                _ => {}
            }
        }
        let now = self.turn_time();
        while let Some(transmit) = self.turn.poll_transmit(now) {
            self.socket.send_to(transmit.data.as_ref(), self.relay).await?;
        }
        Ok(())
    }

    /// Sends the next 20 ms.
    fn speak(&mut self) -> Result<(), Failure> {
        self.speaks_at = self.speaks_at.map(|at| at + Duration::from_millis(20));
        let time = MediaTime::from_millis(self.spoken * 20);
        self.spoken += 1;
        let Some(writer) = self.rtc.writer(self.audio) else { return Ok(()) };
        let pt = writer.payload_params().next().map(|params| params.pt());
        if let Some(pt) = pt {
            writer.write(pt, Instant::now(), time, SILENCE.to_vec())?;
        }
        Ok(())
    }
}
