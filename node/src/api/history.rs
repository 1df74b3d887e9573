//! `/v1/history` and `/v1/search`.

use std::path::PathBuf;

use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ApiState;
use super::extract::{Answer, JsonBody, Refusal, UrlQuery};
use super::route::Route;
use crate::handle::history::{FoundMessages, Moved, Passphrase, SearchOptions};
use crate::handle::problem::ProblemKind;

/// What to look for.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SearchQuery {
    /// Words that a message has, the last of which may be begun only.
    text: String,
    /// In one conversation alone: `name@authority`, or `group:` and a group's id, the start of it, or its name.
    with: Option<String>,
    /// At most so many, the newest; at most 200.
    limit: Option<u32>,
}

/// A file of history.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ArchiveBody {
    /// The file on the daemon's machine, absolute.
    pub(crate) path: PathBuf,
    /// What it is encrypted under.
    pub(crate) passphrase: String,
}

impl std::fmt::Debug for ArchiveBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ArchiveBody").field("path", &self.path).finish_non_exhaustive()
    }
}

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/v1/search", "searchMessages", "Messages that have these words", search)
            .query::<SearchQuery>()
            .returns::<FoundMessages>(),
        Route::post("/v1/history/export", "exportHistory", "Write all conversations into an encrypted file", export)
            .body::<ArchiveBody>()
            .returns::<Moved>()
            .lasts(),
        Route::post("/v1/history/import", "importHistory", "Add the messages of such a file", import)
            .body::<ArchiveBody>()
            .returns::<Moved>()
            .lasts(),
    ]
}

async fn search(State(state): State<ApiState>, UrlQuery(query): UrlQuery<SearchQuery>) -> Answer<FoundMessages> {
    let options = SearchOptions { with: query.with, limit: query.limit };
    Ok(Json(state.node.history().search(&query.text, options).await?))
}

async fn export(State(state): State<ApiState>, JsonBody(body): JsonBody<ArchiveBody>) -> Answer<Moved> {
    must_be_absolute(&body)?;
    Ok(Json(state.node.history().export(&body.path, Passphrase::new(body.passphrase)).await?))
}

async fn import(State(state): State<ApiState>, JsonBody(body): JsonBody<ArchiveBody>) -> Answer<Moved> {
    must_be_absolute(&body)?;
    Ok(Json(state.node.history().import(&body.path, Passphrase::new(body.passphrase)).await?))
}

/// Whoever asks has another working directory than the daemon.
fn must_be_absolute(body: &ArchiveBody) -> Result<(), Refusal> {
    if body.path.is_absolute() {
        return Ok(());
    }
    Err(Refusal::new(ProblemKind::InvalidRequest, format!("{} is no absolute path", body.path.display())))
}
