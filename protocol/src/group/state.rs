//! Who is a member, by all that was said.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Change, Digest, GroupGenesis, GroupId, GroupPart, GroupStatement, MEMBERS_MAX, Member, RANK_MAX, ROUND_MAX, SEEN_MAX,
    STATEMENTS_MAX, STATEMENTS_PER_AUTHOR_MAX, STATEMENTS_RESERVED, StatementError, Vouched,
};
use crate::identity::{DeviceCertificate, UserId};
use crate::key::{DeviceKey, IdentityKey, SecretKey};
use crate::time::UnixTime;
use crate::wire::{Extensions, Signed};

type Hash = [u8; 32];

/// By which the founder is an admin.
const BY_GENESIS: Hash = [0; 32];

/// Why something can't be said, or isn't taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GroupError {
    /// A signature doesn't hold.
    #[error(transparent)]
    Statement(#[from] StatementError),
    /// Only admins may.
    #[error("only an admin of the group may do that")]
    NotAdmin,
    /// Only those above an admin may.
    #[error("only an admin above them may do that")]
    RankTooLow,
    /// The user isn't in the group.
    #[error("no member of the group")]
    NotMember,
    /// The user is in the group as wanted.
    #[error("a member of the group already")]
    Already,
    /// No room for more members.
    #[error("the group has {MEMBERS_MAX} members")]
    Full,
    /// Too much was said.
    #[error("too much has been changed in the group")]
    TooManyStatements,
    /// A field is out of range.
    #[error(transparent)]
    Invalid(#[from] crate::wire::DecodeError),
}

/// A member as shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberView {
    /// By which their devices are found.
    pub user: UserId,
    /// Of an admin: 0 is the founder.
    pub rank: Option<u8>,
    /// Who added them.
    pub added_by: IdentityKey,
}

/// What all statements together come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupView {
    /// Its name.
    pub name: String,
    /// Its members. At most [`MEMBERS_MAX`] get messages: those whose keys sort first, should more have been added at the same time.
    pub members: BTreeMap<IdentityKey, MemberView>,
    /// Everybody who was one and isn't.
    pub former: BTreeMap<IdentityKey, UserId>,
    rounds: BTreeMap<Option<IdentityKey>, u32>,
    rights: BTreeMap<IdentityKey, Hash>,
}

impl GroupView {
    /// True if the user is a member under this key.
    #[must_use]
    pub fn is_member(&self, user: &UserId, identity: &IdentityKey) -> bool {
        self.members.get(identity).is_some_and(|member| member.user == *user)
    }

    /// A member's rank as an admin.
    #[must_use]
    pub fn rank(&self, identity: &IdentityKey) -> Option<u8> {
        self.members.get(identity)?.rank
    }

    /// The round of the newest statement that counts about somebody; 0 if there is none.
    #[must_use]
    pub fn round(&self, identity: &IdentityKey) -> u32 {
        self.rounds.get(&Some(*identity)).copied().unwrap_or(0)
    }
}

/// Who signs.
#[derive(Clone, Copy, Debug)]
pub struct GroupSigner<'a> {
    /// The user.
    pub identity: IdentityKey,
    /// The device's key.
    pub device: &'a SecretKey,
    /// The user's word for it.
    pub certificate: &'a Signed<DeviceCertificate>,
    /// When.
    pub now: UnixTime,
}

/// A group, as far as its statements have come here. Two with the same statements are equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    id: GroupId,
    genesis: Vouched<GroupGenesis>,
    statements: BTreeMap<Hash, Vouched<GroupStatement>>,
    view: GroupView,
}

/// A role that somebody has, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Out,
    Plain,
    Admin(u8),
}

impl Role {
    /// True if `next` takes something of it away.
    const fn is_lowered_by(self, next: Self) -> bool {
        match (self, next) {
            (Self::Admin(_), Self::Out | Self::Plain) | (Self::Plain, Self::Out) => true,
            (Self::Admin(old), Self::Admin(new)) => new > old,
            _ => false,
        }
    }
}

