//! Calls between contacts in a linked system: whom to call for an identity there, and whether who calls is one.
//!
//! A call whose caller's place has to be looked at first is answered as held. It rings once that was looked at and allows it; a refusal comes after
//! [`LOOK_AT_MOST`], whatever there was to look at and however soon it was seen, so that nobody learns who is in a contact list.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use halloo_protocol::call::{CallId, SealedInvite, VerifiedInvite};
use halloo_protocol::contact::privacy::Kind;
use halloo_protocol::event::EventKind;
use halloo_protocol::identity::{UserId, VerifiedUser};
use halloo_protocol::key::IdentityKey;
use halloo_protocol::linked::{
    Association, Carrier, Claim, Grounds, LinkedContact, LinkedId, LinkedPart, NotLinked, SIGHTING_SECS_FRESH, SIGHTING_SECS_MAX,
    Sighting, System, TokenPart, TrustDecision, TrustRequest, decide, decide_by_first,
};
use halloo_protocol::time::Now;
use halloo_protocol::wire::Signed;

use crate::calls::Arrival;
use crate::event_loop::EventLoop;
use crate::handle::Reply;
use crate::handle::calls::{CallError, CallOutcome, DialOptions};
use crate::handle::linked::{LinkedCallee, LinkedClaim};
use crate::handle::problem::UsernameError;

/// How long a call whose caller's place is looked at is held at most, and whoever is refused in any case.
const LOOK_AT_MOST: Duration = Duration::from_secs(5);

/// How long its caller is told that it is held.
const HELD_SECS: u16 = 2;

/// How long a dial waits for a look at the callee's place.
const DIAL_LOOK: Duration = Duration::from_secs(15);

/// Calls held for a look at once, and of one identity; more are refused, as strangers are.
const HELD_MAX: usize = 32;
const HELD_OF_ONE_MAX: usize = 2;

/// Calls whose callers' places were looked at; copies of their invites are judged by that.
const LOOKED_MAX: usize = 64;

/// Dials that wait for a look.
const DIALS_MAX: usize = 8;

#[derive(Debug)]
struct Held {
    call: CallId,
    caller: IdentityKey,
    claim: Looked,
    sealed: SealedInvite,
    arrival: Arrival,
    account: LinkedId,
    place: LinkedId,
    since: Instant,
    /// The place was just looked at: it is judged at the next tick, by what was seen within so many seconds.
    looked: Option<u64>,
}

#[derive(Debug)]
struct Dial {
    account: LinkedId,
    place: LinkedId,
    options: DialOptions,
    reply: Reply<CallOutcome, CallError>,
    until: Instant,
}

/// A call, who makes it, and as whom: another claim under the same call's id is another one.
type Looked = (CallId, IdentityKey, Option<LinkedId>);

/// What waits for a look at a place.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    held: Vec<Held>,
    looked: VecDeque<Looked>,
    dials: Vec<Dial>,
}

impl Waiting {
    fn note_looked(&mut self, call: Looked) {
        if self.looked.len() >= LOOKED_MAX {
            self.looked.pop_front();
        }
        self.looked.push_back(call);
    }

    /// What a call waits for is known.
    pub(super) fn looked_for(&mut self, call: CallId) {
        self.held.iter_mut().filter(|held| held.call == call).for_each(|held| held.looked = Some(SIGHTING_SECS_FRESH));
    }
}

/// What an invite says; what can't be read is nothing said.
enum Said {
    Association(Box<LinkedPart>),
    Token(TokenPart),
    Nothing,
}

impl Said {
    fn of(invite: &VerifiedInvite) -> Self {
        let invite = invite.invite();
        if let Some(part) = LinkedPart::of(invite).ok().flatten() {
            return Self::Association(Box::new(part));
        }
        TokenPart::of(invite).ok().flatten().map_or(Self::Nothing, Self::Token)
    }

    /// Who the callee is there, as the caller says.
    fn account(&self) -> Option<&LinkedId> {
        match self {
            Self::Association(part) => Some(&part.callee),
            Self::Token(part) => Some(&part.callee),
            Self::Nothing => None,
        }
    }
}

fn looked_of(invite: &VerifiedInvite) -> Looked {
    let place = match Said::of(invite) {
        Said::Association(part) => Some(part.association.unverified().linked.clone()),
        Said::Token(part) => Some(part.caller),
        Said::Nothing => None,
    };
    (invite.invite().call, invite.caller().user.identity, place)
}

