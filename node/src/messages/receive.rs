//! What comes: kept, once, and told.

use halloo_protocol::call::Reason;
use halloo_protocol::contact::privacy::{Kind, Relation};
use halloo_protocol::event::EventKind;
use halloo_protocol::identity::{DeviceCertificate, UserId, VerifiedChain};
use halloo_protocol::key::{DeviceKey, PublicKey};
use halloo_protocol::message::{Correspondent, CounterSet, DeliveryStatus, Envelope, MessageBody};
use halloo_protocol::rate::{Rate, RateLimiter};
use halloo_protocol::time::Now;
use halloo_protocol::wire::{self, Signed};
use tracing::warn;

use super::{Kept, foreign_row_id};
use crate::choice::messages::Place;
use crate::event_loop::EventLoop;
use crate::handle::Event;
use crate::receipts::Conversation;
use crate::store::{Direction, MessageRow, StoreError};
use crate::timestamp::Timestamp;
use crate::wording::Sentence;

/// Messages an hour of one user who is no contact, and of one who is.
const STRANGER_RATE: Rate = Rate { per_hour: 600, burst: 100 };
const CONTACT_RATE: Rate = Rate { per_hour: 20_000, burst: 2_000 };

/// The same in a lab, where machines talk.
const LAB_RATE: Rate = Rate { per_hour: 3_600_000, burst: 100_000 };

/// What all strangers together may have this node write to its disk in a day.
const STRANGERS_BYTES_PER_DAY: usize = 32 * 1024 * 1024;

/// Senders whose rates are remembered.
const SENDERS_MAX: usize = 4_096;

/// Decides who may have how much kept here.
#[derive(Debug)]
pub(crate) struct Intake {
    rates: RateLimiter<PublicKey>,
    day: u64,
    strange_bytes: usize,
}

impl Intake {
    pub(crate) const fn new() -> Self {
        Self { rates: RateLimiter::new(SENDERS_MAX), day: 0, strange_bytes: 0 }
    }

    /// True if a message of so many bytes is taken.
    fn admit(&mut self, sender: &PublicKey, rate: Rate, is_stranger: bool, bytes: usize, now: Now) -> bool {
        let day = now.unix.0 / 86_400;
        if self.day != day {
            (self.day, self.strange_bytes) = (day, 0);
        }
        if is_stranger && self.strange_bytes.saturating_add(bytes) > STRANGERS_BYTES_PER_DAY {
            return false;
        }
        if self.rates.take(sender, rate, now.instant).is_err() {
            return false;
        }
        if is_stranger {
            self.strange_bytes += bytes;
        }
        true
    }
}

/// A message of a conversation that has come.
pub(crate) struct Arrived<'a> {
    pub(crate) with: Correspondent,
    pub(crate) author: UserId,
    pub(crate) device: DeviceKey,
    pub(crate) envelope: &'a Envelope,
    pub(crate) text: String,
}

impl EventLoop {
    /// Keeps a message of somebody whose chain was believed, whatever way it came. Its lengths were checked.
    pub(crate) fn keep_message(
        &mut self,
        sender: &VerifiedChain,
        certificate: &Signed<DeviceCertificate>,
        envelope: Envelope,
    ) -> DeliveryStatus {
        if self.waits_for_look(sender, &envelope) {
            return DeliveryStatus::Refused(Reason::TOO_MANY);
        }
        let taken = match envelope.body.clone() {
            MessageBody::Text(text) => return self.take_text(sender, &envelope, text),
            MessageBody::Group(signal) => return self.take_group_signal(sender, &envelope, *signal),
            MessageBody::File(signal) => return self.take_file_signal(sender, envelope.id, signal),
            MessageBody::Voicemail(signal) => return self.take_voicemail(sender, &envelope, *signal),
            MessageBody::Contact(signal) => self.take_contact_signal(sender, certificate, signal),
            MessageBody::Own(signal) => self.take_own_signal(sender, *signal),
            MessageBody::Read(receipt) => self.take_receipt(sender, &receipt),
        };
        match taken {
            Ok(()) => DeliveryStatus::Accepted,
            Err(reason) => DeliveryStatus::Refused(reason),
        }
    }

    fn take_text(&mut self, sender: &VerifiedChain, envelope: &Envelope, text: String) -> DeliveryStatus {
        if !self.decide(&sender.user, Kind::Message).is_allowed {
            return DeliveryStatus::Refused(Reason::NOT_ALLOWED);
        }
        let author = sender.user.id.clone();
        let arrived = Arrived { with: author.clone().into(), author, device: sender.device, envelope, text };
        let is_stranger = !matches!(self.relation(&sender.user), Relation::Own | Relation::Contact);
        self.take_shown(sender, arrived, is_stranger)
    }

