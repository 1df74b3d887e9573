//! Waking phones' apps (RFC 8599): who is asked to come, by which gateway, and who waits for them.
//!
//! ```text
//! a call, a message, or a      edge                     gateway           push service      app
//! registration about to end -> Waking: not twice   ->   PhonePush    ->   POST        ->    starts
//! INVITE, MESSAGE          <-  the same app        <---------------------------------      REGISTER
//! ```
//!
//! The gateway is the account's own, or one that is known; the credentials of push services are there and nowhere else.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use halloo_protocol::event::EventKind;
use halloo_protocol::push::phone::{PhonePush, PhonePushStatus, PhonePushed};
use halloo_protocol::push::{PushReason, Urgency};
use halloo_protocol::sip::gruu::PhoneMark;
use halloo_protocol::sip::message::Message;
use halloo_protocol::sip::push::{PushParams, PushWish, Waking, feature_caps, offered};
use halloo_protocol::sip::registrar::{Binding, RegisterError};
use halloo_protocol::sip::transaction::Flow;
use halloo_protocol::time::UnixTime;
use halloo_protocol::wire::Extensions;
use tokio::sync::mpsc;
use tracing::{debug, warn};

use super::{Done, Edge, tell, unix};
use crate::handle::Node;
use crate::handle::push::PushError;
use crate::sip::wire::Input;

/// How long what a gateway can do is taken for true.
const OFFER_GOOD: Duration = Duration::from_secs(600);

/// While an account's node has just started it knows no gateway: how often, and with which pause, it is asked before it counts as having none.
const FIRST_TRIES: u32 = 8;
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// A phone that hasn't registered for so long may sleep, whatever its address looks like.
const SURELY_AWAKE_SECS: u64 = 120;

/// How long a push for a call is worth delivering, and one for anything else, in seconds.
const CALL_TTL_SECS: u32 = 60;
const OTHER_TTL_SECS: u32 = 86_400;

/// Calls that wait for phones at once.
const WAITING_MAX: usize = 256;

/// Why a phone is woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sip) enum Cause {
    Call,
    Message,
    /// Its registration is about to end.
    Refresh,
}

impl Cause {
    fn request(self, target: halloo_protocol::push::phone::PhoneTarget) -> PhonePush {
        let (event, urgency, ttl_secs) = match self {
            Self::Call => (EventKind::VOICE_CALL, Urgency::High, CALL_TTL_SECS),
            Self::Message => (EventKind::MESSAGE, Urgency::High, OTHER_TTL_SECS),
            Self::Refresh => (EventKind::NOTICE, Urgency::Normal, OTHER_TTL_SECS),
        };
        PhonePush { target: Some(target), event, urgency, ttl_secs, extensions: Extensions::none() }
    }
}

/// What a gateway can do for an account, and when it was asked.
#[derive(Debug)]
struct Offer {
    asked_at: Instant,
    is_asking: bool,
    offer: Option<PhonePushed>,
}

/// The edge's state of it.
#[derive(Debug, Default)]
pub(super) struct Wakes {
    /// The gateway that the operator names.
    gateway: Option<String>,
    offers: BTreeMap<String, Offer>,
    waking: Waking,
    /// Apps that no push has reached yet: asked again after a while.
    again: BTreeSet<(String, PushParams)>,
    /// Calls that wait for an account's phones.
    waiting: Vec<(String, mpsc::Sender<Input>)>,
}

impl Wakes {
    /// With this gateway, or the one that there is.
    pub(super) fn by(gateway: Option<String>) -> Self {
        Self { gateway, ..Self::default() }
    }
}

/// What came of a push for an app.
pub(super) struct Woken {
    account: String,
    app: PushParams,
    cause: Cause,
    result: Result<PhonePushed, PushError>,
}

impl Edge {
    /// What is due: gateways asked what they can do, apps whose registration is about to end, and those that weren't reached.
    pub(super) fn wake_tick(&mut self) {
        let now = Instant::now();
        self.wakes.waking.expire(now);
        self.wakes.waiting.retain(|(_, inbox)| !inbox.is_closed());
        let accounts: Vec<String> = self.running.keys().cloned().collect();
        self.wakes.offers.retain(|account, _| self.running.contains_key(account));
        for account in accounts {
            let known = self.wakes.offers.get(&account);
            let is_due = known.is_none_or(|known| {
                !known.is_asking && (known.offer.is_none() || now.saturating_duration_since(known.asked_at) > OFFER_GOOD)
            });
            if is_due {
                self.ask_offer(&account);
            }
        }
        for (account, app) in self.registrar.to_refresh(unix()) {
            self.wake_app(&account, &app, Cause::Refresh);
        }
        for (account, app) in std::mem::take(&mut self.wakes.again) {
            let is_there = self.registrar.bindings(&account, unix()).iter().any(|binding| binding.push.as_ref() == Some(&app));
            if is_there {
                self.wakes.again.insert((account.clone(), app.clone()));
                self.wake_app(&account, &app, Cause::Message);
            }
        }
    }