// Being called.
impl EventLoop {
    /// Whether somebody may ring here, as a contact or as one in a linked system, and why.
    pub(crate) fn decide_on_caller(&mut self, invite: &VerifiedInvite, sighting_secs_max: u64) -> TrustDecision {
        let kind = if invite.invite().kind == EventKind::VIDEO_CALL { Kind::Video } else { Kind::Call };
        let user = &invite.caller().user;
        self.note_present();
        self.learn_merges_of(&user.id, &user.identity);
        let relation = self.relation(user);
        let said = Said::of(invite);
        let call = invite.invite().call;
        let carriers = self.carriers();
        let by_request = match &said {
            _ if !carriers.has(Carrier::Request) => None,
            // That an account with tokens alone is this user's nobody learns, not by how long a refusal takes either.
            said if said.account().is_some_and(|account| self.linked.token_only.contains(account)) => None,
            Said::Association(part) => Some(Claim::Association(part)),
            Said::Token(part) => Some(Claim::Token { part, call, shown: self.linked.tokens.shown(part, call) }),
            Said::Nothing => None,
        };
        let claims: Vec<Claim<'_>> = by_request.into_iter().chain(self.claims_unsaid(user)).collect();
        let request = TrustRequest { user: &user.id, identity: &user.identity, relation, kind, claim: None };
        let decision = decide_by_first(&request, &claims, &self.grounds(sighting_secs_max));
        drop(claims);
        if let Err(NotLinked::Proof(error)) = decision.linked {
            self.look_for_keys(error);
        }
        decision
    }

    /// What is known of somebody who says nothing of a linked system, in the order of the carriers.
    fn claims_unsaid<'a>(&'a self, user: &'a VerifiedUser) -> impl Iterator<Item = Claim<'a>> {
        let carriers = self.carriers();
        let (indicators, contacts) = (self.trust.indicators(user), self.linked.slow.indicated());
        let hinted =
            (!indicators.is_empty() && carriers.has(Carrier::Certificate)).then_some(Claim::Certificate { indicators, contacts });
        let seen = self.seen_as_ever(user).map(|key| self.linked.seen_by.get(key).copied().unwrap_or(Carrier::Place));
        hinted.into_iter().chain(seen.filter(|carrier| carriers.has(*carrier)).map(Claim::Seen))
    }

    /// As whom somebody was seen in an own contact list elsewhere, however long ago.
    fn seen_as_ever(&self, user: &VerifiedUser) -> Option<&(LinkedId, LinkedId)> {
        let is_theirs = |sighting: &Sighting| {
            sighting.proved_at.is_none()
                && sighting
                    .association
                    .as_ref()
                    .map(Signed::unverified)
                    .is_some_and(|said| said.user == user.id && said.identity == user.identity)
        };
        let is_shown = |(account, place): &(LinkedId, LinkedId)| {
            !self.linked.token_only.contains(account)
                && self.linked.lists.get(account).is_some_and(|list| list.contains_key(place))
        };
        self.linked.known.iter().find(|(key, sighting)| is_theirs(sighting) && is_shown(key)).map(|(key, _)| key)
    }

