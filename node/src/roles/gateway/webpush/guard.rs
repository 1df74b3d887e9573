//! Keeps strangers' endpoints from reaching what only this host can reach (server-side request
//! forgery).
//!
//! Two steps, both at the moment of connecting, so that no earlier check can be out of date:
//!
//! 1. the endpoint must be `https` on port 443 or an unprivileged one;
//! 2. each address that its host stands for (a literal, or what the name resolves to for this
//!    very connection) must be public and not our own; the others are never connected to.
//!
//! Nothing resolves the name a second time, so a name server that changes its answer gains
//! nothing. Redirects are not followed by the client. A laboratory switches the guard off.

use std::error::Error;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use std::{io, vec};

use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower_service::Service;

type BoxError = Box<dyn Error + Send + Sync>;
type BoxFuture<T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send>>;

/// Addresses tried of one name. More than a push service's name ever has; a hostile name server
/// gets no more attempts out of us.
const ADDRESSES_MAX: usize = 16;

/// Lowest unprivileged port. Below it is where a host's own services listen; push services run by
/// users (ntfy, autopush) are found above it as well as on 443.
const UNPRIVILEGED_PORT_MIN: u16 = 1_024;

/// Why an endpoint was not connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ForbiddenTarget {
    /// Only `https` protects message and endpoint on their way.
    #[error("endpoint is not https")]
    NotHttps,
    /// Neither 443 nor unprivileged.
    #[error("port {port} is not one of a push service")]
    Port {
        /// The port named.
        port: u16,
    },
    /// Every address of the host is private, loopback, link-local, shared, multicast, reserved,
    /// or this host's own.
    #[error("endpoint has no public address")]
    Address,
}

/// Decides which endpoints may be connected to.
#[derive(Debug, Clone, Copy)]
pub struct AddressGuard {
    lab: bool,
}

impl AddressGuard {
    /// The guard for the public Internet, or, for a laboratory, one that allows everything.
    pub fn new(lab: bool) -> Self {
        Self { lab }
    }

    /// Checks what the URL alone tells: scheme, port, and the address if it is written out.
    /// `own_addresses` are those of this host.
    ///
    /// # Errors
    /// Any [`ForbiddenTarget`].
    pub fn check_url(self, uri: &Uri, own_addresses: &[IpAddr]) -> Result<(), ForbiddenTarget> {
        if self.lab {
            return Ok(());
        }
        if uri.scheme_str() != Some("https") {
            return Err(ForbiddenTarget::NotHttps);
        }
        let port = uri.port_u16().unwrap_or(443);
        if port != 443 && port < UNPRIVILEGED_PORT_MIN {
            return Err(ForbiddenTarget::Port { port });
        }
        match literal_address(uri) {
            Some(address) => self.check_address(address, own_addresses),
            None => Ok(()),
        }
    }

    /// Checks one address.
    ///
    /// # Errors
    /// [`ForbiddenTarget::Address`].
    pub fn check_address(self, address: IpAddr, own_addresses: &[IpAddr]) -> Result<(), ForbiddenTarget> {
        let is_public = match address {
            IpAddr::V4(address) => is_public_v4(address),
            IpAddr::V6(address) => is_public_v6(address),
        };
        if self.lab || (is_public && !own_addresses.contains(&address)) { Ok(()) } else { Err(ForbiddenTarget::Address) }
    }

    /// Addresses of this host's interfaces; none in a laboratory, where they do not matter.
    fn own_addresses(self) -> io::Result<Vec<IpAddr>> {
        if self.lab {
            return Ok(Vec::new());
        }
        let interfaces = if_addrs::get_if_addrs()?;
        Ok(interfaces.iter().map(|interface| interface.ip()).collect())
    }
}

/// The address that the URL's host is, unless it is a name. Other spellings of IPv4 addresses
/// (`127.1`, `0x7f000001`) count as names: the resolver reads them, and its answer is checked.
fn literal_address(uri: &Uri) -> Option<IpAddr> {
    let host = uri.host()?;
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).parse().ok()
}

