//! Mail as an event (`[mail]`): this device watches accounts by IMAP ([`imap`]) and takes copies from a mail server ([`smtp`]), and tells all devices of its
//! user: who has written, what about, how it begins ([`parse`]).
//!
//! 1. A task brings how a mail begins. It is on disk, as a signal to the own devices, together with how far the account was seen, before the task goes on.
//! 2. The policy decides as for every event. Whoever is awake has the signal at once, and shows it when its turn has come. A device that sleeps is pushed to
//!    when its turn comes, unless one whose turn was before has the mail by then.
//! 3. Each device tells of a mail once, whichever of its user's devices has seen it.

mod imap;
mod parse;
pub(crate) mod send;
mod smtp;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use bincode::{Decode, Encode};
use halloo_protocol::choice::Choice;
use halloo_protocol::event::EventKind;
use halloo_protocol::id::MessageId;
use halloo_protocol::key::DeviceKey;
use halloo_protocol::mail::MailNotice;
use halloo_protocol::message::{CopyState, Correspondent, Envelope, MessageBody, OwnSignal};
use halloo_protocol::time::{Now, UnixTime};
use halloo_protocol::wire::Extensions;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::sync::oneshot;
use tokio_rustls::TlsConnector;
use tracing::{debug, warn};
use zeroize::Zeroizing;

use crate::config::{MAIL_ACCOUNTS_MAX, MailAccount};
use crate::event_loop::EventLoop;
use crate::handle::Event;
use crate::messages::{conversation_id, keep_signal};
use crate::store::StoreError;
use crate::timestamp::Timestamp;
use crate::wording::{Sentence, ShownOn};

/// Mails remembered, so that nobody is told twice; and those that wait for their turn.
const KNOWN_MAX: usize = 512;
const WAITING_MAX: usize = 64;

/// Mails of an account that are looked after until they are read; the oldest fall out.
const UNREAD_MAX: usize = 32;

/// Mails that go on waiting for their turn after a restart.
const KEPT_WAITING_MAX: usize = 32;

const WAITING_SETTING: &str = "mails that wait";

/// Longest password, and file with certificates.
const PASSWORD_BYTES_MAX: u64 = 1_024;
const ROOTS_BYTES_MAX: u64 = 1_024 * 1_024;

/// How far a folder was seen (RFC 3501 section 2.3.1.1): numbers count as long as the validity is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Seen {
    validity: u32,
    uid: u32,
}

/// A mail of a watched account that was told of, and not read when it was last looked.
#[derive(Clone, Debug, Encode, Decode)]
struct Unread {
    seen: Seen,
    notice: MailNotice,
}

/// Where a mail came from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Origin {
    /// A watched account, seen so far with it.
    Watched(Seen),
    /// A mail server.
    Delivered,
}

/// What the tasks bring.
#[derive(Debug)]
pub(crate) enum MailNews {
    /// How a mail begins.
    Came {
        account: String,
        raw: Vec<u8>,
        origin: Origin,
        /// Told whether it is on disk.
        taken: oneshot::Sender<bool>,
    },
    /// A folder that wasn't known: from there on mails are news.
    Opened { account: String, seen: Seen, taken: oneshot::Sender<bool> },
    /// Mails of the account that were told of are read, or gone: their numbers.
    Read { account: String, uids: Vec<u32>, taken: oneshot::Sender<bool> },
    /// An account can't be watched.
    Trouble { account: String, reason: String },
}

/// A device's turn.
#[derive(Debug)]
struct Turn {
    device: DeviceKey,
    after_secs: u16,
    /// `None`: another one has the mail, and this one isn't woken for it.
    at: Option<Instant>,
    is_woken: bool,
}

/// Mails told of, and those whose turn comes.
#[derive(Debug, Default)]
pub(crate) struct MailState {
    known: VecDeque<[u8; 16]>,
    /// To be shown here, and when.
    waiting: Vec<(Instant, MailNotice, Option<ShownOn>)>,
    /// When other devices may be woken for a mail, by the message that tells of it; the oldest fall out, and wake nobody any more.
    turns: VecDeque<(MessageId, [u8; 16], Vec<Turn>)>,
}

