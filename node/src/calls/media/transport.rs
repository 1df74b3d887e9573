//! WebRTC of one call: the sockets, and the sans-IO engine that does ICE, DTLS-SRTP and RTP.
//!
//! The engine's rule is one mutation, then draining its output until it names a time-out. Every
//! method here that mutates it therefore ends in [`Transport::drain`]; what the drain meets for
//! others is queued and taken with [`Transport::next_event`].

use std::{
    collections::{BTreeSet, VecDeque},
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use str0m::{
    Candidate, CandidateKind, Event, IceConnectionState, Input, Output, Rtc, RtcConfig, RtcError,
    change::{SdpAnswer, SdpOffer, SdpPendingOffer},
    format::Codec,
    media::{Direction, MediaKind, Mid, Pt},
    net::{Protocol, Receive, Transmit},
    rtp::{Extension, RtpPacket, RtpWrite},
    stats::PeerStats,
};
use tokio::{io::ReadBuf, net::UdpSocket};

use super::{
    MediaConfig, MediaError, SDP_BYTES_MAX,
    audio::FRAME_SAMPLES,
    candidates::{self, MediaPath, RemoteCandidates},
    turn::{Relayed, TurnClients},
};

/// Larger datagrams are cut off and fail authentication: nothing of WebRTC exceeds an Ethernet frame.
const DATAGRAM_BYTES_MAX: usize = 2_048;
/// Longest wait between two tries of one connectivity check. Also paces the keep-alive checks that
/// measure the round-trip time and notice a dead path.
const STUN_RETRY_MAX: Duration = Duration::from_secs(1);
/// Unanswered tries until a path counts as dead: 0.25 + 0.5 + 8 x 1 s, about 9 s.
const STUN_RETRIES_MAX: usize = 10;
/// How often the engine reports its round-trip time.
const STATS_INTERVAL: Duration = Duration::from_millis(500);
/// Reports to the other end about what arrived (RFC 3550 section 6.2); 5 s would be too rare
/// for a short call.
const RTCP_INTERVAL: Duration = Duration::from_secs(1);
/// Errors in a row after which a socket is no longer read: its interface is gone.
const SOCKET_ERRORS_MAX: u32 = 16;
/// First bytes up to here mark STUN, everything above is DTLS or media (RFC 7983).
const STUN_FIRST_BYTE_MAX: u8 = 3;
/// Number of the header extension that carries the media's identifier; any of 1 to 14 would do.
const MID_EXTENSION: u8 = 4;
/// Sources remembered as verified. Those beyond wait until the engine knows them.
const VERIFIED_SOURCES_MAX: usize = candidates::REMOTE_CANDIDATES_MAX;
/// Before the attribute of a candidate that is taken back. Whoever doesn't know it finds no candidate in it, and the path in time dead.
pub(super) const REMOVAL: &str = "remove-";
/// Stream and track identifiers, which SDP wants and this engine's one stream does not need.
const STREAM_ID: &str = "halloo";
const TRACK_ID: &str = "voice";

/// What happened in the transport.
#[derive(Debug)]
pub(super) enum TransportEvent {
    /// ICE and DTLS are through; media may flow.
    Connected,
    /// Media travels between these addresses from now on.
    Path(MediaPath),
    /// Connectivity checks are no longer answered.
    Interrupted,
    /// Connectivity checks are answered again.
    Resumed,
    /// A packet of the other end's audio.
    Audio(Box<RtpPacket>),
    /// The most recent round-trip time.
    RoundTrip(Duration),
    /// This relay lends no address, and says why.
    RelayFailed(SocketAddr, String),
    /// A candidate of ours that wasn't there when the description was made, as an SDP attribute.
    LocalCandidate(String),
    /// The other end took leave.
    Closed,
}

/// How long making an offer waits for relays: two round trips to one that is near. What comes later is trickled.
pub(super) const GATHER_MAX: Duration = Duration::from_millis(300);

/// Sockets and engine of one call.
pub(super) struct Transport {
    rtc: Rtc,
    sockets: Sockets,
    turn: TurnClients,
    lab: bool,
    relayed_only: bool,
    /// The session description is made: candidates found from now on are told one by one.
    is_described: bool,
    local_candidates: Vec<String>,
    remote_candidates: RemoteCandidates,
    /// Whence checks came that carry this session's password.
    verified_sources: BTreeSet<SocketAddr>,
    audio: Option<(Mid, Pt)>,
    path: Option<MediaPath>,
    interrupted: bool,
    next_sequence: u64,
    next_timestamp: u32,
    packets_sent: u64,
    send_failures: u64,
    wake_at: Instant,
    events: VecDeque<TransportEvent>,
    offered_audio: Option<Mid>,
}

impl Transport {
    /// Binds the sockets and builds the engine, with a fresh certificate for this call.
    pub(super) async fn new(config: &MediaConfig) -> Result<Self, MediaError> {
        let addresses = if config.bind.is_empty() {
            candidates::gather(config.lab).map_err(|source| MediaError::Interfaces { source: Arc::new(source) })?
        } else {
            config.bind.clone()
        };
        let sockets = Sockets::bind(&addresses).await?;
        let now = Instant::now();
        let local: Vec<SocketAddr> = sockets.local_addrs().collect();
        let mut transport = Self {
            rtc: build_rtc(now)?,
            turn: TurnClients::new(&config.relays, &local, config.lab, now),
            sockets,
            lab: config.lab,
            relayed_only: config.relayed_only,
            is_described: false,
            local_candidates: Vec::new(),
            remote_candidates: RemoteCandidates::default(),
            verified_sources: BTreeSet::new(),
            audio: None,
            path: None,
            interrupted: false,
            next_sequence: 0,
            next_timestamp: 0,
            packets_sent: 0,
            send_failures: 0,
            wake_at: now,
            events: VecDeque::new(),
            offered_audio: None,
        };
        for addr in local {
            let host = Candidate::host(addr, Protocol::Udp).map_err(candidate_error)?;
            transport.add_local_candidate(host)?;
        }
        transport.serve_relays()?;
        Ok(transport)
    }

    /// Adds a candidate of ours: before the offer or answer is made it goes out in it, afterwards it is trickled.
    fn add_local_candidate(&mut self, candidate: Candidate) -> Result<(), MediaError> {
        if self.relayed_only && candidate.kind() != CandidateKind::Relayed {
            return Ok(());
        }
        if let Some(added) = self.rtc.add_local_candidate(candidate) {
            let attribute = added.to_sdp_string();
            if self.is_described {
                self.events.push_back(TransportEvent::LocalCandidate(attribute.clone()));
            }
            self.local_candidates.push(attribute);
        }
        self.drain()
    }

    /// Waits until the relays have come up with what they have, but no longer than [`GATHER_MAX`].
    pub(super) async fn gather(&mut self) -> Result<(), MediaError> {
        let end = Instant::now() + GATHER_MAX;
        while self.turn.is_gathering() && Instant::now() < end {
            self.advance(end).await?;
        }
        self.check_relays("none is at hand")
    }

    /// Fails if nothing but a relay will do and none lends an address or is still being asked: `why` it was then, if none has said so.
    pub(super) fn check_relays(&self, why: &str) -> Result<(), MediaError> {
        if !self.relayed_only || !self.local_candidates.is_empty() || self.turn.is_gathering() {
            return Ok(());
        }
        let said = self.events.iter().rev().find_map(|event| match event {
            TransportEvent::RelayFailed(_, why) => Some(why.as_str()),
            _ => None,
        });
        Err(MediaError::NoRelay { why: said.unwrap_or(why).to_owned() })
    }

    /// Keeps an offer alive that waits for its answer: what relays lend is given back if they hear nothing.
    pub(super) async fn linger(&mut self) -> MediaError {
        loop {
            if let Err(error) = self.advance(Instant::now() + Duration::from_secs(60)).await {
                return error;
            }
        }
    }

    /// Waits for the next datagram or time-out, at the latest until `end`, and handles it. Safe to drop.
    async fn advance(&mut self, end: Instant) -> Result<(), MediaError> {
        let wake_at = self.wake_at().min(end);
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(wake_at.into()) => self.handle_timeout(Instant::now()),
            datagram = self.receive() => self.handle_datagram(datagram, Instant::now()).map(|_| ()),
        }
    }

    /// Sends what is for relays and takes what they have found.
    fn serve_relays(&mut self) -> Result<(), MediaError> {
        self.send_to_relays();
        while let Some(candidate) = self.turn.next_candidate() {
            self.add_local_candidate(candidate)?;
        }
        while let Some((relay, why)) = self.turn.next_failure() {
            self.events.push_back(TransportEvent::RelayFailed(relay, why));
        }
        Ok(())
    }

    fn send_to_relays(&mut self) {
        while let Some(out) = self.turn.next_outgoing() {
            if !self.sockets.send(out.local, out.relay, &out.payload) {
                self.send_failures += 1;
            }
        }
    }

    /// Adds a candidate the other end trickled. One that may not be used is dropped silently:
    /// what is unusable here may be right elsewhere.
    pub(super) fn add_remote_candidate(&mut self, candidate: Candidate) -> Result<(), MediaError> {
        if !self.remote_candidates.admit(&candidate, self.lab) {
            tracing::debug!("remote candidate dropped");
            return Ok(());
        }
        self.turn.permit(candidate.addr().ip(), Instant::now());
        self.rtc.add_remote_candidate(candidate);
        self.drain()?;
        self.serve_relays()
    }

    /// The relay at these addresses is about to end. If another one lends an address too, the path changes to one that doesn't need the first.
    pub(super) fn leave_relay(&mut self, relay: &[SocketAddr]) -> Result<(), MediaError> {
        for candidate in self.turn.leave(relay) {
            // Told first: the end that decides on the path is perhaps not this one.
            let attribute = format!("{REMOVAL}{}", candidate.to_sdp_string());
            self.events.push_back(TransportEvent::LocalCandidate(attribute));
            self.rtc.direct_api().invalidate_candidate(&candidate);
        }
        self.drain()
    }

    /// The other end takes back a candidate.
    pub(super) fn remove_remote_candidate(&mut self, candidate: &Candidate) -> Result<(), MediaError> {
        self.rtc.direct_api().invalidate_candidate(candidate);
        self.drain()
    }

    /// Our candidates as SDP attributes, without `a=`.
    pub(super) fn local_candidates(&self) -> &[String] {
        &self.local_candidates
    }

    pub(super) fn create_offer(&mut self) -> Result<(SdpPendingOffer, String), MediaError> {
        let mut changes = self.rtc.sdp_api();
        let (stream, track) = (Some(STREAM_ID.to_owned()), Some(TRACK_ID.to_owned()));
        let mid = changes.add_media(MediaKind::Audio, Direction::SendRecv, stream, track, None);
        let (offer, pending) = changes.apply().ok_or(MediaError::NoCommonAudio)?;
        self.offered_audio = Some(mid);
        self.is_described = true;
        self.drain()?;
        Ok((pending, offer.to_sdp_string()))
    }

    pub(super) fn accept_answer(&mut self, pending: SdpPendingOffer, answer: &str) -> Result<(), MediaError> {
        let answer = self.admit_description(answer)?;
        let answer = SdpAnswer::from_sdp_string(&answer).map_err(sdp_error)?;
        self.rtc.sdp_api().accept_answer(pending, answer).map_err(sdp_error)?;
        self.drain()?;
        let offered = self.offered_audio.ok_or(MediaError::NoCommonAudio)?;
        self.use_audio(offered)
    }

    pub(super) fn accept_offer(&mut self, offer: &str) -> Result<String, MediaError> {
        let offer = self.admit_description(offer)?;
        let offer = SdpOffer::from_sdp_string(&offer).map_err(sdp_error)?;
        let answer = self.rtc.sdp_api().accept_offer(offer).map_err(sdp_error)?;
        self.is_described = true;
        self.drain()?;
        let sdp = answer.to_sdp_string();
        self.use_audio(first_audio(&sdp).ok_or(MediaError::NoCommonAudio)?)?;
        Ok(sdp)
    }

    /// Checks the length and takes out candidates that may not be used.
    fn admit_description(&mut self, sdp: &str) -> Result<String, MediaError> {
        check_length(sdp)?;
        let mut admitted = String::with_capacity(sdp.len());
        for line in sdp.lines() {
            if let Some(attribute) = line.strip_prefix("a=candidate:") {
                let candidate = Candidate::from_sdp_string(&format!("candidate:{attribute}"));
                let candidate = candidate.ok().filter(|candidate| self.remote_candidates.admit(candidate, self.lab));
                let Some(candidate) = candidate else {
                    tracing::debug!("remote candidate dropped");
                    continue;
                };
                self.turn.permit(candidate.addr().ip(), Instant::now());
            }
            admitted.push_str(line);
            admitted.push_str("\r\n");
        }
        Ok(admitted)
    }

    /// Sends and receives this media, if both ends agreed on it; finds what payload type means Opus.
    fn use_audio(&mut self, mid: Mid) -> Result<(), MediaError> {
        let media = self.rtc.media(mid).ok_or(MediaError::NoCommonAudio)?;
        if media.disabled() || !media.direction().is_sending() || !media.direction().is_receiving() {
            return Err(MediaError::NoCommonAudio);
        }
        let is_opus = |pt: &Pt| {
            let params = self.rtc.codec_config().params();
            params.iter().any(|p| p.pt() == *pt && p.spec().codec == Codec::Opus)
        };
        let pt = media.remote_pts().iter().copied().find(is_opus).ok_or(MediaError::NoCommonAudio)?;
        self.audio = Some((mid, pt));
        Ok(())
    }

    /// Sends 20 ms of encoded audio. Nothing leaves before the handshake is through.
    pub(super) fn send_audio(&mut self, payload: &[u8], now: Instant) -> Result<(), MediaError> {
        let (sequence, timestamp) = (self.next_sequence, self.next_timestamp);
        self.next_sequence += 1;
        self.next_timestamp = timestamp.wrapping_add(FRAME_SAMPLES as u32);
        if let Some((mid, pt)) = self.audio
            && let Some(stream) = self.rtc.direct_api().stream_tx_by_mid(mid, None)
        {
            stream.write_rtp(RtpWrite::new(pt, sequence.into(), timestamp, now, payload));
            self.packets_sent += 1;
        }
        self.drain()?;
        // Queued packets leave when the engine's clock moves.
        self.handle_timeout(now)
    }

    /// Tells the engine the time. Due at [`Transport::wake_at`].
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Result<(), MediaError> {
        self.rtc.handle_input(Input::Timeout(now)).map_err(engine_error)?;
        self.drain()?;
        self.turn.poll(now);
        self.serve_relays()
    }

    /// Takes in the datagram that [`Transport::receive`] announced; whether it is the other end's.
    pub(super) fn handle_datagram(&mut self, datagram: Datagram, now: Instant) -> Result<bool, MediaError> {
        let contents = &self.sockets.buffer[..datagram.length];
        match self.turn.handle(datagram.destination, datagram.source, contents, now) {
            Relayed::NotOurs => {
                let Self { rtc, sockets, verified_sources, .. } = self;
                let contents = &sockets.buffer[..datagram.length];
                let is_theirs = feed(rtc, verified_sources, (datagram.source, datagram.destination), contents, now);
                self.drain()?;
                Ok(is_theirs)
            }
            Relayed::Consumed => self.serve_relays().map(|()| false),
            Relayed::FromPeer { peer, at, payload } => {
                let is_theirs = feed(&mut self.rtc, &mut self.verified_sources, (peer, at), &payload, now);
                self.drain()?;
                self.serve_relays()?;
                Ok(is_theirs)
            }
        }
    }

    /// Waits for a datagram. Safe to drop: nothing is lost.
    pub(super) async fn receive(&mut self) -> Datagram {
        std::future::poll_fn(|cx| self.sockets.poll_receive(cx)).await
    }

    pub(super) fn next_event(&mut self) -> Option<TransportEvent> {
        self.events.pop_front()
    }

    /// Takes leave: tells the other end, without waiting for its reply.
    pub(super) fn close(&mut self) {
        if self.rtc.close().is_ok() {
            // The call is over whether or not the goodbye can be sent.
            let _ = self.drain();
        }
        self.turn.close(Instant::now());
        self.send_to_relays();
    }

    pub(super) fn wake_at(&self) -> Instant {
        self.turn.wake_at().map_or(self.wake_at, |at| at.min(self.wake_at))
    }

    pub(super) fn path(&self) -> Option<MediaPath> {
        self.path
    }

    pub(super) fn packets_sent(&self) -> u64 {
        self.packets_sent
    }

    pub(super) fn send_failures(&self) -> u64 {
        self.send_failures
    }

    fn drain(&mut self) -> Result<(), MediaError> {
        loop {
            match self.rtc.poll_output().map_err(engine_error)? {
                Output::Timeout(at) => {
                    self.wake_at = at;
                    return Ok(());
                }
                Output::Transmit(transmit) => self.transmit(&transmit),
                Output::Event(event) => self.translate(event),
            }
        }
    }

    fn transmit(&mut self, transmit: &Transmit) {
        if transmit.proto != Protocol::Udp {
            return;
        }
        if !is_stun(&transmit.contents) {
            self.note_path(transmit.source, transmit.destination);
        }
        let (from, to) = (transmit.source, transmit.destination);
        let is_sent = if self.turn.has(from) {
            let is_sent = self.turn.send(from, to, &transmit.contents, Instant::now());
            self.send_to_relays();
            is_sent
        } else {
            self.sockets.send(from, to, &transmit.contents)
        };
        self.send_failures += u64::from(!is_sent);
    }

    /// The engine sends everything but checks over the nominated pair: that tells the path.
    fn note_path(&mut self, local: SocketAddr, remote: SocketAddr) {
        if self.path.is_some_and(|path| path.local == local && path.remote == remote) {
            return;
        }
        let local_kind = if self.sockets.has(local) { CandidateKind::Host } else { CandidateKind::Relayed };
        if local_kind == CandidateKind::Relayed {
            self.turn.prefer(local, remote, Instant::now());
        }
        let path = self.remote_candidates.path(local, local_kind, remote);
        let path = MediaPath { relay: self.turn.lender_of(local), ..path };
        self.path = Some(path);
        self.events.push_back(TransportEvent::Path(path));
    }

    fn translate(&mut self, event: Event) {
        let event = match event {
            Event::Connected => TransportEvent::Connected,
            Event::IceConnectionStateChange(IceConnectionState::Disconnected) => {
                self.interrupted = true;
                TransportEvent::Interrupted
            }
            Event::IceConnectionStateChange(state) if state.is_connected() && self.interrupted => {
                self.interrupted = false;
                TransportEvent::Resumed
            }
            Event::RtpPacket(packet) => {
                let expected = self.audio.is_some_and(|(_, pt)| packet.header.payload_type == pt);
                if !expected {
                    return;
                }
                TransportEvent::Audio(Box::new(packet))
            }
            Event::PeerStats(stats) => match round_trip(&stats) {
                Some(rtt) => TransportEvent::RoundTrip(rtt),
                None => return,
            },
            Event::Closed => TransportEvent::Closed,
            _ => return,
        };
        self.events.push_back(event);
    }
}

