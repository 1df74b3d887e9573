//! A client of the local API: what the command line uses, and any program on this machine can.

use std::fmt;
use std::io;
use std::path::PathBuf;

use bytes::{Buf, Bytes, BytesMut};
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::net::{TcpStream, UnixStream};

use super::listener::SOCKET_PATH_BYTES_MAX;
use crate::config::ApiAddress;
use crate::handle::EventRecord;
use crate::handle::problem::Problem;
use crate::home::Home;

/// The largest answer taken: a list of the largest conversation.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// The largest event taken.
const EVENT_BYTES_MAX: usize = 1 << 20;

/// Why a request got no answer.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody listens.
    #[error("no daemon is running for {}; start one with `halloo run`", home.display())]
    NoDaemon {
        /// The home's directory.
        home: PathBuf,
    },
    /// The daemon answered that it didn't work.
    #[error("{}", .0.detail)]
    Problem(Problem),
    /// The connection broke.
    #[error("the daemon went away: {0}")]
    Broken(String),
    /// The answer isn't what this version expects.
    #[error("the daemon's answer was not understood: {0}")]
    Unexpected(String),
    /// A file of the home can't be read.
    #[error("can't read {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A client of one home's daemon. Every request makes a connection of its own.
#[derive(Clone, Debug)]
pub struct Client {
    home: PathBuf,
    address: ApiAddress,
    token: Option<Token>,
}

/// The API's token; never printed.
#[derive(Clone)]
struct Token(String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Events as they happen.
#[derive(Debug)]
pub struct Events {
    body: Incoming,
    buffer: BytesMut,
}

impl Client {
    /// Finds the daemon of a home; whether it runs is seen with the first request.
    ///
    /// # Errors
    /// [`ClientError::NoDaemon`] if there is no home, [`ClientError::File`].
    pub fn of(home: &Home) -> Result<Self, ClientError> {
        let root = home.root().to_owned();
        let path = home.api_address();
        let address = match std::fs::read_to_string(&path) {
            Ok(text) => {
                text.trim().parse().map_err(|error| ClientError::File { path, source: io::Error::other(format!("{error}")) })?
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => ApiAddress::Unix(home.api_socket()),
            Err(source) => return Err(ClientError::File { path, source }),
        };
        let token = match address {
            ApiAddress::Unix(_) => None,
            ApiAddress::Tcp(_) => Some(read_token(home)?),
        };
        Ok(Self { home: root, address, token })
    }

    /// Asks with GET.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.answer(self.send(Method::GET, path, None).await?).await
    }

    /// Asks with GET for bytes that aren't JSON.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn get_bytes(&self, path: &str) -> Result<Bytes, ClientError> {
        let response = self.send(Method::GET, path, None).await?;
        let status = response.status();
        let bytes = collect(response.into_body()).await?;
        if status == StatusCode::OK { Ok(bytes) } else { Err(refusal(status, &bytes)) }
    }

    /// Asks with POST and a JSON body.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body);
        let body = body.map_err(|error| ClientError::Unexpected(error.to_string()))?;
        self.answer(self.send(Method::POST, path, Some(body.into())).await?).await
    }

    /// Listens to what happens from now on.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn events(&self) -> Result<Events, ClientError> {
        let response = self.send(Method::GET, "/v1/events", None).await?;
        if response.status() != StatusCode::OK {
            return Err(refusal(response.status(), &collect(response.into_body()).await?));
        }
        Ok(Events { body: response.into_body(), buffer: BytesMut::new() })
    }

    /// Whether a daemon answers at all.
    pub async fn is_running(&self) -> bool {
        self.connect().await.is_ok()
    }

    async fn answer<T: DeserializeOwned>(&self, response: http::Response<Incoming>) -> Result<T, ClientError> {
        let status = response.status();
        let bytes = collect(response.into_body()).await?;
        if status != StatusCode::OK {
            return Err(refusal(status, &bytes));
        }
        serde_json::from_slice(&bytes).map_err(|error| ClientError::Unexpected(error.to_string()))
    }

    async fn send(&self, method: Method, path: &str, body: Option<Bytes>) -> Result<http::Response<Incoming>, ClientError> {
        let mut sender = self.connect().await?;
        let mut request = Request::builder().method(method).uri(path);
        let host = match &self.address {
            ApiAddress::Unix(_) => "localhost".to_owned(),
            ApiAddress::Tcp(address) => address.to_string(),
        };
        request = request.header(header::HOST, host);
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.0));
        }
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request.body(Full::new(body.unwrap_or_default()));
        let request = request.map_err(|error| ClientError::Unexpected(error.to_string()))?;
        sender.send_request(request).await.map_err(broken)
    }

    async fn connect(&self) -> Result<http1::SendRequest<Full<Bytes>>, ClientError> {
        let no_daemon = || ClientError::NoDaemon { home: self.home.clone() };
        match &self.address {
            // A longer path can't be a socket's; the daemon would have written another one.
            ApiAddress::Unix(path) if path.as_os_str().len() > SOCKET_PATH_BYTES_MAX => Err(no_daemon()),
            ApiAddress::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(|_| no_daemon())?;
                handshake(stream).await
            }
            ApiAddress::Tcp(address) => {
                let stream = TcpStream::connect(address).await.map_err(|_| no_daemon())?;
                handshake(stream).await
            }
        }
    }
}