impl MailState {
    /// True if it is the first word of this mail.
    fn hear(&mut self, id: [u8; 16]) -> bool {
        if self.known.contains(&id) {
            return false;
        }
        if self.known.len() >= KNOWN_MAX {
            self.known.pop_front();
        }
        self.known.push_back(id);
        true
    }
}

fn setting(account: &str) -> String {
    format!("mail seen {account}")
}

fn unread_setting(account: &str) -> String {
    format!("mail unread {account}")
}

// Start.
impl EventLoop {
    /// Starts to watch what the configuration names.
    ///
    /// # Errors
    /// The setting that can't be used, and why.
    pub(crate) fn open_mail(&mut self) -> Result<(), String> {
        let config = self.settings.mail.clone();
        if config.account.len() > MAIL_ACCOUNTS_MAX {
            return Err(format!("mail.account: {}, at most {MAIL_ACCOUNTS_MAX}", config.account.len()));
        }
        for account in &config.account {
            let ready = ready(account).map_err(|reason| format!("mail.account {:?}: {reason}", account.name))?;
            let seen = self.store.read::<_, StoreError>(|view| view.setting_value::<Seen>(&setting(&account.name)));
            let seen = seen.map_err(|error| format!("mail.account {:?}: {error}", account.name))?;
            let unread = self.unread_of(&account.name).map_err(|error| format!("mail.account {:?}: {error}", account.name))?;
            let unread = unread.iter().filter(|unread| Some(unread.seen.validity) == seen.map(|seen| seen.validity));
            let unread = unread.map(|unread| unread.seen.uid).collect();
            tokio::spawn(imap::watch(ready, seen, unread, self.internal_sender.clone()));
        }
        self.take_up_waiting_mails();
        match config.listen {
            Some(address) if !address.ip().is_loopback() && !config.listen_to_others => Err(format!(
                "mail.listen: other machines reach {address}, and whoever does can have you told of anything: name a loopback address, or set mail.listen_to_others = true"
            )),
            Some(address) => smtp::listen(address, self.internal_sender.clone()).map_err(|error| format!("mail.listen: {error}")),
            None => Ok(()),
        }
    }
}

/// Reads what an account needs.
fn ready(account: &MailAccount) -> Result<imap::Account, String> {
    let (host, port) = account.server.rsplit_once(':').ok_or("server: expected HOST:PORT")?;
    let port: u16 = port.parse().map_err(|_| "server: expected HOST:PORT")?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let is_here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if !account.tls && !is_here {
        return Err("tls: without it the password would travel in the open; only a server on this machine is spoken to so".into());
    }
    let password = password(&account.password_file)?;
    for (field, text) in [("user", &account.user), ("folder", &account.folder), ("password_file", &*password)] {
        if text.is_empty() || !text.chars().all(|c| c == ' ' || c.is_ascii_graphic()) {
            return Err(format!("{field}: empty, or with other characters than those of ASCII"));
        }
    }
    if account.starttls && !account.tls {
        return Err("starttls: tls = false says that there is none".into());
    }
    let tls = if account.tls { Some(connector(account.roots.as_deref())?) } else { None };
    let (name, user, folder) = (account.name.clone(), account.user.clone(), account.folder.clone());
    Ok(imap::Account { name, host, port, tls, starttls: account.starttls, user, password, folder })
}

/// A password in a file of its own, which nobody else may read.
pub(crate) fn password(path: &Path) -> Result<Zeroizing<String>, String> {
    let failed = |reason: String| format!("password_file: {}: {reason}", path.display());
    let metadata = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?;
    if metadata.len() > PASSWORD_BYTES_MAX {
        return Err(failed(format!("more than {PASSWORD_BYTES_MAX} bytes")));
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        if metadata.permissions().mode() & 0o077 != 0 {
            return Err(failed("others can read it: chmod 600".into()));
        }
    }
    let text = Zeroizing::new(std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?);
    Ok(Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned()))
}

