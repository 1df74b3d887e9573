//! Scenario files: what happens when, and what is expected of it. `docs/testnet.md` describes the format to its writers.
//!
//! A file that loads can be played: all names are known, all times and shares make sense. What is wrong with one that can't is told with
//! its line.

pub(super) mod play;

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use halloo_protocol::identity::Username;
use serde::Deserialize;
use toml::Spanned;

use super::TestnetError;
use crate::handle::calls::CallResult;

/// Largest file: a thousand steps fit in a fraction of it.
const FILE_BYTES_MAX: u64 = 1_024 * 1_024;

/// Most users, named or not.
const NODES_MAX: u32 = 1_000;

/// Most steps.
const STEPS_MAX: usize = 1_000;

/// The last moment a step can have, and the longest a step may wait.
const SECS_MAX: f64 = 3_600.0;

/// How long a step waits for what it expects when it doesn't say.
const WITHIN_DEFAULT: Duration = Duration::from_secs(10);

/// How long a call lasts when the step doesn't say.
const CALL_DEFAULT: Duration = Duration::from_secs(1);

/// What happens when.
#[derive(Debug)]
pub(super) struct Scenario {
    /// Users that the file names.
    pub(super) users: Vec<String>,
    /// Users in all.
    pub(super) nodes: u32,
    /// In the order of time.
    pub(super) steps: Vec<Step>,
}

/// One thing that happens.
#[derive(Debug)]
pub(super) struct Step {
    /// So long after everybody is ready.
    pub(super) at: Duration,
    pub(super) action: Action,
}

/// What happens.
#[derive(Clone, Debug)]
pub(super) enum Action {
    Kill(Who),
    Restart(Who),
    Push(Who),
    Suspend(Who),
    Wake(Who),
    Revoke(Who),
    Message(Message),
    Resolve(Resolve),
    Call(Call),
}

/// To whom it happens.
#[derive(Clone, Debug)]
pub(super) enum Who {
    Names(Vec<String>),
    /// So many in a hundred.
    Percent(u32),
}

/// `message = { .. }`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Message {
    pub(super) from: String,
    pub(super) to: String,
    #[serde(default = "Message::default_text")]
    pub(super) text: String,
    #[serde(default)]
    pub(super) expect: MessageExpectation,
    within_s: Option<f64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum MessageExpectation {
    /// A device of the recipient has it.
    #[default]
    Delivered,
    /// It is still on the way when the time is over, or was given up.
    Undelivered,
}

/// `resolve = { .. }`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Resolve {
    pub(super) from: String,
    /// Need not be a user of the scenario.
    pub(super) to: String,
    #[serde(default)]
    pub(super) expect: ResolveExpectation,
    within_s: Option<f64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum ResolveExpectation {
    /// With the right identity and device.
    #[default]
    Found,
    /// The directory says that nobody has this name.
    NotFound,
    /// Their authority revoked them.
    Revoked,
}

