//! The authority role inside a running node: opened at the start, asked over the handle, its revocations spread.

use halloo_protocol::authority::{EnrolParams, EnrolRequest, RefusalCode, RenewRequest};
use halloo_protocol::directory::Helper;
use halloo_protocol::identity::{UserId, Username};
use halloo_protocol::key::AuthorityKey;
use halloo_protocol::time::{Now, UnixTime};
use tracing::{info, warn};

use super::{Asker, Authority, AuthorityPolicy, RevokeError, RootKeyPlace};
use crate::address;
use crate::builder::StartError;
use crate::event_loop::EventLoop;
use crate::handle::authority::{
    AuthorityAction, AuthorityError, AuthorityInvite, AuthorityLog, AuthorityLogEntry, AuthorityRevocation, AuthorityStatus,
    EnrolError, Enrolled, EnrolmentPolicy, InviteOptions,
};
use crate::handle::problem::{NodeError, UsernameError};
use crate::store::{LogEntry, LogEvent};
use crate::timestamp::Timestamp;

/// Label that an authority suggests when its operator named none.
const DEFAULT_LABEL: &str = "halloo";

/// How long an invite can be used when nothing is said: a week.
const INVITE_SECS: u64 = 7 * 86_400;

/// Names one invite gives.
const INVITE_USES: u32 = 1;

/// Bootstrap nodes named in an invite.
const INVITE_BOOTSTRAP: usize = 4;

/// Log entries shown.
const LOG_MAX: usize = 1_000;

/// The name an authority's own node takes at its authority.
const OWN_NAME: &str = "authority";

impl EventLoop {
    /// Opens the role, and gives this node a name at its own authority, since only certified nodes serve.
    pub(crate) fn open_authority(&mut self, now: UnixTime) -> Result<(), StartError> {
        let failed = |reason: String| StartError::Authority(reason);
        let mut policy = if self.settings.lab { AuthorityPolicy::lab() } else { AuthorityPolicy::default() };
        policy.is_open = self.settings.enrolment == EnrolmentPolicy::Open;
        let place = self.settings.home.clone().map_or(RootKeyPlace::Store, RootKeyPlace::Home);
        let authority = Authority::open(self.store.clone(), place, policy, now).map_err(|error| failed(error.to_string()))?;
        let root = authority.root();
        self.trust.trust(root)?;
        if let Some(list) = authority.revocations() {
            self.trust.apply_revocations(list)?;
        }
        let label = self.authority_label(root);
        self.labels.insert(&label, root)?;
        self.authority = Some(authority);
        if self.identity.authority().is_none() {
            self.enrol_self(&label, root, now).map_err(failed)?;
        }
        Ok(())
    }

    fn authority_label(&self, root: AuthorityKey) -> String {
        let known = self.labels.iter().find(|(_, key)| **key == root).map(|(label, _)| label.to_owned());
        known.or_else(|| self.settings.authority_name.clone()).unwrap_or_else(|| DEFAULT_LABEL.to_owned())
    }

    fn enrol_self(&mut self, label: &str, root: AuthorityKey, now: UnixTime) -> Result<(), String> {
        let name = Username::new(OWN_NAME).map_err(|error| error.to_string())?;
        let device = self.identity.device();
        let authority = self.authority.as_mut().ok_or("no authority role")?;
        let (secret, _) = authority.invite(1, 600, now).map_err(|error| error.to_string())?;
        let params = EnrolParams { authority: root, name: name.clone(), device, invite: Some(secret), succession: None };
        let key = self.identity.identity_key().ok_or("the identity key isn't on this device")?;
        let request = EnrolRequest::new(params, key, now);
        let asker = Asker { device, network: None };
        let grant = authority.enrol(&request, &asker, now).map_err(|refusal| refusal.to_string())?;
        self.accept_own_grant(UserId::Named { authority: root, name }, label, &grant).map_err(|error| error.to_string())?;
        Ok(())
    }

