//! The role *authority*: gives names to identity keys, renews them and takes them back.
//!
//! [`Authority`] holds the authority's keys and works on its tables in the [`Store`]; it does no networking and never reads the clock. The event
//! loop hands it the frames of [`halloo_protocol::authority`] with [`Authority::handle_frame`]; the command line and the API call
//! [`Authority::invite`], [`Authority::revoke`] and the rest through the node.
//!
//! Keys. The *root key* is the authority: made once, kept in `authority-root.key` beside the store, and needed only to certify the
//! *signing key*, which is in the store and does the daily work. The root key's file may be moved to a safe place; the authority goes on until
//! the signing key's certificate ends, a year after it was made (see [`AuthorityStatus`]), and renews it by itself, at half its time,
//! whenever it starts, or [`Authority::maintain`] is called, with the root key in its place.
//!
//! Rules that hold whatever is asked:
//! - A name belongs to one key. Another key gets it only with a [`KeySuccession`](halloo_protocol::identity::KeySuccession) signed by the present key, and never a key it
//!   belonged to before: a stolen old key can't take it back.
//! - A name that was freed goes to nobody else, and a revoked one to nobody.
//! - Everything an answer says is committed before the answer is returned.

mod certify;
mod codes;
mod enrol;
mod limits;
mod phone;
mod proofs;
mod revoke;
mod service;
mod signing;
mod sip;
mod ways;

pub use codes::Letter;
pub use limits::{AuthorityPolicy, NetworkGroup};
pub(crate) use phone::Phones;
pub use revoke::RevokeError;
pub(crate) use sip::SipCodes;
pub(crate) use ways::CodeWays;

use std::path::{Path, PathBuf};

use halloo_protocol::authority::{
    BootstrapList, EnrolAnswer, EnrolRequest, EnrolResult, InviteCode, InviteSecret, Refusal, RefusalCode, RenewRequest,
    RevocationListAnswer, RevocationListRequest, SignedBootstrapList,
};
use halloo_protocol::directory::Helper;
use halloo_protocol::identity::{SignedRevocationList, SigningCertificate};
use halloo_protocol::key::{AuthorityKey, DeviceKey, SecretKey};
use halloo_protocol::node::Descriptor;
use halloo_protocol::time::UnixTime;
use halloo_protocol::wire::{Extensions, Frame, FrameKind, Message, Signed};

use crate::key_file::{self, KeyFileError};
use crate::store::{InviteRow, LogEntry, LogEvent, Store, StoreError, Transaction};
use limits::Limiter;

/// Invites outstanding at once; expired ones are dropped first.
pub const INVITES_MAX: usize = 10_000;

/// Names one invite may give.
pub const INVITE_USES_MAX: u32 = 100_000;

/// Longest time an invite is good for.
pub const INVITE_SECS_MAX: u64 = 366 * 86_400;

const BOOTSTRAP_SETTING: &str = "authority bootstrap list";
const REVOCATIONS_SETTING: &str = "authority revocation list";

/// Why the authority can't start or an operator's command fails.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// The root key's file holds another key than the one this authority was made with.
    #[error("{} holds another authority's root key", .0.display())]
    OtherRootKey(PathBuf),
    /// The signing key's certificate is over, and the root key that could renew it isn't here.
    #[error("the signing certificate ended at {not_after}: put the root key back as {} and start again", path.display())]
    SigningExpired {
        /// When it ended.
        not_after: UnixTime,
        /// Where the root key belongs.
        path: PathBuf,
    },
    /// An invite with these numbers can't be made.
    #[error("an invite gives 1 to {INVITE_USES_MAX} names and is good for 1 to {INVITE_SECS_MAX} seconds")]
    InviteRange,
    /// Too many invites are outstanding.
    #[error("{INVITES_MAX} invites are outstanding already")]
    TooManyInvites,
    /// More bootstrap nodes than a list holds, or one of them is malformed.
    #[error("bootstrap nodes: {0}")]
    Bootstrap(#[from] halloo_protocol::wire::DecodeError),
    /// The root key's file.
    #[error(transparent)]
    KeyFile(#[from] KeyFileError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Where the root key is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootKeyPlace {
    /// In `authority-root.key` in this home.
    Home(PathBuf),
    /// In the store: for authorities without a home, as in tests and local networks.
    Store,
}

/// Who asks: what the connection shows, nothing the asker says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker {
    /// The device at the other end.
    pub device: DeviceKey,
    /// The network it comes from; `None` if unknown, as behind a relay.
    pub network: Option<NetworkGroup>,
}