/// `call = { .. }`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Call {
    pub(super) from: String,
    pub(super) to: String,
    duration_s: Option<f64>,
    /// What the callee does when it rings.
    #[serde(default)]
    pub(super) answer: Answer,
    #[serde(default = "Call::default_expect")]
    pub(super) expect: CallResult,
    /// Whether the callee must have been woken for it; not looked at by default.
    pub(super) via_push: Option<bool>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Answer {
    #[default]
    Accept,
    Decline,
    /// It rings on.
    Ignore,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawScenario {
    users: Spanned<Vec<String>>,
    nodes: Option<Spanned<u32>>,
    #[serde(default)]
    step: Vec<Spanned<RawStep>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawStep {
    at_s: f64,
    kill: Option<RawWho>,
    restart: Option<RawWho>,
    push: Option<RawWho>,
    suspend: Option<RawWho>,
    wake: Option<RawWho>,
    revoke: Option<RawWho>,
    message: Option<Message>,
    resolve: Option<Resolve>,
    call: Option<Call>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a name, a list of names, or a share like \"20%\"")]
enum RawWho {
    One(String),
    Several(Vec<String>),
}

/// What is wrong, and where.
#[derive(Debug)]
struct Mistake {
    /// The first byte of what is wrong.
    at: Option<usize>,
    reason: String,
}

impl Mistake {
    fn new(span: &Range<usize>, reason: impl Into<String>) -> Self {
        Self { at: Some(span.start), reason: reason.into() }
    }
}

impl Scenario {
    /// Reads a file.
    ///
    /// # Errors
    /// [`TestnetError::Scenario`]: it can't be read, or what is wrong in which line.
    pub(super) fn load(path: &Path) -> Result<Self, TestnetError> {
        let wrong = |reason: String| TestnetError::Scenario { path: path.to_owned(), reason };
        let bytes = std::fs::metadata(path).map_err(|error| wrong(error.to_string()))?.len();
        if bytes > FILE_BYTES_MAX {
            return Err(wrong(format!("{bytes} bytes, at most {FILE_BYTES_MAX} are allowed")));
        }
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        Self::parse(&text).map_err(wrong)
    }

    /// Reads the text of a file; the error names the line.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let raw = toml::from_str::<RawScenario>(text).map_err(|error| Mistake {
            at: error.span().map(|span| span.start),
            reason: error.message().split_whitespace().collect::<Vec<_>>().join(" "),
        });
        raw.and_then(Self::check).map_err(|mistake| match mistake.at {
            Some(at) => format!("line {}: {}", line_of(text, at), mistake.reason),
            None => mistake.reason,
        })
    }

    fn check(raw: RawScenario) -> Result<Self, Mistake> {
        let users_span = raw.users.span();
        let users = raw.users.into_inner();
        check_users(&users).map_err(|reason| Mistake::new(&users_span, reason))?;
        let named = users.len() as u32;
        let nodes = match raw.nodes {
            Some(nodes) if *nodes.get_ref() < named || *nodes.get_ref() > NODES_MAX => {
                return Err(Mistake::new(&nodes.span(), format!("nodes must be from {named}, the named users, to {NODES_MAX}")));
            }
            Some(nodes) => nodes.into_inner(),
            None => named,
        };
        if raw.step.len() > STEPS_MAX {
            return Err(Mistake { at: None, reason: format!("{} steps, at most {STEPS_MAX} are allowed", raw.step.len()) });
        }
        let known: HashSet<String> = all_users(&users, nodes).into_iter().collect();
        let steps = raw.step.into_iter().map(|step| {
            let span = step.span();
            step.into_inner().check(&known).map_err(|reason| Mistake::new(&span, reason))
        });
        let mut steps = steps.collect::<Result<Vec<_>, _>>()?;
        steps.sort_by_key(|step| step.at);
        Ok(Self { users, nodes, steps })
    }
}

/// The named users, then `user-N` up to the full number.
pub(super) fn all_users(named: &[String], nodes: u32) -> Vec<String> {
    let more = (named.len() + 1..=nodes as usize).map(|n| format!("user-{n}"));
    named.iter().cloned().chain(more).collect()
}

fn check_users(users: &[String]) -> Result<(), String> {
    if users.len() < 2 {
        return Err("at least two users are needed".to_owned());
    }
    let mut seen = HashSet::new();
    for user in users {
        let name = Username::new(user).map_err(|error| format!("{user:?} can't be a username: {error}"))?;
        if name.to_string() != *user {
            return Err(format!("write {user:?} in its normal form, {:?}", name.to_string()));
        }
        if user == "infrastructure" || user.starts_with("user-") {
            return Err(format!("the name {user:?} is taken by the network itself"));
        }
        if !seen.insert(user) {
            return Err(format!("{user:?} is named twice"));
        }
    }
    Ok(())
}

fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

