//! Connections whose other end may be gone.
//!
//! A node that ends without a word leaves connections behind that look open: QUIC notices after half a minute, and a link at rest has no heartbeat that would
//! be missed. Until then requests go nowhere, and no other way is tried. So when a request got no answer, and nothing else has come since it was sent, the
//! peer is asked for a sign of life ([`FrameKind::SIGN_OF_LIFE`]), which everybody answers, whoever asks; who doesn't, twice, is dropped.

use std::time::{Duration, Instant};

use halloo_protocol::wire::FrameKind;
use libp2p::PeerId;

use crate::event_loop::EventLoop;
use crate::network::{Purpose, Target};
use crate::rpc::Failure;

/// How long a sign of life is waited for: many round trips, and what a busy machine takes.
const PATIENCE: Duration = Duration::from_secs(3);

/// Questions without an answer that are enough. The second is asked when all that came during the first has been read.
const UNANSWERED: u8 = 2;

/// Most questions: who can't be judged by then is left to the transport.
const ASKED_MAX: u8 = 5;

/// An answer that is given up this late shows that this node slept, or has more to do than it can. What has come meanwhile may not have been read, and who shares the
/// machine is no faster: dropping connections then makes more work of too much.
const LATE: Duration = Duration::from_millis(600);

/// A peer that is asked for a sign of life.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Doubt {
    peer: PeerId,
    /// Anything heard after this ends it.
    since: Instant,
    asked_at: Instant,
    asked: u8,
    unanswered: u8,
}

/// What a question without an answer comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    AskAgain,
    Dead,
    /// It can't be told.
    Open,
}

impl Doubt {
    /// Judges one more question without an answer; it says nothing if it `is_void`.
    fn judge(&mut self, is_void: bool) -> Verdict {
        self.unanswered += u8::from(!is_void);
        if self.unanswered >= UNANSWERED {
            return Verdict::Dead;
        }
        if self.asked >= ASKED_MAX { Verdict::Open } else { Verdict::AskAgain }
    }
}

impl EventLoop {
    /// A request sent at `since` got no answer.
    pub(crate) fn doubt(&mut self, peer: PeerId, since: Instant) {
        let Some(known) = self.peers.get_mut(&peer).filter(|known| !known.is_heard_since(since)) else { return };
        if !std::mem::replace(&mut known.is_doubted, true) {
            self.ask_for_life(Doubt { peer, since, asked_at: since, asked: 0, unanswered: 0 });
        }
    }

    fn ask_for_life(&mut self, doubt: Doubt) {
        let doubt = Doubt { asked_at: Instant::now(), asked: doubt.asked + 1, ..doubt };
        let target = Target::connected(doubt.peer);
        self.request_encoded(&target, FrameKind::SIGN_OF_LIFE, Vec::new(), Purpose::SignOfLife(doubt), PATIENCE);
    }

    /// No sign of life came. One that says it doesn't know the question has given one.
    pub(crate) fn life_failure(&mut self, mut doubt: Doubt, failure: Failure) {
        let Some(known) = self.peers.get_mut(&doubt.peer) else { return };
        known.is_doubted = false;
        if failure != Failure::Timeout || known.is_heard_since(doubt.since) {
            return;
        }
        let is_late = doubt.asked_at.elapsed() > PATIENCE + LATE;
        match doubt.judge(is_late || self.may_be_cut_off(&doubt)) {
            Verdict::AskAgain => {
                if let Some(known) = self.peers.get_mut(&doubt.peer) {
                    known.is_doubted = true;
                }
                self.ask_for_life(doubt);
            }
            // Over which of several connections nothing comes isn't known: another may carry a call.
            Verdict::Dead if self.swarm.behaviour().streams.connections(&doubt.peer) == 1 => self.drop_silent(doubt.peer),
            Verdict::Dead | Verdict::Open => {}
        }
    }

    /// Whether nobody else was heard either since this peer was: then it may be us who are cut off.
    fn may_be_cut_off(&self, doubt: &Doubt) -> bool {
        let mut others = self.peers.iter().filter(|(other, _)| **other != doubt.peer).peekable();
        others.peek().is_some() && !others.any(|(_, known)| known.is_heard_since(doubt.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doubt() -> Doubt {
        Doubt { peer: PeerId::random(), since: Instant::now(), asked_at: Instant::now(), asked: 1, unanswered: 0 }
    }

    #[test]
    fn two_questions_without_an_answer_are_enough() {
        let mut doubt = doubt();
        assert_eq!(doubt.judge(false), Verdict::AskAgain);
        assert_eq!(doubt.judge(false), Verdict::Dead);
    }

    #[test]
    fn questions_that_say_nothing_count_for_nothing_and_end() {
        let mut doubt = doubt();
        for _ in doubt.asked..ASKED_MAX {
            assert_eq!(doubt.judge(true), Verdict::AskAgain);
            doubt.asked += 1;
        }
        assert_eq!(doubt.judge(true), Verdict::Open);
    }
}
