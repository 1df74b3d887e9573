//! A call to a telephone number: by the trunks that lead there, one after the other, until one carries it.
//!
//! ```text
//! overlay                     gateway                      providers
//! call_incoming, number --->  named? limits? counted
//!                             INVITE                 --->  the first trunk
//!                             INVITE, credentials    <---  407
//!                             INVITE                 <---  503: the second trunk
//! answer        <-----------  a minute counted       <---  200
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use halloo_protocol::call::Reason;
use halloo_protocol::sip::message::Message;
use halloo_protocol::sip::timer::{INTERVAL_SECS, SessionTimer};
use halloo_protocol::sip::transaction::{ClientId, Flow};
use halloo_protocol::sip::uri::NameAddr;
use halloo_protocol::trunk::guard::Spending;
use halloo_protocol::trunk::number::{Dialled, Number};
use halloo_protocol::trunk::{CallerId, Refusal, Route, TrunkFate, TrunkRule, fate_of};
use tokio::sync::mpsc;
use tracing::{debug, info};

use super::line::Line;
use super::{Inner, Trunks};
use crate::handle::calls::AnswerOptions;
use crate::handle::{Event, EventStream, Node};
use crate::sip::dialog::{ALLOW, Dialog, contact, token};
use crate::sip::media::{AudioCodec, PhoneLeg, PhoneMedia, Security};
use crate::sip::session::Session;
use crate::sip::wire::{INBOX_MAX, Input, Wire};

/// How long a trunk may be silent until the next one is tried: four times an INVITE is sent by then.
const SILENCE_MAX: Duration = Duration::from_secs(6);

/// Transactions are over by then.
const LAST_WORDS: Duration = Duration::from_secs(35);

/// A minute, as providers bill it.
const MINUTE: Duration = Duration::from_secs(60);

/// A call that somebody has placed with the gateway.
#[derive(Debug)]
pub(in crate::sip) struct Call {
    pub(in crate::sip) call_id: String,
    /// Who, verified by the overlay: `name@authority`.
    pub(in crate::sip) from: String,
    pub(in crate::sip) account: String,
    pub(in crate::sip) node: Node,
    /// The edge's own node, whose owner is told of trunks that fail.
    pub(in crate::sip) own: Node,
}

/// What became of a trunk's turn.
enum Turn {
    /// It has carried the call, which is over.
    Carried,
    /// It can't: the next one.
    Next(String),
    /// Nobody can, for this reason.
    Over(Reason),
    /// The caller has given up.
    Gone,
}

/// Places a call, to its end.
pub(in crate::sip) async fn place(call: Call, number: &str, trunks: Trunks, wire: Wire, media: PhoneMedia) {
    let placing = Placing { events: call.node.subscribe(), call, trunks: trunks.0, wire, media, heard: None };
    placing.run(number).await;
}

struct Placing {
    call: Call,
    trunks: Arc<Inner>,
    wire: Wire,
    media: PhoneMedia,
    events: EventStream,
    /// The caller hears the telephone network already, in this codec.
    heard: Option<AudioCodec>,
}

impl Placing {
    async fn run(mut self, number: &str) {
        let Err(refusal) = self.by_trunks(number).await else { return };
        info!(reason = %refusal, "a telephone call is refused");
        // The caller may have given up.
        let _ = self.call.node.calls().refuse(&self.call.call_id, refusal).await;
    }

    async fn by_trunks(&mut self, number: &str) -> Result<(), Reason> {
        let plan = self.trunks.plan.clone();
        let dialled = Dialled::parse(number).map_err(|_| Reason::TELEPHONE_NUMBER)?;
        let route = plan.route(&self.call.from, &dialled).map_err(|refusal| refusal.reason())?;
        let Ok(codecs) = self.call.node.calls().offered_audio(&self.call.call_id).await else { return Ok(()) };
        let mut order: Vec<usize> = route.trunks.clone();
        // One that is known to be out of order comes last.
        order.sort_by_key(|index| self.trunks.lines.get(*index).is_none_or(|line| line.is_failed()));
        for index in order {
            let (Some(line), Some(rule)) = (self.trunks.lines.get(index).cloned(), plan.trunks.get(index)) else { continue };
            match self.turn(&line, rule, &route, &codecs).await? {
                Turn::Carried | Turn::Gone => return Ok(()),
                Turn::Over(reason) => return Err(reason),
                Turn::Next(why) => {
                    debug!(trunk = line.name, why, "a trunk doesn't carry a call");
                    line.note_call(&self.call.own, Some(&why));
                }
            }
        }
        Err(Refusal::TrunksFailed.reason())
    }

