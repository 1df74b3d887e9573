//! Hints at linked identities in certificates: asked for by their owner, and given by an operator who knows that they are the user's.
//!
//! A hint is a piece of the slow hash of the identity, so both wait for that first ([`super::slow`]). The authority's answer is a certificate like any other.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use halloo_protocol::authority::{CertifyWish, RenewRequest};
use halloo_protocol::identity::{UserChain, UserId, Username};
use halloo_protocol::linked::{Carrier, Indicator, LinkedId};
use halloo_protocol::wire::Extensions;
use tracing::{info, warn};

use crate::event_loop::EventLoop;
use crate::handle::Reply;
use crate::handle::authority::{AuthorityCertified, AuthorityError, EnrolError, Enrolled};
use crate::handle::linked::{LinkCertified, LinkError};
use crate::handle::problem::NodeError;
use crate::store::StoreError;
use crate::timestamp::Timestamp;

const WISHED: &str = "linked certificate wishes";

/// Identities that are wished; a certificate hints at fewer.
const WISHED_MAX: usize = 32;

/// Wishes under way, of both kinds.
const WAITING_MAX: usize = 16;

/// How long one may wait for a hash.
const HASH_AT_MOST: Duration = Duration::from_secs(60);

/// How often the authority is asked again that is still at it.
const TRIES: u32 = 10;
const AGAIN_AFTER: Duration = Duration::from_secs(2);

/// A wish on its way to the authority.
#[derive(Debug)]
pub(crate) struct Certifying {
    id: LinkedId,
    is_wanted: bool,
    tries: u32,
    /// `None`: the node wishes it anew by itself.
    reply: Option<Reply<LinkCertified, LinkError>>,
}

impl Certifying {
    fn answer(self, answer: Result<LinkCertified, LinkError>) {
        match (self.reply, answer) {
            (Some(reply), answer) => reply.send(answer),
            (None, Err(error)) => warn!(id = %self.id, %error, "the certificate hints at it as long as what proved it before"),
            (None, Ok(_)) => {}
        }
    }
}

#[derive(Debug)]
enum Waiting {
    /// For the hash, then to ask the authority.
    Own(Certifying),
    /// The operator's, for the hash.
    Operator { name: Username, id: LinkedId, reply: Reply<AuthorityCertified, AuthorityError> },
}

impl Waiting {
    const fn id(&self) -> &LinkedId {
        match self {
            Self::Own(certifying) => &certifying.id,
            Self::Operator { id, .. } => id,
        }
    }
}

/// What waits, and until when, and what the user wishes.
#[derive(Debug, Default)]
pub(super) struct Certifications {
    waiting: Vec<(Waiting, Instant)>,
    /// Identities that the certificate is to hint at: one that was renewed when a proof was about to end does without.
    wished: BTreeSet<LinkedId>,
}

// The own certificate.
impl EventLoop {
    pub(super) fn certifications_start(&mut self) {
        match self.store.read::<_, StoreError>(|view| view.setting_value::<Vec<LinkedId>>(WISHED)) {
            Ok(wished) => self.linked.certifications.wished = wished.unwrap_or_default().into_iter().collect(),
            Err(error) => warn!(%error, "at what the certificate is to hint isn't read"),
        }
    }

    /// Remembers what the user wishes.
    fn note_wish(&mut self, id: &LinkedId, is_wanted: bool) {
        let wished = &mut self.linked.certifications.wished;
        let is_changed = if !is_wanted {
            wished.remove(id)
        } else if wished.len() < WISHED_MAX {
            wished.insert(id.clone())
        } else {
            false
        };
        let wished: Vec<LinkedId> = wished.iter().cloned().collect();
        if is_changed && let Err(error) = self.store.transaction::<_, StoreError>(|tx| tx.put_setting_value(WISHED, &wished)) {
            warn!(%error, "at what the certificate is to hint isn't written");
        }
    }

