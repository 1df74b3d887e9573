//! `/v1/events`: what happens, as server-sent events.
//!
//! Each event's `id` is its number, its name the JSON field `event`, its data the whole
//! object. A client that lost its connection sends `Last-Event-ID` and goes on where it
//! stopped, as far as the node's bounded history reaches; what it missed it is told.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{self, KeepAlive, Sse};
use futures::stream::{self, Stream};

use super::ApiState;
use super::extract::Refusal;
use super::route::Route;
use crate::handle::problem::ProblemKind;
use crate::handle::{EventRecord, EventStream};

/// A silent connection gets a comment so often, so that a dead client is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

const LAST_EVENT_ID: &str = "last-event-id";

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/v1/events", "events", "What happens, as server-sent events; resumable by Last-Event-ID", events)
            .streams::<EventRecord>(),
    ]
}

async fn events(
    State(state): State<ApiState>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<sse::Event, Infallible>>>, Refusal> {
    let events = match headers.get(LAST_EVENT_ID) {
        None => state.node.subscribe(),
        Some(value) => {
            let last_id = value.to_str().ok().and_then(|text| text.parse().ok());
            let last_id = last_id.ok_or_else(|| Refusal::new(ProblemKind::InvalidRequest, "Last-Event-ID is not a number"))?;
            state.node.subscribe_after(last_id)
        }
    };
    // The state holds a handle of the node, which must not keep the event loop alive.
    let stop = state.stop.clone();
    let stream = stream::unfold((events, stop), async |(mut events, stop)| {
        let record = stop.run_until_cancelled(next_event(&mut events)).await??;
        Some((Ok(record), (events, stop)))
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

async fn next_event(events: &mut EventStream) -> Option<sse::Event> {
    let record = events.recv().await?;
    let event = sse::Event::default().id(record.id.to_string()).event(record.event.name());
    // Plain data without maps of odd keys always serialises.
    event.json_data(&record).ok()
}
