//! A node's home directory: keys, database, configuration, API socket.
//!
//! The directory is mode 0700 and files with secrets are 0600. One daemon at a time: it holds
//! a lock on the file `lock` for as long as it lives, however it dies. Secrets are written
//! whole or not at all: to a new file beside the old one, synced, then renamed over it.

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Only the owner may list, enter and change.
const DIR_MODE: u32 = 0o700;
/// Only the owner may read and write.
const SECRET_MODE: u32 = 0o600;

/// Files by which a directory is known as a home, so that none else changes its mode.
const HOME_MARKS: &[&str] = &["config.toml", "lock", "device.key"];

/// Why a home can't be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HomeError {
    /// The platform names no data directory.
    #[error("no home: this platform names no data directory; give --home DIR")]
    NoDefault,
    /// The directory holds other things.
    #[error("{} is not empty and is no Halloo home; give another --home DIR", path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
    },
    /// The home has no keys yet.
    #[error("{} is not initialised; run `halloo init` first", path.display())]
    NotInitialised {
        /// The directory.
        path: PathBuf,
    },
    /// Another daemon holds the lock.
    #[error("another daemon is running on {} (process {})", path.display(), pid.as_deref().unwrap_or("unknown"))]
    Locked {
        /// The directory.
        path: PathBuf,
        /// What the lock file says about who holds it.
        pid: Option<String>,
    },
    /// A file or directory operation failed.
    #[error("can't {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A home directory that exists and is private.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    root: PathBuf,
}

/// Proof that no other daemon runs on this home; released on drop, also by a crash.
#[derive(Debug)]
#[must_use = "the lock is released when this is dropped"]
pub struct HomeLock {
    _file: File,
}

impl Home {
    /// The platform's data directory for this user, not yet created.
    ///
    /// # Errors
    /// [`HomeError::NoDefault`] where there is none.
    pub fn default_path() -> Result<PathBuf, HomeError> {
        let dirs = directories::ProjectDirs::from("", "", "halloo").ok_or(HomeError::NoDefault)?;
        Ok(dirs.data_dir().to_owned())
    }

    /// Opens a home, creating it if there is nothing.
    ///
    /// # Errors
    /// [`HomeError::Foreign`] if the directory holds other things, [`HomeError::Io`].
    pub fn create(path: &Path) -> Result<Self, HomeError> {
        let made = DirBuilder::new().recursive(true).mode(DIR_MODE).create(path);
        made.map_err(|source| HomeError::io("create", path, source))?;
        let home = Self { root: absolute(path)? };
        if !home.is_marked() && !home.is_empty()? {
            return Err(HomeError::Foreign { path: home.root });
        }
        let private = std::fs::set_permissions(&home.root, Permissions::from_mode(DIR_MODE));
        private.map_err(|source| HomeError::io("make private", &home.root, source))?;
        Ok(home)
    }

    /// Makes a directory below a home that only the owner may enter, if it isn't there.
    ///
    /// # Errors
    /// [`HomeError::Io`].
    pub(crate) fn create_private(path: &Path) -> Result<(), HomeError> {
        let made = DirBuilder::new().recursive(true).mode(DIR_MODE).create(path);
        made.map_err(|source| HomeError::io("create", path, source))?;
        let private = std::fs::set_permissions(path, Permissions::from_mode(DIR_MODE));
        private.map_err(|source| HomeError::io("make private", path, source))
    }

    /// Opens a home that exists.
    ///
    /// # Errors
    /// [`HomeError::NotInitialised`] if there is none, [`HomeError::Io`].
    pub fn open(path: &Path) -> Result<Self, HomeError> {
        let home = Self { root: absolute(path)? };
        if home.is_marked() { Ok(home) } else { Err(HomeError::NotInitialised { path: home.root }) }
    }

