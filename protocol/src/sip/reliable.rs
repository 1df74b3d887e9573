//! Provisional answers that the phone acknowledges (RFC 3262), at the server's end of an INVITE: `100rel`.
//!
//! ```text
//! phone                              edge
//! INVITE, Require: 100rel  ------->
//! <------- 183, RSeq: 7, Require: 100rel   again after T1, 2 T1, .. until
//! PRACK, RAck: 7 1 INVITE  ------->
//! <------- 200 to it
//! ```
//!
//! One is under way at a time; others wait for it. After 64 T1 without a word the phone is given up. A 2xx waits for what has a description (section 3).
//! Never reads the clock.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::message::Message;
use super::transaction::{T1, TIMEOUT};

/// Answers that wait for another one to be acknowledged; more are left out, as each is overtaken by those after it.
const WAITING_MAX: usize = 4;

/// Which answers are acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Demand {
    /// None: the phone doesn't know how.
    None,
    /// Those with a description, which has to arrive.
    Described,
    /// All: the phone requires it.
    All,
}

#[derive(Clone, Debug)]
struct Sent {
    number: u32,
    response: Message,
    pause: Duration,
    resend_at: Instant,
    ends_at: Instant,
}

/// What is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing.
    Nothing,
    /// Send this again.
    Resend(Box<Message>),
    /// Nobody acknowledges it: refuse the INVITE with a 5xx (section 3).
    GiveUp,
}

/// The provisional answers to one INVITE.
#[derive(Clone, Debug)]
pub struct Reliable {
    demand: Demand,
    invite: u32,
    next: u32,
    under_way: Option<Sent>,
    waiting: VecDeque<Message>,
}

impl Reliable {
    /// For an INVITE; `first` numbers its first answer, from 1 to 2^31 - 1, chosen at random.
    #[must_use]
    pub fn of(invite: &Message, first: u32) -> Self {
        let demand = if invite.lists("require", "100rel") {
            Demand::All
        } else if invite.lists("supported", "100rel") {
            Demand::Described
        } else {
            Demand::None
        };
        let number = invite.cseq().map_or(0, |(number, _)| number);
        Self { demand, invite: number, next: first.clamp(1, 1 << 30), under_way: None, waiting: VecDeque::new() }
    }

    /// Takes an answer from 101 to 199: what of it is to be sent now. One that waits comes from [`Reliable::acknowledge`].
    pub fn send(&mut self, response: Message, now: Instant) -> Option<Message> {
        let is_reliable = match self.demand {
            Demand::None => false,
            Demand::Described => !response.body.is_empty(),
            Demand::All => true,
        };
        if !is_reliable {
            return Some(response);
        }
        if self.under_way.is_some() {
            if self.waiting.len() < WAITING_MAX {
                self.waiting.push_back(response);
            }
            return None;
        }
        Some(self.begin(response, now))
    }

    fn begin(&mut self, mut response: Message, now: Instant) -> Message {
        let number = self.next;
        self.next += 1;
        response.add("require", "100rel");
        response.add("rseq", number.to_string());
        let sent = Sent { number, response: response.clone(), pause: T1, resend_at: now + T1, ends_at: now + TIMEOUT };
        self.under_way = Some(sent);
        response
    }

    /// The phone has acknowledged an answer: answer 200; the next one, if one waits.
    ///
    /// # Errors
    /// The status to refuse the PRACK with: 400 if it says of what it is none, 481 if that isn't under way.
    pub fn acknowledge(&mut self, prack: &Message, now: Instant) -> Result<Option<Message>, u16> {
        let acknowledged = prack.get("rack").and_then(read_rack).ok_or(400_u16)?;
        let is_it = self.under_way.as_ref().is_some_and(|sent| acknowledged == (sent.number, self.invite));
        if !is_it {
            return Err(481);
        }
        self.under_way = None;
        let next = self.waiting.pop_front();
        Ok(next.map(|response| self.begin(response, now)))
    }

    /// Whether a 2xx has to wait: a description is on its way (section 3).
    #[must_use]
    pub fn holds_success(&self) -> bool {
        let has_body = |response: &Message| !response.body.is_empty();
        self.under_way.as_ref().is_some_and(|sent| has_body(&sent.response)) || self.waiting.iter().any(has_body)
    }

    /// Whether answers with a description are acknowledged: a description then counts as said, and the 2xx needs none.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        self.demand != Demand::None
    }

    /// When [`Reliable::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.under_way.as_ref().map(|sent| sent.resend_at.min(sent.ends_at))
    }

    /// What is due.
    pub fn handle_timeout(&mut self, now: Instant) -> Due {
        let Some(sent) = &mut self.under_way else { return Due::Nothing };
        if sent.ends_at <= now {
            (self.under_way, self.waiting) = (None, VecDeque::new());
            return Due::GiveUp;
        }
        if sent.resend_at > now {
            return Due::Nothing;
        }
        // Doubled without a ceiling (section 3).
        sent.pause *= 2;
        sent.resend_at = now + sent.pause;
        Due::Resend(Box::new(sent.response.clone()))
    }
}

/// `RAck`: which answer, to which request.
fn read_rack(text: &str) -> Option<(u32, u32)> {
    let mut words = text.split_ascii_whitespace();
    let (answer, request, method) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?, words.next()?);
    (method == "INVITE" && words.next().is_none()).then_some((answer, request))
}

