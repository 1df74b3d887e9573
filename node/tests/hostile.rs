//! A real node over loopback, and peers that mean it no good: what they can't make it do.

use std::time::Duration;

use futures::StreamExt;
use halloo::behaviour::BehaviourEvent;
use halloo::handle::authority::EnrolmentPolicy;
use halloo::handle::contacts::{Audience, PrivacyChange};
use halloo::handle::directory::ResolveOptions;
use halloo::handle::power::SuspendOptions;
use halloo::identity::LocalIdentity;
use halloo::store::Store;
use halloo::streams;
use halloo::swarm::{NodeSwarm, SwarmOptions, build_swarm};
use halloo::{Event, Node};
use halloo_protocol::authority::{EnrolAnswer, EnrolResult, RefusalCode};
use halloo_protocol::call::{
    CallId, CallInvite, CallSignal, CallSignalAck, HpkeKeyRing, Invite, InviteAnswer, InviteStatus, Origin, Reason, SealedInvite,
    Signal, SignalBody, SignalStatus,
};
use halloo_protocol::directory::DeviceKind;
use halloo_protocol::event::EventKind;
use halloo_protocol::id::ConversationId;
use halloo_protocol::identity::Username;
use halloo_protocol::kademlia::{FindNode, Nodes};
use halloo_protocol::key::{AuthorityKey, DeviceKey, SecretKey};
use halloo_protocol::node::{
    Address, Descriptor, Goodbye, Hello, LoadClass, RevocationNotice, RevocationNumber, Roles, Transport,
};
use halloo_protocol::push::{
    DeliveredStatus, OuterPayload, PushChannel, PushDeliver, PushDelivered, PushHandle, PushPayload, PushReason, PushRegister,
    PushRegistered, PushUnregister, PushUnregistered, RegisterStatus,
};
use halloo_protocol::time::UnixTime;
use halloo_protocol::wire::{self, Extensions, Frame, FrameKind, Message, Signed};
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, PeerId};

/// Longer than anything here takes, even on a machine that does other things.
const DEADLINE: Duration = Duration::from_secs(20);

fn key(number: u8) -> SecretKey {
    SecretKey::from_bytes([number; 32])
}

fn now() -> UnixTime {
    UnixTime(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs())
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("{what} took too long"))
}

/// The node under attack: an authority's own node, which serves the directory and pushes too.
struct Victim {
    node: Node,
    store: Store,
    peer: PeerId,
    device: DeviceKey,
    address: Multiaddr,
    root: AuthorityKey,
}

impl Victim {
    async fn start() -> Self {
        Self::start_with(Store::in_memory().expect("memory")).await
    }

    async fn start_with(store: Store) -> Self {
        let identity = LocalIdentity::in_memory(&store, key(1), key(2), now()).expect("an identity");
        let device = identity.device();
        let roles = Roles::DIRECTORY.union(Roles::AUTHORITY).union(Roles::GATEWAY);
        let builder =
            Node::builder(identity).store(store.clone()).lab(true).role(roles).privacy(PrivacyChange::all(Audience::Anyone));
        let builder = builder.listen("/ip4/127.0.0.1/udp/0/quic-v1".parse().expect("an address"));
        let node = builder.authority_role(Some("lab".into()), EnrolmentPolicy::Open).spawn().await.expect("it starts");
        let mut events = node.subscribe_after(0);
        let address = within("getting ready", async {
            loop {
                let record = events.recv().await.expect("the node runs");
                if let Event::Ready(ready) = record.event {
                    return ready.listen.first().expect("it listens").parse().expect("an address");
                }
            }
        })
        .await;
        let root = node.authority().show().await.expect("an authority").key.parse().expect("a key");
        let peer = halloo::address::peer_id(&device).expect("a key");
        Self { node, store, peer, device, address, root }
    }

    /// The key that invites to it are sealed to.
    fn hpke_key(&self) -> [u8; 32] {
        let identity = LocalIdentity::in_memory(&self.store, key(1), key(2), now()).expect("an identity");
        HpkeKeyRing::from_bytes(&identity.hpke_keys().expect("a store").expect("kept at the start")).expect("a ring").public()
    }
}

