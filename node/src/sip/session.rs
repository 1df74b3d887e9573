//! An answered call between a phone and the overlay, whoever called: holding, refreshing, transfer, hanging up, from either side.

use std::time::{Duration, Instant};

use halloo_protocol::phone::keys;
use halloo_protocol::sip::message::Message;
use halloo_protocol::sip::replaces::Replaces;
use halloo_protocol::sip::status::reason_of;
use halloo_protocol::sip::timer::{Due, SessionTimer};
use halloo_protocol::sip::transaction::ServerId;
use halloo_protocol::sip::uri::{NameAddr, SipUri, user_of_address};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

use super::dialog::{Dialog, contact, token};
use super::media::{LegEvent, MediaRefusal, PhoneLeg, PhoneMedia, Security};
use super::wire::{Arrived, Input, Wire};
use crate::handle::calls::{AddOptions, CallState};
use crate::handle::{Event, EventStream, Node};

/// The number of requests within a dialog, for their answers.
const REFRESH: u32 = 1_000;
const GOODBYE: u32 = 1_001;
const NOTICE: u32 = 1_002;

/// How long a transfer may go on after its phone has hung up: a call rings for a minute, and is to be connected then.
const TRANSFER_MAX: Duration = Duration::from_secs(80);

/// Who ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EndedBy {
    Phone,
    Overlay,
}

/// A call that goes on.
pub(super) struct Session {
    pub(super) dialog: Dialog,
    pub(super) leg: PhoneLeg,
    pub(super) node: Node,
    pub(super) call_id: String,
    pub(super) wire: Wire,
    pub(super) timer: SessionTimer,
    pub(super) events: EventStream,
    pub(super) inbox_sender: mpsc::Sender<Input>,
    pub(super) inbox: mpsc::Receiver<Input>,
    /// The INVITE whose 2xx has no ACK yet.
    pub(super) unacknowledged: Option<ServerId>,
    /// The phone's INVITE had no offer: the ACK has the answer to ours.
    pub(super) awaits_answer: bool,
    /// Whether the phone may add somebody to the call: a provider may not.
    pub(super) may_transfer: bool,
    /// What the phone transfers the call to is on its way: the status that it ends with.
    pub(super) transfer: Option<AbortOnDropHandle<u16>>,
    /// Whose phone it is.
    pub(super) account: String,
    pub(super) media: PhoneMedia,
    /// The conference that the call is part of, and its other legs here: when the one that the phone hears ends, as after a transfer at the other end, the phone
    /// goes on with another.
    pub(super) conference: Option<String>,
    pub(super) legs: Vec<String>,
}

impl Session {
    /// Goes on until either side ends it, and tells the other.
    pub(super) async fn run(mut self) {
        let ended_by = self.go_on().await;
        match ended_by {
            // It may have ended meanwhile.
            EndedBy::Phone => {
                self.await_transfer().await;
                drop(self.node.calls().hangup(&self.call_id).await);
            }
            EndedBy::Overlay => self.say_goodbye().await,
        }
        self.wire.unfollow(&self.dialog.call_id).await;
        let stats = self.leg.close().await;
        debug!(?stats, "a phone's call is over");
    }

    async fn go_on(&mut self) -> EndedBy {
        loop {
            let (due, what) = self.timer.due();
            tokio::select! {
                input = self.inbox.recv() => {
                    let Some(input) = input else { return EndedBy::Overlay };
                    if let Some(ended_by) = self.handle(input).await {
                        return ended_by;
                    }
                }
                record = self.events.recv() => match record.map(|record| record.event) {
                    Some(event) => {
                        if !self.follow_call(event).await {
                            return EndedBy::Overlay;
                        }
                    }
                    None => return EndedBy::Overlay,
                },
                event = self.leg.next_event() => match event {
                    Some(LegEvent::PhoneSilent(secs)) => {
                        debug!(secs, "nothing is heard from a phone that says that it sends: its call ends");
                        self.say_goodbye().await;
                        return EndedBy::Phone;
                    }
                    // The next leg is taken when the call's end is told.
                    Some(LegEvent::Ended) if self.conference.is_some() => {}
                    Some(LegEvent::Ended) | None => return EndedBy::Overlay,
                    Some(_) => {}
                },
                status = transferred(&mut self.transfer) => {
                    self.transfer = None;
                    self.notice(status, true).await;
                    if status == 200 {
                        // It leaves; the others have each other.
                        self.say_goodbye().await;
                        return EndedBy::Phone;
                    }
                }
                () = tokio::time::sleep_until(due.into()) => match what {
                    Due::Refresh => self.refresh().await,
                    Due::End => {
                        debug!("a phone doesn't refresh its call");
                        self.say_goodbye().await;
                        return EndedBy::Phone;
                    }
                },
            }
        }
    }

