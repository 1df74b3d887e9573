//! A leg's way over streams: when its invite goes out again, and when nothing more is to be hoped for. Does no I/O.

use std::time::{Duration, Instant};

use crate::rpc::Failure;

/// How long a device that is dialled may be silent until the invite is sent again: longer than a dial, a hole punch and an answer take.
const REPEAT: Duration = Duration::from_millis(2_500);

/// How long nothing may be heard on a connection that was open already until the device is dialled anew beside it: many round trips.
const ANEW: Duration = Duration::from_secs(1);

/// Dials beside an open connection that a leg may cost: one for who is back, one more if what it made is lost, one to where the replicas say that the device is.
/// One that keeps a connection silent and ends all others gets no more out of us.
const ANEW_MAX: u8 = 3;

/// Asking all replicas where a device is that isn't where its record says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Search {
    #[default]
    NotYet,
    UnderWay,
    Over,
}

/// What follows from an invite that got no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing: another is on its way, or goes out at once.
    Another,
    /// All replicas are to be asked where the device is.
    Search,
    /// They are being asked: that decides.
    Wait,
    /// This way is at its end.
    GiveUp,
}

/// See the [module's documentation](self).
#[derive(Debug, Default)]
pub(super) struct StreamWay {
    /// Invites that aren't answered yet.
    invites: u8,
    /// When the first went out, to where the device is thought to be now.
    sent_at: Option<Instant>,
    /// When the invite goes out once more, if nothing was heard: the path may have changed under it.
    repeat_at: Option<Instant>,
    /// When the device is dialled anew, if nothing was heard on the connection that was open: it may have gone and come back since that was made.
    anew_at: Option<Instant>,
    /// When it first was: what becomes of the invite on that connection says nothing then.
    dialled_anew_at: Option<Instant>,
    /// How often it was.
    anews: u8,
    /// It was repeated because the connections dialled anew were lost as well.
    is_lost_again: bool,
    search: Search,
    has_failed: bool,
}

impl StreamWay {
    /// The invite has gone out, on an open connection or to where the device is dialled.
    pub(super) fn sent(&mut self, is_connected: bool, now: Instant) {
        self.invites = self.invites.saturating_add(1);
        self.sent_at = Some(now);
        self.repeat_at = Some(now + REPEAT);
        self.anew_at = is_connected.then(|| now + ANEW);
    }

    /// Whether it may be time to send the invite again. Not said twice of one time.
    pub(super) fn is_due(&mut self, is_silent: bool, now: Instant) -> bool {
        let is_over = |at: &mut Option<Instant>| at.take_if(|at| *at <= now).is_some();
        let (is_anew_due, is_repeat_due) = (is_over(&mut self.anew_at), is_over(&mut self.repeat_at));
        !self.has_failed && (is_repeat_due || is_anew_due && is_silent)
    }

    /// Whether the device may be dialled beside the connection that is open.
    pub(super) const fn may_dial_anew(&self) -> bool {
        self.anews < ANEW_MAX
    }

    /// The invite has gone out once more; `anew` on a connection that is still to be made.
    pub(super) fn repeated(&mut self, anew: bool, now: Instant) {
        self.invites = self.invites.saturating_add(1);
        self.repeat_at = None;
        if anew {
            self.anews += 1;
            self.dialled_anew_at.get_or_insert(now);
        }
    }

    /// One got its answer.
    pub(super) fn answered(&mut self) {
        self.invites = self.invites.saturating_sub(1);
    }

    /// One got none.
    pub(super) fn failed(&mut self, failure: Failure, now: Instant) -> Next {
        self.invites = self.invites.saturating_sub(1);
        let is_anew = self.dialled_anew_at.is_some();
        // It has failed with this one and is told next, or can still be answered. One on a connection that is heard is no better than this one was.
        if self.invites > 0 && (is_anew || failure != Failure::Timeout) {
            return Next::Another;
        }
        // The connection went away under it: there may be another by now.
        let is_lost = failure == Failure::Disconnected;
        if is_lost && (self.repeat_at.is_some() || is_anew && !std::mem::replace(&mut self.is_lost_again, true)) {
            self.repeat_at = Some(now);
            return Next::Another;
        }
        self.repeat_at = None;
        if failure == Failure::Unreachable && self.begin_search() {
            return Next::Search;
        }
        if self.search == Search::UnderWay {
            return Next::Wait;
        }
        self.has_failed = true;
        Next::GiveUp
    }