/// What the operator sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorityStatus {
    /// The root key: the authority itself.
    pub root: AuthorityKey,
    /// True if the root key is in its place.
    pub has_root_key: bool,
    /// When the signing key's certificate ends.
    pub signing_not_after: UnixTime,
    /// Whether anyone may enrol without an invite.
    pub is_open: bool,
    /// Names ever given.
    pub names: u64,
    /// Invites outstanding, used up and expired ones included until they are dropped.
    pub invites: usize,
    /// Number of the newest revocation list; 0 if there is none.
    pub revocation_number: u64,
}

/// An authority at work. One per store.
#[derive(Debug)]
pub struct Authority {
    store: Store,
    root_place: RootKeyPlace,
    root: AuthorityKey,
    has_root_key: bool,
    signing_key: SecretKey,
    signing: Signed<SigningCertificate>,
    policy: AuthorityPolicy,
    limiter: Limiter,
    codes: codes::Codes,
    proofs: proofs::Proofs,
    revocations: Option<SignedRevocationList>,
    bootstrap: Option<SignedBootstrapList>,
}

impl Authority {
    /// Opens the authority in `store`, or makes one.
    ///
    /// # Errors
    /// [`AuthorityError::OtherRootKey`], [`AuthorityError::SigningExpired`], [`AuthorityError::KeyFile`] or [`AuthorityError::Store`].
    pub fn open(store: Store, root_place: RootKeyPlace, policy: AuthorityPolicy, now: UnixTime) -> Result<Self, AuthorityError> {
        let keys = signing::load_or_create(&store, &root_place, now)?;
        let revocations = store.read(|view| view.setting_value(REVOCATIONS_SETTING))?;
        let bootstrap = store.read(|view| view.setting_value(BOOTSTRAP_SETTING))?;
        Ok(Self {
            store,
            root_place,
            root: keys.root,
            has_root_key: keys.has_root_key,
            signing_key: keys.signing_key,
            signing: keys.signing,
            policy,
            limiter: Limiter::default(),
            codes: codes::Codes::default(),
            proofs: proofs::Proofs::default(),
            revocations,
            bootstrap,
        })
    }

    /// Renews the signing key's certificate if it is time and the root key is in its place, and drops expired invites. Call it daily.
    ///
    /// # Errors
    /// [`AuthorityError`] as for [`Authority::open`].
    pub fn maintain(&mut self, now: UnixTime) -> Result<(), AuthorityError> {
        let keys = signing::load_or_create(&self.store, &self.root_place, now)?;
        self.has_root_key = keys.has_root_key;
        self.signing = keys.signing;
        self.store.transaction(|tx| drop_expired_invites(tx, now))?;
        Ok(())
    }

    /// Answers a request of [`halloo_protocol::authority`]; `None` if the frame is something else.
    pub fn handle_frame(&mut self, frame: &Frame, asker: &Asker, now: UnixTime) -> Option<Frame> {
        match frame.kind {
            EnrolRequest::KIND => Some(answer(frame, |request| self.enrol(request, asker, now))),
            RenewRequest::KIND => Some(answer(frame, |request| self.renew(request, asker, now))),
            RevocationListRequest::KIND => Some(self.answer_revocation_list(frame)),
            _ => None,
        }
    }

    fn answer_revocation_list(&self, frame: &Frame) -> Frame {
        let Ok(request) = frame.parse::<RevocationListRequest>() else { return unsupported(frame.id) };
        let list = self.revocations.clone().filter(|list| {
            let list = list.list.unverified();
            list.authority == request.authority && list.number > request.have
        });
        Frame::new(frame.id, &RevocationListAnswer { list, extensions: Extensions::none() })
    }

    /// Makes an invite that gives `uses` names until `ttl_secs` from now. The secret is returned once; the store keeps its digest.
    ///
    /// # Errors
    /// [`AuthorityError::InviteRange`], [`AuthorityError::TooManyInvites`], [`AuthorityError::Store`].
    pub fn invite(&mut self, uses: u32, ttl_secs: u64, now: UnixTime) -> Result<(InviteSecret, UnixTime), AuthorityError> {
        if !(1..=INVITE_USES_MAX).contains(&uses) || !(1..=INVITE_SECS_MAX).contains(&ttl_secs) {
            return Err(AuthorityError::InviteRange);
        }
        let secret = InviteSecret(key_file::random_bytes()?);
        let expires_at = now.plus_secs(ttl_secs);
        self.store.transaction(|tx| {
            drop_expired_invites(tx, now)?;
            if tx.invites()?.len() >= INVITES_MAX {
                return Err(AuthorityError::TooManyInvites);
            }
            tx.put_invite(&secret.digest(), &InviteRow { uses_left: uses, expires_at })?;
            tx.log_authority(now, &LogEvent::Invited { uses, expires_at })?;
            Ok(())
        })?;
        Ok((secret, expires_at))
    }

