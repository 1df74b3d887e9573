//! An OpenID Connect provider as a linked system: it says who somebody is by a signed token that travels (`halloo_protocol::linked::ProviderToken`).
//!
//! 1. *Login* ([`login`]): the user's browser, here or elsewhere, shows the provider who they are; the node gets the token, and with it the account.
//! 2. *Keys* ([`follow_keys`]): those of every provider whose word is taken are fetched now and then, and kept when the provider is gone.
//! 3. *Contacts* ([`contacts`]): where the provider has an interface for them, they are asked for in pages and compared now and then ([`account`]).
//!
//! There is no place at a provider where an owner could show something, so nothing is looked at.

mod account;
mod contacts;
mod login;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use halloo_protocol::linked::{LinkedId, ProviderKey, System};
use halloo_protocol::time::UnixTime;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc};
use tracing::debug;
use zeroize::Zeroizing;

pub(super) use self::account::{OidcAccount, OidcParams};
pub(super) use self::login::{LoggedIn, LoginParams, login};
use super::http::{Asked, Http, encoded};
use super::system::LinkedError;
use crate::event_loop::Internal;

/// Longest document of a provider.
pub(super) const DOCUMENT_BYTES_MAX: usize = 256 * 1_024;

/// How often a provider's keys are fetched, and again when that failed, or when a token names one that isn't known.
const KEYS_EVERY: Duration = Duration::from_secs(3_600);
const KEYS_AGAIN: Duration = Duration::from_secs(60);

/// Keys read of one document.
const JWKS_MAX: usize = 64;

/// What a provider says of itself (Discovery 1.0 section 3), as far as it matters.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Discovery {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
    device_authorization_endpoint: Option<String>,
    /// Whether answers name the issuer (RFC 9207).
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
    #[serde(default)]
    scopes_supported: Vec<String>,
}

#[derive(Deserialize)]
struct Jwks {
    keys: Vec<serde_json::Value>,
}

/// The application that the node is at a provider.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct ClientId {
    pub(super) id: String,
    pub(super) secret: Option<String>,
}

impl std::fmt::Debug for ClientId {
    /// Leaves out what is secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ClientId").field(&self.id).finish()
    }
}

/// A provider, and how it is spoken to.
#[derive(Clone, Debug)]
pub(super) struct Provider {
    pub(super) issuer: String,
    pub(super) http: Http,
}

/// What a token endpoint gives (RFC 6749 section 5.1).
#[derive(Deserialize)]
pub(super) struct Tokens {
    access_token: String,
    id_token: Option<String>,
    refresh_token: Option<String>,
    expires_in: Option<u64>,
}

impl Provider {
    pub(super) fn new(issuer: &str, roots: Option<PathBuf>) -> Result<Self, String> {
        // As an identity has it, so that what is linked can be named.
        LinkedId::new(System::Oidc, &format!("{issuer}#x")).map_err(|_| "an issuer is an https:// address")?;
        Ok(Self { issuer: issuer.to_owned(), http: Http::new(roots.as_deref())? })
    }

    /// What it says of itself. Another issuer's word isn't taken: it could have been put there.
    pub(super) async fn discover(&self) -> Result<Discovery, LinkedError> {
        let url = format!("{}/.well-known/openid-configuration", self.issuer.trim_end_matches('/'));
        let asked = Asked { bytes_max: DOCUMENT_BYTES_MAX, ..Asked::default() };
        let discovery: Discovery = self.http.json("discovery", &url, asked).await?;
        if discovery.issuer != self.issuer {
            return Err(LinkedError::Protocol("its discovery document is of another issuer"));
        }
        Ok(discovery)
    }

    pub(super) async fn keys(&self, discovery: &Discovery, now: UnixTime) -> Result<Vec<ProviderKey>, LinkedError> {
        let asked = Asked { bytes_max: DOCUMENT_BYTES_MAX, ..Asked::default() };
        let jwks: Jwks = self.http.json("its keys", &discovery.jwks_uri, asked).await?;
        let keys: Vec<_> = jwks.keys.iter().take(JWKS_MAX).filter_map(|jwk| ProviderKey::of_jwk(jwk, now)).collect();
        if keys.is_empty() {
            return Err(LinkedError::Protocol("it has no key of a kind that is known here (RS256, ES256, EdDSA)"));
        }
        Ok(keys)
    }

    /// Asks for tokens.
    pub(super) async fn tokens(
        &self,
        what: &'static str,
        discovery: &Discovery,
        client: &ClientId,
        pairs: &[(&str, &str)],
    ) -> Result<Tokens, LinkedError> {
        let form = [pairs, &[("client_id", client.id.as_str())]].concat();
        let authorization = client.authorization();
        let asked = Asked {
            form: Some(&form),
            authorization: authorization.as_ref().map(|text| text.as_str()),
            bytes_max: DOCUMENT_BYTES_MAX,
            ..Asked::default()
        };
        self.http.json(what, &discovery.token_endpoint, asked).await
    }
}

impl ClientId {
    /// `client_secret_basic` (RFC 6749 section 2.3.1), for those that have a secret.
    fn authorization(&self) -> Option<Zeroizing<String>> {
        let secret = self.secret.as_ref()?;
        let pair = Zeroizing::new(format!("{}:{}", encoded(&self.id), encoded(secret)));
        Some(Zeroizing::new(format!("Basic {}", data_encoding::BASE64.encode(pair.as_bytes()))))
    }
}

/// The keys that a provider has.
#[derive(Debug)]
pub(crate) struct KeysNews {
    pub(super) issuer: String,
    pub(super) keys: Vec<ProviderKey>,
}

/// Fetches a provider's keys now and then, and when asked to, until the node ends. When they were seen is for who hears of them to say.
pub(super) async fn follow_keys(provider: Provider, asked: Arc<Notify>, news: mpsc::Sender<Internal>) {
    loop {
        let fetched = async {
            let discovery = provider.discover().await?;
            provider.keys(&discovery, UnixTime(0)).await
        };
        let fetched: Result<_, LinkedError> = tokio::select! {
            () = news.closed() => return,
            fetched = fetched => fetched,
        };
        let pause = match fetched {
            Ok(keys) => {
                let told = KeysNews { issuer: provider.issuer.clone(), keys };
                if news.send(Internal::LinkedLogin(Box::new(super::logins::LoginNews::Keys(told)))).await.is_err() {
                    return;
                }
                KEYS_EVERY
            }
            Err(error) => {
                debug!(issuer = provider.issuer, %error, "its keys aren't fetched");
                KEYS_AGAIN * 5
            }
        };
        // However often it is asked for: a minute lies between.
        tokio::select! {
            () = news.closed() => return,
            () = tokio::time::sleep(KEYS_AGAIN) => {}
        }
        tokio::select! {
            () = news.closed() => return,
            () = asked.notified() => {}
            () = tokio::time::sleep(pause.saturating_sub(KEYS_AGAIN)) => {}
        }
    }
}
