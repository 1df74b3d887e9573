//! A daemon without a network: the real API in front of canned answers.

use std::path::Path;
use std::time::Duration;

use halloo::api::ApiListener;
use halloo::calls::media::port::AudioLink;
use halloo::calls::media::video::VideoLink;
use halloo::config::ApiAddress;
use halloo::handle::authority::{
    AuthorityCertified, AuthorityInvite, AuthorityLog, AuthorityRevocation, AuthorityStatus, Enrolled, EnrolmentPolicy,
};
use halloo::handle::call_media::{CallDescription, CallMediaCommand, IceServers};
use halloo::handle::calls::{
    CallAdded, CallEntry, CallError, CallList, CallOutcome, CallPath, CallRejoined, CallResult, CallStage, CallStageKind,
    CallState,
};
use halloo::handle::choice::{ChoiceCommand, DeviceReportView, PolicyExplanation, PushPolicy};
use halloo::handle::contacts::{
    Audience, AvatarView, ContactBook, ContactCommand, ContactImport, ContactInvite, ContactList, ContactState, ContactView,
    Fingerprint, Privacy, ProfileView,
};
use halloo::handle::devices::{
    DeviceCommand, DeviceError, DeviceList, DeviceRevocation, DeviceState, DeviceView, LinkOffer, LinkStage, LinkedDevice,
};
use halloo::handle::directory::{DeviceReachability, ResolveError, ResolveSource, Resolved, ResolvedDevice};
use halloo::handle::files::{FileChange, FileCommand, FileError, FileList, FileState, FileView};
use halloo::handle::groups::{GroupCommand, GroupEntry, GroupList, GroupState};
use halloo::handle::history::{FoundMessages, HistoryCommand, Moved};
use halloo::handle::linked::{
    BookCommand, FoundUser, LinkBook, LinkCertified, LinkCode, LinkError, LinkFound, LinkList, LinkLogin, LinkRemoved, LinkState,
    LinkedAccount, LinkedCommand,
};
use halloo::handle::messages::{
    ComposingTold, ConversationList, MessageError, MessageList, MessageState, MessageStatus, ReadOutcome,
};
use halloo::handle::network::{Check, CheckResult, Diagnosis, Explanation, PeerList, Status};
use halloo::handle::power::{Suspended, WakeOutcome};
use halloo::handle::presence::{
    OwnPresence, PresenceCommand, PresenceList, PresenceReachability, PresenceSource, PresenceState, PresenceView,
};
use halloo::handle::problem::UsernameError;
use halloo::handle::push::{ChannelState, PushError, PushList, PushRegistration, PushRemoved, PushTest};
use halloo::handle::push_sessions::{PushSessionCommand, PushSessionReport, PushSessionTaken, PushSettings};
use halloo::handle::sip::{
    SipAccount, SipAccountList, SipAccountRemoved, SipCommand, SipCredentials, SipPhone, SipTrunk, SipTrunkList, SipTrunkState,
    SipTrunkUse,
};
use halloo::handle::voicemail::{VoicemailCommand, VoicemailFault, VoicemailLeft, VoicemailList, VoicemailState, VoicemailView};
use halloo::handle::{self, Command, CommandReceiver, EventSender};
use halloo::home::{Home, HomeLock};
use halloo::timestamp::Timestamp;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// No test waits longer for anything.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// A running fake daemon. Ends when dropped or stopped.
pub(crate) struct Fake {
    pub(crate) home: Home,
    pub(crate) address: ApiAddress,
    pub(crate) events: EventSender,
    /// One message for every dial whose caller went away.
    pub(crate) hung_up: mpsc::Receiver<()>,
    stop: CancellationToken,
    serving: JoinHandle<()>,
    _lock: HomeLock,
}