    /// One trunk's turn: counted before anything leaves, and no longer counted if the provider's machine refuses it.
    async fn turn(&mut self, line: &Arc<Line>, rule: &TrunkRule, route: &Route, codecs: &[AudioCodec]) -> Result<Turn, Reason> {
        let user = self.call.from.clone();
        let spending = Spending { trunk: &rule.name, limits: &rule.limits, user: &user, number: &route.number };
        let spending = (!route.is_emergency).then_some(spending);
        let booked = spending.map(|spending| self.trunks.books.book_call(&spending)).transpose();
        let booked = booked.map_err(|refusal| {
            info!(%refusal, trunk = line.name, "the spending guard refuses a call");
            refusal.reason()
        })?;
        let turn = match self.invite(line, rule, &route.number, codecs).await {
            Ok(attempt) => attempt.run(self, line, spending).await,
            Err(why) => Turn::Next(why),
        };
        if matches!(turn, Turn::Next(_)) && self.heard.take().is_some() {
            // The caller may have given up.
            let _ = self.call.node.calls().speak_early(&self.call.call_id, None).await;
        }
        if let (Turn::Next(_), Some(spending), Some(day)) = (&turn, spending, booked) {
            self.trunks.books.release_call(&spending, day);
        }
        Ok(turn)
    }

    /// Sends the first INVITE.
    async fn invite(&self, line: &Line, rule: &TrunkRule, number: &Number, codecs: &[AudioCodec]) -> Result<Attempt, String> {
        let flow = line.flow().ok_or("there is no way to the server")?;
        let local = self.wire.local(flow).await.ok_or("the connection is gone")?;
        let leg = self.media.open(local.ip(), Security::Accepted).await;
        let mut leg = leg.map_err(|error| error.to_string())?;
        leg.expect_from(flow.peer.ip());
        let sdp = leg.offer(codecs).map_err(|error| error.to_string())?;
        let contact = contact(&line.config.username, local, flow);
        let (from, asserted) = identity(line, rule, &self.call.from);
        let bare = |uri: String| NameAddr { display: String::new(), uri, params: Vec::new() };
        let target = format!("{};user=phone", line.address_of(number.as_str()));
        let dialog = Dialog::calling(&from, &bare(target.clone()), &target, flow, contact);
        let (sender, inbox) = mpsc::channel(INBOX_MAX);
        let is_anonymous = from.uri.ends_with("anonymous.invalid");
        let mut attempt =
            Attempt { dialog, leg, sdp, asserted, is_anonymous, flow, auth: line.auth.clone(), sender, inbox, id: None };
        attempt.send(&self.wire).await?;
        Ok(attempt)
    }
}

/// What the provider is told of who calls: `From`, and what the trunk asserts.
fn identity(line: &Line, rule: &TrunkRule, user: &str) -> (NameAddr, Option<String>) {
    let bare = |uri: String| NameAddr { display: String::new(), uri, params: Vec::new() };
    let account = line.address_of(&line.config.username);
    match rule.caller_id_of(user) {
        CallerId::Account => (bare(account), None),
        CallerId::Number(number) => {
            let address = line.address_of(number);
            (bare(address.clone()), Some(format!("<{address}>")))
        }
        CallerId::Anonymous => {
            let known = match &rule.caller_id {
                CallerId::Number(number) => line.address_of(number),
                CallerId::Account | CallerId::Anonymous => account,
            };
            let hidden = NameAddr { display: "Anonymous".to_owned(), ..bare("sip:anonymous@anonymous.invalid".to_owned()) };
            (hidden, Some(format!("<{known}>")))
        }
    }
}

/// An INVITE on its way by one trunk.
struct Attempt {
    dialog: Dialog,
    leg: PhoneLeg,
    sdp: String,
    asserted: Option<String>,
    is_anonymous: bool,
    flow: Flow,
    auth: halloo_protocol::sip::client::ClientAuth,
    sender: mpsc::Sender<Input>,
    inbox: mpsc::Receiver<Input>,
    id: Option<ClientId>,
}

