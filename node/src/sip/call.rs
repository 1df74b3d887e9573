//! A phone calls somebody in the overlay.
//!
//! ```text
//! phone               edge                              overlay
//! INVITE  --------->  leg takes the offer  ---------->  dial, with the phone's codecs
//! <---------- 180                          <----------  a device rings
//! <---------- 183     leg answers early    <----------  a device that rings is heard
//! <---------- 200     leg answers          <----------  a device answers, in one of them
//! ACK     --------->
//! ```

use std::time::Instant;

use halloo_protocol::call::{Reason, TelephonePart};
use halloo_protocol::sip::gruu::PhoneMark;
use halloo_protocol::sip::message::Message;
use halloo_protocol::sip::reliable::{Due, Reliable};
use halloo_protocol::sip::status::{Ending, reason_of, status_of};
use halloo_protocol::sip::timer::SessionTimer;
use halloo_protocol::sip::transaction::ServerId;
use halloo_protocol::sip::uri::SipUri;
use halloo_protocol::trunk::number::{Dialled, is_tel_uri};
use halloo_protocol::trunk::refusal_of;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

use super::dialog::{Dialog, contact, token};
use super::media::{AudioCodec, LegEvent, PhoneLeg, PhoneMedia, Security};
use super::session::{Session, add_timer, phone_of, refuse_to_take_over, refused_media, user_of};
use super::wire::{Arrived, Input, Telephone, Wire};
use crate::handle::calls::{CallError, CallOutcome, CallResult, DialOptions};
use crate::handle::directory::ResolveError;
use crate::handle::problem::{Fault, ProblemKind};
use crate::handle::{Event, EventStream, Node};

/// What a call is offered in where the phone offers nothing.
pub(super) const CODECS: [AudioCodec; 4] = [AudioCodec::Opus, AudioCodec::G722, AudioCodec::Pcmu, AudioCodec::Pcma];

type Dialling = AbortOnDropHandle<Result<CallOutcome, CallError>>;

/// A call on its way.
struct Calling {
    arrived: Arrived,
    dialog: Dialog,
    wire: Wire,
    leg: PhoneLeg,
    timer: SessionTimer,
    target: Target,
    has_offer: bool,
    events: EventStream,
    dialling: Dialling,
    call_id: Option<String>,
    is_ringing: bool,
    /// What the phone acknowledges.
    reliable: Reliable,
    /// In what the phone was let hear something while it rings, if its description can't be lost.
    described: Option<AudioCodec>,
    /// Answered, and the phone hasn't acknowledged yet what it was told before.
    answered: Option<AudioCodec>,
    sender: mpsc::Sender<Input>,
    inbox: mpsc::Receiver<Input>,
    media: PhoneMedia,
}

/// Whom a call is to.
struct Target {
    /// A user, or `tel:` and a number.
    user: String,
    /// Of a call from the telephone network: from where.
    from: Option<TelephonePart>,
    /// The one phone of the user's that is meant, by its instance.
    phone: Option<String>,
}

impl Target {
    fn of(arrived: &Arrived) -> Option<Self> {
        if let Telephone::From { user, number } = &arrived.telephone {
            return Some(Self { user: user.clone(), from: Some(TelephonePart::From(number.clone())), phone: None });
        }
        let uri = arrived.request.request_uri();
        let home = arrived.account.split_once('@').map(|(_, authority)| authority);
        if let Some(user) = telephone_of(uri, home, arrived.telephone == Telephone::Dials) {
            return Some(Self { user, from: None, phone: None });
        }
        let uri = SipUri::parse(uri).ok()?;
        Some(Self { user: user_of(&uri, home)?, from: None, phone: phone_of(&uri) })
    }

    /// Whether a call that is being dialled is this one.
    fn is(&self, to: &str, telephone: Option<&str>, phone: Option<&str>) -> bool {
        if self.phone.as_deref().map(|phone| PhoneMark::of(phone).to_string()).as_deref() != phone {
            return false;
        }
        match Dialled::parse(&self.user).ok().filter(|_| is_tel_uri(&self.user)) {
            Some(number) => telephone == Some(number.as_str()),
            None => to.eq_ignore_ascii_case(&self.user) && telephone.is_some() == self.from.is_some(),
        }
    }
}

