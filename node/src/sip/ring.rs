//! Somebody in the overlay calls: all phones of the account ring, and one answers, or another device of the user does.
//!
//! ```text
//! overlay                     edge                         phones
//! call_incoming ----------->  a leg for each, INVITE --->  ring
//! answer        <-----------  leg takes the answer   <---  200 of the first
//!                             CANCEL, Reason: 200    --->  the others
//! answered elsewhere ------>  CANCEL, Reason: 200    --->  all
//! ```
//!
//! A phone that says something while it rings (183 with a description) is heard by a contact who calls: of several, the first.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use halloo_protocol::call::Reason;
use halloo_protocol::sip::message::Message;
use halloo_protocol::sip::push::PushParams;
use halloo_protocol::sip::registrar::Binding;
use halloo_protocol::sip::reliable::to_acknowledge;
use halloo_protocol::sip::status::{Ending, ending_of, is_for_all};
use halloo_protocol::sip::timer::{INTERVAL_SECS, SessionTimer};
use halloo_protocol::sip::transaction::{ClientId, Transport};
use halloo_protocol::sip::uri::{NameAddr, address_of_user, escape_user};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tracing::debug;

use super::dialog::{ALLOW, Dialog, contact};
use super::media::{AudioCodec, PhoneLeg, PhoneMedia, Security};
use super::session::Session;
use super::sleeping::Sleeping;
use super::wire::{Cause, INBOX_MAX, Input, Wire};
use crate::handle::calls::{AnswerOptions, CallResult};
use crate::handle::{Event, EventStream, Node};

/// What a phone is told that stops ringing because somebody has answered (RFC 3326): it lists no missed call.
const ELSEWHERE: &str = "SIP;cause=200;text=\"Call completed elsewhere\"";

/// The number of the INVITE in its dialog, for its ACK: the first request of all.
const INVITE_NUMBER: u32 = 1;

/// The number of requests whose answers tell nothing; no phone has it.
const PRACK: u32 = u32::MAX;

/// A phone that registers again within this time has what was sent to it.
const JUST_SENT: std::time::Duration = std::time::Duration::from_millis(500);

/// A call for an account.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) call_id: String,
    /// The caller, verified by the overlay: `name@authority`.
    pub(super) from: String,
    /// Where that is a gateway: the telephone number that it names, verified by nobody.
    pub(super) telephone: Option<String>,
    /// The one phone that is called, by its mark in hexadecimal digits; the others don't ring.
    pub(super) phone: Option<String>,
    pub(super) account: String,
    pub(super) node: Node,
    /// The account's share of calls and ports: a place for each phone that rings.
    pub(super) legs: Arc<Semaphore>,
}

/// One phone that rings, or is about to.
struct Phone {
    id: ClientId,
    dialog: Dialog,
    leg: PhoneLeg,
    place: OwnedSemaphorePermit,
    /// Where it is, to ask once more without encryption if it can't have that.
    plain: Option<(Binding, SocketAddr)>,
    /// It has given no sign yet, so a CANCEL has to wait (RFC 3261 section 9.1).
    is_silent: bool,
    is_cancelled: bool,
    reason: Option<&'static str>,
    /// The number of the last answer that was acknowledged (RFC 3262).
    acknowledged: u32,
    /// How it is woken, if it can be.
    app: Option<PushParams>,
    sent_at: Instant,
}

struct Ringing {
    incoming: Incoming,
    wire: Wire,
    events: EventStream,
    sleeping: Sleeping,
    phones: Vec<Option<Phone>>,
    codecs: Vec<AudioCodec>,
    media: PhoneMedia,
    /// The refusals so far.
    refused: Vec<u16>,
    /// The phone that is heard while it rings, and in which codec.
    heard: Option<(usize, AudioCodec)>,
    sender: mpsc::Sender<Input>,
    inbox: mpsc::Receiver<Input>,
}

