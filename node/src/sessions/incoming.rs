//! Receiving: decrypted, kept, dealt with, acknowledged; and what is said of what doesn't open.

use super::*;
use crate::mailboxes::Leave;

impl EventLoop {
    /// Takes what came from a device whose chain was believed, whatever way it came. Its lengths were checked.
    pub(crate) fn take_content(
        &mut self,
        sender: &VerifiedChain,
        certificate: &Signed<DeviceCertificate>,
        content: Content,
    ) -> DeliveryStatus {
        match content {
            // Whoever publishes keys has them used.
            Content::Plain(envelope) if self.settings.publishes && !envelope.may_go_plain() => {
                debug!(sender = %sender.device, "unencrypted message refused");
                DeliveryStatus::Unencrypted
            }
            Content::Plain(envelope) => self.keep_message(sender, certificate, envelope),
            Content::Sealed(message) => self.take_sealed(sender, certificate, &message),
            Content::Unopened(notice) => {
                self.take_unopened(&sender.device, &notice);
                DeliveryStatus::Accepted
            }
        }
    }

    fn take_sealed(
        &mut self,
        sender: &VerifiedChain,
        certificate: &Signed<DeviceCertificate>,
        message: &SealedMessage,
    ) -> DeliveryStatus {
        let (device, id) = (sender.device, message.id);
        let known =
            self.store.read::<_, StoreError>(|view| Ok((view.has_seen(&device, &id)?, view.opened_message(&device, &id)?)));
        let envelope = match known {
            Ok((true, _)) => return DeliveryStatus::Duplicate,
            // Decrypted before, and not dealt with: it opens no second time.
            Ok((false, Some(bytes))) => wire::decode::<Envelope>(&bytes, halloo_protocol::session::PLAIN_BYTES_MAX).ok(),
            Ok((false, None)) => None,
            Err(error) => {
                warn!(%error, "messages not read");
                return DeliveryStatus::Refused(Reason::TOO_MANY);
            }
        };
        let envelope = match envelope.map_or_else(|| self.open_sealed(sender, message), Ok) {
            Ok(envelope) => envelope,
            Err(status) => return status,
        };
        let status = self.keep_message(sender, certificate, envelope);
        if matches!(status, DeliveryStatus::Accepted | DeliveryStatus::Duplicate) {
            self.sessions.done.push((device, id));
            if self.sessions.done.len() >= DONE_MAX {
                self.finish_opened();
            }
        }
        status
    }

    /// Decrypts; the message is on disk then. A status to answer with if it isn't.
    fn open_sealed(&mut self, sender: &VerifiedChain, message: &SealedMessage) -> Result<Envelope, DeliveryStatus> {
        if !self.admit_sealed(sender, message) {
            self.counters.rate_limited += 1;
            return Err(DeliveryStatus::Refused(Reason::TOO_MANY));
        }
        let now = self.now().unix;
        let pair = self.pair_from(sender);
        let opened = self.store.transaction(|tx| {
            tx.note_session_owner(&sender.device, &sender.user.identity)?;
            open_message(tx, &sender.device, &pair, message, now)
        });
        match opened {
            Ok((envelope, used_one_time)) => {
                self.sessions.used_keys = self.sessions.used_keys.saturating_add(u32::from(used_one_time));
                Ok(envelope)
            }
            Err(SessionError::Open(OpenError::Unopened(why))) => Err(self.tell_unopened(sender, message, &why)),
            Err(SessionError::Open(error)) => {
                debug!(%error, sender = %sender.device, "message refused");
                self.counters.malformed += 1;
                Err(DeliveryStatus::Refused(Reason::INVALID))
            }
            Err(error) => {
                warn!(%error, "message not decrypted");
                Err(DeliveryStatus::Refused(Reason::TOO_MANY))
            }
        }
    }

    fn admit_sealed(&mut self, sender: &VerifiedChain, message: &SealedMessage) -> bool {
        let is_stranger = !matches!(self.relation(&sender.user), Relation::Own | Relation::Contact);
        let now = Instant::now();
        let lab = self.settings.lab;
        let rate = |rate| if lab { LAB_RATE } else { rate };
        let identity = sender.user.identity.0;
        if is_stranger && self.sessions.strangers.take(&identity, rate(STRANGER_RATE), now).is_err() {
            return false;
        }
        if matches!(message.ciphertext, Ciphertext::Later(_)) {
            return true;
        }
        let is_known =
            self.store.read::<_, StoreError>(|view| Ok(stored_sessions(view, &sender.device)?.knows(&message.session)));
        is_known.unwrap_or(false) || self.sessions.accepts.take(&identity, rate(ACCEPT_RATE), now).is_ok()
    }

