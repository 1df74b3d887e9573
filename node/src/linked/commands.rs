//! Linking, unlinking, and what is linked.

use halloo_protocol::key::DeviceKey;
use halloo_protocol::linked::{AssociationParams, LinkedId, LinkedReply, ProofMethod, SharedAccount, System};
use tracing::info;
use zeroize::Zeroizing;

use super::asking::Asker;
use super::{ACCOUNTS_MAX, Account, StoredAccount, secret};
use crate::event_loop::EventLoop;
use crate::handle::Reply;
use crate::handle::linked::{
    LinkError, LinkList, LinkOptions, LinkRemoved, LinkState, LinkedAccount, LinkedCommand, LinkedContactView,
};
use crate::handle::problem::NodeError;
use crate::key_file;
use crate::timestamp::Timestamp;

/// Longest password.
pub(super) const PASSWORD_BYTES_MAX: usize = 1_024;

/// Who waits.
#[derive(Debug)]
pub(crate) enum Asked {
    /// For the account to be linked.
    Add(Reply<LinkedAccount, LinkError>),
    /// For it to be unlinked.
    Remove(Reply<LinkRemoved, LinkError>),
    /// The same, at another own device.
    RemoveFor(Asker),
}

impl EventLoop {
    pub(crate) fn handle_linked_command(&mut self, command: LinkedCommand) {
        match command {
            LinkedCommand::Add { options, reply } if options.id().is_ok_and(|id| id.system() == System::Sip) => {
                self.begin_sip_login(*options, reply);
            }
            LinkedCommand::Add { options, reply } => {
                if let Err((error, reply)) = self.add_account(*options, reply) {
                    reply.send(Err(error));
                }
            }
            LinkedCommand::Login { options, reply } => self.begin_login(*options, reply),
            LinkedCommand::WaitLogin { login, reply } => self.wait_for_login(&login, reply),
            LinkedCommand::AskCode { options, reply } => self.ask_for_code(&options.address, reply),
            LinkedCommand::ShowCode { options, reply } => self.show_code(&options, reply),
            LinkedCommand::Book(command) => self.handle_book_command(command),
            LinkedCommand::List(reply) => reply.send(Ok(self.linked_list())),
            LinkedCommand::Remove { account, reply } => self.remove_account(&account, reply),
            LinkedCommand::Find { id, reply } => self.find_linked(&id, reply),
            LinkedCommand::Listing { account, is_listed, reply } => self.set_listing(&account, is_listed, reply),
            LinkedCommand::Certify { id, is_wanted, reply } => self.certify_own(&id, is_wanted, reply),
        }
    }

    fn add_account(
        &mut self,
        options: LinkOptions,
        reply: Reply<LinkedAccount, LinkError>,
    ) -> Result<(), (LinkError, Reply<LinkedAccount, LinkError>)> {
        let is_token_only = options.tokens;
        let is_listed = options.listed;
        match self.new_account(options) {
            Ok(stored) => {
                let id = stored.id.clone();
                self.set_listed(&id, is_listed);
                if is_token_only {
                    self.linked.token_only.insert(id.clone());
                } else {
                    self.linked.token_only.remove(&id);
                }
                // The reply goes with the account, so its task is tried out first with none.
                match self.connect_account(stored, None) {
                    Ok(()) => {
                        if let Some(account) = self.linked.accounts.get_mut(&id) {
                            account.asked = Some(Asked::Add(reply));
                        }
                        Ok(())
                    }
                    Err(reason) => {
                        self.linked.token_only.remove(&id);
                        Err((LinkError::Options { reason }, reply))
                    }
                }
            }
            Err(error) => Err((error, reply)),
        }
    }

    fn new_account(&self, options: LinkOptions) -> Result<StoredAccount, LinkError> {
        if self.is_revoked() {
            return Err(NodeError::Revoked.into());
        }
        let id = options.id()?;
        if id.system() != System::Xmpp {
            return Err(NodeError::Unsupported { what: "linking that system" }.into());
        }
        if self.linked.accounts.contains_key(&id) {
            return Err(LinkError::Known { account: id.to_string() });
        }
        let others = self.linked.shared.live().filter(|account| !self.linked.accounts.contains_key(&account.id));
        if self.linked.accounts.len() + others.filter(|account| account.id != id).count() >= ACCOUNTS_MAX {
            return Err(NodeError::LimitReached { what: "linked accounts", max: ACCOUNTS_MAX }.into());
        }
        if !self.identity.has_identity_key() && self.signer_target().is_none() {
            return Err(LinkError::NoIdentityKey);
        }
        let password = Zeroizing::new(options.password);
        if password.is_empty() || password.len() > PASSWORD_BYTES_MAX {
            return Err(LinkError::Options { reason: format!("password: empty, or longer than {PASSWORD_BYTES_MAX} bytes") });
        }
        let internal = |detail: &str| LinkError::Node(NodeError::Internal { detail: detail.to_owned() });
        let nonce = key_file::random_bytes().map_err(|error| internal(&error.to_string()))?;
        let secret = secret::seal(self.identity.device_key(), &id, &password, nonce).ok_or_else(|| internal("not sealed"))?;
        let roots = options.roots.map(|path| path.to_string_lossy().into_owned());
        Ok(StoredAccount { id, server: options.server, roots, is_plain: options.plain, secret, association: None })
    }

