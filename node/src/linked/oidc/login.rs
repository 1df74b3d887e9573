//! Logging in: the authorisation code with PKCE and an address of this machine to come back to (RFC 6749, 7636, 8252), or a code that is typed on another
//! machine (RFC 8628).

use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use halloo_protocol::identity::UserId;
use halloo_protocol::key::IdentityKey;
use halloo_protocol::linked::{ProviderKey, ProviderToken, nonce_for};
use halloo_protocol::time::UnixTime;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::super::http::{Asked, form, parse_form};
use super::super::system::LinkedError;
use super::{ClientId, DOCUMENT_BYTES_MAX, Discovery, Provider, Tokens};
use crate::key_file;

/// How long a login is waited for.
pub(super) const LOGIN_AT_MOST: Duration = Duration::from_secs(600);

/// Longest request of a browser that comes back, and how long it may take.
const REQUEST_BYTES_MAX: usize = 16 * 1_024;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Requests looked at for the one that counts: anything on this machine can make some.
const REQUESTS_MAX: usize = 64;

/// How often the provider is asked whether the code was typed, unless it says otherwise, and what is added when it wants to be asked more rarely (RFC 8628 section 3.5).
const DEVICE_INTERVAL_SECS: u64 = 5;
const DEVICE_INTERVAL_SECS_MAX: u64 = 60;

/// Who logs in, and how.
#[derive(Clone, Debug)]
pub(crate) struct LoginParams {
    pub(in super::super) provider: Provider,
    pub(in super::super) client: ClientId,
    pub(in super::super) scopes: Vec<String>,
    /// On another machine.
    pub(in super::super) is_device: bool,
    pub(in super::super) user: UserId,
    pub(in super::super) identity: IdentityKey,
    pub(in super::super) now: UnixTime,
}

/// Where the user logs in.
#[derive(Debug)]
pub(crate) struct Started {
    /// What is opened in a browser.
    pub(in super::super) url: String,
    /// What is typed there.
    pub(in super::super) user_code: Option<String>,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct LoggedIn {
    pub(in super::super) token: ProviderToken,
    pub(in super::super) refresh_token: Option<String>,
    pub(in super::super) keys: Vec<ProviderKey>,
}

/// What a provider answers to who wants to log in elsewhere (RFC 8628 section 3.2).
#[derive(Deserialize)]
struct DeviceAnswer {
    device_code: String,
    user_code: String,
    verification_uri: String,
    verification_uri_complete: Option<String>,
    expires_in: u64,
    interval: Option<u64>,
}

/// A login, from the first question to the token. `started` hears where the user goes.
pub(crate) async fn login(
    params: LoginParams,
    started: oneshot::Sender<Result<Started, LinkedError>>,
) -> Result<LoggedIn, LinkedError> {
    let prepared = async {
        let discovery = params.provider.discover().await?;
        let keys = params.provider.keys(&discovery, params.now).await?;
        Ok::<_, LinkedError>((discovery, keys, random::<16>()?))
    };
    let (discovery, keys, salt) = match prepared.await {
        Ok(prepared) => prepared,
        Err(error) => {
            let reason = error.to_string();
            // Nobody waits any more: then nobody is to hear.
            let _gone = started.send(Err(error));
            return Err(LinkedError::Refused { what: "the login", reason });
        }
    };
    let nonce = nonce_for(&params.user, &params.identity, &salt);
    let tokens = if params.is_device {
        by_device(&params, &discovery, &nonce, started).await?
    } else {
        by_browser(&params, &discovery, &nonce, started).await?
    };
    let text = tokens.id_token.ok_or(LinkedError::Protocol("it gives no ID token"))?;
    let token = ProviderToken::of_jwt(&text, salt);
    let token = token.map_err(|_| LinkedError::Protocol("its ID token is too long, or can't be read"))?;
    Ok(LoggedIn { token, refresh_token: tokens.refresh_token, keys })
}

impl LoginParams {
    fn scope(&self, discovery: &Discovery) -> String {
        let offline = discovery.scopes_supported.iter().filter(|scope| *scope == "offline_access").map(String::as_str);
        std::iter::once("openid").chain(offline).chain(self.scopes.iter().map(String::as_str)).collect::<Vec<_>>().join(" ")
    }
}

fn random<const N: usize>() -> Result<[u8; N], LinkedError> {
    key_file::random_bytes().map_err(|_| LinkedError::Protocol("no random bytes"))
}

// On this machine.

async fn by_browser(
    params: &LoginParams,
    discovery: &Discovery,
    nonce: &str,
    started: oneshot::Sender<Result<Started, LinkedError>>,
) -> Result<Tokens, LinkedError> {
    // Whoever else is on this machine can connect, and can't answer: they don't know the state.
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let redirect = format!("http://127.0.0.1:{}/callback", listener.local_addr()?.port());
    let (state, verifier) = (BASE64URL_NOPAD.encode(&random::<24>()?), BASE64URL_NOPAD.encode(&random::<32>()?));
    let url = authorization_url(params, discovery, nonce, &redirect, (&state, &verifier));
    if started.send(Ok(Started { url, user_code: None })).is_err() {
        return Err(LinkedError::Protocol("nobody waits for it"));
    }
    let code = timeout(LOGIN_AT_MOST, callback(&listener, discovery, &state));
    let code = code.await.map_err(|_elapsed| LinkedError::Protocol("nobody has logged in within 10 minutes"))??;
    drop(listener);
    let pairs = [
        ("grant_type", "authorization_code"),
        ("code", code.as_str()),
        ("redirect_uri", redirect.as_str()),
        ("code_verifier", verifier.as_str()),
    ];
    params.provider.tokens("the login", discovery, &params.client, &pairs).await
}

fn authorization_url(
    params: &LoginParams,
    discovery: &Discovery,
    nonce: &str,
    redirect: &str,
    (state, verifier): (&str, &str),
) -> String {
    let challenge = BASE64URL_NOPAD.encode(&Sha256::digest(verifier.as_bytes()));
    let scope = params.scope(discovery);
    let mut pairs = vec![
        ("response_type", "code"),
        ("client_id", params.client.id.as_str()),
        ("redirect_uri", redirect),
        ("scope", scope.as_str()),
        ("state", state),
        ("nonce", nonce),
        ("code_challenge", challenge.as_str()),
        ("code_challenge_method", "S256"),
    ];
    if scope.contains("offline_access") {
        // Asked for again each time (Core 1.0 section 11).
        pairs.push(("prompt", "consent"));
    }
    let endpoint = &discovery.authorization_endpoint;
    let joint = if endpoint.contains('?') { '&' } else { '?' };
    format!("{endpoint}{joint}{}", form(&pairs))
}

/// The code with which the browser comes back.
async fn callback(listener: &TcpListener, discovery: &Discovery, state: &str) -> Result<String, LinkedError> {
    for _ in 0..REQUESTS_MAX {
        let (mut stream, _) = listener.accept().await?;
        let Ok(Some(query)) = timeout(REQUEST_TIMEOUT, query_of(&mut stream)).await else { continue };
        let taken = read_callback(&query, discovery, state);
        let (status, text) = match &taken {
            None => ("404 Not Found", "This isn't the login that is waited for."),
            Some(Ok(_)) => ("200 OK", "You are logged in. This window can be closed."),
            Some(Err(_)) => ("200 OK", "The login was refused. This window can be closed."),
        };
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
            text.len()
        );
        // A browser that is gone has nothing to read.
        let _gone = timeout(REQUEST_TIMEOUT, stream.write_all(answer.as_bytes())).await;
        if let Some(taken) = taken {
            return taken;
        }
    }
    Err(LinkedError::Protocol("too many requests came that weren't the login"))
}

