//! Where the API listens, and how clients find it.
//!
//! The address is written to `api.addr` in the home once the socket is there, and removed
//! when the daemon ends well. The caller holds the home's lock, so that what an earlier
//! daemon left behind may be removed.

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use data_encoding::BASE64URL_NOPAD;
use thiserror::Error;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use super::ApiState;
use super::access::Access;
use crate::config::ApiAddress;
use crate::handle::Node;
use crate::home::{Home, HomeError, write_secret};

/// The longest path a socket address holds: `sun_path` has 104 bytes on BSD and macOS and 108
/// on Linux, with the terminating zero.
pub(super) const SOCKET_PATH_BYTES_MAX: usize = 103;

/// The directory of a socket whose path in the home would be too long.
const SHORT_DIR_PREFIX: &str = "halloo-";
const SHORT_SOCKET: &str = "api.sock";

/// Random bytes of the token: no guessing.
const TOKEN_BYTES: usize = 32;

/// Why the API can't listen.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ApiError {
    /// The address can't be listened on.
    #[error("the API can't listen on {address}: {source}")]
    Listen {
        /// Where.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// Another program listens there.
    #[error("the API can't listen on {address}: another program does")]
    Occupied {
        /// Where.
        address: String,
    },
    /// The system gives no random numbers.
    #[error("no random numbers for the API's token: {0}")]
    Random(getrandom::Error),
    /// A file of the home can't be read or written.
    #[error(transparent)]
    Home(#[from] HomeError),
}

/// A bound API that doesn't answer yet.
#[derive(Debug)]
pub struct ApiListener {
    socket: Socket,
    address: ApiAddress,
    access: Access,
    files: Leftovers,
}

#[derive(Debug)]
pub(super) enum Socket {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// What is removed when the API ends.
#[derive(Debug, Default)]
struct Leftovers {
    files: Vec<PathBuf>,
    dir: Option<PathBuf>,
}

impl ApiListener {
    /// Binds the API of a home; `None` means a socket in the home, or where its path would be
    /// too long for the system, in a private directory of its own.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn bind(home: &Home, address: Option<&ApiAddress>) -> Result<Self, ApiError> {
        remove_leftovers(home);
        let mut bound = match address {
            Some(ApiAddress::Tcp(address)) => Self::bind_tcp(home, *address).await?,
            Some(ApiAddress::Unix(path)) => Self::bind_unix(path).await?,
            None => Self::bind_in_home(home).await?,
        };
        write_secret(&home.api_address(), bound.address.to_string().as_bytes())?;
        bound.files.files.push(home.api_address());
        Ok(bound)
    }

    async fn bind_in_home(home: &Home) -> Result<Self, ApiError> {
        let path = home.api_socket();
        if path.as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
            return Self::bind_unix(&path).await;
        }
        let dir = short_dir()?;
        let mut bound = Self::bind_unix(&dir.join(SHORT_SOCKET)).await?;
        bound.files.dir = Some(dir);
        Ok(bound)
    }

    async fn bind_unix(path: &Path) -> Result<Self, ApiError> {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let address = ApiAddress::Unix(path.clone());
        let fail = |source| ApiError::Listen { address: address.to_string(), source };
        remove_dead_socket(&path, &address).await?;
        let socket = UnixListener::bind(&path).map_err(fail)?;
        // Nobody else gets in before this: the home and our own directories are private, and
        // in a directory the user named the process's umask holds for that moment.
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(fail)?;
        let files = Leftovers { files: vec![path], dir: None };
        Ok(Self { socket: Socket::Unix(socket), address, access: Access::Unix, files })
    }

    async fn bind_tcp(home: &Home, address: SocketAddr) -> Result<Self, ApiError> {
        let fail = |source| ApiError::Listen { address: address.to_string(), source };
        let token = load_or_make_token(home)?;
        let socket = TcpListener::bind(address).await.map_err(fail)?;
        let address = socket.local_addr().map_err(fail)?;
        if !address.ip().is_loopback() {
            tracing::warn!(%address, "the API listens beyond this machine, without encryption");
        }
        Ok(Self {
            socket: Socket::Tcp(socket),
            address: ApiAddress::Tcp(address),
            access: Access::tcp(address, &token),
            files: Leftovers::default(),
        })
    }

    /// Where it listens, with the real port.
    #[must_use]
    pub fn address(&self) -> &ApiAddress {
        &self.address
    }

    /// Answers until `stop` is cancelled; then finishes what is open and removes its files.
    pub async fn serve(self, node: Node, stop: CancellationToken) {
        let state = ApiState { node, access: Arc::new(self.access), stop: stop.clone() };
        super::server::serve(self.socket, super::router(state), stop).await;
        drop(self.files);
    }
}