impl Drop for Transport {
    /// However a call ends, what relays lent it goes back: they count what a user holds.
    fn drop(&mut self) {
        self.turn.close(Instant::now());
        self.send_to_relays();
    }
}

fn build_rtc(now: Instant) -> Result<Rtc, MediaError> {
    // The provider is named here because a process may hold several, and an embedder may have
    // chosen another as the process's default.
    let provider = Arc::new(str0m::crypto::from_feature_flags());
    let certificate = provider.dtls_provider.generate_certificate().ok_or(MediaError::Certificate)?;
    let mut config = RtcConfig::new()
        .set_crypto_provider(provider)
        .set_dtls_cert(certificate)
        .set_rtp_mode(true)
        .clear_codecs()
        .enable_opus(true, false)
        .clear_extension_map()
        // The one header extension BUNDLE needs (RFC 8843 section 9), for stacks that do not announce
        // their stream's SSRC.
        .set_extension(MID_EXTENSION, Extension::RtpMid)
        .set_stats_interval(Some(STATS_INTERVAL))
        .set_rtcp_report_interval_audio(RTCP_INTERVAL);
    config.set_max_stun_rto(STUN_RETRY_MAX);
    config.set_max_stun_retransmits(STUN_RETRIES_MAX);
    Ok(config.build(now))
}

