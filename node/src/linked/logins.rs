//! Accounts whose proof stands by itself: logging in to a provider, the providers' keys, and saying associations anew in time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use halloo_protocol::linked::{
    Association, AssociationParams, LinkedId, LinkedPart, ProofError, ProofMethod, ProviderKey, SharedProvider, Shown, Sighting,
    System, TrustedProofs, TrustedProvider, verify_proof,
};
use halloo_protocol::time::UnixTime;
use halloo_protocol::wire::Signed;
use tokio::sync::{Notify, oneshot};
use tracing::{debug, info, warn};
use zeroize::Zeroizing;

use super::oidc::{ClientId, KeysNews, LoggedIn, LoginParams, OidcAccount, OidcParams, Provider};
use super::{ACCOUNTS_MAX, StoredAccount, commands, oidc, secret};
use crate::config::PROVIDERS_MAX;
use crate::event_loop::{EventLoop, Internal};
use crate::handle::linked::{LinkError, LinkLogin, LinkLoginOptions, LinkedAccount};
use crate::handle::problem::NodeError;
use crate::handle::{Event, Reply};
use crate::key_file;
use crate::store::StoreError;
use crate::timestamp::Timestamp;

/// Logins under way at once.
const LOGINS_MAX: usize = 4;

/// How long what came of a login is kept for who asks.
const OUTCOME_KEPT: Duration = Duration::from_secs(900);

/// How often the user is told that an account has to be linked again.
const WARN_EVERY: Duration = Duration::from_secs(86_400);

/// A newer proof is waited for so long before the user is asked for one.
const RENEWAL_SECS: u64 = 86_400;

/// Longest refresh token that is kept: all accounts are one value.
pub(super) const REFRESH_TOKEN_BYTES_MAX: usize = 4_096;

pub(super) const PROOFS: &str = "linked proofs";
const KEYS: &str = "linked provider keys";

/// What tasks tell that belong to no account.
#[derive(Debug)]
pub(crate) enum LoginNews {
    /// A provider's keys.
    Keys(KeysNews),
    /// A login has ended.
    Done { number: u64, outcome: Result<Box<LoggedIn>, String> },
}

/// A login under way, or over.
#[derive(Debug)]
struct Login {
    issuer: String,
    client: ClientId,
    roots: Option<String>,
    is_mail: bool,
    outcome: Option<Result<LinkedId, LinkError>>,
    waiting: Option<Reply<LinkedAccount, LinkError>>,
    until: Instant,
    /// Dropped, the login ends.
    _task: tokio_util::sync::DropGuard,
}

/// What there is of proofs that stand by themselves.
#[derive(Debug, Default)]
pub(super) struct Logins {
    open: BTreeMap<u64, Login>,
    count: u64,
    /// Whose keys are followed; told, they are fetched again.
    following: BTreeMap<String, Arc<Notify>>,
    /// As which application of which issuer own accounts are logged in.
    clients: BTreeMap<LinkedId, (String, String)>,
    /// When the user was told last that a proof ends.
    warned: BTreeMap<LinkedId, Instant>,
}

impl Logins {
    /// Which provider an own account is at, and for which application it makes tokens.
    pub(super) fn provider_of(&self, account: &LinkedId) -> Option<SharedProvider> {
        let (issuer, client) = self.clients.get(account)?.clone();
        Some(SharedProvider { issuer, client })
    }
}

