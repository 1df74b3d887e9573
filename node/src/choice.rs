//! Which of the user's devices an event goes to. The deciding is `halloo_protocol::choice`; here is what it decides from: reports of own
//! devices, the policy, who is connected; and who is told of them.
//!
//! Reports and policy go to own devices that are met, and on change to those that are connected or can be dialled; the policy is in the vault
//! too. Gateways get both without names ([`gateways`]).

mod commands;
mod gateways;
pub(crate) mod messages;
pub(crate) mod sensor;
mod wake_lan;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use halloo_protocol::call::VerifiedInvite;
use halloo_protocol::choice::{
    CallerRef, Candidate, Choice, Decision, Delivery, DeviceReport, DeviceReports, Event as ChoiceEvent, Inputs, OwnReport,
    POLICY_TEXT_BYTES_MAX, Policy, PolicyText, Presence, Reach, Reports, STALE_SECS, Usage, decide,
};
use halloo_protocol::event::EventKind;
use halloo_protocol::identity::UserId;
use halloo_protocol::key::DeviceKey;
use halloo_protocol::mail::MailNotice;
use halloo_protocol::presence::State;
use halloo_protocol::time::Now;
use halloo_protocol::wire::Extensions;
use libp2p::PeerId;
use tracing::{debug, warn};

use crate::address;
use crate::event_loop::EventLoop;
use crate::network::Target;
use crate::store::StoreError;
use crate::wording::ShownOn;

const OWN_REPORT: &str = "device report";
const REPORTS: &str = "device reports";
const POLICY: &str = "push policy";
const DECISIONS: &str = "device decisions";

/// How often a report is repeated, so that silence means something.
const REPEAT_EVERY: Duration = Duration::from_secs(STALE_SECS / 3);

/// Events whose decision can be explained later; the oldest fall out.
const DECISIONS_MAX: usize = 32;

/// A sleeping machine is woken at most so often.
const WAKE_AGAIN_AFTER: Duration = Duration::from_secs(300);

/// What is known for the choice of a device.
#[derive(Debug, Default)]
pub(crate) struct ChoiceState {
    /// What this device says of itself; of number 0 before it has said anything.
    own: DeviceReport,
    /// The newest of all own devices, this one among them.
    reports: Reports,
    version: u64,
    text: String,
    policy: Option<Policy>,
    repeat_at: Option<Instant>,
    /// What gateways were told.
    told: HashMap<DeviceKey, gateways::Told>,
    tell_at: Option<Instant>,
    /// What decisions were made from, oldest first.
    recorded: VecDeque<(EventId, Inputs)>,
    /// The newest of these aren't on disk yet.
    is_unwritten: bool,
    /// Sleeping machines that were woken, and when.
    woken: Vec<(DeviceKey, Instant)>,
    turns: messages::MessageTurns,
}

/// Id of a call, a message or a file: what its decision is kept under.
pub(crate) type EventId = [u8; 16];

/// How long a device holds a call back, where it is shown if not here, and why it was decided so.
#[derive(Clone, Debug)]
pub(crate) struct Turn {
    pub(crate) after_secs: u16,
    pub(crate) words: String,
    pub(crate) shown_on: Option<ShownOn>,
}

// Start, and time.
impl EventLoop {
    pub(crate) fn choice_start(&mut self) {
        let stored = self.store.read::<_, StoreError>(|view| {
            let own = view.setting_value::<DeviceReport>(OWN_REPORT)?;
            let reports = view.setting_value::<Reports>(REPORTS)?;
            let policy = view.setting_value::<(u64, String)>(POLICY)?;
            let recorded = view.setting_value::<Vec<(EventId, Inputs)>>(DECISIONS)?;
            Ok((own.unwrap_or_default(), reports.unwrap_or_default(), policy.unwrap_or_default(), recorded.unwrap_or_default()))
        });
        match stored {
            Ok((own, reports, (version, text), recorded)) => {
                let policy = read_policy(&text);
                self.choice = ChoiceState {
                    own,
                    reports,
                    version,
                    text,
                    policy,
                    recorded: recorded.into(),
                    tell_at: Some(Instant::now()),
                    ..ChoiceState::default()
                };
            }
            Err(error) => warn!(%error, "device reports and policy not read from the database"),
        }
    }

