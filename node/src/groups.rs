//! Groups from the node's side: keeps what is said in them, decides whether this user takes part, and sends copies to every member's device.
//!
//! [`Group`] decides who is a member. Here it is decided who is listened to: texts of members of groups in which this user takes part, whoever they
//! are otherwise; statements of those who are, or by them become, members. A group's texts are for the group only: its members are no contacts.
//!
//! This user takes part when a contact has added them, unless the privacy settings say no, or when they have said yes. Until then members' texts are
//! put off, and come when it is accepted.

mod commands;

pub(crate) use commands::GroupAdding;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bincode::{Decode, Encode};
use halloo_protocol::call::Reason;
use halloo_protocol::contact::privacy::{Kind, Relation, decide};
use halloo_protocol::group::{
    Group, GroupAsk, GroupGenesis, GroupPart, GroupSignal, GroupSigner, GroupStatement, GroupText, GroupView, Standing,
    StandingMark, Vouched,
};
use halloo_protocol::id::{GroupId, MessageId};
use halloo_protocol::identity::{VerifiedChain, VerifiedUser};
use halloo_protocol::key::{DeviceKey, IdentityKey};
use halloo_protocol::message::{Correspondent, DeliveryStatus, Envelope, MessageBody, Recipient, StateItem};
use halloo_protocol::time::UnixTime;
use halloo_protocol::wire::{self, Extensions};
use tracing::{debug, warn};

use crate::event_loop::EventLoop;
use crate::handle::Event;
use crate::handle::messages::MessageError;
use crate::messages::{Arrived, Queued, check_text, conversation_id, keep_signal_for};
use crate::store::{GROUPS_MAX, Store, StoreError, Transaction, VALUE_BYTES_MAX};

/// Groups in which this user takes no part, and those that wait for an answer: anybody may make such.
const IDLE_MAX: usize = 64;

/// How often one device is asked, or answered, about one group.
const ASK_PAUSE: Duration = Duration::from_secs(5);

/// Devices whose last question is remembered; when full, all are forgotten.
const ASKED_MAX: usize = 1_024;

/// A group as it is stored, without its statements.
#[derive(Debug, Encode, Decode)]
struct GroupRow {
    genesis: Option<Vouched<GroupGenesis>>,
    standing: Option<StandingMark>,
}

/// All groups that were heard of.
#[derive(Debug, Default)]
pub(crate) struct GroupsState {
    groups: BTreeMap<GroupId, Group>,
    standings: BTreeMap<GroupId, StandingMark>,
    asked: BTreeMap<(GroupId, DeviceKey), Instant>,
}

impl GroupsState {
    /// Takes up what is stored.
    ///
    /// # Errors
    /// [`StoreError`] if the database can't be read.
    pub(crate) fn open(store: &Store) -> Result<Self, StoreError> {
        let mut state = Self::default();
        let rows = store.read::<_, StoreError>(|view| view.groups())?;
        for row in rows.iter().filter_map(|bytes| wire::decode::<GroupRow>(bytes, VALUE_BYTES_MAX).ok()) {
            if let Some(mark) = row.standing {
                state.standings.insert(mark.group, mark);
            }
            let Some(Ok(mut group)) = row.genesis.map(Group::from_genesis) else { continue };
            let stored = store.read::<_, StoreError>(|view| view.group_statements(&group.id()))?;
            let statements =
                stored.iter().filter_map(|bytes| wire::decode::<Vouched<GroupStatement>>(bytes, VALUE_BYTES_MAX).ok());
            group.merge(statements);
            state.groups.insert(group.id(), group);
        }
        Ok(state)
    }

    /// All ids.
    pub(crate) fn ids(&self) -> impl Iterator<Item = GroupId> {
        let ids: BTreeSet<GroupId> = self.groups.keys().chain(self.standings.keys()).copied().collect();
        ids.into_iter()
    }

    /// True if this device was asked, or answered, just now.
    fn is_too_soon(&mut self, group: GroupId, device: DeviceKey) -> bool {
        let now = Instant::now();
        if self.asked.get(&(group, device)).is_some_and(|at| now.saturating_duration_since(*at) < ASK_PAUSE) {
            return true;
        }
        if self.asked.len() >= ASKED_MAX {
            self.asked.clear();
        }
        self.asked.insert((group, device), now);
        false
    }
}