/// One statement that counts about somebody, and what they are from then on.
#[derive(Clone, Copy, Debug)]
struct Step<'a> {
    hash: Hash,
    role: Role,
    by: IdentityKey,
    round: u32,
    /// `None` for the genesis.
    statement: Option<&'a GroupStatement>,
}

/// A statement that counts, with the rank under which it was said.
type Counting<'a> = (&'a Hash, &'a GroupStatement, Option<u8>);

type Steps<'a> = BTreeMap<IdentityKey, Vec<Step<'a>>>;

/// Rank under which the author of each statement that counts said it; leaving needs none.
type Accepted = BTreeMap<Hash, Option<u8>>;

impl Group {
    /// Founds a group.
    ///
    /// # Errors
    /// [`GroupError::Invalid`] if the name can't be one.
    pub fn found(user: UserId, name: String, nonce: [u8; 16], signer: &GroupSigner<'_>) -> Result<Self, GroupError> {
        let founder = Member { user, identity: signer.identity };
        let genesis = GroupGenesis { founder, nonce, name, founded_at: signer.now, extensions: Extensions::none() };
        crate::wire::Body::check(&genesis)?;
        let statement = Signed::sign(genesis, signer.device);
        Self::from_genesis(Vouched { statement, certificate: signer.certificate.clone() })
    }

    /// A group of which nothing but the genesis is known.
    ///
    /// # Errors
    /// [`GroupError::Statement`] if a signature doesn't hold.
    pub fn from_genesis(genesis: Vouched<GroupGenesis>) -> Result<Self, GroupError> {
        genesis.verify()?;
        let mut group =
            Self { id: GroupGenesis::id(&genesis.statement), genesis, statements: BTreeMap::new(), view: GroupView::default() };
        group.view = group.evaluate();
        Ok(group)
    }

    /// Takes up statements; those that don't hold, or for which there is no room, are left out. The hashes of those that were news.
    pub fn merge(&mut self, statements: impl IntoIterator<Item = Vouched<GroupStatement>>) -> Vec<Hash> {
        let mut news = Vec::new();
        for statement in statements {
            let hash = statement.hash();
            if !self.statements.contains_key(&hash) && self.admit(&statement).is_ok() {
                self.statements.insert(hash, statement);
                news.push(hash);
            }
        }
        if !news.is_empty() {
            self.view = self.evaluate();
        }
        news
    }

    fn admit(&self, statement: &Vouched<GroupStatement>) -> Result<(), GroupError> {
        if statement.said().group != self.id {
            return Err(StatementError::WrongGroup.into());
        }
        self.check_room(statement.said())?;
        Ok(statement.verify()?)
    }

    fn check_room(&self, said: &GroupStatement) -> Result<(), GroupError> {
        let takes_away = matches!(said.change, Change::Remove { .. } | Change::Leave);
        let room = if takes_away { STATEMENTS_MAX } else { STATEMENTS_MAX - STATEMENTS_RESERVED };
        let of_author = self.statements.values().filter(|known| known.said().author == said.author).count();
        if self.statements.len() >= room || of_author >= STATEMENTS_PER_AUTHOR_MAX {
            return Err(GroupError::TooManyStatements);
        }
        Ok(())
    }

    /// Adds a member, as an admin if `is_admin`; or makes an admin of a plain member. The statement is taken up.
    ///
    /// # Errors
    /// [`GroupError`] if the signer may not, or there is no room.
    pub fn add(
        &mut self,
        member: Member,
        is_admin: bool,
        signer: &GroupSigner<'_>,
    ) -> Result<Vouched<GroupStatement>, GroupError> {
        let rank = self.view.rank(&signer.identity).ok_or(GroupError::NotAdmin)?;
        let new_rank = if is_admin { Some(rank.saturating_add(1).min(RANK_MAX)) } else { None };
        if is_admin && rank >= RANK_MAX {
            return Err(GroupError::RankTooLow);
        }
        match self.view.members.get(&member.identity) {
            Some(known) if known.rank.is_some() || !is_admin => return Err(GroupError::Already),
            None if self.view.members.len() >= MEMBERS_MAX => return Err(GroupError::Full),
            Some(_) | None => {}
        }
        self.say(Change::Add { member, rank: new_rank }, signer)
    }

