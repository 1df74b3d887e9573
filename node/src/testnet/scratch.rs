//! A private directory for recordings and homes, removed with the network.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::TestnetError;
use crate::key_file::random_bytes;

/// Removed with all it holds when dropped.
#[derive(Debug)]
pub(super) struct Scratch(PathBuf);

impl Scratch {
    /// Makes a fresh directory that only this user can enter. Its path is short: sockets in it must stay below 108 bytes.
    pub(super) fn new() -> Result<Self, TestnetError> {
        let random: [u8; 6] = random_bytes().map_err(TestnetError::setup)?;
        let name = format!("halloo-{}", data_encoding::HEXLOWER.encode(&random));
        let path = std::env::temp_dir().join(name);
        DirBuilder::new().mode(0o700).create(&path).map_err(TestnetError::setup)?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::debug!(%error, "the test network's directory stays");
        }
    }
}