/// What is to be said to whom.
struct Outgoing {
    to: Vec<Recipient>,
    part: GroupPart,
}

fn put_group(tx: &Transaction, group: Option<&Group>, id: &GroupId, standing: Option<StandingMark>) -> Result<(), StoreError> {
    let row = GroupRow { genesis: group.map(|group| group.genesis().clone()), standing };
    tx.put_group(id, &wire::encode(&row))
}

// Who takes part.
impl EventLoop {
    fn own_member(&self) -> (halloo_protocol::identity::UserId, IdentityKey) {
        (self.identity.user_id(), self.identity.identity())
    }

    /// What this user has answered to being in the group as it is now; `None` if they aren't, or haven't been asked.
    fn standing(&self, group: &Group) -> Option<Standing> {
        let (user, identity) = self.own_member();
        let view = group.view();
        let mark = self.groups.standings.get(&group.id())?;
        (view.is_member(&user, &identity) && mark.round >= view.round(&identity)).then_some(mark.standing)
    }

    fn takes_part(&self, group: &Group) -> bool {
        self.standing(group) == Some(Standing::Joined)
    }

    /// True for another member of a group in which this user takes part.
    pub(crate) fn is_fellow(&self, group: &GroupId, user: &VerifiedUser) -> bool {
        let group = self.groups.groups.get(group).filter(|group| self.takes_part(group));
        group.is_some_and(|group| group.view().is_member(&user.id, &user.identity))
    }

    /// A group's name, as shown.
    pub(crate) fn group_name(&self, id: &GroupId) -> String {
        self.groups.groups.get(id).map_or_else(|| format!("group {}", id.short()), |group| group.view().name.clone())
    }

    /// Groups in which this user takes no part.
    fn idle_count(&self) -> usize {
        self.groups.groups.values().filter(|group| !self.takes_part(group)).count()
    }

    /// The other members, as far as this user wants to hear of them.
    fn fellows(&self, group: &Group) -> Vec<Recipient> {
        let own = self.identity.identity();
        let members = group.view().members.iter().filter(|(identity, _)| **identity != own);
        members
            .filter(|(identity, member)| self.contacts.roster().relation(&member.user, identity) != Relation::Blocked)
            .map(|(identity, member)| Recipient { user: member.user.clone(), identity: Some(*identity) })
            .collect()
    }
}

// What comes.
impl EventLoop {
    /// What a device says in a group.
    pub(crate) fn take_group_signal(
        &mut self,
        sender: &VerifiedChain,
        envelope: &Envelope,
        signal: GroupSignal,
    ) -> DeliveryStatus {
        let relation = self.relation(&sender.user);
        if relation == Relation::Blocked {
            return DeliveryStatus::Refused(Reason::NOT_ALLOWED);
        }
        let is_stranger = !matches!(relation, Relation::Own | Relation::Contact);
        let taken = match signal {
            GroupSignal::Text(text) => return self.take_group_text(sender, envelope, text, relation),
            GroupSignal::Part(part) => self.take_group_part(sender, *part, is_stranger),
            GroupSignal::Ask(ask) => self.answer_group_ask(sender, &ask),
        };
        match taken {
            Ok(()) => DeliveryStatus::Accepted,
            Err(reason) => DeliveryStatus::Refused(reason),
        }
    }

    fn take_group_text(
        &mut self,
        sender: &VerifiedChain,
        envelope: &Envelope,
        text: GroupText,
        relation: Relation,
    ) -> DeliveryStatus {
        let id = GroupId(envelope.conversation.0);
        let Some(group) = self.groups.groups.get(&id) else {
            // What a contact says may have overtaken the invitation.
            let is_known = matches!(relation, Relation::Own | Relation::Contact);
            return DeliveryStatus::Refused(if is_known { Reason::TOO_MANY } else { Reason::NOT_ALLOWED });
        };
        let view = group.view();
        let is_member = view.is_member(&sender.user.id, &sender.user.identity);
        let knows_the_same = group.digest() == text.digest;
        match self.standing(group) {
            Some(Standing::Joined) if is_member => {}
            // They may have been added by somebody whose word hasn't come yet.
            Some(Standing::Joined) if !knows_the_same && !view.former.contains_key(&sender.user.identity) => {
                self.ask_about_group(id, sender);
                return DeliveryStatus::Refused(Reason::TOO_MANY);
            }
            // Until the user has said yes or no.
            Some(Standing::Waiting) | None if is_member => return DeliveryStatus::Refused(Reason::TOO_MANY),
            _ => return DeliveryStatus::Refused(Reason::NOT_ALLOWED),
        }
        if !knows_the_same {
            self.ask_about_group(id, sender);
        }
        let (with, author) = (Correspondent::Group(id), sender.user.id.clone());
        let arrived = Arrived { with, author, device: sender.device, envelope, text: text.text };
        self.take_shown(sender, arrived, false)
    }

