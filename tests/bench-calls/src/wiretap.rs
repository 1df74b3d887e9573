//! What nodes say to each other, from the traces of this process's own nodes: every overlay frame, in order, with its time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

/// Frames kept between two [`Wiretap::begin`]; more are forgotten.
const FRAMES_MAX: usize = 100_000;

/// One frame that was sent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sent {
    pub(crate) at: Option<Instant>,
    /// Peer ids of who sent it and to whom.
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) kind: u16,
    is_sent: bool,
    /// Not a frame: a device rings now.
    pub(crate) is_ring: bool,
}

/// Hears what is said from [`Wiretap::begin`] on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wiretap(Arc<Mutex<Option<Vec<Sent>>>>);

impl Wiretap {
    /// Listens to this process's nodes, from now on. Logs go to standard error if `HALLOO_LOG` says which.
    pub(crate) fn install() -> Self {
        let tap = Self::default();
        let is_frame = |data: &tracing::Metadata<'_>| {
            (data.target() == "halloo::network" && *data.level() == Level::TRACE)
                || (data.target() == "halloo::calls::incoming" && *data.level() == Level::INFO)
        };
        match tracing_subscriber::EnvFilter::try_from_env("HALLOO_LOG") {
            Ok(filter) => {
                let log = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_filter(filter);
                tracing_subscriber::registry().with(tap.clone().with_filter(filter_fn(is_frame))).with(log).init();
            }
            // For the whole registry: it keeps spans that nobody reads else, and what that takes would be counted as the nodes'.
            Err(_) => tracing_subscriber::registry().with(tap.clone()).with(filter_fn(is_frame)).init(),
        }
        tap
    }

    /// Forgets what was heard, and listens.
    pub(crate) fn begin(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Vec::new());
    }

    /// What was heard since; listens no more.
    pub(crate) fn take(&self) -> Vec<Sent> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default()
    }
}

impl Visit for Sent {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        match field.name() {
            "me" => self.from = format!("{value:?}"),
            "peer" => self.to = format!("{value:?}"),
            "message" => match format!("{value:?}").as_str() {
                "frame sent" => self.is_sent = true,
                "ringing" => self.is_ring = true,
                _ => {}
            },
            _ => {}
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "kind" {
            self.kind = u16::try_from(value).unwrap_or(u16::MAX);
        }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Wiretap {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let at = Instant::now();
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(heard) = heard.as_mut().filter(|heard| heard.len() < FRAMES_MAX) else { return };
        let mut sent = Sent { at: Some(at), ..Sent::default() };
        event.record(&mut sent);
        if sent.is_sent || sent.is_ring {
            heard.push(sent);
        }
    }
}
