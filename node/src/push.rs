//! The device's side of push: what it knows of its gateways, and what it hands to those of others. Registering is in [`register`], pushing to others in
//! [`send`], being pushed, sleeping and waking in [`wake`].

mod channels;
mod ended;
mod groups;
mod keep;
mod letters;
pub(crate) mod phone;
mod receipts;
pub mod receiver;
mod register;
mod self_test;
mod send;
pub(crate) mod sessions;
mod spare;
mod wake;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use bincode::{Decode, Encode};
use halloo_protocol::call::CallId;
use halloo_protocol::capability::Capability;
use halloo_protocol::directory::Helper;
use halloo_protocol::id::MessageId;
use halloo_protocol::identity::UserId;
use halloo_protocol::key::{DeviceKey, hash};
use halloo_protocol::push::{ChannelEnd, DeliveredStatus, PushChannel as WireChannel, PushHandle, PushHints};
use halloo_protocol::time::UnixTime;
use halloo_protocol::wire::{self, Signed};
use libp2p::PeerId;
use tracing::debug;

pub(crate) use self::ended::Unregistering;
use crate::address;
use crate::event_loop::Internal;
use crate::handle::Reply;
use crate::handle::push::{PushError, PushRegistration, PushRemoved};
use crate::push::receiver::LocalPushService;
use crate::roles::gateway::webpush::ReceiverKeys;

/// How long a gateway may take to register a device, and to accept a push.
const GATEWAY_TIMEOUT: Duration = Duration::from_secs(10);

/// Gateways a device registers with.
const GATEWAYS_MAX: usize = 2;

/// The same while a gateway has an endpoint that is no more.
const RENEW_STALE_EVERY: Duration = Duration::from_secs(10);

/// How far a gateway's clock may be off before its pushes count as late, in seconds.
const LATE_SECS: u64 = 300;

/// Most stored registrations are longer than this by nothing.
const REGISTRATION_BYTES_MAX: usize = 8 * 1024;

/// How endpoints of the push service on this machine begin.
const LOCAL_ENDPOINT: &str = "http://127.0.0.1:";

/// A push handed to a gateway.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sending {
    /// An invite.
    Call {
        /// The call.
        call: CallId,
        /// Whom it is to ring.
        device: DeviceKey,
    },
    /// What was left in the device's mailboxes.
    Letter {
        /// The message.
        message: MessageId,
    },
    /// This device's own test.
    Test {
        /// Which gateway is tested.
        gateway: DeviceKey,
    },
}

/// What a gateway was handed, and under which names it can be taken back while it is held.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Handed {
    sending: Sending,
    push: HeldPush,
}

/// A push at a gateway, which can be taken back as long as it waits for its turn there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeldPush {
    gateway: PeerId,
    handle: PushHandle,
    request_hash: [u8; 32],
}

/// What is handed to gateways.
#[derive(Clone, Copy)]
struct Push<'a> {
    /// Whose device it is for, where that is known.
    user: Option<&'a UserId>,
    hints: PushHints,
    sealed: &'a [u8],
    sending: Sending,
}

/// What became of a payload.
#[derive(Debug)]
struct Opened {
    status: DeliveredStatus,
    call: Option<CallId>,
    message: Option<MessageId>,
    /// Who sent it, `name@authority`.
    from: Option<String>,
    /// The device that sent it, if it may hear that it came.
    sender: Option<DeviceKey>,
}

/// A registration being asked for.
#[derive(Debug)]
pub(crate) struct Registering {
    channel: WireChannel,
    gateway: Helper,
    /// A webhook's secret that was made for it.
    secret: Option<String>,
    reply: Option<Reply<PushRegistration, PushError>>,
    /// A registration that is no more, for whose sake the others of its gateway are registered anew.
    removed: Option<(String, Reply<PushRemoved, PushError>)>,
}

impl Registering {
    /// One that nobody waits for.
    const fn renewal(gateway: Helper, channel: WireChannel) -> Self {
        Self { channel, gateway, secret: None, reply: None, removed: None }
    }

    /// Tells whoever waits.
    fn fail(self, error: PushError) {
        if let Some((id, reply)) = self.removed {
            reply.send(Ok(PushRemoved { id, gateway_told: false }));
        } else if let Some(reply) = self.reply {
            reply.send(Err(error));
        }
    }
}

/// A registration that a gateway keeps.
#[derive(Clone, Debug, Encode, Decode)]
struct Registered {
    gateway: Helper,
    handle: PushHandle,
    channel: WireChannel,
    capability: Signed<Capability>,
    registered_at: UnixTime,
    expires_at: UnixTime,
    /// The gateway says that the channel has ended.
    dead: Option<Dead>,
}