    /// Removes a member. The statement is taken up.
    ///
    /// # Errors
    /// [`GroupError`] if the signer may not.
    pub fn remove(&mut self, identity: IdentityKey, signer: &GroupSigner<'_>) -> Result<Vouched<GroupStatement>, GroupError> {
        let rank = self.view.rank(&signer.identity).ok_or(GroupError::NotAdmin)?;
        let member = self.view.members.get(&identity).ok_or(GroupError::NotMember)?;
        if member.rank.is_some_and(|of_member| rank >= of_member) {
            return Err(GroupError::RankTooLow);
        }
        self.say(Change::Remove { identity }, signer)
    }

    /// Leaves. The statement is taken up.
    ///
    /// # Errors
    /// [`GroupError::NotMember`] if the signer is none.
    pub fn leave(&mut self, signer: &GroupSigner<'_>) -> Result<Vouched<GroupStatement>, GroupError> {
        if !self.view.members.contains_key(&signer.identity) {
            return Err(GroupError::NotMember);
        }
        self.say(Change::Leave, signer)
    }

    /// Calls the group something else. The statement is taken up.
    ///
    /// # Errors
    /// [`GroupError`] if the signer may not, or it can't be a name.
    pub fn rename(&mut self, name: String, signer: &GroupSigner<'_>) -> Result<Vouched<GroupStatement>, GroupError> {
        self.view.rank(&signer.identity).ok_or(GroupError::NotAdmin)?;
        self.say(Change::Rename { name }, signer)
    }

    fn say(&mut self, change: Change, signer: &GroupSigner<'_>) -> Result<Vouched<GroupStatement>, GroupError> {
        let device = DeviceKey(signer.device.public());
        let of_device = self.statements.values().filter(|known| known.device() == device).map(|known| known.said().number);
        let number = of_device.max().unwrap_or(0).saturating_add(1).max(signer.now.0);
        let right = match change {
            Change::Leave => BY_GENESIS,
            _ => self.view.rights.get(&signer.identity).copied().unwrap_or(BY_GENESIS),
        };
        let mut statement = GroupStatement {
            group: self.id,
            author: signer.identity,
            right,
            number,
            round: 1,
            change,
            seen: Vec::new(),
            said_at: signer.now,
            extensions: Extensions::none(),
        };
        let subject = statement.subject();
        let newest = self.statements.values().filter(|known| known.said().subject() == subject).map(|known| known.said().round);
        statement.round = newest.max().unwrap_or(0).saturating_add(1).min(ROUND_MAX);
        statement.seen = subject.map(|subject| self.seen_of(&subject)).unwrap_or_default();
        self.check_room(&statement)?;
        crate::wire::Body::check(&statement)?;
        let vouched = Vouched { statement: Signed::sign(statement, signer.device), certificate: signer.certificate.clone() };
        self.statements.insert(vouched.hash(), vouched.clone());
        self.view = self.evaluate();
        Ok(vouched)
    }

    /// The newest statements of a user's devices.
    fn seen_of(&self, identity: &IdentityKey) -> Vec<(DeviceKey, u64)> {
        let mut seen: BTreeMap<DeviceKey, u64> = BTreeMap::new();
        for known in self.statements.values().filter(|known| known.said().author == *identity) {
            let newest = seen.entry(known.device()).or_default();
            *newest = known.said().number.max(*newest);
        }
        let mut seen: Vec<_> = seen.into_iter().collect();
        seen.sort_by_key(|(_, number)| std::cmp::Reverse(*number));
        seen.truncate(SEEN_MAX);
        seen
    }

    /// Its id.
    #[must_use]
    pub const fn id(&self) -> GroupId {
        self.id
    }