/// Not in IANA's registry of special-purpose IPv4 addresses (RFC 6890 and later), nor multicast.
fn is_public_v4(address: Ipv4Addr) -> bool {
    !matches!(
        address.octets(),
        [0, ..]                          // this network
            | [10, ..]                   // private
            | [100, 64..=127, ..]        // shared, carrier-grade NAT
            | [127, ..]                  // loopback
            | [169, 254, ..]             // link-local
            | [172, 16..=31, ..]         // private
            | [192, 0, 0, _]             // protocol assignments
            | [192, 0, 2, _]             // documentation
            | [192, 88, 99, _]           // 6to4 relays
            | [192, 168, ..]             // private
            | [198, 18..=19, ..]         // benchmarking
            | [198, 51, 100, _]          // documentation
            | [203, 0, 113, _]           // documentation
            | [224..=255, ..] // multicast, reserved, broadcast
    )
}

/// In 2000::/3, which is all that is assigned as global unicast, and not one of its special parts.
/// That leaves out loopback, unique local, link-local and multicast addresses, and every form
/// with an IPv4 address inside (mapped, compatible, 6to4, Teredo), but for NAT64's well-known
/// prefix: hosts without IPv4 need it, so the address inside is checked.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    match segments {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            let [a, b] = high.to_be_bytes();
            let [c, d] = low.to_be_bytes();
            is_public_v4(Ipv4Addr::new(a, b, c, d))
        }
        [0x2001, 0..=0x1ff, ..] => false, // protocol assignments, Teredo, ORCHID
        [0x2001, 0xdb8, ..] => false,     // documentation
        [0x2002, ..] => false,            // 6to4
        [0x3fff, 0..=0xfff, ..] => false, // documentation
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

/// Resolves a name to the addresses that may be connected to.
#[derive(Debug, Clone)]
pub(crate) struct GuardedResolver {
    guard: AddressGuard,
}

impl Service<Name> for GuardedResolver {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = BoxError;
    type Future = BoxFuture<Self::Response>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let guard = self.guard;
        Box::pin(async move {
            // The connector puts the URL's port in place of this 0.
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let allowed = allowed_addresses(guard, found, &guard.own_addresses()?)?;
            Ok(allowed.into_iter())
        })
    }
}

/// What is left of a name's addresses. A name with a public and a private address is used by the
/// public one; a name with no addresses is left to the connector, which reports it.
fn allowed_addresses(
    guard: AddressGuard,
    found: impl Iterator<Item = SocketAddr>,
    own_addresses: &[IpAddr],
) -> Result<Vec<SocketAddr>, ForbiddenTarget> {
    let found: Vec<_> = found.take(ADDRESSES_MAX).collect();
    let allowed: Vec<_> =
        found.iter().filter(|address| guard.check_address(address.ip(), own_addresses).is_ok()).copied().collect();
    if allowed.is_empty() && !found.is_empty() {
        return Err(ForbiddenTarget::Address);
    }
    Ok(allowed)
}

/// Connects to URLs that pass the guard. It does not matter who calls it with what: the checks are
/// here, next to the socket.
#[derive(Debug, Clone)]
pub(crate) struct GuardedConnector {
    guard: AddressGuard,
    http: HttpConnector<GuardedResolver>,
}

impl GuardedConnector {
    pub(crate) fn new(guard: AddressGuard, connect_timeout: Duration) -> Self {
        let mut http = HttpConnector::new_with_resolver(GuardedResolver { guard });
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(connect_timeout));
        Self { guard, http }
    }

    fn check(&self, uri: &Uri) -> Result<(), BoxError> {
        let own_addresses = self.guard.own_addresses()?;
        self.guard.check_url(uri, &own_addresses)?;
        Ok(())
    }
}

