//! The registrar's table: which phones an account has, where, and until when (RFC 3261 section 10, RFC 5626, RFC 5627, RFC 8599).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::message::{Message, seconds};
pub use super::push::PushParams;
use super::push::{PushWish, REFRESH_BEFORE_SECS, refreshes_itself};
use super::transaction::Flow;
use super::uri::{NameAddr, SipUri};
use crate::time::UnixTime;

/// How long a registration lasts at most, and where nothing is asked for.
pub const EXPIRES_SECS_MAX: u32 = 3_600;

/// How long at least; less is answered with 423.
pub const EXPIRES_SECS_MIN: u32 = 60;

/// Phones of one account.
pub const BINDINGS_MAX: usize = 10;

/// How often a phone sends something through an address translator (RFC 5626 section 4.4.1), in seconds.
pub const FLOW_TIMER_SECS: u32 = 90;

/// The longest address taken.
const CONTACT_BYTES_MAX: usize = 2_048;

/// One phone of an account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// Its address, as it says.
    pub contact: String,
    /// The way to it.
    pub flow: Flow,
    /// `+sip.instance`, without angle brackets: the phone, whatever its address.
    pub instance: Option<String>,
    /// Which of a phone's flows it is (RFC 5626).
    pub reg_id: Option<u32>,
    /// Whether it was taken with RFC 5626's rules.
    pub is_outbound: bool,
    /// Preference, 0 to 1,000.
    pub q: u16,
    /// What it calls itself.
    pub user_agent: String,
    /// When it ends.
    pub expires_at: UnixTime,
    /// How it is woken, if it can be.
    pub push: Option<PushParams>,
    /// When it has registered last.
    #[serde(default)]
    pub refreshed_at: UnixTime,
    /// Its connection is gone: it has to be woken, and to register, before anything can be sent to it.
    #[serde(default)]
    pub is_asleep: bool,
    /// It needs no push to register again in time.
    #[serde(default)]
    pub refreshes_itself: bool,
    call_id: String,
    cseq: u32,
    /// Until when it is what was written last says: longer than it lasts, so that a refresh needn't wait for the disk.
    #[serde(default)]
    written_until: UnixTime,
    /// The same of what is known to be on the disk.
    #[serde(skip)]
    kept_until: UnixTime,
}

impl Binding {
    /// Whether a refresh has changed nothing of it but times and numbers.
    fn goes_on_as(&self, new: &Self) -> bool {
        let what = |one: &Self| (one.flow, one.reg_id, one.is_outbound, one.q, one.refreshes_itself, one.is_asleep);
        what(self) == what(new)
            && (&self.contact, &self.instance, &self.user_agent, &self.push)
                == (&new.contact, &new.instance, &new.user_agent, &new.push)
    }

    /// The phone's own address of the account (RFC 5627), if it has one.
    #[must_use]
    pub fn public_gruu(&self, aor: &SipUri) -> Option<String> {
        self.instance.as_ref().map(|instance| format!("{aor};gr={instance}"))
    }

    /// Another address of it (RFC 5627 section 3.1.2), with this user part: one that doesn't say whose it is.
    fn temporary_gruu(&self, aor: &SipUri, user: impl Fn(&str) -> String) -> Option<String> {
        let user = Some(user(self.instance.as_deref()?));
        let uri = SipUri { user, params: vec![("gr".to_owned(), None)], ..aor.clone() };
        Some(uri.to_string())
    }

    /// The Call-ID it was registered with: another one after a phone was switched on again (RFC 3261 section 10.2.4).
    #[must_use]
    pub fn call_id(&self) -> &str {
        &self.call_id
    }

    /// Which phone it is, whatever the way to it.
    #[must_use]
    pub fn phone(&self) -> &str {
        self.instance.as_deref().unwrap_or(&self.contact)
    }

    /// The connection it had is no more. True if it stays, as it can be woken.
    fn falls_asleep(&mut self) -> bool {
        self.is_asleep = true;
        self.push.is_some()
    }

    /// True when it is time to wake it, so that it registers again before its end (RFC 8599 section 5.5).
    fn is_to_refresh(&self, now: UnixTime) -> bool {
        let before = REFRESH_BEFORE_SECS.min(self.expires_at.secs_since(self.refreshed_at) / 2);
        self.push.is_some() && !self.refreshes_itself && self.expires_at.minus_secs(before) <= now
    }

    fn is_same(&self, other: &Self) -> bool {
        match (&self.instance, self.reg_id, &other.instance, other.reg_id) {
            (Some(ours), Some(our_id), Some(theirs), Some(their_id)) => ours == theirs && our_id == their_id,
            // An app that starts anew has another port.
            _ => self.contact == other.contact || (self.push.is_some() && self.push == other.push),
        }
    }
}

