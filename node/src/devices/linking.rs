//! The side of a linking that has the identity key.
//!
//! [`LinkHolder`] decides; here it gets the frames, and what a new device is given is put together. Nothing of a linking is on disk: a code dies with
//! the node.

use std::time::{Duration, Instant};

use halloo_protocol::contact::Secret32;
use halloo_protocol::directory::Helper;
use halloo_protocol::identity::UserId;
use halloo_protocol::key::{DeviceKey, IdentityKey, PublicKey};
use halloo_protocol::linked::IdentityMerge;
use halloo_protocol::linking::{
    ConfirmStatus, DeviceLink, GRANT_AUTHORITIES_MAX, GRANT_BOOTSTRAP_MAX, HolderEvent, LINK_ADDRESSES_MAX, LINK_MERGE,
    LINK_RELAYS_MAX, LINK_SECS, LinkCode, LinkConfirm, LinkConfirmed, LinkDone, LinkFinished, LinkGrant, LinkHolder, LinkReason,
    LinkRequest, LinkStart, LinkStarted, StartStatus,
};
use halloo_protocol::wire::{self, Extensions};
use libp2p::{Multiaddr, PeerId};
use tracing::{debug, info, warn};

use crate::address;
use crate::directory::kind_word;
use crate::event_loop::EventLoop;
use crate::handle::devices::{DeviceError, LinkOffer, LinkOptions, LinkStage, LinkedDevice};
use crate::handle::problem::NodeError;
use crate::handle::{Event, Reply};
use crate::timestamp::Timestamp;

/// How long a code is open that nobody waits for: whoever asked for it has gone.
const UNWATCHED_MAX: Duration = Duration::from_secs(10);

/// A code and what has come of it.
#[derive(Debug)]
pub(crate) struct Linking {
    id: String,
    holder: LinkHolder,
    options: LinkOptions,
    /// What the device says of itself that was certified.
    request: Option<LinkRequest>,
    waiting: Option<Reply<LinkedDevice, DeviceError>>,
    unwatched_until: Instant,
    outcome: Option<Result<LinkedDevice, DeviceError>>,
}

// What the person does.
impl EventLoop {
    pub(super) fn offer_link(&mut self, options: LinkOptions) -> Result<LinkOffer, DeviceError> {
        if self.is_revoked() {
            return Err(NodeError::Revoked.into());
        }
        if self.identity.identity_key().is_none() {
            return Err(DeviceError::NoIdentityKey { hint: self.identity_key_hint() });
        }
        if self.devices.linking.as_ref().is_some_and(|linking| !linking.holder.is_over()) {
            return Err(DeviceError::LinkOpen);
        }
        let code = LinkCode::from_bytes(self.random());
        let id = data_encoding::HEXLOWER.encode(&self.random::<8>());
        let link = self.device_link(&code);
        let internal = |detail: String| DeviceError::Node(NodeError::Internal { detail });
        let text = link.to_text().map_err(|error| internal(error.to_string()))?;
        let now = self.now();
        let offer = LinkOffer {
            id: id.clone(),
            code: code.to_text(),
            link: text,
            addresses: self.addresses_for_typing(&link),
            expires_at: Timestamp::from_unix_secs(now.unix.plus_secs(LINK_SECS).0),
        };
        self.devices.linking = Some(Linking {
            id,
            holder: LinkHolder::new(code, self.identity.device(), now.instant),
            options,
            request: None,
            waiting: None,
            unwatched_until: now.instant + UNWATCHED_MAX,
            outcome: None,
        });
        info!("a link code is open");
        Ok(offer)
    }

    pub(super) fn wait_link(&mut self, id: &str, reply: Reply<LinkedDevice, DeviceError>) {
        match &mut self.devices.linking {
            Some(linking) if linking.id == id => match &linking.outcome {
                Some(outcome) => reply.send(outcome.clone()),
                None => linking.waiting = Some(reply),
            },
            _ => reply.send(Err(DeviceError::UnknownLink)),
        }
    }

    fn device_link(&self, code: &LinkCode) -> DeviceLink {
        let (root, label) = match self.identity.user_id() {
            UserId::Named { authority, .. } => (Some(authority), self.labels.label_of(&authority)),
            UserId::Key(_) => (None, String::new()),
        };
        let mut relays = self.relay_helpers();
        relays.truncate(LINK_RELAYS_MAX);
        let addresses = self.addresses_for_link();
        DeviceLink {
            holder: self.identity.device(),
            addresses: addresses.iter().filter_map(address::to_wire).collect(),
            relays,
            root,
            label,
            code: code.clone(),
            extensions: Extensions::none(),
        }
    }

