//! Leaving out what the asker knows: most of what a node would name, the asker has named already by others or in its own table.
//!
//! The asker marks the nodes closest to the target that it knows, each by the first bytes of a hash of its descriptor and of a salt that is new with each
//! question. The answerer names those among its own closest by their number in that list, and spells out the others. So an answer says the same, in a
//! byte instead of some eighty for each. A node whose descriptor has changed has another mark, and is spelled out.
//!
//! Descriptors are hearsay: without the salt, somebody could make one beforehand that has another node's mark, tell the asker of it, and so have everybody else
//! leave that node out.
//!
//! Both are extensions: who doesn't know them spells everything out, or is told everything.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::messages::{CLOSER_MAX, EXTENSION_KNOWN};
use crate::node::Descriptor;
use crate::wire::{self, Extensions};

/// Bytes of a mark. Two of the few dozen descriptors of a question share one by chance once in some 100 million questions; then a node is
/// taken for another one that the asker knows, which it asks or stores at in vain.
const MARK_BYTES: usize = 4;

type Mark = [u8; MARK_BYTES];

/// Bytes of the salt, before the marks.
const SALT_BYTES: usize = 8;

pub(super) type Salt = [u8; SALT_BYTES];

fn mark(salt: &Salt, descriptor: &Descriptor) -> Mark {
    let hash: [u8; 32] = Sha256::new().chain_update(salt).chain_update(wire::encode(descriptor)).finalize().into();
    hash.first_chunk().copied().unwrap_or_default()
}

/// Marks what the asker knows, at most [`CLOSER_MAX`] of it, with a salt that nobody could know before.
pub(super) fn with_marks(extensions: Extensions, known: &[Arc<Descriptor>], salt: Salt) -> Extensions {
    if known.is_empty() {
        return extensions;
    }
    let marks = known.iter().take(CLOSER_MAX).flat_map(|descriptor| mark(&salt, descriptor));
    extensions.with(EXTENSION_KNOWN, salt.into_iter().chain(marks).collect())
}

/// What an answer with `closer` spells out of it for who asked with `asked`, and its extensions. Marks that can't be read are none.
pub(super) fn leave_out(
    asked: &Extensions,
    closer: Vec<Arc<Descriptor>>,
    extensions: Extensions,
) -> (Vec<Arc<Descriptor>>, Extensions) {
    let salted = asked.find(EXTENSION_KNOWN).and_then(|bytes| bytes.split_first_chunk::<SALT_BYTES>());
    let Some((salt, marks)) = salted else { return (closer, extensions) };
    let marks = marks.as_chunks::<MARK_BYTES>().0;
    let marks = marks.get(..CLOSER_MAX.min(marks.len())).unwrap_or_default();
    let mut numbers = Vec::new();
    let mut spelled = Vec::new();
    for descriptor in closer {
        let own = mark(salt, &descriptor);
        match marks.iter().position(|mark| *mark == own).and_then(|number| u8::try_from(number).ok()) {
            Some(number) if !numbers.contains(&number) => numbers.push(number),
            _ => spelled.push(descriptor),
        }
    }
    if numbers.is_empty() { (spelled, extensions) } else { (spelled, extensions.with(EXTENSION_KNOWN, numbers)) }
}