impl Fake {
    /// Starts on `home`, listening at `address` or where a daemon would by itself.
    pub(crate) async fn start(home: &Path, address: Option<&str>) -> Self {
        let home = Home::create(home).expect("a home");
        let lock = home.lock().expect("a lock");
        let (node, commands, events) = handle::channel();
        let address = address.map(|address| address.parse().expect("an address"));
        let listener = ApiListener::bind(&home, address.as_ref()).await.expect("bound");
        let address = listener.address().clone();
        let stop = CancellationToken::new();
        let (phones, sip_commands) = mpsc::channel(8);
        assert!(node.attach_sip(phones), "the first edge");
        tokio::spawn(answer_sip(sip_commands));
        let serving = tokio::spawn(listener.serve(node, stop.clone()));
        let (hang_up, hung_up) = mpsc::channel(8);
        tokio::spawn(answer_all(commands, hang_up));
        Self { home, address, events, hung_up, stop, serving, _lock: lock }
    }

    /// Stops as a daemon stops: open answers end, files go.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(DEADLINE, self.serving).await.expect("in time").expect("no panic");
    }
}

async fn answer_all(mut commands: CommandReceiver, hang_up: mpsc::Sender<()>) {
    while let Some(command) = commands.recv().await {
        answer(command, &hang_up);
    }
}

