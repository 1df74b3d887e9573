//! Encoded audio in the embedder's hands: packets in, packets out. Nothing here encodes or decodes.
//!
//! ```text
//! embedder -> AudioPort --(25 packets)--> session: SRTP --------------------------------------->
//! embedder <- AudioPort <--(50 events)--- session: as they come, late and lost ones included <--
//! ```
//!
//! Sequence numbers and timestamps are those of RTP (RFC 3550), extended so that they never run over. They go on unchanged but for where they begin:
//! a gap at one end is a gap at the other, and the other end's jitter buffer does what it would do for any sender. A packet that finds a queue full is
//! dropped and counted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use halloo_protocol::phone::AudioCodec;
use tokio::sync::mpsc;

mod track;

pub(super) use track::AudioTrack;

/// Longest payload, in bytes: 20 ms of anything, and 120 ms of G.711. Longer ones are dropped, in both directions.
pub const PAYLOAD_BYTES_MAX: usize = 1_280;
/// Packets waiting to be sent: half a second.
const TO_SEND_MAX: usize = 25;
/// Events waiting to be taken: a second of packets.
const EVENTS_MAX: usize = 50;

/// What a packet holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AudioFormat {
    /// Audio in the codec agreed on.
    Audio,
    /// A key that somebody presses (RFC 4733), at the clock of the audio's codec.
    TelephoneEvent,
}

/// A packet of encoded audio.
#[derive(Clone, PartialEq, Eq)]
pub struct AudioPacket {
    /// What it holds.
    pub format: AudioFormat,
    /// Its number, extended: gaps are losses.
    pub sequence: u64,
    /// Its time in ticks of the codec's clock ([`AudioCodec::clock_hz`]), extended.
    pub timestamp: u64,
    /// The first of a spurt of speech, or of an event.
    pub marker: bool,
    /// The payload, [`PAYLOAD_BYTES_MAX`] bytes at most.
    pub payload: Arc<[u8]>,
    /// When it came to this machine.
    pub arrived: Instant,
}

impl std::fmt::Debug for AudioPacket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { format, sequence, timestamp, payload, .. } = self;
        write!(f, "AudioPacket({format:?}, {sequence}, at {timestamp}, {} bytes)", payload.len())
    }
}

/// What both ends have agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AudioAgreed {
    /// The codec, for both directions.
    pub codec: AudioCodec,
    /// Whether the other end takes telephone events.
    pub has_events: bool,
}

/// What happens to a call's audio.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AudioEvent {
    /// The call is answered, in this codec. Comes once, and first but for [`AudioEvent::Early`].
    Agreed(AudioAgreed),
    /// A device that rings is heard already, in this codec: its packets may follow. What is sent reaches nobody yet. Another one may answer, in
    /// another codec.
    Early(AudioAgreed),
    /// The call is connected: packets count from now on.
    Connected,
    /// The other end's next packet, in the order of arrival.
    Packet(AudioPacket),
    /// The call is over; nothing follows.
    Ended,
}

/// Why a packet isn't sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AudioRefused {
    /// Those before it are still waiting; this one is dropped.
    #[error("packets are waiting to be sent; this one is dropped")]
    Full,
    /// It is empty, or longer than [`PAYLOAD_BYTES_MAX`].
    #[error("a packet has 1 to {PAYLOAD_BYTES_MAX} bytes")]
    Length,
    /// The call is over.
    #[error("the call is over")]
    Ended,
}

/// The embedder's end of a call's audio, from `calls().audio()`.
#[derive(Debug)]
pub struct AudioPort {
    to_send: mpsc::Sender<AudioPacket>,
    events: mpsc::Receiver<AudioEvent>,
    delays: Arc<Delays>,
}

/// How long packets took from their arrival on this machine till they were given to whoever sends them on.
#[derive(Debug, Default)]
pub(crate) struct Delays {
    packets: AtomicU64,
    total_us: AtomicU64,
    max_us: AtomicU64,
}

