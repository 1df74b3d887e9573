//! The mailboxes this device uses: chosen among the nodes it knows, opened, named in its entry, and emptied; and letters left for others.
//!
//! Two are kept, so that one may be lost for good. They are remembered on disk: after a restart the same boxes are emptied first. A letter is
//! struck off only after its message is in our database.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bincode::{Decode, Encode};
use halloo_protocol::call::Reason;
use halloo_protocol::capability::{CapabilityProof, Service};
use halloo_protocol::directory::Helper;
use halloo_protocol::id::MessageId;
use halloo_protocol::identity::{DeviceCertificate, UserId, VerifiedChain};
use halloo_protocol::key::DeviceKey;
use halloo_protocol::mailbox::{
    Admission, DONE_MAX, Letter, LetterError, LetterId, MailboxItem, MailboxItems, MailboxKept, MailboxOpen, MailboxOpened,
    MailboxPut, MailboxReason, MailboxTake, OpenStatus, PutStatus, SealedLetter, VerifiedLetter,
};
use halloo_protocol::message::{Content, DeliveryStatus, MessageDelivered};
use halloo_protocol::node::Roles;
use halloo_protocol::session::{SessionId, UnopenedMessage};
use halloo_protocol::time::{Now, UnixTime};
use halloo_protocol::wire::{Extensions, Frame, Signed};
use libp2p::PeerId;
use tracing::{debug, warn};

use crate::address;
use crate::event_loop::EventLoop;
use crate::handle::Event;
use crate::network::{Purpose, Target};
use crate::rpc::Failure;
use crate::store::StoreError;
use crate::streams::Keeper;

/// Mailboxes in use. An entry has room for three.
const BOXES_MAX: usize = 2;

/// Mailboxes no longer in use that may still hold something.
const FORMER_MAX: usize = 4;

/// How often it is looked whether something is to do.
const CHECK_EVERY: Duration = Duration::from_secs(2);

/// How often a box is looked into unasked: its mailbox tells of letters while we are connected.
const TAKE_EVERY: Duration = Duration::from_secs(600);

/// How often a box is opened anew. It lasts for 30 days.
const REOPEN_EVERY: Duration = Duration::from_secs(86_400);

/// The first pause after a mailbox couldn't be reached; doubled up to [`TAKE_EVERY`].
const RETRY_MIN: Duration = Duration::from_secs(2);

/// Failures in a row after which a mailbox is replaced: half an hour and more, longer than a restart of it takes.
const FAILURES_MAX: u32 = 10;

/// How long a mailbox has to answer.
const TIMEOUT: Duration = Duration::from_secs(8);

/// Mailboxes of one recipient that get a copy.
const COPIES_MAX: usize = 2;

/// Letters known to be kept; when full, all are forgotten, and repetitions are recognised by the mailboxes.
const LEFT_MAX: usize = 8_192;

/// How long a mailbox that refused isn't asked again.
const REFUSED_PAUSE: Duration = Duration::from_secs(600);

const BOXES: &str = "mailboxes";

/// What is on disk.
#[derive(Clone, Debug, Encode, Decode)]
struct StoredBox {
    helper: Helper,
    until: UnixTime,
    is_former: bool,
}

/// One of our boxes.
#[derive(Clone, Debug)]
struct OwnBox {
    helper: Helper,
    /// Until when letters are kept there; zero before it was opened.
    until: UnixTime,
    is_former: bool,
    open_at: Instant,
    take_at: Instant,
    failures: u32,
    is_asking: bool,
    /// Letters that are on our disk and not yet struck off there.
    done: Vec<u64>,
    /// The newest letter seen.
    after: u64,
}

/// How something is left in mailboxes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leave {
    /// Under the id of a message, or one of its own.
    pub(crate) id: MessageId,
    /// At the so manieth attempt.
    pub(crate) attempt: u32,
    /// How long it is worth keeping.
    pub(crate) until: UnixTime,
    /// Only with mailboxes that know where we are anyway.
    pub(crate) hides: bool,
}

/// A letter on its way to a mailbox.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leaving {
    message: MessageId,
    recipient: DeviceKey,
    mailbox: DeviceKey,
}

/// What a request to one of our own mailboxes was for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum BoxRequest {
    Open(DeviceKey),
    Take(DeviceKey),
}