/// Hands a datagram to the engine; whether it is the other end's.
fn feed(
    rtc: &mut Rtc,
    verified_sources: &mut BTreeSet<SocketAddr>,
    (source, destination): (SocketAddr, SocketAddr),
    contents: &[u8],
    now: Instant,
) -> bool {
    let is_stun = is_stun(contents);
    // What is neither STUN, DTLS nor media, or does not belong to this call, is anyone's noise.
    let Ok(receive) = Receive::new(Protocol::Udp, source, destination, contents) else { return false };
    let input = Input::Receive(now, receive);
    // The engine would know a source only once its own check there has succeeded. The other end's
    // first handshake message may overtake that, and losing it would cost a second.
    let is_verified = !is_stun && verified_sources.contains(&source);
    if !is_verified && !rtc.accepts(&input) {
        return false;
    }
    if is_stun && verified_sources.len() < VERIFIED_SOURCES_MAX {
        verified_sources.insert(source);
    }
    if let Err(error) = rtc.handle_input(input) {
        // One bad packet from outside must not end a call; the handshake's deadline catches
        // a handshake that cannot succeed.
        tracing::debug!(%error, "datagram refused");
    }
    true
}

fn is_stun(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|&byte| byte <= STUN_FIRST_BYTE_MAX)
}

