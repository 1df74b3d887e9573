//! Who is told of presence: SUBSCRIBE and NOTIFY (RFC 6665), of one user (RFC 3856) or of all contacts (RFC 4662).
//!
//! Only contacts are seen. Of anybody else, whether they exist or not, a subscription is pending until they are a contact, or it ends; nobody is asked for anything.

use std::collections::BTreeMap;
use std::time::Instant;

use halloo_protocol::simple::pidf;
use halloo_protocol::simple::rlmi::{self, Instance, List, Part, Resource, State as ListState, multipart};
use halloo_protocol::simple::subscription::{
    EXPIRES_SECS_MIN, Ended, LIST_MAX, Notice, PER_NOTICE_MAX, SubscribeError, Target, duration,
};
use halloo_protocol::sip::message::Message;
use halloo_protocol::sip::status::reason_of;
use halloo_protocol::sip::uri::address_of_user;
use tracing::debug;

use super::presence::word_of;
use super::{ANSWER_MAX, Clerk, Finished, bare, token};
use crate::handle::contacts::{ContactState, ContactView};
use crate::handle::presence::{PresenceError, PresenceView};
use crate::sip::dialog::{Dialog, contact};
use crate::sip::wire::Arrived;

/// A body and its type.
type Body = Option<(String, String)>;

/// Everybody who is on the list, and what is known of them.
struct Buddies {
    contacts: Vec<ContactView>,
    views: BTreeMap<String, PresenceView>,
}

impl Clerk {
    pub(super) async fn subscribe(&mut self, arrived: Arrived) {
        let request = &arrived.request;
        if bare(request.get("event").unwrap_or_default()) != "presence" {
            return self.refuse_with(&arrived, 489, reason_of(489), |answer| answer.add("allow-events", "presence")).await;
        }
        let secs = match duration(request.seconds("expires")) {
            Ok(secs) => secs,
            Err(error) => return self.refuse_subscription(&arrived, error).await,
        };
        if request.to_tag().is_some() {
            return self.resubscribe(arrived, secs).await;
        }
        let Some(target) = self.target(request) else { return self.refuse(&arrived, 404, reason_of(404)).await };
        let target = match target == self.account {
            true if request.lists("supported", "eventlist") => Target::List,
            true => Target::Own,
            false => Target::Buddy(target),
        };
        let wanted: &[&str] =
            if target == Target::List { &["multipart/related", rlmi::CONTENT_TYPE] } else { &[pidf::CONTENT_TYPE] };
        if !accepts(request, wanted) {
            return self.refuse_with(&arrived, 406, "Not Acceptable", |answer| answer.add("accept", pidf::CONTENT_TYPE)).await;
        }
        let name = self.account.split('@').next().unwrap_or_default();
        let dialog = Dialog::answering(request, &token(), arrived.flow, contact(name, arrived.local, arrived.flow));
        let mut answer = dialog.answer(request, 200, "OK");
        answer.add("expires", secs.to_string());
        if target == Target::List {
            answer.add("require", "eventlist");
        }
        match self.subscriptions.open(target, dialog, secs, Instant::now()) {
            Ok(_) => self.wire.respond(arrived.id, answer).await,
            Err(error) => self.refuse_subscription(&arrived, error).await,
        }
    }

    /// Within the dialogue: it goes on, or ends.
    async fn resubscribe(&mut self, arrived: Arrived, secs: u32) {
        let request = &arrived.request;
        let Some((id, subscription)) = self.subscriptions.find(|dialog| dialog.is_of(request)) else {
            return self.refuse(&arrived, 481, "Subscription Does Not Exist").await;
        };
        if let Err(status) = subscription.dialog.check(request) {
            return self.refuse(&arrived, status, reason_of(status)).await;
        }
        subscription.dialog.refresh_target(request);
        subscription.dialog.flow = arrived.flow;
        let mut answer = subscription.dialog.answer(request, 200, "OK");
        answer.add("expires", secs.to_string());
        if subscription.target == Target::List {
            answer.add("require", "eventlist");
        }
        self.subscriptions.refresh(id, secs, Instant::now());
        self.wire.respond(arrived.id, answer).await;
    }

    async fn refuse_subscription(&self, arrived: &Arrived, error: SubscribeError) {
        let more = |answer: &mut Message| match error {
            SubscribeError::TooBrief => answer.add("min-expires", EXPIRES_SECS_MIN.to_string()),
            _ => answer.add("retry-after", "60"),
        };
        self.refuse_with(arrived, error.status(), &error.to_string(), more).await;
    }

