//! Linking a SIP address by a login: the node registers there for a moment, has the own authority send its code, and takes it itself.
//!
//! ```text
//! node                       SIP server                    authority
//! REGISTER  --------------->
//! CodeRequest  --------------------------------------------->
//!           <---- MESSAGE ---          <---- MESSAGE with the code
//! CodeShow  ------------------------------------------------>
//!           <------------------------------ its word for the address
//! REGISTER, for 0 s  ------>
//! ```
//!
//! The request has a random tag, and only a text that repeats it is looked at: what others say to the account meanwhile, codes of other services among it, is shown to nobody. The password is needed for
//! that long and isn't kept.

use std::collections::BTreeMap;
use std::time::Duration;

use halloo_protocol::authority::{
    CodeAnswer, CodeRequest, CodeResult, CodeShow, CodeShown, CodeTag, RefusalCode, WordResult, code_in,
};
use halloo_protocol::linked::LinkedId;
use halloo_protocol::wire::{Extensions, Frame};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::debug;
use zeroize::Zeroizing;

use super::addresses::{ANSWER_TIMEOUT, AddressAsking, failed};
use super::commands::{self, PASSWORD_BYTES_MAX};
use crate::event_loop::{EventLoop, Internal};
use crate::handle::Reply;
use crate::handle::linked::{LinkError, LinkOptions, LinkedAccount};
use crate::handle::problem::NodeError;
use crate::key_file;
use crate::network::Purpose;
use crate::sip::agent::{Agent, AgentError, AgentParams};

/// Logins under way at once.
const LOGINS_MAX: usize = 4;

/// How long the registration is asked for, and how long the code may take.
const REGISTER_SECS: u32 = 300;
const CODE_MAX: Duration = Duration::from_secs(90);

/// How long the server may take to hear that it is over.
const LEAVE_MAX: Duration = Duration::from_secs(3);

/// Codes that are shown in vain: the authority takes two more.
const TRIES_MAX: u8 = 3;

/// Logins under way.
#[derive(Debug, Default)]
pub(super) struct Registered {
    open: BTreeMap<u64, Login>,
    count: u64,
}

#[derive(Debug)]
struct Login {
    id: LinkedId,
    tag: CodeTag,
    reply: Reply<LinkedAccount, LinkError>,
    codes: Codes,
    listed: Option<bool>,
    /// Dropped, the registration ends.
    _task: DropGuard,
}

/// Codes that come to an account.
#[derive(Debug, Default)]
struct Codes {
    /// The authority has sent one.
    is_asked: bool,
    /// What came before it said so.
    early: Vec<String>,
    tries: u8,
}

/// What becomes of one.
#[derive(Debug, PartialEq, Eq)]
enum Came {
    /// The authority is shown it.
    Shown(String),
    /// It waits for the authority's answer, or is passed over.
    Waits,
    /// Too many have been shown in vain.
    TooMany,
}

impl Codes {
    fn came(&mut self, code: String) -> Came {
        if self.is_asked {
            return self.show(code);
        }
        // The code may be faster than the authority's answer, and what came before that is nobody's.
        if self.early.len() < usize::from(TRIES_MAX) {
            self.early.push(code);
        } else {
            debug!("many codes come to a SIP account: one isn't taken");
        }
        Came::Waits
    }

    fn show(&mut self, code: String) -> Came {
        if self.tries >= TRIES_MAX {
            return Came::TooMany;
        }
        self.tries += 1;
        Came::Shown(code)
    }

    /// The authority has sent a code. What becomes of those that were faster.
    fn asked(&mut self) -> Vec<Came> {
        self.is_asked = true;
        std::mem::take(&mut self.early).into_iter().map(|code| self.show(code)).collect()
    }
}

/// What the task tells.
#[derive(Debug)]
pub(crate) struct SipNews {
    number: u64,
    what: What,
}

#[derive(Debug, PartialEq, Eq)]
enum What {
    Registered,
    Code(String),
    Failed(String),
}