    fn take_group_part(&mut self, sender: &VerifiedChain, part: GroupPart, is_stranger: bool) -> Result<(), Reason> {
        if !self.admit_message(&sender.user.identity.0, is_stranger, wire::encoded_len(&part)) {
            self.counters.rate_limited += 1;
            return Err(Reason::TOO_MANY);
        }
        let id = part.id();
        let known = self.groups.groups.get(&id).cloned();
        let is_known = known.is_some();
        let mut group = match known {
            Some(group) => group,
            None => Group::from_genesis(part.genesis).map_err(|_| Reason::INVALID)?,
        };
        let before = group.view().clone();
        let news = group.merge(part.statements);
        let view = group.view();
        let (user, identity) = self.own_member();
        let is_about_us = view.is_member(&user, &identity) || view.former.contains_key(&identity);
        let speaks = view.members.contains_key(&sender.user.identity) || view.former.contains_key(&sender.user.identity);
        // The part that adds us, or the one that says by what right, may be still to come; of strangers it has to be all in one.
        if !is_known && is_stranger && !(is_about_us && speaks) || is_known && !speaks {
            return Err(Reason::NOT_ALLOWED);
        }
        if !is_known && (self.groups.groups.len() >= GROUPS_MAX || self.idle_count() >= IDLE_MAX) {
            return Err(Reason::TOO_MANY);
        }
        if !news.is_empty() || !is_known {
            self.keep_group(group, &before, &news).map_err(|error| {
                warn!(%error, "group not kept");
                Reason::TOO_MANY
            })?;
            self.share_group(id);
        }
        Ok(())
    }

    /// Writes what is new of a group, and works out what it means for this user.
    fn keep_group(&mut self, group: Group, before: &GroupView, news: &[[u8; 32]]) -> Result<(), StoreError> {
        let id = group.id();
        let answer = self.answer_to(&group);
        let standing = answer.or_else(|| self.groups.standings.get(&id).copied());
        self.store.transaction::<_, StoreError>(|tx| {
            put_group(tx, Some(&group), &id, standing)?;
            for hash in news {
                if let Some(statement) = group.statement(hash) {
                    tx.put_group_statement(&id, hash, &wire::encode(statement))?;
                }
            }
            Ok(())
        })?;
        if let Some(mark) = answer {
            self.groups.standings.insert(id, mark);
        }
        self.groups.groups.insert(id, group);
        self.tell_group(&id, before, answer);
        Ok(())
    }

    /// What is to be answered to being in a group, if that hasn't been yet.
    fn answer_to(&self, group: &Group) -> Option<StandingMark> {
        let (user, identity) = self.own_member();
        let view = group.view();
        if !view.is_member(&user, &identity) || self.standing(group).is_some() {
            return None;
        }
        let by = view.members.get(&identity)?.added_by;
        let relation = match view.members.get(&by) {
            _ if by == identity => Relation::Own,
            Some(member) => self.contacts.roster().relation(&member.user, &by),
            None => Relation::Stranger,
        };
        let standing = match decide(self.contacts.privacy(), relation, Kind::Group).is_allowed {
            true => Standing::Joined,
            false if relation == Relation::Blocked => Standing::Declined,
            false => Standing::Waiting,
        };
        Some(StandingMark { group: group.id(), round: view.round(&identity), standing })
    }