    pub(crate) fn choice_tick(&mut self, now: Now) {
        if self.choice.repeat_at.is_none_or(|at| at <= now.instant) {
            self.choice.repeat_at = Some(now.instant + REPEAT_EVERY);
            if self.choice.own.usage.is_some() {
                // Who isn't connected isn't dialled to hear the same once more: it may be asleep.
                self.say_report(self.choice.own.clone(), false);
            }
        }
        self.write_decisions();
        self.message_turns_tick(now.instant);
        self.tell_gateways_tick(now);
    }
}

// Reports.
impl EventLoop {
    /// What this device says of itself from now on.
    fn say_report(&mut self, report: DeviceReport, is_news: bool) {
        let now = self.now().unix;
        let me = self.identity.device();
        let sequence = self.choice.own.sequence.saturating_add(1).max(now.0);
        let report = DeviceReport { sequence, at: now, ..report };
        self.choice.own = report.clone();
        self.choice.reports.merge(me, report);
        self.keep_reports();
        let notice = DeviceReports {
            reports: vec![OwnReport { device: me, report: self.choice.own.clone() }],
            wants_answer: false,
            extensions: Extensions::none(),
        };
        for target in self.own_targets(is_news) {
            self.notify(&target, &notice);
        }
        self.tell_gateways_soon();
    }

    fn keep_reports(&self) {
        let kept = self.store.transaction::<_, StoreError>(|tx| {
            tx.put_setting_value(OWN_REPORT, &self.choice.own)?;
            tx.put_setting_value(REPORTS, &self.choice.reports)
        });
        if let Err(error) = kept {
            warn!(%error, "device reports not kept");
        }
    }

    /// Own other devices: those connected, and if they are to be dialled those of which an address is known.
    fn own_targets(&self, dials: bool) -> Vec<Target> {
        let user = self.identity.user_id();
        let me = self.identity.device();
        let others = self.own_devices_known().into_iter().filter(|device| *device != me);
        let target = |device: &DeviceKey| {
            let peer = address::peer_id(device)?;
            match self.is_own_peer(&peer) {
                true => Some(Target::connected(peer)),
                false if dials => self.cached_target(&user, device),
                false => None,
            }
        };
        others.filter_map(|device| target(&device)).collect()
    }

    /// Devices of this user that aren't removed, this one among them.
    pub(crate) fn own_devices_known(&self) -> BTreeSet<DeviceKey> {
        let (identity, now) = (self.identity.identity(), self.now().unix);
        let mut devices = self.contacts.own_devices().copied().collect::<BTreeSet<_>>();
        devices.extend(self.devices.cards().map(|(device, _, _)| device));
        devices.retain(|device| !self.trust.is_device_removed(&identity, device, now));
        devices.insert(self.identity.device());
        devices
    }

    /// An own device was met: it is told what this one knows.
    pub(crate) fn choice_own_device_met(&mut self, peer: PeerId) {
        let target = Target::connected(peer);
        if !self.choice.reports.is_empty() {
            let notice = self.all_reports(true);
            self.notify(&target, &notice);
        }
        if self.choice.version > 0 {
            let notice = self.policy_text();
            self.notify(&target, &notice);
        }
    }

    fn all_reports(&self, wants_answer: bool) -> DeviceReports {
        let reports = self.choice.reports.iter().map(|(device, report)| OwnReport { device: *device, report: report.clone() });
        DeviceReports { reports: reports.collect(), wants_answer, extensions: Extensions::none() }
    }

    pub(crate) fn handle_device_reports(&mut self, peer: PeerId, notice: DeviceReports) {
        if !self.is_own_peer(&peer) {
            return;
        }
        let (me, now) = (self.identity.device(), self.now().unix);
        let known = self.own_devices_known();
        let mut news = Vec::new();
        for OwnReport { device, report } in notice.reports {
            // A device removed by its user has nothing to say, and of this one nobody knows better.
            let is_own = device == me || !known.contains(&device);
            // One that is dated ahead would never get old.
            let is_ahead = report.at.is_from_the_future(now);
            if !is_own && !is_ahead && self.choice.reports.merge(device, report.clone()) {
                news.push(OwnReport { device, report });
            }
        }
        if notice.wants_answer {
            let answer = self.all_reports(false);
            self.notify(&Target::connected(peer), &answer);
        }
        if news.is_empty() {
            return;
        }
        self.keep_reports();
        self.tell_gateways_soon();
        let notice = DeviceReports { reports: news, wants_answer: false, extensions: Extensions::none() };
        let others = self.peers.iter().map(|(other, _)| *other).filter(|other| *other != peer && self.is_own_peer(other));
        let others: Vec<PeerId> = others.collect();
        for other in others {
            self.notify(&Target::connected(other), &notice);
        }
    }
}