// What is trusted.
impl EventLoop {
    /// Whose word is taken for who somebody is elsewhere.
    pub(crate) fn trusted_proofs(&self) -> TrustedProofs<'_> {
        TrustedProofs { providers: &self.linked.providers, authorities: &self.trust }
    }

    /// The proof of what this user says of an own account, where it stands by itself.
    pub(super) fn own_proof(&self, account: &LinkedId) -> Option<Vec<u8>> {
        // The one of the device whose association is used.
        if self.linked.accounts.contains_key(account) {
            return self.linked.proofs.get(account).cloned();
        }
        Some(self.linked.shared.linked(account)?.proof.as_ref()?.proof.clone())
    }

    /// Reads proofs and keys, and takes the providers of the configuration.
    pub(super) fn logins_start(&mut self) {
        let proofs = self.store.read::<_, StoreError>(|view| view.setting_value::<Vec<(LinkedId, Vec<u8>)>>(PROOFS));
        let proofs = proofs.unwrap_or_else(|error| {
            warn!(%error, "proofs of linked accounts not read");
            None
        });
        let keys = self.store.read::<_, StoreError>(|view| view.setting_list::<(String, Vec<ProviderKey>)>(KEYS));
        let keys = keys.unwrap_or_else(|error| {
            warn!(%error, "the keys of providers not read");
            Vec::new()
        });
        let proofs = proofs.unwrap_or_default();
        self.linked.proofs = proofs.into_iter().collect();
        for provider in self.settings.linked.provider.clone().into_iter().take(PROVIDERS_MAX) {
            let clients = provider.client_id.into_iter().chain(provider.clients);
            let mail_domains = provider.mail_domains.iter().map(|domain| domain.to_lowercase()).collect();
            let trusted = TrustedProvider { clients: clients.collect(), mail_domains, keys: Vec::new() };
            self.linked.providers.insert(provider.issuer.clone(), trusted);
            let roots = provider.roots.map(|path| path.to_string_lossy().into_owned());
            self.follow_provider(&provider.issuer, roots.as_deref());
        }
        for (issuer, keys) in keys {
            self.linked.providers.entry(issuer).or_default().keys = keys;
        }
    }

    /// Trusts an issuer's tokens for this application, and follows its keys.
    pub(super) fn trust_provider(&mut self, issuer: &str, client: &str, roots: Option<&str>) {
        if !self.linked.providers.contains_key(issuer) && self.linked.providers.len() >= PROVIDERS_MAX + ACCOUNTS_MAX {
            return warn!(issuer, "too many providers are followed: this one isn't trusted");
        }
        self.linked.providers.entry(issuer.to_owned()).or_default().clients.insert(client.to_owned());
        self.follow_provider(issuer, roots);
    }

    /// Trusts tokens for the applications of the configuration and of own accounts, and for no others: one that was tried, or whose account isn't linked any more, counts no longer.
    pub(super) fn trust_what_is_linked(&mut self) {
        for (issuer, provider) in &mut self.linked.providers {
            let config = self.settings.linked.of(issuer);
            let configured = config.into_iter().flat_map(|config| config.client_id.iter().chain(&config.clients)).cloned();
            let own = self.linked.logins.clients.values().filter(|(of, _)| of == issuer).map(|(_, client)| client.clone());
            let shared = self.linked.shared.live().filter_map(|account| account.proof.as_ref()?.provider.as_ref());
            let shared = shared.filter(|provider| provider.issuer == *issuer).map(|provider| provider.client.clone());
            provider.clients = configured.chain(own).chain(shared).collect();
        }
    }

    /// An account isn't linked any more, or its login is elsewhere. The caller writes it.
    pub(super) fn forget_proof(&mut self, id: &LinkedId) {
        self.linked.logins.clients.remove(id);
        self.trust_what_is_linked();
        self.linked.proofs.remove(id);
    }

    fn follow_provider(&mut self, issuer: &str, roots: Option<&str>) {
        if self.linked.logins.following.contains_key(issuer) {
            return;
        }
        match Provider::new(issuer, roots.map(Into::into)) {
            Ok(provider) => {
                let asked = Arc::new(Notify::new());
                self.linked.logins.following.insert(issuer.to_owned(), asked.clone());
                tokio::spawn(oidc::follow_keys(provider, asked, self.internal_sender.clone()));
            }
            Err(reason) => warn!(issuer, reason, "the keys of a provider aren't followed"),
        }
    }

    fn keys_seen(&mut self, news: KeysNews) {
        let now = self.now().unix;
        let Some(provider) = self.linked.providers.get_mut(&news.issuer) else { return };
        let keys = news.keys.into_iter().map(|key| ProviderKey { seen_at: now, ..key }).collect();
        if provider.set_keys(now, keys) {
            info!(issuer = news.issuer, "a provider has a key that it hadn't");
        }
        let all = self.linked.providers.iter().filter(|(_, provider)| !provider.keys.is_empty());
        let all: Vec<(String, Vec<ProviderKey>)> =
            all.map(|(issuer, provider)| (issuer.clone(), provider.keys.clone())).collect();
        if let Err(error) = self.store.transaction::<_, StoreError>(|tx| tx.put_setting_list(KEYS, &all, 1)) {
            warn!(%error, "the keys of providers aren't written");
        }
    }

    /// Somebody has shown a token whose key isn't known: the provider may have a new one.
    pub(crate) fn look_for_keys(&self, error: ProofError) {
        if error == ProofError::Key {
            self.linked.logins.following.values().for_each(|asked| asked.notify_one());
        }
    }

    /// Who somebody is elsewhere was proved: kept, so that they can be called by it.
    pub(super) fn note_proved(&mut self, part: &LinkedPart) {
        let said = part.association.unverified();
        if said.method.stands_by_itself() {
            self.note_proof(&part.callee, &part.association, part.proof().unwrap_or_default());
        }
    }

    /// The same of a proof, whatever it came by. Whether it was news.
    pub(super) fn note_proof(&mut self, account: &LinkedId, association: &Signed<Association>, proof: &[u8]) -> bool {
        let said = association.unverified();
        if self.linked.lists.get(account).is_none_or(|list| !list.contains_key(&said.linked)) {
            return false;
        }
        let shown = Shown { association: association.clone(), leave: None };
        let now = self.now().unix;
        let Ok(seen) = Sighting::prove(shown, Some(proof), self.trusted_proofs(), now) else { return false };
        let key = (account.clone(), said.linked.clone());
        let before = self.linked.known.remove(&key);
        // The leave that was learnt elsewhere stays.
        let leave = before
            .as_ref()
            .and_then(|before| before.leave.clone())
            .filter(|_| before.as_ref().is_some_and(|before| before.association.as_ref() == seen.association.as_ref()));
        let seen = Sighting { leave, ..seen }.after(before.as_ref());
        let is_news = before.as_ref().is_none_or(|before| before.association != seen.association);
        if before.as_ref() != Some(&seen) {
            self.keep_sightings_soon();
        }
        self.linked.known.insert(key, seen);
        is_news
    }
}

