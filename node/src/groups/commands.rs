//! What the person does.

use halloo_protocol::directory::DirectoryRecord;
use halloo_protocol::group::{
    Group, GroupError as Refused, GroupPart, GroupSigner, GroupStatement, Member, Standing, StandingMark, Vouched,
};
use halloo_protocol::id::GroupId;
use halloo_protocol::identity::UserId;
use halloo_protocol::key::IdentityKey;
use halloo_protocol::message::{Correspondent, Recipient};
use halloo_protocol::wire::Extensions;

use super::Outgoing;
use crate::directory::Waiter;
use crate::event_loop::EventLoop;
use crate::handle::Reply;
use crate::handle::directory::ResolveError;
use crate::handle::groups::{GroupChange, GroupCommand, GroupEntry, GroupError, GroupList, GroupMember, GroupState};
use crate::handle::messages::MessageError;
use crate::handle::problem::NodeError;
use crate::receipts::Conversation;
use crate::store::{GROUPS_MAX, StoreError};

/// Somebody being added whose key has to be looked up first.
#[derive(Debug)]
pub(crate) struct GroupAdding {
    group: GroupId,
    user: UserId,
    /// The key that the address leads to by which they were named.
    meant: Option<IdentityKey>,
    is_admin: bool,
    reply: Reply<GroupEntry, GroupError>,
}

fn internal(error: &StoreError) -> GroupError {
    GroupError::Node(NodeError::Internal { detail: error.to_string() })
}

impl EventLoop {
    pub(crate) fn handle_groups(&mut self, command: GroupCommand) {
        match command {
            GroupCommand::Create { name, reply } => {
                let outcome = self.create_group(name);
                reply.send(outcome);
            }
            GroupCommand::Change { group, change, reply } => self.change_group(&group, change, reply),
            GroupCommand::List(reply) => reply.send(Ok(self.group_list())),
            GroupCommand::Get { group, reply } => {
                let found = self.find_group(&group).map_err(GroupError::from);
                reply.send(found.and_then(|id| self.group_entry(&id)));
            }
        }
    }

    fn create_group(&mut self, name: String) -> Result<GroupEntry, GroupError> {
        if self.identity.authority().is_none() {
            return Err(NodeError::NotEnrolled.into());
        }
        if self.groups.groups.len() >= GROUPS_MAX {
            return Err(NodeError::LimitReached { what: "groups", max: GROUPS_MAX }.into());
        }
        let nonce = self.random();
        let user = self.identity.user_id();
        let group = self.with_group_signer(|signer| Group::found(user, name, nonce, signer)).map_err(refusal)?;
        let id = group.id();
        let before = group.view().clone();
        self.keep_group(group, &before, &[]).map_err(|error| internal(&error))?;
        self.share_group(id);
        self.group_entry(&id)
    }

    fn change_group(&mut self, group: &str, change: GroupChange, reply: Reply<GroupEntry, GroupError>) {
        let id = match self.find_group(group) {
            Ok(id) => id,
            Err(error) => return reply.send(Err(error.into())),
        };
        let outcome = match change {
            GroupChange::Add { user, admin } => return self.add_to_group(id, &user, admin, reply),
            GroupChange::Remove { user } => self.remove_from_group(id, &user),
            GroupChange::Leave {} => self.speak(id, Group::leave),
            GroupChange::Rename { name } => self.speak(id, |group, signer| group.rename(name, signer)),
            GroupChange::Accept {} => self.answer_group(id, Standing::Joined),
            GroupChange::Decline {} => self.answer_group(id, Standing::Declined),
        };
        reply.send(outcome);
    }

    fn add_to_group(&mut self, group: GroupId, text: &str, is_admin: bool, reply: Reply<GroupEntry, GroupError>) {
        let user = match self.whom_to_add(text) {
            Ok(user) => user,
            Err(error) => return reply.send(Err(error)),
        };
        let meant = self.linked_key(text);
        match self.known_identity(&user) {
            Some(identity) => {
                let outcome = self.refuse_other_key(&user, meant, |meant| *meant == identity).map_err(Into::into);
                let outcome = outcome.and_then(|()| self.add_member(group, user, identity, is_admin));
                reply.send(outcome);
            }
            None => {
                let adding = GroupAdding { group, user: user.clone(), meant, is_admin, reply };
                self.resolve_user(&user, Waiter::Group(Box::new(adding)));
            }
        }
    }

    fn whom_to_add(&self, user: &str) -> Result<UserId, GroupError> {
        let user = self.parse_user_or_linked(user)?;
        self.refuse_changed(&user)?;
        Ok(user)
    }

    /// The look-up for somebody who is being added has ended.
    pub(crate) fn group_resolved(&mut self, adding: GroupAdding, found: Result<&DirectoryRecord, ResolveError>) {
        let GroupAdding { group, user, meant, is_admin, reply } = adding;
        let outcome = match found {
            Ok(record) => {
                let outcome = self.refuse_other_key(&user, meant, |meant| record.is_successor_of(meant)).map_err(Into::into);
                outcome.and_then(|()| self.add_member(group, user, record.identity(), is_admin))
            }
            Err(error) => Err(error.into()),
        };
        reply.send(outcome);
    }