    /// The directory itself, absolute.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The configuration, for people to edit.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.root.join("config.toml")
    }

    /// The API's socket, unless its path is too long for the system.
    #[must_use]
    pub fn api_socket(&self) -> PathBuf {
        self.root.join("api.sock")
    }

    /// Where the running daemon's API listens: `unix:PATH` or `IP:PORT`.
    #[must_use]
    pub fn api_address(&self) -> PathBuf {
        self.root.join("api.addr")
    }

    /// The API's token on TCP.
    #[must_use]
    pub fn api_token(&self) -> PathBuf {
        self.root.join("api-token")
    }

    /// The lock file.
    #[must_use]
    pub fn lock_file(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// Makes sure that this process is the only daemon on this home.
    ///
    /// # Errors
    /// [`HomeError::Locked`] if another is running.
    pub fn lock(&self) -> Result<HomeLock, HomeError> {
        let path = self.lock_file();
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(SECRET_MODE);
        let mut file = options.open(&path).map_err(|e| HomeError::io("open", &path, e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(HomeError::Locked { path: self.root.clone(), pid: read_pid(&mut file) });
            }
            Err(TryLockError::Error(e)) => return Err(HomeError::io("lock", &path, e)),
        }
        write_pid(&mut file).map_err(|e| HomeError::io("write", &path, e))?;
        Ok(HomeLock { _file: file })
    }

    fn is_marked(&self) -> bool {
        HOME_MARKS.iter().any(|name| self.root.join(name).exists())
    }

    fn is_empty(&self) -> Result<bool, HomeError> {
        let entries = std::fs::read_dir(&self.root);
        let mut entries = entries.map_err(|e| HomeError::io("read", &self.root, e))?;
        Ok(entries.next().is_none())
    }
}

impl HomeError {
    fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }
}

fn absolute(path: &Path) -> Result<PathBuf, HomeError> {
    std::path::absolute(path).map_err(|source| HomeError::io("find", path, source))
}

fn read_pid(file: &mut File) -> Option<String> {
    /// More than any process id has.
    const PID_BYTES_MAX: u64 = 20;
    let mut text = String::new();
    file.take(PID_BYTES_MAX).read_to_string(&mut text).ok()?;
    let pid = text.trim();
    (!pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit())).then(|| pid.to_owned())
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    writeln!(file, "{}", std::process::id())
}

/// Writes a file that only the owner may read: whole or not at all.
///
/// # Errors
/// [`HomeError::Io`]
pub fn write_secret(path: &Path, bytes: &[u8]) -> Result<(), HomeError> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let written = (|| {
        // Left over from a crash; a new file gets the right mode.
        match std::fs::remove_file(&temporary) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(SECRET_MODE).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
    })();
    written.map_err(|source| HomeError::io("write", path, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).expect("exists").permissions().mode() & 0o777
    }

    #[test]
    fn a_home_and_its_secrets_are_private() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("deep/home");
        let home = Home::create(&path).expect("created");
        write_secret(&home.api_token(), b"old").expect("written");
        write_secret(&home.api_token(), b"new").expect("written again");
        let _lock = home.lock().expect("locked");
        assert_eq!(mode(&path), 0o700);
        assert_eq!(mode(&home.api_token()), 0o600);
        assert_eq!(mode(&home.lock_file()), 0o600);
        assert_eq!(std::fs::read(home.api_token()).expect("read"), b"new");
    }

    #[test]
    fn an_open_home_is_made_private_and_a_foreign_directory_is_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let open = Permissions::from_mode(0o755);
        std::fs::set_permissions(dir.path(), open.clone()).expect("set");
        Home::create(dir.path()).expect("an empty directory becomes a home");
        assert_eq!(mode(dir.path()), 0o700);

        std::fs::set_permissions(dir.path(), open).expect("set");
        std::fs::write(dir.path().join("thesis.txt"), "").expect("written");
        assert!(matches!(Home::create(dir.path()), Err(HomeError::Foreign { .. })));
        assert_eq!(mode(dir.path()), 0o755);
        assert!(matches!(Home::open(dir.path()), Err(HomeError::NotInitialised { .. })));
    }

    #[test]
    fn the_second_daemon_is_refused_until_the_first_is_gone() {
        let dir = tempfile::tempdir().expect("a directory");
        let home = Home::create(dir.path()).expect("created");
        let lock = home.lock().expect("locked");
        let refused = home.lock().expect_err("refused").to_string();
        assert!(refused.contains(&std::process::id().to_string()), "{refused}");
        drop(lock);
        let _lock = home.lock().expect("locked again");
    }
}
