//! Registrations: a phone is here, and what is kept of it.

use std::path::Path;
use std::time::{Duration, Instant};

use halloo_protocol::sip::gruu::PhoneMark;
use halloo_protocol::sip::message::Message;
use halloo_protocol::sip::push::PushWish;
use halloo_protocol::sip::registrar::{EXPIRES_SECS_MIN, FLOW_TIMER_SECS, RegisterError, Registrar};
use halloo_protocol::sip::status::reason_of;
use halloo_protocol::sip::transaction::{Flow, ServerId};
use halloo_protocol::sip::uri::{SipUri, address_of_user};
use halloo_protocol::time::UnixTime;
use tokio::task::JoinHandle;
use tracing::{debug, warn};

use super::{Done, Edge, unix};
use crate::sip::accounts::Accounts;
use crate::sip::dialog::{USER_AGENT, token};

const BINDINGS_FILE: &str = "bindings.json";

/// How long it may take until a desk hears of phones that have registered once more, and are what they were.
const POKE_AFTER: Duration = Duration::from_millis(200);

/// How long a registration waits for others that are written with it.
const TOGETHER: Duration = Duration::from_millis(10);

impl Edge {
    pub(super) fn register(&mut self, message: &Message, flow: Flow, account: &str) {
        let now = unix();
        let registered = self.push_wishes(account, message).and_then(|wishes| {
            let changed = self.registrar.register(account, message, flow, now)?;
            Ok((changed, wishes))
        });
        let (changed, wishes) = match registered {
            Ok(registered) => registered,
            Err(error) => {
                let push = if error == RegisterError::PushService { self.all_feature_caps(account) } else { Vec::new() };
                return self.answer(message, error.status(), &error.to_string(), flow, |answer| {
                    if error == RegisterError::TooBrief {
                        answer.add("min-expires", EXPIRES_SECS_MIN.to_string());
                    }
                    for service in push {
                        answer.add("feature-caps", service);
                    }
                });
            }
        };
        self.is_registrar_changed = true;
        if changed.added + changed.moved + changed.removed > 0 {
            self.poke_desk(account);
        } else if let Some(running) = self.running.get(account) {
            running.desk.poke_soon();
            self.poke_at.get_or_insert_with(|| Instant::now() + POKE_AFTER);
        }
        if changed.added + changed.moved > 0 {
            self.move_calls(account);
        }
        debug!(added = changed.added, removed = changed.removed, "registered");
        let mut answer = self.registered(message, flow, account, now);
        for service in self.feature_caps(account, flow, &wishes) {
            answer.add("feature-caps", service);
        }
        let Some(id) = self.transactions.accept(message, flow, Instant::now()) else {
            self.answer_statelessly(message, 503, reason_of(503), flow, |answer| answer.add("retry-after", "10"));
            return;
        };
        // A connection is gone after a restart, so that it needn't be remembered; everything else is, before the phone is told, unless the disk has as much already.
        // An app that may sleep comes back only if it is woken.
        let is_new_app = changed.added > 0 && wishes.iter().any(|wish| matches!(wish, PushWish::Wake(_)));
        if (flow.transport.is_lossy() && changed.unkept > 0) || changed.removed > 0 || is_new_app {
            self.saving.wait(id, answer);
        } else {
            self.transactions.respond(id, &answer, Instant::now());
        }
        self.phones_came(account, flow);
    }

    /// The answer to a registration: all phones of the account.
    fn registered(&self, message: &Message, flow: Flow, account: &str, now: UnixTime) -> Message {
        let mut answer = Message::answer(message, 200, "OK", Some(&token()));
        let is_outbound = self.registrar.bindings(account, now).iter().any(|binding| binding.flow == flow && binding.is_outbound);
        if let Ok(aor) = SipUri::parse(&address_of_user(account)) {
            let key = self.running.get(account).map(|running| running.account.record.gruu_key());
            let temporary =
                |instance: &str| key.as_ref().map(|key| key.seal(PhoneMark::of(instance), rand::random())).unwrap_or_default();
            let wanted: Option<&dyn Fn(&str) -> String> =
                if message.lists("supported", "gruu") { Some(&temporary) } else { None };
            for contact in self.registrar.contacts(account, &aor, wanted, now) {
                answer.add("contact", contact);
            }
        }
        answer.add("date", httpdate::fmt_http_date(std::time::SystemTime::now()));
        if is_outbound {
            answer.add("require", "outbound");
            answer.add("flow-timer", FLOW_TIMER_SECS.to_string());
        }
        answer.add("server", USER_AGENT);
        answer
    }

