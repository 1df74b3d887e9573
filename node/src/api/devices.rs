//! `/v1/devices`.

use std::fmt;

use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::ApiState;
use super::extract::{Answer, JsonBody, PathPart};
use super::route::Route;
use crate::daemon::Phrase;
use crate::handle::choice::{AttributesReport, UsageReport};
use crate::handle::devices::{DeviceList, DeviceRevocation, DeviceView, LinkOffer, LinkOptions, LinkedDevice, RevokeOptions};

/// Another name for a device.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RenameRequest {
    /// The name; at most 64 bytes.
    pub(crate) name: String,
}

/// How a device is to be removed.
#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RevokeDeviceRequest {
    /// The 24 words, where the identity key isn't on this device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) recovery_phrase: Option<String>,
}

impl fmt::Debug for RevokeDeviceRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RevokeDeviceRequest(..)")
    }
}

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/v1/devices", "listDevices", "The user's devices", list).returns::<DeviceList>(),
        Route::post("/v1/devices/link", "offerLink", "Open a code by which one new device can be linked", offer)
            .body::<LinkOptions>()
            .returns::<LinkOffer>(),
        Route::post(
            "/v1/devices/link/{id}/wait",
            "waitLink",
            "Answers when a device is linked, or none can be. Closing the connection takes the code back",
            wait,
        )
        .returns::<LinkedDevice>()
        .lasts(),
        Route::post("/v1/devices/usage", "reportUsage", "Say whether this device is in use, and how near its user is", usage)
            .body::<UsageReport>()
            .returns::<DeviceView>(),
        Route::post("/v1/devices/attributes", "setAttributes", "Say what this device can do; what is absent stays", attributes)
            .body::<AttributesReport>()
            .returns::<DeviceView>(),
        Route::post(
            "/v1/devices/{device}/rename",
            "renameDevice",
            "Give a device another name; device: its name or peer id",
            rename,
        )
        .body::<RenameRequest>()
        .returns::<DeviceView>(),
        Route::post(
            "/v1/devices/{device}/revoke",
            "revokeDevice",
            "Remove a device for good; device: its name or peer id",
            revoke,
        )
        .body::<RevokeDeviceRequest>()
        .returns::<DeviceRevocation>(),
    ]
}

async fn list(State(state): State<ApiState>) -> Answer<DeviceList> {
    Ok(Json(state.node.devices().list().await?))
}

async fn offer(State(state): State<ApiState>, JsonBody(options): JsonBody<LinkOptions>) -> Answer<LinkOffer> {
    Ok(Json(state.node.devices().offer_link(options).await?))
}

async fn wait(State(state): State<ApiState>, PathPart(id): PathPart) -> Answer<LinkedDevice> {
    Ok(Json(state.node.devices().wait_link(&id).await?))
}

async fn usage(State(state): State<ApiState>, JsonBody(report): JsonBody<UsageReport>) -> Answer<DeviceView> {
    Ok(Json(state.node.devices().report_usage(report).await?))
}

async fn attributes(State(state): State<ApiState>, JsonBody(attributes): JsonBody<AttributesReport>) -> Answer<DeviceView> {
    Ok(Json(state.node.devices().set_attributes(attributes).await?))
}

async fn rename(
    State(state): State<ApiState>,
    PathPart(device): PathPart,
    JsonBody(request): JsonBody<RenameRequest>,
) -> Answer<DeviceView> {
    Ok(Json(state.node.devices().rename(&device, &request.name).await?))
}

async fn revoke(
    State(state): State<ApiState>,
    PathPart(device): PathPart,
    JsonBody(request): JsonBody<RevokeDeviceRequest>,
) -> Answer<DeviceRevocation> {
    let recovery_phrase = request.recovery_phrase.map(|words| Phrase(Zeroizing::new(words)));
    Ok(Json(state.node.devices().revoke(&device, RevokeOptions { recovery_phrase }).await?))
}