impl Attempt {
    /// Sends the INVITE, with credentials if it was asked for some. True if it has them.
    async fn send(&mut self, wire: &Wire) -> Result<bool, String> {
        let mut request = self.dialog.request("INVITE");
        if let Some(asserted) = &self.asserted {
            request.add("p-asserted-identity", asserted.as_str());
        }
        if self.is_anonymous {
            request.add("privacy", "id");
        }
        request.add("allow", ALLOW);
        request.add("supported", "timer");
        request.add("session-expires", INTERVAL_SECS.to_string());
        let has_credentials = self.auth.authorize(&mut request, &token());
        let request = request.with_body("application/sdp", self.sdp.as_str());
        let id = wire.request(request, self.flow, self.dialog.cseq(), &self.sender).await;
        self.id = Some(id.ok_or("too many requests at once")?);
        Ok(has_credentials)
    }

    async fn run(mut self, placing: &mut Placing, line: &Arc<Line>, spending: Option<Spending<'_>>) -> Turn {
        let (wire, mut has_credentials) = (placing.wire.clone(), false);
        let mut silent_until = Some(tokio::time::Instant::now() + SILENCE_MAX);
        loop {
            let input = tokio::select! {
                input = self.inbox.recv() => input,
                record = placing.events.recv() => {
                    let is_over = match record.map(|record| record.event) {
                        Some(Event::CallEnded(outcome)) => outcome.call_id == placing.call.call_id,
                        Some(_) => false,
                        None => true,
                    };
                    if is_over {
                        self.give_up(wire);
                        return Turn::Gone;
                    }
                    continue;
                }
                () = at(silent_until) => {
                    self.give_up(wire);
                    return Turn::Next("the server doesn't answer".to_owned());
                }
            };
            let response = match input {
                Some(Input::Response(number, response)) if number == self.dialog.cseq() => response,
                Some(Input::TimedOut(number)) if number == self.dialog.cseq() => {
                    return Turn::Next("the server doesn't answer".to_owned());
                }
                Some(_) => continue,
                None => return Turn::Next("the edge has ended".to_owned()),
            };
            silent_until = None;
            match response.status() {
                ..200 => self.hear(placing, &response).await,
                200..300 => return self.answered(response, placing, line, spending).await,
                401 | 407 => {
                    if let Err(error) = self.auth.challenged(&response, has_credentials) {
                        return Turn::Next(error.to_string());
                    }
                    match self.send(&wire).await {
                        Ok(sent) => has_credentials = sent,
                        Err(why) => return Turn::Next(why),
                    }
                    silent_until = Some(tokio::time::Instant::now() + SILENCE_MAX);
                }
                status => {
                    return match fate_of(Some(status)) {
                        TrunkFate::Next => Turn::Next(format!("{status} {}", response.reason())),
                        TrunkFate::Over(reason) => {
                            line.note_call(&placing.call.own, None);
                            Turn::Over(reason)
                        }
                    };
                }
            }
        }
    }

    /// The network says something while it rings, or why it won't: the caller hears it. Nothing of the caller's leaves before the answer.
    async fn hear(&mut self, placing: &mut Placing, response: &Message) {
        if response.status() == 100 || response.body.is_empty() {
            return;
        }
        let codec = match self.leg.take_early_answer(&response.body) {
            Ok(codec) => codec,
            Err(refusal) => return debug!(%refusal, "a provider isn't heard while it rings"),
        };
        if placing.heard.is_some() {
            return;
        }
        let (calls, call_id) = (placing.call.node.calls(), &placing.call.call_id);
        if let Err(error) = calls.speak_early(call_id, Some(codec)).await {
            return debug!(%error, "a provider isn't heard while it rings");
        }
        if let Ok(port) = calls.audio(call_id).await {
            self.leg.bridge(port);
        }
        placing.heard = Some(codec);
    }

    /// Takes the INVITE back; what still comes of it is seen to beside.
    fn give_up(self, wire: Wire) {
        tokio::spawn(async move {
            if let Some(id) = self.id {
                wire.cancel(id, None).await;
            }
            wind_up(self.dialog, wire, self.inbox, self.sender, None).await;
        });
    }