    /// It can't be linked, or its place doesn't show that it isn't any more.
    pub(super) fn account_failed(&mut self, id: &LinkedId, asked: Asked, reason: String) {
        match asked {
            Asked::Add(reply) => {
                // With it end its orders, and so its task.
                self.linked.accounts.remove(id);
                self.linked.lists.remove(id);
                self.linked.readers.remove(id);
                self.linked.token_only.remove(id);
                // On another device it is linked all the same.
                self.take_shared(id);
                reply.send(Err(LinkError::Failed { account: id.to_string(), reason }));
            }
            asked => self.account_unlinked(id, Some(asked), false),
        }
    }

    pub(super) fn account_linked(&mut self, id: &LinkedId, asked: Asked) {
        info!(account = %id, "linked");
        // The entry gains a part for whoever reads it there.
        self.publish_soon();
        self.begin_link(id);
        let Some(account) = self.linked.accounts.get(id) else { return };
        match asked {
            Asked::Add(reply) => reply.send(Ok(self.account_view(account))),
            // It was shown anew just before it was to be taken back.
            Asked::Remove(reply) => self.remove_account(&id.to_string(), reply),
            Asked::RemoveFor(asker) => self.remove_for(id, asker),
        }
    }

    fn remove_account(&mut self, text: &str, reply: Reply<LinkRemoved, LinkError>) {
        let id = text.parse::<LinkedId>();
        let is_here = |id: &LinkedId| self.linked.accounts.contains_key(id);
        let known = id.ok().filter(|id| is_here(id) || self.linked.shared.linked(id).is_some());
        let Some(id) = known else { return reply.send(Err(LinkError::Unknown { account: text.chars().take(128).collect() })) };
        match self.linked.accounts.get(&id) {
            None => self.ask_to_remove(&id, reply),
            Some(account) if account.asked.is_some() => reply.send(Err(LinkError::Busy { account: id.to_string() })),
            Some(_) => self.take_back(&id, Some(Asked::Remove(reply))),
        }
    }

    /// Another own device wants an account unlinked whose login is here.
    pub(super) fn remove_for(&mut self, id: &LinkedId, asker: Asker) {
        match self.linked.accounts.get(id) {
            Some(account) if account.asked.is_none() => self.take_back(id, Some(Asked::RemoveFor(asker))),
            _ => self.answer_asker(asker, LinkedReply::Unable),
        }
    }

    /// An account was unlinked on another device: its place says so as soon as it can be told.
    pub(super) fn end_here(&mut self, id: &LinkedId) {
        match self.linked.accounts.get(id) {
            Some(account) if account.is_connected && account.asked.is_none() => self.take_back(id, None),
            // Once it is connected.
            Some(_) => {}
            None => self.account_unlinked(id, None, false),
        }
    }

    /// Puts at an account's place that it isn't this user's any more, and forgets it.
    fn take_back(&mut self, id: &LinkedId, asked: Option<Asked>) {
        let Some(account) = self.linked.accounts.get(id) else { return };
        if self.linked.token_only.contains(id) || !super::logins::has_place(id) {
            // Nothing is shown that could be taken back.
            let is_taken_back = self.linked.token_only.contains(id);
            return self.account_unlinked(id, asked, is_taken_back);
        }
        let last_serial = account.stored.association.as_ref().map_or(0, |said| said.unverified().serial);
        let is_connected = account.is_connected;
        let (user, now) = (self.identity.user_id(), self.now().unix);
        let params = AssociationParams { user, linked: id.clone(), method: ProofMethod::OWN_ITEM, last_serial, now };
        match self.identity.associate(params, None, true) {
            Ok(association) if is_connected => {
                if let Some(account) = self.linked.accounts.get_mut(id) {
                    account.asked = asked;
                }
                self.put_at_place(id, association);
            }
            Err(_) if is_connected => {
                if let Some(account) = self.linked.accounts.get_mut(id) {
                    account.asked = asked;
                }
                self.ask_to_sign(id, last_serial, true);
            }
            _ => self.account_unlinked(id, asked, false),
        }
    }

