//! The key of a group of gateways. The database sees neither whose registrations it holds nor what they say: rows are found by keyed hashes and hold sealed
//! bytes. Each process has the key in a file.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read, Write};
use std::path::Path;

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce};
use halloo_protocol::key::hash;
use zeroize::Zeroizing;

const NONCE_BYTES: usize = 12;

/// Longest key file read; a right one has 44 bytes.
const FILE_BYTES_MAX: u64 = 256;

/// The secret that the processes of a group share.
#[derive(Clone)]
pub(in crate::roles::gateway) struct GroupKey {
    cipher: ChaCha20Poly1305,
    index: Zeroizing<[u8; 32]>,
}

impl GroupKey {
    pub(in crate::roles::gateway) fn new(secret: &[u8; 32]) -> Self {
        let seal = Zeroizing::new(hash("halloo gateway group seal 1", &[secret]));
        let index = Zeroizing::new(hash("halloo gateway group index 1", &[secret]));
        Self { cipher: ChaCha20Poly1305::new(&Key::from(*seal)), index }
    }

    /// Reads the key's file. `None` if there is none.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, String> {
        let file = match std::fs::File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("{}: {error}", path.display())),
        };
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            let mode = file.metadata().map_err(|error| format!("{}: {error}", path.display()))?.mode() & 0o777;
            if mode & 0o077 != 0 {
                return Err(format!("{} can be read by others (mode {mode:o}): `chmod 600` it", path.display()));
            }
        }
        let mut text = Zeroizing::new(String::new());
        let read = file.take(FILE_BYTES_MAX).read_to_string(&mut text);
        read.map_err(|error| format!("{}: {error}", path.display()))?;
        let bytes = data_encoding::BASE64URL_NOPAD.decode(text.trim().as_bytes()).map(Zeroizing::new).ok();
        let secret = bytes.and_then(|bytes| <[u8; 32]>::try_from(bytes.as_slice()).ok()).map(Zeroizing::new);
        let secret = secret.ok_or_else(|| format!("{}: not a group's key: 43 characters of base64url", path.display()))?;
        Ok(Some(Self::new(&secret)))
    }

    /// Makes a key and its file.
    pub(in crate::roles::gateway) fn create(path: &Path) -> Result<Self, String> {
        let mut secret = Zeroizing::new([0; 32]);
        getrandom::fill(secret.as_mut_slice()).map_err(|error| error.to_string())?;
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        {
            use std::os::unix::fs::OpenOptionsExt;
            options.mode(0o600);
        }
        let text = Zeroizing::new(format!("{}\n", data_encoding::BASE64URL_NOPAD.encode(secret.as_slice())));
        let written = options.open(path).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        });
        written.map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self::new(&secret))
    }

    /// By what a row is found.
    pub(in crate::roles::gateway) fn index(&self, kind: &str, name: &[u8]) -> [u8; 32] {
        hash("halloo gateway group row 1", &[self.index.as_slice(), kind.as_bytes(), name])
    }

    /// Seals a row's content; `place` is the table and the row's name there. `None` without randomness: nothing is committed then.
    pub(super) fn seal(&self, place: (&str, &[u8]), content: &[u8]) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_BYTES];
        let aad = [place.0.as_bytes(), place.1].concat();
        getrandom::fill(&mut nonce).ok()?;
        let sealed = self.cipher.encrypt(&Nonce::from(nonce), Payload { msg: content, aad: &aad }).ok()?;
        Some([&nonce[..], &sealed].concat())
    }

    /// A word for the other processes, with a mark that only the group can make: anybody who may use the database can say something there.
    pub(super) fn signed(&self, word: &str) -> String {
        format!("{word} {}", self.mark_of(word))
    }

    /// A word of the group, without its mark.
    pub(super) fn verified<'a>(&self, told: &'a str) -> Option<&'a str> {
        let (word, mark) = told.rsplit_once(' ')?;
        // Whoever guesses has no use for how long a comparison takes: hashes of both are compared.
        let is_right = self.index("mark told", mark.as_bytes()) == self.index("mark told", self.mark_of(word).as_bytes());
        is_right.then_some(word)
    }

    fn mark_of(&self, word: &str) -> String {
        data_encoding::HEXLOWER.encode(&self.index("word", word.as_bytes())[..16])
    }

    /// Opens it; `None` if it is of another group or place, or damaged.
    pub(super) fn open(&self, place: (&str, &[u8]), sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_BYTES>()?;
        let aad = [place.0.as_bytes(), place.1].concat();
        self.cipher.decrypt(&Nonce::from(*nonce), Payload { msg: sealed, aad: &aad }).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_open_in_their_place_for_their_group() {
        let (ours, theirs) = (GroupKey::new(&[1; 32]), GroupKey::new(&[2; 32]));
        let sealed = ours.seal(("registration", b"a"), b"a name").unwrap();
        assert!(!sealed.windows(6).any(|bytes| bytes == b"a name"));
        assert_eq!(ours.open(("registration", b"a"), &sealed).as_deref(), Some(&b"a name"[..]));
        assert!(ours.open(("registration", b"b"), &sealed).is_none(), "moved to another row");
        assert!(ours.open(("choice", b"a"), &sealed).is_none());
        assert!(theirs.open(("registration", b"a"), &sealed).is_none());
        assert!(ours.open(("registration", b"a"), &sealed[..11]).is_none());
        assert_ne!(ours.index("device", b"a"), theirs.index("device", b"a"));
        assert_ne!(ours.index("device", b"a"), ours.index("handle", b"a"));
    }

    #[test]
    fn a_key_is_made_once_and_read_from_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gateway-group.key");
        assert!(GroupKey::read(&path).unwrap().is_none());
        let made = GroupKey::create(&path).unwrap();
        assert!(GroupKey::create(&path).is_err(), "it isn't overwritten");
        let read = GroupKey::read(&path).unwrap().unwrap();
        assert_eq!(made.index("x", b"y"), read.index("x", b"y"));
        std::fs::write(&path, "short").unwrap();
        assert!(GroupKey::read(&path).is_err());
    }
}