#[allow(clippy::too_many_lines, reason = "a table")]
fn answer(command: Command, hang_up: &mpsc::Sender<()>) {
    match command {
        Command::Status(reply) => reply.send(Ok(Status { peer_id: "12D3me".to_owned(), ..Status::default() })),
        Command::Peers(reply) => reply.send(Ok(PeerList::default())),
        Command::RelayUsage(reply) => reply.send(Ok(halloo::handle::network::RelayUsage::default())),
        Command::MediaRelays(reply) => reply.send(Ok(halloo::handle::network::MediaRelays::default())),
        Command::Doctor(reply) => reply.send(Ok(Diagnosis {
            ok: true,
            checks: vec![Check {
                name: "clock".to_owned(),
                result: CheckResult::Warning,
                detail: "runs 9 s ahead".to_owned(),
                advice: None,
            }],
        })),
        Command::Totals(reply) => reply.send(Ok(Default::default())),
        Command::Disconnect { reply, .. } => reply.send(Ok(())),
        Command::Publish(reply) => reply.send(Ok(Default::default())),
        Command::RenewLease(reply) => reply.send(Ok(Default::default())),
        Command::Why { user, reply } => reply.send(Ok(Explanation {
            username: user,
            reachable: true,
            summary: "can be reached".to_owned(),
            checks: Vec::new(),
            next_call: Vec::new(),
            calls: Vec::new(),
        })),
        Command::Resolve { user, reply, .. } => reply.send(resolved(user)),
        Command::MessageSend { to, reply, .. } => reply.send(queued(&to)),
        Command::MessageWait { id, reply } => {
            // A message to nowhere is never delivered: the caller's own limit ends the wait.
            if id == "stuck" {
                tokio::spawn(async move {
                    let mut reply = reply;
                    reply.closed().await;
                });
            } else {
                reply.send(Ok(MessageStatus { id, state: MessageState::Delivered, reason: None, members: Vec::new() }));
            }
        }
        Command::MessageList { user, reply, .. } => {
            reply.send(Ok(MessageList { with: user, ..MessageList::default() }));
        }
        Command::CallMedia(command) => answer_call_media(command),
        Command::Files(command) => answer_files(command),
        Command::Voicemail(command) => answer_voicemail(command),
        Command::History(command) => answer_history(command),
        Command::Conversations(reply) => reply.send(Ok(ConversationList::default())),
        // The SIP edge's own: no request of the API leads to these.
        Command::AttachSip(_) | Command::PhonePush { .. } | Command::Waiting(_) => {}
        Command::Composing { with, reply, .. } => reply.send(Ok(ComposingTold { with, told: true })),
        Command::MarkRead { with, reply, .. } => reply.send(Ok(ReadOutcome { with, group: None, marked: 1, unread: 0 })),
        Command::Groups(command) => answer_groups(command),
        Command::Contacts(command) => answer_contacts(command),
        Command::Presence(command) => answer_presence(command),
        Command::Devices(command) => answer_devices(command),
        Command::Choice(command) => answer_choice(command),
        Command::Linked(command) => answer_linked(command),
        Command::CallDial { options, mut reply } => match options.users[0].as_str() {
            "rings" => {
                let hang_up = hang_up.clone();
                tokio::spawn(async move {
                    reply.closed().await;
                    hang_up.send(()).await.expect("the test waits");
                });
            }
            "decliner" => reply.send(Ok(outcome(CallResult::Declined))),
            _ => reply.send(Ok(outcome(CallResult::Completed))),
        },
        Command::CallList(reply) => reply.send(Ok(CallList::default())),
        Command::CallShow { call_id, reply } => {
            reply.send(if call_id == "gone" { Err(CallError::UnknownCall { call_id }) } else { Ok(call(call_id)) });
        }
        Command::CallAdd { call_id, options, reply } => reply.send(Ok(CallAdded {
            call_id,
            conference_id: "f1".to_owned(),
            joined: options.user != "decliner",
            outcome: (options.user == "decliner").then_some(CallResult::Declined),
            username: options.user,
            reason: None,
        })),
        Command::CallConnect { reply, .. } => reply.send(Ok(true)),
        Command::CallRejoin { call_id, reply, .. } => {
            let joined = call_id != "gone";
            reply.send(Ok(CallRejoined { conference_id: "f1".to_owned(), joined }));
        }
        Command::CallAnswer { call_id, reply, .. }
        | Command::CallDecline { call_id, reply, .. }
        | Command::CallDismiss { call_id, reply }
        | Command::CallPress { call_id, reply, .. }
        | Command::CallHangup { call_id, reply } => {
            reply.send(if call_id == "gone" { Err(CallError::UnknownCall { call_id }) } else { Ok(()) });
        }
        Command::PushRegister { target, reply } => reply.send(Ok(PushRegistration {
            id: "r1".to_owned(),
            kind: target.channel.kind().to_owned(),
            gateway: target.gateway.unwrap_or_else(|| "12D3gateway".to_owned()),
            registered_at: Timestamp::default(),
            expires_at: None,
            state: ChannelState::Live,
            reason: None,
            secret: (target.channel.kind() == "webhook").then(|| "whsec_AAAA".to_owned()),
            policy_version: None,
        })),
        Command::PushUnregister { id, reply } => {
            reply.send(if id == "gone" { Err(PushError::NotFound { id }) } else { Ok(PushRemoved { id, gateway_told: true }) });
        }
        Command::PushList(reply) => reply.send(Ok(PushList::default())),
        Command::PushSessions(command) => push_sessions(command),
        Command::PushTest(reply) => reply.send(Ok(PushTest { ok: true, gateways: Vec::new() })),
        Command::Suspend { options, reply } => {
            reply.send(Ok(Suspended { suspended: true, clean: options.clean, push_registrations: 1 }));
        }
        Command::Wake { payload, reply } => reply.send(Ok(WakeOutcome {
            was_suspended: true,
            suspended_ms: payload.map_or(0, |payload| payload.len() as u64),
            message_id: None,
            call_id: None,
            from: None,
        })),
        Command::Enrol { options, reply } => reply.send(Ok(Enrolled {
            username: options.username,
            identity: "ed25519:x".to_owned(),
            authority_key: "ed25519:y".to_owned(),
            serial: 1,
            not_after: Timestamp::default(),
        })),
        Command::AuthorityShow(reply) => reply.send(Ok(AuthorityStatus {
            name: "example".to_owned(),
            key: "ed25519:y".to_owned(),
            enrolment: EnrolmentPolicy::Invite,
            users: 2,
            revocation_number: 0,
            open_invites: 0,
        })),
        Command::AuthorityInvite { options, reply } => {
            reply.send(Ok(AuthorityInvite { code: "CODE".to_owned(), name: options.name, expires_at: Timestamp::default() }))
        }
        Command::AuthorityRevoke { user, reply } => {
            reply.send(Ok(AuthorityRevocation { username: user, serial: 1, revocation_number: 1 }));
        }
        Command::AuthorityCertify { user, id, is_certified, reply } => {
            reply.send(Ok(AuthorityCertified { username: user, id, is_certified }));
        }
        Command::AuthorityLog(reply) => reply.send(Ok(AuthorityLog::default())),
        Command::Shutdown(reply) => reply.send(Ok(())),
    }
}

