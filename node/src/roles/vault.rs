//! The vault part of the mailbox role: keeps sealed chunks for users, for their devices alone.

use std::time::{Duration, Instant};

use halloo_protocol::identity::VerifiedChain;
use halloo_protocol::key::{DeviceKey, IdentityKey, PublicKey};
use halloo_protocol::mailbox::MailboxReason;
use halloo_protocol::rate::{Rate, RateLimiter};
use halloo_protocol::time::Now;
use halloo_protocol::vault::{
    CHUNKS_MAX, FETCH_BYTES_MAX, VaultAccount, VaultChunks, VaultFetch, VaultIndex, VaultKept, VaultNews, VaultPolicy, VaultPut,
    VaultPutStatus, decide_put,
};
use halloo_protocol::wire::Extensions;
use tracing::{debug, warn};

use crate::address;
use crate::event_loop::EventLoop;
use crate::network::Target;
use crate::store::StoreError;

/// Vaults, and bytes of all: what a small machine's disk bears beside its letters.
const POLICY: VaultPolicy = VaultPolicy { vaults_max: 20_000, bytes_max: 4 * 1024 * 1024 * 1024 };

/// Reads of one user's devices, and writes, each of which costs a commit. A new device reads a whole vault, one with a thousand contacts writes
/// one.
const READ_RATE: Rate = Rate { per_hour: 6_000, burst: 2_000 };
const WRITE_RATE: Rate = Rate { per_hour: 3_000, burst: 1_200 };

/// Users whose rates are remembered.
const RATES_MAX: usize = 65_536;

/// How often a look is noted on disk, in seconds.
const TOUCH_SECS: u64 = 86_400;

/// How often vaults whose time is over are looked for, how many each time, and how many chunks of each.
const PURGE_EVERY: Duration = Duration::from_secs(600);
const PURGE_VAULTS: usize = 64;
const PURGE_CHUNKS: usize = 64;

/// The role's state; vaults are in the store.
#[derive(Debug)]
pub(crate) struct VaultKeeper {
    reading: RateLimiter<PublicKey>,
    writing: RateLimiter<PublicKey>,
    purge_at: Instant,
    purged_to: Option<IdentityKey>,
}

impl VaultKeeper {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            reading: RateLimiter::new(RATES_MAX),
            writing: RateLimiter::new(RATES_MAX),
            purge_at: now + PURGE_EVERY,
            purged_to: None,
        }
    }
}

impl EventLoop {
    /// A device asks what its user's vault has.
    pub(crate) fn handle_vault_look(&mut self, chain: Option<&VerifiedChain>) -> VaultIndex {
        let refused = |reason| VaultIndex { refused: Some(reason), ..VaultIndex::default() };
        self.look_into_vault(chain).unwrap_or_else(refused)
    }

    fn look_into_vault(&mut self, chain: Option<&VerifiedChain>) -> Result<VaultIndex, MailboxReason> {
        let user = self.admit_vault_reader(chain)?;
        let now = self.now().unix;
        let found =
            self.store.read::<_, StoreError>(|view| Ok((view.vault_account(&user)?, view.vault_index(&user, CHUNKS_MAX)?)));
        let (account, chunks) = found.map_err(failed)?;
        if let Some(account) = account.filter(|account| now.secs_since(account.seen_at) > TOUCH_SECS) {
            let touched = VaultAccount { seen_at: now, ..account };
            self.store.transaction::<_, StoreError>(|tx| tx.touch_vault(&user, &touched)).map_err(failed)?;
        }
        Ok(VaultIndex { chunks, refused: None, extensions: Extensions::none() })
    }

    fn admit_vault_reader(&mut self, chain: Option<&VerifiedChain>) -> Result<IdentityKey, MailboxReason> {
        let now = Instant::now();
        let keeper = self.vault_keeper.as_mut().ok_or(MailboxReason::NOT_SERVED)?;
        let user = chain.ok_or(MailboxReason::NOT_CERTIFIED)?.user.identity;
        keeper.reading.take(&user.0, READ_RATE, now).map_err(|_| MailboxReason::RATE)?;
        Ok(user)
    }

    /// A device fetches chunks.
    pub(crate) fn handle_vault_fetch(&mut self, chain: Option<&VerifiedChain>, request: &VaultFetch) -> VaultChunks {
        let refused = |reason| VaultChunks { refused: Some(reason), ..VaultChunks::default() };
        self.fetch_from_vault(chain, request).unwrap_or_else(refused)
    }