    /// Tells what has changed.
    fn tell_group(&self, id: &GroupId, before: &GroupView, answer: Option<StandingMark>) {
        let Some(group) = self.groups.groups.get(id) else { return };
        let view = group.view();
        let (user, identity) = self.own_member();
        let (group_id, name) = (id.to_string(), view.name.clone());
        if let Some(mark) = answer.filter(|mark| mark.standing != Standing::Declined) {
            let by = view.members.get(&identity).map(|member| member.added_by).filter(|by| *by != identity);
            if let Some(inviter) = by.and_then(|by| view.members.get(&by)) {
                let (from, joined) = (self.labels.display(&inviter.user), mark.standing == Standing::Joined);
                self.events.send(Event::GroupInvited { group: group_id, name, from, joined });
            }
            return;
        }
        let was_member = before.is_member(&user, &identity);
        if was_member && !view.is_member(&user, &identity) {
            self.events.send(Event::GroupLeft { group: group_id, name });
            return;
        }
        let missing = |these: &GroupView, those: &GroupView| -> Vec<String> {
            let gone = these.members.iter().filter(|(identity, _)| !those.members.contains_key(identity));
            gone.map(|(_, member)| self.labels.display(&member.user)).collect()
        };
        let (added, removed) = (missing(view, before), missing(before, view));
        if self.takes_part(group) && was_member && (!added.is_empty() || !removed.is_empty() || before.name != view.name) {
            self.events.send(Event::GroupChanged { group: group_id, name, added, removed });
        }
    }

    /// Somebody knows other statements than we do: they are asked for theirs.
    fn ask_about_group(&mut self, id: GroupId, sender: &VerifiedChain) {
        if self.groups.is_too_soon(id, sender.device) {
            return;
        }
        let Some(group) = self.groups.groups.get(&id) else { return };
        let ask = GroupAsk { group: id, have: group.have(), extensions: Extensions::none() };
        let to = Recipient { user: sender.user.id.clone(), identity: Some(sender.user.identity) };
        let now = self.now();
        let envelope = self.group_envelope(id, GroupSignal::Ask(ask), now.unix);
        let with = Correspondent::Group(id);
        let queued = self.store.transaction::<_, StoreError>(|tx| keep_signal_for(tx, vec![to], with, envelope, now.unix));
        match queued {
            Ok(queued) => self.queue_kept(vec![queued], now),
            Err(error) => warn!(%error, "a group isn't asked about"),
        }
    }

    fn answer_group_ask(&mut self, sender: &VerifiedChain, ask: &GroupAsk) -> Result<(), Reason> {
        if !self.is_fellow(&ask.group, &sender.user) {
            return Err(Reason::NOT_ALLOWED);
        }
        if self.groups.is_too_soon(ask.group, sender.device) {
            return Err(Reason::TOO_MANY);
        }
        let Some(group) = self.groups.groups.get(&ask.group) else { return Ok(()) };
        let parts = group.parts_without(&ask.have.iter().copied().collect());
        let lacks_nothing = parts.iter().all(|part| part.statements.is_empty());
        // Whoever asks may know more than we do: it works both ways.
        let we_lack = ask.have.iter().any(|hash| !group.have().contains(hash));
        let id = ask.group;
        if !lacks_nothing {
            let to = vec![Recipient { user: sender.user.id.clone(), identity: Some(sender.user.identity) }];
            let outgoing = parts.into_iter().map(|part| Outgoing { to: to.clone(), part }).collect();
            self.say_in_group(id, outgoing).map_err(|_| Reason::TOO_MANY)?;
        }
        if we_lack {
            self.groups.asked.remove(&(id, sender.device));
            self.ask_about_group(id, sender);
        }
        Ok(())
    }

    fn group_envelope(&mut self, id: GroupId, signal: GroupSignal, now: UnixTime) -> Envelope {
        Envelope {
            id: MessageId::random(&mut self.rng),
            conversation: conversation_id(&self.identity.user_id(), &Correspondent::Group(id)),
            counter: 0,
            sent_at: now,
            body: MessageBody::Group(Box::new(signal)),
            extensions: Extensions::none(),
        }
    }

    fn say_in_group(&mut self, id: GroupId, outgoing: Vec<Outgoing>) -> Result<(), StoreError> {
        let now = self.now();
        let envelopes: Vec<(Vec<Recipient>, Envelope)> = outgoing
            .into_iter()
            .filter(|outgoing| !outgoing.to.is_empty())
            .map(|Outgoing { to, part }| (to, self.group_envelope(id, GroupSignal::Part(Box::new(part)), now.unix)))
            .collect();
        let queued = self.store.transaction::<_, StoreError>(|tx| {
            let keep = |(to, envelope)| keep_signal_for(tx, to, Correspondent::Group(id), envelope, now.unix);
            envelopes.into_iter().map(keep).collect::<Result<Vec<Queued>, _>>()
        })?;
        self.queue_kept(queued, now);
        Ok(())
    }
}

