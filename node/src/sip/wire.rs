//! The edge as its calls and other handlers see it: what they can ask of it, and what it tells them.

use std::net::SocketAddr;
use std::time::Duration;

use halloo_protocol::sip::message::Message;
use halloo_protocol::sip::push::PushParams;
use halloo_protocol::sip::registrar::Binding;
use halloo_protocol::sip::replaces::Replaces;
use halloo_protocol::sip::transaction::{ClientId, Flow, ServerId};
use halloo_protocol::trunk::number::Dialled;
use tokio::sync::{mpsc, oneshot};

use super::dialog::Dialog;
pub(super) use super::edge::wake::Cause;
use crate::handle::Node;

/// Requests to the edge that wait for it.
pub(super) const ASKED_MAX: usize = 1_024;

/// What may wait for one call or handler; one that doesn't keep up loses messages, as a network loses them.
pub(super) const INBOX_MAX: usize = 64;

/// A request of a phone, authenticated.
#[derive(Debug)]
pub(super) struct Arrived {
    /// To answer by.
    pub(super) id: ServerId,
    /// It.
    pub(super) request: Message,
    /// Whence it came.
    pub(super) flow: Flow,
    /// The edge's own address there.
    pub(super) local: SocketAddr,
    /// Whose it is, `name@authority`.
    pub(super) account: String,
    /// The account's node.
    pub(super) node: Node,
    /// What it has to do with the telephone network.
    pub(super) telephone: Telephone,
}

/// What a request has to do with the telephone network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Telephone {
    /// Of a phone, where nobody has named a gateway: only what can be nothing else is a number.
    #[default]
    None,
    /// Of a phone that may dial digits: there is a gateway.
    Dials,
    /// Of a provider: a call to a number of this user's, from the one that the provider names.
    From {
        /// Whom it rings at.
        user: String,
        /// From where; `None`: withheld.
        number: Option<Dialled>,
    },
}

/// What is told to a call.
#[derive(Debug)]
pub(super) enum Input {
    /// A request within the dialog, of the same address as before.
    Request(ServerId, Message),
    /// The ACK to a 2xx.
    Ack(Message),
    /// A response to one of its requests, by the number it gave.
    Response(u32, Message),
    /// Nobody has answered that request.
    TimedOut(u32),
    /// The phone has taken its INVITE back.
    Cancelled,
    /// The phone never acknowledged a final answer.
    Unacknowledged,
    /// A phone that can be woken has registered, and the edge's own address on the way to it.
    Registered(Box<(Binding, SocketAddr)>),
    /// Which call of the overlay's it is, if it is this dialog and answered.
    Which(Box<Replaces>, oneshot::Sender<String>),
    /// Another phone of the account is to have the call, if it is this dialog and answered: its INVITE.
    TakeOver(Box<Arrived>, Box<Replaces>),
    /// The phone has registered anew, over another connection or from another address: this is the way to it now.
    Moved(Flow),
}

