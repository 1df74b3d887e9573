//! Tokens for one call, from an account's own server: for accounts whose contacts aren't shown who this user is here until they are called.
//!
//! *Calling*: the server is given a commitment and names it; the name goes into the invite; the server is told to forget it when the call is over. *Being called*: the call is
//! held while the caller's server is asked what it shows under the token.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use halloo_protocol::call::CallId;
use halloo_protocol::linked::{LinkedId, TokenPart};
use halloo_protocol::wire::Extensions;
use tracing::debug;

use super::system::Order;
use crate::event_loop::EventLoop;
use crate::handle::Reply;
use crate::handle::calls::{CallError, CallOutcome, DialOptions};
use crate::handle::linked::LinkedClaim;

/// How long a token of ours counts: as long as it may ring, with some room.
const TOKEN_SECS: u64 = 180;

/// How long a dial waits for its token.
const ISSUE_AT_MOST: Duration = Duration::from_secs(15);

/// Dials that wait for a token, and calls whose tokens are to be forgotten.
const ISSUING_MAX: usize = 8;
const ISSUED_MAX: usize = 64;

/// Calls of others for which a server was asked.
const SHOWN_MAX: usize = 64;

/// What a server is asked: for which call, over which account, at whose place, under which token. An answer counts for the same question alone: whoever calls chooses the
/// call's id and what it claims, each time anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(super) call: CallId,
    account: LinkedId,
    pub(super) at: LinkedId,
    pub(super) token: String,
}

impl Asked {
    fn of(part: &TokenPart, call: CallId) -> Self {
        Self { call, account: part.callee.clone(), at: part.caller.clone(), token: part.token.clone() }
    }

    /// Of another own device, which knows for which call.
    pub(super) const fn by_own_device(call: CallId, account: LinkedId, at: LinkedId, token: String) -> Self {
        Self { call, account, at, token }
    }
}

#[derive(Debug)]
struct Issuing {
    account: LinkedId,
    call: CallId,
    part: TokenPart,
    options: DialOptions,
    reply: Reply<CallOutcome, CallError>,
    until: Instant,
}

/// Tokens of ours and of others.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    issuing: Vec<Issuing>,
    issued: BTreeMap<CallId, (LinkedId, String)>,
    shown: VecDeque<(Asked, Option<[u8; 32]>)>,
}

impl Tokens {
    /// What a server has shown for what an invite claims; `None` before it was asked for just that.
    pub(super) fn shown(&self, part: &TokenPart, call: CallId) -> Option<Option<[u8; 32]>> {
        let question = Asked::of(part, call);
        self.shown.iter().find(|(asked, _)| *asked == question).map(|(_, shown)| *shown)
    }

    fn note(&mut self, asked: Asked, shown: Option<[u8; 32]>) {
        if self.shown.len() >= SHOWN_MAX {
            self.shown.pop_front();
        }
        self.shown.push_back((asked, shown));
    }
}

// Calling.
impl EventLoop {
    /// Has the own server issue a token for a call that is about to be made; the call goes on when it is there.
    pub(super) fn issue_token(&mut self, account: &LinkedId, mut options: DialOptions, reply: Reply<CallOutcome, CallError>) {
        let Some(callee) = options.linked.as_mut() else { return self.handle_dial(options, reply) };
        let call = CallId::random(&mut self.rng);
        let part = TokenPart {
            caller: account.clone(),
            callee: callee.place.clone(),
            token: String::new(),
            not_after: self.clock.correct(self.clock_source.raw_unix()).plus_secs(TOKEN_SECS),
            extensions: Extensions::none(),
        };
        callee.call = Some(call);
        let commitment = part.commitment(&self.identity.user_id(), &self.identity.identity(), call);
        let is_asked = self.linked.tokens.issuing.len() < ISSUING_MAX && self.order(account, Order::Issue { call, commitment });
        let issuing = Issuing { account: account.clone(), call, part, options, reply, until: Instant::now() + ISSUE_AT_MOST };
        if is_asked {
            self.linked.tokens.issuing.push(issuing);
        } else {
            refuse(issuing, "the own account isn't connected");
        }
    }