impl Events {
    /// The next event; `None` when the daemon ended.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn next(&mut self) -> Result<Option<EventRecord>, ClientError> {
        loop {
            while let Some(block) = take_block(&mut self.buffer) {
                if let Some(record) = parse_block(&block)? {
                    return Ok(Some(record));
                }
            }
            if self.buffer.len() > EVENT_BYTES_MAX {
                return Err(ClientError::Unexpected("an event has no end".to_owned()));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(broken(error)),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
            }
        }
    }
}

/// Cuts one event off the buffer: everything up to an empty line.
fn take_block(buffer: &mut BytesMut) -> Option<BytesMut> {
    let end = buffer.windows(2).position(|pair| pair == b"\n\n")?;
    let block = buffer.split_to(end);
    buffer.advance(2);
    Some(block)
}

/// An event's data; `None` for comments and for kinds of events this version doesn't know.
fn parse_block(block: &[u8]) -> Result<Option<EventRecord>, ClientError> {
    let text = std::str::from_utf8(block);
    let text = text.map_err(|error| ClientError::Unexpected(error.to_string()))?;
    let data = text.lines().find_map(|line| line.strip_prefix("data:"));
    Ok(data.and_then(|data| serde_json::from_str(data.trim_start()).ok()))
}

async fn handshake<S>(stream: S) -> Result<http1::SendRequest<Full<Bytes>>, ClientError>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // Ends when the sender and the body of its answer are dropped.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection to the daemon ended");
        }
    });
    Ok(sender)
}

async fn collect(body: Incoming) -> Result<Bytes, ClientError> {
    let body = http_body_util::Limited::new(body, ANSWER_BYTES_MAX);
    let collected = body.collect().await;
    collected.map(|body| body.to_bytes()).map_err(|error| ClientError::Broken(error.to_string()))
}

fn refusal(status: StatusCode, bytes: &[u8]) -> ClientError {
    match serde_json::from_slice(bytes) {
        Ok(problem) => ClientError::Problem(problem),
        Err(_) => ClientError::Unexpected(format!("HTTP status {status}")),
    }
}

fn broken(error: hyper::Error) -> ClientError {
    ClientError::Broken(error.to_string())
}

fn read_token(home: &Home) -> Result<Token, ClientError> {
    let path = home.api_token();
    match std::fs::read_to_string(&path) {
        Ok(token) => Ok(Token(token.trim().to_owned())),
        Err(source) => Err(ClientError::File { path, source }),
    }
}
