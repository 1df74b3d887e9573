//! An authority and users around it, each a process of its own.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cli::Invocation;
use crate::daemon::{Daemon, Launch};
use crate::wait::eventually;

/// The authority's label in all test networks.
pub const AUTHORITY: &str = "example";

/// Lines of a `config.toml` with which anyone may call and write. A table: they go to the end.
pub const ANYONE: &str = "[privacy]\ncall = \"anyone\"\nmessage = \"anyone\"\n";

/// How long a request or an answer may take to arrive.
const CONTACT_TIME_MAX: Duration = Duration::from_secs(20);

/// Daemons that are brought up at the same time: more only make each other late on two cores.
const AT_ONCE: usize = 4;

/// What a network shall look like.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    users: Vec<String>,
    args: BTreeMap<String, Vec<String>>,
    config: BTreeMap<String, String>,
    open: bool,
    contacts_only: bool,
}

impl Plan {
    /// An authority that is directory, gateway and relay too, and these users; all in a lab on the loopback interface.
    #[must_use]
    pub fn new<N: Into<String>>(users: impl IntoIterator<Item = N>) -> Self {
        Self { users: users.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// Arguments for one daemon's `halloo run`; the infrastructure's name is [`AUTHORITY`].
    #[must_use]
    pub fn args<A: Into<String>>(mut self, name: &str, args: impl IntoIterator<Item = A>) -> Self {
        self.args.entry(name.to_owned()).or_default().extend(args.into_iter().map(Into::into));
        self
    }

    /// Lines for one daemon's `config.toml`: tables of their own.
    #[must_use]
    pub fn config(mut self, name: &str, lines: &str) -> Self {
        self.config.entry(name.to_owned()).or_default().push_str(lines);
        self
    }

    /// Everybody may enrol, without invite.
    #[must_use]
    pub fn open(mut self) -> Self {
        self.open = true;
        self
    }

    /// Users take calls and messages of contacts alone, as they do by default. Without it anyone may call and write, for most scenarios are
    /// about something else.
    #[must_use]
    pub fn contacts_only(mut self) -> Self {
        self.contacts_only = true;
        self
    }

    /// Brings it up.
    ///
    /// # Panics
    /// If any part of it doesn't come up.
    #[track_caller]
    #[must_use]
    pub fn start(self) -> Network {
        let folder = tempfile::Builder::new().prefix("halloo-").tempdir().expect("a temporary directory");
        let mut authority = Daemon::init(folder.path(), AUTHORITY, &self.authority_config());
        authority.start(self.launch(AUTHORITY, Launch::lab().args(infrastructure_roles())));
        let network = Network { users: Vec::new(), authority, folder, plan: self };
        network.bring_up()
    }

    fn authority_config(&self) -> String {
        let enrolment = if self.open { "open" } else { "invite" };
        let more = self.config.get(AUTHORITY).map_or("", String::as_str);
        format!("lab = true\n[authority]\nname = \"{AUTHORITY}\"\nenrolment = \"{enrolment}\"\n{more}")
    }

    fn launch(&self, name: &str, launch: Launch) -> Launch {
        launch.args(self.args.get(name).cloned().unwrap_or_default())
    }
}

/// The roles of a network's one server.
pub fn infrastructure_roles() -> impl Iterator<Item = &'static str> {
    ["authority", "directory", "gateway", "relay"].into_iter().flat_map(|role| ["--role", role])
}

/// A user: a name and one device.
#[derive(Debug)]
pub struct User {
    /// `name@example`
    pub username: String,
    /// The identity key, as enrolment showed it.
    pub identity: String,
    /// The words to recover it by.
    pub phrase: String,
    daemon: Daemon,
}

impl User {
    /// The device alone.
    #[must_use]
    pub fn into_daemon(self) -> Daemon {
        self.daemon
    }
}

impl Deref for User {
    type Target = Daemon;

    fn deref(&self) -> &Daemon {
        &self.daemon
    }
}

impl DerefMut for User {
    fn deref_mut(&mut self) -> &mut Daemon {
        &mut self.daemon
    }
}

/// A running network. Everything in it ends when it is dropped.
#[derive(Debug)]
pub struct Network {
    /// The users, in the plan's order.
    pub users: Vec<User>,
    /// Authority, directory, gateway and relay, and everybody's bootstrap node.
    pub authority: Daemon,
    folder: TempDir,
    plan: Plan,
}

impl Network {
    /// A network of these users.
    ///
    /// # Panics
    /// If it doesn't come up.
    #[track_caller]
    #[must_use]
    pub fn of<const N: usize>(users: [&str; N]) -> Self {
        Plan::new(users).start()
    }

    /// A network of `count` users: `user00`, `user01`, ..
    ///
    /// # Panics
    /// If it doesn't come up.
    #[track_caller]
    #[must_use]
    pub fn start(count: usize) -> Self {
        Plan::new((0..count).map(|index| format!("user{index:02}"))).start()
    }

    /// The users, taken apart.
    ///
    /// # Panics
    /// If there are not `N` of them.
    #[track_caller]
    pub fn users<const N: usize>(&mut self) -> [&mut User; N] {
        let users: Vec<&mut User> = self.users.iter_mut().collect();
        users.try_into().unwrap_or_else(|users: Vec<_>| panic!("{} users, not {N}", users.len()))
    }

