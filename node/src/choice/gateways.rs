//! Telling our gateways by what to decide for suspended devices.

use std::time::{Duration, Instant};

use halloo_protocol::choice::{Attributes, ChoiceStatus, DeviceReport, OwnReport, PushChoice, PushChosen};
use halloo_protocol::directory::{Helper, RecordKey};
use halloo_protocol::key::{DeviceKey, PublicKey, hash};
use halloo_protocol::time::Now;
use halloo_protocol::wire::{self, Extensions, Frame};
use tracing::{debug, warn};

use crate::event_loop::EventLoop;
use crate::network::Purpose;
use crate::rpc::Failure;

/// How long changes are gathered.
const GATHER: Duration = Duration::from_millis(200);

/// When a gateway that didn't answer is told again.
const RETRY: Duration = Duration::from_secs(15);

/// Gateways told at once: two for each of a few devices.
const GATEWAYS_MAX: usize = 8;

const TIMEOUT: Duration = Duration::from_secs(10);

/// What a gateway was told, and whether it has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    digest: [u8; 32],
    is_kept: bool,
    /// Version of the policy that it has.
    version: Option<u64>,
    again_at: Option<Instant>,
}

/// What a gateway decides calls by, and no more.
fn for_gateway(report: &DeviceReport) -> DeviceReport {
    let attributes = Attributes { kind: report.attributes.kind, can_ring: report.attributes.can_ring, ..Attributes::default() };
    DeviceReport { attributes, extensions: Extensions::none(), ..report.clone() }
}

impl EventLoop {
    pub(super) fn tell_gateways_soon(&mut self) {
        self.choice.tell_at.get_or_insert_with(|| Instant::now() + GATHER);
    }

    /// A registration was made or renewed: the gateway may be a new one, or have forgotten.
    pub(crate) fn choice_registered(&mut self, gateway: &DeviceKey) {
        self.choice.told.remove(gateway);
        self.tell_gateways_soon();
    }

    /// Whether a gateway decides by what this device knows.
    pub(super) fn has_told(&self, gateway: &DeviceKey) -> bool {
        self.choice.told.get(gateway).is_some_and(|told| told.is_kept)
    }

    /// The version of the policy that a gateway has.
    pub(crate) fn told_version(&self, gateway: &DeviceKey) -> Option<u64> {
        self.choice.told.get(gateway).and_then(|told| told.version)
    }

    pub(super) fn tell_gateways_tick(&mut self, now: Now) {
        if self.choice.tell_at.is_none_or(|at| at > now.instant) {
            return;
        }
        self.choice.tell_at = None;
        // Who has no policy says nothing; who had one says that there is none.
        if self.choice.version == 0 {
            return;
        }
        let gateways = self.all_gateways();
        self.choice.told.retain(|device, _| gateways.iter().any(|gateway| gateway.device == *device));
        let choice = self.push_choice();
        let digest = hash("halloo push choice", &[&wire::encode(&choice)]);
        for gateway in gateways {
            let is_due = self
                .choice
                .told
                .get(&gateway.device)
                .is_none_or(|told| told.digest != digest || told.again_at.is_some_and(|at| at <= now.instant));
            let Some(target) = self.helper_target(&gateway).filter(|_| is_due) else { continue };
            let (is_kept, version) = (self.has_told(&gateway.device), self.told_version(&gateway.device));
            let told = Told { digest, is_kept, version, again_at: Some(now.instant + RETRY) };
            self.choice.told.insert(gateway.device, told);
            self.request(&target, &choice, Purpose::PushChoice(gateway.device), TIMEOUT);
        }
        self.tell_unkept_again();
    }

    fn tell_unkept_again(&mut self) {
        let next = self.choice.told.values().filter_map(|told| told.again_at).min();
        self.choice.tell_at = match (self.choice.tell_at, next) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
    }

    /// Our gateways, and those of the user's other devices: these sleep when what they would have to tell changes.
    fn all_gateways(&self) -> Vec<Helper> {
        let mut gateways: Vec<Helper> = self.push_addresses().into_iter().map(|address| address.gateway).collect();
        let record = self.directory.machine.own_record(&RecordKey::of(&self.identity.user_id()));
        for keeper in record.into_iter().flat_map(|record| record.entries()).flat_map(|parts| parts.entry().keepers.iter()) {
            if gateways.len() < GATEWAYS_MAX && !gateways.iter().any(|known| known.device == keeper.device) {
                gateways.push(keeper.clone());
            }
        }
        gateways
    }

    /// The policy and reports without names.
    fn push_choice(&self) -> PushChoice {
        let Some(policy) = &self.choice.policy else {
            return PushChoice {
                version: self.choice.version,
                policy: None,
                reports: Vec::new(),
                devices: Vec::new(),
                presence: None,
                extensions: Extensions::none(),
            };
        };
        let known = self.own_devices_known();
        let own_name = (self.settings.device_name.as_str(), self.identity.device());
        let device = |name: &str| {
            if name == own_name.0 {
                return Some(own_name.1);
            }
            known.iter().find(|device| self.devices.name_of(device).0.as_deref() == Some(name)).copied()
        };
        let reports = self.choice.reports.iter().filter(|(device, _)| known.contains(device));
        PushChoice {
            version: self.choice.version,
            policy: Some(policy.for_gateway(|name| self.holders_of(name), device)),
            reports: reports.map(|(device, report)| OwnReport { device: *device, report: for_gateway(report) }).collect(),
            devices: known.iter().copied().take(halloo_protocol::choice::REPORTS_MAX).collect(),
            presence: Some(self.chosen_presence()),
            extensions: Extensions::none(),
        }
    }

    /// The keys by which gateways see somebody: the one we know them by as a contact, and that of their certificate.
    fn holders_of(&self, name: &str) -> Vec<PublicKey> {
        let Ok(user) = self.labels.parse(name) else { return Vec::new() };
        let Some(entry) = self.contacts.roster().entry(&user) else { return Vec::new() };
        entry.their_pairwise().into_iter().chain(entry.identity().map(|identity| identity.0)).collect()
    }

    pub(crate) fn push_choice_answer(&mut self, gateway: DeviceKey, frame: &Frame) {
        let Some(told) = self.choice.told.get_mut(&gateway) else { return };
        match frame.parse::<PushChosen>().map(|answer| answer.status) {
            Ok(ChoiceStatus::Kept { version }) => {
                debug!(%gateway, version, "the gateway decides by our policy");
                told.is_kept = true;
                told.version = Some(version);
                told.again_at = None;
            }
            Ok(ChoiceStatus::Refused(reason)) => {
                warn!(%gateway, %reason, "the gateway doesn't take our policy: it wakes this device at once");
                (told.is_kept, told.version) = (false, None);
            }
            // Another version: it doesn't know of policies, and won't before it is another program.
            Err(_) => told.again_at = None,
        }
        self.tell_unkept_again();
    }

    pub(crate) fn push_choice_failure(&mut self, gateway: DeviceKey, failure: Failure) {
        debug!(%gateway, %failure, "the gateway wasn't told of our policy");
        if failure == Failure::Unsupported
            && let Some(told) = self.choice.told.get_mut(&gateway)
        {
            told.again_at = None;
        }
        self.tell_unkept_again();
    }
}