/// A peer that says what it likes.
struct Attacker {
    swarm: NodeSwarm,
    identity: LocalIdentity,
    victim: PeerId,
    next_id: u32,
    inbox: Vec<Frame>,
}

impl Attacker {
    /// Connects as the device with this number, of the identity with the next.
    async fn connect(victim: &Victim, number: u8) -> Self {
        let store = Store::in_memory().expect("memory");
        let identity = LocalIdentity::in_memory(&store, key(number + 1), key(number), now()).expect("an identity");
        Self::connect_as(victim, identity).await
    }

    async fn connect_as(victim: &Victim, identity: LocalIdentity) -> Self {
        let keypair = halloo::address::keypair(identity.device_key()).expect("a key");
        let mut swarm = build_swarm(keypair, SwarmOptions::lab()).expect("a swarm");
        let hello = wire::encode(&Frame::new(0, &hello_of(&identity, Vec::new())));
        swarm.behaviour_mut().streams.set_hello(std::sync::Arc::new(move || hello.clone()));
        swarm.dial(victim.address.clone()).expect("it can be dialled");
        let mut attacker = Self { swarm, identity, victim: victim.peer, next_id: 1, inbox: Vec::new() };
        within("connecting", async {
            while !attacker.swarm.behaviour().streams.is_connected(&attacker.victim) {
                attacker.step().await;
            }
        })
        .await;
        attacker
    }

    /// Connects with a name the victim's authority has given.
    async fn enrolled(victim: &Victim, number: u8, name: &str) -> Self {
        let mut stranger = Self::connect(victim, number).await;
        let granted = stranger.enrol(victim, name).await.expect("a free name");
        let mut identity = stranger.identity;
        identity.set_user_chain(granted).expect("own identity");
        drop(stranger.swarm);
        Self::connect_as(victim, identity).await
    }

    async fn enrol(&mut self, victim: &Victim, name: &str) -> Result<halloo_protocol::identity::UserChain, RefusalCode> {
        let name = Username::new(name).expect("a name");
        let request = self.identity.enrol_request(victim.root, name, None, None, now()).expect("the identity key is here");
        match self.ask::<_, EnrolAnswer>(&request).await.expect("an answer").result {
            EnrolResult::Granted(grant) => Ok(grant.chain),
            EnrolResult::Refused(refusal) => Err(refusal.code),
        }
    }

    async fn step(&mut self) {
        let event = self.swarm.select_next_some().await;
        if let SwarmEvent::Behaviour(BehaviourEvent::Streams(
            streams::Event::Frame { bytes, .. } | streams::Event::Hello { bytes, .. },
        )) = event
        {
            self.inbox.extend(wire::decode::<Frame>(&bytes, wire::FRAME_BYTES_MAX));
        }
    }

    /// Queues a frame, waiting for room.
    async fn send(&mut self, frame: &Frame) {
        let bytes = wire::encode(frame);
        within("sending", async {
            while self.swarm.behaviour_mut().streams.send(self.victim, None, bytes.clone()).is_err() {
                self.step().await;
            }
        })
        .await;
    }

    async fn send_request<M: Message>(&mut self, message: &M) -> u32 {
        let id = self.next_id;
        self.next_id += 1;
        self.send(&Frame::new(id, message)).await;
        id
    }

    async fn answer(&mut self, id: u32) -> Frame {
        within("an answer", async {
            loop {
                let found = self.inbox.iter().position(|frame| frame.kind.is_answer() && frame.id == id);
                match found {
                    Some(position) => return self.inbox.swap_remove(position),
                    None => self.step().await,
                }
            }
        })
        .await
    }

    /// Asks; an answer of another kind comes back as it is.
    async fn ask<M: Message, A: Message>(&mut self, message: &M) -> Result<A, Frame> {
        let id = self.send_request(message).await;
        let answer = self.answer(id).await;
        answer.parse().map_err(|_| answer)
    }

    async fn is_served(&mut self) -> bool {
        let question = FindNode { target: [7; 32], want: 1, extensions: Extensions::none() };
        self.ask::<_, Nodes>(&question).await.is_ok()
    }