/// Rings, to the end of the call.
pub(super) async fn ring(incoming: Incoming, wire: Wire, media: PhoneMedia) {
    let events = incoming.node.subscribe();
    let codecs = match incoming.node.calls().offered_audio(&incoming.call_id).await {
        Ok(codecs) => codecs,
        Err(error) => return debug!(%error, "a call is over before it rings at phones"),
    };
    let (sender, inbox) = mpsc::channel(INBOX_MAX);
    let bindings = wire.phones_for_call(&incoming.account, incoming.phone.as_deref(), &sender).await;
    let sleeping = Sleeping::new(&bindings);
    let mut ringing = Ringing {
        incoming,
        wire,
        events,
        phones: Vec::new(),
        codecs,
        media,
        sleeping,
        refused: Vec::new(),
        heard: None,
        sender,
        inbox,
    };
    for (binding, local) in bindings {
        if let Some(local) = local {
            ringing.begin(binding, local).await;
        }
    }
    ringing.run().await;
}

impl Ringing {
    async fn begin(&mut self, binding: Binding, local: SocketAddr) {
        let security = security_of(&binding);
        let phone = self.invite(self.phones.len(), binding, local, security).await;
        self.phones.push(phone);
    }

    async fn invite(&self, index: usize, binding: Binding, local: SocketAddr, security: Security) -> Option<Phone> {
        let Ok(place) = self.incoming.legs.clone().try_acquire_owned() else {
            debug!("an account has too many calls: one doesn't ring at a phone");
            return None;
        };
        let mut leg = match self.media.open(local.ip(), security).await {
            Ok(leg) => leg,
            Err(error) => {
                debug!(%error, "no media for a phone");
                return None;
            }
        };
        leg.expect_from(binding.flow.peer.ip());
        let sdp = match leg.offer(&self.codecs) {
            Ok(sdp) => sdp,
            Err(error) => {
                debug!(%error, "a phone can't be offered the call");
                return None;
            }
        };
        let number = u32::try_from(index).ok()?;
        let (request, dialog) = invitation(&self.incoming, &binding, local);
        let request = request.with_body("application/sdp", sdp);
        let id = self.wire.request(request, binding.flow, number, &self.sender).await?;
        let (app, sent_at) = (binding.push.clone(), Instant::now());
        let plain = (security == Security::Required).then_some((binding, local));
        Some(Phone {
            id,
            dialog,
            leg,
            place,
            plain,
            is_silent: true,
            is_cancelled: false,
            reason: None,
            acknowledged: 0,
            app,
            sent_at,
        })
    }

    async fn run(mut self) {
        while self.phones.iter().any(Option::is_some) || !self.sleeping.is_empty() {
            tokio::select! {
                () = super::edge::sleep_until(self.sleeping.poll_timeout()) => {
                    let apps = self.sleeping.ask_again(Instant::now());
                    self.wire.wake(&self.incoming.account, Some(apps), Cause::Call).await;
                }
                input = self.inbox.recv() => {
                    let Some(input) = input else { return };
                    match input {
                        Input::Response(number, response) if (200..300).contains(&response.status()) => {
                            let index = number as usize;
                            if self.is_open(index) {
                                return self.answered(index, response).await;
                            }
                            self.decline_late(index, &response).await;
                        }
                        Input::Response(number, response) => self.progress(number as usize, &response).await,
                        Input::TimedOut(number) => self.gone(number as usize),
                        Input::Registered(came) => self.came(came.0, came.1).await,
                        _ => {}
                    }
                }
                record = self.events.recv() => match record.map(|record| record.event) {
                    Some(Event::CallEnded(outcome)) if outcome.call_id == self.incoming.call_id => {
                        let is_elsewhere = outcome.outcome == CallResult::AnsweredElsewhere;
                        self.cancel_all(is_elsewhere.then_some(ELSEWHERE)).await;
                    }
                    Some(Event::CallDismissed { call_id, elsewhere: true }) if call_id == self.incoming.call_id => {
                        self.cancel_all(Some(ELSEWHERE)).await;
                    }
                    // Not by one that rings: by a phone that has dialled the caller.
                    Some(Event::CallAnswered { call_id, .. }) if call_id == self.incoming.call_id => {
                        self.cancel_all(Some(ELSEWHERE)).await;
                    }
                    Some(_) => {}
                    None => self.cancel_all(None).await,
                },
            }
        }
        self.tell_refusal().await;
    }