    async fn handle(&mut self, input: Input) -> Option<EndedBy> {
        match input {
            Input::Request(id, request) => return self.handle_request(id, request).await,
            Input::Ack(ack) => return self.handle_ack(&ack).await,
            Input::Unacknowledged => {
                debug!("a phone never acknowledged its call");
                self.say_goodbye().await;
                return Some(EndedBy::Phone);
            }
            // RFC 3261 section 12.2.1.2: the phone knows nothing of the call, or isn't there.
            Input::TimedOut(REFRESH) => return Some(EndedBy::Phone),
            Input::Response(REFRESH, response) => return self.handle_refreshed(&response).await,
            Input::Moved(flow) => {
                self.dialog.flow = flow;
                self.leg.expect_from(flow.peer.ip());
            }
            Input::Which(dialog, reply) => {
                if self.dialog.is_replaced_by(&dialog) {
                    // Whoever asked may be gone.
                    let _ = reply.send(self.call_id.clone());
                }
            }
            Input::TakeOver(arrived, replaces) => self.take_over(*arrived, &replaces).await,
            Input::Response(..) | Input::TimedOut(_) | Input::Cancelled | Input::Registered(_) => {}
        }
        None
    }

    async fn handle_request(&mut self, id: ServerId, request: Message) -> Option<EndedBy> {
        if let Err(status) = self.dialog.check(&request) {
            self.refuse(id, &request, status, reason_of(status)).await;
            return None;
        }
        match request.method() {
            "BYE" => {
                self.accept(id, &request).await;
                return Some(EndedBy::Phone);
            }
            "INVITE" => self.reinvite(id, &request).await,
            "UPDATE" => self.update(id, &request).await,
            "REFER" if self.may_transfer => self.refer(id, &request).await,
            "REFER" => self.refuse(id, &request, 403, reason_of(403)).await,
            "INFO" if keys::is_key_info(request.get("content-type").unwrap_or_default()) => self.press(id, &request).await,
            // PRACK: of what was told before the answer, which has overtaken it.
            "OPTIONS" | "INFO" | "NOTIFY" | "PRACK" => self.accept(id, &request).await,
            _ => self.refuse(id, &request, 501, reason_of(501)).await,
        }
        None
    }

    async fn handle_ack(&mut self, ack: &Message) -> Option<EndedBy> {
        if self.dialog.check(ack).is_err() {
            return None;
        }
        if let Some(id) = self.unacknowledged.take() {
            self.wire.acknowledged(id).await;
        }
        if std::mem::take(&mut self.awaits_answer)
            && let Err(error) = self.leg.take_answer(&ack.body)
        {
            debug!(%error, "a phone's answer can't be used");
            self.say_goodbye().await;
            return Some(EndedBy::Phone);
        }
        None
    }

    async fn accept(&self, id: ServerId, request: &Message) {
        self.wire.respond(id, self.dialog.answer(request, 200, "OK")).await;
    }

    async fn refuse(&self, id: ServerId, request: &Message, status: u16, reason: &str) {
        self.wire.respond(id, self.dialog.answer(request, status, reason)).await;
    }

    /// The phone holds, goes on, has moved or refreshes (RFC 3261 section 14.2).
    async fn reinvite(&mut self, id: ServerId, request: &Message) {
        if self.unacknowledged.is_some() {
            return self.refuse(id, request, 491, reason_of(491)).await;
        }
        let Some(timer) = self.agreed_timer(id, request).await else { return };
        let described = match request.body.is_empty() {
            true => self.leg.offer(&[]).map(|sdp| (sdp, true)),
            false => self.leg.reanswer(&request.body).map(|answer| (answer.sdp, false)),
        };
        match described {
            Ok((sdp, awaits_answer)) => {
                self.awaits_answer = awaits_answer;
                self.unacknowledged = Some(id);
                self.answer_refreshed(id, request, timer, Some(sdp)).await;
            }
            Err(refusal) => self.refuse_media(id, request, &refusal).await,
        }
    }

