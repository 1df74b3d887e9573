//! Waking a sleeping device for what was left in its mailboxes, and taking what such a push holds.
//!
//! What fits is pushed whole, so that the device has it from the push alone; of the rest it learns who has left what. Either way the message is in the
//! mailboxes first: a push that is lost, refused or repeated costs nothing but time.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use halloo_protocol::call::InviteWay;
use halloo_protocol::contact::ContactSignal;
use halloo_protocol::event::EventKind;
use halloo_protocol::file::FileSignal;
use halloo_protocol::id::MessageId;
use halloo_protocol::identity::UserId;
use halloo_protocol::key::DeviceKey;
use halloo_protocol::mailbox::{Letter, SealedLetter};
use halloo_protocol::message::{Content, MessageBody, OwnSignal};
use halloo_protocol::push::{
    DeliveredStatus, EventNotice, OuterPayload, PUSH_SEALED_BYTES_MAX, PushHints, SealedNotice, Urgency,
};
use halloo_protocol::time::UnixTime;
use halloo_protocol::voicemail::VoicemailSignal;
use halloo_protocol::wire::Extensions;
use tracing::debug;

use super::self_test::Arrival;
use super::{GATEWAYS_MAX, LATE_SECS, Opened, Push, Sending};
use crate::event_loop::EventLoop;
use crate::handle::Event;
use crate::store::StoreError;
use crate::wording::Sentence;

/// A device is woken for messages at most so often, whoever writes in the meantime: awake it finds the others. A gateway lets a holder push ten times in
/// a row, and the tenth message mustn't take the place of a call.
const PAUSE: Duration = Duration::from_secs(30);

/// How long a gateway tries. Whoever was away for longer looks into the mailboxes when they are back.
const TTL_SECS: u64 = 86_400;

/// Devices whose last push is remembered. Beyond that the oldest is forgotten: it may be woken once more.
const TOLD_MAX: usize = 1_024;

/// Messages that a device remembers having been told of.
const HEARD_MAX: usize = 256;

/// The last push for a message to each device.
#[derive(Debug, Default)]
pub(super) struct Letters {
    /// `None` for a message that no gateway took.
    told: HashMap<DeviceKey, (Option<MessageId>, Instant)>,
    /// Messages that this device was told of, the newest last: a push that comes again tells nobody anything.
    heard: VecDeque<MessageId>,
}

impl Letters {
    /// True if it is the first word of this message.
    fn hear(&mut self, message: MessageId) -> bool {
        if self.heard.contains(&message) {
            return false;
        }
        if self.heard.len() >= HEARD_MAX {
            self.heard.pop_front();
        }
        self.heard.push_back(message);
        true
    }

    /// Whether this message wakes the device now: not twice, and not so soon after another.
    fn may_tell(&self, device: &DeviceKey, message: &MessageId, now: Instant) -> bool {
        self.told
            .get(device)
            .is_none_or(|(told, at)| told.as_ref() != Some(message) && now.saturating_duration_since(*at) >= PAUSE)
    }

    fn note(&mut self, device: DeviceKey, message: MessageId, now: Instant) {
        if self.told.len() >= TOLD_MAX
            && !self.told.contains_key(&device)
            && let Some(oldest) = self.told.iter().min_by_key(|(_, (_, at))| *at).map(|(device, _)| *device)
        {
            self.told.remove(&oldest);
        }
        self.told.insert(device, (Some(message), now));
    }

    /// A gateway didn't take it: it may be tried again when the message is left again.
    pub(super) fn forget(&mut self, message: &MessageId) {
        self.told.values_mut().filter(|(told, _)| told.as_ref() == Some(message)).for_each(|(told, _)| *told = None);
    }
}

/// What a person is woken for; `None`: it waits until the device is awake anyway.
fn event_of(body: &MessageBody) -> Option<EventKind> {
    match body {
        MessageBody::Voicemail(signal) => matches!(**signal, VoicemailSignal::Left(_)).then_some(EventKind::VOICEMAIL),
        MessageBody::File(signal) => matches!(signal, FileSignal::Offer(_)).then_some(EventKind::FILE),
        MessageBody::Contact(signal) => matches!(signal, ContactSignal::Request(_)).then_some(EventKind::CONTACT_REQUEST),
        MessageBody::Own(signal) => matches!(**signal, OwnSignal::Mail(_)).then_some(EventKind::MAIL),
        body => body.is_shown().then_some(EventKind::MESSAGE),
    }
}