fn answer_call_media(command: CallMediaCommand) {
    match command {
        CallMediaCommand::Video { reply, .. } => reply.send(Ok(VideoLink::new().1)),
        CallMediaCommand::Audio { reply, .. } => reply.send(Ok(AudioLink::new().1)),
        CallMediaCommand::OfferedAudio { reply, .. } => reply.send(Ok(Vec::new())),
        CallMediaCommand::IceServers(reply) => reply.send(Ok(IceServers { ice_servers: Vec::new() })),
        CallMediaCommand::Description { call_id, reply } => {
            reply.send(Ok(CallDescription { call_id, sdp: "v=0".to_owned(), candidates: Vec::new() }));
        }
        CallMediaCommand::SpeakEarly { call_id, reply, .. }
        | CallMediaCommand::Trickle { call_id, reply, .. }
        | CallMediaCommand::Report { call_id, reply, .. } => {
            reply.send(if call_id == "gone" { Err(CallError::UnknownCall { call_id }) } else { Ok(()) });
        }
    }
}

fn answer_history(command: HistoryCommand) {
    match command {
        HistoryCommand::Search { reply, .. } => reply.send(Ok(FoundMessages::default())),
        HistoryCommand::Export { reply, .. } | HistoryCommand::Import { reply, .. } => reply.send(Ok(Moved::default())),
    }
}

fn answer_voicemail(command: VoicemailCommand) {
    let view = |id: String, heard| VoicemailView {
        id,
        with: "bob@example".to_owned(),
        incoming: true,
        call_id: Some("c1".to_owned()),
        state: VoicemailState::Ready,
        sent_at: Timestamp::default(),
        duration_ms: 2_500,
        bytes: 8_000,
        heard,
        waveform: vec![1, 2, 3],
        problem: None,
    };
    match command {
        VoicemailCommand::Leave { recorded: _, reply, .. } => {
            reply.send(Ok(VoicemailLeft { id: "v2".to_owned(), duration_ms: 2_500 }));
        }
        VoicemailCommand::List { options, reply } => {
            let with = options.with.unwrap_or_else(|| "bob@example".to_owned());
            let voicemails = vec![VoicemailView { with, ..view("v1".to_owned(), false) }];
            reply.send(Ok(VoicemailList { voicemails, unheard: 1 }));
        }
        VoicemailCommand::Audio { id, reply } if id == "arriving" => {
            reply.send(Err(VoicemailFault::NotHere { reason: "not all of it has come".to_owned() }));
        }
        VoicemailCommand::Audio { reply, .. } => reply.send(Ok(b"OggS".to_vec())),
        VoicemailCommand::Get { id, reply } if id == "gone" => reply.send(Err(VoicemailFault::Unknown { id })),
        VoicemailCommand::Get { id, reply } => reply.send(Ok(view(id, false))),
        VoicemailCommand::Heard { id, reply } | VoicemailCommand::Delete { id, reply } => reply.send(Ok(view(id, true))),
    }
}

fn answer_files(command: FileCommand) {
    let view = |id: String, state| FileView {
        id,
        with: "bob@example".to_owned(),
        incoming: true,
        name: "photo.jpg".to_owned(),
        size: 2_048,
        media_type: "image/jpeg".to_owned(),
        state,
        bytes: 0,
        rate: None,
        path: None,
        problem: None,
        offered_at: Timestamp::default(),
        expires_at: Timestamp::default(),
    };
    match command {
        FileCommand::Send { to, reply, .. } => {
            reply.send(Ok(FileView { with: to, incoming: false, ..view("f2".to_owned(), FileState::Preparing) }));
        }
        FileCommand::List(reply) => reply.send(Ok(FileList { files: vec![view("f1".to_owned(), FileState::Offered)] })),
        FileCommand::Get { id, reply } if id == "gone" => reply.send(Err(FileError::Unknown { id })),
        FileCommand::Get { id, reply } | FileCommand::Wait { id, reply } => reply.send(Ok(view(id, FileState::Done))),
        FileCommand::Change { id, change, reply } => {
            let state = match change {
                FileChange::Accept(_) => FileState::Accepted,
                FileChange::Decline => FileState::Declined,
                FileChange::Cancel => FileState::Cancelled,
            };
            reply.send(Ok(view(id, state)));
        }
    }
}