    async fn update(&mut self, id: ServerId, request: &Message) {
        let Some(timer) = self.agreed_timer(id, request).await else { return };
        if request.body.is_empty() {
            return self.answer_refreshed(id, request, timer, None).await;
        }
        match self.leg.reanswer(&request.body) {
            Ok(answer) => self.answer_refreshed(id, request, timer, Some(answer.sdp)).await,
            Err(refusal) => self.refuse_media(id, request, &refusal).await,
        }
    }

    /// The session timer that a request asks for. One that is too short is refused before anything else of the request counts.
    async fn agreed_timer(&self, id: ServerId, request: &Message) -> Option<SessionTimer> {
        match SessionTimer::asked(request, Instant::now()) {
            Ok(timer) => Some(timer),
            Err(min) => {
                let mut refusal = self.dialog.answer(request, 422, reason_of(422));
                refusal.add("min-se", min.to_string());
                self.wire.respond(id, refusal).await;
                None
            }
        }
    }

    async fn answer_refreshed(&mut self, id: ServerId, request: &Message, timer: SessionTimer, sdp: Option<String>) {
        let mut answer = self.dialog.answer(request, 200, "OK");
        self.timer = timer;
        add_timer(&mut answer, request, &timer);
        self.dialog.refresh_target(request);
        if let Some(sdp) = sdp {
            answer = answer.with_body("application/sdp", sdp);
        }
        self.wire.respond(id, answer).await;
    }

    async fn refuse_media(&self, id: ServerId, request: &Message, refusal: &MediaRefusal) {
        self.wire.respond(id, refused_media(&self.dialog, request, refusal)).await;
    }

    /// Half of the session's time is over: a re-INVITE with what was agreed on.
    async fn refresh(&mut self) {
        self.timer.refreshing(Instant::now());
        let Ok(sdp) = self.leg.offer(&[]) else { return };
        let mut request = self.dialog.request("INVITE");
        request.add("supported", "timer");
        request.add("session-expires", format!("{};refresher=uac", self.timer.interval_secs));
        let request = request.with_body("application/sdp", sdp);
        let _ = self.wire.request(request, self.dialog.flow, REFRESH, &self.inbox_sender).await;
    }

    async fn handle_refreshed(&mut self, response: &Message) -> Option<EndedBy> {
        match response.status() {
            ..200 => {}
            200..300 => {
                let number = response.cseq().map_or(0, |(number, _)| number);
                self.wire.send(self.dialog.ack(number), self.dialog.flow).await;
                self.timer.refreshed(Instant::now());
                // A description that can't be used changes nothing.
                let _ = self.leg.take_answer(&response.body);
            }
            408 | 481 => return Some(EndedBy::Phone),
            491 => self.timer.crossed(Instant::now()),
            // The call goes on as it was; without a refresh that counts it ends when its time is over.
            _ => {}
        }
        None
    }

    /// Transfer (RFC 3515): whom the phone names is added to the call, which becomes a conference, and the phone leaves it. Where the phone names another of its
    /// calls (RFC 5589 section 7), that one becomes part of the conference instead, and nobody is called.
    async fn refer(&mut self, id: ServerId, request: &Message) {
        let refer_to = request.get("refer-to").and_then(|text| NameAddr::parse(text).ok());
        let replaces = refer_to.as_ref().map_or(Ok(None), Replaces::of_refer);
        let target = refer_to.and_then(|to| to.sip());
        let phone = target.as_ref().and_then(phone_of);
        let (Some(user), Ok(replaces)) = (target.and_then(|target| user_of(&target, None)), replaces) else {
            return self.refuse(id, request, 400, "Refer-To names nobody").await;
        };
        if self.transfer.is_some() {
            return self.refuse(id, request, 491, reason_of(491)).await;
        }
        self.wire.respond(id, self.dialog.answer(request, 202, reason_of(202))).await;
        self.notice(100, false).await;
        // That one is the phone's word for another call: a 481 to the REFER itself would be the end of this one (RFC 5057 section 5.1).
        let (node, call_id) = (self.node.clone(), self.call_id.clone());
        let transfer = match replaces {
            Some(dialog) if dialog.call_id == self.dialog.call_id => tokio::spawn(std::future::ready(481)),
            Some(dialog) => tokio::spawn(connect(node, call_id, self.wire.clone(), self.account.clone(), dialog)),
            None => tokio::spawn(add(node, call_id, AddOptions { user, phone })),
        };
        self.transfer = Some(AbortOnDropHandle::new(transfer));
    }