// Own devices.
impl EventLoop {
    /// A group, as pieces that own devices and the vault merge.
    pub(crate) fn group_items(&self, id: &GroupId) -> Vec<StateItem> {
        let standing = self.groups.standings.get(id).copied().map(StateItem::Standing);
        let group = self.groups.groups.get(id);
        let parts = group.into_iter().flat_map(|group| group.parts()).map(|part| StateItem::Group(Box::new(part)));
        standing.into_iter().chain(parts).collect()
    }

    pub(crate) fn merge_own_part(&mut self, part: GroupPart) -> Result<(), StoreError> {
        let known = self.groups.groups.get(&part.id()).cloned();
        if known.is_none() && self.groups.groups.len() >= GROUPS_MAX {
            debug!("no room for a group of another own device");
            return Ok(());
        }
        let is_known = known.is_some();
        let Ok(mut group) = known.map_or_else(|| Group::from_genesis(part.genesis), Ok) else { return Ok(()) };
        let before = group.view().clone();
        let news = group.merge(part.statements);
        if news.is_empty() && is_known { Ok(()) } else { self.keep_group(group, &before, &news) }
    }

    pub(crate) fn merge_standing(&mut self, mark: StandingMark) -> Result<(), StoreError> {
        if self.groups.standings.get(&mark.group).is_some_and(|known| *known >= mark)
            || self.groups.standings.len() >= 2 * GROUPS_MAX
        {
            return Ok(());
        }
        self.keep_standing(mark)
    }

    fn keep_standing(&mut self, mark: StandingMark) -> Result<(), StoreError> {
        let group = self.groups.groups.get(&mark.group);
        self.store.transaction::<_, StoreError>(|tx| put_group(tx, group, &mark.group, Some(mark)))?;
        self.groups.standings.insert(mark.group, mark);
        Ok(())
    }
}

// Sending.
impl EventLoop {
    /// Sends a text to all other members.
    pub(crate) fn queue_group_text(&mut self, id: GroupId, text: String) -> Result<MessageId, MessageError> {
        check_text(&text)?;
        let group = self.groups.groups.get(&id).filter(|group| self.takes_part(group));
        let Some(group) = group else { return Err(MessageError::NotInGroup { group: self.group_name(&id) }) };
        let (to, digest) = (self.fellows(group), group.digest());
        let text = GroupText { text, digest, extensions: Extensions::none() };
        self.queue_shown(Correspondent::Group(id), to, MessageBody::Group(Box::new(GroupSignal::Text(text))))
    }

    /// The group that a person means: by its id, the start of it, or its name.
    pub(crate) fn find_group(&self, text: &str) -> Result<GroupId, MessageError> {
        let shown = || text.chars().take(80).collect::<String>();
        if let Some(id) = text.parse::<GroupId>().ok().filter(|id| self.groups.groups.contains_key(id)) {
            return Ok(id);
        }
        let is_start = |id: &GroupId| text.len() >= 4 && id.to_string().starts_with(&text.to_ascii_lowercase());
        let named: Vec<GroupId> = self
            .groups
            .groups
            .values()
            .filter(|group| group.view().name == text || is_start(&group.id()))
            .map(Group::id)
            .collect();
        // Of several by one name, the one in which one takes part.
        let active: Vec<GroupId> = named
            .iter()
            .copied()
            .filter(|id| self.groups.groups.get(id).is_some_and(|group| self.standing(group).is_some()))
            .collect();
        match (named.as_slice(), active.as_slice()) {
            ([only], _) | (_, [only]) => Ok(*only),
            ([], _) => Err(MessageError::UnknownGroup { group: shown() }),
            _ => Err(MessageError::AmbiguousGroup { group: shown() }),
        }
    }

    fn with_group_signer<T>(&self, act: impl FnOnce(&GroupSigner<'_>) -> T) -> T {
        let chain = self.identity.chain();
        let now = self.now().unix;
        let (identity, device) = (self.identity.identity(), self.identity.device_key());
        act(&GroupSigner { identity, device, certificate: &chain.device, now })
    }
}
