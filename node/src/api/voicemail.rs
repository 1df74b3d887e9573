//! `/v1/voicemails`.

use std::path::PathBuf;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ApiState;
use super::extract::{Answer, JsonBody, PathPart, Refusal, UrlQuery};
use super::files::must_be_absolute;
use super::route::Route;
use crate::handle::voicemail::{VoicemailLeft, VoicemailList, VoicemailListOptions, VoicemailView};

/// A recording to leave.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct VoicemailRequest {
    /// For whom, `name@authority`.
    pub(crate) to: String,
    /// A WAV file on the daemon's machine, absolute; at most three minutes.
    pub(crate) path: PathBuf,
    /// The call that wasn't answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) call_id: Option<String>,
}

/// In which form a recording is wanted.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum AudioForm {
    /// Opus in Ogg, as it came.
    #[default]
    Ogg,
    /// A WAV file: 48 kHz, mono, 16 bit.
    Wav,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AudioQuery {
    /// `ogg`, or `wav`.
    #[serde(default)]
    format: AudioForm,
}

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/v1/voicemails", "listVoicemails", "Recordings that were left, the newest first", list)
            .query::<VoicemailListOptions>()
            .returns::<VoicemailList>(),
        Route::post("/v1/voicemails", "leaveVoicemail", "Leave a recording for somebody", leave)
            .body::<VoicemailRequest>()
            .returns::<VoicemailLeft>(),
        Route::get("/v1/voicemails/{id}", "getVoicemail", "One recording", get).returns::<VoicemailView>(),
        Route::get("/v1/voicemails/{id}/audio", "getVoicemailAudio", "The recording itself", audio)
            .query::<AudioQuery>()
            .gives("audio/ogg"),
        Route::post("/v1/voicemails/{id}/heard", "hearVoicemail", "Note that it was heard; all devices show it", heard)
            .returns::<VoicemailView>(),
        Route::post("/v1/voicemails/{id}/delete", "deleteVoicemail", "Take it off this device; it counts as heard", delete)
            .returns::<VoicemailView>(),
    ]
}

async fn list(State(state): State<ApiState>, UrlQuery(options): UrlQuery<VoicemailListOptions>) -> Answer<VoicemailList> {
    Ok(Json(state.node.voicemail().list(options).await?))
}

async fn leave(State(state): State<ApiState>, JsonBody(request): JsonBody<VoicemailRequest>) -> Answer<VoicemailLeft> {
    must_be_absolute(&request.path)?;
    Ok(Json(state.node.voicemail().leave(&request.to, &request.path, request.call_id.as_deref()).await?))
}

async fn get(State(state): State<ApiState>, PathPart(id): PathPart) -> Answer<VoicemailView> {
    Ok(Json(state.node.voicemail().get(&id).await?))
}

async fn audio(
    State(state): State<ApiState>,
    PathPart(id): PathPart,
    UrlQuery(query): UrlQuery<AudioQuery>,
) -> Result<Response, Refusal> {
    let voicemail = state.node.voicemail();
    let (kind, bytes) = match query.format {
        AudioForm::Ogg => ("audio/ogg", voicemail.audio(&id).await?),
        AudioForm::Wav => ("audio/wav", voicemail.wav(&id).await?),
    };
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static(kind))], bytes).into_response())
}

async fn heard(State(state): State<ApiState>, PathPart(id): PathPart) -> Answer<VoicemailView> {
    Ok(Json(state.node.voicemail().mark_heard(&id).await?))
}

async fn delete(State(state): State<ApiState>, PathPart(id): PathPart) -> Answer<VoicemailView> {
    Ok(Json(state.node.voicemail().delete(&id).await?))
}
