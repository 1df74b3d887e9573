//! Members come and go, in every order.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::identity::UserId;
use crate::key::{IdentityKey, SecretKey};
use crate::test_identity::{Authority, NOW, Person};
use crate::wire;

/// A user with one device, and what they know of the group.
struct Party {
    person: Person,
    identity: IdentityKey,
    user: UserId,
    device: SecretKey,
    group: Group,
    now: crate::time::UnixTime,
}

fn person(number: u8) -> (Person, IdentityKey, UserId) {
    let person = Authority::new(1).person(&format!("user{number}"), 10 + 2 * number);
    let chain = person.chain.verify(NOW, &Authority::new(1).trust()).expect("a good chain");
    (person, chain.user.identity, chain.user.id)
}

/// So many users who know of the founding of one group, by the first of them.
fn parties(count: u8) -> Vec<Party> {
    let (founder, identity, user) = person(0);
    let signer = GroupSigner { identity, device: &founder.device_key, certificate: &founder.chain.device, now: NOW };
    let group = Group::found(user, "Hikers".into(), [7; 16], &signer).expect("a good name");
    (0..count)
        .map(|number| {
            let (person, identity, user) = person(number);
            let device = SecretKey::from_bytes([11 + 2 * number; 32]);
            Party { person, identity, user, device, group: group.clone(), now: NOW }
        })
        .collect()
}