/// What the edge can be asked by its own.
#[derive(Debug)]
pub(super) enum Ask {
    Respond {
        id: ServerId,
        response: Box<Message>,
    },
    Acknowledged(ServerId),
    Request {
        request: Box<Message>,
        flow: Flow,
        number: u32,
        inbox: mpsc::Sender<Input>,
        /// Who wants to know by which name it was sent; without it the inbox is told if it wasn't.
        sent: Option<oneshot::Sender<Option<ClientId>>>,
    },
    /// Sends without waiting for anything: the ACK to a 2xx.
    Send {
        request: Box<Message>,
        flow: Flow,
    },
    /// Its answer isn't waited for any more.
    Abandon(ClientId),
    Cancel {
        id: ClientId,
        reason: Option<&'static str>,
    },
    /// Further requests of this Call-ID go to this inbox.
    Follow {
        call_id: String,
        account: String,
        flow: Flow,
        inbox: mpsc::Sender<Input>,
    },
    Unfollow {
        call_id: String,
    },
    /// Which call of the overlay's a dialog of this account is.
    Which {
        account: String,
        dialog: Box<Replaces>,
        reply: oneshot::Sender<String>,
    },
    /// This end of a flow, as the other should know it.
    Local {
        flow: Flow,
        reply: oneshot::Sender<Option<SocketAddr>>,
    },
    /// Keeps what lies between from forgetting the flow (RFC 5626 section 4.4.1).
    Ping(Flow),
    Bindings {
        account: String,
        reply: oneshot::Sender<Vec<(Binding, SocketAddr)>>,
    },
    /// Where an account's phones were that sleep.
    Sleepers {
        account: String,
        reply: oneshot::Sender<Vec<Flow>>,
    },
    /// All phones of an account, those that sleep among them, or the one with this mark; `inbox` is told when they register.
    PhonesForCall {
        account: String,
        phone: Option<String>,
        inbox: mpsc::Sender<Input>,
        reply: oneshot::Sender<Vec<(Binding, Option<SocketAddr>)>>,
    },
    /// Wakes these apps, or all that sleep.
    Wake {
        account: String,
        apps: Option<Vec<PushParams>>,
        cause: Cause,
    },
}

/// The edge's other end; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Wire(pub(super) mpsc::Sender<Ask>);

/// Nobody has answered, or there was no way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no answer")]
pub(super) struct NoAnswer;

impl Wire {
    async fn tell(&self, ask: Ask) {
        // The edge ends last: it is gone only when everything is.
        let _ = self.0.send(ask).await;
    }

    /// Answers a request.
    pub(super) async fn respond(&self, id: ServerId, response: Message) {
        self.tell(Ask::Respond { id, response: Box::new(response) }).await;
    }

    /// The ACK to our 2xx is here.
    pub(super) async fn acknowledged(&self, id: ServerId) {
        self.tell(Ask::Acknowledged(id)).await;
    }

    /// Sends a request; what is answered comes to `inbox` with this number. The edge adds `Via`.
    pub(super) async fn request(
        &self,
        request: Message,
        flow: Flow,
        number: u32,
        inbox: &mpsc::Sender<Input>,
    ) -> Option<ClientId> {
        let (sent, receiver) = oneshot::channel();
        self.tell(Ask::Request { request: Box::new(request), flow, number, inbox: inbox.clone(), sent: Some(sent) }).await;
        receiver.await.ok().flatten()
    }

    /// Sends a request; its answer, or that there is none, comes to `inbox` with this number.
    pub(super) async fn start(&self, request: Message, flow: Flow, number: u32, inbox: &mpsc::Sender<Input>) {
        self.tell(Ask::Request { request: Box::new(request), flow, number, inbox: inbox.clone(), sent: None }).await;
    }

    /// Sends a request that nobody answers.
    pub(super) async fn send(&self, request: Message, flow: Flow) {
        self.tell(Ask::Send { request: Box::new(request), flow }).await;
    }

    /// Takes an INVITE of ours back.
    pub(super) async fn cancel(&self, id: ClientId, reason: Option<&'static str>) {
        self.tell(Ask::Cancel { id, reason }).await;
    }

    /// Further requests of the phone in this dialog go to `inbox`.
    pub(super) async fn follow(&self, dialog: &Dialog, account: &str, inbox: &mpsc::Sender<Input>) {
        let (call_id, account) = (dialog.call_id.clone(), account.to_owned());
        self.tell(Ask::Follow { call_id, account, flow: dialog.flow, inbox: inbox.clone() }).await;
    }

    /// The dialog is over.
    pub(super) async fn unfollow(&self, call_id: &str) {
        self.tell(Ask::Unfollow { call_id: call_id.to_owned() }).await;
    }

    /// The call that an answered dialog of this account is; `None` where there is none.
    pub(super) async fn which(&self, account: &str, dialog: Replaces) -> Option<String> {
        let (reply, receiver) = oneshot::channel();
        self.tell(Ask::Which { account: account.to_owned(), dialog: Box::new(dialog), reply }).await;
        receiver.await.ok()
    }