/// All that an answer names, for who knew `known` when it asked: what is spelled out, and what is named by number. `None` if that isn't an answer to
/// this question.
pub(super) fn all_named(
    known: &[Arc<Descriptor>],
    mut spelled: Vec<Arc<Descriptor>>,
    extensions: &Extensions,
) -> Option<Vec<Arc<Descriptor>>> {
    let numbers = extensions.find(EXTENSION_KNOWN).unwrap_or_default();
    if spelled.len() + numbers.len() > CLOSER_MAX {
        return None;
    }
    for number in numbers {
        spelled.push(Arc::clone(known.get(usize::from(*number))?));
    }
    Some(spelled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::Place;
    use crate::key::{DeviceKey, SecretKey};
    use crate::node::{Address, LoadClass, Roles, Transport};

    fn node(number: u8) -> Arc<Descriptor> {
        Arc::new(Descriptor {
            device: DeviceKey(SecretKey::from_bytes([number; 32]).public()),
            place: Place([number; 32]),
            roles: Roles::DIRECTORY,
            load: LoadClass(0),
            addresses: vec![Address::V4 { ip: [192, 0, 2, number], port: 4001, transport: Transport::Quic }],
        })
    }

    fn known(numbers: std::ops::Range<u8>) -> Vec<Arc<Descriptor>> {
        numbers.map(node).collect()
    }

    const SALT: Salt = [7; SALT_BYTES];

    #[test]
    fn marks_are_others_with_each_question() {
        let knows = known(0..4);
        let marks = [[1; SALT_BYTES], [2; SALT_BYTES]].map(|salt| with_marks(Extensions::none(), &knows, salt));
        let marks = marks.each_ref().map(|asked| asked.find(EXTENSION_KNOWN).expect("marks")[SALT_BYTES..].to_vec());
        assert!(marks[0].chunks(MARK_BYTES).all(|mark| !marks[1].chunks(MARK_BYTES).any(|other| other == mark)));
    }

    fn devices(nodes: &[Arc<Descriptor>]) -> std::collections::BTreeSet<DeviceKey> {
        nodes.iter().map(|node| node.device).collect()
    }

    #[test]
    fn an_answer_says_the_same_in_fewer_bytes() {
        let knows = known(0..10);
        let asked = with_marks(Extensions::none(), &knows, SALT);
        let closer: Vec<_> = (5..15).map(node).collect();
        let (spelled, extensions) = leave_out(&asked, closer.clone(), Extensions::none());
        assert_eq!(devices(&spelled), devices(&(10..15).map(node).collect::<Vec<_>>()));
        let named = all_named(&knows, spelled, &extensions).expect("an answer to it");
        assert_eq!((named.len(), devices(&named)), (10, devices(&closer)));
    }

    #[test]
    fn who_asks_without_marks_or_has_moved_is_told_everything() {
        let closer: Vec<_> = (0..3).map(node).collect();
        let none = Extensions::none();
        assert_eq!(leave_out(&none, closer.clone(), none.clone()), (closer.clone(), none.clone()));
        let mut moved = known(0..3);
        Arc::make_mut(&mut moved[1]).addresses.clear();
        let (spelled, _) = leave_out(&with_marks(none.clone(), &moved, SALT), closer.clone(), none.clone());
        assert_eq!(spelled, [node(1)]);
        for broken in [vec![], vec![1, 2, 3], SALT.to_vec(), [&SALT[..], &[1, 2, 3]].concat()] {
            let asked = none.clone().with(EXTENSION_KNOWN, broken);
            assert_eq!(leave_out(&asked, closer.clone(), none.clone()).0, closer);
        }
    }

    #[test]
    fn more_marks_than_there_may_be_are_passed_over() {
        let many: Vec<Arc<Descriptor>> = known(0..40);
        let asked = with_marks(Extensions::none(), &many, SALT);
        assert_eq!(asked.find(EXTENSION_KNOWN).map(<[u8]>::len), Some(SALT_BYTES + CLOSER_MAX * MARK_BYTES));
        let marks = many.iter().flat_map(|node| mark(&SALT, node));
        let asked = Extensions::none().with(EXTENSION_KNOWN, SALT.into_iter().chain(marks).collect());
        let (spelled, extensions) = leave_out(&asked, vec![node(3), node(30)], Extensions::none());
        assert_eq!((spelled, extensions.find(EXTENSION_KNOWN)), (vec![node(30)], Some(&[3_u8][..])));
    }

    #[test]
    fn numbers_of_nobody_and_too_many_are_no_answer() {
        let (knows, none) = (known(0..2), Extensions::none());
        assert_eq!(all_named(&knows, vec![node(9)], &none), Some(vec![node(9)]));
        assert_eq!(all_named(&knows, Vec::new(), &none.clone().with(EXTENSION_KNOWN, vec![2])), None);
        assert_eq!(all_named(&[], Vec::new(), &none.clone().with(EXTENSION_KNOWN, vec![0])), None);
        assert_eq!(all_named(&knows, Vec::new(), &none.with(EXTENSION_KNOWN, vec![0; CLOSER_MAX + 1])), None);
    }
}