/// A letter that came by itself and was taken.
#[derive(Clone, Debug)]
pub(crate) struct TakenLetter {
    /// Who wrote it.
    pub(crate) from: UserId,
    /// The device that wrote it.
    pub(crate) device: DeviceKey,
    /// Which message it holds.
    pub(crate) message: Option<MessageId>,
    /// Whether it wasn't here before.
    pub(crate) is_new: bool,
}

/// What became of a letter that was fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
enum LetterFate {
    /// Its message is on disk, or nothing can ever be made of it.
    Done,
    /// It can't be taken now.
    Later,
    /// It doesn't open.
    Unreadable,
    /// It opened, and the message in it doesn't: its sender is told.
    Unopened(UserId, DeviceKey, UnopenedMessage),
}

/// What is in a letter, whose it is, and the certificate of the device that wrote it.
type OpenedLetter = (Content, VerifiedChain, Signed<DeviceCertificate>);

/// Our boxes, and the letters we left.
#[derive(Debug, Default)]
pub(crate) struct MailboxesState {
    boxes: Vec<OwnBox>,
    is_loaded: bool,
    check_at: Option<Instant>,
    refused: Vec<(DeviceKey, Instant)>,
    left: BTreeSet<(MessageId, DeviceKey, DeviceKey)>,
}

impl MailboxesState {
    fn get_mut(&mut self, device: &DeviceKey) -> Option<&mut OwnBox> {
        self.boxes.iter_mut().find(|own| own.helper.device == *device)
    }

    fn in_use(&self) -> impl Iterator<Item = &OwnBox> {
        self.boxes.iter().filter(|own| !own.is_former)
    }
}

// Our own boxes.
impl EventLoop {
    pub(crate) fn mailboxes_tick(&mut self, now: Now) {
        if self.mailboxes.check_at.is_some_and(|at| at > now.instant) {
            return;
        }
        self.mailboxes.check_at = Some(now.instant + CHECK_EVERY);
        // Whoever has no name has a box for what contacts elsewhere say.
        let has_use = self.identity.place().is_some() || self.has_linked();
        if !self.settings.publishes || !has_use || self.is_revoked() {
            return;
        }
        self.load_boxes(now.instant);
        self.choose_mailboxes(now.instant);
        let due: Vec<(Helper, bool)> = self
            .mailboxes
            .boxes
            .iter()
            .filter(|own| !own.is_asking)
            .filter_map(|own| {
                let opens = !own.is_former && own.open_at <= now.instant;
                (opens || own.take_at <= now.instant).then(|| (own.helper.clone(), opens))
            })
            .collect();
        for (helper, opens) in due {
            if opens { self.open_box_at(&helper) } else { self.look_into_box(&helper) }
        }
    }

    fn load_boxes(&mut self, now: Instant) {
        if std::mem::replace(&mut self.mailboxes.is_loaded, true) {
            return;
        }
        let stored = self.store.read::<_, StoreError>(|view| view.setting_value::<Vec<StoredBox>>(BOXES));
        let stored = stored.inspect_err(|error| warn!(%error, "mailboxes not read")).ok().flatten().unwrap_or_default();
        for kept in stored.into_iter().take(BOXES_MAX + FORMER_MAX) {
            let mut own = fresh_box(kept.helper, now);
            (own.until, own.is_former) = (kept.until, kept.is_former);
            self.mailboxes.boxes.push(own);
        }
    }

    fn keep_boxes(&self) {
        let stored: Vec<StoredBox> = self
            .mailboxes
            .boxes
            .iter()
            .map(|own| StoredBox { helper: own.helper.clone(), until: own.until, is_former: own.is_former })
            .collect();
        if let Err(error) = self.store.transaction::<_, StoreError>(|tx| tx.put_setting_value(BOXES, &stored)) {
            warn!(%error, "mailboxes not remembered");
        }
    }

    /// Fills the places of mailboxes with nodes that serve as such: those of our own user first, then the nearest.
    fn choose_mailboxes(&mut self, now: Instant) {
        self.mailboxes.refused.retain(|(_, until)| *until > now);
        let missing = BOXES_MAX.saturating_sub(self.mailboxes.in_use().count());
        if missing == 0 {
            return;
        }
        for helper in self.mailbox_candidates().into_iter().take(missing) {
            match self.mailboxes.get_mut(&helper.device) {
                Some(known) => {
                    let done = std::mem::take(&mut known.done);
                    *known = OwnBox { done, until: known.until, ..fresh_box(helper, now) };
                }
                None => self.mailboxes.boxes.push(fresh_box(helper, now)),
            }
        }
    }

