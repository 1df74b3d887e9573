//! Secret keys in files of their own: one line each, readable by the owner only.
//!
//! `halloo-secret-key 1 ROLE BASE64URL`: the role is written down so that a device key put in the place of an identity key is noticed.
//! A file is written beside its place, synced and renamed, so that it is there whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use data_encoding::BASE64URL_NOPAD;
use halloo_protocol::key::SecretKey;
use zeroize::Zeroizing;

const HEADER: &str = "halloo-secret-key 1";

/// Longest key file read; a right one has about 80 bytes.
const FILE_BYTES_MAX: u64 = 1_024;

/// What a key is for; decides its file's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyRole {
    /// The user's identity key, in `identity.key`. Not on every device.
    Identity,
    /// The device's key, in `device.key`.
    Device,
    /// An authority's root key, in `authority-root.key`. May be moved away and brought back.
    AuthorityRoot,
}

impl KeyRole {
    /// Its file in the home.
    #[must_use]
    pub const fn file_name(self) -> &'static str {
        match self {
            Self::Identity => "identity.key",
            Self::Device => "device.key",
            Self::AuthorityRoot => "authority-root.key",
        }
    }

    const fn tag(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Device => "device",
            Self::AuthorityRoot => "authority-root",
        }
    }
}

/// Why a key file can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// There is a key already; it isn't overwritten.
    #[error("{} exists already and isn't overwritten", .0.display())]
    Exists(PathBuf),
    /// Others could read it.
    #[error("{} can be read by others (mode {mode:o}): `chmod 600` it, and think about who may have read it", path.display())]
    Permissions {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Not a key of this role.
    #[error("{} isn't a key file for the role {}", path.display(), role.tag())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The role wanted.
        role: KeyRole,
    },
    /// Reading or writing failed.
    #[error("can't {action} {}", path.display())]
    Io {
        /// What failed: `read`, `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The system gave no randomness.
    #[error("the system gives no random bytes: {0}")]
    Random(#[source] getrandom::Error),
}

/// Makes the home directory, for its owner only; leaves one that exists as it is.
///
/// # Errors
/// [`KeyFileError::Io`].
pub fn create_home(home: &Path) -> Result<(), KeyFileError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt;
        builder.mode(0o700);
    }
    builder.create(home).map_err(|source| KeyFileError::Io { action: "make", path: home.to_owned(), source })
}

/// A new random key.
///
/// # Errors
/// [`KeyFileError::Random`].
pub fn generate_key() -> Result<SecretKey, KeyFileError> {
    random_bytes().map(SecretKey::from_bytes)
}

/// `N` random bytes from the operating system.
///
/// # Errors
/// [`KeyFileError::Random`].
pub fn random_bytes<const N: usize>() -> Result<[u8; N], KeyFileError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(KeyFileError::Random)?;
    Ok(bytes)
}

/// Writes the key for `role` in `home`, durably.
///
/// # Errors
/// [`KeyFileError::Exists`] if there is one, [`KeyFileError::Io`].
pub fn write_key(home: &Path, role: KeyRole, key: &SecretKey) -> Result<(), KeyFileError> {
    let path = home.join(role.file_name());
    let text = Zeroizing::new(format!("{HEADER} {} {}\n", role.tag(), BASE64URL_NOPAD.encode(key.to_bytes().as_slice())));
    match write_new(home, &path, text.as_bytes()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(KeyFileError::Exists(path)),
        Err(source) => Err(KeyFileError::Io { action: "write", path, source }),
    }
}

/// Reads the key for `role` in `home`; `None` if there is no such file.
///
/// # Errors
/// [`KeyFileError::Permissions`], [`KeyFileError::Malformed`] or [`KeyFileError::Io`], each naming the file.
pub fn read_key(home: &Path, role: KeyRole) -> Result<Option<SecretKey>, KeyFileError> {
    let path = home.join(role.file_name());
    let fail = |source| KeyFileError::Io { action: "read", path: path.clone(), source };
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(fail(source)),
    };
    check_permissions(&file, &path)?;
    let mut bytes = Zeroizing::new(Vec::new());
    (&mut file).take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(fail)?;
    match parse(&bytes, role) {
        Some(key) => Ok(Some(key)),
        None => Err(KeyFileError::Malformed { path, role }),
    }
}

/// True if `home` has a key for `role`, readable or not.
#[must_use]
pub fn has_key(home: &Path, role: KeyRole) -> bool {
    home.join(role.file_name()).symlink_metadata().is_ok()
}