    fn is_open(&self, index: usize) -> bool {
        self.phones.get(index).and_then(Option::as_ref).is_some_and(|phone| !phone.is_cancelled)
    }

    /// A sign of life, or a refusal.
    async fn progress(&mut self, index: usize, response: &Message) {
        let status = response.status();
        let Some(phone) = self.phones.get_mut(index).and_then(Option::as_mut) else { return };
        self.sleeping.is_awake(phone.app.as_ref());
        if status < 200 {
            if std::mem::take(&mut phone.is_silent) && phone.is_cancelled {
                self.wire.cancel(phone.id, phone.reason).await;
                return;
            }
            if self.acknowledge(index, response).await {
                self.hear(index, response).await;
            }
            return;
        }
        let (was_cancelled, plain) = (phone.is_cancelled, phone.plain.take());
        self.gone(index);
        if was_cancelled {
            return;
        }
        if let Some((binding, local)) = plain.filter(|_| ending_of(status) == Ending::NoCodec) {
            // It has no encryption of media, or it isn't switched on.
            let again = self.invite(index, binding, local, Security::Accepted).await;
            if let Some(phone) = self.phones.get_mut(index).filter(|_| again.is_some()) {
                *phone = again;
                return;
            }
        }
        self.refused.push(status);
        if is_for_all(status) {
            self.cancel_all(None).await;
        }
    }

    /// Acknowledges a provisional answer that wants it. Whether it is news: not one that comes again.
    async fn acknowledge(&mut self, index: usize, response: &Message) -> bool {
        let Some(phone) = self.phones.get_mut(index).and_then(Option::as_mut) else { return false };
        let Some((number, rack)) = to_acknowledge(response) else { return true };
        // In order only: the phone sends again what was left out (RFC 3262 section 4).
        if phone.acknowledged != 0 && number != phone.acknowledged.wrapping_add(1) {
            return false;
        }
        phone.acknowledged = number;
        phone.dialog.established(response);
        let mut request = phone.dialog.request("PRACK");
        request.add("rack", rack);
        let _ = self.wire.request(request, phone.dialog.flow, PRACK, &self.sender).await;
        true
    }

    /// A phone that rings has a description of its media: what it says goes to the caller.
    async fn hear(&mut self, index: usize, response: &Message) {
        let Some(phone) = self.phones.get_mut(index).and_then(Option::as_mut) else { return };
        if response.status() == 100 || phone.is_cancelled || response.body.is_empty() {
            return;
        }
        let codec = match phone.leg.take_early_answer(&response.body) {
            Ok(codec) => codec,
            Err(refusal) => return debug!(%refusal, "a phone isn't heard while it rings"),
        };
        if self.heard.is_some() {
            return;
        }
        let (calls, call_id) = (self.incoming.node.calls(), &self.incoming.call_id);
        if let Err(error) = calls.speak_early(call_id, Some(codec)).await {
            return debug!(%error, "a phone isn't heard while it rings");
        }
        if let Ok(port) = calls.audio(call_id).await {
            phone.leg.bridge(port);
        }
        self.heard = Some((index, codec));
    }

    /// A phone that can be woken has registered. If it hasn't shown yet that it has the call, it gets it by its new way; what was sent by the old one came to
    /// nobody.
    async fn came(&mut self, binding: Binding, local: SocketAddr) {
        if !binding.push.as_ref().is_some_and(|app| self.sleeping.contains(app)) {
            return;
        }
        for place in &mut self.phones {
            let Some(phone) = place.take_if(|phone| phone.app == binding.push) else { continue };
            if phone.dialog.flow == binding.flow && phone.sent_at.elapsed() < JUST_SENT {
                *place = Some(phone);
                return;
            }
            self.wire.abandon(phone.id).await;
        }
        self.begin(binding, local).await;
    }

