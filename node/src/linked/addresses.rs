//! Own mail addresses, telephone numbers and SIP addresses, by an authority's word, with the user's address book as their contact list.
//!
//! *At an authority*: a code goes to the address by what its configuration has for such addresses. *At a user*: the code is asked for and shown, and what the authority says travels
//! with the association. There is no account to stay logged in to: what can change is the book alone.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use halloo_protocol::authority::{CodeAnswer, CodeRequest, CodeResult, CodeShow, CodeShown, WordResult};
use halloo_protocol::linked::{LinkedId, ListEntry, ProofMethod, System};
use halloo_protocol::time::UnixTime;
use halloo_protocol::wire::{Extensions, Frame};

use super::system::{LinkedError, LinkedSystem, NoPlace};
use super::{ACCOUNTS_MAX, News, StoredAccount, commands};
use crate::event_loop::EventLoop;
use crate::handle::Reply;
use crate::handle::linked::{LinkCode, LinkCodeShown, LinkError, LinkedAccount};
use crate::handle::problem::NodeError;
use crate::network::Purpose;
use crate::roles::authority::{Asker, CodeWays, Phones, SipCodes};
use crate::timestamp::Timestamp;

/// How long an authority may take to answer.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// Longest code that is passed on.
const CODE_CHARS_MAX: usize = 32;

/// What an authority is asked.
#[derive(Debug)]
pub(crate) enum AddressAsking {
    /// For a code to be sent.
    Code {
        id: LinkedId,
        reply: Reply<LinkCode, LinkError>,
    },
    /// For its word.
    Word {
        id: LinkedId,
        listed: Option<bool>,
        reply: Reply<LinkedAccount, LinkError>,
    },
    /// The same, by this login of a SIP account.
    SipCode {
        number: u64,
    },
    SipWord {
        number: u64,
    },
}

// At an authority.
impl EventLoop {
    /// Answers who wants a code, or shows one.
    pub(crate) fn answer_code(&mut self, frame: &Frame, asker: &Asker, now: UnixTime) -> Option<Frame> {
        let ways = &self.linked.code_ways;
        let authority = self.authority.as_mut().filter(|_| !ways.is_empty())?;
        if let Ok(request) = frame.parse::<CodeShow>() {
            let result = match authority.show_code(&request, asker, &self.trust, now) {
                Ok(proof) => WordResult::Granted(Box::new(proof)),
                Err(refusal) => WordResult::Refused(refusal),
            };
            return Some(Frame::new(frame.id, &CodeShown { result, extensions: Extensions::none() }));
        }
        let request = frame.parse::<CodeRequest>().ok()?;
        let letter = ways.enter(&request.linked).and_then(|place| {
            let now = (Instant::now(), now);
            authority.begin_code(&request, asker, &self.trust, now).map(|letter| (letter, place))
        });
        let result = match letter {
            Ok((letter, place)) => {
                ways.send(letter, self.labels.display(&request.chain.user.claimed_id()), place);
                CodeResult::Sent(u32::try_from(halloo_protocol::authority::CODE_SECS).unwrap_or(u32::MAX))
            }
            Err(refusal) => CodeResult::Refused(refusal),
        };
        Some(Frame::new(frame.id, &CodeAnswer { result, extensions: Extensions::none() }))
    }

    /// Makes ready what codes are sent by, as the configuration says.
    ///
    /// # Errors
    /// What can't be used, by its setting's name.
    pub(crate) fn open_code_ways(&mut self) -> Result<(), String> {
        let phones = self.settings.authority_phone.as_ref().map(|phone| Phones::new(phone, self.settings.lab)).transpose()?;
        let sip = self.settings.authority_sip.as_ref().map(SipCodes::new).transpose()?;
        let mail = self.settings.authority_mail.clone();
        self.linked.code_ways = CodeWays::new(mail, phones, sip);
        Ok(())
    }
}

// At a user.
impl EventLoop {
    pub(super) fn address_of(&self, text: &str) -> Result<LinkedId, LinkError> {
        if self.is_revoked() {
            return Err(NodeError::Revoked.into());
        }
        let id: LinkedId = text.parse()?;
        if !matches!(id.system(), System::Mail | System::Phone | System::Sip) {
            return Err(NodeError::Unsupported { what: "codes to such addresses" }.into());
        }
        if !self.linked.accounts.contains_key(&id) && self.linked.accounts.len() >= ACCOUNTS_MAX {
            return Err(NodeError::LimitReached { what: "linked accounts", max: ACCOUNTS_MAX }.into());
        }
        if !self.identity.has_identity_key() {
            return Err(LinkError::NoIdentityKey);
        }
        Ok(id)
    }

    pub(super) fn ask_for_code(&mut self, text: &str, reply: Reply<LinkCode, LinkError>) {
        let id = match self.address_of(text) {
            Ok(id) => id,
            Err(error) => return reply.send(Err(error)),
        };
        let request = CodeRequest { chain: self.identity.chain().clone(), linked: id.clone(), extensions: Extensions::none() };
        let asking = AddressAsking::Code { id, reply };
        match self.own_authority_target() {
            Ok(target) => self.request(&target, &request, Purpose::Address(Box::new(asking)), ANSWER_TIMEOUT),
            Err(error) => self.address_unanswered(asking, &error.to_string()),
        }
    }

