//! Whom a node learns of from those it is connected to, and what it asks them for.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use halloo_protocol::identity::VerifiedChain;
use halloo_protocol::kademlia::{
    Action, Answer, CLOSER_MAX, Config, Connected, DisconnectReason, EXTENSION_NEWS, FindNode, Nodes, REPLICAS, Request,
    RequestId,
};
use halloo_protocol::key::DeviceKey;
use halloo_protocol::node::{Descriptor, Roles};
use halloo_protocol::wire::Extensions;

use crate::fixture;
use crate::neighbourhood::{Lone, lone};

/// A question that the node has sent: to whom, under which number, and how old the news it asks for may be, in seconds.
type Question = (DeviceKey, RequestId, Option<u16>);

fn news_of(asked: &FindNode) -> Option<u16> {
    let bytes = asked.extensions.find(EXTENSION_NEWS)?;
    Some(u16::from_le_bytes(bytes.try_into().expect("two bytes")))
}

impl Lone {
    pub(crate) fn connect(&mut self, chain: &VerifiedChain, number: usize) {
        let connected = Connected { device: chain.device, rtt: None, is_relayed: false };
        self.directory.handle_connected(self.now, connected);
        self.meet(chain, number);
    }

    /// The questions for nodes that it has sent and that are about others' neighbourhoods.
    fn questions(&mut self) -> Vec<Question> {
        let sent: Vec<_> = std::iter::from_fn(|| self.directory.poll_action()).collect();
        let question = |action| match action {
            Action::Send { to, id, request: Request::FindNode(question) } => Some((to.device, id, news_of(&question))),
            _ => None,
        };
        sent.into_iter().filter_map(question).collect()
    }

    fn answer(&mut self, id: RequestId, closer: Vec<Arc<Descriptor>>) {
        let answer = Answer::Nodes(Nodes { closer, extensions: Extensions::none() });
        self.directory.handle_answer(self.now, &self.trust, id, Ok(answer));
    }

    fn table_size(&self) -> usize {
        let (proved, hints) = self.directory.table_counts();
        proved + hints
    }

    fn named(&mut self, extensions: Extensions) -> BTreeSet<DeviceKey> {
        let question = FindNode { target: [0; 32], want: u8::MAX, extensions };
        let Answer::Nodes(nodes) = self.ask(Request::FindNode(question)) else { panic!("another answer") };
        nodes.closer.iter().map(|node| node.device).collect()
    }

    /// Lets time pass until it asks somebody for news; all questions of that time.
    fn asked_for_news(&mut self) -> Vec<Question> {
        let mut all = Vec::new();
        for _ in 0..10_000 {
            self.now.instant = self.directory.poll_timeout().expect("a refresh to come").max(self.now.instant);
            self.directory.handle_timeout(self.now);
            let questions = self.questions();
            let is_round = questions.iter().any(|(.., news)| news.is_some());
            // Walks lead nowhere.
            questions.iter().filter(|(.., news)| news.is_none()).for_each(|(_, id, _)| self.answer(*id, Vec::new()));
            all.extend(questions);
            if is_round {
                return all;
            }
        }
        panic!("nobody is asked for news")
    }
}

pub(crate) fn descriptors(chains: &[VerifiedChain]) -> Vec<Arc<Descriptor>> {
    let chains = chains.iter().zip(1_000..);
    chains.map(|(chain, number)| Arc::new(fixture::descriptor(chain, number, Roles::DIRECTORY))).collect()
}

#[test]
fn who_asks_for_news_is_named_those_who_came_since() {
    let mut lone = lone(Config::default());
    let new = lone.others[REPLICAS].clone();
    lone.now.instant += Duration::from_secs(100);
    lone.meet(&new, REPLICAS);
    let all = lone.named(Extensions::none());
    assert_eq!(all.len(), REPLICAS, "all but the asker");
    let news = |secs: u16| Extensions::none().with(EXTENSION_NEWS, secs.to_le_bytes().into());
    assert_eq!(lone.named(news(50)), BTreeSet::from([new.device]));
    assert_eq!(lone.named(news(200)), all);
    for broken in [vec![], vec![1]] {
        assert_eq!(lone.named(Extensions::none().with(EXTENSION_NEWS, broken)), all, "what can't be read asks for all");
    }
}

