//! Questions about a linked account to the own device that has its login: what stands at a contact's place now, what a server shows under a token, and that the link is to end.

use std::time::{Duration, Instant};

use halloo_protocol::call::CallId;
use halloo_protocol::linked::{LinkedAsk, LinkedId, LinkedQuestion, LinkedReply, LinkedTold, Sighting};
use halloo_protocol::wire::{self, Extensions, Frame, Message};
use libp2p::PeerId;
use libp2p::swarm::ConnectionId;
use tracing::debug;

use super::system::Order;
use super::tokens::Asked;
use crate::address;
use crate::event_loop::EventLoop;
use crate::handle::Reply;
use crate::handle::linked::{LinkError, LinkRemoved};
use crate::network::{Purpose, Target};
use crate::requests::unsupported;

/// How long the holder has: a call is held for little longer.
const ASK_AT_MOST: Duration = Duration::from_secs(4);

/// The same to end a link: its server has to be told.
const REMOVE_AT_MOST: Duration = Duration::from_secs(15);

/// Questions of own devices that wait at the holder.
const QUESTIONS_MAX: usize = 32;

/// What was asked of a holder.
#[derive(Debug)]
pub(crate) enum OwnAsk {
    /// What stands at a place.
    Look { account: LinkedId, place: LinkedId },
    /// What is shown under a token.
    Token(Box<Asked>),
    /// To sign what this user says of the account.
    Sign { account: LinkedId, is_revoked: bool },
    /// To end the link.
    Remove { account: LinkedId, reply: Reply<LinkRemoved, LinkError> },
}

/// Who has asked here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker {
    peer: PeerId,
    via: ConnectionId,
    id: u32,
}

#[derive(Debug)]
enum Waits {
    Place(LinkedId),
    Token(Asked),
}

#[derive(Debug)]
struct Question {
    asker: Asker,
    account: LinkedId,
    waits: Waits,
    until: Instant,
}

/// Questions of own devices that wait for an answer of the account's system.
#[derive(Debug, Default)]
pub(super) struct Questions(Vec<Question>);

// Asking.
impl EventLoop {
    fn ask_holder(&mut self, account: &LinkedId, question: LinkedQuestion, ask: OwnAsk, timeout: Duration) -> Result<(), OwnAsk> {
        let Some(target) = self.holder_target(account) else { return Err(ask) };
        let message = LinkedAsk { account: account.clone(), question, extensions: Extensions::none() };
        self.request(&target, &message, Purpose::LinkedAsk(Box::new(ask)), timeout);
        Ok(())
    }

    /// The own device that has the login of an account, if it isn't this one and there is a way to it.
    fn holder_target(&self, account: &LinkedId) -> Option<Target> {
        let holder = self.linked.shared.linked(account)?.holder;
        let is_removed = self.trust.is_device_removed(&self.identity.identity(), &holder, self.now().unix);
        if holder == self.identity.device() || is_removed {
            return None;
        }
        let peer = address::peer_id(&holder)?;
        if self.is_own_peer(&peer) {
            return Some(Target::connected(peer));
        }
        self.cached_target(&self.identity.user_id(), &holder)
    }

    /// Has the holder of an account look at a place. False if nobody can be asked.
    pub(super) fn ask_to_look(&mut self, account: &LinkedId, place: &LinkedId) -> bool {
        let ask = OwnAsk::Look { account: account.clone(), place: place.clone() };
        self.ask_holder(account, LinkedQuestion::Look(place.clone()), ask, ASK_AT_MOST).is_ok()
    }

    /// Has the holder of an account ask what is shown under a token. False if nobody can be asked.
    pub(super) fn ask_about_token(&mut self, account: &LinkedId, asked: Asked) -> bool {
        let question = LinkedQuestion::Token { at: asked.at.clone(), token: asked.token.clone() };
        self.ask_holder(account, question, OwnAsk::Token(Box::new(asked)), ASK_AT_MOST).is_ok()
    }