    fn mailbox_candidates(&self) -> Vec<Helper> {
        let me = self.identity.device();
        let may_ask = |device: &DeviceKey| {
            *device != me
                && !self.mailboxes.in_use().any(|own| own.helper.device == *device)
                && !self.mailboxes.refused.iter().any(|(refused, _)| refused == device)
        };
        let own = self.identity.user_id();
        let connected = self.peers.with_roles(Roles::MAILBOX).filter_map(|(_, peer)| {
            let is_foreign = peer.chain.as_ref().is_none_or(|chain| chain.user.id != own);
            Some((is_foreign, peer.rtt.unwrap_or(TIMEOUT), peer.descriptor.clone()?))
        });
        let known = self.directory.machine.table().filter(|descriptor| descriptor.roles.contains(Roles::MAILBOX));
        let mut found: Vec<_> = connected.chain(known.map(|descriptor| (true, TIMEOUT, descriptor.clone()))).collect();
        found.sort_by_key(|(is_foreign, rtt, _)| (*is_foreign, *rtt));
        let mut helpers: Vec<Helper> = Vec::new();
        for (.., descriptor) in found {
            if may_ask(&descriptor.device) && !helpers.iter().any(|helper| helper.device == descriptor.device) {
                helpers.push(Helper { device: descriptor.device, addresses: descriptor.addresses });
            }
        }
        helpers
    }

    /// Where a mailbox of ours is: where it was, and where the routing table has seen it since.
    pub(crate) fn mailbox_target(&self, helper: &Helper) -> Option<Target> {
        let mut target = self.helper_target(helper)?;
        let seen = self.directory.machine.table().find(|descriptor| descriptor.device == helper.device);
        let seen = seen.and_then(|descriptor| Target::of_descriptor(descriptor, self.dials_private()));
        for address in seen.into_iter().flat_map(|seen| seen.addresses) {
            if !target.addresses.contains(&address) {
                target.addresses.push(address);
            }
        }
        Some(target)
    }

    fn open_box_at(&mut self, helper: &Helper) {
        let Some(target) = self.mailbox_target(helper) else { return };
        if let Some(own) = self.mailboxes.get_mut(&helper.device) {
            own.is_asking = true;
        }
        // Strangers may ask to be contacts whatever the settings are: that is what the door is for.
        let epoch = self.contacts.presence_secret().epoch();
        let request = MailboxOpen { epoch, revoked: Vec::new(), has_door: true, extensions: Extensions::none() };
        let purpose = Purpose::OwnMailbox(BoxRequest::Open(helper.device));
        self.request(&target, &request, purpose, TIMEOUT);
    }

    fn look_into_box(&mut self, helper: &Helper) {
        let Some(target) = self.mailbox_target(helper) else { return };
        let Some(own) = self.mailboxes.get_mut(&helper.device) else { return };
        own.is_asking = true;
        let done: Vec<u64> = own.done.iter().copied().take(DONE_MAX).collect();
        let request = MailboxTake { done, after: own.after, extensions: Extensions::none() };
        self.request(&target, &request, Purpose::OwnMailbox(BoxRequest::Take(helper.device)), TIMEOUT);
    }

    pub(crate) fn own_mailbox_answer(&mut self, request: BoxRequest, frame: &Frame) {
        match request {
            BoxRequest::Open(device) => match frame.parse::<MailboxOpened>().map(|answer| answer.status) {
                Ok(OpenStatus::Opened { until, waiting }) => self.box_opened(device, until, waiting),
                Ok(OpenStatus::Refused(reason)) => self.box_refused(device, reason),
                Err(_) => self.malformed_mailbox(device),
            },
            BoxRequest::Take(device) => match frame.parse::<MailboxItems>() {
                Ok(MailboxItems { refused: Some(reason), .. }) => self.take_refused(device, reason),
                Ok(answer) => self.handle_items(device, answer),
                Err(_) => self.malformed_mailbox(device),
            },
        }
    }

    fn malformed_mailbox(&mut self, device: DeviceKey) {
        self.counters.malformed += 1;
        self.box_refused(device, MailboxReason::INVALID);
    }