/// What comes back, if it belongs to this login.
fn read_callback(query: &str, discovery: &Discovery, state: &str) -> Option<Result<String, LinkedError>> {
    let pairs = parse_form(query);
    let find = |name: &str| pairs.iter().find(|(found, _)| found == name).map(|(_, value)| value.clone());
    if find("state").as_deref() != Some(state) {
        return None;
    }
    // Another provider's answer (RFC 9207 section 2.4).
    let named = find("iss");
    let is_unnamed = named.is_none() && discovery.authorization_response_iss_parameter_supported;
    if is_unnamed || named.is_some_and(|issuer| issuer != discovery.issuer) {
        return Some(Err(LinkedError::Protocol("the answer is of another provider")));
    }
    if let Some(error) = find("error") {
        let reason = error.chars().filter(|c| c.is_ascii_graphic()).take(64).collect();
        return Some(Err(LinkedError::Refused { what: "the login", reason }));
    }
    find("code").map(Ok)
}

/// The query of a request for `/callback`.
async fn query_of(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    while !bytes.windows(4).any(|four| four == b"\r\n\r\n") {
        let mut chunk = [0; 2_048];
        let length = stream.read(&mut chunk).await.ok().filter(|&length| length > 0)?;
        bytes.extend_from_slice(chunk.get(..length)?);
        if bytes.len() > REQUEST_BYTES_MAX {
            return None;
        }
    }
    let text = String::from_utf8(bytes).ok()?;
    let target = text.strip_prefix("GET ")?.split(' ').next()?;
    target.strip_prefix("/callback?").map(str::to_owned)
}

// On another machine.