/// STUN's measurement is the fresher one; RTCP's is there if only reports have come.
fn round_trip(stats: &PeerStats) -> Option<Duration> {
    let pair = stats.selected_candidate_pair.as_ref();
    pair.and_then(|pair| pair.current_round_trip_time).or(stats.rtt)
}

/// The identifier of the first audio section in a description of our own making. The engine tells of
/// media only after the handshake, too late to refuse an offer without audio.
fn first_audio(sdp: &str) -> Option<Mid> {
    let mut lines = sdp.lines().skip_while(|line| !line.starts_with("m=audio"));
    lines.next()?;
    let mut section = lines.take_while(|line| !line.starts_with("m="));
    section.find_map(|line| line.strip_prefix("a=mid:")).map(Mid::from)
}

pub(super) fn check_length(sdp: &str) -> Result<(), MediaError> {
    if sdp.len() > SDP_BYTES_MAX {
        return Err(MediaError::SdpTooLarge { bytes: sdp.len() });
    }
    Ok(())
}

pub(super) fn candidate_error(error: impl std::fmt::Display) -> MediaError {
    MediaError::CandidateInvalid { detail: error.to_string() }
}

fn sdp_error(error: impl std::fmt::Display) -> MediaError {
    MediaError::SdpInvalid { detail: error.to_string() }
}