impl EventLoop {
    pub(super) fn begin_sip_login(&mut self, options: LinkOptions, reply: Reply<LinkedAccount, LinkError>) {
        let (id, params, listed) = match self.sip_params(options) {
            Ok(begun) => begun,
            Err(error) => return reply.send(Err(error)),
        };
        let tag = match key_file::random_bytes() {
            Ok(random) => CodeTag::new(random),
            Err(error) => return reply.send(Err(NodeError::Internal { detail: error.to_string() }.into())),
        };
        let registered = &mut self.linked.registered;
        registered.count += 1;
        let (number, token) = (registered.count, CancellationToken::new());
        let _task = token.clone().drop_guard();
        let login = Login { id, tag: tag.clone(), reply, codes: Codes::default(), listed, _task };
        registered.open.insert(number, login);
        let teller = Teller { number, tag, news: self.internal_sender.clone() };
        tokio::spawn(run(params, teller, token));
    }

    fn sip_params(&self, options: LinkOptions) -> Result<(LinkedId, AgentParams, Option<bool>), LinkError> {
        let LinkOptions { password, server, roots, plain, listed, tokens, .. } = options.clone();
        let id = self.address_of(&options.id()?.to_string())?;
        let password = Zeroizing::new(password);
        let wrong = |reason: String| LinkError::Options { reason };
        if password.is_empty() || password.len() > PASSWORD_BYTES_MAX || password.contains(char::is_control) {
            return Err(wrong(format!("password: empty, more than a line, or longer than {PASSWORD_BYTES_MAX} bytes")));
        }
        if tokens {
            return Err(wrong("tokens: there are none in that system".to_owned()));
        }
        if self.linked.registered.open.len() >= LOGINS_MAX {
            return Err(NodeError::LimitReached { what: "logins at once", max: LOGINS_MAX }.into());
        }
        let (user, domain) = id.address().split_once('@').unwrap_or_default();
        let (user, domain) = (user.to_owned(), domain.to_owned());
        let params = AgentParams { user, domain, server, is_plain: plain, roots, auth_user: None, password };
        Ok((id, params, listed))
    }

    pub(crate) fn handle_sip_news(&mut self, news: SipNews) {
        let SipNews { number, what } = news;
        let Some(login) = self.linked.registered.open.get_mut(&number) else { return };
        match what {
            What::Registered => {
                let (chain, linked) = (self.identity.chain().clone(), login.id.clone());
                let request = CodeRequest { chain, linked, extensions: login.tag.extensions() };
                let asking = AddressAsking::SipCode { number };
                match self.own_authority_target() {
                    Ok(target) => self.request(&target, &request, Purpose::Address(Box::new(asking)), ANSWER_TIMEOUT),
                    Err(error) => self.end_sip_login(number, format!("the authority: {error}")),
                }
            }
            What::Code(code) => {
                let came = login.codes.came(code);
                self.sip_code_came(number, came);
            }
            What::Failed(reason) => self.end_sip_login(number, reason),
        }
    }

    /// What came is most likely the code: the authority knows.
    fn sip_code_came(&mut self, number: u64, came: Came) {
        let Some(login) = self.linked.registered.open.get_mut(&number) else { return };
        let code = match came {
            Came::Shown(code) => code,
            Came::Waits => return,
            Came::TooMany => return self.end_sip_login(number, "others send codes there: try again later".to_owned()),
        };
        let (chain, linked) = (self.identity.chain().clone(), login.id.clone());
        let request = CodeShow { chain, linked, code, extensions: Extensions::none() };
        let asking = AddressAsking::SipWord { number };
        match self.own_authority_target() {
            Ok(target) => self.request(&target, &request, Purpose::Address(Box::new(asking)), ANSWER_TIMEOUT),
            Err(error) => self.end_sip_login(number, format!("the authority: {error}")),
        }
    }

    /// The registration isn't needed any more.
    pub(super) fn end_sip_login(&mut self, number: u64, reason: String) {
        if let Some(login) = self.linked.registered.open.remove(&number) {
            login.reply.send(Err(failed(&login.id, reason)));
        }
    }