    /// The code for an invite made with [`Authority::invite`], or, without one, for open enrolment. `node` is this node as others reach it;
    /// `bootstrap` are more ways in, at most eight.
    #[must_use]
    pub fn invite_code(
        &self,
        invite: Option<(InviteSecret, UnixTime)>,
        label: &str,
        node: Helper,
        bootstrap: Vec<Helper>,
    ) -> InviteCode {
        InviteCode {
            root: self.root,
            label: label.to_owned(),
            node,
            bootstrap,
            secret: invite.map(|(secret, _)| secret),
            expires_at: invite.map(|(_, expires_at)| expires_at),
            extensions: Extensions::none(),
        }
    }

    /// Signs a new list of bootstrap nodes, unless the newest has the same nodes.
    ///
    /// # Errors
    /// [`AuthorityError::Bootstrap`], [`AuthorityError::Store`].
    pub fn set_bootstrap(&mut self, nodes: Vec<Descriptor>, now: UnixTime) -> Result<(), AuthorityError> {
        use halloo_protocol::wire::{Body, DecodeError, encode};
        let newest = self.bootstrap.as_ref().map(|list| list.list.unverified());
        if newest.is_some_and(|list| list.nodes == nodes) {
            return Ok(());
        }
        let number = newest.map_or(1, |list| list.number.saturating_add(1));
        let list = BootstrapList { authority: self.root, number, nodes, issued_at: now, extensions: Extensions::none() };
        list.check()?;
        let length = encode(&list).len();
        if length > BootstrapList::LIMIT {
            return Err(DecodeError::TooLarge { length, limit: BootstrapList::LIMIT }.into());
        }
        let signed = SignedBootstrapList { signing: self.signing.clone(), list: Signed::sign(list, &self.signing_key) };
        self.store.transaction(|tx| tx.put_setting_value(BOOTSTRAP_SETTING, &signed))?;
        self.bootstrap = Some(signed);
        Ok(())
    }

    /// Changes whom it enrols.
    pub fn set_policy(&mut self, policy: AuthorityPolicy) {
        self.policy = policy;
    }

    /// The root key: the authority itself.
    #[must_use]
    pub const fn root(&self) -> AuthorityKey {
        self.root
    }

    /// The newest revocation list.
    #[must_use]
    pub const fn revocations(&self) -> Option<&SignedRevocationList> {
        self.revocations.as_ref()
    }

    /// The newest list of bootstrap nodes.
    #[must_use]
    pub const fn bootstrap(&self) -> Option<&SignedBootstrapList> {
        self.bootstrap.as_ref()
    }

    /// What the operator sees.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn status(&self) -> Result<AuthorityStatus, StoreError> {
        let (names, invites) = self.store.read(|view| {
            let usable = view.invites()?.iter().filter(|(_, invite)| invite.uses_left > 0).count();
            Ok::<_, StoreError>((view.name_count()?, usable))
        })?;
        Ok(AuthorityStatus {
            root: self.root,
            has_root_key: self.has_root_key,
            signing_not_after: self.signing.unverified().not_after,
            is_open: self.policy.is_open,
            names,
            invites,
            revocation_number: self.revocations.as_ref().map_or(0, |list| list.list.unverified().number),
        })
    }

    /// The last `limit` lines of the log, oldest first; with `before`, the last ones before that number.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn log(&self, before: Option<u64>, limit: usize) -> Result<Vec<LogEntry>, StoreError> {
        self.store.read(|view| view.authority_log(before, limit))
    }
}

fn drop_expired_invites(tx: &Transaction, now: UnixTime) -> Result<(), StoreError> {
    for (digest, invite) in tx.invites()? {
        if invite.expires_at.plus_secs(EXPIRED_INVITE_SECS) < now {
            tx.remove_invite(&digest)?;
        }
    }
    Ok(())
}

/// How long an expired invite is remembered, so that its holder is told "expired" instead of "unknown".
const EXPIRED_INVITE_SECS: u64 = 30 * 86_400;

fn answer<M: Message>(
    frame: &Frame,
    handle: impl FnOnce(&M) -> Result<halloo_protocol::authority::EnrolGrant, Refusal>,
) -> Frame {
    let Ok(request) = frame.parse::<M>() else { return unsupported(frame.id) };
    let result = match handle(&request) {
        Ok(grant) => EnrolResult::Granted(Box::new(grant)),
        Err(refusal) => EnrolResult::Refused(refusal),
    };
    Frame::new(frame.id, &EnrolAnswer { result, extensions: Extensions::none() })
}

const fn unsupported(id: u32) -> Frame {
    Frame { kind: FrameKind::UNSUPPORTED, id, body: Vec::new() }
}

fn refuse(code: RefusalCode, detail: impl Into<String>) -> Refusal {
    Refusal { code, detail: detail.into() }
}

/// Where the root key belongs, for messages.
fn root_key_path(home: &Path) -> PathBuf {
    home.join(key_file::KeyRole::AuthorityRoot.file_name())
}

#[cfg(test)]
mod tests;