    fn add_member(&mut self, id: GroupId, user: UserId, identity: IdentityKey, is_admin: bool) -> Result<GroupEntry, GroupError> {
        let newcomer = Recipient { user: user.clone(), identity: Some(identity) };
        self.speak(id, |group, signer| group.add(Member { user, identity }, is_admin, signer))?;
        // Whoever is new gets everything that was said so far; the others only what is new.
        if let Some(group) = self.groups.groups.get(&id) {
            let parts = group.parts_for(&identity);
            let outgoing = parts.into_iter().map(|part| Outgoing { to: vec![newcomer.clone()], part }).collect();
            self.say_in_group(id, outgoing).map_err(|error| internal(&error))?;
        }
        self.group_entry(&id)
    }

    fn remove_from_group(&mut self, id: GroupId, user: &str) -> Result<GroupEntry, GroupError> {
        let user = self.parse_user_or_linked(user)?;
        let group = self.groups.groups.get(&id);
        let member = group.and_then(|group| group.view().members.iter().find(|(_, member)| member.user == user));
        let identity = *member.ok_or_else(|| refusal(Refused::NotMember))?.0;
        self.speak(id, |group, signer| group.remove(identity, signer))
    }

    fn answer_group(&mut self, id: GroupId, standing: Standing) -> Result<GroupEntry, GroupError> {
        let (user, identity) = self.own_member();
        let group = self.groups.groups.get(&id).filter(|group| group.view().is_member(&user, &identity));
        let round = group.ok_or_else(|| refusal(Refused::NotMember))?.view().round(&identity);
        if standing == Standing::Declined {
            // Members stop sending.
            self.speak(id, Group::leave)?;
        }
        self.keep_standing(StandingMark { group: id, round, standing }).map_err(|error| internal(&error))?;
        self.share_group(id);
        self.group_entry(&id)
    }

    /// Says something in a group: kept, and sent to everybody who was a member, one who is removed by it included.
    fn speak(
        &mut self,
        id: GroupId,
        say: impl FnOnce(&mut Group, &GroupSigner<'_>) -> Result<Vouched<GroupStatement>, Refused>,
    ) -> Result<GroupEntry, GroupError> {
        let Some(mut group) = self.groups.groups.get(&id).cloned() else { return Err(refusal(Refused::NotMember)) };
        let before = group.view().clone();
        let to = self.fellows(&group);
        let statement = self.with_group_signer(|signer| say(&mut group, signer)).map_err(refusal)?;
        let part =
            GroupPart { genesis: group.genesis().clone(), statements: vec![statement.clone()], extensions: Extensions::none() };
        self.keep_group(group, &before, &[statement.hash()]).map_err(|error| internal(&error))?;
        self.say_in_group(id, vec![Outgoing { to, part }]).map_err(|error| internal(&error))?;
        self.share_group(id);
        self.group_entry(&id)
    }

    fn group_list(&self) -> GroupList {
        let ids: Vec<GroupId> = self.groups.groups.keys().copied().collect();
        let mut groups: Vec<GroupEntry> = ids.iter().filter_map(|id| self.group_entry(id).ok()).collect();
        groups.sort_by(|one, other| one.name.cmp(&other.name).then_with(|| one.id.cmp(&other.id)));
        GroupList { groups }
    }

    fn group_entry(&self, id: &GroupId) -> Result<GroupEntry, GroupError> {
        let unknown = || GroupError::Message(MessageError::UnknownGroup { group: id.to_string() });
        let group = self.groups.groups.get(id).ok_or_else(unknown)?;
        let view = group.view();
        let (user, identity) = self.own_member();
        let state = match (view.is_member(&user, &identity), self.standing(group)) {
            (true, Some(Standing::Joined)) => GroupState::Member,
            (true, Some(Standing::Declined)) => GroupState::Declined,
            (true, _) => GroupState::Waiting,
            (false, _) => GroupState::Left,
        };
        let added_by = view.members.get(&identity).map(|member| member.added_by).filter(|by| *by != identity);
        let inviter = added_by.and_then(|by| view.members.get(&by));
        let with = Correspondent::Group(*id);
        let conversation = self.store.read::<_, StoreError>(|view| Conversation::load(view, &with));
        let mut members: Vec<GroupMember> = view
            .members
            .iter()
            .map(|(identity, member)| GroupMember {
                username: self.labels.display(&member.user),
                identity: identity.to_string(),
                admin: member.rank.is_some(),
                rank: member.rank,
            })
            .collect();
        members.sort_by(|one, other| one.username.cmp(&other.username));
        Ok(GroupEntry {
            id: id.to_string(),
            name: view.name.clone(),
            state,
            admin: view.rank(&identity).is_some(),
            invited_by: inviter.map(|member| self.labels.display(&member.user)),
            members,
            unread: conversation.map_or(0, |state| state.unread_count()),
        })
    }
}

fn refusal(error: Refused) -> GroupError {
    match error {
        Refused::NotAdmin | Refused::RankTooLow => GroupError::NotAllowed { reason: error.to_string() },
        Refused::NotMember => GroupError::NotMember { reason: error.to_string() },
        Refused::Invalid(error) => GroupError::Invalid { reason: error.to_string() },
        other => GroupError::State { reason: other.to_string() },
    }
}