/// Why a registration is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// 400
    #[error("{0}")]
    Malformed(&'static str),
    /// 423, with `Min-Expires`
    #[error("a registration lasts {EXPIRES_SECS_MIN} seconds at least")]
    TooBrief,
    /// 403
    #[error("an account has {BINDINGS_MAX} phones at most")]
    TooMany,
    /// 500: an older request has come later (RFC 3261 section 10.3, step 7).
    #[error("a newer registration has come before")]
    OutOfOrder,
    /// 555, with `Feature-Caps` (RFC 8599 section 8.1).
    #[error("Push Notification Service Not Supported")]
    PushService,
}

impl RegisterError {
    /// The status to refuse with.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::Malformed(_) => 400,
            Self::TooBrief => 423,
            Self::TooMany => 403,
            Self::OutOfOrder => 500,
            Self::PushService => 555,
        }
    }
}

/// What a registration has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Phones that weren't there.
    pub added: usize,
    /// Phones that are gone.
    pub removed: usize,
    /// Phones that were there, and are reached another way now.
    pub moved: usize,
    /// Phones that a crash would forget before their time, as the disk has it.
    pub unkept: usize,
}

/// All bindings, by account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registrar {
    accounts: BTreeMap<String, Vec<Binding>>,
}

impl Registrar {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The phones of an account, the preferred first.
    #[must_use]
    pub fn bindings(&self, account: &str, now: UnixTime) -> Vec<&Binding> {
        let mut bindings: Vec<&Binding> = self.accounts.get(account).into_iter().flatten().collect();
        bindings.retain(|binding| binding.expires_at > now);
        bindings.sort_by_key(|binding| std::cmp::Reverse(binding.q));
        bindings
    }

    /// Phones in all.
    #[must_use]
    pub fn len(&self) -> usize {
        self.accounts.values().map(Vec::len).sum()
    }

