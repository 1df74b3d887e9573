//! Calls between contacts in a linked system: whom to call for an identity there, and whether who calls is one.
//!
//! A call whose caller's place has to be looked at first is answered as held, rung for or refused after that: never sooner than
//! [`LOOK_AT_LEAST`], whether or not there was anything to look at, so that nobody learns who is in a contact list.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use halloo_protocol::call::{CallId, SealedInvite, VerifiedInvite};
use halloo_protocol::contact::privacy::Kind;
use halloo_protocol::event::EventKind;
use halloo_protocol::identity::UserId;
use halloo_protocol::linked::{
    LinkedContact, LinkedId, LinkedPart, SIGHTING_SECS_FRESH, SIGHTING_SECS_MAX, System, TrustDecision, TrustRequest, decide,
};
use halloo_protocol::time::Now;
use halloo_protocol::wire::Extensions;

use crate::calls::Arrival;
use crate::event_loop::EventLoop;
use crate::handle::Reply;
use crate::handle::calls::{CallError, CallOutcome, DialOptions};
use crate::handle::linked::LinkedCallee;

/// How long a call whose caller's place is looked at is held at least, and at most.
const LOOK_AT_LEAST: Duration = Duration::from_secs(1);
const LOOK_AT_MOST: Duration = Duration::from_secs(5);

/// How long its caller is told that it is held.
const HELD_SECS: u16 = 2;

/// How long a dial waits for a look at the callee's place.
const DIAL_LOOK: Duration = Duration::from_secs(15);

/// Calls held for a look at once; more are refused, as strangers are.
const HELD_MAX: usize = 8;

/// Calls whose callers' places were looked at; copies of their invites are judged by that.
const LOOKED_MAX: usize = 64;

/// Dials that wait for a look.
const DIALS_MAX: usize = 8;

#[derive(Debug)]
struct Held {
    call: CallId,
    sealed: SealedInvite,
    arrival: Arrival,
    place: LinkedId,
    since: Instant,
    is_looked: bool,
}

#[derive(Debug)]
struct Dial {
    place: LinkedId,
    options: DialOptions,
    reply: Reply<CallOutcome, CallError>,
    until: Instant,
}

/// What waits for a look at a place.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    held: Vec<Held>,
    looked: VecDeque<CallId>,
    dials: Vec<Dial>,
}

// Being called.
impl EventLoop {
    /// Whether somebody may ring here, as a contact or as one in a linked system, and why.
    pub(crate) fn decide_on_caller(&mut self, invite: &VerifiedInvite, sighting_secs_max: u64) -> TrustDecision {
        let kind = if invite.invite().kind == EventKind::VIDEO_CALL { Kind::Video } else { Kind::Call };
        let user = &invite.caller().user;
        let relation = self.relation(user);
        // What can't be read is nothing said.
        let part = LinkedPart::of(invite.invite()).ok().flatten();
        let request = TrustRequest { user: &user.id, identity: &user.identity, relation, kind, part: part.as_ref() };
        let now = self.now().unix;
        decide(&request, &self.linked.lists, &self.linked.known, self.privacy_settings(), sighting_secs_max, now)
    }

    /// The contact in a linked system as whom a caller is let in.
    pub(crate) fn linked_caller(&mut self, invite: &VerifiedInvite) -> Option<LinkedContact> {
        let decision = self.decide_on_caller(invite, SIGHTING_SECS_MAX);
        decision.linked.ok().filter(|_| decision.decision.because == halloo_protocol::contact::privacy::Because::Linked)
    }

    /// Whether a call is held until its caller's place was looked at. True for copies too.
    pub(crate) fn is_held_for_look(&mut self, sealed: &SealedInvite, arrival: Arrival, invite: &VerifiedInvite) -> Option<u16> {
        let call = invite.invite().call;
        if self.linked.calls.held.iter().any(|held| held.call == call) {
            return Some(HELD_SECS);
        }
        if self.linked.calls.looked.contains(&call) || self.linked.accounts.is_empty() {
            return None;
        }
        let decision = self.decide_on_caller(invite, SIGHTING_SECS_FRESH);
        let is_wanted = decision.takes_a_look && self.linked.calls.held.len() < HELD_MAX;
        if !is_wanted || !self.admit_caller(&invite.caller().user.identity.0) {
            return None;
        }
        let part = LinkedPart::of(invite.invite()).ok().flatten()?;
        let place = part.association.unverified().linked.clone();
        let is_in_list = self.linked.lists.get(&part.callee).is_some_and(|list| list.contains_key(&place));
        let is_looked = !(is_in_list && self.look_at(&part.callee, &place));
        self.linked.calls.held.push(Held { call, sealed: sealed.clone(), arrival, place, since: Instant::now(), is_looked });
        Some(HELD_SECS)
    }