#[test]
fn a_neighbour_is_asked_for_all_once_and_then_for_its_news_while_there_are_more() {
    let mut lone = lone(Config::default());
    let neighbour = lone.neighbours[0].clone();
    lone.connect(&neighbour, 0);
    let met = lone.now.instant;
    let asked = lone.questions();
    assert!(!asked.is_empty() && asked.iter().all(|(to, _, news)| *to == neighbour.device && news.is_none()), "{asked:?}");
    asked.iter().for_each(|(_, id, _)| lone.answer(*id, Vec::new()));

    let asked = lone.asked_for_news();
    let passed = lone.now.instant.duration_since(met).as_secs();
    let (mut turn, mut told) = (0, lone.table_size());
    let mut next = asked.into_iter().find(|(.., news)| news.is_some());
    while let Some((to, id, news)) = next {
        assert_eq!(to, neighbour.device);
        assert!((passed..passed + 3).contains(&u64::from(news.expect("for news"))), "{news:?} after {passed} s");
        turn += 1;
        let from = REPLICAS + turn * CLOSER_MAX;
        let named = descriptors(&lone.others[from..from + CLOSER_MAX]);
        lone.answer(id, named);
        told += CLOSER_MAX;
        assert_eq!(lone.table_size(), told, "it knows them now");
        next = lone.questions().into_iter().find(|(.., news)| news.is_some());
    }
    assert_eq!(turn, 4, "somebody could go on for ever");
    let asked = lone.asked_for_news();
    let (_, id, _) = asked.into_iter().find(|(.., news)| news.is_some()).expect("news");
    lone.answer(id, Vec::new());
    assert!(lone.questions().iter().all(|(.., news)| news.is_none()), "there was nothing");
}

#[test]
fn who_greets_again_and_who_names_what_is_known_is_not_asked_for_more() {
    let mut lone = lone(Config::default());
    let (neighbour, stranger) = (lone.neighbours[0].clone(), lone.others[REPLICAS].clone());
    lone.connect(&neighbour, 0);
    lone.questions().iter().for_each(|(_, id, _)| lone.answer(*id, Vec::new()));
    let met = lone.now.instant;
    lone.now.instant += Duration::from_secs(30);
    for _ in 0..3 {
        lone.meet(&neighbour, 0);
        assert_eq!(lone.questions(), [], "it greets again on the same connection");
    }
    for _ in 0..3 {
        lone.connect(&stranger, REPLICAS);
        lone.questions().iter().for_each(|(_, id, _)| lone.answer(*id, Vec::new()));
        lone.directory.handle_disconnected(lone.now, &stranger.device, DisconnectReason::Idle);
        lone.connect(&stranger, REPLICAS);
        assert_eq!(lone.questions(), [], "it was asked a moment ago");
    }

    let asked = lone.asked_for_news();
    let (_, id, news) = *asked.iter().find(|(to, _, news)| *to == neighbour.device && news.is_some()).expect("news");
    let passed = lone.now.instant.duration_since(met).as_secs();
    assert!(u64::from(news.expect("for news")) >= passed, "all that came since it last answered");
    let known = descriptors(&lone.others[REPLICAS..REPLICAS + CLOSER_MAX]);
    lone.directory.add_hearsay(lone.now, known.clone());
    lone.answer(id, known);
    let more = lone.questions();
    assert!(more.iter().all(|(to, _, news)| *to != neighbour.device || news.is_none()), "as one who can't tell news does");
}

#[test]
fn strangers_who_have_nothing_new_to_tell_are_hardly_asked() {
    let asked_of = |is_news: bool| {
        let mut lone = lone(Config::default());
        let strangers = lone.others[REPLICAS..REPLICAS + 32].to_vec();
        let (mut asked, mut questions) = (0, 0);
        for (number, stranger) in strangers.iter().enumerate() {
            lone.connect(stranger, REPLICAS + number);
            let sent = lone.questions();
            asked += usize::from(!sent.is_empty());
            for (to, id, news) in sent {
                assert_eq!((to, news), (stranger.device, None));
                let from = REPLICAS + 32 + if is_news { (questions * 2) % 256 } else { 0 };
                let named = descriptors(&lone.others[from..from + 2]);
                lone.answer(id, named);
                questions += 1;
            }
        }
        (asked, questions)
    };
    let (new, known) = (asked_of(true), asked_of(false));
    println!(
        "of 32 strangers with news {} are asked {} questions, of 32 without {} are asked {}",
        new.0, new.1, known.0, known.1
    );
    assert_eq!(new, (32, 96), "each is asked all");
    assert!(known.0 <= 16 && known.1 <= known.0 + 4, "{known:?}: strangers and questions for nothing");
}