    /// Asks an account's gateway which apps it can wake.
    pub(super) fn ask_offer(&mut self, account: &str) {
        let Some(running) = self.running.get(account) else { return };
        let asked_at = Instant::now();
        let kept = self.wakes.offers.remove(account).and_then(|known| known.offer);
        self.wakes.offers.insert(account.to_owned(), Offer { asked_at, is_asking: true, offer: kept });
        let (node, gateway, done) = (running.account.node.clone(), self.wakes.gateway.clone(), self.done.clone());
        let account = account.to_owned();
        tokio::spawn(async move {
            let offer = first_offer(&node, gateway).await;
            let _ = done.send(Done::Offered { account, offer }).await;
        });
    }

    pub(super) fn handle_offered(&mut self, account: &str, offer: Result<PhonePushed, PushError>) {
        let Some(known) = self.wakes.offers.get_mut(account) else { return };
        known.is_asking = false;
        match offer {
            Ok(offer) if offer.status == PhonePushStatus::Offered => known.offer = Some(offer),
            Ok(offer) => debug!(status = ?offer.status, "a gateway wakes no phones for an account"),
            Err(error) => debug!(%error, "no gateway wakes phones for an account"),
        }
    }

    /// What the phones of a REGISTER say about push.
    ///
    /// # Errors
    /// Their form; and [`RegisterError::PushService`] if the gateway, as far as one is known, hasn't that service.
    pub(super) fn push_wishes(&self, account: &str, request: &Message) -> Result<Vec<PushWish>, RegisterError> {
        let contacts = request.contacts().unwrap_or_default();
        let wishes: Result<Vec<PushWish>, RegisterError> =
            contacts.iter().filter_map(halloo_protocol::sip::uri::NameAddr::sip).map(|uri| PushWish::of(&uri)).collect();
        let wishes = wishes?;
        let Some(offer) = self.offer(account) else { return Ok(wishes) };
        let is_offered = |wish: &PushWish| match wish {
            PushWish::Wake(app) => app.way().is_some_and(|way| offer.ways.contains(&way)),
            PushWish::None | PushWish::Query => true,
        };
        if wishes.iter().all(is_offered) { Ok(wishes) } else { Err(RegisterError::PushService) }
    }

    fn offer(&self, account: &str) -> Option<&PhonePushed> {
        self.wakes.offers.get(account)?.offer.as_ref()
    }

    /// What the answer to a REGISTER says of push.
    pub(super) fn feature_caps(&self, account: &str, flow: Flow, wishes: &[PushWish]) -> Vec<String> {
        let bindings = self.registrar.bindings(account, unix());
        let with_refresh = bindings.iter().any(|binding| binding.flow == flow && binding.refreshes_itself);
        self.offer(account).map(|offer| feature_caps(offer, wishes, with_refresh)).unwrap_or_default()
    }

    /// All services there are for an account, as a refusal tells.
    pub(super) fn all_feature_caps(&self, account: &str) -> Vec<String> {
        self.offer(account).map(offered).unwrap_or_default()
    }

    /// Phones have registered: apps among them are awake, and calls that wait for them are told.
    pub(super) fn phones_came(&mut self, account: &str, flow: Flow) {
        let bindings = self.registrar.bindings(account, unix()).into_iter();
        let came: Vec<Binding> = bindings.filter(|binding| binding.flow == flow && binding.push.is_some()).cloned().collect();
        for binding in came {
            let (Some(local), Some(app)) = (self.local(binding.flow), binding.push.clone()) else { continue };
            self.wakes.waking.end(account, &app);
            self.wakes.again.remove(&(account.to_owned(), app));
            for (_, inbox) in self.wakes.waiting.iter().filter(|(waiting, _)| waiting == account) {
                tell(inbox, Input::Registered(Box::new((binding.clone(), local))));
            }
        }
    }