impl Registered {
    /// A row of the database. Those of earlier versions end before `dead`.
    fn from_row(row: &[u8]) -> Option<Self> {
        let whole = wire::decode(row, REGISTRATION_BYTES_MAX);
        whole.or_else(|_| wire::decode(&[row, &[0]].concat(), REGISTRATION_BYTES_MAX)).ok()
    }

    /// What it is known by in the database: one channel of each kind at each gateway.
    fn name(&self) -> Vec<u8> {
        registration_name(&self.gateway.device, &self.channel)
    }

    /// What the user calls it by.
    fn id(&self) -> String {
        let digest = hash("halloo push registration", &[&self.handle.0, channel_word(&self.channel).as_bytes()]);
        data_encoding::HEXLOWER.encode(&digest[..8])
    }

    const fn is_live(&self) -> bool {
        self.dead.is_none()
    }
}

/// The end of a channel.
#[derive(Clone, Copy, Debug, Encode, Decode)]
struct Dead {
    reason: ChannelEnd,
    at: UnixTime,
}

/// What this device knows of its gateways.
pub(crate) struct PushState {
    registered: Vec<Registered>,
    keys: Option<ReceiverKeys>,
    service: Option<LocalPushService>,
    renew_at: Option<Instant>,
    /// Names of registrations whose gateway has an old endpoint.
    stale: HashSet<Vec<u8>>,
    /// Registrations that callers can't find yet, and who is told when they can, or when the time is up.
    unannounced: Vec<(PushRegistration, Reply<PushRegistration, PushError>, Instant)>,
    keeping: keep::Keeping,
    sessions: sessions::Sessions,
    letters: letters::Letters,
    tests: self_test::SelfTests,
    receipts: receipts::Receipts,
    /// In which language the gateway says that the event of the newest payload is told: it knows both people's lists.
    language: Option<String>,
    /// Gateways that were asked to be the second one.
    tried: Vec<DeviceKey>,
    /// What is still to be registered with it.
    spare_left: Vec<(Helper, WireChannel)>,
    /// Which gateways share a database.
    groups: groups::Groups,
    /// Gateways whose place another one is to take.
    replaced: Vec<DeviceKey>,
    /// Those whose connections stay.
    kept: HashSet<PeerId>,
}

impl PushState {
    pub(crate) fn new(service: Option<LocalPushService>) -> Self {
        Self {
            registered: Vec::new(),
            keys: None,
            service,
            renew_at: None,
            stale: HashSet::new(),
            unannounced: Vec::new(),
            keeping: keep::Keeping::default(),
            sessions: sessions::Sessions::default(),
            letters: letters::Letters::default(),
            tests: self_test::SelfTests::default(),
            receipts: receipts::Receipts::default(),
            language: None,
            tried: Vec::new(),
            spare_left: Vec::new(),
            groups: groups::Groups::default(),
            replaced: Vec::new(),
            kept: HashSet::new(),
        }
    }
}

impl std::fmt::Debug for PushState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PushState").field("registered", &self.registered.len()).finish_non_exhaustive()
    }
}

/// Calls have their own token with Apple: both may be registered.
fn channel_word(channel: &WireChannel) -> &'static str {
    if channel.is_for_calls_only() { "apns-voip" } else { channel.way().name() }
}

fn registration_name(gateway: &DeviceKey, channel: &WireChannel) -> Vec<u8> {
    let mut name = gateway.as_bytes().to_vec();
    name.extend_from_slice(channel_word(channel).as_bytes());
    name
}

/// Runs a push service on this machine for the node, outside the runtime that sleeps with it.
pub(crate) async fn local_service(news: tokio::sync::mpsc::Sender<Internal>) -> Option<LocalPushService> {
    let bound = LocalPushService::bind(([127, 0, 0, 1], 0).into()).await;
    let (service, mut bodies) = match bound {
        Ok(bound) => bound,
        Err(error) => {
            debug!(%error, "no local push service");
            return None;
        }
    };
    tokio::spawn(async move {
        while let Some(body) = bodies.recv().await {
            if news.send(Internal::PushReceived(body)).await.is_err() {
                break;
            }
        }
    });
    Some(service)
}

fn helper_of(descriptor: &halloo_protocol::node::Descriptor) -> Helper {
    Helper { device: descriptor.device, addresses: descriptor.addresses.iter().take(2).cloned().collect() }
}

fn gateway_name(gateway: &Helper) -> String {
    address::peer_id(&gateway.device).map_or_else(|| gateway.device.to_string(), |peer| peer.to_string())
}