    /// Keeps a message that is part of a conversation, from the device that sent it.
    pub(crate) fn take_shown(&mut self, sender: &VerifiedChain, arrived: Arrived<'_>, is_stranger: bool) -> DeliveryStatus {
        let now = self.now().unix;
        let Arrived { with, author, device, envelope, text } = arrived;
        let kept = Kept::Received { from: device, author: author.clone(), envelope: envelope.clone() };
        let row = MessageRow {
            id: foreign_row_id(&device, &envelope.id),
            direction: Direction::In,
            conversation: with.clone(),
            at: now,
            content: wire::encode(&kept),
        };
        if !self.admit_message(&sender.user.identity.0, is_stranger, row.content.len()) {
            self.counters.rate_limited += 1;
            return DeliveryStatus::Refused(Reason::TOO_MANY);
        }
        let stored = self.store.transaction::<_, StoreError>(|tx| {
            if !tx.is_first_copy(&device, &envelope.id.0, now)? {
                return Ok(None);
            }
            tx.add_message(&row)?;
            crate::calls::voicemail::keep_announced(tx, &with, device, envelope, true, now)?;
            Conversation::note(tx, &with, device, envelope.counter).map(Some)
        });
        match stored {
            Ok(Some(gap)) => {
                if envelope.body.text().is_some() {
                    self.tell_received(&with, (device, &author), envelope, text);
                }
                self.note_gap(&with, device, gap);
                DeliveryStatus::Accepted
            }
            Ok(None) => DeliveryStatus::Duplicate,
            Err(error) => {
                warn!(%error, "message not kept");
                // The sender tries again later.
                DeliveryStatus::Refused(Reason::TOO_MANY)
            }
        }
    }

    /// Tells of a message: to programs at once, to the person when this device's turn comes.
    pub(crate) fn tell_received(
        &mut self,
        with: &Correspondent,
        (device, author): (DeviceKey, &UserId),
        envelope: &Envelope,
        text: String,
    ) {
        let (after_secs, shown_on) = self.turn_for_message(envelope.id.0, author);
        let message_id = envelope.id.to_string();
        let from = self.labels.display(author);
        let group = self.shown_correspondent(with).1;
        let sent_at = Timestamp::from_unix_secs(envelope.sent_at.0);
        let linked = self.linked_peer_of(author);
        let mut notice = self.notice_shown(Sentence::Event(EventKind::MESSAGE), author, shown_on);
        let mut held_secs = None;
        if after_secs > 0 {
            let place = Place { with, device, counter: envelope.counter };
            let due = Event::MessageDue {
                message_id: message_id.clone(),
                from: from.clone(),
                linked: linked.clone(),
                group: group.clone(),
                text: text.clone(),
                sent_at,
                notice: notice.clone(),
            };
            if self.tell_later(after_secs, place, due) {
                (notice, held_secs) = (None, Some(after_secs));
            }
        }
        self.events.send(Event::MessageReceived { message_id, from, linked, group, text, sent_at, held_secs, notice });
    }

    /// True if a message of this sender is kept: certificates are cheap, the disk isn't.
    pub(crate) fn admit_message(&mut self, sender: &PublicKey, is_stranger: bool, bytes: usize) -> bool {
        let rate = match (self.settings.lab, is_stranger) {
            (true, _) => LAB_RATE,
            (false, true) => STRANGER_RATE,
            (false, false) => CONTACT_RATE,
        };
        let now = self.now();
        self.messages.intake.admit(sender, rate, is_stranger, bytes, now)
    }

    fn note_gap(&mut self, with: &Correspondent, device: DeviceKey, gap: CounterSet) {
        if !gap.is_empty() {
            self.ask_for_missing(with.clone(), device, gap);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use halloo_protocol::time::UnixTime;

    use super::*;

    #[test]
    fn strangers_fill_no_disk() {
        let start = Instant::now();
        let at = |secs: u64| Now { instant: start + Duration::from_secs(secs), unix: UnixTime(86_400 * 20_000 + secs) };
        let mut intake = Intake::new();
        let sender = PublicKey([1; 32]);
        let taken = (0..1_000).filter(|_| intake.admit(&sender, STRANGER_RATE, true, 100, at(0))).count();
        assert_eq!(taken, STRANGER_RATE.burst as usize);
        assert!(intake.admit(&PublicKey([2; 32]), STRANGER_RATE, true, 100, at(0)), "others aren't held to account");
        assert!(intake.admit(&sender, STRANGER_RATE, true, 100, at(3_600)), "time heals");
        let many = |intake: &mut Intake, now| {
            let crowd = (0..=u8::MAX).flat_map(|number| [number; 100]);
            crowd.filter(|number| intake.admit(&PublicKey([*number; 32]), LAB_RATE, true, 20_000, now)).count()
        };
        assert!(many(&mut intake, at(7_200)) <= STRANGERS_BYTES_PER_DAY / 20_000);
        assert!(!intake.admit(&PublicKey([9; 32]), LAB_RATE, true, 20_000, at(7_300)), "a crowd of strangers has a bound too");
        assert!(intake.admit(&PublicKey([9; 32]), LAB_RATE, false, 20_000, at(7_300)), "which doesn't touch contacts");
        assert!(intake.admit(&PublicKey([9; 32]), LAB_RATE, true, 20_000, at(90_000)), "and ends with the day");
    }
}
