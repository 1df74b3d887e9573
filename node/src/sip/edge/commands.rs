//! What the node's handle asks: accounts come, go and are listed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;

use super::{Done, Edge, LEGS_OF_ACCOUNT_MAX, Running, unix};
use crate::handle::sip::{
    SipAccount, SipAccountList, SipAccountOptions, SipAccountRemoved, SipCommand, SipCredentials, SipError, SipPhone,
};
use crate::handle::{Event, Reply};
use crate::sip::accounts::{self, ACCOUNTS_MAX, Account, Accounts, Added, Record};
use crate::sip::simple::Desk;
use crate::sip::transport::Listener;
use crate::timestamp::Timestamp;
use halloo_protocol::sip::registrar::Binding;
use halloo_protocol::sip::uri::address_of_user;

impl Edge {
    pub(super) fn handle_command(&mut self, command: SipCommand) {
        match command {
            SipCommand::Add { options, reply } => self.add(options, reply),
            SipCommand::List(reply) => reply.send(Ok(self.list())),
            SipCommand::Trunks(reply) => reply.send(Ok(self.trunks.list())),
            SipCommand::Remove { account, reply } => match self.remove(&account) {
                // Its node takes leave of the network meanwhile: the other accounts' phones needn't wait for that.
                Ok(removed) => drop(tokio::spawn(end(removed, self.accounts.clone(), reply))),
                Err(error) => reply.send(Err(error)),
            },
            SipCommand::Password { account, reply } => {
                let credentials = self.new_password(&account);
                reply.send(credentials);
            }
        }
    }

    pub(super) fn add(&mut self, options: SipAccountOptions, reply: Reply<SipCredentials, SipError>) {
        if self.running.len() >= ACCOUNTS_MAX {
            return reply.send(Err(SipError::TooMany { max: ACCOUNTS_MAX }));
        }
        if self.is_adding {
            return reply.send(Err(SipError::Invalid { reason: "another account is being added".to_owned() }));
        }
        self.is_adding = true;
        let (accounts, own, done) = (self.accounts.clone(), self.own.clone(), self.done.clone());
        tokio::spawn(async move {
            let added = accounts.add(options, &own).await;
            let _ = done.send(Done::Added(added, reply)).await;
        });
    }

    pub(super) fn handle_done(&mut self, done: Done) {
        match done {
            Done::Added(added, reply) => {
                self.is_adding = false;
                let credentials = added.and_then(|added| self.keep(added));
                reply.send(credentials);
            }
            Done::Call { account, event } => self.ring(&account, event),
            Done::Offered { account, offer } => self.handle_offered(&account, offer),
            Done::Woken(woken) => self.handle_woken(woken),
            Done::Saved { answers, result } => self.saved(answers, result),
        }
    }

    pub(super) fn keep(&mut self, added: Added) -> Result<SipCredentials, SipError> {
        let name = added.account.record.account.clone();
        if self.running.contains_key(&name) {
            self.accounts.remove(&added.account.record);
            return Err(SipError::Exists { account: name });
        }
        let records = self.running.values().map(|running| &running.account.record);
        self.accounts.save(records.chain(std::iter::once(&added.account.record)))?;
        let mut credentials = self.credentials(&added.account.record, added.password);
        credentials.recovery_phrase = added.recovery_phrase;
        self.run_account(added.account);
        Ok(credentials)
    }

    pub(super) fn credentials(&self, record: &Record, password: String) -> SipCredentials {
        SipCredentials {
            account: record.account.clone(),
            uri: address_of_user(&record.account),
            username: record.name().to_owned(),
            password,
            servers: self.servers(),
            recovery_phrase: None,
        }
    }

    pub(super) fn servers(&self) -> Vec<String> {
        let shown = |listener: &Listener| {
            format!("sip:{};transport={}", listener.address, listener.transport.name().to_ascii_lowercase())
        };
        self.transports.listeners().iter().map(shown).collect()
    }

