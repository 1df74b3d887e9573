//! Heartbeats that nobody needs to send: for simulations, where the driver knows both ends of a connection.
//!
//! Of what happens in a network at rest nearly all is empty heartbeats, and they are arithmetic: while nothing waits to be said on a link, one leaves
//! every [`Config::heartbeat`](super::Config::heartbeat) after the last frame, and arrives. On a *tacit* link they are counted when somebody looks
//! at it, instead of being sent: when the last one left matters for the pace of what follows, and when it arrived matters once the other end is gone. Heartbeats that take
//! something along are frames as ever.
//!
//! What comes of it is what would come of sending them all, but for one thing: they don't count against the neighbour's limit of frames.
//!
//! The driver's contract: [`Gossip::set_clock`] before every input and [`Gossip::plan_beats`] after it, while any link is tacit; both ends begin at
//! once, when both are up and know of each other, and when either ends, for whatever reason, the other is told at once by [`Gossip::end_tacit`]
//! what it has heard.

use std::time::{Duration, Instant};

use super::link::Link;
use super::{DeviceKey, Gossip, LinkId, Timer};

/// What tacit links need.
#[derive(Debug)]
pub(super) struct Tacit {
    clock: Instant,
    /// Links that were looked at since heartbeats were planned.
    touched: Vec<LinkId>,
}

impl Tacit {
    pub(super) const fn new(now: Instant) -> Self {
        Self { clock: now, touched: Vec::new() }
    }

    /// A tacit link is looked at: how many heartbeats have left since the last time.
    pub(super) fn touch(&mut self, id: LinkId, link: &mut Link, heartbeat: Duration) -> u64 {
        if !link.is_touched {
            link.is_touched = true;
            self.touched.push(id);
        }
        let mut beats = 0;
        if !link.is_beating && self.clock >= link.sent_at + heartbeat {
            let passed = self.clock.saturating_duration_since(link.sent_at).as_nanos() / heartbeat.as_nanos().max(1);
            let passed = u32::try_from(passed).unwrap_or(u32::MAX);
            link.sent_at += heartbeat * passed;
            link.beaten_at = Some(link.sent_at);
            beats = u64::from(passed);
        }
        beats
    }
}

impl Gossip {
    /// What time it is.
    pub(in crate::presence) fn set_clock(&mut self, now: Instant) {
        self.tacit.clock = now;
    }

    /// Plans heartbeats for tacit links on which something waits to ride.
    pub(in crate::presence) fn plan_beats(&mut self) {
        while let Some(id) = self.tacit.touched.pop() {
            let Some(link) = self.links.get_mut(id.0 as usize).and_then(Option::as_mut) else { continue };
            link.is_touched = false;
            if link.is_tacit && !link.is_beating && link.has_riders() {
                link.is_beating = true;
                let at = link.sent_at + self.config.heartbeat;
                self.arm(Timer::Beat(id), at);
            }
        }
    }

    /// From now on empty heartbeats on this link are arithmetic.
    pub(in crate::presence) fn begin_tacit(&mut self, device: &DeviceKey) {
        let Some(id) = self.link_ids.get(device).copied() else { return };
        let link = self.link(id);
        link.is_tacit = true;
        // The one that is planned goes as planned.
        link.is_beating = true;
    }

    /// From now on this link's heartbeats are sent, and waited for; `heard_at` is when the last one came, if any did.
    pub(in crate::presence) fn end_tacit(&mut self, device: &DeviceKey, heard_at: Option<Instant>) {
        let Some(id) = self.link_ids.get(device).copied() else { return };
        let (heartbeat, silence) = (self.config.heartbeat, self.config.silence);
        let link = self.link(id);
        link.is_tacit = false;
        link.heard_at = heard_at.map_or(link.heard_at, |at| at.max(link.heard_at));
        let next = (link.sent_at + heartbeat).min(link.heard_at + silence);
        self.arm(Timer::Beat(id), next);
    }

    /// When the last heartbeat left that was counted and not sent.
    pub(in crate::presence) fn last_beat(&mut self, device: &DeviceKey) -> Option<Instant> {
        let id = self.link_ids.get(device).copied()?;
        self.link(id).beaten_at
    }

    /// Counts the heartbeats of all tacit links up to now.
    pub(in crate::presence) fn count_beats(&mut self) {
        for id in self.link_list() {
            self.link(id);
        }
    }
}
