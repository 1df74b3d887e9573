//! The local HTTP API: everything the handle can do, for other programs on this machine.
//!
//! JSON under `/v1`, one resource per capability; what happens arrives at `/v1/events` as
//! server-sent events; `/v1/openapi.json` describes it all and `/` is a page for people.
//!
//! It listens on a Unix socket, where the file mode decides who may use it, or on TCP, where
//! every request needs the token from the home. A browser is never trusted because it runs
//! on this machine: requests that a foreign page could cause (`Origin`, rebound `Host`) are
//! refused before anything else is looked at.
//!
//! One table of routes builds both the router and the OpenAPI document.
//!
//! Everything is bounded: connections, headers, bodies, and the time a request may take.
//! Only calls and events may take as long as they last.

mod access;
mod authority;
mod calls;
pub mod client;
mod contacts;
mod devices;
mod directory;
mod events;
mod extract;
mod files;
mod groups;
mod history;
mod linked;
mod listener;
mod messages;
mod network;
mod openapi;
mod page;
mod power;
mod presence;
mod push;
mod route;
mod server;
mod sip;
mod voicemail;

pub use listener::{ApiError, ApiListener};

/// Request bodies that the command line shares.
pub(crate) mod requests {
    pub(crate) use super::authority::{CertifyRequest, RevokeRequest};
    pub(crate) use super::calls::CallDone;
    pub(crate) use super::contacts::ContactRequestBody;
    pub(crate) use super::devices::{RenameRequest, RevokeDeviceRequest};
    pub(crate) use super::files::{FileChangeBody, FileRequestBody};
    pub(crate) use super::groups::GroupRequest;
    pub(crate) use super::history::ArchiveBody;
    pub(crate) use super::linked::{CertifyLinkRequest, FindRequest, ListingRequest};
    pub(crate) use super::messages::{ComposingRequest, MessageRequest, ReadRequest, WAIT_MS_DEFAULT, WAIT_MS_MAX};
    pub(crate) use super::power::WakeRequest;
    pub(crate) use super::push::PolicyRequest;
    pub(crate) use super::voicemail::VoicemailRequest;
}

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::Response;
use tokio_util::sync::CancellationToken;

use crate::handle::Node;
use crate::handle::problem::{Problem, ProblemKind};
use access::Access;
use extract::Refusal;
use route::Route;

/// What every handler gets.
#[derive(Clone, Debug)]
struct ApiState {
    node: Node,
    access: Arc<Access>,
    /// Cancelled when the daemon stops; ends event streams.
    stop: CancellationToken,
}

/// The whole table.
fn routes() -> Vec<Route> {
    let mut routes = Vec::new();
    routes.extend(network::routes());
    routes.extend(directory::routes());
    routes.extend(messages::routes());
    routes.extend(files::routes());
    routes.extend(voicemail::routes());
    routes.extend(history::routes());
    routes.extend(groups::routes());
    routes.extend(contacts::routes());
    routes.extend(devices::routes());
    routes.extend(calls::routes());
    routes.extend(presence::routes());
    routes.extend(push::routes());
    routes.extend(sip::routes());
    routes.extend(linked::routes());
    routes.extend(power::routes());
    routes.extend(authority::routes());
    routes.extend(events::routes());
    routes.extend(openapi::routes());
    routes
}

/// The router behind the guard.
fn router(state: ApiState) -> Router {
    let mut router = Router::new();
    for route in routes() {
        router = router.route(route.path, route.into_handler());
    }
    router
        .merge(page::router())
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn_with_state(state.clone(), guard))
        .layer(from_fn(safe_headers))
        .with_state(state)
}

/// Refuses who has no business here.
async fn guard(State(state): State<ApiState>, request: Request, next: Next) -> Result<Response, Refusal> {
    state.access.check(request.uri(), request.headers())?;
    Ok(next.run(request).await)
}

/// Answers hold private data: nobody may keep or guess at them.
async fn safe_headers(request: Request, next: Next) -> Response {
    const NO_REFERRER: HeaderName = HeaderName::from_static("referrer-policy");
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(NO_REFERRER, HeaderValue::from_static("no-referrer"));
    response
}

async fn not_found(request: Request) -> Refusal {
    let detail = format!("there is nothing at {}; see /v1/openapi.json", request.uri().path());
    Refusal(Problem::new(ProblemKind::NotFound, detail))
}

async fn method_not_allowed(request: Request) -> Refusal {
    let (method, path) = (request.method(), request.uri().path());
    let detail = format!("{path} does not take {method}; see /v1/openapi.json");
    Refusal(Problem::new(ProblemKind::MethodNotAllowed, detail))
}