    /// What founded it.
    #[must_use]
    pub const fn genesis(&self) -> &Vouched<GroupGenesis> {
        &self.genesis
    }

    /// Who is in it.
    #[must_use]
    pub const fn view(&self) -> &GroupView {
        &self.view
    }

    /// A statement by its hash.
    #[must_use]
    pub fn statement(&self, hash: &Hash) -> Option<&Vouched<GroupStatement>> {
        self.statements.get(hash)
    }

    /// Everything, in parts.
    #[must_use]
    pub fn parts(&self) -> Vec<GroupPart> {
        self.parts_without(&BTreeSet::new())
    }

    /// Everything, in parts, for somebody new: what adds them, and by what right, comes first.
    #[must_use]
    pub fn parts_for(&self, newcomer: &IdentityKey) -> Vec<GroupPart> {
        let rank = |said: &GroupStatement| match &said.change {
            _ if said.subject() == Some(*newcomer) => 0,
            Change::Add { rank: Some(_), .. } => 1,
            _ => 2,
        };
        let mut statements: Vec<_> = self.statements.values().cloned().collect();
        statements.sort_by_key(|statement| rank(statement.said()));
        GroupPart::split(&self.genesis, &statements)
    }

    /// What somebody lacks who has these, in parts.
    #[must_use]
    pub fn parts_without(&self, have: &BTreeSet<Digest>) -> Vec<GroupPart> {
        let lacking = self.statements.iter().filter(|(hash, _)| !have.contains(&short(hash)));
        let lacking: Vec<_> = lacking.map(|(_, statement)| statement.clone()).collect();
        GroupPart::split(&self.genesis, &lacking)
    }

    /// The statements that are here, in short.
    #[must_use]
    pub fn have(&self) -> Vec<Digest> {
        self.statements.keys().map(short).collect()
    }

    /// Equal for groups with the same statements.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.statements.keys().map(short).fold([0; 8], |mut sum, hash| {
            sum.iter_mut().zip(hash).for_each(|(sum, byte)| *sum ^= byte);
            sum
        })
    }
}

fn short(hash: &Hash) -> Digest {
    let mut digest = [0; 8];
    digest.copy_from_slice(&hash[..8]);
    digest
}

// What it all comes to.
impl Group {
    /// Pure: nothing but the set of statements decides.
    ///
    /// Ranks are worked off from the founder's down. What lowers an admin is said by somebody of a higher rank, so when a rank's turn comes, it is
    /// settled who has it, and how much of what they said stands.
    fn evaluate(&self) -> GroupView {
        let is_leave = |statement: &Vouched<GroupStatement>| statement.said().change == Change::Leave;
        let leaving = self.statements.iter().filter(|(_, statement)| is_leave(statement));
        let mut accepted: Accepted = leaving.map(|(hash, _)| (*hash, None)).collect();
        let mut steps = self.steps(&accepted);
        for rank in 0..=RANK_MAX {
            let acting = self.statements.iter().filter(|(_, statement)| !is_leave(statement));
            let acting = acting.filter(|(_, statement)| self.acts(statement, rank, &steps));
            let acting: Vec<(Hash, Option<u8>)> = acting.map(|(hash, _)| (*hash, Some(rank))).collect();
            accepted.extend(acting);
            steps = self.steps(&accepted);
        }
        self.view_of(&steps, &accepted)
    }

    /// True if the statement's author was an admin of this rank when it was said.
    fn acts(&self, statement: &Vouched<GroupStatement>, rank: u8, steps: &Steps<'_>) -> bool {
        let said = statement.said();
        let Some(of_author) = steps.get(&said.author) else { return false };
        let Some(place) = of_author.iter().position(|step| step.hash == said.right) else { return false };
        let mut role = of_author[place].role;
        if role != Role::Admin(rank) {
            return false;
        }
        for step in &of_author[place + 1..] {
            let seen = step.statement.map(|statement| statement.seen.as_slice()).unwrap_or_default();
            if role.is_lowered_by(step.role) && !said.is_within(&statement.device(), seen) {
                return false;
            }
            role = step.role;
        }
        true
    }

