//! Getting a username, keeping it, and what this home remembers of authorities.

use std::time::{Duration, Instant};

use halloo_protocol::authority::{
    EnrolAnswer, EnrolGrant, EnrolRequest, EnrolResult, GrantError, InviteCode, InviteSecret, Refusal, RefusalCode, RenewRequest,
};
use halloo_protocol::directory::Helper;
use halloo_protocol::identity::{SignedRevocationList, UserChain, UserId, Username};
use halloo_protocol::key::AuthorityKey;
use halloo_protocol::node::Roles;
use halloo_protocol::time::Now;
use halloo_protocol::wire::{self, Frame};
use tracing::{debug, info, warn};

use crate::event_loop::EventLoop;
use crate::handle::authority::{EnrolError, EnrolOptions, Enrolled};
use crate::handle::problem::{NodeError, UsernameError};
use crate::handle::{Event, Reply};
use crate::labels::Labels;
use crate::network::{Purpose, Target};
use crate::rpc::Failure;
use crate::store::{Store, StoreError, Transaction};
use crate::timestamp::Timestamp;

/// How long an authority may take to answer: it may have to be dialled, and it writes to disk.
const ENROL_TIMEOUT: Duration = Duration::from_secs(15);

/// How long to wait between tries to renew a certificate.
const RENEWAL_RETRY: Duration = Duration::from_secs(3_600);

/// Settings' names in the store.
const AUTHORITIES: &str = "authorities";
const AUTHORITY_NODE: &str = "authority node";
const BOOTSTRAP_NODES: &str = "bootstrap nodes";

/// A request to an authority under way.
#[derive(Debug)]
pub(crate) struct Asking {
    user: UserId,
    label: Option<String>,
    node: Option<Helper>,
    bootstrap: Vec<Helper>,
    reply: Option<Reply<Enrolled, EnrolError>>,
    /// It was asked for to have another certificate: who waits for that.
    certifying: Option<Box<crate::linked::Certifying>>,
}

/// What enrolment remembers while running.
#[derive(Debug, Default)]
pub(crate) struct EnrolmentState {
    renewal_tried: Option<Instant>,
}

/// The authorities this home knows, by label.
///
/// # Errors
/// [`StoreError`] if the database can't be read.
pub(crate) fn known_authorities(store: &Store) -> Result<Vec<(String, AuthorityKey)>, StoreError> {
    Ok(store.read(|view| view.setting_value(AUTHORITIES))?.unwrap_or_default())
}

/// Remembers an authority's label.
///
/// # Errors
/// [`StoreError`] if the database can't be written.
pub(crate) fn remember_authority(store: &Store, label: &str, root: AuthorityKey) -> Result<(), StoreError> {
    store.transaction(|tx| {
        let mut known: Vec<(String, AuthorityKey)> = tx.setting_value(AUTHORITIES)?.unwrap_or_default();
        if !known.iter().any(|(_, key)| *key == root) {
            known.push((label.to_owned(), root));
            tx.put_setting_value(AUTHORITIES, &known)?;
        }
        Ok(())
    })
}

/// Keeps what a new device was told of authorities and ways into the network.
///
/// # Errors
/// [`StoreError`] if the database can't be written.
pub(crate) fn keep_linked(
    tx: &Transaction,
    authorities: &Vec<(String, AuthorityKey)>,
    bootstrap: &Vec<Helper>,
    revocations: &[SignedRevocationList],
) -> Result<(), StoreError> {
    tx.put_setting_value(AUTHORITIES, authorities)?;
    tx.put_setting_value(BOOTSTRAP_NODES, bootstrap)?;
    revocations.iter().try_for_each(|list| tx.put_revocation_list(&list.list.unverified().authority, &wire::encode(list)))
}

/// The revocation lists seen so far.
///
/// # Errors
/// [`StoreError`] if the database can't be read.
pub(crate) fn known_revocations(store: &Store) -> Result<Vec<SignedRevocationList>, StoreError> {
    let lists = store.read::<_, StoreError>(|view| view.revocation_lists())?;
    Ok(lists.into_iter().filter_map(|(_, bytes)| wire::decode(&bytes, wire::FRAME_BYTES_MAX).ok()).collect())
}