    fn invite(&self, victim: &Victim, call: CallId) -> CallInvite {
        let invite = Invite {
            chain: self.identity.chain().clone(),
            recipient: victim.device,
            call,
            conversation: ConversationId([1; 16]),
            kind: EventKind::VOICE_CALL,
            display_name: "Mallory".into(),
            avatar: None,
            origin: Origin { kind: DeviceKind::Phone, addresses: Vec::new(), relays: Vec::new() },
            issued_at: now(),
            expires_at: now().plus_secs(100),
            offer: "v=0".into(),
            extensions: Extensions::none(),
        };
        let mut rng: rand::rngs::StdRng = rand::make_rng();
        let sealed = SealedInvite::seal(invite, self.identity.device_key(), &victim.hpke_key(), &mut rng).expect("it fits");
        CallInvite { sealed, extensions: Extensions::none() }
    }

    async fn ring(&mut self, invite: &CallInvite) -> InviteStatus {
        self.ask::<_, InviteAnswer>(invite).await.expect("an answer").status
    }
}

fn hello_of(identity: &LocalIdentity, revocations: Vec<RevocationNumber>) -> Hello {
    Hello {
        version: Hello::VERSION,
        features: 0,
        chain: Some(identity.chain().clone()),
        descriptor: None,
        clock: now(),
        revocations,
        extensions: Extensions::none(),
    }
}

#[tokio::test]
async fn what_is_not_understood_costs_one_frame() {
    let victim = Victim::start().await;
    let mut attacker = Attacker::connect(&victim, 10).await;
    let questions = [(FrameKind(0x0777), vec![1, 2, 3]), (FindNode::KIND, vec![0xff; 900]), (FrameKind::SIGN_OF_LIFE, vec![])];
    for (kind, body) in questions.into_iter().chain([(EnrolAnswer::KIND, vec![])]) {
        attacker.send(&Frame { kind, id: 9, body }).await;
    }
    for _ in 0..3 {
        assert_eq!(attacker.answer(9).await.kind, FrameKind::UNSUPPORTED);
    }
    assert!(attacker.is_served().await, "the stream lives on");
}

#[tokio::test]
async fn a_name_is_given_once() {
    let victim = Victim::start().await;
    let mut alice = Attacker::connect(&victim, 10).await;
    let mut mallory = Attacker::connect(&victim, 20).await;
    assert!(alice.enrol(&victim, "alice").await.is_ok());
    assert_eq!(mallory.enrol(&victim, "alice").await, Err(RefusalCode::NAME_TAKEN));
    assert_eq!(mallory.enrol(&victim, "ALICE").await, Err(RefusalCode::NAME_TAKEN));
}

#[tokio::test]
async fn hellos_are_not_answered_each_with_a_revocation_list() {
    let victim = Victim::start().await;
    Attacker::enrolled(&victim, 10, "eve").await;
    victim.node.authority().revoke("eve@lab").await.expect("eve is known");
    let mut attacker = Attacker::connect(&victim, 20).await;
    let ignorant = hello_of(&attacker.identity, vec![RevocationNumber { authority: victim.root, number: 0 }]);
    for _ in 0..200 {
        attacker.send(&Frame::new(0, &ignorant)).await;
    }
    assert!(attacker.is_served().await);
    let lists = attacker.inbox.iter().filter(|frame| frame.kind == RevocationNotice::KIND).count();
    assert_eq!(lists, 1, "once is help, each time would be an amplifier");
}

#[tokio::test]
async fn a_flood_is_told_to_wait_and_others_are_served() {
    let victim = Victim::start().await;
    let mut attacker = Attacker::connect(&victim, 10).await;
    let mut other = Attacker::connect(&victim, 20).await;
    let question = FindNode { target: [7; 32], want: 1, extensions: Extensions::none() };
    let mut ids = Vec::new();
    for _ in 0..1_500 {
        ids.push(attacker.send_request(&question).await);
    }
    let last = attacker.answer(ids.pop().expect("many")).await;
    assert!(other.is_served().await);
    let busy = attacker.inbox.iter().chain([&last]).filter(|frame| frame.kind == FrameKind::BUSY).count();
    assert!(busy > 300, "{busy} of 1,500 were refused");
}

