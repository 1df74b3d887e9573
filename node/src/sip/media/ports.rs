//! Ports for phones' media: pairs of an even one for media and the next for reports (RFC 3550 section 11).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use halloo_protocol::phone::negotiation::{Local, Security};
use tokio::net::UdpSocket;

use super::PhoneLeg;

/// Ports for phones' media: 100 calls at once, below those that systems hand out by themselves.
pub const PORTS: RangeInclusive<u16> = 16_384..=16_583;

/// How phones' media are carried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PhoneMediaConfig {
    /// UDP ports to use, two for each call: an even one and the next.
    pub ports: RangeInclusive<u16>,
    /// The address that descriptions name, where it isn't that of the socket: behind a port forwarding.
    pub advertised: Option<IpAddr>,
}

impl Default for PhoneMediaConfig {
    fn default() -> Self {
        Self { ports: PORTS, advertised: None }
    }
}

/// Makes legs. Clones share the ports.
#[derive(Clone, Debug)]
pub struct PhoneMedia(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    config: PhoneMediaConfig,
    /// Which pair to try next: one that was in use just now may get packets of the call before.
    next: AtomicU32,
}

/// Why a leg can't be opened.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// All ports are in use, by us or by others.
    #[error("no free pair of UDP ports from {} to {}", ports.start(), ports.end())]
    NoPort {
        /// The range.
        ports: RangeInclusive<u16>,
    },
    /// The address can't be bound.
    #[error("cannot bind {address}")]
    Bind {
        /// The address.
        address: IpAddr,
        /// What the system said.
        source: Arc<io::Error>,
    },
}

impl PhoneMedia {
    /// With these settings.
    #[must_use]
    pub fn new(config: PhoneMediaConfig) -> Self {
        let mut random = [0; 4];
        // Without randomness the first pair is the first.
        let _ = getrandom::fill(&mut random);
        Self(Arc::new(Shared { config, next: AtomicU32::new(u32::from_be_bytes(random)) }))
    }

    /// Binds a pair of ports on this address, which is the one that the phone reaches the edge at, and takes them for a leg until it is dropped.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(&self, address: IpAddr, security: Security) -> Result<PhoneLeg, OpenError> {
        let config = &self.0.config;
        let pairs = pairs(&config.ports);
        for _ in 0..pairs.len() {
            let turn = self.0.next.fetch_add(1, Ordering::Relaxed) as usize % pairs.len();
            let Some(port) = u16::try_from(turn * 2).ok().and_then(|offset| pairs.start().checked_add(offset)) else { continue };
            let bound = match (bind(address, port).await, config.advertised) {
                // Behind a forwarding router the address that phones know isn't one of this machine's.
                (Err(error), Some(_)) if error.kind() == io::ErrorKind::AddrNotAvailable => bind(any_of(address), port).await,
                (bound, _) => bound,
            };
            match bound {
                Ok((media, reports)) => {
                    let address = config.advertised.unwrap_or(address);
                    return Ok(PhoneLeg::spawn(media, reports, Local { address, port, rtcp_port: port + 1, security }));
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(source) => return Err(OpenError::Bind { address, source: Arc::new(source) }),
            }
        }
        Err(OpenError::NoPort { ports: config.ports.clone() })
    }
}

const fn any_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

/// The pairs of a range: the first even port, and how many.
struct Pairs {
    start: u16,
    count: usize,
}

impl Pairs {
    const fn len(&self) -> usize {
        self.count
    }

    const fn start(&self) -> u16 {
        self.start
    }
}

fn pairs(ports: &RangeInclusive<u16>) -> Pairs {
    let start = (*ports.start()).max(2).checked_next_multiple_of(2).unwrap_or(u16::MAX);
    let count = usize::from((*ports.end()).saturating_sub(start).saturating_add(1)) / 2;
    Pairs { start, count }
}

async fn bind(address: IpAddr, port: u16) -> io::Result<(UdpSocket, UdpSocket)> {
    let media = UdpSocket::bind(SocketAddr::new(address, port)).await?;
    let reports = UdpSocket::bind(SocketAddr::new(address, port + 1)).await?;
    Ok((media, reports))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_begin_with_an_even_port_and_end_within_the_range() {
        let of = |ports: RangeInclusive<u16>| {
            let pairs = pairs(&ports);
            (pairs.start(), pairs.len())
        };
        assert_eq!(of(PORTS), (16_384, 100));
        assert_eq!(of(5_001..=5_004), (5_002, 1));
        assert_eq!(of(5_000..=5_000), (5_000, 0));
        assert_eq!(of(65_534..=65_535), (65_534, 1));
    }

    #[tokio::test]
    async fn ports_are_lent_once_and_come_back() {
        // Whoever has some of these ports keeps them: what counts is that ours are told apart.
        let media = PhoneMedia::new(PhoneMediaConfig { ports: 21_000..=21_003, advertised: None });
        let local: IpAddr = "127.0.0.1".parse().unwrap();
        let mut legs = vec![media.open(local, Security::Off).await.unwrap(), media.open(local, Security::Off).await.unwrap()];
        assert!(matches!(media.open(local, Security::Off).await, Err(OpenError::NoPort { .. })));
        let stats = legs.remove(0).close().await;
        assert_eq!(stats, super::super::LegStats::default());
        assert!(media.open(local, Security::Off).await.is_ok());
        let forwarded = PhoneMedia::new(PhoneMediaConfig { ports: 21_004..=21_005, advertised: "203.0.113.1".parse().ok() });
        assert!(forwarded.open("203.0.113.1".parse().unwrap(), Security::Off).await.is_ok(), "a router's address");
        let nowhere = "203.0.113.1".parse().unwrap();
        assert!(matches!(media.open(nowhere, Security::Off).await, Err(OpenError::Bind { .. })));
    }
}