    /// Sends a notice that is due.
    pub(super) async fn notify(&mut self, mut notice: Notice) {
        let id = notice.id;
        let Some(target) = self.subscriptions.get_mut(id).map(|subscription| subscription.target.clone()) else { return };
        let mut is_known = true;
        let body: Body = match &target {
            Target::Own => Some(pidf_of(&self.account, &self.own_shown())),
            Target::Buddy(user) => {
                let view = self.node.presence().get(user.as_str()).await;
                is_known = view.is_ok();
                match view {
                    Ok(view) => Some(pidf_of(user, &word_of(&view))),
                    Err(error) => {
                        if !matches!(error, PresenceError::NotAContact { .. } | PresenceError::Username(_)) {
                            debug!(%error, "presence isn't known now");
                        }
                        None
                    }
                }
            }
            Target::List => Some(self.list_body(&notice).await),
        };
        let Some(subscription) = self.subscriptions.get_mut(id) else { return };
        let was_active = std::mem::replace(&mut subscription.is_active, is_known);
        if !is_known && was_active && notice.ended.is_none() {
            notice.ended = Some(Ended::Rejected);
            subscription.is_active = false;
        }
        if target != Target::List && !notice.is_full && notice.ended.is_none() && was_active == is_known {
            let is_told = body.as_ref().map_or("", |(_, body)| body.as_str()) == subscription.told;
            if is_told {
                return self.subscriptions.skipped(id);
            }
        }
        if let (Some((_, body)), true) = (&body, target != Target::List) {
            subscription.told.clone_from(body);
        }
        if target == Target::List {
            subscription.version = subscription.version.wrapping_add(1);
        }
        let mut request = subscription.dialog.request("NOTIFY");
        request.add("event", "presence");
        request.add("subscription-state", state_of(&notice, is_known));
        if target == Target::List {
            request.add("require", "eventlist");
        }
        if let Some((content_type, body)) = body {
            request = request.with_body(&content_type, body);
        }
        let flow = subscription.dialog.flow;
        if let Some(ended) = notice.ended {
            self.subscriptions.last_sent(id, ended);
        }
        let wire = self.wire.clone();
        self.tasks.spawn(async move {
            let answer = wire.ask(request, flow, ANSWER_MAX).await;
            Finished::Notified { id, is_success: answer.is_ok_and(|answer| answer.status() < 300) }
        });
    }

    async fn buddies(&self) -> Buddies {
        let contacts = self.node.contacts().list().await.map(|list| list.contacts).unwrap_or_default();
        let mut contacts: Vec<ContactView> =
            contacts.into_iter().filter(|contact| contact.state == ContactState::Contact).collect();
        contacts.sort_by(|one, other| one.username.cmp(&other.username));
        let views = self.node.presence().list().await.map(|list| list.contacts).unwrap_or_default();
        Buddies { contacts, views: views.into_iter().map(|view| (view.username.clone(), view)).collect() }
    }

    /// The list, and documents of as many as have room in it.
    async fn list_body(&mut self, notice: &Notice) -> (String, String) {
        let mut all = self.buddies().await;
        all.contacts.truncate(LIST_MAX);
        let named: Vec<String> = match notice.is_full {
            true => all.contacts.iter().map(|contact| contact.username.clone()).collect(),
            false => notice.whom.clone(),
        };
        if notice.is_full {
            self.subscriptions.postpone(notice.id, named.iter().skip(PER_NOTICE_MAX).cloned());
        }
        let mut documents = Vec::new();
        let mut resources = Vec::new();
        for (number, user) in named.iter().enumerate() {
            let known = all.contacts.iter().find(|contact| contact.username == *user);
            let cid = format!("p{number}@halloo");
            let instances = match known {
                Some(_) if number >= PER_NOTICE_MAX => Vec::new(),
                Some(_) => {
                    let word = all.views.get(user).map(word_of);
                    let word = word.unwrap_or(halloo_protocol::simple::publication::Word {
                        state: halloo_protocol::presence::State::Offline,
                        mood: String::new(),
                    });
                    documents.push((cid.clone(), pidf_of(user, &word).1));
                    vec![Instance { id: "1".to_owned(), state: ListState::Active, reason: None, cid: Some(cid) }]
                }
                None => {
                    let reason = Some("rejected".to_owned());
                    vec![Instance { id: "1".to_owned(), state: ListState::Terminated, reason, cid: None }]
                }
            };
            let name = self.names.of(user).map(str::to_owned).or_else(|| known.and_then(|known| known.display_name.clone()));
            resources.push(Resource { uri: address_of_user(user), name, instances });
        }
        let version = self.subscriptions.get_mut(notice.id).map_or(0, |subscription| subscription.version);
        let list = List { uri: address_of_user(&self.account), version, is_full: notice.is_full, resources }.to_xml();
        let mut parts = vec![Part { cid: "list@halloo", content_type: rlmi::CONTENT_TYPE, content: &list }];
        parts.extend(documents.iter().map(|(cid, content)| Part { cid, content_type: pidf::CONTENT_TYPE, content }));
        multipart(&token(), &parts)
    }

    /// Contacts, as the profile's clients are told.
    pub(super) async fn contacts(&self) -> (Vec<ContactView>, BTreeMap<String, PresenceView>) {
        let Buddies { contacts, views } = self.buddies().await;
        (contacts, views)
    }
}

fn pidf_of(user: &str, word: &halloo_protocol::simple::publication::Word) -> (String, String) {
    (pidf::CONTENT_TYPE.to_owned(), word.document(&address_of_user(user)).to_xml())
}

fn state_of(notice: &Notice, is_known: bool) -> String {
    match notice.ended {
        Some(ended) => format!("terminated;reason={}", ended.reason()),
        None if is_known => format!("active;expires={}", notice.expires_secs),
        None => format!("pending;expires={}", notice.expires_secs),
    }
}

/// Whether a phone takes all of these; one that says nothing does.
fn accepts(request: &Message, wanted: &[&str]) -> bool {
    let accepted: Vec<String> = request.list("accept").into_iter().map(bare).collect();
    accepted.is_empty() || wanted.iter().all(|wanted| accepted.iter().any(|one| one == wanted || one == "*/*"))
}