    /// An account's phones have changed.
    pub(super) fn poke_desk(&self, account: &str) {
        if let Some(running) = self.running.get(account) {
            running.desk.poke();
        }
    }

    /// Desks hear of phones that have registered once more.
    pub(super) fn poke_refreshed(&mut self) {
        self.poke_at = None;
        self.running.values().for_each(|running| running.desk.poke_refreshed());
    }

    /// Writes registrations, on another thread, for all that wait for it; unless that is under way: then again afterwards.
    pub(super) fn begin_save(&mut self) {
        if self.saving.task.is_some() {
            return;
        }
        let answers = self.saving.begin();
        self.registrar.begin_keeping(false);
        let (path, done) = (self.accounts.root().join(BINDINGS_FILE), self.done.clone());
        let bytes = serde_json::to_vec(&self.registrar).map_err(|error| error.to_string());
        self.is_registrar_changed = false;
        self.saving.task = Some(tokio::spawn(async move {
            let write = move || write(&path, &bytes?);
            let result = tokio::task::spawn_blocking(write).await.unwrap_or_else(|error| Err(error.to_string()));
            // The edge has ended: it writes once more itself.
            let _ = done.send(Done::Saved { answers, result }).await;
        }));
    }

    /// They are written, or not: phones are told what is so.
    pub(super) fn saved(&mut self, answers: Vec<(ServerId, Message)>, result: Result<(), String>) {
        self.saving.task = None;
        let now = Instant::now();
        if result.is_ok() {
            self.registrar.kept();
        }
        if let Err(error) = &result {
            warn!(%error, "registrations of phones aren't kept: tried again");
            self.is_registrar_changed = true;
        }
        for (id, answer) in answers {
            match result {
                Ok(()) => self.transactions.respond(id, &answer, now),
                Err(_) => self.transactions.respond(id, &refused(&answer), now),
            }
        }
    }

    /// Writes them now, and waits for it.
    pub(super) fn save_bindings(&mut self) {
        self.registrar.begin_keeping(true);
        let bytes = serde_json::to_vec(&self.registrar).map_err(|error| error.to_string());
        if let Err(error) = bytes.and_then(|bytes| write(&self.accounts.root().join(BINDINGS_FILE), &bytes)) {
            warn!(%error, "registrations of phones aren't kept");
        }
    }
}

/// Registrations that are to be on disk before their phones are told. Many are written at once: each write waits for the disk.
#[derive(Debug, Default)]
pub(super) struct Saving {
    waiting: Vec<(ServerId, Message)>,
    due: Option<Instant>,
    task: Option<JoinHandle<()>>,
}

impl Saving {
    fn wait(&mut self, id: ServerId, answer: Message) {
        self.waiting.push((id, answer));
        self.due.get_or_insert_with(|| Instant::now() + TOGETHER);
    }

    /// When the next write is to begin.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due.filter(|_| self.task.is_none())
    }

    /// Whoever was shut out mustn't be there again after a crash.
    pub(super) fn hurry(&mut self) {
        self.due = Some(Instant::now());
    }

    fn begin(&mut self) -> Vec<(ServerId, Message)> {
        self.due = None;
        std::mem::take(&mut self.waiting)
    }

    /// Waits for the write that is under way.
    pub(super) async fn finish(&mut self) {
        if let Some(task) = self.task.take() {
            // It reports to a queue that nobody reads any more, and which may be full.
            let _ = tokio::time::timeout(Duration::from_secs(1), task).await;
        }
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), String> {
    crate::home::write_secret(path, bytes).map_err(|error| error.to_string())
}

/// The same answer as a refusal: what isn't kept isn't promised.
fn refused(answer: &Message) -> Message {
    let mut refused = Message::answer(answer, 503, reason_of(503), None);
    refused.add("retry-after", "10");
    refused.add("server", USER_AGENT);
    refused
}

/// Registrations of the last run. Those over connections are gone with it.
pub(super) fn read_bindings(accounts: &Accounts) -> Registrar {
    let read = std::fs::read(accounts.root().join(BINDINGS_FILE)).ok();
    let mut registrar: Registrar = read.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    registrar.resume();
    registrar.keep_datagrams();
    registrar.expire(unix());
    registrar
}
