//! Who is whose contact.

use std::collections::BTreeSet;

use rand::RngExt;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// Who knows whom, a bit for each pair: millions of edges are exchanged while a graph is made.
struct Matrix {
    people: usize,
    bits: Vec<u64>,
}

impl Matrix {
    fn new(people: usize) -> Self {
        Self { people, bits: vec![0; (people * people).div_ceil(64)] }
    }

    fn place(&self, one: usize, other: usize) -> (usize, u64) {
        let bit = one.min(other) * self.people + one.max(other);
        (bit / 64, 1 << (bit % 64))
    }

    fn has(&self, one: usize, other: usize) -> bool {
        let (word, bit) = self.place(one, other);
        self.bits[word] & bit != 0
    }

    fn set(&mut self, one: usize, other: usize, is_known: bool) {
        let (word, bit) = self.place(one, other);
        if is_known {
            self.bits[word] |= bit;
        } else {
            self.bits[word] &= !bit;
        }
    }

    /// Exchanges the ends of two edges, if nobody gets two to the same, or one to themselves.
    fn cross(&mut self, list: &mut [(usize, usize)], first: usize, second: usize) {
        let ((a, b), (c, d)) = (list[first], list[second]);
        let is_simple = a != d && c != b && a != c && b != d;
        if !is_simple || self.has(a, d) || self.has(c, b) {
            return;
        }
        self.set(a, b, false);
        self.set(c, d, false);
        self.set(a, d, true);
        self.set(c, b, true);
        list[first] = (a, d);
        list[second] = (c, b);
    }
}

/// Contacts, mutual; people are numbers.
#[derive(Clone, Debug)]
pub struct Graph {
    edges: Vec<BTreeSet<usize>>,
}

impl Graph {
    fn empty(people: usize) -> Self {
        Self { edges: vec![BTreeSet::new(); people] }
    }

    /// Everybody has `contacts` contacts, at random: a ring of neighbours, rewired until nothing of it is left.
    #[must_use]
    pub fn random(people: usize, contacts: usize, rng: &mut ChaCha8Rng) -> Self {
        let mut known = Matrix::new(people);
        let mut list = Vec::new();
        for person in 0..people {
            for step in 1..=contacts / 2 {
                list.push((person, (person + step) % people));
            }
        }
        for (one, other) in &list {
            known.set(*one, *other, true);
        }
        for _ in 0..10 {
            for index in 0..list.len() {
                let swap = rng.random_range(0..list.len());
                known.cross(&mut list, index, swap);
            }
        }
        let mut graph = Self::empty(people);
        for (one, other) in list {
            graph.join(one, other);
        }
        graph
    }

    /// The same in communities: each person is in some groups of `size`, whose members mostly know each other; `outside` of the contacts are
    /// anybody. Clustering follows from both.
    #[must_use]
    pub fn communities(people: usize, contacts: usize, size: usize, outside: usize, rng: &mut ChaCha8Rng) -> Self {
        let mut graph = Self::empty(people);
        let inside = contacts - outside;
        // Rounds of groups: in each everybody is in one group, and knows a share of it.
        let rounds = 3;
        let each = inside / rounds;
        let mut order: Vec<usize> = (0..people).collect();
        for _ in 0..rounds {
            order.shuffle(rng);
            for group in order.chunks(size) {
                let share = (each as f64 / (group.len().max(2) - 1) as f64).min(1.0);
                for (position, one) in group.iter().enumerate() {
                    for other in &group[position + 1..] {
                        if rng.random_bool(share) {
                            graph.join(*one, *other);
                        }
                    }
                }
            }
        }
        for one in 0..people {
            while graph.edges[one].len() < contacts {
                let other = rng.random_range(0..people);
                if other != one {
                    graph.join(one, other);
                }
                if graph.edges[one].len() + 2 > contacts && graph.edges[one].len() >= contacts - 1 {
                    break;
                }
            }
        }
        graph
    }

    fn join(&mut self, one: usize, other: usize) {
        self.edges[one].insert(other);
        self.edges[other].insert(one);
    }

    /// Gives one person more contacts, at random.
    pub fn befriend(&mut self, person: usize, contacts: usize, rng: &mut ChaCha8Rng) {
        while self.edges[person].len() < contacts {
            let other = rng.random_range(0..self.edges.len());
            if other != person {
                self.join(person, other);
            }
        }
    }

    /// How many people there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.edges.len()
    }

    /// True if there is nobody.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.edges.is_empty()
    }

    /// Somebody's contacts.
    pub fn contacts(&self, person: usize) -> impl Iterator<Item = usize> {
        self.edges[person].iter().copied()
    }

    /// Whether two are contacts.
    #[must_use]
    pub fn are_contacts(&self, one: usize, other: usize) -> bool {
        self.edges[one].contains(&other)
    }

    /// Of pairs of contacts of a person, how many are contacts too: mean over `sample` people.
    #[must_use]
    pub fn clustering(&self, sample: usize, rng: &mut ChaCha8Rng) -> f64 {
        let mut sum = 0.0;
        for _ in 0..sample {
            let person = rng.random_range(0..self.edges.len());
            let contacts: Vec<_> = self.contacts(person).collect();
            let pairs = contacts.len() * contacts.len().saturating_sub(1) / 2;
            let closed = contacts
                .iter()
                .enumerate()
                .map(|(position, one)| contacts[position + 1..].iter().filter(|other| self.are_contacts(*one, **other)).count());
            sum += closed.sum::<usize>() as f64 / pairs.max(1) as f64;
        }
        sum / sample as f64
    }

    /// Which contacts are connected: at random, at most `most` each.
    #[must_use]
    pub fn connections(&self, most: &[usize], rng: &mut ChaCha8Rng) -> Vec<(usize, usize)> {
        let mut all: Vec<_> = (0..self.len())
            .flat_map(|one| self.contacts(one).filter(move |other| one < *other).map(move |other| (one, other)))
            .collect();
        all.shuffle(rng);
        let mut count = vec![0; self.len()];
        all.retain(|(one, other)| {
            let is_room = count[*one] < most[*one] && count[*other] < most[*other];
            if is_room {
                count[*one] += 1;
                count[*other] += 1;
            }
            is_room
        });
        all
    }
}
