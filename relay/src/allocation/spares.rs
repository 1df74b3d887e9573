//! Relayed sockets that have just been given back, for another allocation of the same user.
//!
//! Making, binding and registering a socket is most of what an allocation costs beyond its packets, and clients come back: one gathers more
//! addresses than it keeps, starts a call anew, calls the next. Only the same user gets such a socket, so that nobody can learn which ports others will
//! have by having had them before. (Numbers of users are used again when thousands more have come and gone, so that the rule may fail within
//! a minute of such a rush. All that is lost then is that a port can be guessed.)

use std::collections::VecDeque;
use std::time::Duration;

use super::Family;
use crate::packet::ParkedId;
use crate::quota::share::UserId;
use crate::time::Moment;

/// How long a socket waits for its user.
pub(crate) const SPARE_LIFETIME: Duration = Duration::from_secs(60);

/// A socket without an allocation, whose port is still taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spare {
    pub(crate) parked: ParkedId,
    pub(crate) user: UserId,
    pub(crate) family: Family,
    pub(crate) port: u16,
    pub(crate) until: Moment,
}

/// The spare sockets of one thread, the oldest first. How many there may be is said by [`super::ports::Ports`], of which they are a part.
#[derive(Debug, Default)]
pub(crate) struct Spares {
    list: VecDeque<Spare>,
}

impl Spares {
    pub(crate) fn push(&mut self, spare: Spare) {
        self.list.push_back(spare);
    }

    /// The one this user gave back last.
    pub(crate) fn take(&mut self, user: UserId, family: Family) -> Option<Spare> {
        let index = self.list.iter().rposition(|spare| spare.user == user && spare.family == family)?;
        self.list.remove(index)
    }

    /// When the next one has waited long enough.
    pub(crate) fn due(&self) -> Option<Moment> {
        self.list.front().map(|spare| spare.until)
    }

    /// One that has waited long enough.
    pub(crate) fn take_due(&mut self, now: Moment) -> Option<Spare> {
        self.list.pop_front_if(|spare| spare.until <= now)
    }

    /// The one that has waited longest.
    pub(crate) fn take_oldest(&mut self) -> Option<Spare> {
        self.list.pop_front()
    }
}
