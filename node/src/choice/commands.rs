//! What the person, or whatever watches for input, says and asks.

use halloo_protocol::choice::{
    Attributes, CallerRef, Choice, Decision, Delivery, DeviceReport, Event as ChoiceEvent, Inputs, Policy, Proximity, Usage,
    decide,
};
use halloo_protocol::event::EventKind;
use halloo_protocol::key::DeviceKey;
use tracing::debug;

use super::EventId;
use super::sensor::Reading;
use crate::address;
use crate::event_loop::EventLoop;
use crate::handle::choice::{
    AttributesReport, ChoiceCommand, ChosenDevice, ChosenStage, DeviceReportView, DeviceUsage, ExplainOptions, PassedOverRule,
    PolicyExplanation, PushPolicy, UsageReport,
};
use crate::handle::devices::{DeviceError, DeviceView};
use crate::handle::problem::NodeError;
use crate::handle::push::PushError;
use crate::timestamp::Timestamp;

impl EventLoop {
    pub(crate) fn handle_choice(&mut self, command: ChoiceCommand) {
        match command {
            ChoiceCommand::ReportUsage { report, reply } => {
                let outcome = self.report_usage(report);
                reply.send(outcome);
            }
            ChoiceCommand::SetAttributes { attributes, reply } => {
                let outcome = self.set_attributes(attributes);
                reply.send(outcome);
            }
            ChoiceCommand::Policy(reply) => reply.send(Ok(self.policy_view())),
            ChoiceCommand::SetPolicy { text, reply } => {
                let outcome = self.change_policy(text);
                reply.send(outcome);
            }
            ChoiceCommand::Explain { options, reply } => reply.send(self.explain_choice(&options)),
        }
    }

    fn report_usage(&mut self, report: UsageReport) -> Result<DeviceView, DeviceError> {
        let usage = match report.usage {
            DeviceUsage::InUse => Usage::InUse,
            DeviceUsage::Idle => Usage::Idle,
            DeviceUsage::Locked => Usage::Locked,
            DeviceUsage::Asleep => Usage::Asleep,
        };
        let proximity = match (report.near, report.metres) {
            (None, None) => None,
            (is_near, metres) => Some(Proximity { is_near: is_near.unwrap_or(true), metres }),
        };
        self.say_checked(DeviceReport { usage: Some(usage), proximity, ..self.choice.own.clone() })
    }

    /// A sensor says something else than before.
    pub(crate) fn handle_sensor(&mut self, reading: Reading) {
        let known = self.choice.own.clone();
        let (usage, proximity) = (reading.usage.or(known.usage), reading.proximity.or(known.proximity));
        if (usage, proximity) != (known.usage, known.proximity) {
            debug!(?usage, ?proximity, "a sensor reports");
            self.say_report(DeviceReport { usage, proximity, ..known }, true);
        }
    }

    fn set_attributes(&mut self, said: AttributesReport) -> Result<DeviceView, DeviceError> {
        let invalid = |reason: &str| DeviceError::InvalidReport { reason: reason.to_owned() };
        let known = self.choice.own.attributes.clone();
        let screen = said.screen.as_deref().map(str::parse).transpose().map_err(invalid)?;
        let wake_mac = match said.wake_mac.as_deref() {
            None => known.wake_mac,
            Some("") => None,
            Some(text) => Some(text.parse().map_err(invalid)?),
        };
        let attributes = Attributes {
            kind: Some(self.settings.device_kind),
            screen: screen.or(known.screen),
            has_camera: said.camera.or(known.has_camera),
            formats: said.formats.or(known.formats),
            can_ring: said.can_ring.or(known.can_ring),
            wake_mac,
        };
        self.say_checked(DeviceReport { attributes, ..self.choice.own.clone() })
    }

    fn say_checked(&mut self, report: DeviceReport) -> Result<DeviceView, DeviceError> {
        report.check().map_err(|error| DeviceError::InvalidReport { reason: error.to_string() })?;
        self.say_report(report, true);
        Ok(self.own_view())
    }

    /// What is known of a device, for lists.
    pub(crate) fn report_view(&self, device: &DeviceKey) -> Option<DeviceReportView> {
        let report = self.choice.reports.get(device)?;
        let usage = report.usage.and_then(|usage| match usage {
            Usage::InUse => Some(DeviceUsage::InUse),
            Usage::Idle => Some(DeviceUsage::Idle),
            Usage::Locked => Some(DeviceUsage::Locked),
            Usage::Asleep => Some(DeviceUsage::Asleep),
            Usage::Off => None,
        });
        Some(DeviceReportView {
            reported_at: Timestamp::from_unix_secs(report.at.0),
            usage,
            near: report.proximity.map(|proximity| proximity.is_near),
            metres: report.proximity.and_then(|proximity| proximity.metres),
            screen: report.attributes.screen.map(|screen| screen.to_string()),
            camera: report.attributes.has_camera,
            formats: report.attributes.formats.clone(),
            can_ring: report.attributes.can_ring,
            wake_mac: report.attributes.wake_mac.map(|mac| mac.to_string()),
        })
    }