    fn tell_unopened(&mut self, sender: &VerifiedChain, message: &SealedMessage, why: &str) -> DeliveryStatus {
        let now = self.now();
        let user = wire::encode(&sender.user.id);
        let noted = self.store.transaction::<_, StoreError>(|tx| {
            let is_new = tx.note_unopened(&sender.device, &message.id, &user, now.unix)?;
            Ok((is_new, stored_sessions(tx, &sender.device)?.unopened(message)))
        });
        info!(sender = %sender.device, message = %message.id.short(), session = %message.session, why, "a message doesn't open");
        match noted {
            Ok((is_new, unopened)) => {
                let is_wanted = self.decide(&sender.user, Kind::Message).is_allowed;
                if is_new && is_wanted && self.sessions.warnings.take(&sender.user.identity.0, WARN_RATE, now.instant).is_ok() {
                    let name = self.labels.display(&sender.user.id);
                    let detail = format!("a message from {name} can't be decrypted here; it is asked for again");
                    self.events.send(Event::Warning { code: "message-undecryptable".into(), detail });
                }
                DeliveryStatus::Unopened(unopened)
            }
            Err(error) => {
                warn!(%error, "messages not read");
                DeliveryStatus::Refused(Reason::TOO_MANY)
            }
        }
    }

    /// Forgets decrypted messages that were dealt with.
    pub(super) fn finish_opened(&mut self) {
        let done = std::mem::take(&mut self.sessions.done);
        let now = self.now().unix;
        let finished = self.store.transaction::<_, StoreError>(|tx| {
            done.iter().try_for_each(|(device, id)| tx.finish_opened_message(device, id, now))
        });
        if let Err(error) = finished {
            warn!(%error, "decrypted messages not forgotten");
        }
    }

    /// Tells senders which of their letters don't open: those who are connected or can be reached.
    pub(crate) fn tell_letters_unopened(&mut self, unopened: Vec<(UserId, DeviceKey, UnopenedMessage)>) {
        let mut by_device: HashMap<DeviceKey, (UserId, Vec<UnopenedMessage>)> = HashMap::new();
        for (user, device, message) in unopened {
            by_device.entry(device).or_insert_with(|| (user, Vec::new())).1.push(message);
        }
        for (device, (user, messages)) in by_device {
            for messages in messages.chunks(UNOPENED_MAX) {
                let notice = MessagesUnopened { messages: messages.to_vec(), extensions: Extensions::none() };
                let connected = address::peer_id(&device).filter(|peer| self.peers.get(peer).is_some());
                match connected.map(Target::connected) {
                    Some(target) => self.notify(&target, &notice),
                    None => self.leave_unopened(&user, &device, notice),
                }
            }
        }
    }

    /// Tells a sender who has been looked up which of its letters don't open.
    pub(super) fn tell_untold(&mut self, device: &DeviceKey) {
        let told: Vec<_> = self.sessions.untold.extract_if(.., |(_, sender, _)| sender == device).collect();
        for (user, device, notice) in told {
            self.leave_unopened(&user, &device, notice);
        }
    }

    fn leave_unopened(&mut self, user: &UserId, device: &DeviceKey, notice: MessagesUnopened) {
        if self.cached_device_entry(user, device).is_none() {
            if self.sessions.untold.len() < UNTOLD_MAX {
                self.sessions.untold.push((user.clone(), *device, notice));
                self.resolve_user(user, Waiter::Messages);
            }
            return;
        }
        if let Some(target) = self.unasked_target(user, device) {
            self.notify(&target, &notice);
        }
        let until = self.now().unix.plus_secs(halloo_protocol::mailbox::LETTER_SECS_MAX);
        let id = MessageId::random(&mut self.rng);
        let leave = Leave { id, attempt: 0, until, hides: self.is_stranger(user) };
        self.leave_content(user, device, leave, &Content::Unopened(notice));
    }
}
