//! The task of one leg: waits for whatever comes first, and passes it on.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use halloo_protocol::phone::leg::{Dropped, Incoming, PhoneStream, ToPhone};
use halloo_protocol::phone::negotiation::Agreed;
use halloo_protocol::phone::rtp::{NtpTime, PACKET_BYTES_MAX};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep_until;

use super::{AudioEvent, AudioPort, LegEvent, LegStats, PassedStats};
use crate::calls::media::port::{AudioFormat, AudioPacket, Delays};

/// How often what was measured is published.
const STATS_EVERY: Duration = Duration::from_millis(200);
/// How long a phone that said that it sends may send nothing, not even reports, which come every few seconds also from those that suppress silence.
const SILENCE: Duration = Duration::from_secs(60);
/// Longest datagram that is read; what is longer is cut and then refused.
const DATAGRAM_BYTES: usize = PACKET_BYTES_MAX + 100;

/// What the handle wants of the task.
#[derive(Debug)]
pub(super) enum Wish {
    /// The phone's signalling comes from here.
    ExpectFrom(IpAddr),
    /// This is agreed on with the phone.
    Configure(Box<Agreed>),
    /// This is the call's audio.
    Bridge(Box<AudioPort>),
    /// Give the call's audio back.
    Release(oneshot::Sender<AudioPort>),
    /// Take leave.
    Close,
}

enum Wakeup {
    Wish(Option<Wish>),
    Time,
    Overlay(Option<AudioEvent>),
    Media(std::io::Result<(usize, SocketAddr)>),
    Reports(std::io::Result<(usize, SocketAddr)>),
}

/// Buffers for one datagram each, so that the two sockets can be waited for at once.
struct Buffers {
    media: Box<[u8]>,
    reports: Box<[u8]>,
}

pub(super) struct Bridge {
    media: UdpSocket,
    reports: UdpSocket,
    stream: PhoneStream,
    port: Option<AudioPort>,
    /// The call at the port is over; what it has measured counts.
    is_port_over: bool,
    events: mpsc::Sender<LegEvent>,
    stats: watch::Sender<LegStats>,
    /// Packets to the phone take so long.
    to_phone: Delays,
    /// Packets whose queue was full, from the phone, and those that the system refused, to the phone.
    dropped: (u64, u64),
    /// The numbers of the overlay's packets: lost ones show as gaps.
    heard: halloo_protocol::phone::rtp::Reception,
    has_heard_phone: bool,
    heard_phone_at: Instant,
    is_silence_told: bool,
    stats_at: Instant,
    /// What is being sent.
    packet: Vec<u8>,
}

impl Bridge {
    pub(super) fn new(
        media: UdpSocket,
        reports: UdpSocket,
        rng: &mut rand::rngs::StdRng,
        events: mpsc::Sender<LegEvent>,
        stats: watch::Sender<LegStats>,
    ) -> Self {
        let now = Instant::now();
        Self {
            media,
            reports,
            stream: PhoneStream::new(rng),
            port: None,
            is_port_over: false,
            events,
            stats,
            to_phone: Delays::default(),
            dropped: (0, 0),
            heard: halloo_protocol::phone::rtp::Reception::default(),
            has_heard_phone: false,
            heard_phone_at: now,
            is_silence_told: false,
            stats_at: now + STATS_EVERY,
            packet: Vec::with_capacity(DATAGRAM_BYTES),
        }
    }