    /// Renews this node's own certificate where this node is the authority. False if it isn't.
    pub(crate) fn renew_locally(&mut self, now: Now) -> bool {
        let user = self.identity.user_id();
        let UserId::Named { authority: root, .. } = user else { return false };
        let Some(authority) = self.authority.as_mut().filter(|authority| authority.root() == root) else { return false };
        let asker = Asker { device: self.identity.device(), network: None };
        match authority.renew(&self.identity.renew_request(), &asker, now.unix) {
            Ok(grant) => {
                let label = self.labels.label_of(&root);
                if let Err(error) = self.accept_own_grant(user, &label, &grant) {
                    warn!(%error, "own certificate not renewed");
                }
            }
            Err(refusal) => warn!(%refusal, "own certificate not renewed"),
        }
        true
    }

    /// A certificate of this very node's authority role, if it is `root`.
    pub(crate) fn certificate_of_own_role(
        &mut self,
        root: AuthorityKey,
        request: &RenewRequest,
    ) -> Option<Result<Enrolled, EnrolError>> {
        let now = self.now().unix;
        self.authority.as_ref().filter(|authority| authority.root() == root)?;
        let asker = Asker { device: self.identity.device(), network: None };
        if let Err(refusal) = self.prove_wish(request, &asker) {
            let (code, reason) = (refusal.code, refusal.detail);
            let is_busy = code == RefusalCode::UNAVAILABLE;
            return Some(Err(if is_busy { EnrolError::Busy { reason } } else { EnrolError::Refused { reason } }));
        }
        let authority = self.authority.as_mut()?;
        let label = self.labels.label_of(&root);
        Some(match authority.renew(request, &asker, now) {
            Ok(grant) => self.accept_own_grant(self.identity.user_id(), &label, &grant),
            Err(refusal) => Err(EnrolError::Refused { reason: refusal.detail }),
        })
    }

    pub(crate) fn authority_show(&self) -> Result<AuthorityStatus, AuthorityError> {
        let authority = self.authority.as_ref().ok_or(AuthorityError::NotAnAuthority)?;
        let status = authority.status().map_err(|error| internal(&error))?;
        Ok(AuthorityStatus {
            name: self.authority_label(status.root),
            key: status.root.to_string(),
            enrolment: if status.is_open { EnrolmentPolicy::Open } else { EnrolmentPolicy::Invite },
            users: status.names,
            revocation_number: status.revocation_number,
            open_invites: status.invites as u64,
        })
    }

    pub(crate) fn authority_invite(&mut self, options: InviteOptions) -> Result<AuthorityInvite, AuthorityError> {
        if options.name.is_some() {
            // An invite's secret opens any free name; binding it to one needs a field in the authority's table.
            return Err(AuthorityError::Node(NodeError::Unsupported { what: "an invite for one name only" }));
        }
        let now = self.now().unix;
        let node = Helper { device: self.identity.device(), addresses: self.own_addresses().into_iter().take(2).collect() };
        let servers = self.directory.machine.table();
        let bootstrap = servers
            .take(INVITE_BOOTSTRAP)
            .map(|known| Helper { device: known.device, addresses: known.addresses.iter().take(2).cloned().collect() })
            .collect();
        let label = self.authority.as_ref().map(|authority| self.authority_label(authority.root())).unwrap_or_default();
        let authority = self.authority.as_mut().ok_or(AuthorityError::NotAnAuthority)?;
        let secs = options.valid_secs.unwrap_or(INVITE_SECS);
        let out_of_range = |reason: String| AuthorityError::InvalidOption { field: "valid_secs", reason };
        let (secret, expires_at) = authority.invite(INVITE_USES, secs, now).map_err(|error| out_of_range(error.to_string()))?;
        let code = authority.invite_code(Some((secret, expires_at)), &label, node, bootstrap);
        let code = code.to_text().map_err(|error| internal(&error))?;
        Ok(AuthorityInvite { code, name: None, expires_at: Timestamp::from_unix_secs(expires_at.0) })
    }

    /// Our addresses as others dial them: confirmed ones, else what we listen on.
    fn own_addresses(&self) -> Vec<halloo_protocol::node::Address> {
        let external = address::best_for_descriptor(self.reach.external());
        if external.is_empty() { address::best_for_descriptor(self.reach.listen()) } else { external }
    }