// The policy.
impl EventLoop {
    fn policy_text(&self) -> PolicyText {
        PolicyText { version: self.choice.version, text: self.choice.text.clone(), extensions: Extensions::none() }
    }

    /// The policy with its version, for the vault.
    pub(crate) fn vault_policy(&self) -> Option<PolicyText> {
        (self.choice.version > 0).then(|| self.policy_text())
    }

    pub(crate) fn handle_policy_text(&mut self, peer: PeerId, notice: PolicyText) {
        if !self.is_own_peer(&peer) {
            return;
        }
        if let Err(error) = self.merge_policy(notice) {
            warn!(%error, "policy not kept");
        }
    }

    /// Takes in the policy of another device of this user: the newer one stays.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn merge_policy(&mut self, other: PolicyText) -> Result<(), StoreError> {
        if other.text.len() > POLICY_TEXT_BYTES_MAX {
            return Ok(());
        }
        if (other.version, &other.text) > (self.choice.version, &self.choice.text) {
            self.set_policy(other.version, other.text)?;
        }
        Ok(())
    }

    fn set_policy(&mut self, version: u64, text: String) -> Result<(), StoreError> {
        self.store.transaction::<_, StoreError>(|tx| tx.put_setting_value(POLICY, &(version, text.clone())))?;
        self.choice.policy = read_policy(&text);
        self.choice.version = version;
        self.choice.text = text;
        self.vault_changed();
        self.tell_gateways_soon();
        let notice = self.policy_text();
        for target in self.own_targets(true) {
            self.notify(&target, &notice);
        }
        Ok(())
    }
}

/// The device that a prompt points to.
fn shown_on(choice: &Choice, inputs: &Inputs) -> Option<ShownOn> {
    let Delivery::Prompt { shown_on } = choice.delivery else { return None };
    let name = inputs.candidates.iter().find(|known| known.device == shown_on).and_then(|known| known.name.clone());
    Some(ShownOn { peer_id: address::peer_id(&shown_on)?.to_string(), name })
}

/// A policy of a version that this program doesn't read is as none: every device is told.
fn read_policy(text: &str) -> Option<Policy> {
    if text.is_empty() {
        return None;
    }
    Policy::parse(text)
        .inspect_err(|error| warn!(%error, "the push policy can't be used: every device is told of everything"))
        .ok()
}

// Deciding.
impl EventLoop {
    /// When it is this device's turn to ring, and why; `None` where nothing is to be chosen: at once, as every device. What it is decided from is kept.
    pub(crate) fn choose_for_call(&mut self, invite: &VerifiedInvite, carried_secs: u64) -> Option<Turn> {
        let content = invite.invite();
        let caller = self.labels.display(invite.caller_id());
        let event = ChoiceEvent { kind: content.kind, callers: vec![CallerRef::Name(caller)], format: None };
        let inputs = self.choice_inputs(event);
        let decision = decide(&inputs, self.choice.policy.as_ref());
        if self.choice.policy.is_some() {
            self.wake_sleepers(&inputs, &decision);
        }
        let (after_secs, choice) = decision.turn_of(&self.identity.device())?;
        let (words, shown_on) = (choice.words.clone(), shown_on(choice, &inputs));
        self.record_decision(content.call.0, inputs);
        if self.choice.policy.is_none() && shown_on.is_none() {
            return None;
        }
        // What a gateway has waited isn't waited again.
        let left = u64::from(after_secs).saturating_sub(carried_secs);
        let after_secs = u16::try_from(left).unwrap_or(after_secs);
        debug!(call = %content.call.short(), after_secs, words, "device choice");
        Some(Turn { after_secs, words, shown_on })
    }

    /// Which device shows something that this one can't, by its MIME type; `None`: this one does. What it is decided from is kept.
    pub(crate) fn shown_elsewhere(&mut self, id: EventId, kind: EventKind, from: &UserId, format: &str) -> Option<ShownOn> {
        let callers = vec![CallerRef::Name(self.labels.display(from))];
        let inputs = self.choice_inputs(ChoiceEvent { kind, callers, format: Some(format.to_owned()) });
        let decision = decide(&inputs, self.choice.policy.as_ref());
        let (_, choice) = decision.turn_of(&self.identity.device())?;
        let shown_on = shown_on(choice, &inputs);
        debug!(%kind, format, ?shown_on, words = choice.words, "device choice");
        // The few that are kept are for decisions between devices that differ.
        if inputs.candidates.iter().any(|known| known.report.as_ref().is_some_and(|report| report.attributes.formats.is_some())) {
            self.record_decision(id, inputs);
        }
        shown_on
    }