#[tokio::test]
async fn a_call_rings_once_whatever_strangers_sign_and_across_a_restart() {
    let victim = Victim::start().await;
    let mut mallory = Attacker::enrolled(&victim, 10, "mallory").await;
    let call = CallId([5; 16]);
    let invite = mallory.invite(&victim, call);
    assert_eq!(mallory.ring(&invite).await, InviteStatus::Ringing);
    assert_eq!(mallory.ring(&invite).await, InviteStatus::Duplicate);
    // As many calls as are remembered, taken back by keys that nobody has certified.
    for number in 0..3_u8 {
        let mut stranger = Attacker::connect(&victim, 100 + 2 * number).await;
        let mut last = 0;
        for count in 0..380_u16 {
            let mut id = [number; 16];
            id[..2].copy_from_slice(&count.to_be_bytes());
            let signal = Signal {
                call: CallId(id),
                from: stranger.identity.device(),
                to: victim.device,
                sequence: 1,
                body: SignalBody::Cancel { reason: Reason::CANCELLED },
                extensions: Extensions::none(),
            };
            let signal = Signed::sign(signal, stranger.identity.device_key());
            last = stranger.send_request(&CallSignal { signal, extensions: Extensions::none() }).await;
        }
        let answer = stranger.answer(last).await.parse::<CallSignalAck>().expect("an acknowledgement");
        assert_eq!(answer.status, SignalStatus::UnknownCall);
    }
    assert_eq!(mallory.ring(&invite).await, InviteStatus::Duplicate);

    let Victim { node, store, .. } = victim;
    node.shutdown().await.expect("it ends");
    let again = Victim::start_with(store).await;
    let mut mallory = Attacker::connect_as(&again, mallory.identity).await;
    assert_eq!(mallory.ring(&invite).await, InviteStatus::Duplicate, "a device started anew for every push rings once too");
}

#[tokio::test]
async fn the_gateway_serves_certified_devices_and_each_its_own() {
    let victim = Victim::start().await;
    let mut stranger = Attacker::connect(&victim, 10).await;
    let register = PushRegister::new(vec![PushChannel::Stream]);
    // An identity without a name is served in a small part of the room, and all of them share a rate.
    let served = stranger.ask::<_, PushRegistered>(&register).await.expect("an answer").status;
    assert!(matches!(served, RegisterStatus::Registered { .. }), "{served:?}");
    let mut refusals = 0;
    for number in 0..5_u8 {
        let mut another = Attacker::connect(&victim, 100 + 2 * number).await;
        for _ in 0..20 {
            let status = another.ask::<_, PushRegistered>(&register).await.expect("an answer").status;
            refusals += usize::from(status == RegisterStatus::Refused(PushReason::RATE));
        }
    }
    assert!(refusals >= 30, "new keys cost nothing: {refusals} of 100 were refused");

    let mut bob = Attacker::enrolled(&victim, 20, "bob").await;
    let registered = bob.ask::<_, PushRegistered>(&register).await.expect("an answer").status;
    let RegisterStatus::Registered { handle, .. } = registered else { panic!("{registered:?}") };
    let mut mallory = Attacker::enrolled(&victim, 30, "mallory").await;
    let unregister = PushUnregister { handle, extensions: Extensions::none() };
    for attacker in [&mut stranger, &mut mallory] {
        assert!(!attacker.ask::<_, PushUnregistered>(&unregister).await.expect("an answer").was_known);
    }
    let mut refusals = 0;
    for _ in 0..100 {
        let status = mallory.ask::<_, PushRegistered>(&register).await.expect("an answer").status;
        refusals += usize::from(status == RegisterStatus::Refused(PushReason::RATE));
    }
    assert!(refusals >= 30, "each registration costs a commit: {refusals} of 100 were refused");
    assert!(bob.ask::<_, PushUnregistered>(&unregister).await.expect("an answer").was_known);
    let nobodys = PushUnregister { handle: PushHandle([0; 32]), extensions: Extensions::none() };
    assert!(!bob.ask::<_, PushUnregistered>(&nobodys).await.expect("an answer").was_known);
}