    pub(super) fn certify_own(&mut self, text: &str, is_wanted: bool, reply: Reply<LinkCertified, LinkError>) {
        let id = match text.parse::<LinkedId>() {
            Ok(id) => id,
            Err(error) => return reply.send(Err(error.into())),
        };
        if !matches!(self.identity.user_id(), UserId::Named { .. }) {
            let reason = "a certificate comes from an authority, and this user has none: halloo enrol".to_owned();
            return reply.send(Err(LinkError::Options { reason }));
        }
        if self.linked.certifications.waiting.len() >= WAITING_MAX {
            return reply.send(Err(NodeError::LimitReached { what: "wishes for certificates", max: WAITING_MAX }.into()));
        }
        if !is_wanted {
            // Whatever the authority says.
            self.note_wish(&id, false);
        }
        let waiting = Waiting::Own(Certifying { id: id.clone(), is_wanted, tries: 0, reply: Some(reply) });
        self.linked.certifications.waiting.push((waiting, Instant::now() + HASH_AT_MOST));
        if self.slow_of(&id).is_some() {
            self.certify_slow_known(&id);
        }
    }

    /// There is a newer proof of an account at which the certificate hints, or is to: the authority is shown it, for the hint to outlast the old one.
    pub(super) fn certify_anew(&mut self, id: &LinkedId) {
        let is_hinted = self.linked.slow.known(id).is_some_and(|slow| self.is_certified(slow.indicator));
        let is_wished = is_hinted || self.linked.certifications.wished.contains(id);
        if is_wished && self.linked.certifications.waiting.len() < WAITING_MAX {
            self.ask_to_certify(Certifying { id: id.clone(), is_wanted: true, tries: 0, reply: None });
        }
    }

    /// Whether the own certificate hints at an identity.
    pub(super) fn is_certified(&self, indicator: Indicator) -> bool {
        match &self.identity.chain().user {
            UserChain::Named { user, .. } => user.unverified().indicators().contains(&indicator),
            UserChain::Key(_) => false,
        }
    }

    fn certify_request(&self, certifying: &Certifying) -> RenewRequest {
        let association = self.linked.accounts.get(&certifying.id).and_then(|account| account.stored.association.clone());
        let proof = self.own_proof(&certifying.id).unwrap_or_default();
        let (id, is_wanted) = (certifying.id.clone(), certifying.is_wanted);
        let wish = CertifyWish { id, is_wanted, association, proof, extensions: Extensions::none() };
        RenewRequest { extensions: wish.add_to(Extensions::none()), ..self.identity.renew_request() }
    }

    fn ask_to_certify(&mut self, certifying: Certifying) {
        let request = self.certify_request(&certifying);
        self.request_certificate(&request, certifying);
    }

    /// The authority has answered, or can't be reached.
    pub(crate) fn certify_answered(&mut self, mut certifying: Certifying, outcome: Result<Enrolled, EnrolError>) {
        let Certifying { id, is_wanted, .. } = &certifying;
        let failed = |reason: String| LinkError::Failed { account: id.to_string(), reason };
        let answer = match outcome {
            Err(EnrolError::Busy { .. }) if certifying.tries < TRIES => {
                certifying.tries += 1;
                self.linked.certifications.waiting.push((Waiting::Own(certifying), Instant::now() + AGAIN_AFTER));
                return;
            }
            Err(error) => Err(failed(error.to_string())),
            Ok(granted) => {
                let is_certified = self.slow_of(id).is_some_and(|slow| self.is_certified(slow.indicator));
                if is_certified == *is_wanted {
                    self.note_wish(&id.clone(), is_certified);
                    info!(%id, is_certified, "the certificate is another");
                    Ok(LinkCertified { id: id.to_string(), is_certified, not_after: granted.not_after })
                } else {
                    Err(failed("the authority's certificate doesn't say so".to_owned()))
                }
            }
        };
        certifying.answer(answer);
    }
}

