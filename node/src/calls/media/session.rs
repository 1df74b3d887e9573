//! The task of one session: waits for whatever comes first, and every 20 ms sends a frame and
//! plays one.

use std::{
    error::Error,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use halloo_protocol::phone::AudioCodec;
use halloo_protocol::phone::keys::{Key, KeyReader, KeySender};
use str0m::{Candidate, rtp::RtpPacket};
use tokio::{
    sync::{mpsc, watch},
    time::sleep_until,
};

use super::{
    EarlyAudio, MediaConfig, MediaError, MediaEvent, MediaStats, MediaSummary, RECOVERY_TIMEOUT,
    audio::{Reception, SAMPLE_RATE},
    playout::Playout,
    port::{AudioFormat, AudioPacket, AudioTrack},
    room::{Room, Seat},
    sockets::Datagram,
    transport::{Transport, TransportEvent},
    turn::RelayServer,
    video::{ToSend, VideoTrack},
};

pub(super) const FRAME_DURATION: Duration = Duration::from_millis(20);
/// A task that could not run for longer than this skips what it missed instead of catching up: the
/// machine slept, and a burst of stale frames helps nobody.
const CATCH_UP_MAX: Duration = Duration::from_secs(1);
/// Without any datagram for this long the other end counts as gone: it sends a connectivity check each
/// second, and 50 packets of audio once both have started.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(5);
/// Ticks between two publications of the measurements: 0.2 s.
const STATS_TICKS: u64 = 10;
/// What the jitter buffer may still hold at the end: the 300 ms that it waits at most.
const LAST_FRAMES_MAX: usize = 15;

/// What the handle wants of the task. What is set stays.
#[derive(Debug, Default, Clone)]
pub(super) struct Control {
    pub(super) answered: bool,
    /// What is said and heard, once answered, if it is told only then.
    pub(super) room: Option<Room>,
    /// What passes before then.
    pub(super) early: EarlyAudio,
    pub(super) started: bool,
    pub(super) closing: bool,
}

/// Why a session ended without failing.
enum End {
    Local,
    Remote,
}

/// What the owner has learnt from elsewhere.
#[derive(Debug)]
pub(super) enum Advice {
    /// The other end has one more candidate.
    Candidate(Candidate),
    /// The other end takes back one of its candidates.
    Removal(Candidate),
    /// A media relay is about to end.
    LeaveRelay(Vec<SocketAddr>),
    /// These are the media relays at hand now.
    Relays(Vec<RelayServer>),
    /// These are the machine's addresses now.
    Addresses(Vec<IpAddr>),
    /// These keys are pressed here.
    Keys(Vec<Key>),
}

enum Wakeup {
    Control,
    Advice(Advice),
    Time,
    Datagram(Datagram),
    Video(ToSend),
    Audio(AudioPacket),
}

pub(super) struct Session {
    config: MediaConfig,
    transport: Transport,
    control: watch::Receiver<Control>,
    advice: mpsc::Receiver<Advice>,
    events: mpsc::Sender<MediaEvent>,
    stats_sender: watch::Sender<MediaStats>,

    created: Instant,
    /// Until when to be connected, or connected again.
    deadline: Option<Instant>,
    connected: bool,
    /// When the other end's last datagram came.
    heard_at: Instant,
    /// Nothing has come for [`SILENCE_TIMEOUT`].
    silent: bool,
    /// Our checks are not answered.
    unanswered: bool,
    /// The owner was told [`MediaEvent::Disconnected`] last.
    disconnected: bool,
    /// Whether what the other end sends counts.
    answered: bool,
    /// The other end's audio has come.
    has_audio: bool,
    /// Packets of audio that came, and that left, before the answer.
    came_early: u64,
    sent_early: u64,
    started: bool,
    /// What passes before the answer.
    early: EarlyAudio,
    /// It sends and plays: started and connected.
    has_begun: bool,
    /// When the next frame is due, from then on, or from when the other end is heard.
    tick_at: Option<Instant>,
    ticks: u64,
    room: Room,
    /// The place in the room, once audio flows.
    seat: Option<Seat>,
    playout: Playout,
    reception: Reception,
    /// Encoded audio that passes through, in place of the room and of playing.
    audio: Option<AudioTrack>,
    video: Option<VideoTrack>,
    /// Keys pressed here, and at the other end.
    keys: KeySender,
    keys_heard: KeyReader,
    stats: MediaStats,
}

impl Session {
    pub(super) fn new(
        config: MediaConfig,
        transport: Transport,
        control: watch::Receiver<Control>,
        advice: mpsc::Receiver<Advice>,
        events: mpsc::Sender<MediaEvent>,
        stats_sender: watch::Sender<MediaStats>,
    ) -> Result<Self, MediaError> {
        let created = Instant::now();
        let codec = transport.audio.map_or(AudioCodec::Opus, |line| line.codec);
        let takes_keys = transport.audio.is_some_and(|line| line.has_events());
        let audio = config.audio.clone().zip(transport.audio).map(|(link, line)| AudioTrack::new(link, line));
        let room = config
            .room
            .clone()
            .unwrap_or_else(|| Room::new(config.play.clone(), config.record.clone()).microphone(config.microphone));
        Ok(Self {
            deadline: created.checked_add(config.connect_timeout),
            answered: !config.early,
            has_audio: false,
            came_early: 0,
            sent_early: 0,
            audio,
            video: config.video.clone().map(VideoTrack::new),
            config,
            transport,
            control,
            advice,
            events,
            stats_sender,
            created,
            connected: false,
            heard_at: created,
            silent: false,
            unanswered: false,
            disconnected: false,
            started: false,
            early: EarlyAudio::Silent,
            has_begun: false,
            tick_at: None,
            ticks: 0,
            room,
            seat: None,
            playout: Playout::of(codec)?,
            reception: Reception::of(codec.clock_hz()),
            keys: KeySender::new(codec.clock_hz()),
            keys_heard: KeyReader::default(),
            stats: MediaStats { codec: Some(codec), takes_keys, ..MediaStats::default() },
        })
    }

    pub(super) async fn run(mut self) -> MediaSummary {
        let ended = self.drive().await;
        self.transport.close();
        let recorded = self.finish_recording().await;
        if let Some(video) = &self.video {
            video.finish().await;
        }
        if let Some(audio) = &self.audio {
            audio.finish().await;
        }
        let (recorded_ms, end) = match (recorded, ended) {
            (Ok(samples), ended) => (samples * 1_000 / u64::from(SAMPLE_RATE), ended),
            // The tick that meets a failed recorder leaves it to this to say why.
            (Err(error), Ok(_) | Err(MediaError::Ended)) => (0, Err(error)),
            (Err(_), ended) => (0, ended),
        };
        // Told last: whoever hears of the end finds the recording complete.
        let failure = match end {
            Ok(End::Local) => None,
            Ok(End::Remote) => {
                self.tell(MediaEvent::Closed);
                None
            }
            Err(error) => {
                self.tell(MediaEvent::Failed(error.clone()));
                Some(error)
            }
        };
        self.publish();
        MediaSummary { stats: self.stats, recorded_ms, failure: failure.as_ref().map(with_causes) }
    }

    async fn drive(&mut self) -> Result<End, MediaError> {
        loop {
            if let Some(end) = self.take_events()? {
                return Ok(end);
            }
            let wakeup = self.wait().await;
            let now = Instant::now();
            match wakeup {
                Wakeup::Control => {
                    let control = self.control.borrow_and_update().clone();
                    if control.closing {
                        return Ok(End::Local);
                    }
                    self.take_answer(control, now)?;
                }
                Wakeup::Advice(Advice::Candidate(candidate)) => self.transport.add_remote_candidate(candidate)?,
                Wakeup::Advice(Advice::Removal(candidate)) => self.transport.remove_remote_candidate(&candidate)?,
                Wakeup::Advice(Advice::LeaveRelay(relay)) => self.transport.leave_relay(&relay)?,
                Wakeup::Advice(Advice::Relays(relays)) => self.transport.use_relays(&relays)?,
                Wakeup::Advice(Advice::Addresses(addresses)) => self.transport.use_addresses(&addresses, now).await?,
                Wakeup::Advice(Advice::Keys(keys)) => {
                    if !self.keys.press(&keys) {
                        tracing::debug!("too many keys are waiting");
                    }
                }
                Wakeup::Datagram(datagram) => {
                    if self.transport.handle_datagram(datagram, now)? {
                        self.heard_at = now;
                        self.silent = false;
                    }
                }
                Wakeup::Video(what) => {
                    if let Some(video) = &mut self.video {
                        video.send(what, &mut self.transport, now)?;
                    }
                }
                Wakeup::Audio(packet) => {
                    if let Some(audio) = &mut self.audio {
                        audio.send(packet, &mut self.transport, now)?;
                    }
                }
                Wakeup::Time => self.handle_time(now)?,
            }
            if self.transport.is_review_due(now) {
                self.transport.review_uplinks(now).await?;
            }
        }
    }

    /// Waits for the next thing to do. Time comes before datagrams, so that a flood of them cannot
    /// hold up the audio.
    async fn wait(&mut self) -> Wakeup {
        let video_at = self.video.as_ref().and_then(VideoTrack::wake_at);
        let due = [Some(self.transport.wake_at()), self.tick_at, self.deadline, self.silence_at(), video_at];
        let wake_at = due.into_iter().flatten().min().unwrap_or_else(Instant::now);
        tokio::select! {
            biased;
            // A handle that is gone has aborted this task; until then its last wish stands.
            Ok(()) = self.control.changed() => Wakeup::Control,
            () = sleep_until(wake_at.into()) => Wakeup::Time,
            Some(advice) = self.advice.recv() => Wakeup::Advice(advice),
            packet = AudioTrack::next(&mut self.audio) => Wakeup::Audio(packet),
            what = VideoTrack::next(&mut self.video) => Wakeup::Video(what),
            datagram = self.transport.receive() => Wakeup::Datagram(datagram),
        }
    }

    /// The call is answered, or audio may flow.
    fn take_answer(&mut self, control: Control, now: Instant) -> Result<(), MediaError> {
        self.answered |= control.answered;
        if let Some(audio) = self.audio.as_mut().filter(|_| control.answered) {
            audio.agree();
        }
        if let Some(room) = control.room.filter(|_| self.seat.is_none()) {
            self.room = room;
        }
        if control.started && !self.started && self.config.early && !self.connected {
            self.deadline = now.checked_add(self.config.connect_timeout);
        }
        self.started = control.started;
        self.early = control.early;
        if let Some(audio) = self.audio.as_mut().filter(|_| self.early == EarlyAudio::Hears) {
            audio.agree_early();
        }
        self.begin_if_ready()
    }

    /// Begins to send and play once the call is answered and the handshake is through, and with what passes early before.
    fn begin_if_ready(&mut self) -> Result<(), MediaError> {
        match (self.connected, self.started) {
            (false, _) => Ok(()),
            (true, false) => self.begin_early(),
            (true, true) => self.begin(),
        }
    }

    fn begin_early(&mut self) -> Result<(), MediaError> {
        match (self.early, &mut self.audio, self.transport.audio) {
            (EarlyAudio::Speaks, Some(audio), _) => audio.speak(),
            (EarlyAudio::Hears, None, Some(line)) if self.seat.is_none() => {
                let at = Instant::now();
                self.seat = Some(self.room.listen(at, line.codec)?);
                self.tick_at = Some(at);
            }
            _ => {}
        }
        Ok(())
    }

    fn begin(&mut self) -> Result<(), MediaError> {
        if std::mem::replace(&mut self.has_begun, true) {
            return Ok(());
        }
        self.sent_early = self.transport.audio_left();
        let at = *self.tick_at.get_or_insert_with(Instant::now);
        match (&mut self.audio, self.transport.audio, &mut self.seat) {
            (Some(audio), ..) => audio.start(),
            (None, Some(_), Some(seat)) => seat.speak(at),
            (None, Some(line), None) => self.seat = Some(self.room.enter(at, line.codec)?),
            (None, None, _) => {}
        }
        if let Some(video) = &mut self.video {
            video.start(&self.transport);
        }
        Ok(())
    }

    fn handle_time(&mut self, now: Instant) -> Result<(), MediaError> {
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            return Err(self.deadline_error());
        }
        if self.silence_at().is_some_and(|at| at <= now) {
            self.silent = true;
        }
        self.transport.handle_timeout(now)?;
        if let Some(video) = &mut self.video {
            video.poll(&mut self.transport, now)?;
        }
        while let Some(at) = self.tick_at.filter(|at| *at <= now) {
            let late = now.saturating_duration_since(at);
            self.tick_at = Some(if late > CATCH_UP_MAX { now } else { at } + FRAME_DURATION);
            self.tick(now, if late > CATCH_UP_MAX { now } else { at })?;
        }
        Ok(())
    }

    fn deadline_error(&self) -> MediaError {
        if self.connected {
            MediaError::PathLost { after: RECOVERY_TIMEOUT }
        } else {
            MediaError::ConnectTimeout { after: self.config.connect_timeout }
        }
    }

    fn take_events(&mut self) -> Result<Option<End>, MediaError> {
        while let Some(event) = self.transport.next_event() {
            match event {
                TransportEvent::IceConnected => self.tell(MediaEvent::IceConnected),
                TransportEvent::Connected => self.handle_connected()?,
                TransportEvent::Path(path) => {
                    self.stats.path = Some(path);
                    // The first path is told with the connection.
                    if self.connected {
                        self.tell(MediaEvent::PathChanged(path));
                    }
                }
                TransportEvent::Interrupted => self.unanswered = true,
                TransportEvent::Resumed => self.unanswered = false,
                TransportEvent::Audio(format, packet) => self.take_audio(format, *packet),
                TransportEvent::Video(packet) => {
                    if let Some(video) = self.video.as_mut().filter(|_| self.answered) {
                        video.take(*packet, &mut self.transport, Instant::now())?;
                    }
                }
                TransportEvent::KeyFrameWanted => {
                    if let Some(video) = self.video.as_mut() {
                        video.key_frame_wanted();
                    }
                }
                TransportEvent::RoundTrip(rtt) => {
                    self.stats.rtt_ms = Some(rtt.as_secs_f64() * 1_000.0);
                    self.publish();
                }
                TransportEvent::RelayFailed(relay, why) => {
                    self.tell(MediaEvent::RelayFailed(relay, why.clone()));
                    if !self.connected {
                        self.transport.check_relays(&why)?;
                    }
                }
                TransportEvent::LocalCandidate(candidate) => self.tell(MediaEvent::LocalCandidate(candidate)),
                TransportEvent::Closed => return Ok(Some(End::Remote)),
            }
        }
        self.review_path(Instant::now());
        Ok(None)
    }

    /// When the other end counts as silent, unless it does already.
    fn silence_at(&self) -> Option<Instant> {
        (self.connected && !self.silent).then(|| self.heard_at + SILENCE_TIMEOUT)
    }

    /// Tells when the path breaks and when it is whole again. While connecting there is no path yet:
    /// checks may fail and succeed in any order.
    fn review_path(&mut self, now: Instant) {
        let broken = self.silent || self.unanswered;
        if !self.connected || broken == self.disconnected {
            return;
        }
        self.disconnected = broken;
        self.deadline = broken.then(|| now + RECOVERY_TIMEOUT);
        self.tell(if broken { MediaEvent::Disconnected } else { MediaEvent::Reconnected });
    }

    fn handle_connected(&mut self) -> Result<(), MediaError> {
        self.connected = true;
        self.heard_at = Instant::now();
        self.unanswered = false;
        self.deadline = None;
        self.stats.connect_ms = Some(self.created.elapsed().as_secs_f64() * 1_000.0);
        self.publish();
        if let Some(path) = self.transport.path() {
            self.tell(MediaEvent::Connected(path));
        }
        self.begin_if_ready()
    }

    fn take_audio(&mut self, format: AudioFormat, packet: RtpPacket) {
        if !self.answered && self.early != EarlyAudio::Hears {
            // Nobody may be heard before the answer.
            self.came_early += 1;
            return;
        }
        if let Some(audio) = &mut self.audio {
            audio.take(format, &packet);
        }
        if format != AudioFormat::Audio {
            self.take_key(&packet);
            // Their packets are no loss of audio.
            return self.reception.count_other(*packet.header.ssrc, *packet.seq_no);
        }
        if self.answered && !self.has_audio {
            self.has_audio = true;
            self.tell(MediaEvent::FirstAudio);
        }
        let (sequence, timestamp) = (*packet.seq_no, packet.time.numer());
        self.reception.count(*packet.header.ssrc, sequence, timestamp, packet.timestamp);
        if self.audio.is_none() {
            self.playout.insert(timestamp, packet.payload, packet.timestamp);
        }
    }

    /// A key is down at the other end. Where audio passes through, so do keys.
    fn take_key(&mut self, packet: &RtpPacket) {
        if self.audio.is_some() || !self.answered {
            return;
        }
        if let Some(key) = self.keys_heard.take(&packet.payload, packet.time.numer()) {
            self.tell(MediaEvent::Key(key));
        }
    }

    /// Plays the frame that is due `at`, and sends one. There is no loudspeaker yet: what is played is recorded or measured only.
    fn tick(&mut self, now: Instant, at: Instant) -> Result<(), MediaError> {
        let key = if self.has_begun { self.keys.next_packet() } else { None };
        if let Some((audio, packet)) = self.audio.as_mut().zip(key) {
            audio.press(packet, &mut self.transport, now)?;
        }
        if let Some(seat) = &mut self.seat {
            let heard = self.playout.next_frame(at);
            if !self.has_begun {
                seat.hear(at, &heard);
                return Ok(());
            }
            let turn = seat.turn(at, &heard)?;
            match key {
                Some(packet) => self.transport.send_key(packet, now)?,
                None => self.transport.send_audio(turn.payload.as_deref(), now)?,
            }
            if turn.is_played {
                self.tell(MediaEvent::PlaybackFinished);
            }
        }
        if self.ticks.is_multiple_of(STATS_TICKS) {
            self.publish();
        }
        self.ticks += 1;
        Ok(())
    }

    /// Plays what was received and is still waiting, then completes the file, if nobody else hears anything.
    async fn finish_recording(&mut self) -> Result<u64, MediaError> {
        let Some(mut seat) = self.seat.take() else { return Ok(0) };
        let mut at = self.tick_at.unwrap_or_else(Instant::now);
        for _ in 0..LAST_FRAMES_MAX {
            if seat.is_recorded() && self.playout.has_audio() {
                seat.hear_last(at, &self.playout.next_frame(at));
                at += FRAME_DURATION;
            }
        }
        seat.leave().await
    }

    fn publish(&mut self) {
        let stats = &mut self.stats;
        stats.packets_sent = self.transport.packets_sent();
        if !self.started {
            // What left, as the sockets saw it: the count of those that were given to the engine would prove nothing.
            self.sent_early = self.transport.audio_left();
        }
        stats.packets_early = self.came_early + self.sent_early;
        stats.packets_left_early = self.sent_early;
        stats.send_failures = self.transport.send_failures();
        stats.packets_received = self.reception.received();
        stats.packets_lost = self.reception.lost();
        stats.loss = self.reception.loss();
        stats.jitter_ms = self.reception.jitter_ms();
        stats.buffer_ms = self.playout.target().as_secs_f64() * 1_000.0;
        stats.packets_late = self.playout.late_packets();
        stats.concealed_frames = self.playout.concealed_frames();
        stats.video = self.video.as_ref().filter(|_| self.transport.video.is_some()).map(VideoTrack::stats);
        self.stats_sender.send_replace(stats.clone());
    }

    fn tell(&self, event: MediaEvent) {
        if self.events.try_send(event).is_err() {
            tracing::debug!("media event dropped: nobody takes them");
        }
    }
}

fn with_causes(error: &MediaError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