    fn box_opened(&mut self, device: DeviceKey, until: UnixTime, waiting: u32) {
        let now = Instant::now();
        let Some(own) = self.mailboxes.get_mut(&device) else { return };
        let is_new = own.until == UnixTime(0);
        debug!(%device, waiting, "box opened");
        own.until = until;
        own.failures = 0;
        own.is_asking = false;
        own.open_at = now + REOPEN_EVERY;
        own.take_at = now;
        self.mailboxes.check_at = None;
        self.keep_boxes();
        let is_in_use = self.mailboxes.in_use().any(|own| own.helper.device == device);
        if let Some(peer) = address::peer_id(&device).filter(|_| is_in_use) {
            // Connected, it tells of letters as they come.
            self.swarm.behaviour_mut().streams.keep(peer, Keeper::Mailboxes, true);
        }
        if is_new {
            self.publish_soon();
        }
    }

    /// This mailbox doesn't want us: another one is looked for.
    fn box_refused(&mut self, device: DeviceKey, reason: MailboxReason) {
        debug!(%device, %reason, "box refused");
        self.mailboxes.refused.push((device, Instant::now() + REFUSED_PAUSE));
        self.retire_box(device);
    }

    fn take_refused(&mut self, device: DeviceKey, reason: MailboxReason) {
        debug!(%device, %reason, "no letters given");
        match self.mailboxes.get_mut(&device) {
            // It has forgotten us: its disk was lost, say.
            Some(own) if reason == MailboxReason::NO_BOX && !own.is_former => {
                (own.is_asking, own.open_at, own.after) = (false, Instant::now(), 0);
                own.done.clear();
                own.take_at = Instant::now() + TAKE_EVERY;
            }
            Some(_) => self.box_failed(device),
            None => {}
        }
    }

    pub(crate) fn own_mailbox_failure(&mut self, request: BoxRequest, failure: Failure) {
        let (BoxRequest::Open(device) | BoxRequest::Take(device)) = request;
        debug!(%device, %failure, "mailbox not reached");
        self.box_failed(device);
    }

    fn box_failed(&mut self, device: DeviceKey) {
        let now = Instant::now();
        let Some(own) = self.mailboxes.get_mut(&device) else { return };
        own.is_asking = false;
        own.failures = own.failures.saturating_add(1);
        let pause = (RETRY_MIN * 2_u32.saturating_pow(own.failures.min(16))).min(TAKE_EVERY);
        own.take_at = now + pause;
        own.open_at = own.open_at.max(now + pause);
        if own.failures >= FAILURES_MAX && !own.is_former {
            self.retire_box(device);
        }
    }

    /// Takes a mailbox out of use. What it holds is still fetched if it comes back.
    fn retire_box(&mut self, device: DeviceKey) {
        let now = self.now();
        let Some(own) = self.mailboxes.get_mut(&device) else { return };
        (own.is_former, own.is_asking, own.take_at) = (true, false, now.instant + TAKE_EVERY);
        self.mailboxes.boxes.retain(|own| !own.is_former || own.until > now.unix);
        let former = self.mailboxes.boxes.iter().filter(|own| own.is_former).count();
        if former > FORMER_MAX
            && let Some(oldest) = self.mailboxes.boxes.iter().position(|own| own.is_former)
        {
            self.mailboxes.boxes.remove(oldest);
        }
        self.mailboxes.check_at = None;
        self.keep_boxes();
        if let Some(peer) = address::peer_id(&device) {
            self.swarm.behaviour_mut().streams.keep(peer, Keeper::Mailboxes, false);
        }
        self.publish_soon();
    }

    /// Capabilities of former contacts are void: the mailboxes are told.
    pub(crate) fn mailbox_epoch_changed(&mut self) {
        let now = Instant::now();
        for own in &mut self.mailboxes.boxes {
            own.open_at = now;
        }
        self.mailboxes.check_at = None;
    }

    /// "Something waits for you."
    pub(crate) fn handle_mailbox_news(&mut self, peer: PeerId) {
        let device = self.peers.get(&peer).map(|known| known.device);
        if let Some(own) = device.and_then(|device| self.mailboxes.get_mut(&device)) {
            own.take_at = Instant::now();
            self.mailboxes.check_at = None;
        }
    }

    /// A mailbox of ours is connected: after a while apart it may hold something.
    pub(crate) fn mailboxes_peer_greeted(&mut self, peer: PeerId) {
        self.handle_mailbox_news(peer);
        if let Some(device) = self.peers.get(&peer).map(|known| known.device) {
            self.handle_vault_news(&device);
        }
    }