/// Nodes to join the network through, as the invite or the authority named them.
pub(crate) fn known_bootstrap(store: &Store) -> Vec<Helper> {
    let known = store.read(|view| view.setting_value::<Vec<Helper>>(BOOTSTRAP_NODES));
    let mut helpers = known.unwrap_or_default().unwrap_or_default();
    if let Ok(Some(node)) = store.read(|view| view.setting_value::<Helper>(AUTHORITY_NODE)) {
        helpers.push(node);
    }
    helpers
}

/// An invite, or what stands in for one.
struct Way {
    root: AuthorityKey,
    label: String,
    node: Option<Helper>,
    bootstrap: Vec<Helper>,
    secret: Option<InviteSecret>,
}

impl EventLoop {
    pub(crate) fn handle_enrol(&mut self, options: EnrolOptions, reply: Reply<Enrolled, EnrolError>) {
        match self.begin_enrol(&options) {
            Ok((target, request, mut asking)) => {
                asking.reply = Some(reply);
                self.request(&target, &request, Purpose::Enrol(Box::new(asking)), ENROL_TIMEOUT);
            }
            Err(error) => reply.send(Err(error)),
        }
    }

    fn begin_enrol(&mut self, options: &EnrolOptions) -> Result<(Target, EnrolRequest, Asking), EnrolError> {
        let (name, label) = match options.username.split_once('@') {
            Some((name, label)) => (name, Some(label)),
            None => (options.username.as_str(), None),
        };
        let name = Username::new(name).map_err(|error| UsernameError::Invalid {
            username: options.username.chars().take(128).collect(),
            reason: error.to_string(),
        })?;
        let way = self.way_to_authority(label, options.invite.as_deref())?;
        let user = UserId::Named { authority: way.root, name: name.clone() };
        if self.identity.authority().is_some() && self.identity.user_id() != user {
            return Err(EnrolError::AlreadyEnrolled { username: self.labels.display(&self.identity.user_id()) });
        }
        let target = self.authority_target(&way)?;
        let now = self.now().unix;
        let request = self
            .identity
            .enrol_request(way.root, name, way.secret, None, now)
            .map_err(|error| internal_text(error.to_string()))?;
        let asking =
            Asking { user, label: Some(way.label), node: way.node, bootstrap: way.bootstrap, reply: None, certifying: None };
        Ok((target, request, asking))
    }

    /// A node of the authority that has named this user.
    pub(crate) fn own_authority_target(&self) -> Result<Target, EnrolError> {
        self.authority_target(&self.way_to_authority(None, None)?)
    }

    fn way_to_authority(&self, label: Option<&str>, invite: Option<&str>) -> Result<Way, EnrolError> {
        let bad_label = |error: crate::labels::LabelError| EnrolError::InvalidInvite { reason: error.to_string() };
        if let Some(text) = invite {
            let code = InviteCode::parse(text).map_err(|error| EnrolError::InvalidInvite { reason: error.to_string() })?;
            let label = Labels::check(label.unwrap_or(&code.label)).map_err(bad_label)?;
            // Refuses now what couldn't be stored after the authority has given the name.
            self.labels.clone().insert(&label, code.root).map_err(bad_label)?;
            return Ok(Way { root: code.root, label, node: Some(code.node), bootstrap: code.bootstrap, secret: code.secret });
        }
        let root = match label {
            Some(label) => {
                self.labels.authority(label).ok_or_else(|| UsernameError::UnknownAuthority { authority: label.to_owned() })?
            }
            None => self.labels.home().ok_or_else(|| EnrolError::InvalidInvite {
                reason: "without an invite code, say at which authority: NAME@AUTHORITY".into(),
            })?,
        };
        let node = self.store.read(|view| view.setting_value::<Helper>(AUTHORITY_NODE)).ok().flatten();
        Ok(Way { root, label: self.labels.label_of(&root), node, bootstrap: Vec::new(), secret: None })
    }

    /// The node to ask: the one the invite names, else a connected one with the role.
    fn authority_target(&self, way: &Way) -> Result<Target, EnrolError> {
        if let Some(target) = way.node.as_ref().and_then(|helper| self.helper_target(helper)) {
            return Ok(target);
        }
        let is_this = |root: AuthorityKey, user: &UserId| matches!(user, UserId::Named { authority, .. } if *authority == root);
        self.peers
            .with_roles(Roles::AUTHORITY)
            .find(|(_, peer)| peer.chain.as_ref().is_some_and(|chain| is_this(way.root, &chain.user.id)))
            .map(|(peer, _)| Target::connected(*peer))
            .ok_or_else(|| EnrolError::Unreachable { reason: "no node of this authority is known; use an invite code".into() })
    }