fn parse(bytes: &[u8], role: KeyRole) -> Option<SecretKey> {
    let text = std::str::from_utf8(bytes).ok()?.trim_end();
    let encoded = text.strip_prefix(HEADER)?.strip_prefix(' ')?.strip_prefix(role.tag())?.strip_prefix(' ')?;
    let seed = Zeroizing::new(BASE64URL_NOPAD.decode(encoded.as_bytes()).ok()?);
    Some(SecretKey::from_bytes(seed.as_slice().try_into().ok()?))
}

/// Writes beside `path`, syncs, and renames into place, unless something is there. Two writers at once can't be: whoever writes keys holds
/// the home's database, which one process has at a time.
fn write_new(home: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    if path.symlink_metadata().is_ok() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let beside = path.with_extension(format!("{}.new", std::process::id()));
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    let written = options.open(&beside).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    if let Err(error) = written.and_then(|()| fs::rename(&beside, path)) {
        // Best effort: the error that matters is the first one.
        let _ = fs::remove_file(&beside);
        return Err(error);
    }
    sync_directory(home)
}

#[cfg(unix)]
fn sync_directory(home: &Path) -> io::Result<()> {
    File::open(home)?.sync_all()
}

#[cfg(not(unix))]
fn sync_directory(_home: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(unix)]
fn check_permissions(file: &File, path: &Path) -> Result<(), KeyFileError> {
    use std::os::unix::fs::PermissionsExt;
    let metadata = file.metadata().map_err(|source| KeyFileError::Io { action: "read", path: path.to_owned(), source })?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyFileError::Permissions { path: path.to_owned(), mode });
    }
    Ok(())
}

#[cfg(not(unix))]
fn check_permissions(_file: &File, _path: &Path) -> Result<(), KeyFileError> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_back_and_are_not_overwritten() -> Result<(), KeyFileError> {
        let parent = tempfile::tempdir().expect("temporary directory");
        let home = parent.path().join("a/b");
        create_home(&home)?;
        create_home(&home)?;
        assert!(read_key(&home, KeyRole::Device)?.is_none());
        let key = generate_key()?;
        write_key(&home, KeyRole::Device, &key)?;
        assert_eq!(read_key(&home, KeyRole::Device)?.expect("written").public(), key.public());
        assert!(matches!(write_key(&home, KeyRole::Device, &generate_key()?), Err(KeyFileError::Exists(_))));
        assert_eq!(read_key(&home, KeyRole::Device)?.expect("untouched").public(), key.public());
        assert_eq!(fs::read_dir(&home).expect("lists").count(), 1, "nothing is left beside it");
        Ok(())
    }

    #[test]
    fn a_key_of_another_role_or_a_damaged_file_is_refused() -> Result<(), KeyFileError> {
        let home = tempfile::tempdir().expect("temporary directory");
        write_key(home.path(), KeyRole::Device, &generate_key()?)?;
        let device = home.path().join(KeyRole::Device.file_name());
        fs::rename(&device, home.path().join(KeyRole::Identity.file_name())).expect("renames");
        assert!(matches!(read_key(home.path(), KeyRole::Identity), Err(KeyFileError::Malformed { .. })));
        write_key(home.path(), KeyRole::Device, &generate_key()?)?;
        let file = OpenOptions::new().write(true).open(&device).expect("opens");
        file.set_len(60).expect("cuts");
        assert!(matches!(read_key(home.path(), KeyRole::Device), Err(KeyFileError::Malformed { .. })));
        Ok(())
    }

    #[cfg(unix)]
    #[test]
    fn files_are_private_and_have_to_stay_so() -> Result<(), KeyFileError> {
        use std::os::unix::fs::PermissionsExt;
        let parent = tempfile::tempdir().expect("temporary directory");
        let home = parent.path().join("home");
        create_home(&home)?;
        write_key(&home, KeyRole::Identity, &generate_key()?)?;
        let mode = |path: &Path| fs::metadata(path).expect("is there").permissions().mode() & 0o777;
        let path = home.join(KeyRole::Identity.file_name());
        assert_eq!((mode(&home), mode(&path)), (0o700, 0o600));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("changes mode");
        let error = read_key(&home, KeyRole::Identity).expect_err("open to all");
        assert!(error.to_string().contains("chmod 600"), "{error}");
        Ok(())
    }
}