    fn fetch_from_vault(&mut self, chain: Option<&VerifiedChain>, request: &VaultFetch) -> Result<VaultChunks, MailboxReason> {
        let user = self.admit_vault_reader(chain)?;
        let found = self.store.read::<_, StoreError>(|view| {
            let mut chunks = Vec::new();
            let mut bytes = 0;
            for id in &request.ids {
                let Some(held) = view.vault_chunk(&user, *id)? else { continue };
                bytes += held.chunk.as_bytes().len();
                if bytes > FETCH_BYTES_MAX && !chunks.is_empty() {
                    break;
                }
                chunks.push(held);
            }
            Ok(chunks)
        });
        Ok(VaultChunks { chunks: found.map_err(failed)?, refused: None, extensions: Extensions::none() })
    }

    /// A device writes.
    pub(crate) fn handle_vault_put(&mut self, chain: Option<&VerifiedChain>, request: VaultPut) -> VaultKept {
        let status = self.put_into_vault(chain, request).unwrap_or_else(VaultPutStatus::Refused);
        if let (VaultPutStatus::Kept { .. }, Some(chain)) = (status, chain) {
            self.tell_of_vault(chain);
        }
        VaultKept { status, extensions: Extensions::none() }
    }

    fn put_into_vault(&mut self, chain: Option<&VerifiedChain>, request: VaultPut) -> Result<VaultPutStatus, MailboxReason> {
        let now = self.now();
        let keeper = self.vault_keeper.as_mut().ok_or(MailboxReason::NOT_SERVED)?;
        let user = chain.ok_or(MailboxReason::NOT_CERTIFIED)?.user.identity;
        keeper.writing.take(&user.0, WRITE_RATE, now.instant).map_err(|_| MailboxReason::RATE)?;
        let outcome = self.store.transaction::<_, StoreError>(|tx| {
            let held = tx.vault_chunk(&user, request.id)?;
            let version = held.as_ref().map_or(0, |held| held.mark.version);
            if version != request.base {
                return Ok(Ok(VaultPutStatus::Conflict { version }));
            }
            let account = tx.vault_account(&user)?.unwrap_or_default();
            let old = held.map_or(0, |held| held.chunk.as_bytes().len() as u64);
            match decide_put(&request, &account, old, tx.vault_sums()?, &POLICY, now.unix) {
                Ok(after) => {
                    tx.put_vault_chunk(&user, request.id, request.chunk.clone(), &after)?;
                    Ok(Ok(VaultPutStatus::Kept { version: after.version }))
                }
                Err(refusal) => Ok(Err(refusal)),
            }
        });
        outcome.map_err(failed)?.map_err(|refusal| {
            debug!(%refusal, "chunk refused");
            refusal.reason()
        })
    }

    /// Tells the user's other devices that are connected.
    fn tell_of_vault(&mut self, writer: &VerifiedChain) {
        let is_other = |device: &DeviceKey| *device != writer.device;
        let others: Vec<_> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.chain.as_ref().is_some_and(|chain| chain.user.identity == writer.user.identity))
            .map(|(_, peer)| peer.device)
            .filter(is_other)
            .collect();
        for peer in others.iter().filter_map(address::peer_id) {
            self.notify(&Target::connected(peer), &VaultNews::default());
        }
    }

    /// How many vaults are kept here.
    pub(crate) fn vaults_kept(&self) -> u32 {
        let sums = self.store.read::<_, StoreError>(|view| view.vault_sums());
        let count = sums.inspect_err(|error| warn!(%error, "vaults not counted")).map_or(0, |(count, _)| count);
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Throws away what is over, some vaults at a time.
    pub(crate) fn vault_keeper_tick(&mut self, now: Now) {
        let Some(keeper) = self.vault_keeper.as_mut().filter(|keeper| keeper.purge_at <= now.instant) else { return };
        keeper.purge_at = now.instant + PURGE_EVERY;
        let from = keeper.purged_to.take();
        let vaults = match self.store.read::<_, StoreError>(|view| view.vault_accounts_after(from.as_ref(), PURGE_VAULTS)) {
            Ok(vaults) => vaults,
            Err(error) => return warn!(%error, "vaults not read"),
        };
        if vaults.len() >= PURGE_VAULTS {
            keeper.purged_to = vaults.last().map(|(user, _)| *user);
        }
        for (user, _) in vaults.iter().filter(|(_, account)| account.is_over(now.unix)) {
            if let Err(error) = self.store.transaction::<_, StoreError>(|tx| tx.remove_vault(user, PURGE_CHUNKS)) {
                return warn!(%error, "what is over was not thrown away");
            }
        }
    }
}

fn failed(error: StoreError) -> MailboxReason {
    warn!(%error, "vault");
    MailboxReason::TEMPORARY
}
