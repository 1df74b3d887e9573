//! An XMPP account as a linked system: one connection, kept. Presence is sent where it is a carrier of associations by name ([`presence`]), and otherwise not, so that
//! nobody there is shown as online for it.
//!
//! What is said and read is `halloo_protocol::xmpp`; this file has the connection: TCP, STARTTLS (RFC 6120 section 5), SCRAM or, under TLS, PLAIN.

mod presence;

use std::collections::BTreeSet;
use std::future::Future;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use halloo_protocol::linked::{LinkedId, ListEntry, Shown};
use halloo_protocol::simple::xml::Element;
use halloo_protocol::xmpp::scram::{Mechanism, Scram};
use halloo_protocol::xmpp::stanza::{self, Features, Incoming};
use halloo_protocol::xmpp::stream::{Piece, StreamReader};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use self::presence::Presences;
use super::News;
use super::system::{LinkedError, LinkedPlace, LinkedSystem};
use crate::key_file;

/// Longest wait for an answer of the own server, and of a contact's.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
const LOOK_TIMEOUT: Duration = Duration::from_secs(4);

/// How often something is said on a silent connection, so that networks don't forget it.
const KEEP_ALIVE: Duration = Duration::from_secs(120);

/// Where servers listen for clients.
const CLIENT_PORT: u16 = 5_222;