// Waking others.
impl EventLoop {
    /// Wakes a device for a message that is left in its mailboxes.
    pub(crate) fn push_left(
        &mut self,
        user: &UserId,
        device: &DeviceKey,
        (message, body): (MessageId, &MessageBody),
        content: &Content,
        until: UnixTime,
    ) {
        let (now, unix) = (Instant::now(), self.now().unix);
        let Some(event) = event_of(body) else { return };
        if event == EventKind::MAIL && !self.may_wake_for_mail(&message, device) {
            return;
        }
        // Who has read it on another device isn't woken for it.
        if !self.push.letters.may_tell(device, &message, now) || (event == EventKind::MESSAGE && self.is_message_read(&message)) {
            return;
        }
        let Some(entry) = self.cached_device_entry(user, device) else { return };
        let entry = entry.clone();
        self.renew_linked_leave(user, &entry, None);
        let entry = &entry;
        let hpke_key = entry.hpke_key;
        let gateways = self.open_private(user, entry).unwrap_or_default().push;
        if gateways.is_empty() {
            return;
        }
        let Some(sealed) = self.sealed_for_push(device, &hpke_key, (message, event), content) else { return };
        let ttl_secs = until.secs_since(unix).min(TTL_SECS);
        let hints = PushHints { event, ttl_secs: u32::try_from(ttl_secs).unwrap_or(u32::MAX), urgency: Urgency::High };
        let push = Push { user: Some(user), hints, sealed: &sealed, sending: Sending::Letter { message } };
        let asked = gateways.iter().take(GATEWAYS_MAX).filter_map(|address| self.push_through(address, device, &push)).count();
        debug!(message = %message.short(), %event, asked, bytes = sealed.len(), "device woken for a message");
        if asked > 0 {
            self.push.letters.note(*device, message, now);
        }
    }

    /// The message itself where it fits, else word of it.
    fn sealed_for_push(
        &mut self,
        device: &DeviceKey,
        hpke_key: &[u8; 32],
        (message, event): (MessageId, EventKind),
        content: &Content,
    ) -> Option<Vec<u8>> {
        let (chain, recipient) = (self.identity.chain().clone(), *device);
        let letter = Letter { chain: chain.clone(), recipient, content: content.clone(), extensions: Extensions::none() };
        let sealed = SealedLetter::seal(letter, self.identity.device_key(), hpke_key, &mut self.rng).ok();
        if let Some(letter) = sealed.filter(|letter| letter.as_bytes().len() <= PUSH_SEALED_BYTES_MAX) {
            return Some(letter.as_bytes().to_vec());
        }
        let sent_at = self.now().unix;
        let notice = EventNotice { chain, recipient, event, message, sent_at, extensions: Extensions::none() };
        let sealed = SealedNotice::seal(notice, self.identity.device_key(), hpke_key, &mut self.rng);
        sealed.inspect_err(|error| debug!(%error, "device not woken for a message")).ok().map(|sealed| sealed.as_bytes().to_vec())
    }
}

// Being woken.
impl EventLoop {
    /// Takes what a push holds that is no call.
    ///
    /// # Errors
    /// Why it isn't believed, or not wanted.
    pub(super) fn take_pushed(&mut self, outer: &OuterPayload, sealed: &[u8], way: InviteWay) -> Result<Opened, String> {
        match SealedNotice::from_bytes(sealed.to_vec()) {
            Some(notice) => self.take_notice(&notice, outer.gateway, way),
            None => self.take_pushed_letter(outer.event, sealed),
        }
    }