    pub(super) fn show_code(&mut self, options: &LinkCodeShown, reply: Reply<LinkedAccount, LinkError>) {
        let id = match self.address_of(&options.address) {
            Ok(id) => id,
            Err(error) => return reply.send(Err(error)),
        };
        let code = options.code.chars().take(CODE_CHARS_MAX).collect();
        let request = CodeShow { chain: self.identity.chain().clone(), linked: id.clone(), code, extensions: Extensions::none() };
        let asking = AddressAsking::Word { id, listed: options.listed, reply };
        match self.own_authority_target() {
            Ok(target) => self.request(&target, &request, Purpose::Address(Box::new(asking)), ANSWER_TIMEOUT),
            Err(error) => self.address_unanswered(asking, &error.to_string()),
        }
    }

    /// The authority doesn't answer.
    pub(crate) fn address_unanswered(&mut self, asking: AddressAsking, reason: &str) {
        let reason = format!("the authority: {reason}");
        match asking {
            AddressAsking::Code { id, reply } => reply.send(Err(failed(&id, reason))),
            AddressAsking::Word { id, reply, .. } => reply.send(Err(failed(&id, reason))),
            AddressAsking::SipCode { number } | AddressAsking::SipWord { number } => self.end_sip_login(number, reason),
        }
    }

    pub(crate) fn address_answer(&mut self, asking: AddressAsking, frame: &Frame) {
        match asking {
            AddressAsking::Code { id, reply } => {
                let outcome = match frame.parse::<CodeAnswer>().map(|answer| answer.result) {
                    Ok(CodeResult::Sent(secs)) => {
                        let expires_at = Timestamp::from_unix_secs(self.now().unix.plus_secs(secs.into()).0);
                        Ok(LinkCode { account: id.to_string(), expires_at })
                    }
                    Ok(CodeResult::Refused(refusal)) => Err(refusal.detail),
                    Err(_) => Err("the authority sends no codes".to_owned()),
                };
                reply.send(outcome.map_err(|reason| failed(&id, reason)));
            }
            AddressAsking::SipCode { number } => self.sip_code_answered(number, frame),
            AddressAsking::SipWord { number } => self.sip_word_answered(number, frame),
            AddressAsking::Word { id, listed, reply } => {
                let outcome = match frame.parse::<CodeShown>().map(|answer| answer.result) {
                    Ok(WordResult::Granted(proof)) => {
                        self.set_listed(&id, listed);
                        self.link_by_word(&id, proof.to_bytes())
                    }
                    Ok(WordResult::Refused(refusal)) => Err(failed(&id, refusal.detail)),
                    Err(_) => Err(failed(&id, "the authority sends no codes".to_owned())),
                };
                match (outcome, self.linked.accounts.get_mut(&id)) {
                    // Answered once its contacts are there.
                    (Ok(()), Some(account)) => account.asked = Some(commands::Asked::Add(reply)),
                    (Ok(()), None) => reply.send(Err(LinkError::Unknown { account: id.to_string() })),
                    (Err(error), _) => reply.send(Err(error)),
                }
            }
        }
    }

    pub(super) fn link_by_word(&mut self, id: &LinkedId, proof: Vec<u8>) -> Result<(), LinkError> {
        let association = self.say_proved(id, ProofMethod::AUTHORITY_WORD, &proof).map_err(|reason| failed(id, reason))?;
        self.keep_proved(id, association, proof, None, "")
    }
}

pub(super) fn failed(id: &LinkedId, reason: String) -> LinkError {
    LinkError::Failed { account: id.to_string(), reason: reason.chars().take(300).collect() }
}

/// Whether an account is an address, by an authority's word.
pub(super) fn is_by_word(stored: &StoredAccount) -> bool {
    stored.association.as_ref().is_some_and(|said| said.unverified().method == ProofMethod::AUTHORITY_WORD)
}

/// An own address as a linked system: there is nothing to log in to.
pub(super) struct AddressAccount(Vec<ListEntry>);

impl AddressAccount {
    pub(super) fn new(book: &BTreeMap<LinkedId, Option<String>>) -> Self {
        let entry = |(id, name): (&LinkedId, &Option<String>)| ListEntry {
            id: id.clone(),
            name: name.clone(),
            is_contact: true,
            is_reader: false,
        };
        Self(book.iter().map(entry).collect())
    }
}

impl LinkedSystem for AddressAccount {
    type Place = NoPlace;

    fn place(&mut self) -> Option<&mut NoPlace> {
        None
    }

    async fn login(&mut self) -> Result<(), LinkedError> {
        Ok(())
    }

    async fn contacts(&mut self) -> Result<Vec<ListEntry>, LinkedError> {
        Ok(self.0.clone())
    }

    async fn is_alive(&mut self) -> bool {
        true
    }

    async fn wait(&mut self) -> Result<(), LinkedError> {
        std::future::pending().await
    }

    async fn take(&mut self) -> Result<Vec<News>, LinkedError> {
        Ok(Vec::new())
    }

    async fn end(&mut self) {}
}