/// Once the descriptions are exchanged the engine blames the remote SDP for one thing only: a
/// certificate that is not the one it announced.
fn engine_error(error: RtcError) -> MediaError {
    match error {
        RtcError::RemoteSdp(_) => MediaError::FingerprintMismatch,
        other => MediaError::Transport { detail: other.to_string() },
    }
}

/// Where a received datagram came from and went to; its bytes wait in the buffer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Datagram {
    source: SocketAddr,
    destination: SocketAddr,
    length: usize,
}

struct BoundSocket {
    socket: UdpSocket,
    local: SocketAddr,
    errors_in_a_row: u32,
}

/// One UDP socket per host candidate, closed on drop.
struct Sockets {
    sockets: Vec<BoundSocket>,
    buffer: Box<[u8]>,
    /// Where reading goes on, so that a busy socket does not starve the others.
    next: usize,
}

impl Sockets {
    /// Binds a port of the system's choice on each address; one that cannot be bound is left
    /// out as long as another can.
    async fn bind(addresses: &[IpAddr]) -> Result<Self, MediaError> {
        let mut sockets = Vec::new();
        let mut failure = MediaError::NoLocalAddress;
        for &address in addresses.iter().take(candidates::HOST_CANDIDATES_MAX) {
            match bind_one(address).await {
                Ok(socket) => sockets.push(socket),
                Err(source) => failure = MediaError::Bind { address, source: Arc::new(source) },
            }
        }
        if sockets.is_empty() {
            return Err(failure);
        }
        Ok(Self { sockets, buffer: vec![0; DATAGRAM_BYTES_MAX].into_boxed_slice(), next: 0 })
    }

