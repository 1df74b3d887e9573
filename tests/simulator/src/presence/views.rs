//! Who sees whom wrongly, kept up as people come and go and as views change: with millions of pairs nobody can look at each every minute.

use std::collections::BTreeSet;
use std::time::Duration;

use halloo_protocol::presence::State as ShownState;

use super::rows::Churned;
use super::world::Town;
use crate::{NodeId, State};

/// One viewer's contacts, in the order of their numbers.
#[derive(Debug, Default)]
struct View {
    contacts: Vec<NodeId>,
    /// Whether each is shown as there.
    is_there: Vec<bool>,
}

/// What is shown to everybody of everybody, beside what is.
#[derive(Debug)]
pub(super) struct Views {
    views: Vec<View>,
    /// Viewer and contact, where viewers run and something else is shown than is.
    wrong: BTreeSet<(NodeId, NodeId)>,
    /// When each came or went last.
    changed: Vec<Duration>,
}

impl Views {
    /// Looks at every pair.
    pub(super) fn new(town: &mut Town) -> Self {
        town.network.take_events().for_each(drop);
        let start = town.network.elapsed();
        let nodes: Vec<_> = town.network.nodes().collect();
        let mut views = Self { views: Vec::new(), wrong: BTreeSet::new(), changed: vec![start; nodes.len()] };
        for viewer in nodes {
            let contacts: Vec<_> = town.graph.contacts(viewer.index()).map(NodeId::from_index).collect();
            let is_up = town.network.state(viewer) == State::Up;
            let sees = |contact: &NodeId| is_up && town.sees(viewer, *contact).1 != ShownState::Offline;
            let is_there = contacts.iter().map(sees).collect();
            views.views.push(View { contacts, is_there });
            views.compare_all(town, viewer);
        }
        views
    }

    /// Takes in what was reported.
    pub(super) fn collect(&mut self, town: &mut Town) {
        let events: Vec<_> = town.network.take_events().collect();
        for (viewer, seen) in events {
            let Some(contact) = town.network.world.person(&seen.contact).map(NodeId::from_index) else { continue };
            let view = &mut self.views[viewer.index()];
            let Ok(position) = view.contacts.binary_search(&contact) else { continue };
            view.is_there[position] = seen.shown.state != ShownState::Offline;
            self.compare(town, viewer, position);
        }
    }

    /// Somebody has come, with an empty memory, or gone.
    pub(super) fn changed(&mut self, town: &Town, node: NodeId) {
        self.changed[node.index()] = town.network.elapsed();
        self.views[node.index()].is_there.fill(false);
        self.compare_all(town, node);
        for contact in town.graph.contacts(node.index()) {
            if let Ok(position) = self.views[contact].contacts.binary_search(&node) {
                self.compare(town, NodeId::from_index(contact), position);
            }
        }
    }

    /// All pairs.
    pub(super) fn pairs(&self) -> usize {
        self.views.iter().map(|view| view.contacts.len()).sum()
    }

    /// Pairs of which something wrong is shown.
    pub(super) const fn wrong(&self) -> &BTreeSet<(NodeId, NodeId)> {
        &self.wrong
    }

    /// Counts pairs, and those wrong for longer than `grace`. Who has just come online is still fetching.
    pub(super) fn look(&self, town: &Town, grace: Duration, result: &mut Churned) {
        let now = town.network.elapsed();
        let is_settled = |node: &NodeId| now >= self.changed[node.index()] + grace;
        for viewer in town.network.running().iter().filter(|viewer| is_settled(viewer)) {
            result.looks += self.views[viewer.index()].contacts.len() as u64;
        }
        for (viewer, contact) in &self.wrong {
            if is_settled(viewer) && is_settled(contact) {
                result.wrong += 1;
                result.wrong_there += u64::from(town.network.state(*contact) != State::Up);
            }
        }
    }

    fn compare_all(&mut self, town: &Town, viewer: NodeId) {
        for position in 0..self.views[viewer.index()].contacts.len() {
            self.compare(town, viewer, position);
        }
    }

    fn compare(&mut self, town: &Town, viewer: NodeId, position: usize) {
        let view = &self.views[viewer.index()];
        let contact = view.contacts[position];
        let is_there = town.network.state(contact) == State::Up;
        let is_viewing = town.network.state(viewer) == State::Up;
        if is_viewing && is_there != view.is_there[position] {
            self.wrong.insert((viewer, contact));
        } else {
            self.wrong.remove(&(viewer, contact));
        }
    }
}