fn resolved(user: String) -> Result<Resolved, ResolveError> {
    match user.as_str() {
        "nobody" => return Err(ResolveError::NotFound { username: user, replicas: 3 }),
        "bad name" => {
            let reason = "a space".to_owned();
            return Err(UsernameError::Invalid { username: user, reason }.into());
        }
        _ => {}
    }
    Ok(Resolved {
        username: user,
        identity: "ed25519:x".to_owned(),
        devices: vec![ResolvedDevice {
            peer_id: "12D3bob".to_owned(),
            // A name that would clear the screen, to be made harmless.
            name: Some("\u{1b}[2Jbob".to_owned()),
            kind: None,
            addresses: vec!["/ip4/127.0.0.1/tcp/1".to_owned()],
            reachability: DeviceReachability::Direct,
        }],
        source: ResolveSource::Directory,
        settled: false,
        age_ms: 0,
        requests: 1,
        elapsed_ms: 3,
    })
}

fn queued(to: &str) -> Result<MessageStatus, MessageError> {
    let id = if to == "nowhere" { "stuck" } else { "m1" };
    Ok(MessageStatus { id: id.to_owned(), state: MessageState::Queued, reason: None, members: Vec::new() })
}

fn call(call_id: String) -> CallEntry {
    CallEntry {
        call_id,
        users: vec!["bob@example".to_owned()],
        incoming: false,
        state: CallState::Ended,
        video: false,
        started_at: Timestamp::default(),
        outcome: Some(outcome(CallResult::Completed)),
        dismissed: false,
        stages: vec![CallStage {
            at_ms: 5,
            stage: CallStageKind::Ring,
            peer_id: Some("12D3bob".to_owned()),
            detail: "it rings".to_owned(),
        }],
        other_ends: Vec::new(),
        is_asking: false,
        media: None,
        conference_id: None,
        introduced_by: None,
        telephone: None,
        linked: None,
    }
}

fn outcome(outcome: CallResult) -> CallOutcome {
    CallOutcome {
        call_id: "c1".to_owned(),
        outcome,
        reason: None,
        reason_code: None,
        answered_by: (outcome == CallResult::Completed).then(|| "12D3bob".to_owned()),
        codec: None,
        path: (outcome == CallResult::Completed).then_some(CallPath::Direct),
        ring_ms: Some(5),
        setup_ms: None,
        rtt_ms: None,
        loss: None,
        jitter_ms: None,
        via_push: false,
        video: None,
        voicemail: None,
        voicemail_problem: None,
    }
}

fn contact(user: &str, state: ContactState) -> ContactView {
    ContactView {
        username: format!("{user}@example"),
        state,
        identity: None,
        changed_identity: None,
        display_name: None,
        mood: None,
        languages: Vec::new(),
        avatar: None,
        text: None,
        key_epoch: 1,
        changed_at: None,
        linked: Vec::new(),
    }
}

fn answer_presence(command: PresenceCommand) {
    let own = || OwnPresence { state: PresenceState::Online, mood: String::new(), is_hidden: false };
    match command {
        PresenceCommand::Own(reply) => reply.send(Ok(own())),
        PresenceCommand::Set { change, reply } => {
            reply.send(Ok(OwnPresence { state: change.state.unwrap_or(PresenceState::Online), ..own() }));
        }
        PresenceCommand::Get { user, reply } => reply.send(Ok(PresenceView {
            username: user,
            state: PresenceState::Away,
            mood: "at lunch".to_owned(),
            reachability: PresenceReachability::Push,
            age_ms: 60_000,
            source: PresenceSource::Lease,
        })),
        PresenceCommand::List(reply) => reply.send(Ok(PresenceList::default())),
        PresenceCommand::Asleep { reply, .. } => reply.send(Ok(())),
    }
}

fn answer_groups(command: GroupCommand) {
    let group = |name: String| GroupEntry {
        id: "0".repeat(32),
        name,
        state: GroupState::Member,
        admin: true,
        invited_by: None,
        members: Vec::new(),
        unread: 0,
    };
    match command {
        GroupCommand::Create { name, reply } => reply.send(Ok(group(name))),
        GroupCommand::Change { group: name, reply, .. } | GroupCommand::Get { group: name, reply } => reply.send(Ok(group(name))),
        GroupCommand::List(reply) => reply.send(Ok(GroupList::default())),
    }
}