// The operator's side.
impl EventLoop {
    pub(crate) fn authority_certify(
        &mut self,
        user: &str,
        text: &str,
        is_certified: bool,
        reply: Reply<AuthorityCertified, AuthorityError>,
    ) {
        let (name, id) = match self.whom_to_certify(user, text) {
            Ok(found) => found,
            Err(error) => return reply.send(Err(error)),
        };
        if !is_certified {
            return reply.send(self.certify_now(&name, &id, None));
        }
        if self.linked.certifications.waiting.len() >= WAITING_MAX {
            let error = NodeError::LimitReached { what: "identities being certified", max: WAITING_MAX };
            return reply.send(Err(error.into()));
        }
        let waiting = Waiting::Operator { name, id: id.clone(), reply };
        self.linked.certifications.waiting.push((waiting, Instant::now() + HASH_AT_MOST));
        if self.slow_of(&id).is_some() {
            self.certify_slow_known(&id);
        }
    }

    fn whom_to_certify(&self, user: &str, text: &str) -> Result<(Username, LinkedId), AuthorityError> {
        let name = self.name_here(user)?;
        let id = text.parse::<LinkedId>();
        let id = id.map_err(|error| AuthorityError::InvalidOption { field: "id", reason: error.to_string() })?;
        Ok((name, id))
    }

    fn certify_now(
        &mut self,
        name: &Username,
        id: &LinkedId,
        indicator: Option<Indicator>,
    ) -> Result<AuthorityCertified, AuthorityError> {
        let now = self.now().unix;
        let authority = self.authority.as_mut().ok_or(AuthorityError::NotAnAuthority)?;
        let certified = authority.certify(name, id, indicator, now);
        let shown = self.username_here(name);
        match certified {
            Ok(list) => {
                if let Some(list) = list {
                    self.handle_revocation_list(&list, None);
                }
                Ok(AuthorityCertified { username: shown, id: id.to_string(), is_certified: indicator.is_some() })
            }
            Err(error) => Err(error.into_handle(shown)),
        }
    }
}

// Both.
impl EventLoop {
    /// A slow hash is known, or can't be: whoever waits for it goes on.
    pub(super) fn certify_slow_known(&mut self, id: &LinkedId) {
        let slow = self.linked.slow.known(id).cloned();
        let all = std::mem::take(&mut self.linked.certifications.waiting);
        let (ready, waiting): (Vec<_>, Vec<_>) = all.into_iter().partition(|(waiting, _)| waiting.id() == id);
        self.linked.certifications.waiting = waiting;
        for (waiting, until) in ready {
            match (waiting, &slow) {
                (waiting, None) => self.linked.certifications.waiting.push((waiting, until)),
                (Waiting::Own(certifying), Some(_)) => self.ask_to_certify(certifying),
                (Waiting::Operator { name, id, reply }, Some(slow)) => {
                    reply.send(self.certify_now(&name, &id, Some(slow.indicator)));
                }
            }
        }
    }

    pub(super) fn certify_tick(&mut self, now: Instant) {
        let all = std::mem::take(&mut self.linked.certifications.waiting);
        let (over, waiting): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, until)| *until <= now);
        self.linked.certifications.waiting = waiting;
        for (waiting, _) in over {
            match waiting {
                // It was asked before: now again.
                Waiting::Own(certifying) if certifying.tries > 0 => self.ask_to_certify(certifying),
                Waiting::Own(certifying) => {
                    let reason = "its slow hash takes too long".to_owned();
                    let account = certifying.id.to_string();
                    certifying.answer(Err(LinkError::Failed { account, reason }));
                }
                Waiting::Operator { reply, .. } => {
                    let detail = "the slow hash takes too long".to_owned();
                    reply.send(Err(NodeError::Internal { detail }.into()));
                }
            }
        }
    }

    /// Carriers that are switched on.
    pub(crate) fn carriers(&self) -> halloo_protocol::linked::Carriers {
        self.settings.linked.carriers()
    }

    /// Whether one's own certificate hints at an account.
    pub(super) fn certified_until(&self, id: &LinkedId) -> Option<Timestamp> {
        if !self.carriers().has(Carrier::Certificate) {
            return None;
        }
        let slow = self.linked.slow.known(id)?;
        self.is_certified(slow.indicator).then(|| Timestamp::from_unix_secs(self.identity.not_after().0))
    }
}