    /// This end of a flow as the other end should know it; `None` where its connection is gone.
    pub(super) async fn local(&self, flow: Flow) -> Option<SocketAddr> {
        let (reply, receiver) = oneshot::channel();
        self.tell(Ask::Local { flow, reply }).await;
        receiver.await.ok().flatten()
    }

    /// Sends what nobody answers, and what keeps the way open.
    pub(super) async fn ping(&self, flow: Flow) {
        self.tell(Ask::Ping(flow)).await;
    }

    /// The phones of an account, the preferred first, each with the edge's own address on the way to it.
    pub(super) async fn bindings(&self, account: &str) -> Vec<(Binding, SocketAddr)> {
        let (reply, receiver) = oneshot::channel();
        self.tell(Ask::Bindings { account: account.to_owned(), reply }).await;
        receiver.await.unwrap_or_default()
    }

    /// Where an account's phones were that sleep, and can be woken.
    pub(super) async fn sleepers(&self, account: &str) -> Vec<Flow> {
        let (reply, receiver) = oneshot::channel();
        self.tell(Ask::Sleepers { account: account.to_owned(), reply }).await;
        receiver.await.unwrap_or_default()
    }

    /// The phones of an account for a call, or the one with this mark. Those without an address of the edge's sleep, and are being woken; `inbox` is told when they, or others that can be
    /// woken, have registered.
    pub(super) async fn phones_for_call(
        &self,
        account: &str,
        phone: Option<&str>,
        inbox: &mpsc::Sender<Input>,
    ) -> Vec<(Binding, Option<SocketAddr>)> {
        let (reply, receiver) = oneshot::channel();
        self.tell(Ask::PhonesForCall {
            account: account.to_owned(),
            phone: phone.map(str::to_owned),
            inbox: inbox.clone(),
            reply,
        })
        .await;
        receiver.await.unwrap_or_default()
    }

    /// Wakes these apps of an account, or all that sleep.
    pub(super) async fn wake(&self, account: &str, apps: Option<Vec<PushParams>>, cause: Cause) {
        self.tell(Ask::Wake { account: account.to_owned(), apps, cause }).await;
    }

    /// What was sent has come to nobody: its answer isn't waited for.
    pub(super) async fn abandon(&self, id: ClientId) {
        self.tell(Ask::Abandon(id)).await;
    }

    /// Sends a request to a phone, outside a dialog or within one, and waits for its final answer. The way for messages and notices: sent again until
    /// answered (RFC 3261 section 17.1.2), given up after 32 s, or after `limit` if that is less.
    pub(super) async fn ask(&self, request: Message, flow: Flow, limit: Duration) -> Result<Message, NoAnswer> {
        self.begin(request, flow).await?.answer(limit).await
    }

    /// The same in two steps: it is sent when this returns, so that what begins first is sent first.
    pub(super) async fn begin(&self, request: Message, flow: Flow) -> Result<Begun, NoAnswer> {
        let (sender, inbox) = mpsc::channel(INBOX_MAX);
        let id = self.request(request, flow, 0, &sender).await.ok_or(NoAnswer)?;
        Ok(Begun { wire: self.clone(), id, inbox })
    }
}

/// A request to a phone that waits for its answer.
#[derive(Debug)]
pub(super) struct Begun {
    wire: Wire,
    id: ClientId,
    inbox: mpsc::Receiver<Input>,
}

impl Begun {
    /// Its final answer.
    pub(super) async fn answer(mut self, limit: Duration) -> Result<Message, NoAnswer> {
        let answer = async {
            while let Some(input) = self.inbox.recv().await {
                match input {
                    Input::Response(_, response) if response.status() >= 200 => return Ok(response),
                    Input::TimedOut(_) => return Err(NoAnswer),
                    _ => {}
                }
            }
            Err(NoAnswer)
        };
        match tokio::time::timeout(limit, answer).await {
            Ok(answer) => answer,
            Err(_elapsed) => {
                self.wire.abandon(self.id).await;
                Err(NoAnswer)
            }
        }
    }
}