    /// Where this node can be reached, from the same room and from far away. Loopback addresses lead to it from this machine only: in a lab, or when
    /// there is nothing else.
    fn addresses_for_link(&self) -> Vec<Multiaddr> {
        let is_loopback = |address: &&Multiaddr| address::ip_of(address).is_some_and(|ip| ip.is_loopback());
        let is_public = |address: &&Multiaddr| address::ip_of(address).is_some_and(address::is_public);
        let mut found: Vec<Multiaddr> = self.reach.external().filter(is_public).take(LINK_ADDRESSES_MAX / 2).cloned().collect();
        found.extend(self.reach.listen().filter(|address| !is_loopback(address)).cloned());
        if self.settings.lab || found.is_empty() {
            found.extend(self.reach.listen().filter(is_loopback).cloned());
        }
        let mut addresses: Vec<Multiaddr> = Vec::new();
        for address in found {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses.truncate(LINK_ADDRESSES_MAX);
        addresses
    }

    fn addresses_for_typing(&self, link: &DeviceLink) -> Vec<String> {
        let peer = *self.swarm.local_peer_id();
        let whole =
            |address: Multiaddr| address.with_p2p(peer).map_or_else(|address| address.to_string(), |address| address.to_string());
        link.addresses.iter().filter_map(address::from_wire).map(whole).collect()
    }
}

// What devices ask.
impl EventLoop {
    pub(crate) fn handle_link_start(&mut self, peer: PeerId, message: &LinkStart) -> LinkStarted {
        let seed = self.random();
        let now = Instant::now();
        // Its key, which the connection has proved: its hello may come later.
        let answer = match (address::device_key(&peer), &mut self.devices.linking) {
            (Some(device), Some(linking)) => linking.holder.handle_start(device, message, seed, now),
            _ => LinkStarted { status: StartStatus::Refused(LinkReason::CLOSED), extensions: Extensions::none() },
        };
        if let StartStatus::Refused(reason) = &answer.status {
            debug!(%peer, ?reason, is_open = self.devices.linking.is_some(), "a device that wants to be linked is refused");
        }
        self.tell_linking();
        answer
    }

    pub(crate) fn handle_link_confirm(&mut self, peer: PeerId, message: &LinkConfirm) -> LinkConfirmed {
        let device = address::device_key(&peer);
        // Taken out meanwhile: making a grant needs the whole node.
        let (Some(device), Some(mut linking)) = (device, self.devices.linking.take()) else {
            return LinkConfirmed { status: ConfirmStatus::Refused(LinkReason::CLOSED), extensions: Extensions::none() };
        };
        let options = linking.options;
        let grant = |request: &LinkRequest| self.grant_for(device, options, request);
        let answer = linking.holder.handle_confirm(device, message, Instant::now(), grant);
        self.devices.linking = Some(linking);
        self.tell_linking();
        answer
    }

    pub(crate) fn handle_link_done(&mut self, peer: PeerId, message: &LinkDone) -> LinkFinished {
        let answer = match (address::device_key(&peer), &mut self.devices.linking) {
            (Some(device), Some(linking)) => linking.holder.handle_done(device, message),
            _ => LinkFinished { is_known: false, extensions: Extensions::none() },
        };
        self.tell_linking();
        answer
    }

    /// The new device was another identity, without a name: it becomes part of this user's, if its key says so too.
    fn accept_merge(&self, request: &LinkRequest) -> Extensions {
        let old = request.extensions.find(LINK_MERGE).and_then(|bytes| bytes.try_into().ok());
        let merge = old.zip(self.identity.identity_key()).map(|(old, key)| {
            let old = IdentityKey(PublicKey(old));
            IdentityMerge::accept(old, self.identity.user_id(), self.now().unix, key)
        });
        merge.map_or_else(Extensions::none, |merge| Extensions::none().with(LINK_MERGE, wire::encode(&merge)))
    }

    /// Everything a new device needs; `None` if the identity key is gone.
    fn grant_for(&self, device: DeviceKey, options: LinkOptions, request: &LinkRequest) -> Option<LinkGrant> {
        let now = self.now().unix;
        let secs = self.settings.linked_certificate_secs;
        let certificate =
            self.identity.certify(device, secs, now).inspect_err(|error| warn!(%error, "device not certified")).ok()?;
        let identity_key = self.identity.identity_key().filter(|_| options.with_identity_key);
        let known: Vec<_> = self.labels.iter().take(GRANT_AUTHORITIES_MAX).collect();
        Some(LinkGrant {
            chain: halloo_protocol::identity::Chain { user: self.identity.chain().user.clone(), device: certificate },
            authorities: known.iter().map(|(label, key)| ((*label).to_owned(), **key)).collect(),
            revocations: known.iter().filter_map(|(_, key)| self.trust.revocation_list(key).cloned()).collect(),
            bootstrap: self.bootstrap_for_link(),
            own: self.contacts.roster().own().clone(),
            privacy: self.contacts.privacy().clone(),
            vault_key: self.vault_key(),
            identity_key: identity_key.map(|key| Secret32::from_bytes(*key.to_bytes())),
            extensions: self.accept_merge(request),
        })
    }