    /// Who is told of a mail, and when. Senders count by their address; what it is decided from is kept where there is a policy.
    pub(crate) fn decide_for_mail(&mut self, notice: &MailNotice) -> Decision {
        let inputs = self.mail_inputs(notice);
        let decision = decide(&inputs, self.choice.policy.as_ref());
        if self.choice.policy.is_some() {
            self.wake_sleepers(&inputs, &decision);
            self.record_decision(notice.id, inputs);
        }
        decision
    }

    /// When it is this device's turn to tell of a mail, and where it is shown if not here.
    pub(crate) fn turn_for_mail(&self, notice: &MailNotice) -> (u16, Option<ShownOn>) {
        let inputs = self.mail_inputs(notice);
        let decision = decide(&inputs, self.choice.policy.as_ref());
        decision
            .turn_of(&self.identity.device())
            .map_or((0, None), |(after_secs, choice)| (after_secs, shown_on(choice, &inputs)))
    }

    fn mail_inputs(&self, notice: &MailNotice) -> Inputs {
        let callers = vec![CallerRef::Name(notice.from_address.to_lowercase())];
        self.choice_inputs(ChoiceEvent { kind: EventKind::MAIL, callers, format: Some("text/plain".to_owned()) })
    }

    /// Everything that is known now.
    fn choice_inputs(&self, event: ChoiceEvent) -> Inputs {
        let me = self.identity.device();
        let candidate = |device: DeviceKey| {
            let peer = address::peer_id(&device);
            let is_connected = device == me || peer.is_some_and(|peer| self.is_own_peer(&peer));
            let (name, kind) = self.devices.name_of(&device);
            let (name, kind) = if device == me {
                let own = self.settings.device_name.clone();
                ((!own.is_empty()).then_some(own), Some(self.settings.device_kind))
            } else {
                (name, kind)
            };
            let reach = if is_connected { Reach::Connected } else { Reach::Unknown };
            Candidate { device, name, kind, report: self.choice.reports.get(&device).cloned(), reach }
        };
        let candidates =
            self.own_devices_known().into_iter().take(halloo_protocol::directory::DEVICES_MAX).map(candidate).collect();
        Inputs { event, at: self.now().unix, presence: Some(self.chosen_presence()), candidates }
    }

    fn chosen_presence(&self) -> Presence {
        match self.presence_state_chosen() {
            State::Offline => Presence::Offline,
            State::Online => Presence::Online,
            State::Away => Presence::Away,
            State::Dnd => Presence::Dnd,
        }
    }

    fn record_decision(&mut self, id: EventId, inputs: Inputs) {
        self.choice.recorded.retain(|(known, _)| *known != id);
        self.choice.recorded.push_back((id, inputs));
        while self.choice.recorded.len() > DECISIONS_MAX {
            self.choice.recorded.pop_front();
        }
        // Written at the next tick: nobody waits for a ring because of it.
        self.choice.is_unwritten = true;
    }

    fn write_decisions(&mut self) {
        if !std::mem::take(&mut self.choice.is_unwritten) {
            return;
        }
        let recorded: Vec<&(EventId, Inputs)> = self.choice.recorded.iter().collect();
        if let Err(error) = self.store.transaction::<_, StoreError>(|tx| tx.put_setting_value(DECISIONS, &recorded)) {
            warn!(%error, "what a decision was made from was not kept");
        }
    }

    /// Wakes machines that sleep and whose turn is at once.
    fn wake_sleepers(&mut self, inputs: &Inputs, decision: &Decision) {
        let (me, now) = (self.identity.device(), Instant::now());
        self.choice.woken.retain(|(_, at)| now.saturating_duration_since(*at) < WAKE_AGAIN_AFTER);
        let first = decision.stages.first().into_iter().flat_map(|stage| stage.choices.iter());
        for device in first.map(|choice| choice.device).filter(|device| *device != me) {
            let report =
                inputs.candidates.iter().find(|candidate| candidate.device == device).and_then(|known| known.report.as_ref());
            let is_asleep = report.is_some_and(|report| report.usage == Some(Usage::Asleep));
            // Who calls again and again mustn't keep it from sleeping.
            let was_woken = self.choice.woken.iter().any(|(known, _)| *known == device);
            if let Some(mac) = report.filter(|_| is_asleep && !was_woken).and_then(|report| report.attributes.wake_mac) {
                self.choice.woken.push((device, now));
                wake_lan::send(&mac);
            }
        }
    }
}