impl Party {
    fn act<T>(&mut self, input: impl FnOnce(&mut Group, &GroupSigner<'_>) -> Result<T, GroupError>) -> Result<T, GroupError> {
        self.now = self.now.plus_secs(1);
        let certificate = &self.person.chain.device;
        let signer = GroupSigner { identity: self.identity, device: &self.device, certificate, now: self.now };
        input(&mut self.group, &signer)
    }

    fn member(&self) -> Member {
        Member { user: self.user.clone(), identity: self.identity }
    }

    fn sees(&self, other: &Self) -> bool {
        self.group.view().is_member(&other.user, &other.identity)
    }
}

fn hear(parties: &mut [Party], to: usize, from: usize) {
    let parts = parties[from].group.parts();
    for part in parts {
        assert_eq!(part.check(), Ok(()));
        parties[to].group.merge(part.statements);
    }
}

fn all_hear_all(parties: &mut [Party]) {
    for _ in 0..2 {
        for to in 0..parties.len() {
            for from in 0..parties.len() {
                hear(parties, to, from);
            }
        }
    }
}

fn add(parties: &mut [Party], by: usize, who: usize, is_admin: bool) -> Result<(), GroupError> {
    let member = parties[who].member();
    parties[by].act(|group, signer| group.add(member, is_admin, signer)).map(drop)
}

fn remove(parties: &mut [Party], by: usize, who: usize) -> Result<(), GroupError> {
    let identity = parties[who].identity;
    parties[by].act(|group, signer| group.remove(identity, signer)).map(drop)
}

fn leave(parties: &mut [Party], who: usize) -> Result<(), GroupError> {
    parties[who].act(Group::leave).map(drop)
}

#[test]
fn a_founder_adds_and_removes_and_others_may_only_leave() {
    let mut p = parties(4);
    assert_eq!(p[0].group.view().rank(&p[0].identity), Some(0));
    assert_eq!(add(&mut p, 0, 1, false), Ok(()));
    assert_eq!(add(&mut p, 0, 1, false), Err(GroupError::Already));
    all_hear_all(&mut p);
    assert!(p.iter().all(|party| party.sees(&p[1]) && !party.sees(&p[2])));
    assert_eq!(add(&mut p, 1, 2, false), Err(GroupError::NotAdmin));
    assert_eq!(remove(&mut p, 1, 0), Err(GroupError::NotAdmin));
    assert_eq!(p[2].act(Group::leave), Err(GroupError::NotMember));
    assert_eq!(remove(&mut p, 0, 2), Err(GroupError::NotMember));
    assert_eq!(leave(&mut p, 1), Ok(()));
    all_hear_all(&mut p);
    assert!(p.iter().all(|party| !party.sees(&p[1])));
    assert!(p[0].group.view().former.contains_key(&p[1].identity));
    assert_eq!(add(&mut p, 0, 1, false), Ok(()), "again");
    assert_eq!(p[0].act(|group, signer| group.rename("Climbers".into(), signer)).map(drop), Ok(()));
    all_hear_all(&mut p);
    assert!(p.iter().all(|party| party.sees(&p[1]) && party.group.view().name == "Climbers"));
    assert!(p[0].act(|group, signer| group.rename("  ".into(), signer)).is_err());
}

#[test]
fn admins_have_ranks_and_nobody_throws_out_who_is_above() {
    let mut p = parties(5);
    add(&mut p, 0, 1, true).expect("the founder may");
    add(&mut p, 0, 2, true).expect("the founder may");
    all_hear_all(&mut p);
    assert_eq!(add(&mut p, 1, 3, true), Ok(()));
    all_hear_all(&mut p);
    assert_eq!(p[0].group.view().rank(&p[3].identity), Some(2));
    assert_eq!(remove(&mut p, 1, 2), Err(GroupError::RankTooLow), "equals");
    assert_eq!(remove(&mut p, 3, 1), Err(GroupError::RankTooLow));
    assert_eq!(remove(&mut p, 2, 3), Ok(()), "below");
    assert_eq!(add(&mut p, 1, 4, false), Ok(()));
    assert_eq!(remove(&mut p, 0, 1), Ok(()));
    all_hear_all(&mut p);
    let seen: Vec<bool> = (0..5).map(|who| p[2].sees(&p[who])).collect();
    // The founder hadn't seen that 1 added 4.
    assert_eq!(seen, [true, false, true, false, false]);
}

#[test]
fn what_a_removed_admin_says_afterwards_counts_for_nothing() {
    let mut p = parties(4);
    add(&mut p, 0, 1, true).expect("may");
    all_hear_all(&mut p);
    add(&mut p, 1, 2, false).expect("may");
    hear(&mut p, 0, 1);
    remove(&mut p, 0, 1).expect("may");
    // 1 pretends not to know, and dates it back.
    p[1].now = NOW.minus_secs(5_000);
    add(&mut p, 1, 3, false).expect("nobody stops the own device");
    all_hear_all(&mut p);
    assert!(p[0].sees(&p[2]), "what the founder had seen stands");
    assert!(p.iter().all(|party| !party.sees(&p[1]) && !party.sees(&p[3])));
    // Appointed again: counts again.
    add(&mut p, 0, 1, true).expect("may");
    all_hear_all(&mut p);
    add(&mut p, 1, 3, false).expect("may again");
    all_hear_all(&mut p);
    assert!(p.iter().all(|party| party.sees(&p[3])));
}

#[test]
fn forged_statements_are_refused() {
    let mut p = parties(3);
    let honest = {
        let member = p[2].member();
        p[0].act(|group, signer| group.add(member, false, signer)).expect("may")
    };
    // 1 signs in the founder's name, with 1's device; with the founder's certificate; and claims the founder's right.
    let mut said = honest.said().clone();
    said.change = Change::Add { member: p[1].member(), rank: None };
    let signed = wire::Signed::sign(said.clone(), &p[1].device);
    let of = |certificate: &Person| Vouched { statement: signed.clone(), certificate: certificate.chain.device.clone() };
    assert!(matches!(of(&p[1].person).verify(), Err(StatementError::Certificate(_))));
    assert!(matches!(of(&p[0].person).verify(), Err(StatementError::Signature(_))));
    said.author = p[1].identity;
    let claimed = Vouched { statement: wire::Signed::sign(said, &p[1].device), certificate: p[1].person.chain.device.clone() };
    assert_eq!(claimed.verify(), Ok(()), "1 did say that");
    let forged = [of(&p[1].person), of(&p[0].person), claimed];
    p[2].group.merge(forged);
    let honest_view = p[0].group.view().clone();
    p[2].group.merge([honest.clone()]);
    assert_eq!(p[2].group.view(), &honest_view, "and it counts for nothing");
    let mut other = parties(1);
    other[0].group = {
        let signer =
            GroupSigner { identity: p[0].identity, device: &p[0].device, certificate: &p[0].person.chain.device, now: NOW };
        Group::found(p[0].user.clone(), "Hikers".into(), [8; 16], &signer).expect("a good name")
    };
    assert!(other[0].group.merge([honest]).is_empty(), "of another group");
    assert_ne!(other[0].group.id(), p[0].group.id());
}

#[test]
fn in_one_round_removal_beats_addition_and_there_is_a_bound() {
    let mut p = parties(3);
    add(&mut p, 0, 1, true).expect("may");
    add(&mut p, 0, 2, false).expect("may");
    all_hear_all(&mut p);
    remove(&mut p, 1, 2).expect("may");
    // Meanwhile the founder makes an admin of 2, who leaves.
    add(&mut p, 0, 2, true).expect("may");
    leave(&mut p, 2).expect("may");
    all_hear_all(&mut p);
    assert!(p.iter().all(|party| !party.sees(&p[2])));
    let mut refused = None;
    for number in 0..2 * STATEMENTS_MAX {
        if let Err(error) = p[0].act(|group, signer| group.rename(format!("name {number}"), signer)) {
            refused = Some(error);
            break;
        }
    }
    assert_eq!(refused, Some(GroupError::TooManyStatements));
    assert!(p[0].group.have().len() <= STATEMENTS_PER_AUTHOR_MAX + 4);
    let parts = p[0].group.parts();
    assert!(parts.iter().all(|part| part.check().is_ok() && wire::encoded_len(part) <= PART_BYTES_MAX + 2_048));
    let have: BTreeSet<_> = p[0].group.have().into_iter().collect();
    assert!(p[0].group.parts_without(&have).iter().all(|part| part.statements.is_empty()));
}

/// Something that somebody does, or hears.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Add { by: usize, who: usize, is_admin: bool },
    Remove { by: usize, who: usize },
    Leave { who: usize },
    Rename { by: usize, name: u8 },
    Hear { to: usize, from: usize },
}