    fn handle_items(&mut self, device: DeviceKey, answer: MailboxItems) {
        let now = Instant::now();
        let asked: Vec<u64> = match self.mailboxes.get_mut(&device) {
            Some(own) => own.done.drain(..own.done.len().min(DONE_MAX)).collect(),
            None => return,
        };
        debug!(%device, letters = answer.items.len(), struck = asked.len(), "looked into the box");
        let newest = answer.items.iter().map(|item| item.number).max();
        let mut kept_back = false;
        let mut is_unreadable = false;
        let mut done = Vec::new();
        let mut unopened = Vec::new();
        let mut letters: Vec<_> = answer.items.into_iter().map(|item| (item.number, self.open_letter(&item))).collect();
        // What was encrypted in one session is decrypted in the order it was encrypted in.
        letters.sort_by_key(|(_, letter)| letter.as_ref().ok().and_then(place_in_session));
        for (number, letter) in letters {
            let fate = match letter {
                Ok(letter) => self.read_letter(letter),
                Err(fate) => fate,
            };
            match fate {
                LetterFate::Unopened(user, device, message) => {
                    unopened.push((user, device, message));
                    done.push(number);
                }
                LetterFate::Done => done.push(number),
                LetterFate::Later => kept_back = true,
                LetterFate::Unreadable => {
                    is_unreadable = true;
                    done.push(number);
                }
            }
        }
        self.tell_letters_unopened(unopened);
        if is_unreadable {
            // One word however many there are: anybody may leave nonsense.
            let detail =
                "what was left in a mailbox can't be read: nonsense, or sealed to a key this device no longer has".to_owned();
            self.events.send(Event::Warning { code: "letter-unreadable".into(), detail });
        }
        // A mailbox that has more and gives nothing isn't asked again at once.
        let has_more = answer.has_more && newest.is_some();
        let Some(own) = self.mailboxes.get_mut(&device) else { return };
        own.is_asking = false;
        own.failures = 0;
        own.done.extend(done);
        own.after = newest.unwrap_or(own.after).max(own.after);
        // What couldn't be taken now is asked for again at the next look.
        own.take_at = if has_more || !own.done.is_empty() { now } else { now + TAKE_EVERY };
        if (!has_more && own.done.is_empty()) || kept_back {
            own.after = 0;
        }
        if kept_back {
            own.take_at = now + TAKE_EVERY.min(RETRY_MIN * 8);
        }
        self.mailboxes.check_at = None;
    }

    /// Looks into every box: word has come that something waits.
    pub(crate) fn look_into_boxes(&mut self) {
        let now = Instant::now();
        self.mailboxes.boxes.iter_mut().for_each(|own| own.take_at = now);
        self.mailboxes.check_at = None;
    }

    /// Takes a letter that came by itself, as in a push.
    ///
    /// # Errors
    /// Why it isn't believed, or not kept.
    pub(crate) fn take_letter(&mut self, letter: &SealedLetter) -> Result<TakenLetter, String> {
        let opened = letter.open(&self.hpke, &self.identity.device(), self.now().unix, &self.trust);
        let (content, sender, certificate) = opened.map_err(|error| error.to_string())?.into_parts();
        let (from, message) = (sender.user.id.clone(), message_of(&content));
        let status = self.take_content(&sender, &certificate, content);
        match (status, message) {
            (DeliveryStatus::Unopened(unopened), Some(id)) => {
                self.tell_letters_unopened(vec![(from, sender.device, UnopenedMessage { id, unopened })]);
                Err("the message is encrypted in a session that this device doesn't have".to_owned())
            }
            (status @ (DeliveryStatus::Accepted | DeliveryStatus::Duplicate), message) => {
                let is_new = status == DeliveryStatus::Accepted;
                self.letter_taken(&sender, message, status);
                Ok(TakenLetter { from, device: sender.device, message, is_new })
            }
            (status, _) => Err(format!("the message isn't kept: {status:?}")),
        }
    }

    fn open_letter(&mut self, item: &MailboxItem) -> Result<OpenedLetter, LetterFate> {
        let now = self.now().unix;
        let opened = item.letter.open(&self.hpke, &self.identity.device(), now, &self.trust);
        opened.map(VerifiedLetter::into_parts).map_err(|error| {
            debug!(%error, "a letter can't be read");
            self.counters.malformed += 1;
            if error == LetterError::NotForMe { LetterFate::Unreadable } else { LetterFate::Done }
        })
    }

