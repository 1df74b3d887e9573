//! Requests of peers, each to the capability it is for.

use halloo_protocol::authority::{
    CodeRequest, CodeShow, EnrolRequest, RenewRequest, RevocationListAnswer, RevocationListRequest,
};
use halloo_protocol::call::conference::ConferenceNotice;
use halloo_protocol::call::{CallInvite, CallSignal, CallSignalAck, CallTraceAsk, InviteHandOver, InviteHandedOver, SignalPass};
use halloo_protocol::choice::PushWithdraw;
use halloo_protocol::file::{FileAccept, FileHashes, FileRead};
use halloo_protocol::identity::VerifiedChain;
use halloo_protocol::kademlia::Request;
use halloo_protocol::linked::LinkedAsk;
use halloo_protocol::linking::{LinkConfirm, LinkDone, LinkStart};
use halloo_protocol::mailbox::{MailboxOpen, MailboxPut, MailboxTake};
use halloo_protocol::message::{HistoryRequest, MessageDeliver};
use halloo_protocol::own_device::{DeviceRename, DeviceRenew};
use halloo_protocol::push::phone::PhonePush;
use halloo_protocol::push::session::{SessionContent, SessionRequest};
use halloo_protocol::push::{PushArrived, PushChannelGone, PushDeliver};
use halloo_protocol::relay::RelayRequest;
use halloo_protocol::session::{KeyFetch, MailboxKeyFetch, MailboxKeys};
use halloo_protocol::vault::{VaultFetch, VaultLook, VaultPut};
use halloo_protocol::voicemail::VoicemailFetch;
use halloo_protocol::wire::{DecodeError, Extensions, Frame, FrameKind, Message};
use libp2p::PeerId;
use libp2p::swarm::ConnectionId;
use tracing::debug;

use crate::address;
use crate::event_loop::EventLoop;
use crate::roles::authority::{Asker, NetworkGroup};

impl EventLoop {
    /// Answers one request. Kinds this version doesn't know, and bodies it can't read, are answered as unsupported and counted.
    pub(crate) fn handle_request(&mut self, peer: PeerId, via: ConnectionId, frame: &Frame) {
        if Request::is_kind(frame.kind) {
            return self.handle_directory_request(peer, via, frame);
        }
        let answer = match frame.kind {
            MessageDeliver::KIND => self.with(frame, |node, message: MessageDeliver| node.handle_message_deliver(peer, message)),
            FileAccept::KIND => self.with(frame, |node, request: FileAccept| node.handle_file_accept(peer, &request)),
            FileHashes::KIND => self.with(frame, |node, request: FileHashes| node.handle_file_hashes(peer, &request)),
            FileRead::KIND => return self.handle_file_read(peer, via, frame),
            HistoryRequest::KIND => self.with(frame, |node, request: HistoryRequest| node.handle_history_request(peer, &request)),
            VoicemailFetch::KIND => self.with(frame, |node, request: VoicemailFetch| node.handle_voicemail_fetch(peer, &request)),
            KeyFetch::KIND => self.with(frame, |node, _: KeyFetch| {
                let chain = node.chain_of(&peer);
                node.handle_key_fetch(chain.as_ref())
            }),
            CallInvite::KIND => self.with(frame, |node, invite: CallInvite| node.handle_invite(&invite)),
            InviteHandOver::KIND => return self.handle_hand_over(peer, via, frame),
            SignalPass::KIND => return self.handle_signal_pass(peer, via, frame),
            InviteHandedOver::KIND => self.with(frame, |node, message: InviteHandedOver| node.handle_handed_over(peer, &message)),
            CallSignal::KIND => self.with(frame, |node, signal: CallSignal| CallSignalAck {
                status: node.handle_call_signal(&signal.signal),
                extensions: Extensions::none(),
            }),
            CallTraceAsk::KIND => self.with(frame, |node, ask: CallTraceAsk| node.handle_call_trace_ask(peer, &ask)),
            ConferenceNotice::KIND => self.with(frame, |node, notice: ConferenceNotice| node.handle_conference_notice(&notice)),
            MailboxOpen::KIND => self.with(frame, |node, request: MailboxOpen| {
                let chain = node.chain_of(&peer);
                node.handle_mailbox_open(chain.as_ref(), &request)
            }),
            MailboxPut::KIND => self.with(frame, |node, request: MailboxPut| {
                let chain = node.chain_of(&peer);
                node.handle_mailbox_put(peer, chain.as_ref(), &request)
            }),
            MailboxTake::KIND => self.with(frame, |node, request: MailboxTake| {
                let chain = node.chain_of(&peer);
                node.handle_mailbox_take(chain.as_ref(), &request)
            }),
            VaultLook::KIND => self.with(frame, |node, _: VaultLook| {
                let chain = node.chain_of(&peer);
                node.handle_vault_look(chain.as_ref())
            }),
            VaultFetch::KIND => self.with(frame, |node, request: VaultFetch| {
                let chain = node.chain_of(&peer);
                node.handle_vault_fetch(chain.as_ref(), &request)
            }),
            VaultPut::KIND => self.with(frame, |node, request: VaultPut| {
                let chain = node.chain_of(&peer);
                node.handle_vault_put(chain.as_ref(), request)
            }),
            MailboxKeys::KIND => self.with(frame, |node, request: MailboxKeys| {
                let chain = node.chain_of(&peer);
                node.handle_mailbox_keys(chain.as_ref(), &request)
            }),
            MailboxKeyFetch::KIND => self.with(frame, |node, request: MailboxKeyFetch| {
                let chain = node.chain_of(&peer);
                node.handle_mailbox_key_fetch(peer, chain.as_ref(), &request)
            }),
            RelayRequest::KIND => self.with(frame, |node, _: RelayRequest| node.handle_relay_request(peer)),
            kind if crate::roles::gateway::is_for_gateway(kind) => return self.handle_gateway_request(peer, via, frame),
            PushWithdraw::KIND => self.with(frame, |node, request: PushWithdraw| node.handle_push_withdraw(peer, &request)),
            PushDeliver::KIND => self.with(frame, |node, request: PushDeliver| node.handle_push_deliver(&request.payload)),
            PushArrived::KIND => self.with(frame, |node, arrived: PushArrived| node.handle_push_arrived(peer, &arrived)),
            PushChannelGone::KIND => {
                self.with(frame, |node, notice: PushChannelGone| node.handle_push_channel_gone(&peer, &notice))
            }
            PhonePush::KIND => return self.handle_phone_push(peer, via, frame),
            SessionRequest::KIND => self.with(frame, |node, request: SessionRequest| node.handle_session_request(&request)),
            SessionContent::KIND => self.with(frame, |node, request: SessionContent| node.handle_session_content(peer, request)),
            LinkStart::KIND => self.with(frame, |node, message: LinkStart| node.handle_link_start(peer, &message)),
            LinkConfirm::KIND => self.with(frame, |node, message: LinkConfirm| node.handle_link_confirm(peer, &message)),
            LinkDone::KIND => self.with(frame, |node, message: LinkDone| node.handle_link_done(peer, &message)),
            DeviceRenew::KIND => self.with(frame, |node, _: DeviceRenew| node.handle_device_renew(peer)),
            DeviceRename::KIND => self.with(frame, |node, request: DeviceRename| node.handle_device_rename(peer, request)),
            LinkedAsk::KIND => return self.handle_linked_ask(peer, via, frame),
            RevocationListRequest::KIND => {
                self.with(frame, |node, request: RevocationListRequest| node.answer_revocations(&request))
            }
            EnrolRequest::KIND | RenewRequest::KIND | CodeRequest::KIND | CodeShow::KIND => {
                return self.ask_authority(peer, via, frame);
            }
            FrameKind::SIGN_OF_LIFE => Ok(unsupported(frame.id)),
            kind => {
                debug!(%peer, kind = kind.0, "request of an unknown kind");
                self.counters.unknown_kinds += 1;
                Ok(unsupported(frame.id))
            }
        };
        let answer = answer.unwrap_or_else(|error| {
            debug!(%peer, %error, "request refused");
            self.counters.malformed += 1;
            unsupported(frame.id)
        });
        self.answer_encoded(peer, via, answer.id, answer.kind, answer.body);
    }

