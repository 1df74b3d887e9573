//! Neighbours that we have nothing to do with: most connections are the directory's.
//!
//! On such a link nothing is sent and nothing missed. The other end may have to do with us though we haven't with it: it is heard then, and has an empty
//! frame for its own. So an empty frame is also the way to ask whether somebody is there.

use std::time::Instant;

use super::{Gossip, LinkId, Now, Timer};

/// Neighbours that are asked at once whether we are cut off.
const ASKED_AROUND: usize = 3;

impl Gossip {
    /// Whether there is nothing that we have to do with a neighbour: then neither hears anything from the other, and connections that nobody else uses close.
    pub(super) fn rests(&mut self, id: LinkId) -> bool {
        let link = self.link(id);
        let (device, is_used) =
            (link.peer.device, link.is_tacit || link.peer.is_contact || link.peer.is_own || link.topic_count() > 0);
        !is_used && !self.is_wanted(&device)
    }

    /// Whether it has been quiet for so long that one empty frame more is neither much nor an answer to an answer.
    pub(super) fn may_echo(&mut self, id: LinkId, now: Instant) -> bool {
        let heartbeat = self.config.heartbeat;
        now >= self.link(id).sent_at + heartbeat / 2
    }

    /// A neighbour has been heard. One that has to do with us though we haven't with it waits for a sign of life.
    pub(super) fn echo(&mut self, id: LinkId, now: Now) {
        if self.has_link(id) && self.rests(id) && self.may_echo(id, now.instant) {
            self.flush(id, now, true);
        }
    }

    /// Asks some of the neighbours that we have nothing to do with for a sign of life: whether we are cut off shows by them, too.
    pub(in crate::presence) fn ask_around(&mut self, now: Now) {
        let mut asked = 0;
        for id in self.link_list() {
            let is_pending = self.link(id).asked_at.is_some();
            // Asked sooner than that after the last time, an echo could still be too fresh for another.
            let is_quiet = now.instant >= self.link(id).sent_at + self.config.heartbeat;
            if asked < ASKED_AROUND && !is_pending && is_quiet && self.rests(id) {
                asked += 1;
                self.link(id).asked_at = Some(now.instant);
                self.flush(id, now, true);
                self.arm(Timer::Beat(id), now.instant + self.config.silence);
            }
        }
    }
}
