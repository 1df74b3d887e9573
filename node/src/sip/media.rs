//! The media of a phone's call, bridged to the overlay's: RTP or SRTP on one side, the packets of a call's [`AudioPort`] on the other. The payload goes
//! through as it is, in a codec that both ends have; where they share none, the call is refused with [`MediaRefusal`].
//!
//! A phone calls somebody:
//!
//! ```text
//! phone                 edge (SIP)                                            the call
//! INVITE, offer ------> leg = media.open(); offer = leg.take_offer(sdp)
//!                       DialOptions { passthrough: offer.codecs, .. } ------> dial
//!                       leg.bridge(calls().audio(call_id))        <---------- call_dialing
//!                       leg.next_event(): Agreed(codec)           <---------- answered
//! <--- 200, answer      leg.answer(codec)
//! ```
//!
//! Somebody calls a phone:
//!
//! ```text
//! the call                                      edge (SIP)                                            phone
//! call_incoming ------------------------------> codecs = calls().offered_audio(call_id)
//!                                               leg = media.open(); leg.offer(&codecs) -------------> INVITE
//!                                               codec = leg.take_answer(sdp)              <---------- 200, answer
//! answer  <------------------------------------ AnswerOptions { passthrough: vec![codec], .. }
//!                                               leg.bridge(calls().audio(call_id))
//! ```
//!
//! A phone that holds sends a new offer: [`PhoneLeg::reanswer`]. An INVITE without an offer is answered with [`PhoneLeg::offer`], and its ACK has the
//! answer. Of several phones that ring, each has a leg of its own; those that lose are dropped, which closes their sockets.
//!
//! One task owns the sockets of a leg; dropping the [`PhoneLeg`] ends it. What is decided on descriptions and packets is in
//! [`halloo_protocol::phone`].

use std::net::IpAddr;

use tokio::net::UdpSocket;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::task::AbortOnDropHandle;

pub use halloo_protocol::phone::AudioCodec;
use halloo_protocol::phone::negotiation::{Agreed, Local, Negotiation};
pub use halloo_protocol::phone::negotiation::{Hold, MediaRefusal, PhoneOffer, Reanswer, Security};
use serde::Serialize;

mod bridge;
mod ports;

use bridge::{Bridge, Wish};
pub use ports::{OpenError, PORTS, PhoneMedia, PhoneMediaConfig};

pub use crate::calls::media::port::{AudioAgreed, AudioEvent, AudioPort};

/// Events waiting for [`PhoneLeg::next_event`]; when full the newest is dropped. A leg has a handful of them.
const EVENTS_MAX: usize = 16;
/// Wishes waiting for a leg's task: a description each, which come as fast as signalling does.
const WISHES_MAX: usize = 8;

/// What happens to a leg.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LegEvent {
    /// The call is answered at the overlay's end, in this codec: answer the phone in it.
    Agreed(AudioAgreed),
    /// A device rings and is heard already, in this codec: let the phone hear it ([`PhoneLeg::answer_early`]).
    Early(AudioAgreed),
    /// The overlay's end is connected: packets pass.
    Connected,
    /// The phone's first packet that counts has come.
    PhoneHeard,
    /// Nothing has come from the phone for this many seconds, no report either, though it said that it sends. Told once per silence.
    PhoneSilent(u64),
    /// The overlay's end is over. Nothing follows, unless another takes its place ([`PhoneLeg::bridge`]).
    Ended,
}

/// What has passed in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct PassedStats {
    /// Packets of audio and of telephone events that were passed on.
    pub packets: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// Packets that never came, by their sequence numbers.
    pub lost: u64,
    /// Variation of the packets' travelling time in milliseconds (RFC 3550 section 6.4.1).
    pub jitter_ms: f64,
    /// Packets that came and weren't passed on: of another source or format, not authentic, while held, or because a queue was full.
    pub dropped: u64,
    /// Mean time from a packet's arrival on this machine till it was sent on, in microseconds.
    pub delay_mean_us: f64,
    /// The longest.
    pub delay_max_us: u64,
}

/// What a leg has measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct LegStats {
    /// The codec, once agreed on.
    pub codec: Option<AudioCodec>,
    /// Whether the phone's side is encrypted.
    pub is_secure: bool,
    /// From the phone to the overlay.
    pub from_phone: PassedStats,
    /// From the overlay to the phone.
    pub to_phone: PassedStats,
    /// Share of what was sent that the phone says it lost, 0.0 to 1.0, by its last report.
    pub phone_loss: Option<f64>,
    /// Round-trip time to the phone in milliseconds, by its reports.
    pub phone_rtt_ms: Option<f64>,
}

/// The media of one phone in one call. Dropping it ends them and closes the sockets.
#[derive(Debug)]
#[must_use = "dropping it ends the phone's media"]
pub struct PhoneLeg {
    negotiation: Negotiation,
    wishes: mpsc::Sender<Wish>,
    events: mpsc::Receiver<LegEvent>,
    stats: watch::Receiver<LegStats>,
    task: AbortOnDropHandle<()>,
}

impl PhoneLeg {
    /// A leg with these sockets, for media and for reports on them.
    fn spawn(media: UdpSocket, reports: UdpSocket, local: Local) -> Self {
        let mut rng: rand::rngs::StdRng = rand::make_rng();
        let negotiation = Negotiation::new(local, &mut rng);
        let (wishes, wishes_receiver) = mpsc::channel(WISHES_MAX);
        let (event_sender, events) = mpsc::channel(EVENTS_MAX);
        let (stats_sender, stats) = watch::channel(LegStats::default());
        let bridge = Bridge::new(media, reports, &mut rng, event_sender, stats_sender);
        let task = AbortOnDropHandle::new(tokio::spawn(bridge.run(wishes_receiver)));
        Self { negotiation, wishes, events, stats, task }
    }