async fn by_device(
    params: &LoginParams,
    discovery: &Discovery,
    nonce: &str,
    started: oneshot::Sender<Result<Started, LinkedError>>,
) -> Result<Tokens, LinkedError> {
    let begun = match begin_device(params, discovery, nonce).await {
        Ok(begun) => begun,
        Err(error) => {
            let reason = error.to_string();
            let _gone = started.send(Err(error));
            return Err(LinkedError::Refused { what: "the login", reason });
        }
    };
    let until = Instant::now() + LOGIN_AT_MOST.min(Duration::from_secs(begun.expires_in));
    let url = begun.verification_uri_complete.unwrap_or(begun.verification_uri);
    if started.send(Ok(Started { url, user_code: Some(begun.user_code) })).is_err() {
        return Err(LinkedError::Protocol("nobody waits for it"));
    }
    let polled = timeout_at(until, poll_device(params, discovery, &begun.device_code, begun.interval)).await;
    polled.map_err(|_elapsed| LinkedError::Protocol("nobody has logged in while the code counted"))?
}

async fn begin_device(params: &LoginParams, discovery: &Discovery, nonce: &str) -> Result<DeviceAnswer, LinkedError> {
    let endpoint = discovery.device_authorization_endpoint.as_ref();
    let endpoint = endpoint.ok_or(LinkedError::Protocol("it offers no login on another machine"))?;
    let scope = params.scope(discovery);
    // The nonce isn't in RFC 8628; providers that pass on what they know of the request take it. One that doesn't is found out by the token.
    let pairs = [("client_id", params.client.id.as_str()), ("scope", scope.as_str()), ("nonce", nonce)];
    let authorization = params.client.authorization();
    let asked = Asked {
        form: Some(&pairs),
        authorization: authorization.as_ref().map(|text| text.as_str()),
        bytes_max: DOCUMENT_BYTES_MAX,
        ..Asked::default()
    };
    params.provider.http.json("the login", endpoint, asked).await
}

async fn poll_device(
    params: &LoginParams,
    discovery: &Discovery,
    device_code: &str,
    interval: Option<u64>,
) -> Result<Tokens, LinkedError> {
    let mut secs = interval.unwrap_or(DEVICE_INTERVAL_SECS).clamp(1, DEVICE_INTERVAL_SECS_MAX);
    let pairs = [
        ("grant_type", "urn:ietf:params:oauth:grant-type:device_code"),
        ("device_code", device_code),
        ("client_id", params.client.id.as_str()),
    ];
    let authorization = params.client.authorization();
    loop {
        sleep(Duration::from_secs(secs)).await;
        let asked = Asked {
            form: Some(&pairs),
            authorization: authorization.as_ref().map(|text| text.as_str()),
            bytes_max: DOCUMENT_BYTES_MAX,
            ..Asked::default()
        };
        let answer = match params.provider.http.ask(&discovery.token_endpoint, asked).await {
            Ok(answer) => answer,
            // A network that is away for a moment ends no login (RFC 8628 section 3.5).
            Err(LinkedError::Timeout | LinkedError::Io(_)) => continue,
            Err(error) => return Err(error),
        };
        if answer.status.is_success() {
            return serde_json::from_slice(&answer.body).map_err(|_| LinkedError::Protocol("its tokens can't be read"));
        }
        match answer.error_code().as_deref() {
            Some("authorization_pending") => {}
            Some("slow_down") => secs = (secs + DEVICE_INTERVAL_SECS).min(DEVICE_INTERVAL_SECS_MAX),
            _ => return Err(answer.refused("the login")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::http::encoded;
    use super::*;

    fn discovery() -> Discovery {
        serde_json::from_value(serde_json::json!({
            "issuer": "https://id.example",
            "authorization_endpoint": "https://id.example/auth",
            "token_endpoint": "https://id.example/token",
            "jwks_uri": "https://id.example/jwks",
            "authorization_response_iss_parameter_supported": true,
            "scopes_supported": ["openid", "offline_access"],
        }))
        .expect("a document")
    }

    #[test]
    fn what_comes_back_belongs_to_the_login_or_to_none() {
        let read = |query: &str| read_callback(query, &discovery(), "s1").map(|taken| taken.map_err(|error| error.to_string()));
        let issuer = encoded("https://id.example");
        assert_eq!(read(&format!("code=c%2B1&state=s1&iss={issuer}")), Some(Ok("c+1".to_owned())));
        assert_eq!(read(&format!("code=c&state=s2&iss={issuer}")), None, "somebody else's");
        assert_eq!(read("code=c"), None);
        assert!(matches!(read("code=c&state=s1"), Some(Err(_))), "it says that it names itself");
        assert!(matches!(read("code=c&state=s1&iss=https%3A%2F%2Fevil.example"), Some(Err(_))));
        let refused = read(&format!("error=access_denied&state=s1&iss={issuer}"));
        assert_eq!(refused, Some(Err("it has refused the login: access_denied".to_owned())));
    }
}