    /// All replicas are to be asked where the device is. False if they were before: that is done once.
    pub(super) fn begin_search(&mut self) -> bool {
        let is_first = self.search == Search::NotYet;
        if is_first {
            self.search = Search::UnderWay;
        }
        is_first
    }

    /// They have been asked. True if this way is at its end unless the invite goes to where they say that the device is.
    pub(super) fn end_search(&mut self) -> bool {
        self.search = Search::Over;
        self.invites == 0 && self.repeat_at.is_none()
    }

    /// Nothing more is to be hoped for.
    pub(super) const fn give_up(&mut self) {
        self.has_failed = true;
    }

    pub(super) const fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// When the invite first went out, to where the device is thought to be now.
    pub(super) const fn sent_at(&self) -> Option<Instant> {
        self.sent_at
    }

    /// When the device was first dialled beside an open connection.
    pub(super) const fn dialled_anew_at(&self) -> Option<Instant> {
        self.dialled_anew_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sent on an open connection on which nothing is heard, and once more on one that is dialled; all replicas are asked.
    fn dialled_anew(now: Instant) -> StreamWay {
        let mut way = StreamWay::default();
        way.sent(true, now);
        assert!(!way.is_due(true, now), "it may be on its way");
        assert!(way.is_due(true, now + ANEW));
        way.repeated(true, now + ANEW);
        assert!(way.begin_search());
        way
    }

    #[test]
    fn what_is_heard_on_the_open_connection_puts_the_repetition_off() {
        let (mut way, now) = (StreamWay::default(), Instant::now());
        way.sent(true, now);
        assert!(!way.is_due(false, now + ANEW));
        assert!(way.is_due(false, now + REPEAT));
        assert!(!way.is_due(false, now + REPEAT), "once");
    }

    #[test]
    fn what_is_sent_again_while_replicas_are_asked_outlives_their_answer() {
        let now = Instant::now();
        let mut way = dialled_anew(now);
        assert_eq!(way.failed(Failure::Disconnected, now), Next::Another);
        assert_eq!(way.failed(Failure::Disconnected, now), Next::Another);
        assert!(way.is_due(false, now), "both connections went away");
        way.repeated(false, now);
        assert!(!way.end_search(), "it is dialled");
        assert_eq!(way.failed(Failure::Unreachable, now), Next::GiveUp);
        assert!(way.has_failed());
    }

    #[test]
    fn no_failure_decides_while_replicas_are_asked() {
        for failure in [Failure::Unreachable, Failure::Timeout, Failure::Disconnected] {
            let now = Instant::now();
            let mut way = dialled_anew(now);
            assert_eq!(way.failed(Failure::Disconnected, now), Next::Another);
            assert_eq!(way.failed(Failure::Disconnected, now), Next::Another);
            assert!(way.is_due(false, now));
            way.repeated(false, now);
            assert_eq!(way.failed(failure, now), Next::Wait);
            assert!(!way.has_failed());
            assert!(way.end_search(), "unless they know of another address");
        }
    }

    #[test]
    fn a_silent_connection_costs_so_many_dials_whatever_becomes_of_them() {
        let now = Instant::now();
        let (mut way, mut repeats) = (StreamWay::default(), 0);
        way.sent(true, now);
        for tick in 1..100 {
            let now = now + tick * Duration::from_millis(250);
            if way.is_due(true, now) {
                repeats += 1;
                way.repeated(way.may_dial_anew(), now);
                way.begin_search();
            }
            // The other end, which keeps the first connection, ends each that is new.
            while way.invites > 0 && way.dialled_anew_at().is_some() {
                way.failed(Failure::Disconnected, now);
            }
        }
        assert_eq!((way.anews, repeats), (2, 2));
        assert!(way.end_search(), "it goes to another address, if there is one");
        way.repeated(way.may_dial_anew(), now);
        assert_eq!(way.failed(Failure::Disconnected, now), Next::GiveUp);
        assert!(!way.may_dial_anew());
    }

    #[test]
    fn a_device_that_is_nowhere_is_looked_for_once() {
        let (mut way, now) = (StreamWay::default(), Instant::now());
        way.sent(false, now);
        assert_eq!(way.failed(Failure::Unreachable, now), Next::Search);
        assert!(!way.is_due(false, now + REPEAT), "it would be dialled where it isn't");
        assert!(way.end_search());
        way.sent(false, now);
        assert_eq!(way.failed(Failure::Unreachable, now), Next::GiveUp);
    }
}