    /// The phone's signalling comes from this address: behind an address translator its media do too, whatever its description says.
    pub fn expect_from(&mut self, address: IpAddr) {
        self.wish(Wish::ExpectFrom(address));
    }

    /// Takes a phone's offer. What it says counts once it is answered.
    ///
    /// # Errors
    /// See [`MediaRefusal`], which knows the SIP status to refuse with. The leg is as it was.
    pub fn take_offer(&mut self, sdp: &[u8]) -> Result<PhoneOffer, MediaRefusal> {
        self.negotiation.take_offer(sdp)
    }

    /// The answer to [`PhoneLeg::take_offer`], in this codec.
    ///
    /// # Errors
    /// [`MediaRefusal::NoCommonCodec`] if the phone doesn't have it, [`MediaRefusal::NothingToAnswer`].
    pub fn answer(&mut self, codec: AudioCodec) -> Result<String, MediaRefusal> {
        let sdp = self.negotiation.answer(codec)?;
        self.configure();
        Ok(sdp)
    }

    /// The same before the call is answered: what comes from the overlay's end is sent to the phone from now on.
    ///
    /// # Errors
    /// As [`PhoneLeg::answer`].
    pub fn answer_early(&mut self, codec: AudioCodec) -> Result<String, MediaRefusal> {
        let sdp = self.negotiation.answer_early(codec)?;
        self.configure();
        Ok(sdp)
    }

    /// An offer for the phone, of these codecs, the preferred first; in a running call, of its codec.
    ///
    /// # Errors
    /// [`MediaRefusal::NoCommonCodec`] if there are none.
    pub fn offer(&mut self, codecs: &[AudioCodec]) -> Result<String, MediaRefusal> {
        self.negotiation.offer(codecs)
    }

    /// Takes the phone's answer to [`PhoneLeg::offer`] or [`PhoneLeg::hold`]: the codec of the call.
    ///
    /// # Errors
    /// See [`MediaRefusal`].
    pub fn take_answer(&mut self, sdp: &[u8]) -> Result<AudioCodec, MediaRefusal> {
        let codec = self.negotiation.take_answer(sdp)?;
        self.configure();
        Ok(codec)
    }

    /// Takes the phone's answer that it gives while it rings, to let its caller hear something: the codec.
    ///
    /// # Errors
    /// See [`MediaRefusal`].
    pub fn take_early_answer(&mut self, sdp: &[u8]) -> Result<AudioCodec, MediaRefusal> {
        let codec = self.negotiation.take_early_answer(sdp)?;
        self.configure();
        Ok(codec)
    }

    /// Answers a later offer of the phone's: it holds, goes on, has moved, or only refreshes its session.
    ///
    /// # Errors
    /// See [`MediaRefusal`]: refuse the re-INVITE; what was agreed on goes on (RFC 3261 section 14.2).
    pub fn reanswer(&mut self, sdp: &[u8]) -> Result<Reanswer, MediaRefusal> {
        let answer = self.negotiation.reanswer(sdp)?;
        self.configure();
        Ok(answer)
    }

    /// An offer that holds the phone, or takes it back.
    ///
    /// # Errors
    /// [`MediaRefusal::NothingToAnswer`] before anything was agreed on.
    pub fn hold(&mut self, held: bool) -> Result<String, MediaRefusal> {
        self.negotiation.hold(held)
    }

    /// What was agreed on with the phone.
    #[must_use]
    pub const fn agreed(&self) -> Option<&Agreed> {
        self.negotiation.agreed()
    }

    /// Joins the leg with the call's audio; packets pass once both sides have agreed on a codec. Another one takes its place: of a call that the phone is
    /// transferred to, in the same codec.
    pub fn bridge(&mut self, port: AudioPort) {
        self.wish(Wish::Bridge(Box::new(port)));
    }

    /// Gives the call's audio back, for another leg.
    pub(crate) async fn release(&self) -> Option<AudioPort> {
        let (sender, port) = oneshot::channel();
        self.wish(Wish::Release(sender));
        port.await.ok()
    }

    /// What happens next; `None` once the leg is over. Safe to drop.
    pub async fn next_event(&mut self) -> Option<LegEvent> {
        self.events.recv().await
    }

    /// What has been measured so far, at most 0.2 s old.
    #[must_use]
    pub fn stats(&self) -> LegStats {
        self.stats.borrow().clone()
    }

    /// Takes leave of the phone and closes the sockets: what was measured in all. Dropping the future is dropping the leg.
    pub async fn close(self) -> LegStats {
        // A task that has ended has taken leave.
        let _ = self.wishes.send(Wish::Close).await;
        // One that has failed was a bug, and what it had measured stands.
        let _ = self.task.await;
        self.stats.borrow().clone()
    }

    fn configure(&self) {
        if let Some(agreed) = self.negotiation.agreed() {
            self.wish(Wish::Configure(Box::new(agreed.clone())));
        }
    }

    fn wish(&self, wish: Wish) {
        if self.wishes.try_send(wish).is_err() {
            tracing::debug!("a phone's leg is over, or has too much to do");
        }
    }
}
