//! The task around one call's media session: hands its events to the event loop and obeys it.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use halloo_protocol::call::CallId;
use halloo_protocol::key::DeviceKey;
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use super::media::{self, MediaConfig, MediaEvent, MediaSession, MediaStats, MediaSummary, PendingMedia, RelayServer};
use crate::event_loop::Internal;

/// Orders that may wait for one session: a handful in a call's life.
const ORDERS_MAX: usize = 32;

/// News of a call's media.
#[derive(Debug)]
pub(crate) struct MediaNews {
    /// Which call.
    pub(crate) call: CallId,
    /// What happened.
    pub(crate) what: MediaNewsKind,
}

/// What happened to a call's media.
#[derive(Debug)]
pub(crate) enum MediaNewsKind {
    /// An offer for one device is made, or can't be.
    OfferMade(DeviceKey, Result<(Box<PendingMedia>, String), String>),
    /// The answer to an offer is made, or can't be.
    AnswerMade(Result<(Box<MediaSession>, String), String>),
    /// The session says something.
    Event(MediaEvent),
    /// The session is closed.
    Ended(Box<MediaSummary>),
}

enum Order {
    Start,
    Candidate(String),
    LeaveRelay(Vec<SocketAddr>),
    Relays(Vec<RelayServer>),
    Close,
}

/// A running media session. Dropping it ends the session.
#[derive(Debug)]
pub(crate) struct MediaDriver {
    orders: mpsc::Sender<Order>,
    /// What the session measures, once there is one.
    stats: Arc<OnceLock<watch::Receiver<MediaStats>>>,
    _task: AbortOnDropHandle<()>,
}

impl MediaDriver {
    /// Takes a session over; its events arrive as [`MediaNews`].
    pub(crate) fn spawn(call: CallId, session: MediaSession, news: mpsc::Sender<Internal>) -> Self {
        let (orders, receiver) = mpsc::channel(ORDERS_MAX);
        let stats = Arc::new(OnceLock::from(session.watch_stats()));
        let task = tokio::spawn(drive(call, session, receiver, news));
        Self { orders, stats, _task: AbortOnDropHandle::new(task) }
    }

    /// Takes the answer to an offer and lets audio flow; a failure arrives as an event like that of a running session.
    pub(crate) fn accept(call: CallId, pending: Box<PendingMedia>, answer: String, news: mpsc::Sender<Internal>) -> Self {
        let (orders, receiver) = mpsc::channel(ORDERS_MAX);
        let stats: Arc<OnceLock<watch::Receiver<MediaStats>>> = Arc::default();
        let stats_of_session = Arc::clone(&stats);
        let task = tokio::spawn(async move {
            match pending.accept(&answer).await {
                Ok(session) => {
                    // Set once: nobody else has this cell's other end.
                    let _ = stats_of_session.set(session.watch_stats());
                    session.start();
                    drive(call, session, receiver, news).await;
                }
                Err(error) => {
                    let summary = MediaSummary { stats: Default::default(), recorded_ms: 0, failure: Some(describe(&error)) };
                    tell(&news, call, MediaNewsKind::Event(MediaEvent::Failed(error))).await;
                    tell(&news, call, MediaNewsKind::Ended(Box::new(summary))).await;
                }
            }
        });
        Self { orders, stats, _task: AbortOnDropHandle::new(task) }
    }

    /// What the session measures at present, if there is one.
    pub(crate) fn stats(&self) -> Option<MediaStats> {
        self.stats.get().map(|stats| stats.borrow().clone())
    }

    /// Lets audio flow.
    pub(crate) fn start(&self) {
        // A full queue means that the session hangs; it fails by its own deadlines.
        let _ = self.orders.try_send(Order::Start);
    }

    /// Hands on a candidate of the other end.
    pub(crate) fn add_candidate(&self, candidate: String) {
        let _ = self.orders.try_send(Order::Candidate(candidate));
    }

    /// A media relay is about to end.
    pub(crate) fn leave_relay(&self, relay: Vec<SocketAddr>) {
        let _ = self.orders.try_send(Order::LeaveRelay(relay));
    }

    /// These are the media relays at hand now.
    pub(crate) fn use_relays(&self, relays: Vec<RelayServer>) {
        let _ = self.orders.try_send(Order::Relays(relays));
    }

    /// Ends the session with a goodbye; [`MediaNewsKind::Ended`] follows.
    pub(crate) fn close(&self) {
        let _ = self.orders.try_send(Order::Close);
    }
}

async fn drive(call: CallId, mut session: MediaSession, mut orders: mpsc::Receiver<Order>, news: mpsc::Sender<Internal>) {
    loop {
        tokio::select! {
            biased;
            order = orders.recv() => match order {
                Some(Order::Start) => session.start(),
                Some(Order::Candidate(candidate)) => {
                    if let Err(error) = session.add_remote_candidate(&candidate) {
                        tracing::debug!(call = %call.short(), %error, "candidate not used");
                    }
                }
                Some(Order::LeaveRelay(relay)) => {
                    // A session that is over needs no relay.
                    let _ = session.leave_relay(relay);
                }
                Some(Order::Relays(relays)) => {
                    let _ = session.use_relays(relays);
                }
                Some(Order::Close) | None => break,
            },
            event = session.next_event() => match event {
                Some(event) => tell(&news, call, MediaNewsKind::Event(event)).await,
                None => break,
            },
        }
    }
    let summary = session.close().await;
    tell(&news, call, MediaNewsKind::Ended(Box::new(summary))).await;
}

async fn tell(news: &mpsc::Sender<Internal>, call: CallId, what: MediaNewsKind) {
    // The event loop is gone only when the node is: then nobody needs to know.
    let _ = news.send(Internal::Media(MediaNews { call, what })).await;
}

/// Makes an offer for one device in a task of its own.
pub(crate) fn make_offer(call: CallId, device: DeviceKey, config: MediaConfig, news: mpsc::Sender<Internal>) {
    tokio::spawn(async move {
        let made = media::offer(config).await;
        let made = made.map(|(pending, sdp)| (Box::new(pending), sdp)).map_err(|error| describe(&error));
        tell(&news, call, MediaNewsKind::OfferMade(device, made)).await;
    });
}

/// Makes the answer to an offer in a task of its own.
pub(crate) fn make_answer(call: CallId, config: MediaConfig, offer: String, news: mpsc::Sender<Internal>) {
    tokio::spawn(async move {
        let made = media::answer(config, &offer).await;
        let made = made.map(|(session, sdp)| (Box::new(session), sdp)).map_err(|error| describe(&error));
        tell(&news, call, MediaNewsKind::AnswerMade(made)).await;
    });
}

/// An error with its causes, on one line.
pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