    pub(super) fn token_issued(&mut self, account: &LinkedId, call: CallId, token: Result<String, String>) {
        let waiting = &mut self.linked.tokens.issuing;
        let Some(at) = waiting.iter().position(|issuing| issuing.call == call) else {
            // It came too late for its call.
            if let Ok(token) = token {
                self.order(account, Order::Spend(token));
            }
            return;
        };
        let mut issuing = waiting.swap_remove(at);
        match token {
            Ok(token) => {
                if self.linked.tokens.issued.len() >= ISSUED_MAX {
                    self.order(account, Order::Spend(token));
                    return refuse(issuing, "too many calls by tokens at once");
                }
                self.linked.tokens.issued.insert(call, (issuing.account, token.clone()));
                let part = TokenPart { token, ..issuing.part };
                if let Some(callee) = issuing.options.linked.as_mut() {
                    callee.claim = LinkedClaim::Token(part);
                }
                self.handle_dial(issuing.options, issuing.reply);
                if !self.calls.has_outgoing(&call) {
                    self.linked_call_over(call);
                }
            }
            Err(reason) => refuse(issuing, &reason),
        }
    }

    /// A call of ours is over: its token is nobody's any more.
    pub(crate) fn linked_call_over(&mut self, call: CallId) {
        if let Some((account, token)) = self.linked.tokens.issued.remove(&call)
            && !self.order(&account, Order::Spend(token))
        {
            debug!(%account, "a token isn't taken back: it counts until its time is over");
        }
    }

    pub(super) fn tokens_tick(&mut self, now: Instant) {
        let waiting = std::mem::take(&mut self.linked.tokens.issuing);
        let (over, waiting): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|issuing| issuing.until <= now);
        self.linked.tokens.issuing = waiting;
        over.into_iter().for_each(|issuing| refuse(issuing, "the own server issues no token"));
    }
}

fn refuse(issuing: Issuing, reason: &str) {
    let id = issuing.part.callee.to_string();
    issuing.reply.send(Err(CallError::NotLinked { id, reason: reason.to_owned() }));
}

// Being called.
impl EventLoop {
    /// Asks the server of an identity what it shows under a token.
    pub(super) fn ask_for_token(&mut self, part: &TokenPart, call: CallId) {
        let asked = Asked::of(part, call);
        if !self.order(&part.callee, Order::Token(Box::new(asked.clone()))) {
            self.ask_about_token(&part.callee, asked);
        }
    }

    pub(super) fn token_shown(&mut self, asked: Asked, shown: Result<Option<[u8; 32]>, String>) {
        let call = asked.call;
        if self.answer_token(&asked, shown.as_ref().ok().copied()) {
            return;
        }
        match shown {
            Ok(shown) => {
                self.linked.tokens.note(asked, shown);
                self.linked.calls.looked_for(call);
            }
            Err(reason) => debug!(call = %call.short(), reason, "not asked for a token"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use halloo_protocol::time::UnixTime;

    fn part(caller: &str, token: &str) -> TokenPart {
        let id = |text: &str| text.parse().expect("an identity");
        TokenPart {
            caller: id(caller),
            callee: id("xmpp:bob@example.org"),
            token: token.to_owned(),
            not_after: UnixTime(1_000),
            extensions: Extensions::none(),
        }
    }

    #[test]
    fn what_one_server_shows_counts_for_no_other_claim_of_the_same_call() {
        let (mut tokens, call) = (Tokens::default(), CallId([7; 16]));
        let mallorys = part("xmpp:mallory@example.org", "one");
        tokens.note(Asked::of(&mallorys, call), Some([1; 32]));
        assert_eq!(tokens.shown(&mallorys, call), Some(Some([1; 32])));
        for other in [part("xmpp:alice@example.org", "one"), part("xmpp:mallory@example.org", "two")] {
            assert_eq!(tokens.shown(&other, call), None, "{other:?}");
        }
        let other_account = TokenPart { callee: "xmpp:bob@example.net".parse().expect("an identity"), ..mallorys.clone() };
        assert_eq!(tokens.shown(&other_account, call), None);
        assert_eq!(tokens.shown(&mallorys, CallId([8; 16])), None);
    }
}