    /// The phones of an account for a call, each with the edge's own address on the way to it, if there is one: those that sleep are woken, and `inbox` is told
    /// when phones that can be woken register. With the mark of one phone, that one alone.
    pub(super) fn phones_for_call(
        &mut self,
        account: &str,
        phone: Option<&str>,
        inbox: mpsc::Sender<Input>,
    ) -> Vec<(Binding, Option<SocketAddr>)> {
        self.wakes.waiting.retain(|(_, inbox)| !inbox.is_closed());
        if self.wakes.waiting.len() < WAITING_MAX {
            self.wakes.waiting.push((account.to_owned(), inbox));
        }
        let now = unix();
        let is_meant = |binding: &&&Binding| phone.is_none_or(|mark| has_mark(binding, mark));
        let bindings: Vec<Binding> = self.registrar.bindings(account, now).iter().filter(is_meant).copied().cloned().collect();
        for app in bindings.iter().filter(|binding| may_sleep(binding, now)).filter_map(|binding| binding.push.clone()) {
            self.wake_app(account, &app, Cause::Call);
        }
        let local = |binding: &Binding| if binding.is_asleep { None } else { self.local(binding.flow) };
        let phones = bindings.into_iter().map(|binding| (local(&binding), binding));
        phones
            .filter(|(local, binding)| local.is_some() || binding.push.is_some())
            .map(|(local, binding)| (binding, local))
            .collect()
    }

    /// Wakes these apps of an account, or all that sleep, or may.
    pub(super) fn wake_phones(&mut self, account: &str, apps: Option<&[PushParams]>, cause: Cause) {
        let now = unix();
        let is_meant = |binding: &&&Binding| match (&binding.push, apps) {
            (Some(app), Some(apps)) => apps.contains(app),
            (Some(_), None) => may_sleep(binding, now),
            (None, _) => false,
        };
        let bindings = self.registrar.bindings(account, now);
        let meant: Vec<PushParams> = bindings.iter().filter(is_meant).filter_map(|binding| binding.push.clone()).collect();
        for app in meant {
            self.wake_app(account, &app, cause);
        }
    }

    fn wake_app(&mut self, account: &str, app: &PushParams, cause: Cause) {
        let (Some(running), Ok(target)) = (self.running.get(account), app.target()) else { return };
        if !self.wakes.waking.begin(account, app, cause == Cause::Call, Instant::now()) {
            return;
        }
        debug!(?cause, ?app, "an app is woken");
        let (node, gateway, done) = (running.account.node.clone(), self.wakes.gateway.clone(), self.done.clone());
        let (account, app) = (account.to_owned(), app.clone());
        tokio::spawn(async move {
            let result = node.push().phone(gateway, cause.request(target)).await;
            let _ = done.send(Done::Woken(Woken { account, app, cause, result })).await;
        });
    }

    pub(super) fn handle_woken(&mut self, woken: Woken) {
        let Woken { account, app, cause, result } = woken;
        let key = (account.clone(), app.clone());
        match result.map(|pushed| pushed.status) {
            Ok(PhonePushStatus::Sent | PhonePushStatus::Offered) => {
                self.wakes.again.remove(&key);
            }
            Ok(PhonePushStatus::Gone(reason)) => {
                debug!(%reason, "an app can't be woken any more");
                self.wakes.again.remove(&key);
                self.wakes.waking.end(&account, &app);
                self.registrar.push_gone(&account, &app);
                // Not beside a write that is under way: that one has it still, and would come last.
                self.is_registrar_changed = true;
                self.begin_save();
                self.poke_desk(&account);
            }
            Ok(PhonePushStatus::Refused(PushReason::TEMPORARY | PushReason::RATE)) | Err(_) => {
                debug!("an app isn't woken yet");
                // A call asks again by itself, for as long as it rings.
                if cause == Cause::Message {
                    self.wakes.again.insert(key);
                } else {
                    self.wakes.waking.end(&account, &app);
                }
            }
            Ok(PhonePushStatus::Refused(reason)) => {
                warn!(%reason, "an app isn't woken: the gateway, or the push service, doesn't take it");
                self.wakes.again.remove(&key);
            }
        }
    }
}

/// Whether a phone may sleep, if it can.
fn may_sleep(binding: &Binding, now: UnixTime) -> bool {
    binding.is_asleep || now.secs_since(binding.refreshed_at) > SURELY_AWAKE_SECS
}

fn has_mark(binding: &Binding, mark: &str) -> bool {
    binding.instance.as_deref().is_some_and(|instance| PhoneMark::of(instance).to_string() == mark)
}

async fn first_offer(node: &Node, gateway: Option<String>) -> Result<PhonePushed, PushError> {
    let mut offer = node.push().phone(gateway.clone(), PhonePush::query()).await;
    for _ in 1..FIRST_TRIES {
        if !matches!(offer, Err(PushError::NoGateway | PushError::GatewayUnreachable { .. })) {
            break;
        }
        tokio::time::sleep(FIRST_PAUSE).await;
        offer = node.push().phone(gateway.clone(), PhonePush::query()).await;
    }
    offer
}
