//! `/v1/files`.

use std::path::PathBuf;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ApiState;
use super::extract::{Answer, JsonBody, PathPart, Refusal, UrlQuery};
use super::messages::{WAIT_MS_DEFAULT, WAIT_MS_MAX};
use super::route::Route;
use crate::handle::files::{FileList, FileView};
use crate::handle::problem::ProblemKind;

/// A file to send.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileRequestBody {
    /// To whom, `name@authority`.
    pub(crate) to: String,
    /// The file on the daemon's machine, absolute.
    pub(crate) path: PathBuf,
}

/// What to do with a file.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileChangeBody {
    /// With `accept`: where to put it on the daemon's machine, absolute; a file that isn't there yet, or a directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) to: Option<PathBuf>,
}

/// How long to wait for a file.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WaitQuery {
    /// Answer only when it has come to an end, or after so long; at most 50,000.
    wait_ms: Option<u64>,
}

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/v1/files", "listFiles", "Files, coming and going, the newest first", list).returns::<FileList>(),
        Route::post("/v1/files", "sendFile", "Offer a file to a user", send).body::<FileRequestBody>().returns::<FileView>(),
        Route::get("/v1/files/{id}", "getFile", "How far a file is", get).query::<WaitQuery>().returns::<FileView>(),
        Route::post("/v1/files/{id}/{change}", "changeFile", "change: accept, decline, cancel", change)
            .body::<FileChangeBody>()
            .returns::<FileView>(),
    ]
}

async fn list(State(state): State<ApiState>) -> Answer<FileList> {
    Ok(Json(state.node.files().list().await?))
}

async fn send(State(state): State<ApiState>, JsonBody(request): JsonBody<FileRequestBody>) -> Answer<FileView> {
    must_be_absolute(&request.path)?;
    Ok(Json(state.node.files().send(&request.to, &request.path).await?))
}

async fn get(State(state): State<ApiState>, PathPart(id): PathPart, UrlQuery(query): UrlQuery<WaitQuery>) -> Answer<FileView> {
    let files = state.node.files();
    match query.wait_ms {
        None => Ok(Json(files.get(&id).await?)),
        Some(0) => Ok(Json(files.wait(&id, Duration::from_millis(WAIT_MS_DEFAULT)).await?)),
        Some(wait_ms) => Ok(Json(files.wait(&id, Duration::from_millis(wait_ms.min(WAIT_MS_MAX))).await?)),
    }
}

async fn change(
    State(state): State<ApiState>,
    axum::extract::Path((id, change)): axum::extract::Path<(String, String)>,
    JsonBody(body): JsonBody<FileChangeBody>,
) -> Answer<FileView> {
    let files = state.node.files();
    if let Some(to) = &body.to {
        must_be_absolute(to)?;
    }
    let view = match change.as_str() {
        "accept" => files.accept(&id, body.to.as_deref()).await?,
        "decline" => files.decline(&id).await?,
        "cancel" => files.cancel(&id).await?,
        other => {
            let detail = format!("nothing called {other:?} can be done with a file");
            return Err(Refusal::new(ProblemKind::NotFound, detail));
        }
    };
    Ok(Json(view))
}

/// Whoever asks has another working directory than the daemon.
pub(super) fn must_be_absolute(path: &std::path::Path) -> Result<(), Refusal> {
    if path.is_absolute() {
        return Ok(());
    }
    Err(Refusal::new(ProblemKind::InvalidRequest, format!("{} is no absolute path", path.display())))
}