impl Service<Uri> for GuardedConnector {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = BoxFuture<Self::Response>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.http.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        if let Err(error) = self.check(&uri) {
            return Box::pin(async move { Err(error) });
        }
        let connecting = self.http.call(uri);
        Box::pin(async move { Ok(connecting.await?) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLIC: AddressGuard = AddressGuard { lab: false };
    const LAB: AddressGuard = AddressGuard { lab: true };

    #[test]
    fn only_public_addresses_are_allowed() {
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.250",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:8.8.8.8",
            "::127.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::8.8.8.8",
            "100::1",
            "2001::1",
            "2001:1ff::1",
            "2001:db8::1",
            "2002:7f00:1::1",
            "3fff::1",
            "4000::1",
            "5f00::1",
            "fc00::1",
            "fd12:3456::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(PUBLIC.check_address(address, &[]), Err(ForbiddenTarget::Address), "{address}");
            assert!(LAB.check_address(address, &[]).is_ok(), "{address}");
        }
        for address in [
            "1.1.1.1",
            "100.63.255.255",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "198.20.0.1",
            "223.255.255.1",
            "2001:200::1",
            "2606:4700::1111",
            "2a00:1450::1",
            "64:ff9b::8.8.8.8",
        ] {
            let address: IpAddr = address.parse().unwrap();
            assert!(PUBLIC.check_address(address, &[]).is_ok(), "{address}");
        }
    }

    #[test]
    fn our_own_public_address_is_refused() {
        let own: IpAddr = "1.1.1.1".parse().unwrap();
        assert!(PUBLIC.check_address(own, &[own]).is_err());
    }

    #[test]
    fn urls_of_push_services_are_allowed_and_others_not() {
        let check = |url: &str| PUBLIC.check_url(&url.parse().unwrap(), &[]);
        for url in [
            "https://push.example.net/a",
            "https://push.example.net:443/a",
            "https://push.example.net:8443/a",
            "https://1.1.1.1/a",
            "https://[2606:4700::1111]/a",
        ] {
            assert_eq!(check(url), Ok(()), "{url}");
        }
        assert_eq!(check("http://push.example.net/a"), Err(ForbiddenTarget::NotHttps));
        for port in [1, 22, 25, 80, 444, 1_023] {
            let url = format!("https://push.example.net:{port}/a");
            assert_eq!(check(&url), Err(ForbiddenTarget::Port { port }));
        }
        for url in [
            "https://127.0.0.1/a",
            "https://[::1]/a",
            "https://[::ffff:10.0.0.1]:8443/a",
            "https://169.254.169.254/latest/meta-data",
        ] {
            assert_eq!(check(url), Err(ForbiddenTarget::Address), "{url}");
        }
        let lab = LAB.check_url(&"http://127.0.0.1:80/a".parse().unwrap(), &[]);
        assert_eq!(lab, Ok(()));
    }

    #[test]
    fn forbidden_addresses_of_a_name_are_left_out() {
        let allowed = |addresses: &[&str]| {
            let found = addresses.iter().map(|text| text.parse().unwrap());
            allowed_addresses(PUBLIC, found, &[])
        };
        let public: SocketAddr = "1.1.1.1:443".parse().unwrap();
        assert_eq!(allowed(&["127.0.0.1:443", "1.1.1.1:443", "[::1]:443"]), Ok(vec![public]));
        assert_eq!(allowed(&["127.0.0.1:443", "[fd00::1]:443"]), Err(ForbiddenTarget::Address));
        assert_eq!(allowed(&[]), Ok(vec![]));
        assert_eq!(allowed(&["1.1.1.1:443"; 40]).map(|found| found.len()), Ok(ADDRESSES_MAX));
    }

    /// What only the resolver reads as an address is found out by its answer.
    #[tokio::test]
    async fn names_and_odd_spellings_of_loopback_are_not_connected_to() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        for host in ["localhost", "127.1", "2130706433", "0x7f000001", "0"] {
            let uri: Uri = format!("https://{host}:{port}/a").parse().unwrap();
            assert_eq!(literal_address(&uri), None);
            let connect = |guard| {
                let mut connector = GuardedConnector::new(guard, Duration::from_secs(5));
                connector.call(uri.clone())
            };
            let refused = connect(PUBLIC).await.unwrap_err();
            let mut cause: Option<&(dyn Error + 'static)> = Some(refused.as_ref());
            while let Some(error) = cause.filter(|error| !error.is::<ForbiddenTarget>()) {
                cause = error.source();
            }
            assert!(cause.is_some(), "{host}: {refused:?}");
            // The name does lead here: in a laboratory the same connector takes it.
            connect(LAB).await.unwrap();
            listener.accept().await.unwrap();
        }
    }
}