const PARTIES: usize = 5;

fn deed() -> impl Strategy<Value = Deed> {
    let party = 0..PARTIES;
    prop_oneof![
        4 => (party.clone(), party.clone(), any::<bool>()).prop_map(|(by, who, is_admin)| Deed::Add { by, who, is_admin }),
        3 => (party.clone(), party.clone()).prop_map(|(by, who)| Deed::Remove { by, who }),
        1 => party.clone().prop_map(|who| Deed::Leave { who }),
        1 => (party.clone(), any::<u8>()).prop_map(|(by, name)| Deed::Rename { by, name }),
        6 => (party.clone(), party).prop_map(|(to, from)| Deed::Hear { to, from }),
    ]
}

fn carry_out(p: &mut [Party], deed: Deed) {
    // Who may not is refused here; what counts is that it comes to the same everywhere.
    let _refused = match deed {
        Deed::Add { by, who, is_admin } => add(p, by, who, is_admin),
        Deed::Remove { by, who } => remove(p, by, who),
        Deed::Leave { who } => leave(p, who),
        Deed::Rename { by, name } => p[by].act(|group, signer| group.rename(format!("name {name}"), signer)).map(drop),
        Deed::Hear { to, from } => {
            hear(p, to, from);
            Ok(())
        }
    };
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Whoever has heard all sees the same, whatever was said at the same time; and the founder is out only by leaving.
    #[test]
    fn all_members_converge(deeds in prop::collection::vec(deed(), 1..40), turn in any::<prop::sample::Index>()) {
        let mut p = parties(5);
        for deed in &deeds {
            carry_out(&mut p, *deed);
        }
        all_hear_all(&mut p);
        let first = p[0].group.clone();
        for party in &p {
            prop_assert_eq!(party.group.view(), first.view());
            prop_assert_eq!(party.group.digest(), first.digest());
        }
        // In another order, and one by one.
        let mut statements: Vec<_> = first.parts().into_iter().flat_map(|part| part.statements).collect();
        let turn = turn.index(statements.len().max(1)).min(statements.len());
        statements.rotate_left(turn);
        statements.reverse();
        let mut other = Group::from_genesis(first.genesis().clone()).expect("a good genesis");
        for statement in statements {
            other.merge([statement.clone()]);
            prop_assert!(other.merge([statement]).is_empty(), "known already");
        }
        prop_assert_eq!(&other, &first);
        let has_left = deeds.iter().any(|deed| matches!(deed, Deed::Leave { who: 0 }));
        prop_assert!(has_left || first.view().rank(&p[0].identity) == Some(0));
    }

    /// Somebody who was never made an admin changes nothing, whatever they sign; nor does one who was removed and has heard of it.
    #[test]
    fn outsiders_change_nothing(deeds in prop::collection::vec(deed(), 1..30), round in 1_u32..50, rank in 0_u8..4) {
        let mut p = parties(6);
        for deed in &deeds {
            carry_out(&mut p[..PARTIES], *deed);
        }
        all_hear_all(&mut p);
        let before = p[0].group.view().clone();
        let rights: Vec<[u8; 32]> = p[0].group.parts().iter().flat_map(|part| part.statements.iter().map(Vouched::hash)).collect();
        let signer_device = SecretKey::from_bytes([21; 32]);
        let outsider = &p[5];
        let changes = [
            Change::Add { member: outsider.member(), rank: (rank > 0).then_some(rank) },
            Change::Remove { identity: p[1].identity },
            Change::Rename { name: "mine".into() },
            Change::Leave,
        ];
        for right in rights.into_iter().chain([[0; 32]]) {
            for change in &changes {
                let statement = GroupStatement {
                    group: p[0].group.id(), author: outsider.identity, right, number: 1, round, change: change.clone(),
                    seen: Vec::new(), said_at: NOW, extensions: Extensions::none(),
                };
                let certificate = outsider.person.chain.device.clone();
                let vouched = Vouched { statement: wire::Signed::sign(statement, &signer_device), certificate };
                prop_assert_eq!(vouched.verify(), Ok(()));
                let mut group = p[0].group.clone();
                group.merge([vouched]);
                prop_assert_eq!(group.view(), &before);
            }
        }
    }
}