    /// Has the holder of an account end its link. If it can't be asked it hears of it when it is met.
    pub(super) fn ask_to_remove(&mut self, account: &LinkedId, reply: Reply<LinkRemoved, LinkError>) {
        let ask = OwnAsk::Remove { account: account.clone(), reply };
        if let Err(ask) = self.ask_holder(account, LinkedQuestion::Remove, ask, REMOVE_AT_MOST) {
            self.asked_in_vain(ask);
        }
    }

    pub(crate) fn linked_ask_answer(&mut self, ask: OwnAsk, frame: &Frame) {
        let reply = match frame.parse::<LinkedTold>() {
            Ok(told) => told.reply,
            Err(error) => {
                debug!(%error, "an own device's word on a linked account can't be read");
                self.counters.malformed += 1;
                LinkedReply::Unable
            }
        };
        match (ask, reply) {
            (OwnAsk::Look { account, place }, LinkedReply::Seen(sighting)) => {
                let is_of_place = sighting.association.as_ref().is_none_or(|said| said.unverified().linked == place);
                let is_listed = self.linked.lists.get(&account).is_some_and(|list| list.contains_key(&place));
                if is_of_place && is_listed && !sighting.read_at.is_from_the_future(self.now().unix) {
                    self.take_seen_elsewhere(&account, &place, *sighting);
                }
                self.looked_elsewhere(&account, &place, true);
            }
            (OwnAsk::Look { account, place }, LinkedReply::NoContact) => {
                // The page that says so is on its way.
                if let Some(list) = self.linked.lists.get_mut(&account) {
                    list.remove(&place);
                }
                self.linked.known.remove(&(account.clone(), place.clone()));
                self.looked_elsewhere(&account, &place, true);
            }
            (OwnAsk::Token(asked), LinkedReply::Token(shown)) => self.token_shown(*asked, Ok(shown)),
            (OwnAsk::Sign { account, is_revoked }, LinkedReply::Signed { association, leave }) => {
                self.signed_elsewhere(&account, is_revoked, *association, leave.map(|leave| *leave));
            }
            (OwnAsk::Remove { account, reply }, LinkedReply::Removed { is_taken_back }) => {
                self.remove_elsewhere(&account, is_taken_back, reply);
            }
            (ask, _) => self.asked_in_vain(ask),
        }
    }

    /// What the holder knows now; what hasn't changed came by what it came by before.
    fn take_seen_elsewhere(&mut self, account: &LinkedId, place: &LinkedId, seen: Sighting) {
        let key = (account.clone(), place.clone());
        let is_same = self.linked.known.get(&key).is_some_and(|known| known.association == seen.association);
        let by = self.linked.seen_by.get(&key).copied().filter(|_| is_same);
        self.take_sighting(account, place, seen);
        by.map(|by| self.linked.seen_by.insert(key, by));
    }

    /// The holder isn't there, or can't say.
    pub(crate) fn asked_in_vain(&mut self, ask: OwnAsk) {
        match ask {
            OwnAsk::Look { account, place } => self.looked_elsewhere(&account, &place, false),
            OwnAsk::Token(asked) => self.token_shown(*asked, Err("the device with the login isn't there".to_owned())),
            OwnAsk::Sign { account, is_revoked } => self.not_signed(&account, is_revoked),
            OwnAsk::Remove { account, reply } => self.remove_elsewhere(&account, false, reply),
        }
    }

    fn looked_elsewhere(&mut self, account: &LinkedId, place: &LinkedId, was_seen: bool) {
        self.linked_looked(account, place, was_seen);
        self.linked_leave_looked(place);
    }

    fn remove_elsewhere(&mut self, account: &LinkedId, is_taken_back: bool, reply: Reply<LinkRemoved, LinkError>) {
        self.account_unlinked(account, None, is_taken_back);
        reply.send(Ok(LinkRemoved { account: account.to_string(), is_taken_back }));
    }
}