#[tokio::test]
async fn a_push_of_nobodys_gateway_rings_nothing() {
    let victim = Victim::start().await;
    let mut mallory = Attacker::enrolled(&victim, 10, "mallory").await;
    let sealed = mallory.invite(&victim, CallId([6; 16])).sealed.as_bytes().to_vec();
    let outer = OuterPayload::new(mallory.identity.device(), EventKind::VOICE_CALL, now(), 60, &sealed);
    let payload = PushPayload::new(outer, sealed, mallory.identity.device_key()).expect("it fits").to_bytes();
    let delivered = mallory.ask::<_, PushDelivered>(&PushDeliver { payload, extensions: Extensions::none() }).await;
    assert_eq!(delivered.expect("an answer").status, DeliveredStatus::Invalid);
    assert!(victim.node.calls().list().await.expect("a list").calls.is_empty());
}

#[tokio::test]
async fn a_suspended_node_answers_however_often_it_is_asked_and_says_goodbye_first() {
    let store = Store::in_memory().expect("memory");
    let identity = LocalIdentity::in_memory(&store, key(1), key(2), now()).expect("an identity");
    let node = Node::builder(identity).store(store).lab(true).freezable(true).spawn().await.expect("it starts");
    let victim = Victim::start().await;
    let mut peer = Attacker::connect(&victim, 10).await;
    assert!(peer.is_served().await);
    for _ in 0..400 {
        node.suspend(SuspendOptions { clean: false }).await.expect("it sleeps");
        assert!(within("a look at a sleeping node", node.status()).await.expect("status").suspended);
    }
    assert!(within("waking", node.wake(None)).await.expect("it wakes").was_suspended);
    node.shutdown().await.expect("it ends");

    victim.node.suspend(SuspendOptions { clean: true }).await.expect("it sleeps");
    within("a goodbye", async {
        while !peer.inbox.iter().any(|frame| frame.kind == Goodbye::KIND) {
            peer.step().await;
        }
    })
    .await;
}

/// A server of the directory that says nothing to what it is asked.
async fn silent_server(victim: &Victim, number: u8, name: &str) -> Attacker {
    let mut server = Attacker::enrolled(victim, number, name).await;
    let place = server.identity.place().expect("who has a name has a place");
    let descriptor = Descriptor {
        device: server.identity.device(),
        place,
        roles: Roles::DIRECTORY,
        load: LoadClass(0),
        addresses: vec![Address::V4 { ip: [127, 0, 0, 1], port: 9, transport: Transport::Quic }],
    };
    let hello = Hello { descriptor: Some(descriptor), ..hello_of(&server.identity, Vec::new()) };
    server.send(&Frame::new(0, &hello)).await;
    assert!(server.is_served().await);
    server
}

#[tokio::test]
async fn who_answers_neither_a_request_nor_a_question_for_a_sign_of_life_is_left() {
    let victim = Victim::start().await;
    let mut dead = silent_server(&victim, 10, "mallory").await;
    let mut slow = silent_server(&victim, 20, "sloth").await;
    let asking = victim.node.clone();
    let asked = tokio::spawn(async move {
        let options = ResolveOptions { fresh: true, settled: false };
        asking.directory().resolve("nobody@lab", options).await.map(|found| found.requests)
    });
    let is_over = async {
        while dead.swarm.behaviour().streams.is_connected(&victim.peer) {
            tokio::select! {
                () = dead.step() => {}
                () = slow.step() => {
                    if let Some(asked) = slow.inbox.iter().position(|frame| frame.kind == FrameKind::SIGN_OF_LIFE) {
                        let id = slow.inbox.swap_remove(asked).id;
                        slow.send(&Frame { kind: FrameKind::UNSUPPORTED, id, body: Vec::new() }).await;
                    }
                }
            }
        }
    };
    tokio::time::timeout(2 * DEADLINE, is_over).await.expect("who is as good as dead is dropped");
    for server in [&dead, &slow] {
        let is_question = |frame: &&Frame| frame.kind.is_request();
        assert!(server.inbox.iter().any(|frame| is_question(&frame)), "both were asked");
    }
    assert!(slow.is_served().await, "and who is slow stays");
    assert!(asked.await.expect("no panic").is_err(), "nobody has this name");
}