    pub(super) fn sip_code_answered(&mut self, number: u64, frame: &Frame) {
        match frame.parse::<CodeAnswer>().map(|answer| answer.result) {
            Ok(CodeResult::Sent(_)) => {
                let Some(login) = self.linked.registered.open.get_mut(&number) else { return };
                let came = login.codes.asked();
                came.into_iter().for_each(|came| self.sip_code_came(number, came));
            }
            Ok(CodeResult::Refused(refusal)) => self.end_sip_login(number, refusal.detail),
            Err(_) => self.end_sip_login(number, "the authority sends no codes".to_owned()),
        }
    }

    pub(super) fn sip_word_answered(&mut self, number: u64, frame: &Frame) {
        let proof = match frame.parse::<CodeShown>().map(|answer| answer.result) {
            Ok(WordResult::Granted(proof)) => proof,
            // Somebody else has said something of the kind: the right one may still come.
            Ok(WordResult::Refused(refusal)) if refusal.code == RefusalCode::CODE_WRONG => {
                return debug!("a code that came isn't the one that was sent");
            }
            Ok(WordResult::Refused(refusal)) => return self.end_sip_login(number, refusal.detail),
            Err(_) => return self.end_sip_login(number, "the authority sends no codes".to_owned()),
        };
        let Some(login) = self.linked.registered.open.remove(&number) else { return };
        let Login { id, reply, listed, .. } = login;
        self.set_listed(&id, listed);
        match (self.link_by_word(&id, proof.to_bytes()), self.linked.accounts.get_mut(&id)) {
            (Ok(()), Some(account)) => account.asked = Some(commands::Asked::Add(reply)),
            (Ok(()), None) => reply.send(Err(LinkError::Unknown { account: id.to_string() })),
            (Err(error), _) => reply.send(Err(error)),
        }
    }
}

/// The task's way to the event loop.
struct Teller {
    number: u64,
    tag: CodeTag,
    news: mpsc::Sender<Internal>,
}

impl Teller {
    async fn tell(&self, what: What) {
        // Without a node nobody waits for it.
        let _gone = self.news.send(Internal::LinkedSip(Box::new(SipNews { number: self.number, what }))).await;
    }
}

/// Registers, tells what comes that may be a code, and takes the registration back.
async fn run(params: AgentParams, teller: Teller, ended: CancellationToken) {
    let mut agent = match Agent::connect(&params).await {
        Ok(agent) => agent,
        Err(error) => return teller.tell(What::Failed(error.to_string())).await,
    };
    let told = tokio::select! {
        () = ended.cancelled() => None,
        () = teller.news.closed() => None,
        error = tell_codes(&mut agent, &teller) => Some(error),
    };
    if let Some(error) = told {
        teller.tell(What::Failed(error)).await;
    }
    // A server that doesn't answer sees the registration end by itself.
    let _left = tokio::time::timeout(LEAVE_MAX, agent.register(0)).await;
}