/// The telephone number that an address means, as a `tel:` URI: `tel:`, a user part that says so or begins with a plus, and where there is a gateway, digits
/// at one's own authority or the edge.
fn telephone_of(uri: &str, home: Option<&str>, may_be_digits: bool) -> Option<String> {
    if is_tel_uri(uri) {
        return Some(uri.to_owned());
    }
    let uri = SipUri::parse(uri).ok()?;
    let user = uri.user.as_deref()?;
    let is_named = user.starts_with('+') || uri.param("user").is_some_and(|user| user.eq_ignore_ascii_case("phone"));
    let is_here = home.is_some_and(|home| uri.host.eq_ignore_ascii_case(home)) || super::edge::is_address(&uri.host);
    let is_digits = user.bytes().all(|b| b.is_ascii_digit() || b == b'*' || b == b'#');
    (is_named || (may_be_digits && is_here && is_digits)).then(|| format!("tel:{user}"))
}

/// How the way to an answer ends.
enum Way {
    /// Answered, in this codec.
    Agreed(AudioCodec),
    /// Refuse the phone with this.
    Refuse(Ending),
    /// A gateway has refused a telephone call: the status, its words, and the reason in full.
    RefuseTelephone(u16, &'static str, String),
    /// The phone is gone.
    Gone,
}

/// Takes a phone's INVITE, to the end of the call.
pub(super) async fn take(
    arrived: Arrived,
    wire: Wire,
    media: PhoneMedia,
    sender: mpsc::Sender<Input>,
    inbox: mpsc::Receiver<Input>,
) {
    let name = arrived.account.split('@').next().unwrap_or_default();
    let contact = contact(name, arrived.local, arrived.flow);
    let dialog = Dialog::answering(&arrived.request, &token(), arrived.flow, contact);
    let call_id = arrived.request.call_id().to_owned();
    match prepare(&arrived, &dialog, &media).await {
        Ok((leg, timer, target, codecs, has_offer)) => {
            let events = arrived.node.subscribe();
            let dialling = dial(arrived.node.clone(), &target, codecs);
            let reliable = Reliable::of(&arrived.request, rand::random_range(1..1 << 16));
            let calling = Calling {
                arrived,
                reliable,
                described: None,
                answered: None,
                dialog,
                wire: wire.clone(),
                leg,
                timer,
                target,
                has_offer,
                events,
                dialling,
                call_id: None,
                is_ringing: false,
                sender,
                inbox,
                media,
            };
            calling.run().await;
        }
        Err(refusal) => wire.respond(arrived.id, *refusal).await,
    }
    wire.unfollow(&call_id).await;
}

type Prepared = (PhoneLeg, SessionTimer, Target, Vec<AudioCodec>, bool);

/// What there must be before anybody is disturbed.
async fn prepare(arrived: &Arrived, dialog: &Dialog, media: &PhoneMedia) -> Result<Prepared, Box<Message>> {
    let request = &arrived.request;
    let refuse = |status: u16, reason: &str| Box::new(dialog.answer(request, status, reason));
    let timer = SessionTimer::asked(request, Instant::now()).map_err(|min| {
        let mut answer = refuse(422, reason_of(422));
        answer.add("min-se", min.to_string());
        answer
    })?;
    let target = Target::of(arrived).ok_or_else(|| refuse(404, reason_of(404)))?;
    let content_type = request.get("content-type").unwrap_or("application/sdp").split(';').next().unwrap_or_default().trim();
    if !request.body.is_empty() && !content_type.eq_ignore_ascii_case("application/sdp") {
        let mut answer = refuse(415, reason_of(415));
        answer.add("accept", "application/sdp");
        return Err(answer);
    }
    let leg = media.open(arrived.local.ip(), Security::Accepted).await;
    let mut leg = leg.map_err(|error| {
        debug!(%error, "no media for a phone");
        refuse(503, reason_of(503))
    })?;
    leg.expect_from(arrived.flow.peer.ip());
    if request.body.is_empty() {
        return Ok((leg, timer, target, CODECS.to_vec(), false));
    }
    let offer = leg.take_offer(&request.body).map_err(|refusal| Box::new(refused_media(dialog, request, &refusal)))?;
    Ok((leg, timer, target, offer.codecs, true))
}

fn dial(node: Node, target: &Target, passthrough: Vec<AudioCodec>) -> Dialling {
    let (telephone, phone) = (target.from.clone(), target.phone.clone());
    let options = DialOptions { passthrough, telephone, phone, by_telephone: true, ..DialOptions::to(&target.user) };
    AbortOnDropHandle::new(tokio::spawn(async move { node.calls().dial(options).await }))
}

impl Calling {
    async fn run(mut self) {
        match self.way().await {
            Way::Agreed(codec) => self.establish(codec).await,
            Way::Refuse(ending) => {
                let (status, reason) = status_of(ending);
                self.wire.respond(self.arrived.id, self.dialog.answer(&self.arrived.request, status, reason)).await;
            }
            Way::RefuseTelephone(status, words, why) => {
                let mut answer = self.dialog.answer(&self.arrived.request, status, words);
                answer.add("warning", format!("399 halloo \"{}\"", why.replace(['"', '\\'], "'")));
                self.wire.respond(self.arrived.id, answer).await;
            }
            // Dropping the dial takes the call back.
            Way::Gone => {}
        }
    }