    /// True if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.accounts.is_empty()
    }

    /// Takes a REGISTER that was authenticated as this account's: all of its contacts or none.
    ///
    /// # Errors
    /// See [`RegisterError`].
    pub fn register(&mut self, account: &str, request: &Message, flow: Flow, now: UnixTime) -> Result<Changed, RegisterError> {
        let known = self.accounts.get(account).map_or(&[][..], Vec::as_slice);
        let asked = asked(known, request, flow, now)?;
        let is_open = |binding: &&Binding| binding.expires_at > now;
        let (kept, gone): (Vec<&Binding>, Vec<&Binding>) =
            known.iter().filter(is_open).partition(|old| asked.iter().all(|change| !change.replaces(old)));
        let new: Vec<&Binding> = asked.iter().filter_map(Change::bound).filter(is_open).collect();
        if kept.len() + new.len() > BINDINGS_MAX {
            return Err(RegisterError::TooMany);
        }
        let changed = Changed {
            added: new.iter().filter(|new| !gone.iter().any(|old| old.is_same(new))).count(),
            removed: gone.iter().filter(|old| !new.iter().any(|new| new.is_same(old))).count(),
            moved: new.iter().filter(|new| gone.iter().any(|old| old.is_same(new) && old.flow != new.flow)).count(),
            unkept: new
                .iter()
                .filter(|new| !known.iter().any(|old| old.goes_on_as(new) && old.kept_until >= new.expires_at))
                .count(),
        };
        self.change(account, asked, now);
        Ok(changed)
    }

    fn change(&mut self, account: &str, asked: Vec<Change>, now: UnixTime) {
        let bindings = match self.accounts.get_mut(account) {
            Some(bindings) => bindings,
            None => self.accounts.entry(account.to_owned()).or_default(),
        };
        for change in asked {
            let old = bindings.iter().find(|old| change.bound().is_some_and(|new| old.goes_on_as(new)));
            let (written_until, kept_until) = old.map(|old| (old.written_until, old.kept_until)).unwrap_or_default();
            bindings.retain(|old| !change.replaces(old));
            bindings.extend(change.into_bound().map(|new| Binding { written_until, kept_until, ..new }));
        }
        bindings.retain(|binding| binding.expires_at > now);
        if bindings.is_empty() {
            self.accounts.remove(account);
        }
    }

    /// Drops what has ended, and says of which accounts.
    pub fn expire(&mut self, now: UnixTime) -> Vec<String> {
        let mut expired = Vec::new();
        self.accounts.retain(|account, bindings| {
            let before = bindings.len();
            bindings.retain(|binding| binding.expires_at > now);
            if bindings.len() != before {
                expired.push(account.clone());
            }
            !bindings.is_empty()
        });
        expired
    }

    /// Forgets an account.
    pub fn remove(&mut self, account: &str) {
        self.accounts.remove(account);
    }

    /// Those whose app is to be woken so that it registers again before its end, each with its account.
    #[must_use]
    pub fn to_refresh(&self, now: UnixTime) -> Vec<(String, PushParams)> {
        let all = self.accounts.iter().flat_map(|(account, bindings)| bindings.iter().map(move |binding| (account, binding)));
        let due = all.filter(|(_, binding)| binding.expires_at > now && binding.is_to_refresh(now));
        due.filter_map(|(account, binding)| Some((account.clone(), binding.push.clone()?))).collect()
    }

    /// Forgets an app that can't be woken any more, as its push service says. One that has its connection still stays, for as long as it has it.
    pub fn push_gone(&mut self, account: &str, app: &PushParams) {
        let Some(bindings) = self.accounts.get_mut(account) else { return };
        bindings.retain_mut(|binding| {
            let is_meant = binding.push.as_ref() == Some(app);
            if is_meant {
                binding.push = None;
            }
            !is_meant || (!binding.is_asleep && !binding.flow.transport.is_lossy())
        });
        if bindings.is_empty() {
            self.accounts.remove(account);
        }
    }

    /// A connection is gone: phones that are only to be reached over it are gone with it (RFC 5626 section 5.3); those that can be woken sleep. Says of which
    /// accounts.
    pub fn flow_closed(&mut self, flow: Flow) -> Vec<String> {
        let mut changed = Vec::new();
        self.accounts.retain(|account, bindings| {
            if bindings.iter().any(|binding| binding.flow == flow && !binding.is_asleep) {
                changed.push(account.clone());
            }
            bindings.retain_mut(|binding| binding.flow != flow || binding.falls_asleep());
            !bindings.is_empty()
        });
        changed
    }

    /// It is about to be written. What is on the disk says that phones are there for once more as long, so that their next refresh is as safe before it is
    /// written; `is_last`: as long as they are, as nothing follows.
    pub fn begin_keeping(&mut self, is_last: bool) {
        for binding in self.accounts.values_mut().flatten() {
            let more = if is_last { 0 } else { binding.expires_at.secs_since(binding.refreshed_at) };
            binding.written_until = binding.expires_at.plus_secs(more);
        }
    }

    /// What [`Registrar::begin_keeping`] was told of is on the disk.
    pub fn kept(&mut self) {
        for binding in self.accounts.values_mut().flatten() {
            binding.kept_until = binding.written_until;
        }
    }

    /// It was read after a restart: a refresh that wasn't written may have been promised.
    pub fn resume(&mut self) {
        for binding in self.accounts.values_mut().flatten() {
            binding.expires_at = binding.expires_at.max(binding.written_until);
        }
    }

    /// Takes the phones of connections out: after a restart these are gone, while datagrams find their way still. Those that can be woken sleep.
    pub fn keep_datagrams(&mut self) {
        self.accounts.retain(|_, bindings| {
            bindings.retain_mut(|binding| binding.flow.transport.is_lossy() || binding.falls_asleep());
            !bindings.is_empty()
        });
    }

    /// The `Contact` headers of the answer to a REGISTER: all phones of the account (RFC 3261 section 10.3, step 8). With addresses of their own if the phone wants
    /// such: `temporary` makes the user part of one from an instance.
    #[must_use]
    pub fn contacts(
        &self,
        account: &str,
        aor: &SipUri,
        temporary: Option<&dyn Fn(&str) -> String>,
        now: UnixTime,
    ) -> Vec<String> {
        let shown = |binding: &&Binding| {
            let mut text = format!("<{}>;expires={}", binding.contact, binding.expires_at.secs_since(now));
            if let Some(instance) = &binding.instance {
                text += &format!(";+sip.instance=\"<{instance}>\"");
            }
            if let Some(id) = binding.reg_id {
                text += &format!(";reg-id={id}");
            }
            if let Some(temporary) = temporary {
                let named = [("pub-gruu", binding.public_gruu(aor)), ("temp-gruu", binding.temporary_gruu(aor, temporary))];
                for (name, gruu) in named {
                    text += &gruu.map_or_else(String::new, |gruu| format!(";{name}=\"{gruu}\""));
                }
            }
            text
        };
        self.bindings(account, now).iter().map(shown).collect()
    }
}

/// One thing that a request asks for.
enum Change {
    /// A phone is there, or is no longer, where it has ended already.
    Bind(Box<Binding>),
    /// All phones are gone.
    Clear,
}