/// Goes on until something is wrong: that is given.
async fn tell_codes(agent: &mut Agent, teller: &Teller) -> String {
    let told = async {
        agent.register(REGISTER_SECS).await?;
        teller.tell(What::Registered).await;
        loop {
            let text = agent.next_message().await?;
            if let Some(code) = code_in(&text, &teller.tag) {
                teller.tell(What::Code(code.to_owned())).await;
            }
        }
    };
    let told: Result<Result<(), AgentError>, _> = tokio::time::timeout(CODE_MAX, told).await;
    match told {
        Ok(Err(error)) => error.to_string(),
        _ => "no code has come to the account".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use halloo_protocol::authority::sip_code_text;
    use halloo_protocol::sip::message::{Message, stream_length};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// The server's side of a login.
    struct Server(TcpStream);

    impl Server {
        async fn read(&mut self) -> Message {
            let mut bytes = Vec::new();
            loop {
                match stream_length(&bytes).unwrap() {
                    Some(length) if length <= bytes.len() => return Message::parse(&bytes[..length]).unwrap(),
                    _ => assert_ne!(self.0.read_buf(&mut bytes).await.unwrap(), 0, "it goes on"),
                }
            }
        }

        /// Answers a REGISTER; gives for how long it was to be.
        async fn registered(&mut self, status: u16) -> String {
            let request = self.read().await;
            assert_eq!(request.method(), "REGISTER");
            let answer = Message::answer(&request, status, "Words", Some("there"));
            self.0.write_all(&answer.to_bytes()).await.unwrap();
            request.get("expires").unwrap_or_default().to_owned()
        }

        async fn write(&mut self, number: u32, text: &str) {
            let mut request = Message::request("MESSAGE", "sip:alice@127.0.0.1");
            request.add("via", format!("SIP/2.0/TCP 127.0.0.1;branch=z9hG4bK{number}"));
            request.add("from", "<sip:codes@sip.example>;tag=x");
            request.add("to", "<sip:alice@sip.example>");
            request.add("call-id", format!("c{number}"));
            request.add("cseq", "1 MESSAGE");
            self.0.write_all(&request.with_body("text/plain", text).to_bytes()).await.unwrap();
            assert_eq!(self.read().await.status(), 200);
        }
    }

    /// Begins a login as this node does; what it tells, and what ends it.
    async fn login(tag: &CodeTag) -> (Server, mpsc::Receiver<Internal>, CancellationToken, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let params = AgentParams::for_test(listener.local_addr().unwrap());
        let (sender, news) = mpsc::channel(8);
        let ended = CancellationToken::new();
        let task = tokio::spawn(run(params, Teller { number: 7, tag: tag.clone(), news: sender }, ended.clone()));
        (Server(listener.accept().await.unwrap().0), news, ended, task)
    }

    async fn told(news: &mut mpsc::Receiver<Internal>) -> What {
        let Some(Internal::LinkedSip(told)) = news.recv().await else { panic!("it tells something else, or nothing") };
        assert_eq!(told.number, 7);
        told.what
    }

    #[tokio::test]
    async fn the_code_that_was_asked_for_is_told_and_nothing_else_and_the_registration_is_taken_back() {
        let (tag, other) = (CodeTag::new([0; 12]), CodeTag::new([1; 12]));
        let (mut server, mut news, ended, task) = login(&tag).await;
        assert_eq!(server.registered(200).await, REGISTER_SECS.to_string());
        assert_eq!(told(&mut news).await, What::Registered);
        let code = |code: &str, tag| sip_code_text(code, "alice@example", tag);
        for (number, text) in [
            "Your bank: the code is 11111111.".to_owned(),
            code("22222222", None),
            code("33333333", Some(&other)),
            code("44444444", Some(&tag)),
        ]
        .into_iter()
        .enumerate()
        {
            server.write(u32::try_from(number).unwrap(), &text).await;
        }
        assert_eq!(told(&mut news).await, What::Code("44444444".to_owned()));
        ended.cancel();
        assert_eq!(server.registered(200).await, "0");
        task.await.unwrap();
        assert!(news.recv().await.is_none(), "nothing more is told");
    }

    #[tokio::test]
    async fn a_registration_that_is_refused_is_told() {
        let (mut server, mut news, _ended, task) = login(&CodeTag::new([0; 12])).await;
        server.registered(403).await;
        let What::Failed(reason) = told(&mut news).await else { panic!("it has failed") };
        assert!(reason.contains("403"), "{reason}");
        assert_eq!(server.registered(200).await, "0");
        task.await.unwrap();
    }

    #[test]
    fn codes_that_come_early_wait_and_few_are_shown() {
        let (mut codes, code) = (Codes::default(), |number: u8| format!("{number:08}"));
        for number in 0..9 {
            assert_eq!(codes.came(code(number)), Came::Waits, "the authority hasn't said that it has sent one");
        }
        assert_eq!(codes.asked(), [Came::Shown(code(0)), Came::Shown(code(1)), Came::Shown(code(2))]);
        assert_eq!(codes.came(code(3)), Came::TooMany);

        let mut codes = Codes::default();
        assert_eq!(codes.asked(), []);
        let came: Vec<Came> = (0..4).map(|number| codes.came(code(number))).collect();
        assert_eq!(came, [Came::Shown(code(0)), Came::Shown(code(1)), Came::Shown(code(2)), Came::TooMany]);
    }
}
