//! How much of a vault a mailbox keeps, and for whom.

use bincode::{Decode, Encode};

use super::{CHUNKS_MAX, VaultPut};
use crate::mailbox::MailboxReason;
use crate::time::UnixTime;

/// Most bytes of one user's vault: the largest contact list and the state of its conversations.
pub const VAULT_BYTES_MAX: u64 = 24 * 1024 * 1024;

/// How long a vault is kept that nobody looks into, in seconds: longer than a phone lies in a drawer.
pub const VAULT_SECS: u64 = 400 * 86_400;

/// Versions given in a second stay below this: a put costs a commit.
const VERSIONS_PER_SEC: u64 = 1_024;

/// What a mailbox bears in all.
#[derive(Clone, Copy, Debug)]
pub struct VaultPolicy {
    /// Vaults.
    pub vaults_max: u64,
    /// Bytes of all of them.
    pub bytes_max: u64,
}

/// One user's vault at one mailbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct VaultAccount {
    /// Chunks in it.
    pub chunks: u32,
    /// Their bytes.
    pub bytes: u64,
    /// The newest version given.
    pub version: u64,
    /// When a device of the user was last heard.
    pub seen_at: UnixTime,
}

impl VaultAccount {
    /// True once it may be thrown away.
    #[must_use]
    pub const fn is_over(&self, now: UnixTime) -> bool {
        now.secs_since(self.seen_at) > VAULT_SECS
    }
}

/// Why a chunk isn't kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VaultRefusal {
    /// Of no size class.
    #[error("no size class")]
    Size,
    /// The user's vault is full.
    #[error("the vault is full")]
    VaultFull,
    /// This mailbox is full.
    #[error("the mailbox is full")]
    MailboxFull,
}

impl VaultRefusal {
    /// What the user's device is told.
    #[must_use]
    pub const fn reason(self) -> MailboxReason {
        match self {
            Self::Size => MailboxReason::SIZE,
            Self::VaultFull => MailboxReason::SHARE,
            Self::MailboxFull => MailboxReason::FULL,
        }
    }
}

/// The account after a put on top of the right version, where `old_bytes` is what the chunk had (0 for a new one); or why not.
///
/// # Errors
/// [`VaultRefusal`]. Taking something out, or replacing by what isn't larger, is refused only for its size class.
pub fn decide_put(
    put: &VaultPut,
    account: &VaultAccount,
    old_bytes: u64,
    (vaults, bytes): (u64, u64),
    policy: &VaultPolicy,
    now: UnixTime,
) -> Result<VaultAccount, VaultRefusal> {
    let new_bytes = put.chunk.as_ref().map_or(0, |chunk| chunk.as_bytes().len() as u64);
    if let Some(chunk) = &put.chunk {
        chunk.check().map_err(|_| VaultRefusal::Size)?;
    }
    let is_new = old_bytes == 0 && new_bytes > 0;
    let is_gone = old_bytes > 0 && new_bytes == 0;
    let mut after = *account;
    after.chunks = after.chunks.saturating_add(u32::from(is_new)).saturating_sub(u32::from(is_gone));
    after.bytes = after.bytes.saturating_sub(old_bytes).saturating_add(new_bytes);
    // Above the clock: a mailbox restored from a backup gives no version a second time.
    after.version = after.version.saturating_add(1).max(now.0.saturating_mul(VERSIONS_PER_SEC));
    after.seen_at = now;
    if new_bytes <= old_bytes {
        return Ok(after);
    }
    if after.bytes > VAULT_BYTES_MAX || after.chunks as usize > CHUNKS_MAX {
        return Err(VaultRefusal::VaultFull);
    }
    let is_first = account.version == 0;
    let grown = bytes.saturating_add(new_bytes - old_bytes);
    if grown > policy.bytes_max || (is_first && vaults >= policy.vaults_max) {
        return Err(VaultRefusal::MailboxFull);
    }
    Ok(after)
}