    pub(crate) fn enrol_answer(&mut self, asking: Asking, frame: &Frame) {
        let outcome = match frame.parse::<EnrolAnswer>() {
            Ok(answer) => match answer.result {
                EnrolResult::Granted(grant) => self.accept_grant(&asking, &grant),
                EnrolResult::Refused(refusal) => Err(self.refused(&asking, refusal)),
            },
            Err(error) => Err(EnrolError::Untrusted { reason: error.to_string() }),
        };
        if let Some(certifying) = asking.certifying {
            return self.certify_answered(*certifying, outcome);
        }
        match (asking.reply, outcome) {
            (Some(reply), outcome) => reply.send(outcome),
            (None, Err(error)) => warn!(%error, "certificate not renewed"),
            (None, Ok(_)) => {}
        }
    }

    pub(crate) fn enrol_failure(&mut self, asking: Asking, failure: Failure) {
        if let Some(certifying) = asking.certifying {
            return self.certify_answered(*certifying, Err(EnrolError::Unreachable { reason: failure.to_string() }));
        }
        match asking.reply {
            Some(reply) => reply.send(Err(EnrolError::Unreachable { reason: failure.to_string() })),
            None => debug!(%failure, "authority not reached for renewal"),
        }
    }

    fn refused(&self, asking: &Asking, refusal: Refusal) -> EnrolError {
        match refusal.code {
            RefusalCode::NAME_TAKEN | RefusalCode::NAME_FREED | RefusalCode::NAME_REVOKED => {
                let name = match &asking.user {
                    UserId::Named { name, .. } => format!("{name}@{}", asking.label.as_deref().unwrap_or("?")),
                    UserId::Key(_) => String::new(),
                };
                EnrolError::NameTaken { username: name }
            }
            RefusalCode::UNAVAILABLE => EnrolError::Busy { reason: refusal.detail.chars().take(300).collect() },
            _ => EnrolError::Refused { reason: refusal.detail.chars().take(300).collect() },
        }
    }

    /// Verifies a grant, keeps it, and lives by it from now on.
    fn accept_grant(&mut self, asking: &Asking, grant: &EnrolGrant) -> Result<Enrolled, EnrolError> {
        let UserId::Named { authority: root, .. } = asking.user else {
            return Err(EnrolError::Untrusted { reason: "a name was asked for and none given".into() });
        };
        let now = self.now().unix;
        let mut trust = self.trust.clone();
        let untrusted = |error: GrantError| EnrolError::Untrusted { reason: error.to_string() };
        trust.trust(root).map_err(|error| untrusted(error.into()))?;
        let verified = grant.verify(&asking.user, &self.identity.identity(), now, &trust).map_err(untrusted)?;
        let is_renewal = self.identity.user_id() == asking.user;
        self.keep_grant(asking, grant, root).map_err(internal)?;
        self.identity.set_user_chain(grant.chain.clone()).map_err(|error| internal_text(error.to_string()))?;
        if let Some(label) = &asking.label {
            // Checked before asking; a clash now could only come from a second enrolment at the same moment.
            let _ = self.labels.insert(label, root);
        }
        self.trust = trust;
        self.labels.set_home(root);
        if let Some(list) = &grant.revocations {
            self.handle_revocation_list(list, None);
        }
        let username = self.labels.display(&asking.user);
        info!("enrolled");
        let not_after = Timestamp::from_unix_secs(verified.not_after.0);
        self.events.send(Event::Enrolled { username: username.clone(), not_after });
        if is_renewal {
            // The same person in the same place: peers learn of the new certificate, and nobody is cut off.
            self.directory_role_changed();
            self.refresh_hello();
            self.publish_soon();
        } else {
            self.identity_changed();
        }
        Ok(Enrolled {
            username,
            identity: verified.identity.to_string(),
            authority_key: root.to_string(),
            serial: verified.serial,
            not_after,
        })
    }