    /// Another phone of the account has the call from now on, in the codec that it is in; the one that had it is told goodbye.
    async fn take_over(&mut self, arrived: Arrived, replaces: &Replaces) {
        let Some(codec) = self.leg.agreed().map(|agreed| agreed.codec).filter(|_| self.dialog.is_replaced_by(replaces)) else {
            return refuse_to_take_over(&self.wire, &arrived, 481).await;
        };
        if self.unacknowledged.is_some() || self.transfer.is_some() {
            return refuse_to_take_over(&self.wire, &arrived, 491).await;
        }
        let Ok(timer) = SessionTimer::asked(&arrived.request, Instant::now()) else {
            return refuse_to_take_over(&self.wire, &arrived, 422).await;
        };
        let Ok(mut leg) = self.media.open(arrived.local.ip(), Security::Accepted).await else {
            return refuse_to_take_over(&self.wire, &arrived, 503).await;
        };
        leg.expect_from(arrived.flow.peer.ip());
        let Arrived { id, request, flow, local, account, .. } = arrived;
        let contact = contact(account.split('@').next().unwrap_or_default(), local, flow);
        let dialog = Dialog::answering(&request, &token(), flow, contact);
        let has_offer = !request.body.is_empty();
        let described = match has_offer {
            true => leg.take_offer(&request.body).and_then(|_| leg.answer(codec)),
            false => leg.offer(&[codec]),
        };
        let sdp = match described {
            Ok(sdp) => sdp,
            Err(refusal) => return self.wire.respond(id, refused_media(&dialog, &request, &refusal)).await,
        };
        if let Some(port) = self.leg.release().await {
            leg.bridge(port);
        }
        self.say_goodbye().await;
        self.wire.unfollow(&self.dialog.call_id).await;
        (self.dialog, self.timer) = (dialog, timer);
        std::mem::replace(&mut self.leg, leg).close().await;
        (self.unacknowledged, self.awaits_answer) = (Some(id), !has_offer);
        self.wire.follow(&self.dialog, &self.account, &self.inbox_sender).await;
        let mut answer = self.dialog.answer(&request, 200, "OK");
        add_timer(&mut answer, &request, &timer);
        self.wire.respond(id, answer.with_body("application/sdp", sdp)).await;
    }

    /// A phone that transfers may hang up as soon as that is on its way (RFC 5589 section 6.1): it isn't heard of any more, and the others go on.
    async fn await_transfer(&mut self) {
        if let Some(transfer) = self.transfer.take() {
            // It has nobody to be told to.
            let _ = tokio::time::timeout(TRANSFER_MAX, transfer).await;
        }
    }

    /// What happens to the call in the overlay. False once it is over.
    async fn follow_call(&mut self, event: Event) -> bool {
        match event {
            Event::ConferenceJoined { conference_id, call_id, .. } if call_id == self.call_id => {
                self.conference = Some(conference_id);
            }
            Event::ConferenceJoined { conference_id, call_id, .. } if Some(&conference_id) == self.conference.as_ref() => {
                self.legs.push(call_id);
            }
            Event::ConferenceLeft { call_id, .. } => self.legs.retain(|leg| *leg != call_id),
            Event::CallEnded(outcome) if outcome.call_id == self.call_id => return self.take_next_leg().await,
            // The end may have been among them.
            Event::Missed { .. } => {
                let entry = self.node.calls().show(&self.call_id).await;
                if entry.map_or(true, |entry| entry.state == CallState::Ended) {
                    return self.take_next_leg().await;
                }
            }
            _ => {}
        }
        true
    }

    /// Whom the phone has talked to is gone: it goes on with somebody else of the conference, if there is anybody.
    async fn take_next_leg(&mut self) -> bool {
        while let Some(leg) = self.legs.pop() {
            match self.node.calls().audio(&leg).await {
                Ok(port) => {
                    self.leg.bridge(port);
                    self.call_id = leg;
                    return true;
                }
                Err(error) => debug!(%error, "a leg that the phone can't take"),
            }
        }
        false
    }