trait Stream: AsyncRead + AsyncWrite + Unpin + Send + Sync {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + Sync> Stream for T {}

struct Connection {
    stream: Box<dyn Stream>,
    reader: StreamReader,
    spoken_at: Instant,
}

/// An account, and its connection once there is one.
pub(super) struct XmppAccount {
    account: LinkedId,
    domain: String,
    host: String,
    port: u16,
    /// `None`: without TLS, on this machine.
    tls: Option<TlsConnector>,
    password: Zeroizing<String>,
    connection: Option<Connection>,
    next_id: u64,
    changes: Vec<News>,
    presences: Presences,
    /// Who isn't shown the association, as this run has told the server.
    denied: BTreeSet<LinkedId>,
}

/// What an account needs to be reached by.
#[derive(Debug)]
pub(super) struct XmppParams {
    pub(super) account: LinkedId,
    /// `HOST:PORT`; otherwise the domain of the address.
    pub(super) server: Option<String>,
    pub(super) roots: Option<std::path::PathBuf>,
    /// Without TLS; for a server on this machine alone.
    pub(super) is_plain: bool,
    pub(super) password: Zeroizing<String>,
}

impl XmppAccount {
    /// Checks what can be checked before anything is said.
    pub(super) fn new(params: XmppParams) -> Result<Self, String> {
        let (_, domain) = params.account.address().split_once('@').ok_or("no address of an account")?;
        let (host, port) = match &params.server {
            None => (domain.to_owned(), CLIENT_PORT),
            Some(server) => {
                let (host, port) = server.rsplit_once(':').ok_or("server: expected HOST:PORT")?;
                (host.to_owned(), port.parse().map_err(|_| "server: expected HOST:PORT")?)
            }
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let is_here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        if params.is_plain && !is_here {
            return Err("plain: without TLS only a server on this machine is spoken to".into());
        }
        let tls = if params.is_plain { None } else { Some(crate::mail::connector(params.roots.as_deref())?) };
        let domain = domain.to_owned();
        let (account, password) = (params.account, params.password);
        Ok(Self {
            account,
            domain,
            host,
            port,
            tls,
            password,
            connection: None,
            next_id: 0,
            changes: Vec::new(),
            presences: Presences::new(),
            denied: BTreeSet::new(),
        })
    }

    fn connection(&mut self) -> Result<&mut Connection, LinkedError> {
        self.connection.as_mut().ok_or(LinkedError::Protocol("it isn't connected"))
    }

    /// Begins a stream, and hears what the server offers on it.
    async fn open(&mut self) -> Result<Features, LinkedError> {
        let text = stanza::open(&self.domain);
        self.connection()?.reader = StreamReader::default();
        self.connection()?.say(&text).await?;
        match self.hear().await? {
            Incoming::Features(features) => Ok(features),
            _ => Err(LinkedError::Protocol("it doesn't say what it offers")),
        }
    }

    /// The next thing that the server says.
    async fn hear(&mut self) -> Result<Incoming, LinkedError> {
        let me = self.account.clone();
        let element = within(self.connection()?.next()).await??;
        match stanza::read(&element, &me) {
            Incoming::StreamError(reason) => Err(LinkedError::Refused { what: "the connection", reason }),
            incoming => Ok(incoming),
        }
    }

    async fn begin_tls(&mut self) -> Result<(), LinkedError> {
        let Some(tls) = self.tls.clone() else { return Ok(()) };
        if !self.open().await?.has_tls {
            return Err(LinkedError::NoTls);
        }
        self.connection()?.say(&stanza::start_tls()).await?;
        if self.hear().await? != Incoming::Proceed {
            return Err(LinkedError::NoTls);
        }
        let connection = self.connection.take().ok_or(LinkedError::Protocol("it isn't connected"))?;
        let name = rustls::pki_types::ServerName::try_from(self.domain.clone());
        let name = name.map_err(|_| LinkedError::Name(self.domain.clone()))?;
        let stream = within(tls.connect(name, connection.stream)).await??;
        // What came before TLS is forgotten with the reader: it was said by anybody.
        self.connection = Some(Connection::new(Box::new(stream)));
        Ok(())
    }

    async fn authenticate(&mut self, offered: &Features) -> Result<(), LinkedError> {
        let (user, _) = self.account.address().split_once('@').unwrap_or_default();
        let (user, password) = (user.to_owned(), self.password.clone());
        let Some(mechanism) = Mechanism::choose(offered.mechanisms.iter().map(String::as_str)) else {
            // Without TLS whoever listens in the server's place would have the password.
            if self.tls.is_none() || !offered.mechanisms.iter().any(|name| name == "PLAIN") {
                return Err(LinkedError::Protocol("it offers no way to log in that is known here"));
            }
            let said = Zeroizing::new(format!("\0{user}\0{}", *password));
            self.connection()?.say(&Zeroizing::new(stanza::auth("PLAIN", said.as_bytes()))).await?;
            return match self.hear().await? {
                Incoming::Success(_) => Ok(()),
                other => Err(refused_login(other)),
            };
        };
        let nonce: [u8; 18] = key_file::random_bytes().map_err(|_| LinkedError::Protocol("no random bytes"))?;
        let mut scram = Scram::new(mechanism, &user, &password, &nonce);
        self.connection()?.say(&stanza::auth(mechanism.name(), &scram.first())).await?;
        let challenge = match self.hear().await? {
            Incoming::Challenge(challenge) => challenge,
            other => return Err(refused_login(other)),
        };
        // Some 10 to 200 ms of work, on a thread that may take that long.
        let (scram, answer) = tokio::task::spawn_blocking(move || {
            let answer = scram.answer(&challenge);
            (scram, answer)
        })
        .await
        .map_err(|_| LinkedError::Protocol("the node ends"))?;
        self.connection()?.say(&stanza::response(&answer?)).await?;
        match self.hear().await? {
            Incoming::Success(said) => Ok(scram.check(&said)?),
            other => Err(refused_login(other)),
        }
    }

    /// Asks, and waits for the answer; what else comes meanwhile is taken.
    async fn ask(
        &mut self,
        what: &'static str,
        text: impl Fn(&str) -> String,
        of: Option<&LinkedId>,
    ) -> Result<Option<Element>, LinkedError> {
        self.next_id += 1;
        let asked = format!("h{}", self.next_id);
        self.connection()?.say(&text(&asked)).await?;
        let until = tokio::time::Instant::now() + if of.is_some() { LOOK_TIMEOUT } else { ANSWER_TIMEOUT };
        loop {
            let heard = tokio::time::timeout_at(until, self.hear()).await.map_err(|_elapsed| LinkedError::Timeout)?;
            match heard? {
                Incoming::Answer { id, from, result } if id == asked && is_from(from.as_deref(), of, &self.account) => {
                    return result.map_err(|reason| LinkedError::Refused { what, reason });
                }
                other => self.take_other(other).await?,
            }
        }
    }

    async fn take_other(&mut self, incoming: Incoming) -> Result<(), LinkedError> {
        match incoming {
            Incoming::ListChanged { id, entry } => {
                self.presences.change(&entry);
                self.changes.push(News::Changed(entry));
                self.connection()?.say(&stanza::acknowledge(&id)).await
            }
            Incoming::Presence(presence) => {
                let (news, answer) = self.presences.hear(presence, Instant::now());
                self.changes.extend(news);
                match answer {
                    Some(answer) => self.connection()?.say(&answer).await,
                    None => Ok(()),
                }
            }
            Incoming::Request { id, from } => self.connection()?.say(&stanza::decline(&id, from.as_deref())).await,
            _ => Ok(()),
        }
    }
}

/// Whether an answer is of the account that was asked: anybody can send one. The own server answers for the own account, and needn't say so.
fn is_from(from: Option<&str>, of: Option<&LinkedId>, me: &LinkedId) -> bool {
    match (from, of) {
        (None, None) => true,
        (None, Some(of)) => of == me,
        (Some(from), None) => stanza::account_of(from).as_ref() == Some(me) || me.address().ends_with(&format!("@{from}")),
        (Some(from), Some(of)) => !from.contains('/') && stanza::account_of(from).as_ref() == Some(of),
    }
}

/// There is no such place, or it isn't shown to this account: nothing stands there for it.
fn is_nothing_there(error: &LinkedError) -> bool {
    let LinkedError::Refused { reason, .. } = error else { return false };
    matches!(
        reason.as_str(),
        "item-not-found" | "not-authorized" | "forbidden" | "service-unavailable" | "feature-not-implemented"
    )
}

fn refused_login(said: Incoming) -> LinkedError {
    match said {
        Incoming::Failure(reason) => LinkedError::Refused { what: "the login", reason },
        _ => LinkedError::Protocol("it doesn't go on with the login"),
    }
}

async fn within<T>(work: impl Future<Output = T>) -> Result<T, LinkedError> {
    timeout(ANSWER_TIMEOUT, work).await.map_err(|_elapsed| LinkedError::Timeout)
}

impl Connection {
    fn new(stream: Box<dyn Stream>) -> Self {
        Self { stream, reader: StreamReader::default(), spoken_at: Instant::now() }
    }

