//! What runs, whom we know, what is wrong: `status`, `peers`, `doctor` and `why`.

mod outlook;

use halloo_protocol::clock::CLOCK_WARN_SECS;
use halloo_protocol::node::Roles;

use crate::event_loop::EventLoop;
use crate::handle::directory::{DeviceReachability, ResolveError};
use crate::handle::network::{
    Check, CheckResult, Diagnosis, DirectoryStatus, Explanation, KnownAuthority, NodeReachability, PeerEntry, PeerList, Status,
};
use crate::handle::totals::Totals;
use crate::timestamp::Timestamp;

/// Peers listed at most.
const PEERS_LISTED_MAX: usize = 1_000;

/// The names of roles, in the order they are listed.
const ROLE_NAMES: [(Roles, &str); 6] = [
    (Roles::DIRECTORY, "directory"),
    (Roles::RELAY, "relay"),
    (Roles::GATEWAY, "gateway"),
    (Roles::MAILBOX, "mailbox"),
    (Roles::CARRIER, "carrier"),
    (Roles::AUTHORITY, "authority"),
];

/// Roles as words.
pub(crate) fn role_names(roles: Roles) -> Vec<String> {
    ROLE_NAMES.iter().filter(|(role, _)| roles.contains(*role)).map(|(_, name)| (*name).to_owned()).collect()
}

fn check(name: &str, result: CheckResult, detail: impl Into<String>, advice: Option<&str>) -> Check {
    Check { name: name.to_owned(), result, detail: detail.into(), advice: advice.map(str::to_owned) }
}