fn device(name: &str) -> DeviceView {
    DeviceView {
        peer_id: "12D3phone".to_owned(),
        name: Some(name.to_owned()),
        kind: Some("phone".to_owned()),
        is_this: false,
        state: DeviceState::Active,
        has_identity_key: Some(false),
        is_connected: true,
        last_seen: None,
        reachability: halloo::handle::directory::DeviceReachability::Direct,
        certificate_until: None,
        revoked_at: None,
        report: None,
    }
}

fn answer_choice(command: ChoiceCommand) {
    let policy = PushPolicy { version: 3, text: "version = 1\n".to_owned() };
    match command {
        ChoiceCommand::ReportUsage { report, reply } => {
            let report = DeviceReportView {
                reported_at: Timestamp::default(),
                usage: Some(report.usage),
                near: report.near,
                metres: report.metres,
                screen: None,
                camera: None,
                formats: None,
                can_ring: None,
                wake_mac: None,
            };
            reply.send(Ok(DeviceView { report: Some(report), ..device("phone") }));
        }
        ChoiceCommand::SetAttributes { reply, .. } => reply.send(Ok(device("phone"))),
        ChoiceCommand::Policy(reply) => reply.send(Ok(policy)),
        ChoiceCommand::SetPolicy { text, reply } => match text.contains("fridge") {
            true => reply.send(Err(PushError::InvalidPolicy { reason: "line 1: no such thing".to_owned() })),
            false => reply.send(Ok(PushPolicy { text, ..policy })),
        },
        ChoiceCommand::Explain { options, reply } if options.event_id.as_deref() == Some("gone") => {
            reply.send(Err(PushError::UnknownEvent { event_id: "gone".to_owned() }));
        }
        ChoiceCommand::Explain { reply, .. } => reply.send(Ok(PolicyExplanation {
            event: "voice-call".to_owned(),
            from: None,
            at: Timestamp::default(),
            version: Some(3),
            rule: Some(1),
            rule_name: None,
            passed_over: Vec::new(),
            stages: Vec::new(),
        })),
    }
}

fn answer_devices(command: DeviceCommand) {
    match command {
        DeviceCommand::List(reply) => {
            reply.send(Ok(DeviceList { username: "alice@example".to_owned(), devices: vec![device("phone")] }));
        }
        DeviceCommand::OfferLink { reply, .. } => reply.send(Ok(LinkOffer {
            id: "7".to_owned(),
            code: "K7QX-9M2P".to_owned(),
            link: "halloo:link/1/AAAA".to_owned(),
            addresses: Vec::new(),
            expires_at: Timestamp::default(),
        })),
        DeviceCommand::WaitLink { id, reply } if id != "gone" => reply.send(Ok(LinkedDevice {
            stage: LinkStage::Linked,
            peer_id: "12D3phone".to_owned(),
            name: "phone".to_owned(),
            kind: "phone".to_owned(),
            has_identity_key: false,
        })),
        DeviceCommand::WaitLink { reply, .. } => reply.send(Err(DeviceError::UnknownLink)),
        DeviceCommand::Rename { name, reply, .. } => reply.send(Ok(device(&name))),
        DeviceCommand::Revoke { device, reply, .. } => reply.send(Ok(DeviceRevocation {
            peer_id: "12D3phone".to_owned(),
            name: Some(device),
            key_epoch: 2,
            until: Timestamp::default(),
        })),
    }
}