    async fn say(&mut self, text: &str) -> Result<(), LinkedError> {
        self.spoken_at = Instant::now();
        within(self.stream.write_all(text.as_bytes())).await??;
        Ok(within(self.stream.flush()).await??)
    }

    /// Reads what is there. May be dropped: nothing is lost.
    async fn fill(&mut self) -> Result<(), LinkedError> {
        let mut bytes = [0; 4_096];
        let length = self.stream.read(&mut bytes).await?;
        if length == 0 {
            return Err(LinkedError::Protocol("it has closed the connection"));
        }
        Ok(self.reader.push(bytes.get(..length).unwrap_or_default())?)
    }

    /// The next stanza that is there already.
    fn ready(&mut self) -> Result<Option<Element>, LinkedError> {
        loop {
            match self.reader.next_piece()? {
                Some(Piece::Opened) => {}
                Some(Piece::Stanza(element)) => return Ok(Some(element)),
                Some(Piece::Closed) => return Err(LinkedError::Protocol("it has ended the stream")),
                None => return Ok(None),
            }
        }
    }

    async fn next(&mut self) -> Result<Element, LinkedError> {
        loop {
            if let Some(element) = self.ready()? {
                return Ok(element);
            }
            self.fill().await?;
        }
    }
}

impl LinkedSystem for XmppAccount {
    type Place = Self;

    fn place(&mut self) -> Option<&mut Self> {
        Some(self)
    }

    async fn login(&mut self) -> Result<(), LinkedError> {
        self.changes.clear();
        let tcp = within(TcpStream::connect((self.host.as_str(), self.port))).await??;
        self.connection = Some(Connection::new(Box::new(tcp)));
        self.begin_tls().await?;
        let offered = self.open().await?;
        self.authenticate(&offered).await?;
        self.open().await?;
        self.ask("an address", stanza::bind, None).await?;
        Ok(())
    }