    fn read_letter(&mut self, (content, sender, certificate): OpenedLetter) -> LetterFate {
        let id = message_of(&content);
        match (self.take_content(&sender, &certificate, content), id) {
            (DeliveryStatus::Unopened(unopened), Some(id)) => {
                LetterFate::Unopened(sender.user.id, sender.device, UnopenedMessage { id, unopened })
            }
            (status, id) => self.letter_taken(&sender, id, status),
        }
    }

    fn letter_taken(&mut self, sender: &VerifiedChain, id: Option<MessageId>, status: DeliveryStatus) -> LetterFate {
        match status {
            DeliveryStatus::Accepted | DeliveryStatus::Duplicate => {
                if let Some(id) = id {
                    self.tell_delivered(&sender.user.id, &sender.device, id);
                }
                LetterFate::Done
            }
            DeliveryStatus::Refused(Reason::TOO_MANY) => LetterFate::Later,
            DeliveryStatus::Refused(_) | DeliveryStatus::Unopened(_) | DeliveryStatus::Unencrypted => LetterFate::Done,
        }
    }

    /// Tells the sender that a message it left is here. Where that isn't possible now, its next try tells it.
    fn tell_delivered(&mut self, user: &UserId, device: &DeviceKey, id: MessageId) {
        let connected = address::peer_id(device).filter(|peer| self.peers.get(peer).is_some()).map(Target::connected);
        if let Some(target) = connected.or_else(|| self.unasked_target(user, device)) {
            self.notify(&target, &MessageDelivered { ids: vec![id], extensions: Extensions::none() });
        }
    }

    /// The mailboxes that those who look us up see, peer ids.
    pub(crate) fn published_mailboxes(&self) -> Vec<String> {
        let entry = self.published_entry();
        let named = entry.into_iter().flat_map(|entry| entry.mailboxes.iter());
        named.filter_map(|helper| Some(address::peer_id(&helper.device)?.to_string())).collect()
    }

    /// The mailboxes named in our entry.
    pub(crate) fn mailbox_helpers(&self) -> Vec<Helper> {
        let opened = self.mailboxes.in_use().filter(|own| own.until > UnixTime(0));
        opened.map(|own| own.helper.clone()).take(BOXES_MAX).collect()
    }
}

// Letters for others.
impl EventLoop {
    /// Leaves a message that couldn't be delivered in the mailboxes of the device it is for.
    pub(crate) fn leave_in_mailboxes(&mut self, id: MessageId, device: DeviceKey) {
        let Some(item) = self.messages.outbox.item(&id) else { return };
        let Some(user) = item.user_of(&device).cloned() else { return };
        let (envelope, until) = (item.envelope_for(&device), item.deadline);
        if let Some((content, attempt)) = self.copy_content(&user, &device, &envelope) {
            let hides = self.hides_from(&user, &envelope);
            self.leave_content(&user, &device, Leave { id, attempt, until, hides }, &content);
            if !hides {
                self.push_left(&user, &device, (id, &envelope.body), &content, until);
            }
        }
    }

    /// Leaves something in a device's mailboxes.
    pub(crate) fn leave_content(&mut self, user: &UserId, device: &DeviceKey, leave: Leave, content: &Content) {
        let Leave { id, attempt, until, hides } = leave;
        let device = *device;
        let Some(entry) = self.cached_device_entry(user, &device) else { return };
        let (hpke_key, helpers) = (entry.hpke_key, entry.mailboxes.clone());
        let me = self.identity.device();
        for helper in helpers.into_iter().filter(|helper| helper.device != me).take(COPIES_MAX) {
            if self.mailboxes.left.contains(&(id, device, helper.device)) {
                continue;
            }
            let Some(target) = self.strange_helper_target(&helper) else { continue };
            // A stranger names them: to others than those who know us anyway we would show ourselves.
            if hides && !self.is_at_hand(&helper) {
                debug!(mailbox = %target.peer, "nothing left there: a stranger's mailbox would learn where we are");
                continue;
            }
            let letter = Letter {
                chain: self.identity.chain().clone(),
                recipient: device,
                content: content.clone(),
                extensions: Extensions::none(),
            };
            let sealed = match SealedLetter::seal(letter, self.identity.device_key(), &hpke_key, &mut self.rng) {
                Ok(sealed) => sealed,
                Err(error) => return debug!(%error, "message not left in mailboxes"),
            };
            let mut put = MailboxPut {
                recipient: device,
                id: LetterId::of(&id, &device, &helper.device, attempt),
                letter: sealed,
                until,
                admission: None,
                extensions: Extensions::none(),
            };
            put.admission = self.mailbox_admission(user, &device, put.request_hash(), helper.device);
            let leaving = Leaving { message: id, recipient: device, mailbox: helper.device };
            self.request(&target, &put, Purpose::MailboxPut(leaving), TIMEOUT);
        }
    }