    /// The login of an account is another device's from now on; what it has brought stays.
    pub(super) fn drop_login(&mut self, id: &LinkedId) {
        // With it end its orders, and so its task.
        self.linked.accounts.remove(id);
        self.nobody_heard(id);
        self.linked.readers.remove(id);
        self.linked.unusable.retain(|stored| stored.id != *id);
        self.forget_proof(id);
        self.keep_accounts();
    }

    /// Forgets an account with everything that came of it.
    pub(super) fn account_unlinked(&mut self, id: &LinkedId, asked: Option<Asked>, is_taken_back: bool) {
        info!(account = %id, is_taken_back, "unlinked");
        self.drop_login(id);
        self.linked.lists.remove(id);
        self.linked.token_only.remove(id);
        self.forget_proof(id);
        self.end_link(id);
        self.linked.known.retain(|(account, _), _| account != id);
        self.turn_key();
        self.keep_accounts();
        self.keep_sightings();
        match asked {
            Some(Asked::Remove(reply)) => reply.send(Ok(LinkRemoved { account: id.to_string(), is_taken_back })),
            Some(Asked::RemoveFor(asker)) => self.answer_asker(asker, LinkedReply::Removed { is_taken_back }),
            Some(Asked::Add(reply)) => {
                reply.send(Err(LinkError::Failed { account: id.to_string(), reason: "it was unlinked meanwhile".into() }));
            }
            None => {}
        }
    }

    fn linked_list(&self) -> LinkList {
        let here = self.linked.accounts.values().map(|account| self.account_view(account));
        let elsewhere = self.linked.shared.live().filter(|account| !self.linked.accounts.contains_key(&account.id));
        let mut accounts: Vec<LinkedAccount> = here.chain(elsewhere.map(|account| self.account_elsewhere(account))).collect();
        accounts.sort_by(|one, other| one.account.cmp(&other.account));
        let carriers = self.carriers().iter().map(|carrier| carrier.as_str().to_owned()).collect();
        LinkList { accounts, carriers }
    }

    pub(super) fn account_view(&self, account: &Account) -> LinkedAccount {
        let state = match (account.is_connected, &account.trouble) {
            (true, _) => LinkState::Connected,
            (false, None) => LinkState::Connecting,
            (false, Some(_)) => LinkState::Failed,
        };
        let reason = account.trouble.clone();
        self.linked_account_view(&account.stored.id, state, reason, self.identity.device())
    }

    fn account_elsewhere(&self, account: &SharedAccount) -> LinkedAccount {
        let is_here = account.holder == self.identity.device();
        let (state, reason) = match is_here {
            false => (LinkState::Elsewhere, None),
            true => (LinkState::Failed, Some("its password can't be used: link it again".to_owned())),
        };
        self.linked_account_view(&account.id, state, reason, account.holder)
    }

    fn linked_account_view(&self, id: &LinkedId, state: LinkState, reason: Option<String>, holder: DeviceKey) -> LinkedAccount {
        let list = self.linked.lists.get(id);
        let contacts = list.into_iter().flatten().map(|(contact, name)| self.linked_contact_view(id, contact, name.clone()));
        let association = self.own_association(id);
        let device = if holder == self.identity.device() {
            Some(self.settings.device_name.clone()).filter(|name| !name.is_empty())
        } else {
            self.devices.name_of(&holder).0
        };
        LinkedAccount {
            account: id.to_string(),
            state,
            reason,
            shown_until: association.map(|said| Timestamp::from_unix_secs(said.unverified().not_after.0)),
            tokens: self.linked.token_only.contains(id),
            listed: self.is_listed(id),
            listed_at: self.listing_replicas(id).unwrap_or(0),
            certified_until: self.certified_until(id),
            contacts: contacts.collect(),
            here: holder == self.identity.device(),
            peer_id: crate::address::peer_id(&holder).map(|peer| peer.to_string()).unwrap_or_default(),
            device,
        }
    }

    fn linked_contact_view(&self, account: &LinkedId, contact: &LinkedId, name: Option<String>) -> LinkedContactView {
        let sighting = self.linked.known.get(&(account.clone(), contact.clone()));
        let user = sighting.and_then(|sighting| sighting.holds(self.now().unix).ok()).map(|said| self.labels.display(&said.user));
        let seen_at = sighting.map(|sighting| Timestamp::from_unix_secs(sighting.read_at.0));
        LinkedContactView { id: contact.to_string(), name, username: user, seen_at }
    }
}