    async fn way(&mut self) -> Way {
        loop {
            if let Some(codec) = self.answered.filter(|_| !self.reliable.holds_success()) {
                return Way::Agreed(codec);
            }
            tokio::select! {
                () = super::edge::sleep_until(self.reliable.poll_timeout()) => {
                    match self.reliable.handle_timeout(Instant::now()) {
                        Due::Resend(response) => self.wire.respond(self.arrived.id, *response).await,
                        Due::GiveUp => {
                            debug!("a phone acknowledges nothing");
                            return Way::Refuse(Ending::Failed);
                        }
                        Due::Nothing => {}
                    }
                }
                input = self.inbox.recv() => match input {
                    None => return Way::Refuse(Ending::Failed),
                    Some(Input::Cancelled) => return Way::Refuse(Ending::Cancelled),
                    Some(Input::Request(id, request)) if request.method() == "BYE" && self.dialog.check(&request).is_ok() => {
                        self.wire.respond(id, self.dialog.answer(&request, 200, "OK")).await;
                        return Way::Refuse(Ending::Cancelled);
                    }
                    Some(Input::Request(id, request)) if request.method() == "PRACK" => self.acknowledged(id, &request).await,
                    Some(Input::Request(id, request)) => {
                        self.wire.respond(id, self.dialog.answer(&request, 491, reason_of(491))).await;
                    }
                    Some(Input::TakeOver(arrived, _)) => refuse_to_take_over(&self.wire, &arrived, 481).await,
                    Some(Input::Unacknowledged) => return Way::Gone,
                    Some(Input::Moved(flow)) => {
                        self.dialog.flow = flow;
                        self.leg.expect_from(flow.peer.ip());
                    }
                    Some(_) => {}
                },
                record = self.events.recv() => match record {
                    Some(record) => self.handle(record.event).await,
                    None => return Way::Refuse(Ending::Failed),
                },
                event = self.leg.next_event() => match event {
                    Some(LegEvent::Agreed(agreed)) => self.answered = Some(agreed.codec),
                    Some(LegEvent::Early(agreed)) => self.hear(agreed.codec).await,
                    Some(LegEvent::Ended) | None => return self.outcome().await,
                    Some(_) => {}
                },
                ended = &mut self.dialling => {
                    return ended.map_or(Way::Refuse(Ending::Failed), |ended| way_of(&ended));
                }
            }
        }
    }

    /// A device that rings is heard: the phone is told where from, if it has said where to.
    async fn hear(&mut self, codec: AudioCodec) {
        let sdp = if self.has_offer { self.leg.answer_early(codec) } else { return };
        match sdp {
            Ok(sdp) => {
                let answer = self.dialog.answer(&self.arrived.request, 183, reason_of(183));
                self.progress(answer.with_body("application/sdp", sdp)).await;
                self.described = Some(codec).filter(|_| self.reliable.is_in_use());
            }
            Err(refusal) => debug!(%refusal, "nothing is heard while it rings"),
        }
    }

    /// How far the call is, acknowledged where the phone wants that.
    async fn progress(&mut self, answer: Message) {
        if let Some(answer) = self.reliable.send(answer, Instant::now()) {
            self.wire.respond(self.arrived.id, answer).await;
        }
    }

    async fn acknowledged(&mut self, id: ServerId, prack: &Message) {
        let checked = self.dialog.check(prack).and_then(|()| match prack.body.is_empty() {
            true => self.reliable.acknowledge(prack, Instant::now()),
            // Another offer before there is a call.
            false => Err(488),
        });
        match checked {
            Ok(next) => {
                self.wire.respond(id, self.dialog.answer(prack, 200, "OK")).await;
                if let Some(next) = next {
                    self.wire.respond(self.arrived.id, next).await;
                }
            }
            Err(status) => self.wire.respond(id, self.dialog.answer(prack, status, reason_of(status))).await,
        }
    }

    async fn outcome(&mut self) -> Way {
        (&mut self.dialling).await.map_or(Way::Refuse(Ending::Failed), |ended| way_of(&ended))
    }

