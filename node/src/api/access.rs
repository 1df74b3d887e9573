//! Who may use the API.
//!
//! On a Unix socket the file mode has decided already; on TCP the token decides. In both
//! cases requests that a web page could have caused are refused first: those that carry a
//! foreign `Origin`, and those whose `Host` isn't this machine (DNS rebinding).

use std::net::{IpAddr, SocketAddr};

use axum::http::uri::Authority;
use axum::http::{HeaderMap, Uri, header};
use sha2::{Digest, Sha256};

use super::extract::Refusal;
use crate::handle::problem::ProblemKind;

/// The rule of one listener.
#[derive(Debug)]
pub(super) enum Access {
    /// A Unix socket.
    Unix,
    /// TCP.
    Tcp {
        /// Where it listens, with the real port.
        address: SocketAddr,
        /// SHA-256 of the token: comparing digests tells nothing about the token by its time.
        token_digest: [u8; 32],
    },
}

impl Access {
    pub(super) fn tcp(address: SocketAddr, token: &str) -> Self {
        Self::Tcp { address, token_digest: digest(token) }
    }

    /// Refuses foreign hosts and origins with 403, missing or wrong tokens with 401.
    pub(super) fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Refusal> {
        self.check_host(uri, headers)?;
        self.check_origin(headers)?;
        self.check_token(uri, headers)
    }

    fn check_host(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Refusal> {
        // RFC 9112 section 3.2: exactly one Host; with an absolute URI both must be ours.
        let mut hosts = headers.get_all(header::HOST).iter();
        let host = hosts.next().and_then(|value| value.to_str().ok());
        let ours = host.is_some_and(|host| self.is_own_host(host)) && hosts.next().is_none();
        let uri_ours = uri.authority().is_none_or(|authority| self.is_own_host(authority.as_str()));
        if ours && uri_ours {
            return Ok(());
        }
        let host = host.unwrap_or("(none)");
        Err(Refusal::new(ProblemKind::Forbidden, format!("Host {host:?} is not this node")))
    }

    fn is_own_host(&self, host: &str) -> bool {
        let Ok(authority) = host.parse::<Authority>() else {
            return false;
        };
        let name = authority.host().trim_start_matches('[').trim_end_matches(']');
        let ip = name.parse::<IpAddr>();
        match self {
            // No browser can reach a Unix socket, and clients invent a host. What has a dot
            // came from somewhere else.
            Self::Unix => ip.is_ok() || !name.contains('.'),
            Self::Tcp { address, .. } => {
                let is_port = authority.port_u16().unwrap_or(80) == address.port();
                let is_name = match ip {
                    Ok(ip) => address.ip().is_unspecified() || ip == address.ip(),
                    Err(_) => name.eq_ignore_ascii_case("localhost"),
                };
                is_port && is_name && !authority.as_str().contains('@')
            }
        }
    }

    fn check_origin(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let is_own = headers.get_all(header::ORIGIN).iter().all(|origin| {
            let host = origin.to_str().ok().and_then(|origin| origin.strip_prefix("http://"));
            matches!(self, Self::Tcp { .. }) && host.is_some_and(|host| self.is_own_host(host))
        });
        if is_own {
            return Ok(());
        }
        Err(Refusal::new(ProblemKind::Forbidden, "requests of web pages are refused"))
    }

    fn check_token(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Refusal> {
        let Self::Tcp { token_digest, .. } = self else {
            return Ok(());
        };
        // The page and its parts hold no data; it asks its user for the token.
        if super::page::PATHS.contains(&uri.path()) {
            return Ok(());
        }
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let token = values.next().and_then(|value| value.to_str().ok()).and_then(bearer);
        let is_right = token.is_some_and(|token| digest(token) == *token_digest);
        if is_right && values.next().is_none() {
            return Ok(());
        }
        let detail = "send Authorization: Bearer with the token from api-token in the home";
        Err(Refusal::new(ProblemKind::Unauthorized, detail))
    }
}

/// The token of an `Authorization` value (RFC 6750 section 2.1); the scheme has no case.
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    const TOKEN: &str = "right";

    fn status(access: &Access, path: &str, headers: &[(&'static str, &str)]) -> u16 {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).expect("a value"));
        }
        let uri: Uri = path.parse().expect("a path");
        access.check(&uri, &map).map_or_else(|refusal| refusal.0.status, |()| 200)
    }

    #[test]
    fn tcp_wants_own_host_own_origin_and_the_token() {
        let access = Access::tcp("127.0.0.1:8790".parse().expect("an address"), TOKEN);
        let host = ("host", "127.0.0.1:8790");
        let token = ("authorization", "Bearer right");
        for (expected, path, headers) in [
            (200, "/v1/status", vec![host, token]),
            (200, "/v1/status", vec![("host", "localhost:8790"), token]),
            (200, "/v1/status", vec![host, ("authorization", "bEARER right")]),
            (200, "/v1/status", vec![host, token, ("origin", "http://127.0.0.1:8790")]),
            (200, "/", vec![host]),
            (401, "/v1/status", vec![host]),
            (401, "//", vec![host]),
            (401, "/v1/status", vec![host, ("authorization", "Bearer wrong")]),
            (401, "/v1/status", vec![host, ("authorization", "Bearer ")]),
            (401, "/v1/status", vec![host, ("authorization", "Basic right")]),
            (401, "/v1/status", vec![host, token, token]),
            (403, "/v1/status", vec![token]),
            (403, "/v1/status", vec![host, host, token]),
            (403, "/v1/status", vec![("host", "127.0.0.1:80"), token]),
            (403, "/v1/status", vec![("host", "127.0.0.2:8790"), token]),
            (403, "/v1/status", vec![("host", "localhost.evil.example:8790"), token]),
            (403, "/v1/status", vec![("host", "x@127.0.0.1:8790"), token]),
            (403, "/", vec![("host", "evil.example:8790")]),
            (403, "http://evil.example/v1/status", vec![host, token]),
            (403, "/v1/status", vec![host, token, ("origin", "http://evil.example")]),
            (403, "/v1/status", vec![host, token, ("origin", "https://127.0.0.1:8790")]),
            (403, "/v1/status", vec![host, token, ("origin", "null")]),
            (403, "/v1/status", vec![host, ("origin", "http://evil.example")]),
        ] {
            assert_eq!(status(&access, path, &headers), expected, "{path} {headers:?}");
        }
    }

    #[test]
    fn a_wildcard_listener_takes_addresses_and_no_names() {
        let access = Access::tcp("[::]:8790".parse().expect("an address"), TOKEN);
        let token = ("authorization", "Bearer right");
        for (expected, host) in [(200, "192.0.2.1:8790"), (200, "[2001:db8::1]:8790"), (403, "node.example:8790")] {
            assert_eq!(status(&access, "/v1/status", &[("host", host), token]), expected, "{host}");
        }
    }

    #[test]
    fn a_unix_socket_wants_no_token_and_no_page() {
        for (expected, headers) in [
            (200, vec![("host", "localhost")]),
            (200, vec![("host", "halloo")]),
            (403, vec![("host", "evil.example")]),
            (403, vec![("host", "localhost"), ("origin", "http://localhost")]),
            (403, vec![("host", "localhost"), ("origin", "null")]),
            (403, vec![]),
        ] {
            assert_eq!(status(&Access::Unix, "/v1/status", &headers), expected, "{headers:?}");
        }
    }
}
