//! Connections to the database: where to, with what protection, and what a failure means to whoever runs the gateway.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect};
use tokio_postgres::{Client, Config, Connection, Socket};
use tokio_rustls::TlsConnector;

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);

/// Why a gateway can't use its shared database.
#[derive(Debug, thiserror::Error)]
pub(in crate::roles::gateway) enum SharedError {
    /// The URL says nothing that can be used. The parser's words may hold the password, so they aren't repeated.
    #[error(
        "gateway.database: not a PostgreSQL URL: postgresql://USER@HOST:PORT/DATABASE, or postgresql:///DATABASE?host=/run/postgresql"
    )]
    Url,
    /// The URL names an address beside the host, which is what protection is decided by.
    #[error("gateway.database: no `hostaddr` in the URL: write the address as its host")]
    HostAddress,
    /// A file can't be used.
    #[error("gateway.{0}: {1}")]
    File(&'static str, String),
    /// Nobody answers there.
    #[error(
        "gateway.database: {place} isn't reached ({reason}): does PostgreSQL run there, and does it listen for this machine?"
    )]
    Unreachable { place: String, reason: String },
    /// It has refused this gateway.
    #[error(
        "gateway.database: {place} refuses this gateway ({reason}): look at user and password, at pg_hba.conf, and whether the database exists (`createdb`)"
    )]
    Refused { place: String, reason: String },
    /// The tables are of a newer version.
    #[error(
        "gateway.database: {place} has tables of a newer version ({found}, this version knows {known}): use the newer version"
    )]
    TooNew { place: String, found: i32, known: i32 },
    /// Another group uses this database.
    #[error(
        "gateway.database: {place} is of gateways with another key: copy gateway-group.key from the home of one of them to {path}, or name it in gateway.database_key"
    )]
    OtherKey { place: String, path: String },
    /// A statement failed.
    #[error("gateway.database: {place}: {reason}")]
    Failed { place: String, reason: String },
}

/// How to reach the database.
#[derive(Clone)]
pub(in crate::roles::gateway) struct Link {
    config: Config,
    tls: Tls,
    place: String,
}

impl Link {
    /// From a URL, which may leave the password to a file.
    pub(super) fn new(url: &str, password: Option<&str>, tls: ClientConfig) -> Result<Self, SharedError> {
        let mut config: Config = url.parse().map_err(|_| SharedError::Url)?;
        if config.get_hosts().is_empty() || config.get_hosts().len() > 1 {
            return Err(SharedError::Url);
        }
        if !config.get_hostaddrs().is_empty() {
            return Err(SharedError::HostAddress);
        }
        if let Some(password) = password {
            config.password(password);
        }
        config.application_name("halloo gateway").connect_timeout(CONNECT_TIMEOUT).keepalives_idle(Duration::from_secs(15));
        config.tcp_user_timeout(Duration::from_secs(10));
        let is_here = is_on_this_machine(&config);
        // What the URL doesn't say: in the open on this machine, and never in the open beyond it.
        if config.get_ssl_mode() == SslMode::Prefer {
            config.ssl_mode(if is_here { SslMode::Disable } else { SslMode::Require });
        }
        let place = place(&config);
        Ok(Self { config, tls: Tls(Arc::new(tls)), place })
    }

    /// Host and database, without user and password.
    pub(super) fn place(&self) -> &str {
        &self.place
    }

    /// Connects.
    pub(super) async fn connect(&self) -> Result<(Client, Connection<Socket, Stream<Socket>>), SharedError> {
        let connecting = tokio::time::timeout(CONNECT_TIMEOUT * 2, self.config.connect(self.tls.clone()));
        match connecting.await {
            Ok(Ok(connected)) => Ok(connected),
            Ok(Err(error)) => Err(self.explain(&error)),
            Err(_) => Err(SharedError::Unreachable { place: self.place.clone(), reason: "no answer in time".to_owned() }),
        }
    }