    /// What somebody from elsewhere is judged by. Of accounts with tokens alone others don't learn that they are this user's.
    pub(super) fn grounds(&self, sighting_secs_max: u64) -> Grounds<'_> {
        Grounds {
            lists: &self.linked.lists,
            hidden: &self.linked.token_only,
            known: &self.linked.known,
            trusted: self.trusted_proofs(),
            settings: self.privacy_settings(),
            sighting_secs_max,
            now: self.now().unix,
        }
    }

    /// Whether a user's certificate makes them a contact in a linked system.
    pub(super) fn is_contact_by_certificate(&self, user: &VerifiedUser) -> bool {
        let contacts = self.linked.slow.indicated();
        let indicators = self.trust.indicators(user);
        if indicators.is_empty() || !self.carriers().has(Carrier::Certificate) {
            return false;
        }
        let claim = Some(Claim::Certificate { indicators, contacts });
        let relation = halloo_protocol::contact::privacy::Relation::Stranger;
        let request = TrustRequest { user: &user.id, identity: &user.identity, relation, kind: Kind::Call, claim };
        decide(&request, &self.grounds(SIGHTING_SECS_MAX)).linked.is_ok()
    }

    /// The contact in a linked system as whom a caller is let in.
    pub(crate) fn linked_caller(&mut self, invite: &VerifiedInvite) -> Option<LinkedContact> {
        let decision = self.decide_on_caller(invite, SIGHTING_SECS_MAX);
        if let (Said::Association(part), Ok(_)) = (Said::of(invite), &decision.linked) {
            self.note_proved(&part);
        }
        decision.linked.ok().filter(|_| decision.decision.because == halloo_protocol::contact::privacy::Because::Linked)
    }

    /// Whether a call is held until its caller's place was looked at. True for copies too.
    pub(crate) fn is_held_for_look(&mut self, sealed: &SealedInvite, arrival: Arrival, invite: &VerifiedInvite) -> Option<u16> {
        let call = invite.invite().call;
        if self.linked.calls.held.iter().any(|held| held.call == call) {
            return Some(HELD_SECS);
        }
        if self.linked.calls.looked.contains(&looked_of(invite)) || !self.has_linked() {
            return None;
        }
        let decision = self.decide_on_caller(invite, SIGHTING_SECS_FRESH);
        let caller = invite.caller().user.identity;
        let held = &self.linked.calls.held;
        let of_one = held.iter().filter(|held| held.caller == caller).count();
        let has_room = held.len() < HELD_MAX && of_one < HELD_OF_ONE_MAX;
        if !decision.takes_a_look || !has_room || !self.admit_caller(&invite.caller().user.identity.0) {
            return None;
        }
        let said = Said::of(invite);
        let is_said = self.carriers().has(Carrier::Request);
        let (account, place) = match &said {
            Said::Association(part) if is_said => (part.callee.clone(), part.association.unverified().linked.clone()),
            Said::Token(part) if is_said => (part.callee.clone(), part.caller.clone()),
            _ => self.seen_as_ever(&invite.caller().user)?.clone(),
        };
        let is_in_list = self.linked.lists.get(&account).is_some_and(|list| list.contains_key(&place));
        let is_asked = match &said {
            Said::Token(part) if is_said && is_in_list => {
                self.ask_for_token(part, call);
                true
            }
            _ if is_in_list => self.look_at(&account, &place),
            _ => true,
        };
        // Nobody can look: whoever is let in by what was seen before needn't wait.
        if !is_asked && self.decide_on_caller(invite, SIGHTING_SECS_MAX).decision.is_allowed {
            self.linked.calls.note_looked(looked_of(invite));
            return None;
        }
        let (sealed, since) = (sealed.clone(), Instant::now());
        let claim = looked_of(invite);
        self.linked.calls.held.push(Held { call, caller, claim, sealed, arrival, account, place, since, looked: None });
        Some(HELD_SECS)
    }

    /// How old what was seen may be for this call: a look was tried, or there was no need of one.
    pub(crate) fn sighting_secs_for(&self, invite: &VerifiedInvite) -> u64 {
        if self.linked.calls.looked.contains(&looked_of(invite)) { SIGHTING_SECS_MAX } else { SIGHTING_SECS_FRESH }
    }

    /// A place was looked at, or couldn't be: then what was seen before counts.
    pub(super) fn linked_looked(&mut self, account: &LinkedId, place: &LinkedId, was_seen: bool) {
        let secs_max = if was_seen { SIGHTING_SECS_FRESH } else { SIGHTING_SECS_MAX };
        for held in self.linked.calls.held.iter_mut().filter(|held| held.account == *account && held.place == *place) {
            held.looked = Some(secs_max);
        }
        let is_it = |dial: &Dial| dial.account == *account && dial.place == *place;
        let (ready, waiting): (Vec<_>, Vec<_>) = self.linked.calls.dials.drain(..).partition(is_it);
        self.linked.calls.dials = waiting;
        for dial in ready {
            self.dial_linked_now(dial);
        }
    }

    pub(super) fn linked_calls_tick(&mut self, now: Now) {
        let mut due = Vec::new();
        for mut held in std::mem::take(&mut self.linked.calls.held) {
            let is_over = now.instant.saturating_duration_since(held.since) >= LOOK_AT_MOST;
            let looked = held.looked.take();
            if is_over || looked.is_some_and(|secs_max| self.is_let_in(&held, secs_max)) {
                due.push(held);
            } else {
                self.linked.calls.held.push(held);
            }
        }
        for held in due {
            self.linked.calls.note_looked(held.claim);
            self.ring_after_look(&held.sealed, held.arrival, held.call);
        }
        let (over, waiting): (Vec<_>, Vec<_>) = self.linked.calls.dials.drain(..).partition(|dial| dial.until <= now.instant);
        self.linked.calls.dials = waiting;
        over.into_iter().for_each(|dial| self.dial_linked_now(dial));
    }
}