    pub(super) async fn run(mut self, mut wishes: mpsc::Receiver<Wish>) {
        let buffer = || vec![0; DATAGRAM_BYTES].into_boxed_slice();
        let mut buffers = Buffers { media: buffer(), reports: buffer() };
        loop {
            let wakeup = self.wait(&mut wishes, &mut buffers).await;
            let now = Instant::now();
            match wakeup {
                Wakeup::Wish(Some(Wish::Close) | None) => break,
                Wakeup::Wish(Some(wish)) => self.grant(wish, now),
                Wakeup::Time => self.handle_time(now),
                Wakeup::Overlay(Some(AudioEvent::Packet(packet))) => self.send(&packet, now),
                Wakeup::Overlay(Some(AudioEvent::Agreed(agreed))) => self.tell(LegEvent::Agreed(agreed)),
                Wakeup::Overlay(Some(AudioEvent::Early(agreed))) => self.tell(LegEvent::Early(agreed)),
                Wakeup::Overlay(Some(AudioEvent::Connected)) => self.tell(LegEvent::Connected),
                Wakeup::Overlay(Some(AudioEvent::Ended) | None) => {
                    self.is_port_over = true;
                    self.tell(LegEvent::Ended);
                }
                Wakeup::Media(Ok((length, source))) => {
                    let datagram = buffers.media.get_mut(..length).unwrap_or_default();
                    let incoming = self.stream.handle_media(datagram, source, now, clock());
                    self.take(&incoming, datagram, now);
                }
                Wakeup::Reports(Ok((length, source))) => {
                    let datagram = buffers.reports.get_mut(..length).unwrap_or_default();
                    let incoming = self.stream.handle_reports(datagram, source, now, clock());
                    self.take(&incoming, datagram, now);
                }
                // A phone that is gone answers with "port unreachable": it may come back.
                Wakeup::Media(Err(error)) | Wakeup::Reports(Err(error)) => tracing::trace!(%error, "phone's socket"),
            }
        }
        self.report(Instant::now(), true);
        self.publish();
    }

    /// Waits for the next thing to do. Time comes before packets, so that a flood of them cannot hold up the reports, and the overlay's before the
    /// phone's, which anybody can send.
    async fn wait(&mut self, wishes: &mut mpsc::Receiver<Wish>, buffers: &mut Buffers) -> Wakeup {
        let due = [Some(self.stats_at), self.stream.report_at(), self.silence_at()];
        let wake_at = due.into_iter().flatten().min().unwrap_or(self.stats_at);
        tokio::select! {
            biased;
            wish = wishes.recv() => Wakeup::Wish(wish),
            () = sleep_until(wake_at.into()) => Wakeup::Time,
            event = next_of(self.port.as_mut().filter(|_| !self.is_port_over)) => Wakeup::Overlay(event),
            received = self.media.recv_from(&mut buffers.media) => Wakeup::Media(received),
            received = self.reports.recv_from(&mut buffers.reports) => Wakeup::Reports(received),
        }
    }

    fn grant(&mut self, wish: Wish, now: Instant) {
        match wish {
            Wish::ExpectFrom(address) => self.stream.expect_from(address),
            Wish::Configure(agreed) => {
                if !self.stream.configure(&agreed, now) {
                    tracing::warn!("the keys of a phone's media can't be used");
                }
                // A phone that goes on after a hold has its time anew.
                (self.heard_phone_at, self.is_silence_told) = (now, false);
            }
            Wish::Bridge(port) => (self.port, self.is_port_over) = (Some(*port), false),
            Wish::Release(sender) => {
                if let Some(Err(port)) = self.port.take().map(|port| sender.send(port)) {
                    self.port = Some(port);
                }
            }
            Wish::Close => {}
        }
    }

    fn silence_at(&self) -> Option<Instant> {
        let counts = !self.is_silence_told && self.stream.is_phone_sending();
        counts.then(|| self.heard_phone_at + SILENCE)
    }

    fn handle_time(&mut self, now: Instant) {
        if self.silence_at().is_some_and(|at| at <= now) {
            self.is_silence_told = true;
            self.tell(LegEvent::PhoneSilent(SILENCE.as_secs()));
        }
        self.report(now, false);
        if self.stats_at <= now {
            self.stats_at = now + STATS_EVERY;
            self.publish();
        }
    }