impl Delays {
    /// Counts a packet.
    pub(crate) fn count(&self, delay: Duration) {
        let us = u64::try_from(delay.as_micros()).unwrap_or(u64::MAX);
        self.packets.fetch_add(1, Ordering::Relaxed);
        self.total_us.fetch_add(us, Ordering::Relaxed);
        self.max_us.fetch_max(us, Ordering::Relaxed);
    }

    /// Mean and longest, in microseconds.
    pub(crate) fn mean_and_max_us(&self) -> (f64, u64) {
        let packets = self.packets.load(Ordering::Relaxed);
        let mean = self.total_us.load(Ordering::Relaxed) as f64 / packets.max(1) as f64;
        (mean, self.max_us.load(Ordering::Relaxed))
    }
}

impl AudioPort {
    /// Sends a packet, or drops it: never waits. Packets before [`AudioEvent::Connected`] reach nobody.
    ///
    /// # Errors
    /// See [`AudioRefused`].
    pub fn send(&self, packet: AudioPacket) -> Result<(), AudioRefused> {
        if packet.payload.is_empty() || packet.payload.len() > PAYLOAD_BYTES_MAX {
            return Err(AudioRefused::Length);
        }
        self.to_send.try_send(packet).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => AudioRefused::Full,
            mpsc::error::TrySendError::Closed(_) => AudioRefused::Ended,
        })
    }

    /// How long packets took from [`AudioPacket::arrived`] till the call's engine had them.
    pub(crate) fn delays(&self) -> &Delays {
        &self.delays
    }

    /// What happens next; `None` once the call is over. Safe to drop.
    pub async fn next(&mut self) -> Option<AudioEvent> {
        self.events.recv().await
    }
}

/// The session's end of a call's audio. Clones are the same: of several sessions that might become the call's, the one that starts takes it.
#[derive(Clone)]
pub struct AudioLink(Arc<Shared>);

struct Shared {
    to_send: Mutex<Option<mpsc::Receiver<AudioPacket>>>,
    events: mpsc::Sender<AudioEvent>,
    /// In what, once the call is answered.
    agreed: OnceLock<AudioCodec>,
    delays: Arc<Delays>,
}

impl std::fmt::Debug for AudioLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AudioLink").finish_non_exhaustive()
    }
}

impl AudioLink {
    /// Both ends.
    #[must_use]
    pub fn new() -> (Self, AudioPort) {
        let (to_send, outgoing) = mpsc::channel(TO_SEND_MAX);
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let delays = Arc::new(Delays::default());
        let (to_send_later, agreed) = (Mutex::new(Some(outgoing)), OnceLock::new());
        let shared = Shared { to_send: to_send_later, events: sender, agreed, delays: Arc::clone(&delays) };
        (Self(Arc::new(shared)), AudioPort { to_send, events, delays })
    }

    /// What is to be sent, for the session that starts first.
    fn take(&self) -> Option<mpsc::Receiver<AudioPacket>> {
        self.0.to_send.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Gives it back, from a session that isn't the call's after all.
    fn put_back(&self, receiver: mpsc::Receiver<AudioPacket>) {
        *self.0.to_send.lock().unwrap_or_else(PoisonError::into_inner) = Some(receiver);
    }

    /// In what the call was answered.
    pub(crate) fn agreed(&self) -> Option<AudioCodec> {
        self.0.agreed.get().copied()
    }

    /// Whether it was taken.
    fn tell(&self, event: AudioEvent) -> bool {
        if let AudioEvent::Agreed(agreed) = &event {
            // Said once.
            let _ = self.0.agreed.set(agreed.codec);
        }
        self.0.events.try_send(event).is_ok()
    }

    fn delays(&self) -> &Delays {
        &self.0.delays
    }

    /// The end, which waits for room: the port may be behind.
    async fn finish(&self) {
        let told = self.0.events.send(AudioEvent::Ended);
        // A port that is gone needs no last word.
        let _ = tokio::time::timeout(Duration::from_millis(100), told).await;
    }
}