    fn gone(&mut self, index: usize) {
        if let Some(phone) = self.phones.get_mut(index) {
            *phone = None;
        }
    }

    async fn cancel_all(&mut self, reason: Option<&'static str>) {
        self.sleeping.clear();
        for phone in self.phones.iter_mut().flatten().filter(|phone| !phone.is_cancelled) {
            phone.is_cancelled = true;
            phone.reason = reason;
            if !phone.is_silent {
                self.wire.cancel(phone.id, reason).await;
            }
        }
    }

    /// It answered although it was to stop, as its answer and our CANCEL have crossed.
    async fn decline_late(&mut self, index: usize, response: &Message) {
        let Some(phone) = self.phones.get_mut(index).and_then(Option::take) else { return };
        hang_up(&self.wire, phone, response, &self.sender).await;
    }

    /// All phones are done. What their person says is said to the caller; that they can't be reached isn't, as other devices may ring. Where one phone alone was
    /// meant, none does.
    async fn tell_refusal(&self) {
        let is_persons = |status: &u16| matches!(ending_of(*status), Ending::Declined | Ending::Busy);
        if self.refused.iter().any(is_persons) {
            // It may be over already.
            let _ = self.incoming.node.calls().decline(&self.incoming.call_id).await;
        } else if self.incoming.phone.is_some() {
            let _ = self.incoming.node.calls().refuse(&self.incoming.call_id, Reason::PHONE_NOT_HERE).await;
        }
    }

    /// The first phone that answers has the call.
    async fn answered(mut self, index: usize, response: Message) {
        let Some(mut phone) = self.phones.get_mut(index).and_then(Option::take) else { return };
        self.cancel_all(Some(ELSEWHERE)).await;
        phone.dialog.established(&response);
        let (wire, sender) = (self.wire.clone(), self.sender.clone());
        if let Err(reason) = self.connect(index, &mut phone, &response).await {
            debug!(reason, "a phone has answered in vain");
            hang_up(&wire, phone, &response, &sender).await;
            return self.wind_up().await;
        }
        let (session_sender, session_inbox) = mpsc::channel(INBOX_MAX);
        // Before the phone may speak: a BYE can follow its ACK at once.
        wire.follow(&phone.dialog, &self.incoming.account, &session_sender).await;
        wire.send(phone.dialog.ack(INVITE_NUMBER), phone.dialog.flow).await;
        let events = self.incoming.node.subscribe();
        let session = Session {
            timer: SessionTimer::answered(&response, Instant::now()),
            dialog: phone.dialog,
            leg: phone.leg,
            node: self.incoming.node.clone(),
            call_id: self.incoming.call_id.clone(),
            wire,
            events,
            inbox_sender: session_sender,
            inbox: session_inbox,
            unacknowledged: None,
            awaits_answer: false,
            may_transfer: true,
            transfer: None,
            account: self.incoming.account.clone(),
            media: self.media.clone(),
            conference: None,
            legs: Vec::new(),
        };
        let acknowledge = (session.dialog.clone(), session.wire.clone(), index);
        let place = phone.place;
        // The place is free once the call is over; last words are waited for beyond that.
        let talking = async {
            session.run().await;
            drop(place);
        };
        tokio::join!(talking, self.wind_up_after(Some(acknowledge)));
    }

    async fn connect(&self, index: usize, phone: &mut Phone, response: &Message) -> Result<(), String> {
        let codec = match (response.body.is_empty(), phone.leg.agreed()) {
            // It has said all while it rang.
            (true, Some(agreed)) => agreed.codec,
            _ => phone.leg.take_answer(&response.body).map_err(|refusal| refusal.to_string())?,
        };
        let (calls, call_id) = (self.incoming.node.calls(), &self.incoming.call_id);
        let is_heard = self.heard == Some((index, codec));
        if self.heard.is_some() && !is_heard {
            calls.speak_early(call_id, None).await.map_err(|error| error.to_string())?;
        }
        let options = AnswerOptions { passthrough: vec![codec], ..AnswerOptions::default() };
        calls.answer(call_id, options).await.map_err(|error| error.to_string())?;
        if !is_heard {
            let port = calls.audio(call_id).await.map_err(|error| error.to_string())?;
            phone.leg.bridge(port);
        }
        Ok(())
    }