// Logging in.
impl EventLoop {
    pub(super) fn begin_login(&mut self, options: LinkLoginOptions, reply: Reply<LinkLogin, LinkError>) {
        let params = match self.login_params(&options) {
            Ok(params) => params,
            Err(error) => return reply.send(Err(error)),
        };
        self.linked.logins.count += 1;
        let number = self.linked.logins.count;
        let token = tokio_util::sync::CancellationToken::new();
        let login = Login {
            issuer: params.provider.issuer.clone(),
            client: params.client.clone(),
            roots: self.login_roots(&options),
            is_mail: options.mail,
            outcome: None,
            waiting: None,
            until: Instant::now() + OUTCOME_KEPT,
            _task: token.clone().drop_guard(),
        };
        self.linked.logins.open.insert(number, login);
        let (started, begun) = oneshot::channel();
        let news = self.internal_sender.clone();
        tokio::spawn(async move {
            let outcome = tokio::select! {
                () = news.closed() => return,
                () = token.cancelled() => return,
                outcome = oidc::login(params, started) => outcome,
            };
            let outcome = outcome.map(Box::new).map_err(|error| error.to_string());
            // Without a node nobody waits for it.
            let _gone = news.send(Internal::LinkedLogin(Box::new(LoginNews::Done { number, outcome }))).await;
        });
        let issuer = options.issuer;
        tokio::spawn(async move {
            let begun =
                begun.await.map_err(|_| "it was ended".to_owned()).and_then(|begun| begun.map_err(|error| error.to_string()));
            let begun = begun.map(|begun| LinkLogin { login: number.to_string(), url: begun.url, user_code: begun.user_code });
            reply.send(begun.map_err(|reason| LinkError::Failed { account: issuer, reason }));
        });
    }