    /// The one address everybody starts from.
    ///
    /// # Panics
    /// If the authority doesn't run.
    #[track_caller]
    #[must_use]
    pub fn bootstrap(&self) -> String {
        self.authority.addresses().into_iter().next().expect("the authority listens somewhere")
    }

    /// How an ordinary user's daemon is run here.
    #[track_caller]
    #[must_use]
    pub fn launch(&self, name: &str) -> Launch {
        self.plan.launch(name, Launch::lab().arg("--bootstrap").arg(self.bootstrap()))
    }

    /// Where homes are made.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A fresh invite code of the authority.
    ///
    /// # Panics
    /// If the authority gives none.
    #[track_caller]
    #[must_use]
    pub fn invite(&self) -> String {
        invite(&self.authority)
    }

    /// Makes one more user, enrolled and ready.
    ///
    /// # Panics
    /// If that fails.
    #[track_caller]
    pub fn add_user(&mut self, name: &str) -> &mut User {
        let user = self.make_user(name);
        self.users.push(user);
        self.users.last_mut().expect("just pushed")
    }

    /// Makes contacts of two users: one asks, the other accepts, and both know.
    ///
    /// # Panics
    /// If that fails.
    #[track_caller]
    pub fn befriend(&self, one: &User, other: &User) {
        befriend(one, other);
    }

    #[track_caller]
    fn make_user(&self, name: &str) -> User {
        let more = self.plan.config.get(name).map_or("", String::as_str);
        let privacy = if self.plan.contacts_only { "" } else { ANYONE };
        let config = format!("lab = true\n{more}\n{privacy}");
        let mut user = enrol_user(self.folder.path(), name, &config, &self.invite());
        user.start(self.launch(name));
        user
    }

    /// Makes the plan's users, a few at a time.
    #[track_caller]
    fn bring_up(mut self) -> Self {
        let names: Vec<String> = self.plan.users.clone();
        let next = Mutex::new(names.iter().enumerate());
        let made = Mutex::new(BTreeMap::new());
        std::thread::scope(|scope| {
            for _ in 0..AT_ONCE.min(names.len()) {
                scope.spawn(|| {
                    while let Some((index, name)) = next.lock().ok().and_then(|mut next| next.next()) {
                        let user = self.make_user(name);
                        made.lock().expect("no holder panics").insert(index, user);
                    }
                });
            }
        });
        self.users = made.into_inner().expect("no holder panics").into_values().collect();
        self
    }
}

/// Makes contacts of two users: one asks, the other accepts, and both know.
///
/// # Panics
/// If that fails.
#[track_caller]
pub fn befriend(one: &User, other: &User) {
    one.api().post("/v1/contacts", &json!({"user": other.username})).unwrap_or_else(|error| panic!("not asked: {error}"));
    one_is(other, &one.username, "requested");
    let path = format!("/v1/contacts/{}/accept", one.username);
    other.api().post(&path, &json!({})).unwrap_or_else(|error| panic!("not accepted: {error}"));
    one_is(one, &other.username, "contact");
}

/// Waits until `user` is this to the user of a daemon.
///
/// # Panics
/// If that takes too long.
#[track_caller]
pub fn one_is(daemon: &Daemon, user: &str, state: &str) {
    eventually(CONTACT_TIME_MAX, &format!("{user} is {state}"), || {
        let contact = daemon.api().get(&format!("/v1/contacts/{user}"))?;
        if contact["state"] == state { Ok(()) } else { Err(contact.to_string()) }
    });
}

/// An invite code of this authority.
///
/// # Panics
/// If it gives none.
#[track_caller]
#[must_use]
pub fn invite(authority: &Daemon) -> String {
    let made = authority.api().post("/v1/authority/invites", &json!({})).unwrap_or_else(|error| panic!("no invite: {error}"));
    text(&made, "code")
}

/// Makes a home and enrols it; the daemon isn't started.
///
/// # Panics
/// If that fails.
#[track_caller]
#[must_use]
pub fn enrol_user(folder: &Path, name: &str, config: &str, invite: &str) -> User {
    enrol_user_in(None, folder, name, config, invite)
}

/// [`enrol_user`] in a network namespace.
///
/// # Panics
/// If that fails.
#[track_caller]
#[must_use]
pub fn enrol_user_in(namespace: Option<&str>, folder: &Path, name: &str, config: &str, invite: &str) -> User {
    let (daemon, printed) = Daemon::init_with(folder, name, config, None);
    let username = format!("{name}@{AUTHORITY}");
    let enrolled = Invocation::inside(namespace, daemon.home()).args(["enrol", &username, "--invite", invite]).run().ok();
    assert_eq!(enrolled["username"], username.as_str());
    let (identity, phrase) = (text(&enrolled, "identity"), text(&printed, "recovery_phrase"));
    assert_eq!(printed["identity"], identity.as_str(), "the certificate is for another key than `init` printed");
    User { username, identity, phrase, daemon }
}

/// A text field of a JSON answer.
///
/// # Panics
/// If it isn't there.
#[track_caller]
#[must_use]
pub fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_else(|| panic!("no text in field {field:?} of {value}")).to_owned()
}