/// The `RAck` of a provisional answer that wants to be acknowledged, at the client's end of an INVITE; with its number, which grows by one each.
#[must_use]
pub fn to_acknowledge(response: &Message) -> Option<(u32, String)> {
    if !response.lists("require", "100rel") || !(101..200).contains(&response.status()) {
        return None;
    }
    let number: u32 = response.get("rseq")?.trim().parse().ok()?;
    let (request, method) = response.cseq().ok()?;
    Some((number, format!("{number} {request} {method}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invite(option: &str) -> Message {
        let mut invite = Message::request("INVITE", "sip:bob@example");
        invite.add("cseq", "5 INVITE");
        if let Some((name, value)) = option.split_once(": ") {
            invite.add(name, value);
        }
        invite
    }

    fn answer(status: u16, body: &str) -> Message {
        let answer = Message::answer(&invite(""), status, "-", Some("tag"));
        if body.is_empty() { answer } else { answer.with_body("application/sdp", body) }
    }

    fn prack(rack: &str) -> Message {
        let mut prack = Message::request("PRACK", "sip:edge");
        prack.add("rack", rack);
        prack
    }

    #[test]
    fn what_the_phone_knows_decides() {
        let now = Instant::now();
        for (option, rings, described) in
            [("", false, false), ("supported: timer, 100rel", false, true), ("require: 100rel", true, true)]
        {
            for (body, expected) in [("", rings), ("v=0", described)] {
                let mut reliable = Reliable::of(&invite(option), 7);
                let sent = reliable.send(answer(183, body), now).unwrap();
                assert_eq!(sent.get("rseq"), expected.then_some("7"), "{option} {body}");
                assert_eq!((sent.lists("require", "100rel"), reliable.poll_timeout().is_some()), (expected, expected));
                assert_eq!(reliable.holds_success(), expected && !body.is_empty());
            }
        }
    }

    #[test]
    fn one_is_under_way_and_comes_again_until_it_is_acknowledged() {
        let start = Instant::now();
        let mut reliable = Reliable::of(&invite("require: 100rel"), 7);
        let first = reliable.send(answer(180, ""), start).unwrap();
        assert_eq!(reliable.send(answer(183, "v=0"), start), None, "it waits");
        assert!(reliable.holds_success());
        let mut pauses = Vec::new();
        let mut now = start;
        for _ in 0..3 {
            let at = reliable.poll_timeout().unwrap();
            assert_eq!(reliable.handle_timeout(at - Duration::from_millis(1)), Due::Nothing);
            assert_eq!(reliable.handle_timeout(at), Due::Resend(Box::new(first.clone())));
            pauses.push((at - now).as_millis());
            now = at;
        }
        assert_eq!(pauses, [500, 1_000, 2_000]);
        for (wrong, status) in [("8 5 INVITE", 481), ("7 6 INVITE", 481), ("7 5 BYE", 400), ("7 5", 400), ("-7 5 INVITE", 400)] {
            assert_eq!(reliable.acknowledge(&prack(wrong), now), Err(status), "{wrong}");
        }
        assert_eq!(reliable.acknowledge(&Message::request("PRACK", "sip:edge"), now), Err(400));
        let second = reliable.acknowledge(&prack("7 5 INVITE"), now).unwrap().unwrap();
        assert_eq!((second.status(), second.get("rseq")), (183, Some("8")));
        assert_eq!(reliable.acknowledge(&prack("7 5 INVITE"), now), Err(481), "that one is done");
        assert_eq!(reliable.acknowledge(&prack("8 5  INVITE"), now), Ok(None));
        assert!(!reliable.holds_success() && reliable.poll_timeout().is_none());
        assert_eq!(reliable.handle_timeout(now + TIMEOUT), Due::Nothing);
    }

    #[test]
    fn a_phone_that_never_acknowledges_is_given_up_after_64_t1() {
        let start = Instant::now();
        let mut reliable = Reliable::of(&invite("require: 100rel"), u32::MAX);
        assert_eq!(reliable.send(answer(183, "v=0"), start).unwrap().get("rseq"), Some("1073741824"));
        (0..20).for_each(|_| drop(reliable.send(answer(180, ""), start)));
        assert_eq!(reliable.waiting.len(), WAITING_MAX);
        let mut resent = 0;
        loop {
            let at = reliable.poll_timeout().unwrap();
            match reliable.handle_timeout(at) {
                Due::Resend(_) => resent += 1,
                Due::GiveUp => break assert_eq!(at, start + TIMEOUT),
                Due::Nothing => panic!("it was due"),
            }
        }
        assert_eq!(resent, 6, "after 0.5, 1.5, 3.5, 7.5, 15.5 and 31.5 s");
        assert!(!reliable.holds_success() && reliable.poll_timeout().is_none());
    }

    #[test]
    fn a_phones_provisional_answer_is_acknowledged_where_it_wants_that() {
        let mut response = answer(183, "");
        assert_eq!(to_acknowledge(&response), None);
        response.add("require", "100rel");
        assert_eq!(to_acknowledge(&response), None, "it has no number");
        response.add("rseq", "31");
        assert_eq!(to_acknowledge(&response), Some((31, "31 5 INVITE".to_owned())));
        let mut ended = answer(200, "");
        ended.add("require", "100rel");
        ended.add("rseq", "31");
        assert_eq!(to_acknowledge(&ended), None);
    }
}