fn answer_contacts(command: ContactCommand) {
    let privacy = Privacy {
        call: Audience::Contacts,
        video: Audience::Contacts,
        message: Audience::Contacts,
        file: Audience::Contacts,
        presence: Audience::Contacts,
        group: Audience::Contacts,
        receipts: true,
        pass_on: true,
    };
    match command {
        ContactCommand::Add { user, reply, .. } => reply.send(Ok(contact(&user, ContactState::Asked))),
        ContactCommand::Change { user, reply, .. } | ContactCommand::Get { user, reply } => {
            reply.send(Ok(contact(&user, ContactState::Contact)));
        }
        ContactCommand::List(reply) => {
            reply.send(Ok(ContactList {
                key_epoch: 1,
                contacts: vec![contact("bob", ContactState::Contact)],
                linked: Vec::new(),
            }));
        }
        ContactCommand::Avatar { reply, .. } => {
            reply.send(Ok(AvatarView { media_type: "image/png".to_owned(), data: String::new() }));
        }
        ContactCommand::Invite(reply) => reply.send(Ok(ContactInvite {
            link: "halloo:contact1AAAA".to_owned(),
            username: "me@example".to_owned(),
            identity: "ed25519:AAAA".to_owned(),
        })),
        ContactCommand::Fingerprint { user, reply } => reply.send(Ok(Fingerprint {
            username: format!("{user}@example"),
            own_identity: "ed25519:AAAA".to_owned(),
            identity: "ed25519:BBBB".to_owned(),
            safety_number: "00000 11111".to_owned(),
            changed_identity: None,
            changed_safety_number: None,
        })),
        ContactCommand::Export(reply) => reply.send(Ok(ContactBook::default())),
        ContactCommand::Import { reply, .. } => reply.send(Ok(ContactImport::default())),
        ContactCommand::Profile(reply) | ContactCommand::SetProfile { reply, .. } => reply.send(Ok(ProfileView::default())),
        ContactCommand::Privacy(reply) | ContactCommand::SetPrivacy { reply, .. } => reply.send(Ok(privacy)),
    }
}

fn push_sessions(command: PushSessionCommand) {
    let taken = || PushSessionTaken { status: "opening".to_owned(), reason: None };
    match command {
        PushSessionCommand::Settings(reply) | PushSessionCommand::Change { reply, .. } => reply.send(Ok(PushSettings::default())),
        PushSessionCommand::Request { reply, .. } => reply.send(Ok(PushSessionReport {
            mode: "B".to_owned(),
            reason: "all clients are wanted".to_owned(),
            clients: Vec::new(),
        })),
        PushSessionCommand::Take { reply, .. } | PushSessionCommand::Answer { reply, .. } => reply.send(Ok(taken())),
    }
}

fn book(command: BookCommand) {
    let of = |source: String, addresses| LinkBook { addresses, source: Some(source), books: 1, ..LinkBook::default() };
    match command {
        BookCommand::File { path, entries, reply } => reply.send(Ok(of(path.display().to_string(), entries.len()))),
        BookCommand::Server { options, reply } => reply.send(if options.password == "secret" {
            Ok(LinkBook { user: Some(options.user), ..of(options.url, 3) })
        } else {
            let reason = "it has refused the user or the password: 401 Unauthorized".into();
            Err(LinkError::Book { book: options.url, reason })
        }),
        BookCommand::Show(reply) | BookCommand::Again(reply) => {
            let read_at = Some("2026-07-24T09:00:00Z".parse().expect("a time"));
            reply.send(Ok(LinkBook { user: Some("alice".into()), read_at, ..of("https://dav.example/".into(), 3) }));
        }
        BookCommand::Forget(reply) => reply.send(Ok(LinkBook::default())),
    }
}