    fn login_params(&self, options: &LinkLoginOptions) -> Result<LoginParams, LinkError> {
        if self.is_revoked() {
            return Err(NodeError::Revoked.into());
        }
        if !self.identity.has_identity_key() {
            return Err(LinkError::NoIdentityKey);
        }
        if self.linked.logins.open.values().filter(|login| login.outcome.is_none()).count() >= LOGINS_MAX {
            return Err(NodeError::LimitReached { what: "logins at once", max: LOGINS_MAX }.into());
        }
        let wrong = |reason: String| LinkError::Options { reason };
        let config = self.settings.linked.of(&options.issuer);
        let id = options.client_id.clone().or_else(|| config.and_then(|config| config.client_id.clone()));
        let id = id.filter(|id| !id.is_empty());
        let id = id.ok_or_else(|| wrong("client_id: the provider has to know this application by one".into()))?;
        let configured = config.and_then(|config| config.client_secret_file.as_ref()).filter(|_| options.client_id.is_none());
        let configured = configured.map(|path| crate::mail::password(path)).transpose().map_err(wrong)?;
        let secret = options.client_secret.clone().or_else(|| configured.map(|secret| secret.to_string()));
        let roots = self.login_roots(options).map(Into::into);
        let mut scopes = config.map(|config| config.scopes.clone()).unwrap_or_default();
        if options.mail {
            scopes.push("email".to_owned());
        }
        Ok(LoginParams {
            provider: Provider::new(&options.issuer, roots).map_err(wrong)?,
            client: ClientId { id, secret },
            scopes,
            is_device: options.device,
            user: self.identity.user_id(),
            identity: self.identity.identity(),
            now: self.clock.correct(self.clock_source.raw_unix()),
        })
    }

    fn login_roots(&self, options: &LinkLoginOptions) -> Option<String> {
        let configured = || self.settings.linked.of(&options.issuer).and_then(|config| config.roots.clone());
        options.roots.clone().or_else(configured).map(|path| path.to_string_lossy().into_owned())
    }

    /// Somebody wants to know what comes of a login.
    pub(super) fn wait_for_login(&mut self, text: &str, reply: Reply<LinkedAccount, LinkError>) {
        let login = text.parse::<u64>().ok().and_then(|number| self.linked.logins.open.get_mut(&number));
        let Some(login) = login else {
            return reply.send(Err(LinkError::Unknown { account: text.chars().take(32).collect() }));
        };
        match login.outcome.clone() {
            None => login.waiting = Some(reply),
            Some(outcome) => self.tell_login(outcome, reply),
        }
    }

    /// Once the contacts are known, or can't be had: the account is linked either way.
    fn tell_login(&mut self, outcome: Result<LinkedId, LinkError>, reply: Reply<LinkedAccount, LinkError>) {
        let id = match outcome {
            Ok(id) => id,
            Err(error) => return reply.send(Err(error)),
        };
        let Some(account) = self.linked.accounts.get_mut(&id) else {
            return reply.send(Err(LinkError::Unknown { account: id.to_string() }));
        };
        if account.is_connected || account.trouble.is_some() || account.asked.is_some() {
            let account = self.linked.accounts.get(&id).map(|account| self.account_view(account));
            return reply.send(account.ok_or(LinkError::Unknown { account: id.to_string() }));
        }
        account.asked = Some(commands::Asked::Add(reply));
    }