    /// A packet of the phone's goes to the overlay.
    fn take(&mut self, incoming: &Incoming, datagram: &[u8], now: Instant) {
        if matches!(incoming, Incoming::Media(_) | Incoming::Reports | Incoming::Dropped(Dropped::ComfortNoise)) {
            (self.heard_phone_at, self.is_silence_told) = (now, false);
        }
        let Incoming::Media(passed) = incoming else { return };
        if !self.has_heard_phone {
            self.has_heard_phone = true;
            self.tell(LegEvent::PhoneHeard);
        }
        let payload: Arc<[u8]> = if passed.is_event {
            Arc::from(passed.event)
        } else {
            Arc::from(datagram.get(passed.payload.clone()).unwrap_or_default())
        };
        let format = if passed.is_event { AudioFormat::TelephoneEvent } else { AudioFormat::Audio };
        let (sequence, timestamp, marker) = (passed.sequence, passed.timestamp, passed.marker);
        let packet = AudioPacket { format, sequence, timestamp, marker, payload, arrived: now };
        let sent = self.port.as_ref().map(|port| port.send(packet));
        if !matches!(sent, Some(Ok(()))) {
            self.dropped.0 += 1;
        }
    }

    /// A packet of the overlay's goes to the phone.
    fn send(&mut self, packet: &AudioPacket, now: Instant) {
        let is_event = packet.format == AudioFormat::TelephoneEvent;
        if let Some(agreed) = self.stream.agreed() {
            self.heard.count(packet.sequence, packet.timestamp, agreed.codec.clock_hz(), packet.arrived);
        }
        let (sequence, timestamp, marker) = (packet.sequence, packet.timestamp, packet.marker);
        let what = ToPhone { is_event, sequence, timestamp, marker, payload: &packet.payload };
        let Ok(to) = self.stream.send(what, now, &mut self.packet) else { return self.dropped.1 += 1 };
        match self.media.try_send_to(&self.packet, to) {
            Ok(_) => self.to_phone.count(packet.arrived.elapsed()),
            Err(_) => self.dropped.1 += 1,
        }
    }

    fn report(&mut self, now: Instant, is_bye: bool) {
        let Some(to) = self.stream.report(now, clock(), is_bye, &mut self.packet) else { return };
        let socket = if self.stream.is_rtcp_muxed() { &self.media } else { &self.reports };
        if let Err(error) = socket.try_send_to(&self.packet, to) {
            tracing::trace!(%error, "report not sent");
        }
    }

    fn publish(&self) {
        let stats = self.stream.stats();
        let agreed = self.stream.agreed();
        let clock_hz = agreed.map_or(8_000, |agreed| agreed.codec.clock_hz());
        let (from_mean, from_max) = self.port.as_ref().map_or((0.0, 0), |port| port.delays().mean_and_max_us());
        let (to_mean, to_max) = self.to_phone.mean_and_max_us();
        self.stats.send_replace(LegStats {
            codec: agreed.map(|agreed| agreed.codec),
            is_secure: agreed.is_some_and(|agreed| agreed.keys.is_some()),
            from_phone: PassedStats {
                packets: stats.received.saturating_sub(self.dropped.0),
                bytes: stats.received_bytes,
                lost: stats.lost,
                jitter_ms: stats.jitter_ms,
                dropped: stats.dropped.total() + self.dropped.0,
                delay_mean_us: from_mean,
                delay_max_us: from_max,
            },
            to_phone: PassedStats {
                packets: stats.sent,
                bytes: stats.sent_bytes,
                lost: self.heard.lost(),
                jitter_ms: self.heard.jitter_ms(clock_hz),
                dropped: self.dropped.1,
                delay_mean_us: to_mean,
                delay_max_us: to_max,
            },
            phone_loss: stats.phone_loss,
            phone_rtt_ms: stats.round_trip.map(|rtt| rtt.as_secs_f64() * 1_000.0),
        });
    }

    fn tell(&self, event: LegEvent) {
        if self.events.try_send(event).is_err() {
            tracing::debug!("an event of a phone's leg dropped: nobody takes them");
        }
    }
}

/// The overlay's next event; never, without a port. Safe to drop.
async fn next_of(port: Option<&mut AudioPort>) -> Option<AudioEvent> {
    match port {
        Some(port) => port.next().await,
        None => std::future::pending().await,
    }
}

/// The time of day, for reports.
fn clock() -> NtpTime {
    NtpTime::from_unix(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}