fn answer_linked(command: LinkedCommand) {
    match command {
        LinkedCommand::Add { options, reply } => {
            let account = format!("xmpp:{}", options.address);
            reply.send(if options.password == "secret" {
                Ok(linked_account(account))
            } else {
                Err(LinkError::Failed { account, reason: "it has refused the login: not-authorized".into() })
            });
        }
        LinkedCommand::Login { options, reply } => {
            let user_code = options.device.then(|| "ABCD-EFGH".to_owned());
            reply.send(Ok(LinkLogin { login: "1".into(), url: format!("{}/auth?state=s", options.issuer), user_code }));
        }
        LinkedCommand::AskCode { options, reply } => {
            let expires_at = "2026-07-24T09:00:00Z".parse().expect("a time");
            reply.send(Ok(LinkCode { account: options.address, expires_at }));
        }
        LinkedCommand::ShowCode { options, reply } => reply.send(if options.code == "01234567" {
            Ok(linked_account(options.address))
        } else {
            Err(LinkError::Failed { account: options.address, reason: "that isn't the code that was sent".into() })
        }),
        LinkedCommand::Book(command) => book(command),
        LinkedCommand::WaitLogin { login, reply } => reply.send(if login == "1" {
            Ok(linked_account("oidc:https://id.example#alice".into()))
        } else {
            Err(LinkError::Unknown { account: login })
        }),
        LinkedCommand::List(reply) => reply.send(Ok(LinkList {
            accounts: vec![linked_account("xmpp:alice@there.example".into())],
            carriers: vec!["place".into()],
        })),
        LinkedCommand::Find { id, reply } => {
            let user = FoundUser { username: "bob@example".into(), identity: "ed25519:AAAA".into(), proved_by: None };
            reply.send(Ok(LinkFound { id, users: vec![user], answered: 8 }));
        }
        LinkedCommand::Listing { account, is_listed, reply } => {
            reply.send(Ok(LinkedAccount { listed: is_listed, ..linked_account(account) }));
        }
        LinkedCommand::Certify { id, is_wanted, reply } => {
            reply.send(Ok(LinkCertified { id, is_certified: is_wanted, not_after: Timestamp::default() }));
        }
        LinkedCommand::Remove { account, reply } => reply.send(Ok(LinkRemoved { account, is_taken_back: true })),
    }
}

fn linked_account(account: String) -> LinkedAccount {
    let state = LinkState::Connected;
    LinkedAccount {
        account,
        state,
        reason: None,
        shown_until: None,
        tokens: false,
        listed: false,
        listed_at: 0,
        certified_until: None,
        contacts: Vec::new(),
        here: true,
        peer_id: "12D3this".to_owned(),
        device: Some("desk".to_owned()),
    }
}

async fn answer_sip(mut commands: mpsc::Receiver<SipCommand>) {
    while let Some(command) = commands.recv().await {
        match command {
            SipCommand::Add { reply, .. } | SipCommand::Password { reply, .. } => reply.send(Ok(sip_credentials())),
            SipCommand::List(reply) => reply.send(Ok(sip_accounts())),
            SipCommand::Trunks(reply) => reply.send(Ok(sip_trunks())),
            SipCommand::Remove { account, reply } => reply.send(Ok(SipAccountRemoved { account, peer_id: "12D3sip".into() })),
        }
    }
}

fn sip_credentials() -> SipCredentials {
    SipCredentials {
        account: "bob@example".into(),
        uri: "sip:bob@example".into(),
        username: "bob".into(),
        password: "p".into(),
        servers: vec!["sip:127.0.0.1:5060;transport=udp".into()],
        recovery_phrase: None,
    }
}

fn sip_trunks() -> SipTrunkList {
    let used = SipTrunkUse { of: "all".into(), calls: 1, calls_max: Some(200), minutes: 2, minutes_max: None };
    let trunk = SipTrunk {
        name: "home".into(),
        server: "sip.provider.example".into(),
        transport: "udp".into(),
        state: SipTrunkState::Failed,
        reason: Some("403 Forbidden".into()),
        patterns: vec!["+*".into()],
        emergency: false,
        used: vec![used],
        inbound: [("+4930123456".to_owned(), "bob@example".to_owned())].into(),
    };
    SipTrunkList { gateway: Some("phone@example".into()), has_gateway: true, trunks: vec![trunk] }
}

fn sip_accounts() -> SipAccountList {
    let phone = SipPhone {
        contact: "sip:bob@127.0.0.1:5062".into(),
        transport: "udp".into(),
        address: "127.0.0.1:5062".into(),
        user_agent: "\u{1b}[2Jphone".into(),
        instance: None,
        expires_at: Timestamp::from_unix_secs(0),
        push: None,
    };
    let account = SipAccount {
        account: "bob@example".into(),
        peer_id: "12D3sip".into(),
        created_at: Timestamp::from_unix_secs(0),
        phones: vec![phone],
    };
    SipAccountList { servers: vec!["sip:127.0.0.1:5060;transport=udp".into()], accounts: vec![account], banned: 0 }
}