    /// What counts about everybody, in order.
    fn steps(&self, accepted: &Accepted) -> Steps<'_> {
        let mut about: BTreeMap<IdentityKey, Vec<Counting<'_>>> = BTreeMap::new();
        for (hash, rank) in accepted {
            let Some((hash, statement)) = self.statements.get_key_value(hash) else { continue };
            if let Some(subject) = statement.said().subject() {
                about.entry(subject).or_default().push((hash, statement.said(), *rank));
            }
        }
        let founder = self.genesis.said().founder.identity;
        let mut steps: Steps<'_> = BTreeMap::new();
        let genesis = Step { hash: BY_GENESIS, role: Role::Admin(0), by: founder, round: 0, statement: None };
        steps.insert(founder, vec![genesis]);
        for (subject, mut statements) in about {
            statements.sort_by_key(|(hash, said, rank)| (said.round, said.change.order(), std::cmp::Reverse(*rank), **hash));
            let of_subject = steps.entry(subject).or_default();
            for (hash, said, rank) in statements {
                let role = of_subject.last().map_or(Role::Out, |step| step.role);
                if let Some(role) = next_role(role, said, rank) {
                    let step = Step { hash: *hash, role, by: said.author, round: said.round, statement: Some(said) };
                    of_subject.push(step);
                }
            }
        }
        steps
    }

    fn view_of(&self, steps: &Steps<'_>, accepted: &Accepted) -> GroupView {
        let mut view = GroupView { name: self.name(accepted), ..GroupView::default() };
        for (identity, of_user) in steps {
            let Some(last) = of_user.last() else { continue };
            let named = of_user.iter().rev().find_map(|step| match step.statement.map(|said| &said.change) {
                Some(Change::Add { member, .. }) => Some(member.user.clone()),
                None => Some(self.genesis.said().founder.user.clone()),
                Some(_) => None,
            });
            let Some(user) = named else { continue };
            view.rounds.insert(Some(*identity), last.round);
            let rank = match last.role {
                Role::Out => {
                    view.former.insert(*identity, user);
                    continue;
                }
                Role::Plain => None,
                Role::Admin(rank) => Some(rank),
            };
            if rank.is_some() {
                view.rights.insert(*identity, last.hash);
            }
            view.members.insert(*identity, MemberView { user, rank, added_by: last.by });
        }
        while view.members.len() > MEMBERS_MAX {
            let last_plain = view.members.iter().rev().find(|(_, member)| member.rank.is_none()).map(|(identity, _)| *identity);
            let Some((identity, member)) = last_plain.and_then(|identity| view.members.remove_entry(&identity)) else { break };
            view.former.insert(identity, member.user);
        }
        view
    }

    fn name(&self, accepted: &Accepted) -> String {
        let said = accepted.keys().filter_map(|hash| Some((hash, self.statements.get(hash)?.said())));
        let names = said.filter_map(|(hash, said)| match &said.change {
            Change::Rename { name } => Some(((said.round, *hash), name)),
            _ => None,
        });
        names.max().map_or_else(|| self.genesis.said().name.clone(), |(_, name)| name.clone())
    }
}

/// What somebody with this role is after the statement; `None` if it doesn't count. `rank` is the author's.
fn next_role(role: Role, said: &GroupStatement, rank: Option<u8>) -> Option<Role> {
    let is_above = |author: u8| !matches!(role, Role::Admin(of_subject) if author >= of_subject);
    match (&said.change, rank) {
        (Change::Leave, _) if role != Role::Out => Some(Role::Out),
        (Change::Remove { .. }, Some(author)) if role != Role::Out && is_above(author) => Some(Role::Out),
        (Change::Add { rank: None, .. }, Some(author)) if is_above(author) => Some(Role::Plain),
        (Change::Add { rank: Some(new), .. }, Some(author)) if author < *new && is_above(author) => Some(Role::Admin(*new)),
        _ => None,
    }
}