impl Drop for Leftovers {
    fn drop(&mut self) {
        for file in &self.files {
            let _gone = std::fs::remove_file(file);
        }
        if let Some(dir) = &self.dir {
            let _gone = std::fs::remove_dir(dir);
        }
    }
}

/// A new private directory with a short path. Its name is random and it must not exist, so
/// that nobody can have prepared it.
fn short_dir() -> Result<PathBuf, ApiError> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(ApiError::Random)?;
    let name = format!("{SHORT_DIR_PREFIX}{}", data_encoding::HEXLOWER.encode(&random));
    // A temporary directory of the user may have a long path of its own.
    let fits = |parent: &PathBuf| {
        let bytes = parent.as_os_str().len() + name.len() + SHORT_SOCKET.len() + 2;
        bytes <= SOCKET_PATH_BYTES_MAX
    };
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let parents = [runtime, Some(std::env::temp_dir()), Some(PathBuf::from("/tmp"))];
    let mut parents = parents.into_iter().flatten().filter(|dir| dir.is_dir() && fits(dir));
    let dir = parents.next().unwrap_or_else(|| PathBuf::from("/tmp")).join(name);
    let made = DirBuilder::new().mode(0o700).create(&dir);
    made.map_err(|source| ApiError::Listen { address: dir.display().to_string(), source })?;
    Ok(dir)
}

/// Removes what a killed daemon of this home left behind.
fn remove_leftovers(home: &Home) {
    let address = std::fs::read_to_string(home.api_address()).unwrap_or_default();
    if let Ok(ApiAddress::Unix(socket)) = address.parse() {
        let dir = socket.parent().filter(|dir| is_short_dir(dir));
        if let Some(dir) = dir.filter(|_| socket.ends_with(SHORT_SOCKET)) {
            drop(Leftovers { files: vec![socket.clone()], dir: Some(dir.to_owned()) });
        }
    }
    let _gone = std::fs::remove_file(home.api_address());
}

fn is_short_dir(dir: &Path) -> bool {
    dir.file_name().is_some_and(|name| name.as_bytes().starts_with(SHORT_DIR_PREFIX.as_bytes()))
}

/// Removes a socket nobody listens on; anything else in its place is left alone.
async fn remove_dead_socket(path: &Path, address: &ApiAddress) -> Result<(), ApiError> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    if !is_socket {
        return Ok(());
    }
    if UnixStream::connect(path).await.is_ok() {
        return Err(ApiError::Occupied { address: address.to_string() });
    }
    let removed = std::fs::remove_file(path);
    removed.map_err(|source| ApiError::Listen { address: address.to_string(), source })
}

fn load_or_make_token(home: &Home) -> Result<String, ApiError> {
    let kept = std::fs::read_to_string(home.api_token()).unwrap_or_default();
    let kept = kept.trim();
    let is_whole = BASE64URL_NOPAD.decode(kept.as_bytes()).is_ok_and(|t| t.len() == TOKEN_BYTES);
    if is_whole {
        return Ok(kept.to_owned());
    }
    let mut bytes = [0; TOKEN_BYTES];
    getrandom::fill(&mut bytes).map_err(ApiError::Random)?;
    let token = BASE64URL_NOPAD.encode(&bytes);
    write_secret(&home.api_token(), token.as_bytes())?;
    Ok(token)
}