    fn take_pushed_letter(&mut self, event: EventKind, sealed: &[u8]) -> Result<Opened, String> {
        let letter = SealedLetter::from_bytes(sealed.to_vec()).map_err(|error| error.to_string())?;
        let taken = self.take_letter(&letter)?;
        debug!(%event, message = ?taken.message, is_new = taken.is_new, "message taken from a push");
        let status = if taken.is_new { DeliveredStatus::Taken } else { DeliveredStatus::Duplicate };
        // The mailboxes' copies are struck off, and what else waits there is taken.
        self.look_into_boxes();
        let from = Some(self.labels.display(&taken.from));
        Ok(Opened { status, call: None, message: taken.message, from, sender: Some(taken.device) })
    }

    fn take_notice(&mut self, sealed: &SealedNotice, gateway: DeviceKey, way: InviteWay) -> Result<Opened, String> {
        let now = self.now().unix;
        let opened = sealed.open(&self.hpke, &self.identity.device(), now, &self.trust);
        let (notice, sender) = opened.map_err(|error| error.to_string())?;
        let (user, message) = (sender.user.id.clone(), notice.message);
        if notice.event == EventKind::SELF_TEST {
            if sender.device != self.identity.device() {
                return Err("somebody else's test".to_owned());
            }
            self.tell_self_test(&notice);
            self.push_test_arrived(message, gateway, if way == InviteWay::Gateway { Arrival::Stream } else { Arrival::Service });
            let from = Some(self.labels.display(&user));
            return Ok(Opened { status: DeliveredStatus::Taken, call: None, message: Some(message), from, sender: None });
        }
        if !self.decide(&sender.user, kind_of(notice.event)).is_allowed {
            return Err(format!("{} may not write to this user", self.labels.display(&user)));
        }
        if notice.sent_at.is_from_the_future(now) || now.secs_since(notice.sent_at) > TTL_SECS + LATE_SECS {
            return Err("the notice is not of today".to_owned());
        }
        let has_seen = self.store.read::<_, StoreError>(|view| view.has_seen(&sender.device, &message)).unwrap_or(false);
        let is_known = has_seen || !self.push.letters.hear(message);
        if !is_known {
            self.events.send(Event::MessageWaiting {
                message_id: message.to_string(),
                from: self.labels.display(&user),
                kind: notice.event.to_string(),
                notice: self.notice(Sentence::Event(notice.event), &user),
            });
            self.look_into_boxes();
        }
        let status = if is_known { DeliveredStatus::Duplicate } else { DeliveredStatus::Taken };
        let from = Some(self.labels.display(&user));
        Ok(Opened { status, call: None, message: Some(message), from, sender: Some(sender.device) })
    }
}

/// Which of the user's rules it falls under.
fn kind_of(event: EventKind) -> halloo_protocol::contact::privacy::Kind {
    use halloo_protocol::contact::privacy::Kind;
    match event {
        EventKind::FILE => Kind::File,
        EventKind::VOICEMAIL => Kind::Call,
        _ => Kind::Message,
    }
}

#[cfg(test)]
mod tests {
    use halloo_protocol::key::PublicKey;

    use super::*;

    #[test]
    fn a_device_is_woken_once_for_a_message_and_not_for_each_of_many() {
        let (now, mut letters) = (Instant::now(), Letters::default());
        let (phone, laptop) = (DeviceKey(PublicKey([1; 32])), DeviceKey(PublicKey([2; 32])));
        let [first, second] = [MessageId([1; 16]), MessageId([2; 16])];
        assert!(letters.may_tell(&phone, &first, now));
        letters.note(phone, first, now);
        assert!(letters.may_tell(&laptop, &first, now), "each device for itself");
        assert!(!letters.may_tell(&phone, &second, now + PAUSE / 2));
        assert!(letters.may_tell(&phone, &second, now + PAUSE));
        assert!(!letters.may_tell(&phone, &first, now + PAUSE * 100), "it was told of this one");
        letters.forget(&first);
        assert!(letters.may_tell(&phone, &first, now + PAUSE), "no gateway took it");
        assert!(!letters.may_tell(&phone, &first, now + PAUSE / 2));
        for number in 0..=u8::MAX {
            for other in 0..=16_u8 {
                let mut key = [3; 32];
                (key[0], key[1]) = (number, other);
                letters.note(DeviceKey(PublicKey(key)), first, now + PAUSE);
            }
        }
        assert!(letters.told.len() <= TOLD_MAX);
    }
}