    pub(super) fn run_account(&mut self, account: Account) {
        let (name, done) = (account.record.account.clone(), self.done.clone());
        let mut events = account.node.subscribe();
        let told = name.clone();
        let task = tokio::spawn(async move {
            while let Some(record) = events.recv().await {
                if matches!(record.event, Event::CallIncoming { .. }) {
                    let call = Done::Call { account: told.clone(), event: record.event };
                    if done.send(call).await.is_err() {
                        return;
                    }
                }
            }
        });
        if self.trunks.is_gateway(&name) {
            self.trunks.open_books(account.store.clone());
        }
        let desk = self.open_desk(&account);
        let legs = Arc::new(Semaphore::new(LEGS_OF_ACCOUNT_MAX));
        self.running.insert(name.clone(), Running { account, desk, legs, _events: AbortOnDropHandle::new(task) });
        self.ask_offer(&name);
    }

    fn open_desk(&self, account: &Account) -> Desk {
        let names = self.accounts.home(&account.record).join("buddies.json");
        Desk::open(account.record.account.clone(), account.node.clone(), self.wire.clone(), names)
    }

    pub(super) fn known(&self, account: &str) -> Result<String, SipError> {
        let unknown = || SipError::Unknown { account: account.to_owned() };
        if self.running.contains_key(account) {
            return Ok(account.to_owned());
        }
        let mut named = self.running.keys().filter(|known| known.split('@').next() == Some(account));
        let found = named.next().cloned().ok_or_else(unknown)?;
        if named.next().is_some() { Err(unknown()) } else { Ok(found) }
    }

    fn remove(&mut self, account: &str) -> Result<Account, SipError> {
        let name = self.known(account)?;
        let Some(running) = self.running.remove(&name) else { return Err(SipError::Unknown { account: name }) };
        self.accounts.save(self.running.values().map(|running| &running.account.record))?;
        self.registrar.remove(&name);
        self.is_registrar_changed = true;
        self.followed.retain(|_, followed| followed.account != name);
        if self.trunks.is_gateway(&name) {
            self.trunks.close_books();
        }
        Ok(running.account)
    }

    pub(super) fn new_password(&mut self, account: &str) -> Result<SipCredentials, SipError> {
        let name = self.known(account)?;
        let password = accounts::password()?;
        let Some(running) = self.running.get(&name) else { return Err(SipError::Unknown { account: name }) };
        let mut changed = running.account.record.clone();
        changed.set_password(&password);
        // On disk first: a password that nobody was told mustn't count.
        let others = self.running.values().map(|running| &running.account.record).filter(|record| record.account != name);
        self.accounts.save(others.chain(std::iter::once(&changed)))?;
        let Some(running) = self.running.get_mut(&name) else { return Err(SipError::Unknown { account: name }) };
        running.account.record = changed;
        // Whoever had the old one hears nothing any more.
        let account = running.account.clone();
        let desk = self.open_desk(&account);
        if let Some(running) = self.running.get_mut(&name) {
            running.desk = desk;
        }
        self.registrar.remove(&name);
        self.is_registrar_changed = true;
        self.saving.hurry();
        let record = self.running.get(&name).map(|running| &running.account.record);
        record.map(|record| self.credentials(record, password)).ok_or(SipError::Unknown { account: name })
    }

    pub(super) fn list(&self) -> SipAccountList {
        let now = unix();
        let phone = |binding: &Binding| SipPhone {
            contact: binding.contact.clone(),
            transport: binding.flow.transport.name().to_ascii_lowercase(),
            address: binding.flow.peer.to_string(),
            user_agent: binding.user_agent.clone(),
            instance: binding.instance.clone(),
            expires_at: Timestamp::from_unix_secs(binding.expires_at.0),
            push: binding.push.as_ref().map(|push| push.provider.clone()),
        };
        let accounts = self.running.values().map(|running| SipAccount {
            account: running.account.record.account.clone(),
            peer_id: running.account.peer_id.clone(),
            created_at: Timestamp::from_unix_secs(running.account.record.created_at),
            phones: self.registrar.bindings(&running.account.record.account, now).into_iter().map(phone).collect(),
        });
        SipAccountList { servers: self.servers(), accounts: accounts.collect(), banned: self.guard.banned(Instant::now()) }
    }
}

/// An account that was removed ends, and what it had on disk is deleted.
async fn end(removed: Account, accounts: Accounts, reply: Reply<SipAccountRemoved, SipError>) {
    // One that has ended by itself is where it should be.
    let _ = tokio::time::timeout(Duration::from_secs(3), removed.node.shutdown()).await;
    accounts.remove(&removed.record);
    reply.send(Ok(SipAccountRemoved { account: removed.record.account, peer_id: removed.peer_id }));
}