    /// The telephone is answered.
    async fn answered(
        mut self,
        response: Message,
        placing: &mut Placing,
        line: &Arc<Line>,
        spending: Option<Spending<'_>>,
    ) -> Turn {
        let wire = placing.wire.clone();
        line.note_call(&placing.call.own, None);
        self.dialog.established(&response);
        let number = self.dialog.cseq();
        wire.send(self.dialog.ack(number), self.flow).await;
        // The first minute is counted before anybody speaks.
        let minute = spending.map_or(Ok(()), |spending| placing.trunks.books.book_minute(&spending));
        let refused = match minute {
            Err(refusal) => Some(refusal.reason()),
            Ok(()) => self.connect(placing, &response).await.err(),
        };
        if let Some(reason) = refused {
            debug!(%reason, "a telephone is answered in vain");
            let bye = self.dialog.request("BYE");
            let _ = wire.request(bye, self.flow, u32::MAX, &self.sender).await;
            tokio::spawn(wind_up(self.dialog, wire, self.inbox, self.sender, Some(number)));
            return Turn::Over(reason);
        }
        let (session_sender, session_inbox) = mpsc::channel(INBOX_MAX);
        wire.follow(&self.dialog, &placing.call.account, &session_sender).await;
        tokio::spawn(wind_up(self.dialog.clone(), wire.clone(), self.inbox, self.sender, Some(number)));
        let session = Session {
            timer: SessionTimer::answered(&response, Instant::now()),
            dialog: self.dialog,
            leg: self.leg,
            node: placing.call.node.clone(),
            call_id: placing.call.call_id.clone(),
            wire,
            events: placing.call.node.subscribe(),
            inbox_sender: session_sender,
            inbox: session_inbox,
            unacknowledged: None,
            awaits_answer: false,
            may_transfer: false,
            transfer: None,
            account: placing.call.account.clone(),
            media: placing.media.clone(),
            conference: None,
            legs: Vec::new(),
        };
        tokio::select! {
            () = session.run() => {}
            () = count_minutes(placing, spending) => {}
        }
        Turn::Carried
    }

    /// Joins the telephone and the caller.
    async fn connect(&mut self, placing: &Placing, response: &Message) -> Result<(), Reason> {
        let codec = match (response.body.is_empty(), self.leg.agreed()) {
            // It has said all while it rang.
            (true, Some(agreed)) => agreed.codec,
            _ => self.leg.take_answer(&response.body).map_err(|refusal| {
                debug!(%refusal, "the provider's answer can't be used");
                Reason::MEDIA_FAILED
            })?,
        };
        let is_heard = placing.heard == Some(codec);
        let (calls, call_id) = (placing.call.node.calls(), &placing.call.call_id);
        if placing.heard.is_some() && !is_heard {
            calls.speak_early(call_id, None).await.map_err(|_| Reason::CANCELLED)?;
        }
        let options = AnswerOptions { passthrough: vec![codec], ..AnswerOptions::default() };
        calls.answer(call_id, options).await.map_err(|_| Reason::CANCELLED)?;
        if !is_heard {
            let port = calls.audio(call_id).await.map_err(|_| Reason::CANCELLED)?;
            self.leg.bridge(port);
        }
        Ok(())
    }
}

/// Counts each further minute before it begins, and ends the call when no more is allowed. Never returns: the session ends the wait.
async fn count_minutes(placing: &Placing, spending: Option<Spending<'_>>) {
    if let Some(spending) = spending {
        loop {
            tokio::time::sleep(MINUTE).await;
            if let Err(refusal) = placing.trunks.books.book_minute(&spending) {
                info!(%refusal, "the spending guard ends a call");
                // It may have ended meanwhile.
                let _ = placing.call.node.calls().hangup(&placing.call.call_id).await;
                break;
            }
        }
    }
    std::future::pending().await
}

/// Takes what still comes of an INVITE: the answer to it once more, which is acknowledged, or one that comes although it was taken back, which is ended.
async fn wind_up(
    mut dialog: Dialog,
    wire: Wire,
    mut inbox: mpsc::Receiver<Input>,
    sender: mpsc::Sender<Input>,
    answered: Option<u32>,
) {
    let end = tokio::time::Instant::now() + LAST_WORDS;
    while let Ok(Some(input)) = tokio::time::timeout_at(end, inbox.recv()).await {
        let Input::Response(number, response) = input else { continue };
        if !(200..300).contains(&response.status()) || response.method() != "INVITE" {
            continue;
        }
        if answered == Some(number) {
            wire.send(dialog.ack(number), dialog.flow).await;
            continue;
        }
        dialog.established(&response);
        wire.send(dialog.ack(number), dialog.flow).await;
        let bye = dialog.request("BYE");
        let _ = wire.request(bye, dialog.flow, u32::MAX, &sender).await;
    }
}

async fn at(instant: Option<tokio::time::Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