    async fn handle(&mut self, event: Event) {
        match event {
            Event::CallDialing { call_id, to, telephone, phone, .. }
                if self.call_id.is_none() && self.target.is(&to, telephone.as_deref(), phone.as_deref()) =>
            {
                self.bridge(call_id).await;
            }
            Event::CallJoined { call_id, instead_of } if Some(&instead_of) == self.call_id.as_ref() => {
                self.call_id = Some(call_id)
            }
            Event::CallRinging { call_id, .. } if Some(&call_id) == self.call_id.as_ref() && !self.is_ringing => {
                self.is_ringing = true;
                self.progress(self.dialog.answer(&self.arrived.request, 180, "Ringing")).await;
            }
            _ => {}
        }
    }

    async fn bridge(&mut self, call_id: String) {
        match self.arrived.node.calls().audio(&call_id).await {
            Ok(port) => self.leg.bridge(port),
            Err(error) => debug!(%error, "no audio of the call"),
        }
        self.call_id = Some(call_id);
    }

    /// Answers the phone, and goes on with the call.
    async fn establish(mut self, codec: AudioCodec) {
        let described = if self.has_offer { self.leg.answer(codec) } else { self.leg.offer(&[codec]) };
        let sdp = match described {
            Ok(sdp) => sdp,
            Err(refusal) => {
                let answer = refused_media(&self.dialog, &self.arrived.request, &refusal);
                return self.wire.respond(self.arrived.id, answer).await;
            }
        };
        let mut answer = self.dialog.answer(&self.arrived.request, 200, "OK");
        add_timer(&mut answer, &self.arrived.request, &self.timer);
        // What it has acknowledged is said, and not said twice (RFC 6337 section 2.1).
        let answer = if self.described == Some(codec) { answer } else { answer.with_body("application/sdp", sdp) };
        self.wire.respond(self.arrived.id, answer).await;
        let may_transfer = self.target.from.is_none();
        let session = Session {
            dialog: self.dialog,
            leg: self.leg,
            node: self.arrived.node,
            call_id: self.call_id.unwrap_or_default(),
            wire: self.wire,
            timer: self.timer,
            events: self.events,
            inbox_sender: self.sender,
            inbox: self.inbox,
            unacknowledged: Some(self.arrived.id),
            awaits_answer: !self.has_offer,
            may_transfer,
            transfer: None,
            account: self.arrived.account,
            media: self.media,
            conference: None,
            legs: Vec::new(),
        };
        session.run().await;
        drop(self.dialling);
    }
}

/// How the way to an answer ended.
fn way_of(ended: &Result<CallOutcome, CallError>) -> Way {
    match ended {
        Ok(outcome) => {
            let refusal = outcome.reason_code.and_then(|code| refusal_of(Reason(code)));
            // A gateway declines what its provider answers with when that is in no codec of the caller's.
            let has_no_codec = outcome.outcome == CallResult::Declined && outcome.reason_code == Some(Reason::MEDIA_FAILED.0);
            let refusal = refusal.or_else(|| has_no_codec.then(|| status_of(Ending::NoCodec)));
            let why = outcome.reason.clone().unwrap_or_default();
            refusal.map_or_else(|| Way::Refuse(ending_of(ended)), |(status, words)| Way::RefuseTelephone(status, words, why))
        }
        Err(error @ CallError::Number(_)) => Way::RefuseTelephone(484, "Not a Telephone Number", error.to_string()),
        Err(error @ CallError::NoGateway) => Way::RefuseTelephone(404, "No Telephone Gateway", error.to_string()),
        Err(_) => Way::Refuse(ending_of(ended)),
    }
}

/// Why a call of ours wasn't answered.
fn ending_of(ended: &Result<CallOutcome, CallError>) -> Ending {
    match ended {
        Ok(outcome) => match outcome.outcome {
            CallResult::Completed => Ending::Completed,
            CallResult::Declined => Ending::Declined,
            CallResult::Busy => Ending::Busy,
            CallResult::NoAnswer => Ending::NoAnswer,
            CallResult::Unreachable => Ending::Unreachable,
            CallResult::Cancelled => Ending::Cancelled,
            CallResult::AnsweredElsewhere => Ending::Elsewhere,
            CallResult::Failed => Ending::Failed,
        },
        Err(CallError::Resolve(ResolveError::NotFound { .. }) | CallError::Username(_)) => Ending::Unknown,
        Err(CallError::AlreadyCalling { .. }) => Ending::Busy,
        Err(error) => match error.kind() {
            ProblemKind::UserNotFound | ProblemKind::InvalidUsername | ProblemKind::UnknownAuthority => Ending::Unknown,
            ProblemKind::Refused | ProblemKind::Untrusted => Ending::Forbidden,
            ProblemKind::Unreachable => Ending::Unreachable,
            _ => Ending::Failed,
        },
    }
}