    fn keep_grant(&self, asking: &Asking, grant: &EnrolGrant, root: AuthorityKey) -> Result<(), StoreError> {
        if let Some(label) = &asking.label {
            remember_authority(&self.store, label, root)?;
        }
        let mut bootstrap = asking.bootstrap.clone();
        if let Some(list) = grant.bootstrap.as_ref().and_then(|list| list.verify().ok()) {
            bootstrap.extend(
                list.nodes
                    .iter()
                    .map(|node| Helper { device: node.device, addresses: node.addresses.iter().take(2).cloned().collect() }),
            );
        }
        bootstrap.truncate(32);
        self.store.transaction(|tx| {
            if let Some(node) = &asking.node {
                tx.put_setting_value(AUTHORITY_NODE, node)?;
            }
            if !bootstrap.is_empty() {
                tx.put_setting_value(BOOTSTRAP_NODES, &bootstrap)?;
            }
            Ok(())
        })
    }

    pub(crate) fn store_revocation_list(&self, list: &SignedRevocationList) {
        let authority = list.list.unverified().authority;
        let bytes = wire::encode(list);
        if let Err(error) = self.store.transaction::<_, StoreError>(|tx| tx.put_revocation_list(&authority, &bytes)) {
            warn!(%error, "revocation list not stored");
        }
    }

    /// Our own chain is another: say so, take our place, publish.
    pub(crate) fn identity_changed(&mut self) {
        self.directory_identity_changed();
        self.refresh_hello();
        self.join_network();
        self.publish_soon();
    }

    /// Asks for a new certificate in good time.
    pub(crate) fn enrolment_tick(&mut self, now: Now) {
        if !self.identity.renewal_due(now.unix) && !self.are_own_hints_void() {
            return;
        }
        if self.enrolment.renewal_tried.is_some_and(|at| now.instant.saturating_duration_since(at) < RENEWAL_RETRY) {
            return;
        }
        self.enrolment.renewal_tried = Some(now.instant);
        let user = self.identity.user_id();
        let UserId::Named { authority: root, .. } = user else { return };
        if self.renew_locally(now) {
            return;
        }
        let Ok(target) = self.own_authority(root) else { return };
        let request = self.identity.renew_request();
        let asking = Asking { user, label: None, node: None, bootstrap: Vec::new(), reply: None, certifying: None };
        self.request(&target, &request, Purpose::Enrol(Box::new(asking)), ENROL_TIMEOUT);
    }

    /// Whether the own certificate hints at something that the authority has taken back: the next one says what still counts.
    fn are_own_hints_void(&self) -> bool {
        match &self.identity.chain().user {
            UserChain::Named { root, user, .. } => {
                let user = user.unverified();
                self.trust.are_hints_revoked(root, user.serial) && !user.indicators().is_empty()
            }
            UserChain::Key(_) => false,
        }
    }

    fn own_authority(&self, root: AuthorityKey) -> Result<Target, EnrolError> {
        let node = self.store.read(|view| view.setting_value::<Helper>(AUTHORITY_NODE)).ok().flatten();
        let way = Way { root, label: self.labels.label_of(&root), node, bootstrap: Vec::new(), secret: None };
        self.authority_target(&way)
    }

    /// Asks the authority for a certificate that says more, or less.
    pub(crate) fn request_certificate(&mut self, request: &RenewRequest, certifying: crate::linked::Certifying) {
        let user = self.identity.user_id();
        let UserId::Named { authority: root, .. } = user else { return };
        if let Some(outcome) = self.certificate_of_own_role(root, request) {
            return self.certify_answered(certifying, outcome);
        }
        match self.own_authority(root) {
            Ok(target) => {
                let certifying = Some(Box::new(certifying));
                let asking = Asking { user, label: None, node: None, bootstrap: Vec::new(), reply: None, certifying };
                self.request(&target, request, Purpose::Enrol(Box::new(asking)), ENROL_TIMEOUT);
            }
            Err(error) => self.certify_answered(certifying, Err(error)),
        }
    }

    /// Takes over a grant of this very node's authority role.
    pub(crate) fn accept_own_grant(&mut self, user: UserId, label: &str, grant: &EnrolGrant) -> Result<Enrolled, EnrolError> {
        let asking =
            Asking { user, label: Some(label.to_owned()), node: None, bootstrap: Vec::new(), reply: None, certifying: None };
        self.accept_grant(&asking, grant)
    }
}

fn internal(error: StoreError) -> EnrolError {
    internal_text(error.to_string())
}

fn internal_text(detail: String) -> EnrolError {
    EnrolError::Node(NodeError::Internal { detail })
}