    async fn wind_up(self) {
        self.wind_up_after(None).await;
    }

    /// Takes what phones still say that lost, and acknowledges the winner's answer again if it comes again.
    async fn wind_up_after(mut self, winner: Option<(Dialog, Wire, usize)>) {
        /// The transactions are over then.
        const LAST_WORDS: std::time::Duration = std::time::Duration::from_secs(35);
        let end = tokio::time::Instant::now() + LAST_WORDS;
        while let Ok(Some(input)) = tokio::time::timeout_at(end, self.inbox.recv()).await {
            match input {
                Input::Response(number, response) if (200..300).contains(&response.status()) => match &winner {
                    Some((dialog, wire, index)) if *index == number as usize => {
                        let number = response.cseq().map_or(1, |(number, _)| number);
                        wire.send(dialog.ack(number), dialog.flow).await;
                    }
                    _ => self.decline_late(number as usize, &response).await,
                },
                Input::Response(number, response) => self.progress(number as usize, &response).await,
                Input::TimedOut(number) => self.gone(number as usize),
                _ => {}
            }
        }
    }
}

/// How a phone's media are offered: encrypted where its signalling is, as the keys are in it.
const fn security_of(binding: &Binding) -> Security {
    match binding.flow.transport {
        Transport::Tls => Security::Required,
        Transport::Udp | Transport::Tcp => Security::Accepted,
    }
}

async fn hang_up(wire: &Wire, mut phone: Phone, response: &Message, sender: &mpsc::Sender<Input>) {
    phone.dialog.established(response);
    wire.send(phone.dialog.ack(INVITE_NUMBER), phone.dialog.flow).await;
    let bye = phone.dialog.request("BYE");
    let _ = wire.request(bye, phone.dialog.flow, PRACK, sender).await;
}

/// How a caller of the telephone network is shown: by the number that the gateway's provider names, so that it can be called back, and as what nobody has
/// verified.
fn telephone_caller(number: &str, gateway: &str) -> NameAddr {
    let host = gateway.split('@').nth(1).unwrap_or_default();
    let is_number = number.bytes().all(|b| b.is_ascii_digit() || b"+*#".contains(&b));
    let user = if is_number { escape_user(number) } else { "anonymous".to_owned() };
    let uri = format!("sip:{user}@{host}{}", if is_number { ";user=phone" } else { "" });
    NameAddr { display: format!("{number} (telephone, not verified)"), uri, params: Vec::new() }
}

/// The INVITE: from whom the overlay has verified, in `From` and in `P-Asserted-Identity` (RFC 3325), to the account.
fn invitation(incoming: &Incoming, binding: &Binding, local: SocketAddr) -> (Message, Dialog) {
    let address = |user: &str| NameAddr { display: String::new(), uri: address_of_user(user), params: Vec::new() };
    let mut asserted = address(&incoming.from);
    incoming.from.split('@').next().unwrap_or_default().clone_into(&mut asserted.display);
    let caller = incoming.telephone.as_ref().map_or_else(|| asserted.clone(), |number| telephone_caller(number, &incoming.from));
    let name = incoming.account.split('@').next().unwrap_or_default();
    let contact = contact(name, local, binding.flow);
    let mut dialog = Dialog::calling(&caller, &address(&incoming.account), &binding.contact, binding.flow, contact);
    let mut request = dialog.request("INVITE");
    request.add("p-asserted-identity", asserted.to_string());
    request.add("allow", ALLOW);
    request.add("supported", "timer, gruu, outbound, 100rel, replaces");
    request.add("session-expires", INTERVAL_SECS.to_string());
    (request, dialog)
}
