//! `/v1/contacts`, `/v1/profile`, `/v1/privacy`.

use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ApiState;
use super::extract::{Answer, JsonBody, PathPart, Refusal};
use super::route::Route;
use crate::handle::contacts::{
    AvatarView, ContactBook, ContactChange, ContactImport, ContactInvite, ContactList, ContactView, Fingerprint, Privacy,
    PrivacyChange, ProfileChange, ProfileView,
};
use crate::handle::problem::ProblemKind;

/// Somebody to ask.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ContactRequestBody {
    /// Whom: `name@authority`, or a contact link.
    pub(crate) user: String,
    /// A few words that go with the request, at most 280 bytes.
    #[serde(default)]
    pub(crate) text: String,
}

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/v1/contacts", "listContacts", "Everybody who is something to this user", list).returns::<ContactList>(),
        Route::post("/v1/contacts", "addContact", "Ask somebody to be a contact; accepts if they have asked", add)
            .body::<ContactRequestBody>()
            .returns::<ContactView>(),
        Route::get("/v1/contacts/{user}", "getContact", "Somebody in the list", get).returns::<ContactView>(),
        Route::get("/v1/contacts/{user}/avatar", "contactAvatar", "A contact's picture", avatar).returns::<AvatarView>(),
        Route::get("/v1/contacts/{user}/fingerprint", "contactFingerprint", "The number to compare with somebody", fingerprint)
            .returns::<Fingerprint>(),
        Route::post(
            "/v1/contacts/{user}/{change}",
            "changeContact",
            "change: accept, decline, remove, block, unblock, accept-identity",
            change,
        )
        .returns::<ContactView>(),
        Route::get("/v1/contact-link", "contactLink", "What others add this user by", invite).returns::<ContactInvite>(),
        Route::get("/v1/contact-book", "exportContacts", "The list as links", export).returns::<ContactBook>(),
        Route::post("/v1/contact-book", "importContacts", "Add everybody in a list", import)
            .body::<ContactBook>()
            .returns::<ContactImport>(),
        Route::get("/v1/profile", "getProfile", "The own profile", profile).returns::<ProfileView>(),
        Route::post("/v1/profile", "setProfile", "Change the own profile; what isn't named stays", set_profile)
            .body::<ProfileChange>()
            .returns::<ProfileView>(),
        Route::get("/v1/privacy", "getPrivacy", "Who may do what", privacy).returns::<Privacy>(),
        Route::post("/v1/privacy", "setPrivacy", "Change who may do what; what isn't named stays", set_privacy)
            .body::<PrivacyChange>()
            .returns::<Privacy>(),
    ]
}

async fn list(State(state): State<ApiState>) -> Answer<ContactList> {
    Ok(Json(state.node.contacts().list().await?))
}

async fn add(State(state): State<ApiState>, JsonBody(request): JsonBody<ContactRequestBody>) -> Answer<ContactView> {
    Ok(Json(state.node.contacts().add(&request.user, &request.text).await?))
}

async fn get(State(state): State<ApiState>, PathPart(user): PathPart) -> Answer<ContactView> {
    Ok(Json(state.node.contacts().get(&user).await?))
}

async fn avatar(State(state): State<ApiState>, PathPart(user): PathPart) -> Answer<AvatarView> {
    Ok(Json(state.node.contacts().avatar(&user).await?))
}

async fn fingerprint(State(state): State<ApiState>, PathPart(user): PathPart) -> Answer<Fingerprint> {
    Ok(Json(state.node.contacts().fingerprint(&user).await?))
}

async fn change(
    State(state): State<ApiState>,
    axum::extract::Path((user, change)): axum::extract::Path<(String, String)>,
) -> Answer<ContactView> {
    let change = match change.as_str() {
        "accept" => ContactChange::Accept,
        "decline" => ContactChange::Decline,
        "remove" => ContactChange::Remove,
        "block" => ContactChange::Block,
        "unblock" => ContactChange::Unblock,
        "accept-identity" => ContactChange::AcceptIdentity,
        other => {
            let detail = format!("nothing called {other:?} can be done with a contact");
            return Err(Refusal::new(ProblemKind::NotFound, detail));
        }
    };
    Ok(Json(state.node.contacts().change(&user, change).await?))
}

async fn invite(State(state): State<ApiState>) -> Answer<ContactInvite> {
    Ok(Json(state.node.contacts().invite().await?))
}

async fn export(State(state): State<ApiState>) -> Answer<ContactBook> {
    Ok(Json(state.node.contacts().export().await?))
}

async fn import(State(state): State<ApiState>, JsonBody(book): JsonBody<ContactBook>) -> Answer<ContactImport> {
    Ok(Json(state.node.contacts().import(book).await?))
}

async fn profile(State(state): State<ApiState>) -> Answer<ProfileView> {
    Ok(Json(state.node.contacts().profile().await?))
}

async fn set_profile(State(state): State<ApiState>, JsonBody(change): JsonBody<ProfileChange>) -> Answer<ProfileView> {
    Ok(Json(state.node.contacts().set_profile(change).await?))
}

async fn privacy(State(state): State<ApiState>) -> Answer<Privacy> {
    Ok(Json(state.node.contacts().privacy().await?))
}

async fn set_privacy(State(state): State<ApiState>, JsonBody(change): JsonBody<PrivacyChange>) -> Answer<Privacy> {
    Ok(Json(state.node.contacts().set_privacy(change).await?))
}