/// For connections to servers whose certificate Mozilla's list vouches for, or one of these files'.
pub(crate) fn connector(more_roots: Option<&Path>) -> Result<TlsConnector, String> {
    Ok(TlsConnector::from(std::sync::Arc::new(tls_config(more_roots)?)))
}

/// The usual roots, and more from a file in PEM.
pub(crate) fn tls_config(more_roots: Option<&Path>) -> Result<rustls::ClientConfig, String> {
    let mut roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    if let Some(path) = more_roots {
        let failed = |reason: String| format!("roots: {}: {reason}", path.display());
        let length = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?.len();
        if length > ROOTS_BYTES_MAX {
            return Err(failed(format!("more than {ROOTS_BYTES_MAX} bytes")));
        }
        let certificates = CertificateDer::pem_file_iter(path).map_err(|error| failed(error.to_string()))?;
        for certificate in certificates {
            let certificate = certificate.map_err(|error| failed(error.to_string()))?;
            roots.add(certificate).map_err(|error| failed(error.to_string()))?;
        }
    }
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    Ok(rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("tls: {error}"))?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

// The watching device.
impl EventLoop {
    pub(crate) fn handle_mail(&mut self, news: MailNews) {
        match news {
            MailNews::Came { account, raw, origin, taken } => {
                let is_kept = self.take_mail(&account, &raw, origin);
                let is_kept = is_kept.inspect_err(|error| warn!(%error, "a mail isn't told of yet")).is_ok();
                // Its task has ended with the node, or its connection.
                let _gone = taken.send(is_kept);
            }
            MailNews::Opened { account, seen, taken } => {
                let kept = self.store.transaction::<_, StoreError>(|tx| tx.put_setting_value(&setting(&account), &seen));
                let _gone = taken.send(kept.is_ok());
            }
            MailNews::Read { account, uids, taken } => {
                let is_kept =
                    self.mails_read(&account, &uids).inspect_err(|error| warn!(%error, "it isn't told that a mail was read"));
                let _gone = taken.send(is_kept.is_ok());
            }
            MailNews::Trouble { account, reason } => {
                warn!(account, reason, "the mail account can't be watched");
                let detail = format!("mail account {account:?}: {reason}; it is tried again");
                self.events.send(Event::Warning { code: "mail-account".into(), detail });
            }
        }
    }

    fn take_mail(&mut self, account: &str, raw: &[u8], origin: Origin) -> Result<(), StoreError> {
        let now = self.now();
        let notice = parse::notice_of(account, raw, now.unix);
        let is_news = !self.mail.known.contains(&notice.id);
        let has_others = self.own_devices_known().len() > 1;
        let me = self.identity.user_id();
        let message = MessageId::random(&mut self.rng);
        let envelope = (is_news && has_others).then(|| Envelope {
            id: message,
            conversation: conversation_id(&me, &Correspondent::User(me.clone())),
            counter: 0,
            sent_at: now.unix,
            body: MessageBody::Own(Box::new(OwnSignal::Mail(Box::new(notice.clone())))),
            extensions: Extensions::none(),
        });
        let queued = self.store.transaction::<_, StoreError>(|tx| {
            if let Origin::Watched(seen) = origin {
                tx.put_setting_value(&setting(account), &seen)?;
                let mut unread: Vec<Unread> = tx.setting_value(&unread_setting(account))?.unwrap_or_default();
                unread.push(Unread { seen, notice: notice.clone() });
                let surplus = unread.len().saturating_sub(UNREAD_MAX);
                tx.put_setting_value(&unread_setting(account), &unread.split_off(surplus))?;
            }
            envelope.map(|envelope| keep_signal(tx, &me, envelope, now.unix)).transpose()
        })?;
        self.plan_turns(message, &notice, now.instant);
        if let Some(queued) = queued {
            self.queue_kept(vec![queued], now);
        }
        self.show_mail(notice);
        Ok(())
    }

    fn unread_of(&self, account: &str) -> Result<Vec<Unread>, StoreError> {
        let known = self.store.read::<_, StoreError>(|view| view.setting_value(&unread_setting(account)))?;
        Ok(known.unwrap_or_default())
    }

    /// Mails were read, or are gone: whoever was told of them takes it back, and whoever wasn't isn't.
    fn mails_read(&mut self, account: &str, uids: &[u32]) -> Result<(), StoreError> {
        let now = self.now();
        let (read, left): (Vec<Unread>, Vec<Unread>) =
            self.unread_of(account)?.into_iter().partition(|unread| uids.contains(&unread.seen.uid));
        let me = self.identity.user_id();
        let has_others = self.own_devices_known().len() > 1;
        let envelopes: Vec<Envelope> = read
            .iter()
            .filter(|_| has_others)
            .map(|unread| Envelope {
                id: MessageId::random(&mut self.rng),
                conversation: conversation_id(&me, &Correspondent::User(me.clone())),
                counter: 0,
                sent_at: now.unix,
                body: MessageBody::Own(Box::new(OwnSignal::Mail(Box::new(unread.notice.clone().read())))),
                extensions: Extensions::none(),
            })
            .collect();
        let queued = self.store.transaction::<_, StoreError>(|tx| {
            tx.put_setting_value(&unread_setting(account), &left)?;
            envelopes.into_iter().map(|envelope| keep_signal(tx, &me, envelope, now.unix)).collect::<Result<Vec<_>, _>>()
        })?;
        self.queue_kept(queued, now);
        for Unread { notice, .. } in read {
            // Nobody else is woken for it.
            self.mail.turns.retain(|(_, mail, _)| *mail != notice.id);
            self.withdraw_mail(notice);
        }
        Ok(())
    }

    /// When others may be woken for it.
    fn plan_turns(&mut self, message: MessageId, notice: &MailNotice, now: Instant) {
        let decision = self.decide_for_mail(notice);
        let stages = decision.stages.iter().flat_map(|stage| stage.choices.iter().map(move |choice| (stage.after_secs, choice)));
        let turn = |(after_secs, choice): (u16, &Choice)| {
            let at = now + Duration::from_secs(u64::from(after_secs));
            Turn { device: choice.device, after_secs, at: Some(at), is_woken: false }
        };
        let turns = stages.map(turn).collect();
        if self.mail.turns.len() >= WAITING_MAX {
            self.mail.turns.pop_front();
        }
        self.mail.turns.push_back((message, notice.id, turns));
    }

    /// Whether a device may be woken for a mail now. One that isn't waits with what else is in its mailboxes.
    pub(crate) fn may_wake_for_mail(&self, message: &MessageId, device: &DeviceKey) -> bool {
        let turns = self.mail.turns.iter().find(|(known, ..)| known == message).map(|(.., turns)| turns);
        let turn = turns.into_iter().flatten().find(|turn| turn.device == *device);
        turn.and_then(|turn| turn.at).is_some_and(|at| at <= Instant::now())
    }

    pub(crate) fn mail_tick(&mut self, now: Now) {
        let (due, waiting): (Vec<_>, Vec<_>) = self.mail.waiting.drain(..).partition(|(at, ..)| *at <= now.instant);
        self.mail.waiting = waiting;
        if !due.is_empty() {
            self.keep_waiting_mails();
        }
        for (_, notice, shown_on) in due {
            self.tell_mail(notice, shown_on);
        }
        // Once every device has it there is nobody to wake.
        let mut all = std::mem::take(&mut self.mail.turns);
        all.retain(|(message, ..)| self.messages.outbox.item(message).is_some());
        let mut woken = Vec::new();
        for (message, _, turns) in &mut all {
            woken.extend(self.due_for_mail(message, turns, now.instant).into_iter().map(|device| (*message, device)));
        }
        self.mail.turns = all;
        for (message, device) in woken {
            debug!(message = %message.short(), "a mail's next device is woken");
            self.leave_in_mailboxes(message, device);
        }
    }

    /// Whose turn has come to be woken, unless one before them has the mail.
    fn due_for_mail(&self, message: &MessageId, turns: &mut [Turn], now: Instant) -> Vec<DeviceKey> {
        let served = turns.iter().filter(|turn| self.has_mail(message, &turn.device)).map(|turn| turn.after_secs).min();
        let mut due = Vec::new();
        for turn in turns.iter_mut().filter(|turn| !turn.is_woken && turn.at.is_some_and(|at| at <= now)) {
            if served.is_some_and(|served| served < turn.after_secs) {
                turn.at = None;
                continue;
            }
            turn.is_woken = true;
            // The first ones are woken as it is sent.
            if turn.after_secs > 0 && !self.has_mail(message, &turn.device) {
                due.push(turn.device);
            }
        }
        due
    }

    fn has_mail(&self, message: &MessageId, device: &DeviceKey) -> bool {
        let copy = self.messages.outbox.item(message).and_then(|item| item.copies.get(device));
        *device == self.identity.device() || copy.is_some_and(|copy| copy.state == CopyState::Delivered)
    }
}

// Every device.
impl EventLoop {
    /// Another device of this user tells of a mail.
    pub(crate) fn mail_told(&mut self, notice: MailNotice) {
        if notice.is_read() { self.withdraw_mail(notice) } else { self.show_mail(notice) }
    }

    /// Tells its person when this device's turn has come.
    fn show_mail(&mut self, notice: MailNotice) {
        if !self.mail.hear(notice.id) {
            return;
        }
        let (after_secs, shown_on) = self.turn_for_mail(&notice);
        if after_secs == 0 || self.mail.waiting.len() >= WAITING_MAX {
            return self.tell_mail(notice, shown_on);
        }
        self.mail.waiting.push((Instant::now() + Duration::from_secs(u64::from(after_secs)), notice, shown_on));
        self.keep_waiting_mails();
    }

    /// A mail was read: nothing is told of it any more, and what was told is taken back.
    fn withdraw_mail(&mut self, notice: MailNotice) {
        // Its first word may come after this one.
        self.mail.hear(notice.id);
        let waited = self.mail.waiting.len();
        self.mail.waiting.retain(|(_, waiting, _)| waiting.id != notice.id);
        if self.mail.waiting.len() < waited {
            return self.keep_waiting_mails();
        }
        let mail_id = data_encoding::HEXLOWER.encode(&notice.id);
        self.events.send(Event::MailRead { mail_id, account: notice.account });
    }

    /// What waits for its turn goes on doing so after a restart.
    fn keep_waiting_mails(&self) {
        let now = self.now();
        let due = |at: &Instant| now.unix.plus_secs(at.saturating_duration_since(now.instant).as_secs());
        let newest = self.mail.waiting.iter().rev().take(KEPT_WAITING_MAX);
        let kept: Vec<(UnixTime, MailNotice)> = newest.map(|(at, notice, _)| (due(at), notice.clone())).collect();
        let written = self.store.transaction::<_, StoreError>(|tx| tx.put_setting_value(WAITING_SETTING, &kept));
        if let Err(error) = written {
            warn!(%error, "mails that wait for their turn aren't kept");
        }
    }

    fn take_up_waiting_mails(&mut self) {
        let kept = self.store.read::<_, StoreError>(|view| view.setting_value::<Vec<(UnixTime, MailNotice)>>(WAITING_SETTING));
        let kept = kept.inspect_err(|error| warn!(%error, "mails that waited for their turn aren't read")).ok().flatten();
        let now = self.now();
        for (due, notice) in kept.unwrap_or_default() {
            self.mail.hear(notice.id);
            self.mail.waiting.push((now.instant + Duration::from_secs(due.secs_since(now.unix)), notice, None));
        }
    }

    fn tell_mail(&self, notice: MailNotice, shown_on: Option<ShownOn>) {
        let sentence = self.notice_named(Sentence::Event(EventKind::MAIL), notice.from(), shown_on);
        self.events.send(Event::MailReceived {
            mail_id: data_encoding::HEXLOWER.encode(&notice.id),
            account: notice.account,
            from_name: notice.from_name,
            from_address: notice.from_address,
            subject: notice.subject,
            preview: notice.preview,
            sent_at: Timestamp::from_unix_secs(notice.sent_at.0),
            notice: sentence,
        });
    }
}