    fn local_addrs(&self) -> impl Iterator<Item = SocketAddr> + use<> {
        self.sockets.iter().map(|bound| bound.local).collect::<Vec<_>>().into_iter()
    }

    fn has(&self, local: SocketAddr) -> bool {
        self.sockets.iter().any(|bound| bound.local == local)
    }

    /// Sends without waiting: a full socket buffer loses the packet, as any network may.
    fn send(&self, local: SocketAddr, remote: SocketAddr, contents: &[u8]) -> bool {
        let socket = self.sockets.iter().find(|bound| bound.local == local);
        socket.is_some_and(|bound| bound.socket.try_send_to(contents, remote).is_ok())
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Datagram> {
        let count = self.sockets.len();
        for offset in 0..count {
            let index = (self.next + offset) % count;
            let bound = &mut self.sockets[index];
            while bound.errors_in_a_row < SOCKET_ERRORS_MAX {
                let mut buffer = ReadBuf::new(&mut self.buffer);
                match bound.socket.poll_recv_from(cx, &mut buffer) {
                    Poll::Pending => break,
                    Poll::Ready(Err(_)) => bound.errors_in_a_row += 1,
                    Poll::Ready(Ok(source)) => {
                        bound.errors_in_a_row = 0;
                        self.next = index + 1;
                        let length = buffer.filled().len();
                        return Poll::Ready(Datagram { source, destination: bound.local, length });
                    }
                }
            }
        }
        Poll::Pending
    }
}

async fn bind_one(address: IpAddr) -> io::Result<BoundSocket> {
    let socket = UdpSocket::bind((address, 0)).await?;
    let local = socket.local_addr()?;
    // A fresh socket refuses to send until the runtime has seen it writable once.
    socket.writable().await?;
    Ok(BoundSocket { socket, local, errors_in_a_row: 0 })
}