    async fn contacts(&mut self) -> Result<Vec<ListEntry>, LinkedError> {
        let answer = self.ask("the contact list", stanza::list, None).await?;
        let list = answer.ok_or(LinkedError::Protocol("its contact list can't be read"))?;
        let list = stanza::read_list(Some(&list));
        self.presences.begin(&list);
        Ok(list)
    }

    async fn is_alive(&mut self) -> bool {
        // A refusal is a sign of life too.
        let asked = self.ask("a sign of life", stanza::ping, None).await;
        matches!(asked, Ok(_) | Err(LinkedError::Refused { .. }))
    }

    async fn wait(&mut self) -> Result<(), LinkedError> {
        let connection = self.connection()?;
        let quiet = KEEP_ALIVE.saturating_sub(connection.spoken_at.elapsed());
        match timeout(quiet, connection.fill()).await {
            Ok(filled) => filled,
            Err(_elapsed) => Ok(()),
        }
    }

    async fn take(&mut self) -> Result<Vec<News>, LinkedError> {
        if self.connection()?.spoken_at.elapsed() >= KEEP_ALIVE {
            self.connection()?.say(" ").await?;
        }
        let me = self.account.clone();
        while let Some(element) = self.connection()?.ready()? {
            let incoming = stanza::read(&element, &me);
            if let Incoming::StreamError(reason) = incoming {
                return Err(LinkedError::Refused { what: "the connection", reason });
            }
            self.take_other(incoming).await?;
        }
        self.changes.extend(self.presences.told_late(Instant::now()));
        Ok(std::mem::take(&mut self.changes))
    }

    async fn end(&mut self) {
        if let Some(mut connection) = self.connection.take() {
            // It is over either way.
            let _said = connection.say(stanza::close()).await;
        }
    }
}

impl LinkedPlace for XmppAccount {
    async fn show(&mut self, shown: &Shown) -> Result<(), LinkedError> {
        self.ask("the association", |id| stanza::publish(id, shown), None).await?;
        Ok(())
    }

    async fn announce(&mut self, shown: &Shown, denied: &[LinkedId]) -> Result<(), LinkedError> {
        for text in self.presences.announce(shown, denied) {
            self.connection()?.say(&text).await?;
        }
        Ok(())
    }

    async fn deny(&mut self, denied: &[LinkedId]) -> Result<(), LinkedError> {
        let now: BTreeSet<LinkedId> = denied.iter().cloned().collect();
        if now == self.denied {
            return Ok(());
        }
        let again: Vec<LinkedId> = self.denied.difference(&now).cloned().collect();
        self.ask("keeping what is shown from somebody", |id| stanza::deny(id, denied, &again), None).await?;
        self.denied = now;
        Ok(())
    }

    async fn look(&mut self, at: &LinkedId) -> Result<Option<Shown>, LinkedError> {
        match self.ask("a look at what a contact shows", |id| stanza::look(id, at), Some(at)).await {
            Ok(answer) => Ok(stanza::read_look(answer.as_ref())),
            Err(error) if is_nothing_there(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn issue(&mut self, commitment: &[u8; 32]) -> Result<String, LinkedError> {
        let answer = self.ask("a token", |id| stanza::issue(id, commitment), None).await?;
        stanza::read_issued(answer.as_ref()).ok_or(LinkedError::Protocol("it names no token"))
    }

    async fn token(&mut self, at: &LinkedId, token: &str) -> Result<Option<[u8; 32]>, LinkedError> {
        match self.ask("a look at a token", |id| stanza::token(id, at, token), Some(at)).await {
            Ok(answer) => Ok(stanza::read_token(answer.as_ref(), token)),
            Err(error) if is_nothing_there(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn spend(&mut self, token: &str) -> Result<(), LinkedError> {
        self.ask("the end of a token", |id| stanza::spend(id, token), None).await.map(drop)
    }
}
