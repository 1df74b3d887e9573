//! WebRTC of one call: the sockets, and the sans-IO engine that does ICE, DTLS-SRTP and RTP.
//!
//! The engine's rule is one mutation, then draining its output until it names a time-out. Every
//! method here that mutates it therefore ends in [`Transport::drain`]; what the drain meets for
//! others is queued and taken with [`Transport::next_event`].

use std::{
    collections::{BTreeSet, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use halloo_protocol::phone::keys::KeyPacket;

use super::{
    MediaConfig, MediaError, SDP_BYTES_MAX,
    candidates::{self, MediaPath, PathKind, RemoteCandidates},
    codecs::AudioLine,
    engine,
    pairs::Pair,
    path_watch::{Doubt, PathWatch},
    port::{AudioFormat, AudioPacket},
    sockets::{Datagram, Sockets},
    spare,
    steering::{self, Steering},
    turn::{RelayServer, Relayed, TurnClients},
    video::{self, VideoLine, VideoOffer},
};
use str0m::{
    Candidate, CandidateKind, Event, IceConnectionState, IceCreds, Input, Output, Rtc, RtcError,
    change::{SdpAnswer, SdpOffer, SdpPendingOffer},
    config::DtlsCert,
    media::{Direction, MediaKind, Mid},
    net::{Protocol, Transmit},
    rtp::{RtpPacket, RtpWrite},
};

/// How often it is looked what uplinks the machine has; and how soon again where something is wrong.
const UPLINKS_EVERY: Duration = Duration::from_secs(2);
const UPLINKS_AGAIN: Duration = Duration::from_millis(200);
/// Before the attribute of a candidate that is taken back. Whoever doesn't know it finds no candidate in it, and the path in time dead.
pub(super) const REMOVAL: &str = "remove-";
/// Frames that a second is sent in.
const FRAMES_PER_SEC: u32 = 50;
/// Stream and track identifiers, which SDP wants and this engine's one stream does not need.
const STREAM_ID: &str = "halloo";
const TRACK_ID: &str = "voice";

/// What happened in the transport.
#[derive(Debug)]
pub(super) enum TransportEvent {
    /// ICE has found its first path.
    IceConnected,
    /// ICE and DTLS are through; media may flow.
    Connected,
    /// Media travels between these addresses from now on.
    Path(MediaPath),
    /// Connectivity checks are no longer answered.
    Interrupted,
    /// Connectivity checks are answered again.
    Resumed,
    /// A packet of the other end's audio, or a key that is pressed there.
    Audio(AudioFormat, Box<RtpPacket>),
    /// A packet of the other end's video.
    Video(Box<RtpPacket>),
    /// The other end asks for a key frame.
    KeyFrameWanted,
    /// The most recent round-trip time.
    RoundTrip(Duration),
    /// This relay lends no address, and says why.
    RelayFailed(SocketAddr, String),
    /// A candidate of ours that wasn't there when the description was made, as an SDP attribute.
    LocalCandidate(String),
    /// The other end took leave.
    Closed,
}

/// How long an offer that shows nothing but relays waits for them: two round trips to one that is near. What comes later is trickled.
pub(super) const GATHER_MAX: Duration = Duration::from_millis(300);

/// An offer that waits for its answer, and what it promised.
pub(super) struct PendingOffer {
    pub(super) change: SdpPendingOffer,
    pub(super) identity: Identity,
}

/// What an offer has told of its engine. Another with the same can take its place.
#[derive(Clone)]
pub(super) struct Identity {
    pub(super) certificate: DtlsCert,
    pub(super) credentials: IceCreds,
    pub(super) mid: Mid,
    pub(super) ssrc: u32,
    pub(super) video: Option<VideoOffer>,
}

/// Sockets and engine of one call.
pub(super) struct Transport {
    pub(super) rtc: Rtc,
    certificate: DtlsCert,
    sockets: Sockets,
    turn: TurnClients,
    watch: PathWatch,
    pub(super) steering: Steering,
    /// When to look what uplinks there are; never where the addresses were given.
    uplinks_at: Option<Instant>,
    uplinks_seen_at: Instant,
    lab: bool,
    pub(super) relayed_only: bool,
    /// The session description is made: candidates found from now on are told one by one.
    is_described: bool,
    pub(super) local_candidates: Vec<Candidate>,
    pub(super) remote_candidates: RemoteCandidates,
    /// Whence checks came that carry this session's password.
    verified_sources: BTreeSet<SocketAddr>,
    pub(super) audio: Option<AudioLine>,
    /// Whether video is offered, and taken where it is.
    wants_video: bool,
    pub(super) video: Option<VideoLine>,
    has_ice: bool,
    path: Option<MediaPath>,
    interrupted: bool,
    next_sequence: u64,
    next_timestamp: u32,
    packets_sent: u64,
    /// Datagrams with audio that were given to a socket or a relay.
    audio_left: u64,
    send_failures: u64,
    wake_at: Instant,
    events: VecDeque<TransportEvent>,
    offered_audio: Option<Mid>,
}

impl Transport {
    /// Binds the sockets and builds the engine, with a fresh certificate for this call.
    pub(super) async fn new(config: &MediaConfig) -> Result<Self, MediaError> {
        let (rtc, certificate) = engine::build(Instant::now(), None, &config.codecs, config.video.is_some())?;
        Self::with_engine(config, rtc, certificate, false).await
    }

    /// The same with the engine that an offer has promised. As its description is made, all candidates are told one by one.
    pub(super) async fn again(config: &MediaConfig, identity: &Identity) -> Result<Self, MediaError> {
        let (rtc, certificate) = engine::build(Instant::now(), Some(identity), &config.codecs, identity.video.is_some())?;
        Self::with_engine(config, rtc, certificate, true).await
    }

    async fn with_engine(config: &MediaConfig, rtc: Rtc, certificate: DtlsCert, is_described: bool) -> Result<Self, MediaError> {
        let addresses = if config.bind.is_empty() {
            candidates::gather(config.lab).map_err(|source| MediaError::Interfaces { source: Arc::new(source) })?
        } else {
            config.bind.clone()
        };
        let sockets = Sockets::bind(&addresses).await?;
        let now = Instant::now();
        let local: Vec<SocketAddr> = sockets.local_addrs().collect();
        let mut transport = Self {
            rtc,
            certificate,
            turn: TurnClients::new(&config.relays, &local, config.lab, now),
            sockets,
            watch: PathWatch::new(now),
            steering: Steering::new(now),
            uplinks_at: config.bind.is_empty().then(|| now + UPLINKS_EVERY),
            uplinks_seen_at: now,
            lab: config.lab,
            relayed_only: config.relayed_only,
            is_described,
            local_candidates: Vec::new(),
            remote_candidates: RemoteCandidates::default(),
            verified_sources: BTreeSet::new(),
            audio: None,
            wants_video: config.video.is_some(),
            video: None,
            has_ice: false,
            path: None,
            interrupted: false,
            next_sequence: 0,
            next_timestamp: 0,
            packets_sent: 0,
            audio_left: 0,
            send_failures: 0,
            wake_at: now,
            events: VecDeque::new(),
            offered_audio: None,
        };
        for addr in local {
            transport.add_host_candidate(addr)?;
        }
        transport.serve_relays()?;
        Ok(transport)
    }

    fn add_host_candidate(&mut self, addr: SocketAddr) -> Result<(), MediaError> {
        self.add_local_candidate(Candidate::host(addr, Protocol::Udp).map_err(candidate_error)?)
    }

    /// Adds a candidate of ours: before the offer or answer is made it goes out in it, afterwards it is trickled.
    fn add_local_candidate(&mut self, candidate: Candidate) -> Result<(), MediaError> {
        if self.relayed_only && candidate.kind() != CandidateKind::Relayed {
            return Ok(());
        }
        if let Some(added) = self.rtc.add_local_candidate(candidate.clone()) {
            if self.is_described {
                self.events.push_back(TransportEvent::LocalCandidate(added.to_sdp_string()));
            }
            self.local_candidates.push(candidate);
        }
        self.drain()
    }

    /// Takes a candidate of ours back. The other end is told first: that which decides on the path is perhaps not this one.
    fn remove_local_candidate(&mut self, candidate: &Candidate) -> Result<(), MediaError> {
        self.steering.leave(candidate.addr());
        self.local_candidates.retain(|known| (known.addr(), known.kind()) != (candidate.addr(), candidate.kind()));
        if self.rtc.direct_api().invalidate_candidate(candidate) && self.is_described {
            let attribute = format!("{REMOVAL}{}", candidate.to_sdp_string());
            self.events.push_back(TransportEvent::LocalCandidate(attribute));
        }
        self.drain()
    }

    /// Whether [`Transport::review_uplinks`] is due.
    pub(super) fn is_review_due(&self, now: Instant) -> bool {
        self.uplinks_at.is_some_and(|at| at <= now)
    }

    /// Looks what uplinks the machine has, and uses those.
    pub(super) async fn review_uplinks(&mut self, now: Instant) -> Result<(), MediaError> {
        self.uplinks_seen_at = now;
        self.uplinks_at = Some(now + UPLINKS_EVERY);
        match candidates::gather(self.lab) {
            // Between two networks there is none: what there was may come back.
            Ok(addresses) if !addresses.is_empty() => self.use_addresses(&addresses, now).await,
            _ => Ok(()),
        }
    }

    /// Something is wrong: uplinks are looked at soon.
    fn hasten_review(&mut self) {
        let soon = self.uplinks_seen_at + UPLINKS_AGAIN;
        self.uplinks_at = self.uplinks_at.map(|at| at.min(soon));
    }

    /// These are the machine's addresses now. What was bound to others goes, with what relays lent over it; what is new is bound, offered, and
    /// relays are asked over it. The call goes on over whatever connects first.
    pub(super) async fn use_addresses(&mut self, addresses: &[IpAddr], now: Instant) -> Result<(), MediaError> {
        let known: Vec<SocketAddr> = self.sockets.local_addrs().collect();
        let gone: Vec<SocketAddr> = known.iter().copied().filter(|local| !addresses.contains(&local.ip())).collect();
        let is_known = |ip: &&IpAddr| known.iter().any(|local| local.ip() == **ip);
        let room = candidates::HOST_CANDIDATES_MAX.saturating_sub(known.len() - gone.len());
        let new: Vec<IpAddr> = addresses.iter().filter(|ip| !is_known(ip)).take(room).copied().collect();
        if gone.is_empty() && new.is_empty() {
            return Ok(());
        }
        tracing::debug!(?gone, ?new, "uplinks have changed");
        self.steering.expect_change(now);
        for address in new {
            match self.sockets.add(address).await {
                Ok(local) => self.add_host_candidate(local)?,
                // An interface may be gone again, or not be ready yet.
                Err(error) => tracing::debug!(%error, "uplink not used"),
            }
        }
        for local in &gone {
            self.leave_socket(*local, now)?;
        }
        if !gone.is_empty() {
            // Nobody knows over which uplink connections went.
            for label in self.sockets.labels() {
                self.leave_socket(label, now)?;
            }
        }
        let local: Vec<SocketAddr> = self.sockets.local_addrs().collect();
        self.turn.fill(&local, now);
        self.serve_relays()
    }

    fn leave_socket(&mut self, local: SocketAddr, now: Instant) -> Result<(), MediaError> {
        self.turn.drop_socket(local, now);
        self.sockets.remove(local);
        let is_over = |candidate: &&Candidate| candidate.addr() == local || candidate.local() == local;
        let over: Vec<Candidate> = self.local_candidates.iter().filter(is_over).cloned().collect();
        over.iter().try_for_each(|candidate| self.remove_local_candidate(candidate))
    }

    /// These are the relays to use from now on; those in use stay.
    pub(super) fn use_relays(&mut self, servers: &[RelayServer]) -> Result<(), MediaError> {
        let local: Vec<SocketAddr> = self.sockets.local_addrs().collect();
        self.turn.use_servers(servers, &local, Instant::now());
        self.serve_relays()
    }

    /// Media has paused. Pairs in doubt are checked anew, as if they had just been found; what is known to work takes their place meanwhile, and
    /// they theirs again as soon as they answer.
    fn check_anew(&mut self, doubt: Doubt, now: Instant) -> Result<(), MediaError> {
        self.steering.doubt();
        tracing::debug!(?doubt, path = ?self.path, "media has paused");
        self.hasten_review();
        self.turn.probe(now);
        let path = self.path;
        let is_meant = |candidate: &&Candidate| match (doubt, path) {
            (Doubt::Path, Some(path)) => candidate.addr() == path.local || candidate.local() == path.local,
            _ => true,
        };
        for candidate in self.local_candidates.iter().filter(is_meant).cloned().collect::<Vec<_>>() {
            self.rtc.direct_api().invalidate_candidate(&candidate);
            self.drain()?;
            self.rtc.add_local_candidate(candidate);
            self.drain()?;
        }
        self.serve_relays()
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
        if self.is_review_due(Instant::now()) {
            self.review_uplinks(Instant::now()).await?;
        }
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
        while let Some(candidate) = self.turn.next_gone() {
            self.remove_local_candidate(&candidate)?;
        }
        while let Some((server, way)) = self.turn.next_unreached() {
            let label = self.sockets.connect(way);
            self.turn.use_stream(&server, way, label, Instant::now());
            self.send_to_relays();
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
        self.steering.expect_change(Instant::now());
        self.rtc.add_remote_candidate(candidate);
        self.drain()?;
        if let Some(path) = self.path {
            // Now it may be known what an address is that was met before it was told.
            self.set_path(path.local, path.remote);
        }
        self.serve_relays()
    }

    /// The relay at these addresses is about to end. If another one lends an address too, the path changes to one that doesn't need the first.
    pub(super) fn leave_relay(&mut self, relay: &[SocketAddr]) -> Result<(), MediaError> {
        for candidate in self.turn.leave(relay) {
            self.remove_local_candidate(&candidate)?;
        }
        let local: Vec<SocketAddr> = self.sockets.local_addrs().collect();
        self.turn.fill(&local, Instant::now());
        self.serve_relays()
    }

    /// The other end takes back a candidate.
    pub(super) fn remove_remote_candidate(&mut self, candidate: &Candidate) -> Result<(), MediaError> {
        self.remote_candidates.forget(candidate);
        self.steering.leave(candidate.addr());
        self.rtc.direct_api().invalidate_candidate(candidate);
        self.drain()
    }

    /// Our candidates as SDP attributes, without `a=`.
    pub(super) fn local_candidates(&self) -> Vec<String> {
        self.local_candidates.iter().map(Candidate::to_sdp_string).collect()
    }

    pub(super) fn create_offer(&mut self) -> Result<(PendingOffer, String), MediaError> {
        let mut changes = self.rtc.sdp_api();
        let (stream, track) = (Some(STREAM_ID.to_owned()), Some(TRACK_ID.to_owned()));
        let mid = changes.add_media(MediaKind::Audio, Direction::SendRecv, stream, track, None);
        let video = self.wants_video.then(|| Self::offer_video(&mut changes, STREAM_ID));
        let (offer, change) = changes.apply().ok_or(MediaError::NoCommonAudio)?;
        self.offered_audio = Some(mid);
        self.steering.decides = true;
        self.is_described = true;
        self.drain()?;
        let (sdp, left_out) = video::shorten(&offer.to_sdp_string());
        self.events.extend(left_out.into_iter().map(TransportEvent::LocalCandidate));
        let ssrc = spare::ssrcs(&sdp, "audio").0.ok_or(MediaError::NoCommonAudio)?;
        let video = video.and_then(|mid| match spare::ssrcs(&sdp, "video") {
            (Some(ssrc), again) => Some(VideoOffer { mid, ssrc, again }),
            (None, _) => None,
        });
        let credentials = self.rtc.direct_api().local_ice_credentials();
        let identity = Identity { certificate: self.certificate.clone(), credentials, mid, ssrc, video };
        Ok((PendingOffer { change, identity }, sdp))
    }

    pub(super) fn accept_answer(&mut self, pending: PendingOffer, answer: &str) -> Result<(), MediaError> {
        let answer = self.admit_description(answer)?;
        let answer = SdpAnswer::from_sdp_string(&answer).map_err(sdp_error)?;
        self.rtc.sdp_api().accept_answer(pending.change, answer).map_err(sdp_error)?;
        self.drain()?;
        let offered = self.offered_audio.ok_or(MediaError::NoCommonAudio)?;
        if let Some(video) = pending.identity.video {
            self.use_video(video.mid);
        }
        self.use_audio(offered)
    }

    pub(super) fn accept_offer(&mut self, offer: &str) -> Result<String, MediaError> {
        let offer = self.admit_description(offer)?;
        let offer = SdpOffer::from_sdp_string(&offer).map_err(sdp_error)?;
        let answer = self.rtc.sdp_api().accept_offer(offer).map_err(sdp_error)?;
        self.is_described = true;
        self.drain()?;
        let sdp = answer.to_sdp_string();
        self.use_audio(first_mid(&sdp, "audio").ok_or(MediaError::NoCommonAudio)?)?;
        if let Some(video) = first_mid(&sdp, "video").filter(|_| self.wants_video) {
            self.use_video(video);
        }
        Ok(sdp)
    }

    /// Checks the length and takes out candidates that may not be used.
    pub(super) fn admit_description(&mut self, sdp: &str) -> Result<String, MediaError> {
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

    /// Sends and receives this media, if both ends agreed on it; finds what codec it is in.
    fn use_audio(&mut self, mid: Mid) -> Result<(), MediaError> {
        let media = self.rtc.media(mid).ok_or(MediaError::NoCommonAudio)?;
        if media.disabled() || !media.direction().is_sending() || !media.direction().is_receiving() {
            return Err(MediaError::NoCommonAudio);
        }
        let line = AudioLine::choose(mid, media.remote_pts(), self.rtc.codec_config());
        self.audio = Some(line.ok_or(MediaError::NoCommonAudio)?);
        Ok(())
    }

    /// Sends 20 ms of encoded audio, or lets them pass without. Nothing leaves before the handshake is through.
    pub(super) fn send_audio(&mut self, payload: Option<&[u8]>, now: Instant) -> Result<(), MediaError> {
        let Some(line) = self.audio else { return Ok(()) };
        let timestamp = self.next_timestamp;
        self.next_timestamp = timestamp.wrapping_add(line.codec.clock_hz() / FRAMES_PER_SEC);
        let Some(payload) = payload.filter(|payload| !payload.is_empty()) else { return Ok(()) };
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        self.write_audio(AudioFormat::Audio, (sequence, timestamp), false, Arc::from(payload), now)
    }

    /// Sends a packet of a key that is pressed, in place of the audio of these 20 ms.
    pub(super) fn send_key(&mut self, packet: KeyPacket, now: Instant) -> Result<(), MediaError> {
        let Some(line) = self.audio else { return Ok(()) };
        let (sequence, frame) = (self.next_sequence, line.codec.clock_hz() / FRAMES_PER_SEC);
        let timestamp = self.next_timestamp.wrapping_sub(packet.frames.wrapping_mul(frame));
        self.next_timestamp = self.next_timestamp.wrapping_add(frame);
        self.next_sequence += 1;
        self.write_audio(AudioFormat::TelephoneEvent, (sequence, timestamp), packet.is_first, Arc::from(packet.payload), now)
    }

    /// Sends a packet of encoded audio as it is, in this place of the stream.
    pub(super) fn pass_audio(&mut self, packet: AudioPacket, place: (u64, u32), now: Instant) -> Result<(), MediaError> {
        self.write_audio(packet.format, place, packet.marker, packet.payload, now)
    }

    fn write_audio(
        &mut self,
        format: AudioFormat,
        (sequence, timestamp): (u64, u32),
        marker: bool,
        payload: Arc<[u8]>,
        now: Instant,
    ) -> Result<(), MediaError> {
        if let Some(line) = self.audio
            && let Some(pt) = line.type_of(format)
            && let Some(stream) = self.rtc.direct_api().stream_tx_by_mid(line.mid, None)
        {
            stream.write_rtp(RtpWrite::new(pt, sequence.into(), timestamp, now, payload).marker(marker));
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
        if let Some(doubt) = self.watch.poll(now) {
            self.check_anew(doubt, now)?;
        }
        self.steer(now)?;
        self.serve_relays()
    }

    /// Takes in the datagram that [`Transport::receive`] announced; whether it is the other end's.
    pub(super) fn handle_datagram(&mut self, datagram: Datagram, now: Instant) -> Result<bool, MediaError> {
        let (source, destination) = (datagram.source, datagram.destination);
        let contents = &self.sockets.buffer[..datagram.length];
        match self.turn.handle(destination, source, contents, now) {
            Relayed::NotOurs => {
                let Self { rtc, sockets, verified_sources, .. } = self;
                let contents = &sockets.buffer[..datagram.length];
                let is_theirs = engine::feed(rtc, verified_sources, (source, destination), contents, now);
                if is_theirs {
                    self.steering.heard(contents, steering::arrived((source, destination)), now);
                }
                let is_media = engine::is_media(contents);
                self.note_heard(is_theirs && is_media, (source, destination), now);
                self.drain()?;
                Ok(is_theirs)
            }
            Relayed::Consumed => {
                let mut is_theirs = false;
                while let Some(handed) = self.turn.next_handed() {
                    let (route, contents) = ((handed.peer, handed.at), &handed.payload);
                    let is_from_them = engine::feed(&mut self.rtc, &mut self.verified_sources, route, contents, now);
                    if is_from_them {
                        self.steering.heard(contents, steering::arrived(route), now);
                    }
                    let is_media = engine::is_media(contents);
                    self.note_heard(is_from_them && is_media, route, now);
                    self.drain()?;
                    is_theirs |= is_from_them;
                }
                self.serve_relays()?;
                Ok(is_theirs)
            }
        }
    }

    fn note_heard(&mut self, is_media: bool, (source, destination): (SocketAddr, SocketAddr), now: Instant) {
        if is_media {
            let path = self.path;
            let is_on_path = path.is_some_and(|path| self.steering.follow((destination, source), (path.local, path.remote), now));
            self.watch.heard(is_on_path, now);
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
        let others = [self.turn.wake_at(), self.watch.wake_at(), self.steering.wake_at(), self.uplinks_at];
        others.into_iter().flatten().fold(self.wake_at, Instant::min)
    }

    pub(super) fn path(&self) -> Option<MediaPath> {
        self.path
    }

    pub(super) fn packets_sent(&self) -> u64 {
        self.packets_sent
    }

    pub(super) fn audio_left(&self) -> u64 {
        self.audio_left
    }

    pub(super) fn send_failures(&self) -> u64 {
        self.send_failures
    }

    pub(super) fn drain(&mut self) -> Result<(), MediaError> {
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
        let pair = (transmit.source, transmit.destination);
        let (from, to) = self.steering.route(&transmit.contents, pair, Instant::now());
        if !engine::is_stun(&transmit.contents) {
            self.note_path(from, to);
        }
        let is_sent = if self.turn.has(from) {
            let is_sent = self.turn.send(from, to, &transmit.contents, Instant::now());
            self.send_to_relays();
            is_sent
        } else {
            self.sockets.send(from, to, &transmit.contents)
        };
        self.audio_left += u64::from(engine::is_audio(&transmit.contents));
        self.send_failures += u64::from(!is_sent);
        if !is_sent {
            self.hasten_review();
        }
    }

    /// The engine sends everything but checks over the nominated pair: that tells the path.
    pub(super) fn note_path(&mut self, local: SocketAddr, remote: SocketAddr) {
        if self.path.is_some_and(|path| path.local == local && path.remote == remote) {
            return;
        }
        if !self.sockets.has(local) {
            self.turn.prefer(local, remote, Instant::now());
        }
        self.watch.path_changed(Instant::now());
        self.set_path(local, remote);
    }

    pub(super) fn is_relayed_address(&self, local: SocketAddr) -> bool {
        self.turn.has(local)
    }

    fn path_of(&self, (local, remote): Pair) -> MediaPath {
        let local_kind = if self.is_relayed_address(local) { CandidateKind::Relayed } else { CandidateKind::Host };
        self.remote_candidates.path(local, local_kind, remote)
    }

    pub(super) fn kind_of(&self, pair: Pair) -> PathKind {
        self.path_of(pair).kind
    }

    fn set_path(&mut self, local: SocketAddr, remote: SocketAddr) {
        let path = self.path_of((local, remote));
        let path = MediaPath { relay: self.turn.lender_of(local), ..path };
        if self.path != Some(path) {
            self.path = Some(path);
            self.events.push_back(TransportEvent::Path(path));
        }
    }

    fn translate(&mut self, event: Event) {
        let event = match event {
            Event::Connected => TransportEvent::Connected,
            Event::IceConnectionStateChange(IceConnectionState::Disconnected) => {
                self.interrupted = true;
                TransportEvent::Interrupted
            }
            Event::IceConnectionStateChange(state) if state.is_connected() && !self.has_ice => {
                self.has_ice = true;
                self.interrupted = false;
                self.events.push_back(TransportEvent::Resumed);
                TransportEvent::IceConnected
            }
            Event::IceConnectionStateChange(state) if state.is_connected() && self.interrupted => {
                self.interrupted = false;
                TransportEvent::Resumed
            }
            Event::RtpPacket(packet) => {
                let pt = packet.header.payload_type;
                if let Some(format) = self.audio.and_then(|line| line.format_of(pt)) {
                    TransportEvent::Audio(format, Box::new(packet))
                } else if self.video.as_ref().is_some_and(|line| line.codec_of(pt).is_some()) {
                    TransportEvent::Video(Box::new(packet))
                } else {
                    return;
                }
            }
            Event::KeyframeRequest(_) => TransportEvent::KeyFrameWanted,
            Event::PeerStats(stats) => match engine::round_trip(&stats) {
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

/// The identifier of the first section of a kind in a description of our own making. The engine tells of
/// media only after the handshake, too late to refuse an offer without audio.
fn first_mid(sdp: &str, kind: &str) -> Option<Mid> {
    spare::section(sdp, kind).find_map(|line| line.strip_prefix("a=mid:")).map(Mid::from)
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

pub(super) fn sdp_error(error: impl std::fmt::Display) -> MediaError {
    MediaError::SdpInvalid { detail: error.to_string() }
}

/// Once the descriptions are exchanged the engine blames the remote SDP for one thing only: a
/// certificate that is not the one it announced.
pub(super) fn engine_error(error: RtcError) -> MediaError {
    match error {
        RtcError::RemoteSdp(_) => MediaError::FingerprintMismatch,
        other => MediaError::Transport { detail: other.to_string() },
    }
}