    /// A place was looked at, or couldn't be.
    pub(super) fn linked_looked(&mut self, place: &LinkedId) {
        for held in self.linked.calls.held.iter_mut().filter(|held| held.place == *place) {
            held.is_looked = true;
        }
        let (ready, waiting): (Vec<_>, Vec<_>) = self.linked.calls.dials.drain(..).partition(|dial| dial.place == *place);
        self.linked.calls.dials = waiting;
        for dial in ready {
            self.dial_linked_now(dial);
        }
    }

    pub(super) fn linked_calls_tick(&mut self, now: Now) {
        let is_due = |held: &Held| {
            let waited = now.instant.saturating_duration_since(held.since);
            waited >= LOOK_AT_MOST || (held.is_looked && waited >= LOOK_AT_LEAST)
        };
        let (due, waiting): (Vec<_>, Vec<_>) = self.linked.calls.held.drain(..).partition(is_due);
        self.linked.calls.held = waiting;
        for held in due {
            if self.linked.calls.looked.len() >= LOOKED_MAX {
                self.linked.calls.looked.pop_front();
            }
            self.linked.calls.looked.push_back(held.call);
            self.ring_after_look(&held.sealed, held.arrival, held.call);
        }
        let (over, waiting): (Vec<_>, Vec<_>) = self.linked.calls.dials.drain(..).partition(|dial| dial.until <= now.instant);
        self.linked.calls.dials = waiting;
        over.into_iter().for_each(|dial| self.dial_linked_now(dial));
    }
}

// Calling.
impl EventLoop {
    /// A dial to an identity in a linked system: made one to the user whom its place shows, at once or once that was looked at. `None`: it is taken care of.
    pub(crate) fn take_linked_dial(
        &mut self,
        mut options: DialOptions,
        reply: Reply<CallOutcome, CallError>,
    ) -> Option<(DialOptions, Reply<CallOutcome, CallError>)> {
        let place = match options.users.as_slice() {
            // Telephone numbers are called through a gateway.
            [user] if options.linked.is_none() => user.parse::<LinkedId>().ok().filter(|id| id.system() == System::Xmpp),
            _ => None,
        };
        let Some(place) = place else { return Some((options, reply)) };
        let account = self.account_with(&place);
        let Some(account) = account else {
            reply.send(Err(CallError::NotLinked {
                id: place.to_string(),
                reason: "isn't in the contact list of a linked account".into(),
            }));
            return None;
        };
        if let Ok(callee) = self.linked_callee(&account, &place, SIGHTING_SECS_FRESH) {
            options.linked = Some(Box::new(callee));
            return Some((options, reply));
        }
        let dial = Dial { place: place.clone(), options, reply, until: Instant::now() + DIAL_LOOK };
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
        let refuse = |reason: &str| CallError::NotLinked { id: place.to_string(), reason: reason.to_owned() };
        let Some(account) = self.account_with(&place) else {
            return reply.send(Err(refuse("isn't in the contact list of a linked account")));
        };
        match self.linked_callee(&account, &place, SIGHTING_SECS_MAX) {
            Ok(callee) => {
                options.linked = Some(Box::new(callee));
                self.handle_dial(options, reply);
            }
            Err(reason) => reply.send(Err(refuse(&reason))),
        }
    }

    /// Who a contact in a linked system (`xmpp:bob@example.org`) is here, by what was seen last.
    pub(crate) fn linked_user(&self, text: &str) -> Option<UserId> {
        let place = text.parse::<LinkedId>().ok()?;
        self.account_with(&place)?;
        Some(self.linked.known.get(&place)?.holds(self.now().unix).ok()?.user.clone())
    }

    /// The own account in whose contact list somebody is; a connected one if there are several.
    fn account_with(&self, place: &LinkedId) -> Option<LinkedId> {
        let with = self.linked.lists.iter().filter(|(_, list)| list.contains_key(place)).map(|(account, _)| account);
        with.max_by_key(|account| self.linked.accounts.get(account).is_some_and(|account| account.is_connected)).cloned()
    }

    fn linked_callee(&self, account: &LinkedId, place: &LinkedId, secs_max: u64) -> Result<LinkedCallee, String> {
        let now = self.now().unix;
        let sighting = self.linked.known.get(place).filter(|sighting| sighting.age_secs(now) <= secs_max);
        let sighting = sighting.ok_or("what they show there couldn't be looked at")?;
        let said = sighting.holds(now).map_err(|why| match why {
            None => "shows no user of Halloo there".to_owned(),
            Some(error) => format!("what they show there doesn't hold: {error}"),
        })?;
        let own = self.linked.accounts.get(account).and_then(|account| account.stored.association.clone());
        let association = own.ok_or("the own account isn't linked yet")?;
        let name = self.linked.lists.get(account).and_then(|list| list.get(place)).cloned().flatten();
        Ok(LinkedCallee {
            user: said.user.clone(),
            identity: said.identity,
            name,
            part: LinkedPart { association, callee: place.clone(), extensions: Extensions::none() },
        })
    }
}
