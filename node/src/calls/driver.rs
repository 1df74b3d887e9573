//! The task around one call's media session: hands its events to the event loop and obeys it.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use halloo_protocol::call::CallId;
use halloo_protocol::key::DeviceKey;
use halloo_protocol::phone::keys::Key;
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use super::media::{
    self, EarlyAudio, MediaConfig, MediaEvent, MediaSession, MediaStats, MediaSummary, PendingMedia, RelayServer, Room,
    SpareOffer,
};
use crate::event_loop::Internal;

/// Orders that may wait for one session: a handful in a call's life.
const ORDERS_MAX: usize = 32;

/// Names a session among all of this run: news of one that was dropped aren't taken for its successor's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SessionId(pub(crate) u64);

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
    /// The answer with which media connect while it rings is made, relayed only or not; or it can't be.
    EarlyMade(bool, Result<(Box<MediaSession>, String), String>),
    /// The files of an answer can be used, or why not.
    FilesChecked(Result<Box<MediaConfig>, String>),
    /// The session says something.
    Event(SessionId, MediaEvent),
    /// The session is closed.
    Ended(SessionId, Box<MediaSummary>),
}

/// An offer that an answer can be taken to.
#[derive(Debug)]
pub(crate) enum StandingOffer {
    /// Never answered.
    Fresh(Box<PendingMedia>),
    /// Answered once, and that may come to nothing.
    Spare(Box<SpareOffer>),
}

impl StandingOffer {
    async fn accept(self, answer: &str) -> Result<MediaSession, media::MediaError> {
        match self {
            Self::Fresh(pending) => pending.accept(answer).await,
            Self::Spare(spare) => spare.accept(answer).await,
        }
    }
}

enum Order {
    Start,
    Answered(Option<Room>),
    Early(EarlyAudio),
    Candidate(String),
    LeaveRelay(Vec<SocketAddr>),
    Relays(Vec<RelayServer>),
    Keys(Vec<Key>),
    Close,
}

/// A running media session. Dropping it ends the session.
#[derive(Debug)]
pub(crate) struct MediaDriver {
    id: SessionId,
    orders: mpsc::Sender<Order>,
    /// What the session measures, once there is one.
    stats: Arc<OnceLock<watch::Receiver<MediaStats>>>,
    _task: AbortOnDropHandle<()>,
}

impl MediaDriver {
    /// Takes a session over; its events arrive as [`MediaNews`].
    pub(crate) fn spawn(call: CallId, id: SessionId, session: MediaSession, news: mpsc::Sender<Internal>) -> Self {
        let (orders, receiver) = mpsc::channel(ORDERS_MAX);
        let stats = Arc::new(OnceLock::from(session.watch_stats()));
        let task = tokio::spawn(drive(call, id, session, receiver, news));
        Self { id, orders, stats, _task: AbortOnDropHandle::new(task) }
    }

    /// Takes the answer to an offer, and lets audio flow at once if it `starts`; a failure arrives as an event like that of a running session.
    pub(crate) fn accept(
        call: CallId,
        id: SessionId,
        offer: StandingOffer,
        answer: String,
        news: mpsc::Sender<Internal>,
        starts: bool,
    ) -> Self {
        let (orders, receiver) = mpsc::channel(ORDERS_MAX);
        let stats: Arc<OnceLock<watch::Receiver<MediaStats>>> = Arc::default();
        let stats_of_session = Arc::clone(&stats);
        let task = tokio::spawn(async move {
            match offer.accept(&answer).await {
                Ok(session) => {
                    // Set once: nobody else has this cell's other end.
                    let _ = stats_of_session.set(session.watch_stats());
                    if starts {
                        session.start();
                    }
                    drive(call, id, session, receiver, news).await;
                }
                Err(error) => {
                    let summary = MediaSummary { stats: Default::default(), recorded_ms: 0, failure: Some(describe(&error)) };
                    tell(&news, call, MediaNewsKind::Event(id, MediaEvent::Failed(error))).await;
                    tell(&news, call, MediaNewsKind::Ended(id, Box::new(summary))).await;
                }
            }
        });
        Self { id, orders, stats, _task: AbortOnDropHandle::new(task) }
    }

    /// Which session it is.
    pub(crate) const fn id(&self) -> SessionId {
        self.id
    }

    /// What the session measures at present, if there is one.
    pub(crate) fn stats(&self) -> Option<MediaStats> {
        self.stats.get().map(|stats| stats.borrow().clone())
    }

    /// The call is answered here, and this is what is said and heard; the other end is being told.
    pub(crate) fn answered(&self, room: Option<Room>) {
        let _ = self.orders.try_send(Order::Answered(room));
    }

    /// Lets this much of the audio pass while it rings.
    pub(crate) fn early_audio(&self, early: EarlyAudio) {
        let _ = self.orders.try_send(Order::Early(early));
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

    /// Presses keys.
    pub(crate) fn press(&self, keys: Vec<Key>) {
        let _ = self.orders.try_send(Order::Keys(keys));
    }

    /// Ends the session with a goodbye; [`MediaNewsKind::Ended`] follows.
    pub(crate) fn close(&self) {
        let _ = self.orders.try_send(Order::Close);
    }
}

async fn drive(
    call: CallId,
    id: SessionId,
    mut session: MediaSession,
    mut orders: mpsc::Receiver<Order>,
    news: mpsc::Sender<Internal>,
) {
    loop {
        tokio::select! {
            biased;
            order = orders.recv() => match order {
                Some(Order::Start) => session.start(),
                Some(Order::Answered(room)) => session.answered_in(room),
                Some(Order::Early(early)) => session.early_audio(early),
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
                Some(Order::Keys(keys)) => {
                    // A session that is over presses none.
                    let _ = session.press(keys);
                }
                Some(Order::Close) | None => break,
            },
            event = session.next_event() => match event {
                Some(event) => tell(&news, call, MediaNewsKind::Event(id, event)).await,
                None => break,
            },
        }
    }
    let summary = session.close().await;
    tell(&news, call, MediaNewsKind::Ended(id, Box::new(summary))).await;
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

/// Makes the answer with which media connect while it rings, in a task of its own.
pub(crate) fn make_early_answer(call: CallId, config: MediaConfig, offer: String, news: mpsc::Sender<Internal>) {
    tokio::spawn(async move {
        let relayed_only = config.relayed_only;
        let made = media::answer(config, &offer).await;
        let made = made.map(|(session, sdp)| (Box::new(session), sdp)).map_err(|error| describe(&error));
        tell(&news, call, MediaNewsKind::EarlyMade(relayed_only, made)).await;
    });
}

/// Looks in a task of its own whether the files of an answer can be used.
pub(crate) fn check_files(call: CallId, config: MediaConfig, news: mpsc::Sender<Internal>) {
    tokio::spawn(async move {
        let checked = config.check_files().await;
        let checked = checked.map(|()| Box::new(config)).map_err(|error| describe(&error));
        tell(&news, call, MediaNewsKind::FilesChecked(checked)).await;
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