    pub(crate) fn authority_revoke(&mut self, user: &str) -> Result<AuthorityRevocation, AuthorityError> {
        let now = self.now().unix;
        let root = self.authority.as_ref().ok_or(AuthorityError::NotAnAuthority)?.root();
        let shown = |name: &Username, node: &Self| format!("{name}@{}", node.labels.label_of(&root));
        let name = self.name_here(user)?;
        let authority = self.authority.as_mut().ok_or(AuthorityError::NotAnAuthority)?;
        let list = match authority.revoke(&name, now) {
            Ok(list) => list,
            Err(RevokeError::Unknown(_)) => return Err(AuthorityError::UnknownUser { username: shown(&name, self) }),
            Err(error) => return Err(internal(&error)),
        };
        let serial = self.store.read(|view| view.name(&name)).ok().flatten().map_or(0, |row| row.certificate.unverified().serial);
        info!("user revoked");
        self.handle_revocation_list(&list, None);
        Ok(AuthorityRevocation { username: shown(&name, self), serial, revocation_number: list.list.unverified().number })
    }

    /// A user of this authority, by name.
    pub(crate) fn name_here(&self, user: &str) -> Result<Username, AuthorityError> {
        let root = self.authority.as_ref().ok_or(AuthorityError::NotAnAuthority)?.root();
        match self.labels.parse(user)? {
            UserId::Named { authority, name } if authority == root => Ok(name),
            _ => {
                let reason = "belongs to another authority".to_owned();
                Err(UsernameError::Invalid { username: user.chars().take(128).collect(), reason }.into())
            }
        }
    }

    /// The same, as it is shown.
    pub(crate) fn username_here(&self, name: &Username) -> String {
        let label = self.authority.as_ref().map(|authority| self.labels.label_of(&authority.root()));
        format!("{name}@{}", label.unwrap_or_default())
    }

    pub(crate) fn authority_log(&self) -> Result<AuthorityLog, AuthorityError> {
        let authority = self.authority.as_ref().ok_or(AuthorityError::NotAnAuthority)?;
        let entries = authority.log(None, LOG_MAX).map_err(|error| internal(&error))?;
        let label = self.labels.label_of(&authority.root());
        let mut entries: Vec<_> = entries.iter().map(|entry| shown_entry(entry, &label)).collect();
        entries.sort_by_key(|entry| entry.number);
        Ok(AuthorityLog { entries })
    }
}

fn internal(error: &dyn std::error::Error) -> AuthorityError {
    AuthorityError::Node(NodeError::Internal { detail: crate::calls::describe(error) })
}

fn shown_entry(entry: &LogEntry, label: &str) -> AuthorityLogEntry {
    let full = |name: &Username| Some(format!("{name}@{label}"));
    let (action, username, identity, serial) = match &entry.event {
        LogEvent::Created => (AuthorityAction::Created, None, None, None),
        LogEvent::SigningCertified { serial, .. } => (AuthorityAction::SigningCertified, None, None, Some(*serial)),
        LogEvent::Invited { .. } => (AuthorityAction::Invited, None, None, None),
        LogEvent::Enrolled { name, identity, serial } => {
            (AuthorityAction::Enrolled, full(name), Some(identity.to_string()), Some(*serial))
        }
        LogEvent::Renewed { name, serial } => (AuthorityAction::Renewed, full(name), None, Some(*serial)),
        LogEvent::Succeeded { name, new, serial, .. } => {
            (AuthorityAction::Succeeded, full(name), Some(new.to_string()), Some(*serial))
        }
        LogEvent::Freed { name } => (AuthorityAction::Freed, full(name), None, None),
        LogEvent::Revoked { name, .. } => (AuthorityAction::Revoked, full(name), None, None),
        LogEvent::Certified { name, is_certified: true, .. } => (AuthorityAction::Certified, full(name), None, None),
        LogEvent::Certified { name, is_certified: false, .. } => (AuthorityAction::Uncertified, full(name), None, None),
    };
    AuthorityLogEntry { number: entry.sequence, at: Timestamp::from_unix_secs(entry.at.0), action, username, identity, serial }
}