    /// Whether a node knows where we are anyway: it is connected, or a mailbox of ours.
    fn is_at_hand(&self, helper: &Helper) -> bool {
        let peer = address::peer_id(&helper.device);
        let is_connected = peer.is_some_and(|peer| self.swarm.behaviour().streams.is_direct(&peer));
        is_connected || self.mailbox_helpers().iter().any(|own| own.device == helper.device)
    }

    /// A message is to be left anew: it was encrypted anew.
    pub(crate) fn mailboxes_forget_left(&mut self, id: &MessageId, device: &DeviceKey) {
        self.mailboxes.left.retain(|(left, to, _)| left != id || to != device);
    }

    /// A contact's leave to write, used under the key they know us by. Without it the narrow door is left.
    pub(crate) fn mailbox_admission(
        &self,
        user: &UserId,
        recipient: &DeviceKey,
        request_hash: [u8; 32],
        mailbox: DeviceKey,
    ) -> Option<Admission> {
        let (capability, pairwise) = self.contact_capability(user, recipient, Service::Mailbox)?;
        let id = capability.unverified().id;
        let proof = CapabilityProof::sign(id, mailbox, request_hash, self.now().unix, &pairwise);
        Some(Admission { capability, proof })
    }

    pub(crate) fn mailbox_put_answer(&mut self, leaving: Leaving, frame: &Frame) {
        match frame.parse::<MailboxKept>().map(|answer| answer.status) {
            Ok(PutStatus::Kept { .. } | PutStatus::Duplicate) => {
                debug!(message = %leaving.message.short(), mailbox = %leaving.mailbox, "left in a mailbox");
                if self.mailboxes.left.len() >= LEFT_MAX {
                    self.mailboxes.left.clear();
                }
                self.mailboxes.left.insert((leaving.message, leaving.recipient, leaving.mailbox));
                self.messages.outbox.handle_left(&leaving.recipient, &leaving.message, Instant::now());
                self.drive_outbox();
            }
            Ok(PutStatus::Refused(reason)) => debug!(%reason, mailbox = %leaving.mailbox, "letter refused"),
            Err(_) => self.counters.malformed += 1,
        }
    }

    pub(crate) fn mailbox_put_failure(&mut self, leaving: Leaving, failure: Failure) {
        debug!(%failure, mailbox = %leaving.mailbox, "mailbox of the recipient not reached");
    }

    /// A device says which of our messages have come to it by other ways than our own.
    pub(crate) fn handle_message_delivered(&mut self, peer: PeerId, notice: &MessageDelivered) {
        let Some(device) = self.peers.get(&peer).filter(|known| known.chain.is_some()).map(|known| known.device) else { return };
        for id in &notice.ids {
            self.messages.outbox.handle_ack(&device, id, DeliveryStatus::Accepted, Instant::now());
        }
        self.drive_outbox();
    }
}

/// The message in a letter, if it holds one.
fn message_of(content: &Content) -> Option<MessageId> {
    match content {
        Content::Plain(envelope) => Some(envelope.id),
        Content::Sealed(message) => Some(message.id),
        Content::Unopened(_) => None,
    }
}

/// Where a letter's message stands among those of its session.
fn place_in_session((content, sender, _): &OpenedLetter) -> Option<(DeviceKey, SessionId, u64)> {
    match content {
        Content::Sealed(message) => Some((sender.device, message.session, message.number)),
        Content::Plain(_) | Content::Unopened(_) => None,
    }
}

fn fresh_box(helper: Helper, now: Instant) -> OwnBox {
    OwnBox {
        helper,
        until: UnixTime(0),
        is_former: false,
        open_at: now,
        take_at: now + TAKE_EVERY,
        failures: 0,
        is_asking: false,
        done: Vec::new(),
        after: 0,
    }
}