impl EventLoop {
    pub(crate) fn status(&self) -> Status {
        let authorities = self
            .labels
            .iter()
            .map(|(name, key)| KnownAuthority {
                name: name.to_owned(),
                key: key.to_string(),
                revocation_number: self.trust.revocation_number(key),
            })
            .collect();
        Status {
            peer_id: self.swarm.local_peer_id().to_string(),
            username: self.own_username(),
            identity: Some(self.identity.identity().to_string()),
            device_name: (!self.settings.device_name.is_empty()).then(|| self.settings.device_name.clone()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: Timestamp::from_unix_secs(self.started_at.0),
            uptime_ms: millis(self.started.elapsed()),
            ready: self.ready,
            suspended: self.suspended_since.is_some(),
            roles: role_names(self.roles()),
            listen: self.reach.listen().map(ToString::to_string).collect(),
            external: self.reach.external().map(ToString::to_string).collect(),
            relays: self.reach.relays().map(ToString::to_string).collect(),
            media_relays: self.relays_at_hand.peers().map(ToString::to_string).collect(),
            mailboxes: self.published_mailboxes(),
            letters_kept: self.letters_kept(),
            vault: self.vault_status(),
            vaults_kept: self.vaults_kept(),
            reachability: self.own_reachability(),
            connections: u32::try_from(self.peers.len()).unwrap_or(u32::MAX),
            directory: self.directory_status(),
            clock_offset_ms: self.clock.offset_secs().saturating_mul(1_000).saturating_neg(),
            authorities,
            outbox: self.outbox_len(),
            revoked_at: self.revoked_at().map(|at| Timestamp::from_unix_secs(at.0)),
            lab: self.settings.lab,
        }
    }

    pub(crate) fn totals(&self) -> Totals {
        let frames = self.swarm.behaviour().streams.counters();
        let directory = self.directory.machine.counters();
        Totals {
            written: self.traffic.written(),
            read: self.traffic.read(),
            connections: self.swarm.network_info().connection_counters().num_established(),
            frames_out: frames.frames_out,
            frame_bytes_out: frames.bytes_out,
            requests: directory.sent.clone(),
            failed: directory.failures.values().sum(),
            first_contacts: directory.first_contacts,
            silent_contacts: directory.silent_contacts,
            table: u32::try_from(self.directory.machine.table_counts().0).unwrap_or(u32::MAX),
            records: self.directory.machine.store_counts().0 as u64,
        }
    }

    /// `name@authority`, once enrolled.
    pub(crate) fn own_username(&self) -> Option<String> {
        self.identity.authority()?;
        Some(self.labels.display(&self.identity.user_id()))
    }

    fn own_reachability(&self) -> NodeReachability {
        if self.is_reachable() {
            NodeReachability::Public
        } else if self.reach.relays().next().is_some() {
            NodeReachability::Relayed
        } else if self.peers.len() > 0 {
            NodeReachability::Private
        } else {
            NodeReachability::Unknown
        }
    }

    fn directory_status(&self) -> DirectoryStatus {
        DirectoryStatus {
            server: self.is_serving(),
            table: u32::try_from(self.directory.machine.table_counts().0).unwrap_or(u32::MAX),
            records: self.directory.machine.store_counts().0 as u64,
            replicas: self.directory.own_replicas(),
        }
    }

    pub(crate) fn peer_list(&self) -> PeerList {
        let peers = self
            .peers
            .iter()
            .take(PEERS_LISTED_MAX)
            .map(|(peer_id, peer)| PeerEntry {
                peer_id: peer_id.to_string(),
                username: peer.chain.as_ref().map(|chain| self.labels.display(&chain.user.id)),
                addresses: peer.address.iter().map(ToString::to_string).collect(),
                connected: true,
                relayed: peer.relayed,
                rtt_ms: peer.rtt.map(millis),
                roles: peer.descriptor.as_ref().map(|descriptor| role_names(descriptor.roles)).unwrap_or_default(),
                agent: peer.agent.clone(),
            })
            .collect();
        PeerList { peers }
    }

    pub(crate) fn diagnose(&self) -> Diagnosis {
        let mut checks = vec![
            self.check_clock(),
            self.check_enrolment(),
            self.check_listen(),
            self.check_peers(),
            self.check_reach(),
            self.check_media_relays(),
            self.check_record(),
        ];
        if let Some(at) = self.revoked_at() {
            let detail = format!("removed by its user on {}: nobody believes it any more", Timestamp::from_unix_secs(at.0));
            let advice = "its data is still here; to be one of your devices again it needs a new home: `halloo device link`";
            checks.insert(0, check("device", CheckResult::Failed, detail, Some(advice)));
        }
        Diagnosis { ok: checks.iter().all(|check| check.result != CheckResult::Failed), checks }
    }

    fn check_clock(&self) -> Check {
        let offset = self.clock.offset_secs();
        let samples = self.clock.sample_count();
        if offset.unsigned_abs() >= CLOCK_WARN_SECS.unsigned_abs() {
            let direction = if offset > 0 { "behind" } else { "ahead" };
            let detail = format!("{} s {direction} of {samples} peers; corrected here", offset.unsigned_abs());
            return check("clock", CheckResult::Warning, detail, Some("set this machine's clock, best by NTP"));
        }
        check("clock", CheckResult::Ok, format!("within {} s of {samples} peers", offset.unsigned_abs().max(3)), None)
    }

    fn check_enrolment(&self) -> Check {
        match self.own_username() {
            Some(name) => check("enrolment", CheckResult::Ok, format!("{name}, until {}", self.identity.not_after()), None),
            None => {
                let advice = "run `halloo enrol NAME@AUTHORITY --invite CODE`";
                check("enrolment", CheckResult::Warning, "no username: known by key only", Some(advice))
            }
        }
    }

    fn check_listen(&self) -> Check {
        let listen: Vec<String> = self.reach.listen().map(ToString::to_string).collect();
        if listen.is_empty() {
            return check("listen", CheckResult::Failed, "no socket is open", Some("see the log for what the system refused"));
        }
        check("listen", CheckResult::Ok, listen.join(", "), None)
    }

    fn check_peers(&self) -> Check {
        match self.peers.len() {
            0 if self.is_first_node() => check("peers", CheckResult::Ok, "none yet: this is the first node", None),
            0 => {
                let advice = "check the network, or give an address with --bootstrap";
                check("peers", CheckResult::Failed, "not connected to anybody", Some(advice))
            }
            count => {
                let servers = self.directory.machine.table_counts().0;
                check("peers", CheckResult::Ok, format!("{count} connected, {servers} directory servers known"), None)
            }
        }
    }

    fn check_reach(&self) -> Check {
        let (result, detail, advice) = match self.own_reachability() {
            NodeReachability::Public => (CheckResult::Ok, "others connect directly".to_owned(), None),
            NodeReachability::Relayed => (CheckResult::Ok, format!("through {} relays", self.reach.relays().count()), None),
            NodeReachability::Private => (
                CheckResult::Warning,
                "no relay holds a reservation yet".to_owned(),
                Some("wait a moment; a relay must be known"),
            ),
            NodeReachability::Unknown => (CheckResult::Skipped, "nobody to ask".to_owned(), None),
        };
        check("reachability", result, detail, advice)
    }

    fn check_media_relays(&self) -> Check {
        let count = self.relays_at_hand.peers().count();
        match self.relays_at_hand.why_none() {
            None => check("media relays", CheckResult::Ok, format!("{count} at hand"), None),
            // Direct paths may do: a warning would alarm who needs none.
            Some(why) => {
                let advice = "calls between two who can't reach each other need one; wait a minute, or see who relays in `peers`";
                check("media relays", CheckResult::Skipped, why, Some(advice))
            }
        }
    }

    fn check_record(&self) -> Check {
        match (self.ready, self.directory.own_replicas()) {
            (true, replicas) => check("record", CheckResult::Ok, format!("read back through others, {replicas} replicas"), None),
            (false, 0) => check("record", CheckResult::Failed, "not published", Some("others can't find this device yet")),
            (false, replicas) => check("record", CheckResult::Warning, format!("{replicas} replicas, not read back yet"), None),
        }
    }

    /// Walks the stages to a user and names the first that fails.
    pub(crate) fn explain(
        &self,
        user: &str,
        id: &halloo_protocol::identity::UserId,
        found: Result<&halloo_protocol::directory::DirectoryRecord, &ResolveError>,
    ) -> Explanation {
        let mut checks = vec![self.check_listen(), self.check_peers()];
        let record = match found {
            Ok(record) => record,
            Err(error) => {
                checks.push(check(
                    "look-up",
                    CheckResult::Failed,
                    error.to_string(),
                    Some("check the name; ask them to start Halloo once"),
                ));
                return Explanation {
                    username: user.to_owned(),
                    reachable: false,
                    summary: error.to_string(),
                    checks,
                    next_call: vec![format!("it fails at once: {error}")],
                    calls: self.calls_with(id),
                };
            }
        };
        let now = self.now().unix;
        checks.push(check("look-up", CheckResult::Ok, format!("{} devices", record.entries().count()), None));
        if !self.is_acquainted(&record.user_id()) {
            let advice = Some("ask them with `halloo contact add`");
            let detail = "not a contact: messages and calls may be refused".to_owned();
            checks.push(check("contact", CheckResult::Warning, detail, advice));
        }
        let mut reachable = false;
        for parts in record.entries() {
            let (peer, view) = self.device_view(record, parts, now);
            let connected = self.peers.get(&peer).is_some();
            let via = if connected { "connected".to_owned() } else { reachability_word(view.reachability).to_owned() };
            let usable = connected || view.reachability != DeviceReachability::None;
            reachable |= usable;
            let result = if usable { CheckResult::Ok } else { CheckResult::Warning };
            let advice = (!usable).then_some("the device's lease has run out and no gateway can wake it");
            checks.push(check("device", result, format!("{}: {via}", view.name.as_deref().unwrap_or(&view.peer_id)), advice));
            let gateways = self.private_part(record, parts).map_or(0, |part| part.push.len());
            if gateways > 0 {
                checks.push(check("gateway", CheckResult::Ok, format!("{gateways} can wake it"), None));
            }
        }
        let summary =
            if reachable { "at least one device can be reached".to_owned() } else { "no device can be reached now".to_owned() };
        let (next_call, calls) = (self.next_call(record), self.calls_with(id));
        Explanation { username: user.to_owned(), reachable, summary, checks, next_call, calls }
    }
}

/// A device's reachability in words.
const fn reachability_word(reachability: DeviceReachability) -> &'static str {
    match reachability {
        DeviceReachability::Direct => "takes connections",
        DeviceReachability::Relayed => "through its relays",
        DeviceReachability::Push => "can be woken",
        DeviceReachability::None => "can't be reached",
    }
}

/// Whole milliseconds of a duration.
pub(crate) fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