impl EventLoop {
    /// Whether what was seen by now lets the caller in.
    fn is_let_in(&mut self, held: &Held, secs_max: u64) -> bool {
        let opened = held.sealed.open(&self.hpke, &self.identity.device(), self.now().unix, &self.trust);
        opened.is_ok_and(|invite| self.decide_on_caller(&invite, secs_max).decision.is_allowed)
    }
}

// Calling.
impl EventLoop {
    /// A dial to an identity in a linked system: made one to the user whom its place shows, at once or once that was looked at. `None`: it is taken care of.
    ///
    /// Who is in a contact list comes first, then what the directory says, then what an address leads to by itself: a telephone number to a gateway, a SIP address at an authority to its user.
    pub(crate) fn take_linked_dial(
        &mut self,
        mut options: DialOptions,
        reply: Reply<CallOutcome, CallError>,
    ) -> Option<(DialOptions, Reply<CallOutcome, CallError>)> {
        let place = match options.users.as_slice() {
            [user] if options.linked.is_none() && !options.by_telephone => user.parse::<LinkedId>().ok(),
            _ => None,
        };
        if let Some(contact) = options.as_contact.take() {
            return match self.named_callee(&options, &contact) {
                Ok(callee) => {
                    options.linked = Some(Box::new(callee));
                    Some((options, reply))
                }
                Err(reason) => {
                    reply.send(Err(CallError::NotLinked { id: contact, reason }));
                    None
                }
            };
        }
        // Whoever names a gateway means the telephone.
        let Some(place) = place.filter(|_| options.via.is_none()) else { return Some((options, reply)) };
        self.note_present();
        let account = self.account_with(&place);
        let Some(account) = account else {
            let reason = "isn't in the contact list of a linked account".to_owned();
            self.dial_by_directory(place, options, reply, reason);
            return None;
        };
        if let Ok(callee) = self.linked_callee(&account, &place, SIGHTING_SECS_FRESH) {
            options.linked = Some(Box::new(callee));
            if self.linked.token_only.contains(&account) {
                self.issue_token(&account, options, reply);
                return None;
            }
            return Some((options, reply));
        }
        let dial = Dial { account: account.clone(), place: place.clone(), options, reply, until: Instant::now() + DIAL_LOOK };
        if self.linked.calls.dials.len() < DIALS_MAX && self.look_at(&account, &place) {
            self.linked.calls.dials.push(dial);
        } else {
            self.dial_linked_now(dial);
        }
        None
    }

    /// The look has ended, well or not.
    fn dial_linked_now(&mut self, dial: Dial) {
        let Dial { place, mut options, reply, .. } = dial;
        let Some(account) = self.account_with(&place) else {
            return self.dial_otherwise(&place, options, reply, "isn't in the contact list of a linked account".to_owned());
        };
        match self.linked_callee(&account, &place, SIGHTING_SECS_MAX) {
            Ok(callee) => {
                options.linked = Some(Box::new(callee));
                if self.linked.token_only.contains(&account) {
                    return self.issue_token(&account, options, reply);
                }
                self.handle_dial(options, reply);
            }
            Err(reason) => self.dial_by_directory(place, options, reply, reason),
        }
    }

    /// A user by their name here, or by that in a linked system (`xmpp:bob@example.org`).
    ///
    /// # Errors
    /// [`UsernameError`] if it is neither, or nothing was seen there that says who it is.
    pub(crate) fn parse_user_or_linked(&self, text: &str) -> Result<UserId, UsernameError> {
        let is_elsewhere = text.parse::<LinkedId>().is_ok();
        match self.linked_user(text) {
            Some(user) => Ok(user),
            None if is_elsewhere => Err(UsernameError::Invalid {
                username: text.to_owned(),
                reason: "isn't a contact in a linked system who shows who they are here: halloo link list".to_owned(),
            }),
            None => self.labels.parse(text),
        }
    }