    pub(crate) fn with<Q: Message, A: Message>(
        &mut self,
        frame: &Frame,
        answer: impl FnOnce(&mut Self, Q) -> A,
    ) -> Result<Frame, DecodeError> {
        let request: Q = frame.parse()?;
        Ok(Frame::new(frame.id, &answer(self, request)))
    }

    pub(crate) fn chain_of(&self, peer: &PeerId) -> Option<VerifiedChain> {
        self.peers.get(peer).and_then(|known| known.chain.clone())
    }

    fn answer_revocations(&self, request: &RevocationListRequest) -> RevocationListAnswer {
        let list = self.trust.revocation_list(&request.authority).filter(|list| list.list.unverified().number > request.have);
        RevocationListAnswer { list: list.cloned(), extensions: Extensions::none() }
    }

    fn ask_authority(&mut self, peer: PeerId, via: ConnectionId, frame: &Frame) {
        let now = self.now().unix;
        let lab = self.settings.lab;
        let asker = self.peers.get(&peer).map(|known| Asker {
            device: known.device,
            // In a lab all come from one address.
            network: known.address.as_ref().filter(|_| !lab).and_then(address::ip_of).and_then(NetworkGroup::of),
        });
        let answer = match (&mut self.authority, asker) {
            (Some(_), Some(asker)) if matches!(frame.kind, CodeRequest::KIND | CodeShow::KIND) => {
                self.answer_code(frame, &asker, now)
            }
            (Some(_), Some(asker)) if frame.kind == RenewRequest::KIND => Some(self.answer_renewal(frame, &asker)),
            (Some(authority), Some(asker)) => authority.handle_frame(frame, &asker, now),
            _ => None,
        };
        let answer = answer.unwrap_or_else(|| unsupported(frame.id));
        self.answer_encoded(peer, via, answer.id, answer.kind, answer.body);
    }
}

pub(crate) const fn unsupported(id: u32) -> Frame {
    Frame { kind: FrameKind::UNSUPPORTED, id, body: Vec::new() }
}