    /// What a failure means.
    pub(super) fn explain(&self, error: &tokio_postgres::Error) -> SharedError {
        let place = self.place.clone();
        let Some(told) = error.as_db_error() else {
            let reason = std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
            // Told apart by its words alone: the crate keeps the kinds to itself.
            let is_refusal = error.to_string().contains("password") || error.to_string().contains("authentication");
            return match is_refusal {
                true => SharedError::Refused { place, reason: error.to_string() },
                false => SharedError::Unreachable { place, reason },
            };
        };
        let refusals = [
            SqlState::INVALID_PASSWORD,
            SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
            SqlState::INVALID_CATALOG_NAME,
            SqlState::INSUFFICIENT_PRIVILEGE,
        ];
        let reason = told.message().to_owned();
        if refusals.contains(told.code()) {
            SharedError::Refused { place, reason }
        } else {
            SharedError::Failed { place, reason }
        }
    }
}

fn place(config: &Config) -> String {
    let port = config.get_ports().first().copied().unwrap_or(5432);
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(host)) => format!("{host}:{port}"),
        #[cfg(unix)]
        Some(Host::Unix(path)) => format!("{}:{port}", path.display()),
        _ => "nowhere".to_owned(),
    };
    format!("{host}/{}", config.get_dbname().or(config.get_user()).unwrap_or_default())
}

fn is_on_this_machine(config: &Config) -> bool {
    config.get_hosts().iter().all(|host| match host {
        Host::Tcp(host) => host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback()),
        #[cfg(unix)]
        Host::Unix(_) => true,
    })
}

/// rustls for the client: the server must show a certificate for its name.
#[derive(Clone)]
struct Tls(Arc<ClientConfig>);

impl MakeTlsConnect<Socket> for Tls {
    type Stream = Stream<Socket>;
    type TlsConnect = Handshake;
    type Error = io::Error;

    fn make_tls_connect(&mut self, domain: &str) -> Result<Handshake, io::Error> {
        // A socket of this machine has no name, and no TLS either.
        let name = ServerName::try_from(domain.to_owned()).ok();
        Ok(Handshake { config: Arc::clone(&self.0), name })
    }
}

/// One connection's handshake to be.
struct Handshake {
    config: Arc<ClientConfig>,
    name: Option<ServerName<'static>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> TlsConnect<S> for Handshake {
    type Stream = Stream<S>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Stream<S>, io::Error>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(async move {
            let name = self.name.ok_or_else(|| io::Error::other("a server without a name has no certificate"))?;
            Ok(Stream(Box::new(TlsConnector::from(self.config).connect(name, stream).await?)))
        })
    }
}

/// A connection under TLS.
pub(in crate::roles::gateway) struct Stream<S>(Box<tokio_rustls::client::TlsStream<S>>);

impl<S: AsyncRead + AsyncWrite + Unpin> tokio_postgres::tls::TlsStream for Stream<S> {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_read(context, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(url: &str) -> Result<Link, SharedError> {
        Link::new(url, Some("opensesame"), crate::roles::gateway::http::tls_config(&[]).unwrap())
    }

    #[test]
    fn nothing_leaves_this_machine_in_the_open_unless_it_is_said() {
        for (url, mode) in [
            ("postgresql://halloo@127.0.0.1/push", SslMode::Disable),
            ("postgresql:///push?host=/run/postgresql", SslMode::Disable),
            ("postgresql://halloo@127.0.0.1/push?sslmode=require", SslMode::Require),
            ("postgresql://halloo@db.example/push", SslMode::Require),
            ("postgresql://halloo@db.example/push?sslmode=prefer", SslMode::Require),
            ("postgresql://halloo@db.example/push?sslmode=disable", SslMode::Disable),
        ] {
            assert_eq!(link(url).unwrap().config.get_ssl_mode(), mode, "{url}");
        }
    }

    #[test]
    fn what_is_said_of_a_database_has_no_password() {
        let link = link("postgresql://halloo:hunter2@db.example:5433/push").unwrap();
        assert_eq!(link.place(), "db.example:5433/push");
        for wrong in ["mysql://a:hunter2@b/c", "postgresql://a:hunter2@b:port/c", "", "postgresql://a,b/c"] {
            let error = self::link(wrong).map(|_| ()).unwrap_err().to_string();
            assert!(!error.contains("hunter2") && error.contains("postgresql://"), "{error}");
        }
        // It would be connected to in the open, as if it were this machine.
        let elsewhere = self::link("postgresql://halloo@localhost/push?hostaddr=192.0.2.1").map(|_| ()).unwrap_err();
        assert!(matches!(elsewhere, SharedError::HostAddress), "{elsewhere}");
    }
}