impl Change {
    fn replaces(&self, old: &Binding) -> bool {
        match self {
            Self::Bind(new) => old.is_same(new),
            Self::Clear => true,
        }
    }

    fn bound(&self) -> Option<&Binding> {
        match self {
            Self::Bind(new) => Some(new),
            Self::Clear => None,
        }
    }

    fn into_bound(self) -> Option<Binding> {
        match self {
            Self::Bind(new) => Some(*new),
            Self::Clear => None,
        }
    }
}

/// What a request asks for, if all of it can be done.
fn asked(known: &[Binding], request: &Message, flow: Flow, now: UnixTime) -> Result<Vec<Change>, RegisterError> {
    let (cseq, _) = request.cseq().map_err(|error| RegisterError::Malformed(error.0))?;
    let listed = request.list("contact");
    if listed.len() > 2 * BINDINGS_MAX {
        return Err(RegisterError::TooMany);
    }
    if listed.contains(&"*") {
        if listed.len() != 1 || request.seconds("expires") != Some(0) {
            return Err(RegisterError::Malformed("a star stands alone and with Expires: 0"));
        }
        check_order(known.iter(), request.call_id(), cseq)?;
        return Ok(vec![Change::Clear]);
    }
    let mut asked: Vec<Change> = Vec::new();
    for contact in request.contacts().map_err(|error| RegisterError::Malformed(error.0))? {
        let new = binding(&contact, request, flow, cseq, now)?;
        let earlier = known.iter().chain(asked.iter().filter_map(Change::bound));
        check_order(earlier.filter(|old| old.is_same(&new)), request.call_id(), cseq)?;
        asked.push(Change::Bind(Box::new(new)));
    }
    Ok(asked)
}

fn check_order<'a>(mut old: impl Iterator<Item = &'a Binding>, call_id: &str, cseq: u32) -> Result<(), RegisterError> {
    let is_older = old.any(|binding| binding.call_id == call_id && cseq <= binding.cseq);
    if is_older { Err(RegisterError::OutOfOrder) } else { Ok(()) }
}

fn binding(contact: &NameAddr, request: &Message, flow: Flow, cseq: u32, now: UnixTime) -> Result<Binding, RegisterError> {
    let uri = contact.sip().ok_or(RegisterError::Malformed("a phone's address is a SIP URI"))?;
    if contact.uri.len() > CONTACT_BYTES_MAX {
        return Err(RegisterError::Malformed("an address too long"));
    }
    let asked = contact.param("expires").and_then(seconds).or_else(|| request.seconds("expires")).unwrap_or(EXPIRES_SECS_MAX);
    if asked > 0 && asked < EXPIRES_SECS_MIN {
        return Err(RegisterError::TooBrief);
    }
    let instance = contact.param("+sip.instance").map(|text| text.trim_matches(['<', '>']).to_owned());
    let instance = instance.filter(|text| {
        !text.is_empty() && text.len() <= 128 && text.bytes().all(|b| b.is_ascii_graphic() && !b"<>\";,".contains(&b))
    });
    let reg_id = contact.param("reg-id").and_then(|text| text.parse().ok()).filter(|_| instance.is_some());
    let push = match PushWish::of(&uri)? {
        PushWish::Wake(params) => Some(params),
        PushWish::Query | PushWish::None => None,
    };
    // Headers in the address (RFC 4475 section 3.1.2.14) would end up in requests of ours: what is kept has none.
    let kept = if uri.headers.is_some() { SipUri { headers: None, ..uri }.to_string() } else { contact.uri.clone() };
    Ok(Binding {
        contact: kept,
        flow,
        is_outbound: reg_id.is_some() && request.lists("supported", "outbound"),
        instance,
        reg_id,
        q: preference(contact.param("q")),
        user_agent: request.get("user-agent").unwrap_or_default().chars().take(128).collect(),
        expires_at: now.plus_secs(asked.min(EXPIRES_SECS_MAX).into()),
        push,
        refreshed_at: now,
        is_asleep: false,
        refreshes_itself: refreshes_itself(contact),
        call_id: request.call_id().to_owned(),
        cseq,
        written_until: UnixTime::default(),
        kept_until: UnixTime::default(),
    })
}

/// `q` in thousandths; without it as much as can be.
fn preference(text: Option<&str>) -> u16 {
    let Some(text) = text else { return 1_000 };
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    match whole {
        "1" => 1_000,
        _ => format!("{part:0<3.3}").parse().unwrap_or(0),
    }
}

#[cfg(test)]
#[path = "registrar_tests.rs"]
mod tests;