    /// Whom somebody in a linked system is who is asked into a conference, with what the invite says; `None` for a name here.
    ///
    /// # Errors
    /// [`CallError::NotLinked`].
    pub(crate) fn linked_addition(&self, text: &str) -> Result<Option<LinkedCallee>, CallError> {
        let Some(place) = text.parse::<LinkedId>().ok().filter(|id| id.system() == System::Xmpp) else { return Ok(None) };
        let refuse = |reason: String| CallError::NotLinked { id: place.to_string(), reason };
        let account = self.account_with(&place);
        let account = account.ok_or_else(|| refuse("isn't in the contact list of a linked account".to_owned()))?;
        if self.linked.token_only.contains(&account) {
            return Err(refuse(
                "calls of that account go by tokens, one call for each: they can't be asked into another".to_owned(),
            ));
        }
        self.linked_callee(&account, &place, SIGHTING_SECS_MAX).map(Some).map_err(refuse)
    }

    /// Who a contact in a linked system (`xmpp:bob@example.org`) is here, by what was seen last; or somebody whom the directory has named lately.
    pub(crate) fn linked_user(&self, text: &str) -> Option<UserId> {
        self.said_by(text).map(|said| said.user.clone())
    }

    /// The identity key of whom an address in a linked system leads to: what is sent to the address is for nobody else who has the name. `None` for a name here.
    pub(crate) fn linked_key(&self, text: &str) -> Option<IdentityKey> {
        self.said_by(text).map(|said| said.identity)
    }

    fn said_by(&self, text: &str) -> Option<&Association> {
        let place = text.parse::<LinkedId>().ok()?;
        let said = self.account_with(&place).and_then(|account| self.linked.known.get(&(account, place.clone())));
        let said = said.and_then(|seen| seen.holds(self.now().unix).ok());
        said.or_else(|| self.found_lately(&place))
    }

    /// The own account in whose contact list somebody is; a connected one if there are several.
    pub(super) fn account_with(&self, place: &LinkedId) -> Option<LinkedId> {
        let with = self.linked.lists.iter().filter(|(_, list)| list.contains_key(place)).map(|(account, _)| account);
        with.max_by_key(|account| self.linked.accounts.get(account).is_some_and(|account| account.is_connected)).cloned()
    }

    /// Somebody called by their name here, as the contact in a linked system that this user takes them for: they are shown who this user is there.
    fn named_callee(&self, options: &DialOptions, contact: &str) -> Result<LinkedCallee, String> {
        let place: LinkedId = contact.parse().map_err(|error: halloo_protocol::linked::LinkedIdError| error.to_string())?;
        let account = self.account_with(&place).ok_or("isn't in the contact list of a linked account")?;
        let [user] = options.users.as_slice() else { return Err("is one user: name one".to_owned()) };
        let user = self.labels.parse(user).map_err(|error| error.to_string())?;
        let name = self.linked.lists.get(&account).and_then(|list| list.get(&place)).cloned().flatten();
        let claim = self.own_claim(&account, &place)?;
        Ok(LinkedCallee { user, identity: None, name, place, claim, call: None })
    }

    /// What an invite to a contact says of the own account.
    pub(super) fn own_claim(&self, account: &LinkedId, place: &LinkedId) -> Result<LinkedClaim, String> {
        let own = self.own_association(account);
        match own {
            Some(_) if !self.carriers().has(Carrier::Request) => Ok(LinkedClaim::Nothing),
            Some(association) => {
                let part = LinkedPart::new(association, self.own_proof(account), place.clone());
                Ok(LinkedClaim::Association(Box::new(part)))
            }
            // The token comes later.
            None if self.linked.token_only.contains(account) => Ok(LinkedClaim::Nothing),
            None => Err("the own account isn't linked yet".to_owned()),
        }
    }

    fn linked_callee(&self, account: &LinkedId, place: &LinkedId, secs_max: u64) -> Result<LinkedCallee, String> {
        let now = self.now().unix;
        let sighting = self.linked.known.get(&(account.clone(), place.clone())).filter(|sighting| sighting.counts(secs_max, now));
        let sighting = sighting.ok_or("what they show there couldn't be looked at")?;
        let said = sighting.holds(now).map_err(|why| match why {
            None => "shows no user of Halloo there".to_owned(),
            Some(error) => format!("what they show there doesn't hold: {error}"),
        })?;
        let claim = self.own_claim(account, place)?;
        let name = self.linked.lists.get(account).and_then(|list| list.get(place)).cloned().flatten();
        Ok(LinkedCallee { user: said.user.clone(), identity: Some(said.identity), name, place: place.clone(), claim, call: None })
    }
}
