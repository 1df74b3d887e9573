//! Connections whose other end may be gone.
//!
//! A node that ends without a word leaves connections behind that look open: QUIC notices after half a minute, and a link at rest has no heartbeat that would
//! be missed. Until then requests go nowhere, and no other way is tried. So when a request got no answer, and nothing else has come since it was sent, the
//! peer is asked for a sign of life, which costs it an empty frame; without one the connection is dropped.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use halloo_protocol::presence::PresenceGossip;
use libp2p::PeerId;

use crate::event_loop::EventLoop;
use crate::network::Target;

/// Who has something to do with us sends a heartbeat every twelve seconds and answers no question in between: by then its next one is here, also from a busy machine.
const HEARTBEAT_DUE: Duration = Duration::from_secs(20);

/// Round trips are waited for so long at least.
const PATIENCE: Duration = Duration::from_secs(4);

/// Looks that are this far apart, where four a second are meant, show that this node slept, or has more to do than it can. What has come meanwhile may not have been
/// read, and who shares the machine is no faster: dropping connections then makes more work of too much.
const GAP_MAX: Duration = Duration::from_millis(600);

/// Peers that are asked at once.
const DOUBTS_MAX: usize = 256;

#[derive(Clone, Copy, Debug)]
struct Doubt {
    /// Anything heard after this ends it.
    since: Instant,
    /// Asked once more then: who has just spoken doesn't echo.
    again_at: Option<Instant>,
    until: Instant,
}

/// Peers that are asked for a sign of life.
#[derive(Debug, Default)]
pub(crate) struct Doubts {
    open: HashMap<PeerId, Doubt>,
    looked_at: Option<Instant>,
}

#[derive(Debug, PartialEq, Eq)]
enum Look {
    Wait,
    AskAgain,
    /// Heard, or gone.
    Over,
    Dead,
}

impl Doubt {
    fn new(heard_at: Instant, since: Instant, now: Instant) -> Self {
        let until = (heard_at + HEARTBEAT_DUE).max(now + PATIENCE);
        Self { since, again_at: until.checked_sub(PATIENCE).filter(|again| *again > now), until }
    }

    /// After a gap in which nothing was read.
    fn begin_anew(&mut self, now: Instant) {
        self.until = self.until.max(now + PATIENCE);
        self.again_at = Some(now);
    }

    fn look(&mut self, heard_at: Instant, now: Instant) -> Look {
        if heard_at > self.since {
            return Look::Over;
        }
        if now >= self.until {
            return Look::Dead;
        }
        match self.again_at.take_if(|again| *again <= now) {
            Some(_) => Look::AskAgain,
            None => Look::Wait,
        }
    }
}

impl EventLoop {
    /// A request sent at `since` got no answer.
    pub(crate) fn doubt(&mut self, peer: PeerId, since: Instant, now: Instant) {
        let Some(heard_at) = self.peers.get(&peer).map(|known| known.heard_at()).filter(|heard| *heard <= since) else { return };
        if self.doubts.open.len() < DOUBTS_MAX && !self.doubts.open.contains_key(&peer) {
            self.doubts.open.insert(peer, Doubt::new(heard_at, since, now));
            self.ask_for_life(peer);
        }
    }

    /// Whether nobody else was heard either since this peer was: then it may be us who are cut off.
    fn may_be_cut_off(&self, peer: &PeerId) -> bool {
        let Some(since) = self.doubts.open.get(peer).map(|doubt| doubt.since) else { return false };
        let mut others = self.peers.iter().filter(|(other, _)| *other != peer).peekable();
        others.peek().is_some() && !others.any(|(_, known)| known.is_heard_since(since))
    }

    fn ask_for_life(&mut self, peer: PeerId) {
        self.notify(&Target::connected(peer), &PresenceGossip::default());
    }

    pub(crate) fn doubts_tick(&mut self, now: Instant) {
        let last = self.doubts.looked_at.replace(now).unwrap_or(now);
        let is_gap = now.saturating_duration_since(last) > GAP_MAX;
        let mut looked: Vec<(PeerId, Look)> = Vec::new();
        for (peer, doubt) in &mut self.doubts.open {
            if is_gap {
                doubt.begin_anew(now);
            }
            let look = self.peers.get(peer).map_or(Look::Over, |known| doubt.look(known.heard_at(), now));
            looked.push((*peer, look));
        }
        for (peer, look) in looked {
            match look {
                Look::Wait => continue,
                Look::AskAgain => {
                    self.ask_for_life(peer);
                    continue;
                }
                Look::Over => {}
                Look::Dead if self.may_be_cut_off(&peer) => {
                    if let Some(doubt) = self.doubts.open.get_mut(&peer) {
                        doubt.begin_anew(now);
                    }
                    continue;
                }
                // Over which of several connections nothing comes isn't known: another may carry a call.
                Look::Dead if self.swarm.behaviour().streams.connections(&peer) > 1 => {}
                Look::Dead => self.drop_silent(peer),
            }
            self.doubts.open.remove(&peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_peer_that_was_quiet_for_long_has_a_few_round_trips() {
        let heard = Instant::now();
        let (sent, expired) = (heard + SECOND * 30, heard + SECOND * 40);
        let mut doubt = Doubt::new(heard, sent, expired);
        assert_eq!(doubt.look(heard, expired), Look::Wait);
        assert_eq!(doubt.look(heard, expired + PATIENCE), Look::Dead);
        assert_eq!(doubt.look(expired + SECOND, expired + PATIENCE), Look::Over, "it spoke");
    }

    #[test]
    fn one_that_spoke_a_moment_ago_is_asked_twice_and_has_until_its_heartbeat() {
        let heard = Instant::now();
        let (sent, expired) = (heard + SECOND, heard + SECOND * 6);
        let mut doubt = Doubt::new(heard, sent, expired);
        assert_eq!(doubt.look(heard, heard + SECOND * 15), Look::Wait);
        assert_eq!(doubt.look(heard, heard + SECOND * 16), Look::AskAgain);
        assert_eq!(doubt.look(heard, heard + SECOND * 17), Look::Wait, "once");
        assert_eq!(doubt.look(heard, heard + HEARTBEAT_DUE), Look::Dead);
    }

    #[test]
    fn who_slept_itself_asks_again_before_it_draws_conclusions() {
        let heard = Instant::now();
        let mut doubt = Doubt::new(heard, heard + SECOND, heard + SECOND * 6);
        let woken = heard + HEARTBEAT_DUE + SECOND;
        doubt.begin_anew(woken);
        assert_eq!(doubt.look(heard, woken), Look::AskAgain);
        assert_eq!(doubt.look(heard, woken + PATIENCE / 2), Look::Wait);
        assert_eq!(doubt.look(heard, woken + PATIENCE), Look::Dead);
    }
}