    pub(crate) fn handle_linked_login(&mut self, news: LoginNews) {
        let (number, outcome) = match news {
            LoginNews::Keys(news) => return self.keys_seen(news),
            LoginNews::Done { number, outcome } => (number, outcome),
        };
        let Some(login) = self.linked.logins.open.get_mut(&number) else { return };
        let (issuer, client, roots) = (login.issuer.clone(), login.client.clone(), login.roots.clone());
        let (is_mail, waiting) = (login.is_mail, login.waiting.take());
        let failed = |reason: String| LinkError::Failed { account: issuer.clone(), reason };
        let outcome =
            outcome.map_err(failed).and_then(|logged_in| self.link_logged_in(*logged_in, (&issuer, client, roots), is_mail));
        if let Some(login) = self.linked.logins.open.get_mut(&number) {
            login.outcome = Some(outcome.clone());
        }
        if let Some(reply) = waiting {
            self.tell_login(outcome, reply);
        }
    }

    fn link_logged_in(
        &mut self,
        logged_in: LoggedIn,
        (issuer, client, roots): (&str, ClientId, Option<String>),
        is_mail: bool,
    ) -> Result<LinkedId, LinkError> {
        let failed = |account: String, reason: &str| LinkError::Failed { account, reason: reason.to_owned() };
        let LoggedIn { token, refresh_token, keys } = logged_in;
        let id = if is_mail { token.mail() } else { token.subject().ok() };
        let id = id.ok_or_else(|| failed(issuer.to_owned(), "its token doesn't name a verified identity of that kind"))?;
        if !self.linked.accounts.contains_key(&id) && self.linked.accounts.len() >= ACCOUNTS_MAX {
            return Err(NodeError::LimitReached { what: "linked accounts", max: ACCOUNTS_MAX }.into());
        }
        self.trust_provider(issuer, &client.id, roots.as_deref());
        self.keys_seen(KeysNews { issuer: issuer.to_owned(), keys });
        let proof = token.to_bytes();
        let said = self.say_proved(&id, ProofMethod::PROVIDER_TOKEN, &proof);
        self.trust_what_is_linked();
        let association = said.map_err(|why| {
            let more = if why.contains("another user") { ": it doesn't put the nonce into such tokens" } else { "" };
            failed(id.to_string(), &format!("what the provider says doesn't prove it: {why}{more}"))
        })?;
        let refresh_token = refresh_token.filter(|token| token.len() <= REFRESH_TOKEN_BYTES_MAX);
        let params = OidcParams { issuer: issuer.to_owned(), client, refresh_token, salt: token.salt };
        self.keep_proved(&id, association, proof, roots, &Zeroizing::new(params.to_text()))?;
        Ok(id)
    }

    /// Says, as if it were published, what a proof is to show; checked as others check it.
    pub(super) fn say_proved(&mut self, id: &LinkedId, method: ProofMethod, proof: &[u8]) -> Result<Signed<Association>, String> {
        let now = self.now().unix;
        let before = self.linked.accounts.get(id).and_then(|account| account.stored.association.as_ref());
        let before = before.map_or(0, |said| said.unverified().serial);
        let last_serial = before.max(self.linked.serials.get(id).copied().unwrap_or(0));
        let params = AssociationParams { user: self.identity.user_id(), linked: id.clone(), method, last_serial, now };
        let association =
            self.identity.associate(params, self.linked.own_merge.as_ref(), false).map_err(|error| error.to_string())?;
        verify_proof(association.unverified(), Some(proof), self.trusted_proofs(), now).map_err(|error| error.to_string())?;
        self.linked.serials.insert(id.clone(), association.unverified().serial);
        Ok(association)
    }

    /// An account is linked: its task begins, instead of the one that it may have had.
    pub(super) fn keep_proved(
        &mut self,
        id: &LinkedId,
        association: Signed<Association>,
        proof: Vec<u8>,
        roots: Option<String>,
        text: &str,
    ) -> Result<(), LinkError> {
        let internal = |detail: String| LinkError::Node(NodeError::Internal { detail });
        let nonce = key_file::random_bytes().map_err(|error| internal(error.to_string()))?;
        let sealed = secret::seal(self.identity.device_key(), id, text, nonce).ok_or_else(|| internal("not sealed".into()))?;
        let stored = StoredAccount {
            id: id.clone(),
            server: None,
            roots,
            is_plain: false,
            secret: sealed,
            association: Some(association),
        };
        self.linked.proofs.insert(id.clone(), proof);
        self.linked.logins.warned.remove(id);
        self.linked.unusable.retain(|stored| stored.id != *id);
        self.connect_account(stored, None).map_err(|reason| LinkError::Options { reason })?;
        info!(account = %id, "linked");
        if !self.keep_accounts() {
            self.drop_login(id);
            return Err(internal("it isn't written".into()));
        }
        self.begin_link(id);
        self.publish_soon();
        self.certify_anew(id);
        Ok(())
    }