fn seconds(secs: f64) -> Result<Duration, String> {
    if (0.0..=SECS_MAX).contains(&secs) {
        Ok(Duration::from_secs_f64(secs))
    } else {
        Err(format!("{secs} s is not from 0 to {SECS_MAX} s"))
    }
}

impl RawStep {
    fn check(self, known: &HashSet<String>) -> Result<Step, String> {
        let at = seconds(self.at_s)?;
        let who = |who: Option<RawWho>, action: fn(Who) -> Action| who.map(|who| who.check(known).map(action)).transpose();
        let actions = [
            who(self.kill, Action::Kill)?,
            who(self.restart, Action::Restart)?,
            who(self.push, Action::Push)?,
            who(self.suspend, Action::Suspend)?,
            who(self.wake, Action::Wake)?,
            who(self.revoke, Action::Revoke)?,
            self.message.map(|message| message.check(known)).transpose()?.map(Action::Message),
            self.resolve.map(|resolve| resolve.check(known)).transpose()?.map(Action::Resolve),
            self.call.map(|call| call.check(known)).transpose()?.map(Action::Call),
        ];
        let mut actions = actions.into_iter().flatten();
        match (actions.next(), actions.next()) {
            (Some(action), None) => Ok(Step { at, action }),
            (None, _) => {
                Err("the step does nothing: say kill, restart, push, suspend, wake, revoke, message, resolve or call".into())
            }
            (Some(_), Some(_)) => Err("the step does two things: write two steps, with the same at_s if you like".into()),
        }
    }
}

impl RawWho {
    fn check(self, known: &HashSet<String>) -> Result<Who, String> {
        let names = match self {
            Self::One(text) => match text.strip_suffix('%') {
                Some(share) => {
                    let percent = share.trim().parse().ok().filter(|percent| (1..=100).contains(percent));
                    return percent.map(Who::Percent).ok_or_else(|| format!("{text:?} is not from 1% to 100%"));
                }
                None => vec![text],
            },
            Self::Several(names) => names,
        };
        if names.is_empty() {
            return Err("nobody is named".to_owned());
        }
        names.iter().try_for_each(|name| check_known(name, known))?;
        Ok(Who::Names(names))
    }
}

fn check_known(name: &str, known: &HashSet<String>) -> Result<(), String> {
    if known.contains(name) { Ok(()) } else { Err(format!("{name:?} is not a user of this scenario")) }
}

fn check_pair(from: &str, to: &str, known: &HashSet<String>) -> Result<(), String> {
    check_known(from, known)?;
    check_known(to, known)?;
    if from == to { Err(format!("{from:?} is both ends")) } else { Ok(()) }
}

impl Message {
    fn default_text() -> String {
        "Hello from the scenario.".to_owned()
    }

    fn check(self, known: &HashSet<String>) -> Result<Self, String> {
        check_pair(&self.from, &self.to, known)?;
        self.within_s.map_or(Ok(()), |secs| seconds(secs).map(drop))?;
        Ok(self)
    }

    pub(super) fn within(&self) -> Duration {
        within(self.within_s)
    }
}

impl Resolve {
    fn check(self, known: &HashSet<String>) -> Result<Self, String> {
        check_known(&self.from, known)?;
        Username::new(&self.to).map_err(|error| format!("{:?} can't be a username: {error}", self.to))?;
        self.within_s.map_or(Ok(()), |secs| seconds(secs).map(drop))?;
        Ok(self)
    }

    pub(super) fn within(&self) -> Duration {
        within(self.within_s)
    }
}

impl Call {
    const fn default_expect() -> CallResult {
        CallResult::Completed
    }

    fn check(self, known: &HashSet<String>) -> Result<Self, String> {
        check_pair(&self.from, &self.to, known)?;
        self.duration_s.map_or(Ok(()), |secs| seconds(secs).map(drop))?;
        Ok(self)
    }

    pub(super) fn duration(&self) -> Duration {
        self.duration_s.and_then(|secs| seconds(secs).ok()).unwrap_or(CALL_DEFAULT)
    }
}