    /// A phone that says by INFO what is pressed on it, and not among its audio.
    async fn press(&self, id: ServerId, request: &Message) {
        let Some(key) = keys::of_info(request.get("content-type").unwrap_or_default(), &request.body) else {
            return self.refuse(id, request, 400, "INFO names no key").await;
        };
        match self.node.calls().press(&self.call_id, &key.to_string()).await {
            Ok(()) => self.accept(id, request).await,
            Err(error) => {
                debug!(%error, "a phone's key reaches nobody");
                self.refuse(id, request, 488, reason_of(488)).await;
            }
        }
    }

    /// How far a transfer is.
    async fn notice(&mut self, status: u16, is_last: bool) {
        let mut request = self.dialog.request("NOTIFY");
        request.add("event", "refer");
        request.add("subscription-state", if is_last { "terminated;reason=noresource" } else { "active;expires=60" });
        let body = format!("SIP/2.0 {status} {}\r\n", reason_of(status));
        let request = request.with_body("message/sipfrag;version=2.0", body);
        let _ = self.wire.request(request, self.dialog.flow, NOTICE, &self.inbox_sender).await;
    }

    async fn say_goodbye(&mut self) {
        let request = self.dialog.request("BYE");
        let _ = self.wire.request(request, self.dialog.flow, GOODBYE, &self.inbox_sender).await;
    }
}

/// Refuses a phone that wants another's call.
pub(super) async fn refuse_to_take_over(wire: &Wire, arrived: &Arrived, status: u16) {
    wire.respond(arrived.id, Message::answer(&arrived.request, status, reason_of(status), Some(&token()))).await;
}

/// Blind: somebody is called. The phone leaves once the two have each other, so that nothing lies between.
async fn add(node: Node, call_id: String, whom: AddOptions) -> u16 {
    match node.calls().add(&call_id, whom).await {
        Ok(added) if added.joined => {
            if !matches!(node.calls().connect(&call_id, &added.call_id).await, Ok(true)) {
                debug!("whom a call is transferred to may come later to the other end");
            }
            200
        }
        _ => 503,
    }
}

/// Attended: the other ends of two calls get each other.
async fn connect(node: Node, call_id: String, wire: Wire, account: String, dialog: Replaces) -> u16 {
    let Some(with) = wire.which(&account, dialog).await else { return 481 };
    match node.calls().connect(&call_id, &with).await {
        Ok(true) => 200,
        connected => {
            debug!(?connected, "a transfer comes to nothing");
            503
        }
    }
}

async fn transferred(transfer: &mut Option<AbortOnDropHandle<u16>>) -> u16 {
    match transfer {
        // One that failed was a bug, and nobody has come.
        Some(transfer) => transfer.await.unwrap_or(500),
        None => std::future::pending().await,
    }
}

/// Adds what a phone is told of the session timer.
pub(super) fn add_timer(answer: &mut Message, request: &Message, timer: &SessionTimer) {
    answer.add("session-expires", timer.header());
    if request.lists("supported", "timer") {
        answer.add("require", "timer");
    }
}

/// A refusal that says what is wrong with the description.
pub(super) fn refused_media(dialog: &Dialog, request: &Message, refusal: &MediaRefusal) -> Message {
    let mut answer = dialog.answer(request, refusal.status(), reason_of(refusal.status()));
    let text = refusal.to_string().replace(['"', '\\'], "'");
    answer.add("warning", format!("{} halloo \"{text}\"", refusal.warning()));
    answer
}

/// Whom an address names in the overlay: `name@authority`, with `home` the authority where the host is a machine's address.
pub(super) fn user_of(uri: &SipUri, home: Option<&str>) -> Option<String> {
    if !super::edge::is_address(&uri.host) {
        return user_of_address(uri);
    }
    let name = uri.user.as_deref()?.to_lowercase();
    Some(home.map_or_else(|| name.clone(), |home| format!("{name}@{home}")))
}

/// The instance of the one phone that an address is of (RFC 5627), if it says one.
pub(super) fn phone_of(uri: &SipUri) -> Option<String> {
    uri.param("gr").filter(|instance| !instance.is_empty()).map(str::to_owned)
}