    /// This node, those it was told of, and those it has met.
    fn bootstrap_for_link(&self) -> Vec<Helper> {
        let helper = |device: DeviceKey, addresses: Vec<halloo_protocol::node::Address>| Helper {
            device,
            addresses: addresses.into_iter().take(2).collect(),
        };
        let own: Vec<_> = self.addresses_for_link().iter().filter_map(address::to_wire).collect();
        let mut found = vec![helper(self.identity.device(), own)];
        found.extend(crate::enrolment::known_bootstrap(&self.store));
        let table = self.directory.machine.table();
        found.extend(table.map(|descriptor| helper(descriptor.device, descriptor.addresses.clone())));
        let mut helpers: Vec<Helper> = Vec::new();
        for helper in found {
            if !helper.addresses.is_empty() && !helpers.iter().any(|known| known.device == helper.device) {
                helpers.push(helper);
            }
        }
        helpers.truncate(GRANT_BOOTSTRAP_MAX);
        helpers
    }
}

// What comes of it.
impl EventLoop {
    pub(super) fn linking_tick(&mut self, now: Instant) {
        let Some(linking) = &mut self.devices.linking else { return };
        linking.holder.handle_timeout(now);
        let has_left = match &linking.waiting {
            Some(reply) => reply.is_closed(),
            None => linking.unwatched_until <= now,
        };
        if has_left && !linking.holder.is_over() {
            self.devices.linking = None;
            info!("the link code was taken back");
            self.events.send(Event::DeviceLinking { stage: LinkStage::Cancelled, peer_id: None, name: None });
            return;
        }
        self.tell_linking();
    }

    /// Tells what the state machine has to tell.
    fn tell_linking(&mut self) {
        while let Some(event) = self.devices.linking.as_mut().and_then(|linking| linking.holder.poll_event()) {
            self.tell_holder_event(event);
        }
    }

    fn tell_holder_event(&mut self, event: HolderEvent) {
        let id = |device: &DeviceKey| address::peer_id(device).map(|peer| peer.to_string()).unwrap_or_default();
        let (stage, device) = match &event {
            HolderEvent::Asked { device } => (LinkStage::Asked, Some(*device)),
            HolderEvent::WrongCode { device } => (LinkStage::WrongCode, Some(*device)),
            HolderEvent::Failed { device } => (LinkStage::Failed, Some(*device)),
            HolderEvent::Granted { device, .. } => (LinkStage::Certified, Some(*device)),
            HolderEvent::Linked { device } => (LinkStage::Linked, Some(*device)),
            HolderEvent::Unconfirmed { device } => (LinkStage::Unconfirmed, Some(*device)),
            HolderEvent::TimedOut => (LinkStage::TimedOut, None),
        };
        let peer_id = device.as_ref().map(id);
        let Some(linking) = &mut self.devices.linking else { return };
        if let HolderEvent::Granted { request, .. } = event {
            linking.request = Some(request);
        }
        let name = linking.request.as_ref().map(|request| request.name.clone());
        let outcome = match stage {
            LinkStage::Linked | LinkStage::Unconfirmed => Some(Ok(LinkedDevice {
                stage,
                peer_id: peer_id.clone().unwrap_or_default(),
                name: name.clone().unwrap_or_default(),
                kind: linking.request.as_ref().map_or("", |request| kind_word(request.kind)).to_owned(),
                has_identity_key: linking.options.with_identity_key,
            })),
            LinkStage::WrongCode => Some(Err(DeviceError::WrongCode { peer_id: peer_id.clone().unwrap_or_default() })),
            LinkStage::Failed => {
                Some(Err(DeviceError::LinkFailed { reason: "the new device couldn't be given what it needs".to_owned() }))
            }
            LinkStage::TimedOut => Some(Err(DeviceError::LinkTimedOut { minutes: LINK_SECS / 60 })),
            _ => None,
        };
        info!(?stage, "linking a device");
        self.events.send(Event::DeviceLinking { stage, peer_id, name });
        let Some(outcome) = outcome else { return };
        if let Some(linking) = &mut self.devices.linking {
            if let Some(reply) = linking.waiting.take() {
                reply.send(outcome.clone());
            }
            linking.outcome = Some(outcome);
        }
        // It is told of contacts when its entry stands in the record: before that nothing can be sent to it.
    }
}