fn within(secs: Option<f64>) -> Duration {
    secs.and_then(|secs| seconds(secs).ok()).unwrap_or(WITHIN_DEFAULT)
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Names(names) => f.write_str(&names.join(", ")),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} s: ", self.at.as_secs_f64())?;
        match &self.action {
            Action::Kill(who) => write!(f, "kill {who}"),
            Action::Restart(who) => write!(f, "restart {who}"),
            Action::Push(who) => write!(f, "register push for {who}"),
            Action::Suspend(who) => write!(f, "suspend {who}"),
            Action::Wake(who) => write!(f, "wake {who}"),
            Action::Revoke(who) => write!(f, "revoke {who}"),
            Action::Message(message) => write!(f, "{} messages {}", message.from, message.to),
            Action::Resolve(resolve) => write!(f, "{} looks for {}", resolve.from, resolve.to),
            Action::Call(call) => write!(f, "{} calls {}", call.from, call.to),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        Scenario::parse(text).expect_err("a bad scenario")
    }

    fn step(step: &str) -> String {
        format!("users = [\"alice\", \"bob\"]\nnodes = 10\n\n[[step]]\n{step}\n")
    }

    #[test]
    fn steps_come_in_the_order_of_time() {
        let text = "users = [\"alice\", \"bob\"]\nnodes = 9\n\
            [[step]]\nat_s = 8\nmessage = { from = \"alice\", to = \"bob\", within_s = 2.5 }\n\
            [[step]]\nat_s = 5\nkill = \"20%\"\n[[step]]\nat_s = 6\nkill = [\"user-9\"]\n";
        let scenario = Scenario::parse(text).expect("a good scenario");
        let names: Vec<_> = scenario.steps.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["5 s: kill 20%", "6 s: kill user-9", "8 s: alice messages bob"]);
        assert_eq!(scenario.nodes, 9);
        let Action::Message(message) = &scenario.steps[2].action else { panic!("the last step is a message") };
        assert_eq!(message.within(), Duration::from_millis(2_500));
        assert_eq!(message.expect, MessageExpectation::Delivered);
    }

    #[test]
    fn mistakes_are_told_with_their_line() {
        let cases = [
            (step("at_s = 1\nkill = \"eve\""), "line 4: \"eve\" is not a user of this scenario"),
            (step("at_s = 1\nkill = \"120%\""), "line 4: \"120%\" is not from 1% to 100%"),
            (step("at_s = -1\nkill = \"bob\""), "line 4: -1 s is not from 0 to 3600 s"),
            (step("at_s = 1"), "line 4: the step does nothing"),
            (step("at_s = 1\nkill = \"bob\"\nwake = \"bob\""), "line 4: the step does two things"),
            (step("at_s = 1\ncall = { from = \"bob\", to = \"bob\" }"), "line 4: \"bob\" is both ends"),
            ("users = [\"alice\"]".to_owned(), "line 1: at least two users"),
            ("\nusers = [\"alice\", \"alice\"]".to_owned(), "line 2: \"alice\" is named twice"),
            ("users = [\"alice\", \"user-7\"]".to_owned(), "line 1: the name \"user-7\" is taken"),
            ("users = [\"alice\", \"bob\"]\nnodes = 1".to_owned(), "line 2: nodes must be from 2"),
        ];
        for (text, expected) in cases {
            let error = error(&text);
            assert!(error.starts_with(expected), "{error:?} should begin with {expected:?}");
        }
    }

    #[test]
    fn unknown_words_are_refused() {
        assert!(error("users = [\"alice\", \"bob\"]\nuser = 3").starts_with("line 2: unknown field `user`"));
        let error = error(&step("at_s = 1\nmessage = { from = \"alice\", to = \"bob\", expect = \"eaten\" }"));
        assert!(error.starts_with("line 6:") && error.contains("eaten"), "{error}");
        assert!(self::error("users = [").starts_with("line 1:"));
    }
}