    /// The task's side of an account at a provider.
    pub(super) fn oidc_account(&mut self, stored: &StoredAccount, text: &str) -> Result<OidcAccount, String> {
        let params = OidcParams::of_text(text).ok_or("what is kept of it can't be read: link it again")?;
        self.linked.logins.clients.insert(stored.id.clone(), (params.issuer.clone(), params.client.id.clone()));
        self.trust_provider(&params.issuer, &params.client.id, stored.roots.as_deref());
        self.trust_what_is_linked();
        let provider = Provider::new(&params.issuer, stored.roots.as_ref().map(Into::into))?;
        let contacts = self.settings.linked.of(&params.issuer).and_then(|config| config.contacts.clone());
        Ok(OidcAccount::new(provider, params, contacts, &self.identity.user_id(), &self.identity.identity()))
    }
}

// Going on.
impl EventLoop {
    /// What is kept of an account has changed.
    pub(super) fn secret_changed(&mut self, id: &LinkedId, text: &str) {
        let nonce = key_file::random_bytes().ok();
        let sealed = nonce.and_then(|nonce| secret::seal(self.identity.device_key(), id, text, nonce));
        if let (Some(account), Some(sealed)) = (self.linked.accounts.get_mut(id), sealed) {
            account.stored.secret = sealed;
            self.keep_accounts();
        }
    }

    /// There is a newer proof. It is used once half of the association's time is over: until then the old one serves, and nobody has to learn of another.
    pub(super) fn proof_renewed(&mut self, id: &LinkedId, proof: Vec<u8>) {
        let now = self.now().unix;
        let said = self.linked.accounts.get(id).and_then(|account| account.stored.association.as_ref());
        let Some(said) = said.map(Signed::unverified).filter(|said| now >= said.renew_at()) else { return };
        match self.say_proved(id, said.method, &proof) {
            Ok(association) => {
                if let Some(account) = self.linked.accounts.get_mut(id) {
                    account.stored.association = Some(association);
                }
                self.linked.proofs.insert(id.clone(), proof);
                self.keep_accounts();
                self.share_links_soon();
                self.listing_changed(id);
                self.certify_anew(id);
            }
            Err(reason) => debug!(account = %id, reason, "a newer proof isn't taken"),
        }
    }

    pub(super) fn logins_tick(&mut self, now: Instant, unix: UnixTime) {
        self.linked.logins.open.retain(|_, login| login.until > now);
        let ends = |account: &super::Account| {
            let said = account.stored.association.as_ref()?.unverified();
            let is_due = said.method.stands_by_itself() && unix >= said.renew_at().plus_secs(RENEWAL_SECS);
            is_due.then_some(said.not_after)
        };
        let due: Vec<(LinkedId, UnixTime)> =
            self.linked.accounts.iter().filter_map(|(id, account)| Some((id.clone(), ends(account)?))).collect();
        for (id, ends_at) in due {
            let warned = self.linked.logins.warned.get(&id);
            if warned.is_some_and(|at| now.saturating_duration_since(*at) < WARN_EVERY) {
                continue;
            }
            self.linked.logins.warned.insert(id.clone(), now);
            let until = Timestamp::from_unix_secs(ends_at.0);
            let detail = format!("{id}: what shows that it is yours ends at {until}; link it again: halloo link add");
            self.events.send(Event::Warning { code: "linked-account".into(), detail });
        }
    }
}

/// Whether owners of accounts in a system can show something there.
pub(super) fn has_place(id: &LinkedId) -> bool {
    id.system() == System::Xmpp
}