    fn policy_view(&self) -> PushPolicy {
        PushPolicy { version: self.choice.version, text: self.choice.text.clone() }
    }

    fn change_policy(&mut self, text: String) -> Result<PushPolicy, PushError> {
        if !text.is_empty() {
            Policy::parse(&text).map_err(|error| PushError::InvalidPolicy { reason: error.to_string() })?;
        }
        let version = self.choice.version.saturating_add(1).max(self.now().unix.0);
        let internal = |error: crate::store::StoreError| PushError::Node(NodeError::Internal { detail: error.to_string() });
        self.set_policy(version, text).map_err(internal)?;
        Ok(self.policy_view())
    }

    fn explain_choice(&self, options: &ExplainOptions) -> Result<PolicyExplanation, PushError> {
        let inputs = match &options.event_id {
            Some(id) => self.recorded_inputs(id)?,
            None => self.imagined_inputs(options)?,
        };
        let given = options.policy.as_deref().map(Policy::parse).transpose();
        let given = given.map_err(|error| PushError::InvalidPolicy { reason: error.to_string() })?;
        let is_given = given.is_some();
        let policy = given.or_else(|| self.choice.policy.clone());
        let decision = decide(&inputs, policy.as_ref());
        let version = (!is_given).then_some(self.choice.version);
        Ok(explanation(&inputs, policy.as_ref(), &decision, version))
    }

    fn recorded_inputs(&self, id: &str) -> Result<Inputs, PushError> {
        let unknown = || PushError::UnknownEvent { event_id: id.chars().take(64).collect() };
        let is_meant = |known: &EventId| id.len() >= 4 && data_encoding::HEXLOWER.encode(known).starts_with(id);
        let mut found = self.choice.recorded.iter().rev().filter(|(known, _)| is_meant(known));
        let (_, inputs) = found.next().ok_or_else(unknown)?;
        if found.next().is_some() { Err(unknown()) } else { Ok(inputs.clone()) }
    }

    fn imagined_inputs(&self, options: &ExplainOptions) -> Result<Inputs, PushError> {
        let invalid = |field, reason: String| PushError::InvalidChannel { field, reason };
        let kind = match options.event.as_deref().unwrap_or("call") {
            "call" | "voice-call" => EventKind::VOICE_CALL,
            "video" | "video-call" => EventKind::VIDEO_CALL,
            "message" => EventKind::MESSAGE,
            "file" => EventKind::FILE,
            "voicemail" => EventKind::VOICEMAIL,
            "mail" => EventKind::MAIL,
            other => {
                let other: String = other.chars().take(64).collect();
                return Err(invalid("event", format!("{other:?} isn't call, video, message, file, voicemail or mail")));
            }
        };
        let caller = match options.from.as_deref() {
            None => None,
            Some(name) => {
                let user = self.labels.parse(name).map_err(|error| invalid("from", error.to_string()))?;
                Some(CallerRef::Name(self.labels.display(&user)))
            }
        };
        Ok(self.choice_inputs(ChoiceEvent { kind, callers: caller.into_iter().collect(), format: options.format.clone() }))
    }
}

fn explanation(inputs: &Inputs, policy: Option<&Policy>, decision: &Decision, version: Option<u64>) -> PolicyExplanation {
    let number = |rule: usize| u32::try_from(rule).unwrap_or(u32::MAX).saturating_add(1);
    let peer = |device: &DeviceKey| address::peer_id(device).map(|peer| peer.to_string()).unwrap_or_default();
    let device = |choice: &Choice| ChosenDevice {
        peer_id: peer(&choice.device),
        name: inputs.candidates.iter().find(|known| known.device == choice.device).and_then(|known| known.name.clone()),
        because: word(&choice.because),
        detail: choice.words.clone(),
        shown_on: match &choice.delivery {
            Delivery::Content => None,
            Delivery::Prompt { shown_on } => Some(peer(shown_on)),
        },
    };
    let from = inputs.event.callers.iter().find_map(|caller| match caller {
        CallerRef::Name(name) => Some(name.clone()),
        CallerRef::Holder(_) => None,
    });
    let rule = decision.rule.and_then(|rule| policy?.rules.get(rule));
    PolicyExplanation {
        event: inputs.event.kind.to_string(),
        from,
        at: Timestamp::from_unix_secs(inputs.at.0),
        version,
        rule: decision.rule.map(number),
        rule_name: rule.map(|rule| rule.name.clone()).filter(|name| !name.is_empty()),
        passed_over: decision
            .passed_over
            .iter()
            .map(|passed| PassedOverRule { rule: number(passed.rule), why: word(&passed.why), detail: passed.why.to_string() })
            .collect(),
        stages: decision
            .stages
            .iter()
            .map(|stage| ChosenStage { after_secs: stage.after_secs, devices: stage.choices.iter().map(device).collect() })
            .collect(),
    }
}

/// The kebab-case word of a reason.
fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}