// Answering.
impl EventLoop {
    /// A question of an own device. The answer may wait for the account's system.
    pub(crate) fn handle_linked_ask(&mut self, peer: PeerId, via: ConnectionId, frame: &Frame) {
        let asker = Asker { peer, via, id: frame.id };
        let ask = frame.parse::<LinkedAsk>();
        match ask {
            Ok(ask) if self.is_own_peer(&peer) => self.take_question(asker, ask),
            other => {
                self.counters.malformed += u64::from(other.is_err());
                let refused = unsupported(frame.id);
                self.answer_encoded(peer, via, refused.id, refused.kind, refused.body);
            }
        }
    }

    fn take_question(&mut self, asker: Asker, ask: LinkedAsk) {
        let LinkedAsk { account, question, .. } = ask;
        if let LinkedQuestion::Sign { last_serial, is_revoked, merge } = question {
            let reply = self.sign_for(account, last_serial, is_revoked, merge.map(|merge| *merge));
            return self.answer_asker(asker, reply);
        }
        if !self.linked.accounts.contains_key(&account) || self.linked.questions.0.len() >= QUESTIONS_MAX {
            return self.answer_asker(asker, LinkedReply::Unable);
        }
        let is_listed =
            |node: &Self, place: &LinkedId| node.linked.lists.get(&account).is_some_and(|list| list.contains_key(place));
        let waits = match question {
            LinkedQuestion::Sign { .. } => None,
            LinkedQuestion::Remove => return self.remove_for(&account, asker),
            LinkedQuestion::Look(place) | LinkedQuestion::Token { at: place, .. } if !is_listed(self, &place) => {
                return self.answer_asker(asker, LinkedReply::NoContact);
            }
            LinkedQuestion::Look(place) => {
                let is_asked = self.order(&account, Order::Look(place.clone()));
                is_asked.then_some(Waits::Place(place))
            }
            LinkedQuestion::Token { at, token } => {
                let asked = Asked::by_own_device(CallId::random(&mut self.rng), account.clone(), at, token);
                self.order(&account, Order::Token(Box::new(asked.clone()))).then_some(Waits::Token(asked))
            }
        };
        match waits {
            Some(waits) => self.linked.questions.0.push(Question { asker, account, waits, until: Instant::now() + ASK_AT_MOST }),
            None => self.answer_asker(asker, LinkedReply::Unable),
        }
    }

    pub(super) fn answer_asker(&mut self, asker: Asker, reply: LinkedReply) {
        let told = LinkedTold { reply, extensions: Extensions::none() };
        self.answer_encoded(asker.peer, asker.via, asker.id, LinkedTold::KIND, wire::encode(&told));
    }

    /// A place was looked at, or couldn't be.
    pub(super) fn answer_looks(&mut self, account: &LinkedId, place: &LinkedId, was_seen: bool) {
        let is_it = |question: &Question| {
            question.account == *account && matches!(&question.waits, Waits::Place(waiting) if waiting == place)
        };
        let (ready, waiting): (Vec<_>, Vec<_>) = self.linked.questions.0.drain(..).partition(is_it);
        self.linked.questions.0 = waiting;
        let seen = self.linked.known.get(&(account.clone(), place.clone())).filter(|_| was_seen).cloned();
        for question in ready {
            let reply = seen.clone().map_or(LinkedReply::Unable, |seen: Sighting| LinkedReply::Seen(Box::new(seen)));
            self.answer_asker(question.asker, reply);
        }
    }

    /// A server was asked about a token, or couldn't be. True if an own device has asked.
    pub(super) fn answer_token(&mut self, asked: &Asked, shown: Option<Option<[u8; 32]>>) -> bool {
        let is_it = |question: &Question| matches!(&question.waits, Waits::Token(waiting) if waiting == asked);
        let Some(at) = self.linked.questions.0.iter().position(is_it) else { return false };
        let question = self.linked.questions.0.swap_remove(at);
        self.answer_asker(question.asker, shown.map_or(LinkedReply::Unable, LinkedReply::Token));
        true
    }

    pub(super) fn questions_tick(&mut self, now: Instant) {
        let (over, waiting): (Vec<_>, Vec<_>) = self.linked.questions.0.drain(..).partition(|question| question.until <= now);
        self.linked.questions.0 = waiting;
        over.into_iter().for_each(|question| self.answer_asker(question.asker, LinkedReply::Unable));
    }
}
