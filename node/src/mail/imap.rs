//! Watching one account by IMAP4rev1 (RFC 3501) with IDLE (RFC 2177): as much of it as that needs, and every answer read up to a limit.
//!
//! 1. Log in, open the folder for reading alone, and see by UIDVALIDITY whether what is known of it still counts.
//! 2. Ask for what is new since the last mail that was told of; of each only how it begins, without marking it as seen.
//! 3. Wait for more, for some minutes at a time; a server without IDLE is asked every minute.
//!
//! A lost connection is made anew at growing pauses. A mail is behind us when the event loop has it on disk ([`Seen`]).

use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tracing::debug;
use zeroize::Zeroizing;

use super::parse::HEAD_BYTES_MAX;
use super::{MailNews, Origin, Seen};
use crate::event_loop::Internal;

/// Longest wait for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// How long IDLE lasts before it is begun anew: networks forget silent connections, and servers close them after half an hour.
const IDLE_FOR: Duration = Duration::from_secs(9 * 60);

/// How often a server without IDLE is asked.
const POLL_EVERY: Duration = Duration::from_secs(60);

/// Pauses before a lost connection is made anew.
const RETRY_MIN: Duration = Duration::from_secs(5);
const RETRY_MAX: Duration = Duration::from_secs(600);

/// Longest line and literal, and most answers to one command.
const LINE_BYTES_MAX: u64 = 256 * 1_024;
const LITERAL_BYTES_MAX: usize = HEAD_BYTES_MAX + 1_024;
/// What a command may be answered in all.
const ANSWERS_BYTES_MAX: usize = 4 * 1_024 * 1_024;

const ANSWERS_MAX: usize = 1_024;

/// Mails told of at once: of more, as after a long time, the newest.
const NEW_MAX: usize = 20;

/// An account, ready to be watched.
pub(super) struct Account {
    pub(super) name: String,
    pub(super) host: String,
    pub(super) port: u16,
    /// `None`: without TLS, on this machine.
    pub(super) tls: Option<TlsConnector>,
    /// TLS begins after the greeting.
    pub(super) starttls: bool,
    pub(super) user: String,
    pub(super) password: Zeroizing<String>,
    pub(super) folder: String,
}

/// Why a connection ended. Names neither user nor password.
#[derive(Debug, thiserror::Error)]
pub(super) enum ImapError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it doesn't answer")]
    Timeout,
    #[error("not a server name: {0}")]
    Name(String),
    #[error("it has refused {what}: {answer}")]
    Refused { what: &'static str, answer: String },
    #[error("it doesn't speak IMAP: {0}")]
    Protocol(&'static str),
    #[error("what it said couldn't be kept here")]
    NotKept,
    #[error("an answer is longer than what is read")]
    TooLong,
}

/// One answer, without its end; literals stand apart.
#[derive(Debug, Default, PartialEq, Eq)]
struct Answer {
    line: String,
    literals: Vec<Vec<u8>>,
}

/// Watches until the node ends.
pub(super) async fn watch(account: Account, mut seen: Option<Seen>, mut unread: Vec<u32>, news: mpsc::Sender<Internal>) {
    let (mut pause, mut is_troubled) = (RETRY_MIN, false);
    loop {
        let begun = Instant::now();
        let ended = tokio::select! {
            () = news.closed() => return,
            ended = session(&account, &mut seen, &mut unread, &news) => ended,
        };
        let Err(error) = ended else { return };
        debug!(account = account.name, %error, "mail connection ended");
        if begun.elapsed() > RETRY_MAX {
            (pause, is_troubled) = (RETRY_MIN, false);
        }
        // A connection that ends is no trouble; one that can't be made is, and is told once.
        if begun.elapsed() < IDLE_FOR && pause > RETRY_MIN && !is_troubled {
            is_troubled = true;
            let trouble = MailNews::Trouble { account: account.name.clone(), reason: error.to_string() };
            if news.send(Internal::Mail(trouble)).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = news.closed() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(RETRY_MAX);
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// `Ok` if the node has ended.
async fn session(
    account: &Account,
    seen: &mut Option<Seen>,
    unread: &mut Vec<u32>,
    news: &mpsc::Sender<Internal>,
) -> Result<(), ImapError> {
    let mut connection = connect(account).await?;
    let login = Zeroizing::new(format!("LOGIN {} {}", *quoted(&account.user), *quoted(&account.password)));
    connection.command("the login", &login).await?;
    let opened = connection.command("the folder", &format!("EXAMINE {}", *quoted(&account.folder))).await?;
    let validity = number_after(&opened, "[UIDVALIDITY ").ok_or(ImapError::Protocol("no UIDVALIDITY"))?;
    let next = number_after(&opened, "[UIDNEXT ").unwrap_or(1);
    if seen.is_none_or(|seen| seen.validity != validity) {
        // Another folder than the one that was known, or the first time: what lies there is no news.
        let now = Seen { validity, uid: next.saturating_sub(1) };
        if !tell(news, |taken| MailNews::Opened { account: account.name.clone(), seen: now, taken }).await {
            return ended_or_refused(news);
        }
        *seen = Some(now);
        unread.clear();
    }
    debug!(account = account.name, validity, "a mail folder is watched");
    loop {
        let Some(known) = *seen else { return Err(ImapError::Protocol("nothing known")) };
        for uid in connection.newer_than(known.uid).await? {
            let Some(raw) = connection.head_of(uid).await? else { continue };
            let now = Seen { validity, uid };
            let came = |taken| MailNews::Came { account: account.name.clone(), raw, origin: Origin::Watched(now), taken };
            if !tell(news, came).await {
                return ended_or_refused(news);
            }
            *seen = Some(now);
            unread.push(uid);
        }
        let read = connection.read_of(unread).await?;
        if !read.is_empty() {
            let uids = read.clone();
            if !tell(news, |taken| MailNews::Read { account: account.name.clone(), uids, taken }).await {
                return ended_or_refused(news);
            }
            unread.retain(|uid| !read.contains(uid));
        }
        connection.wait_for_news().await?;
    }
}

/// A connection that has been greeted, under TLS if the account says so.
async fn connect(account: &Account) -> Result<Connection<Box<dyn Stream>>, ImapError> {
    let tcp = within(TcpStream::connect((account.host.as_str(), account.port))).await??;
    let Some(tls) = &account.tls else {
        let mut connection = Connection::new(Box::new(tcp) as Box<dyn Stream>);
        connection.greeting().await?;
        return Ok(connection);
    };
    let name = rustls::pki_types::ServerName::try_from(account.host.clone());
    let name = name.map_err(|_| ImapError::Name(account.host.clone()))?;
    if !account.starttls {
        let mut connection = Connection::new(Box::new(within(tls.connect(name, tcp)).await??) as Box<dyn Stream>);
        connection.greeting().await?;
        return Ok(connection);
    }
    let mut connection = Connection::new(tcp);
    connection.greeting().await?;
    connection.command("TLS", "STARTTLS").await?;
    // What came with the answer came in the open, and would pass for what is said under TLS.
    if !connection.stream.buffer().is_empty() {
        return Err(ImapError::Protocol("something follows STARTTLS"));
    }
    let stream = within(tls.connect(name, connection.stream.into_inner())).await??;
    Ok(Connection::new(Box::new(stream) as Box<dyn Stream>))
}

/// What wasn't taken is told again with the next connection, unless the node has ended.
fn ended_or_refused(news: &mpsc::Sender<Internal>) -> Result<(), ImapError> {
    if news.is_closed() { Ok(()) } else { Err(ImapError::NotKept) }
}

/// False if the node has ended, or didn't take it.
async fn tell(news: &mpsc::Sender<Internal>, what: impl FnOnce(oneshot::Sender<bool>) -> MailNews) -> bool {
    let (taken, is_taken) = oneshot::channel();
    news.send(Internal::Mail(what(taken))).await.is_ok() && is_taken.await.unwrap_or(false)
}

async fn within<T>(future: impl Future<Output = T>) -> Result<T, ImapError> {
    timeout(ANSWER_TIMEOUT, future).await.map_err(|_| ImapError::Timeout)
}

struct Connection<S> {
    stream: BufReader<S>,
    tag: u32,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    fn new(stream: S) -> Self {
        Self { stream: BufReader::new(stream), tag: 0 }
    }

    async fn greeting(&mut self) -> Result<(), ImapError> {
        let greeting = within(self.answer()).await??;
        if greeting.line.starts_with("* OK") { Ok(()) } else { Err(ImapError::Protocol("no greeting")) }
    }

    /// Sends a command and gives what was said until it was done.
    async fn command(&mut self, what: &'static str, text: &str) -> Result<Vec<Answer>, ImapError> {
        let tag = self.send(text).await?;
        self.until_done(what, &tag).await
    }

    async fn send(&mut self, text: &str) -> Result<String, ImapError> {
        self.tag = self.tag.wrapping_add(1);
        let tag = format!("h{}", self.tag);
        let line = Zeroizing::new(format!("{tag} {text}\r\n"));
        within(self.stream.write_all(line.as_bytes())).await??;
        within(self.stream.flush()).await??;
        Ok(tag)
    }

    async fn until_done(&mut self, what: &'static str, tag: &str) -> Result<Vec<Answer>, ImapError> {
        let (mut answers, mut bytes) = (Vec::new(), 0_usize);
        while answers.len() < ANSWERS_MAX {
            let answer = within(self.answer()).await??;
            bytes += answer.line.len() + answer.literals.iter().map(Vec::len).sum::<usize>();
            if bytes > ANSWERS_BYTES_MAX {
                return Err(ImapError::TooLong);
            }
            match answer.line.strip_prefix(tag).and_then(|rest| rest.strip_prefix(' ')) {
                Some(done) if done.to_ascii_uppercase().starts_with("OK") => return Ok(answers),
                Some(refused) => {
                    let answer = refused.chars().filter(|c| !c.is_control()).take(120).collect();
                    return Err(ImapError::Refused { what, answer });
                }
                None => answers.push(answer),
            }
        }
        Err(ImapError::TooLong)
    }

    /// Reads one answer with its literals (RFC 3501 section 4.3).
    async fn answer(&mut self) -> Result<Answer, ImapError> {
        let mut answer = Answer::default();
        loop {
            let mut line = Vec::new();
            (&mut self.stream).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await?;
            let Some(line) = line.strip_suffix(b"\r\n") else {
                let is_cut = line.len() as u64 >= LINE_BYTES_MAX;
                return Err(if is_cut { ImapError::TooLong } else { io::Error::from(io::ErrorKind::UnexpectedEof).into() });
            };
            let text = String::from_utf8_lossy(line);
            let length =
                text.strip_suffix('}').and_then(|text| text.rsplit_once('{')).and_then(|(_, length)| length.parse().ok());
            answer.line.push_str(&text);
            let Some(length) = length else { return Ok(answer) };
            let total: usize = answer.literals.iter().map(Vec::len).sum();
            if total.saturating_add(length) > LITERAL_BYTES_MAX || answer.literals.len() >= 8 {
                return Err(ImapError::TooLong);
            }
            let mut literal = vec![0; length];
            self.stream.read_exact(&mut literal).await?;
            answer.literals.push(literal);
        }
    }

    /// UIDs above this one, in ascending order.
    async fn newer_than(&mut self, uid: u32) -> Result<Vec<u32>, ImapError> {
        let found = self.command("a search", &format!("UID SEARCH UID {}:*", uid.saturating_add(1))).await?;
        let mut uids: Vec<u32> = searched(&found).collect();
        // "*" is the last one there is, also if it is an old one.
        uids.retain(|found| *found > uid);
        uids.sort_unstable();
        uids.dedup();
        Ok(uids.split_off(uids.len().saturating_sub(NEW_MAX)))
    }

    /// Which of these are read by now, or gone.
    async fn read_of(&mut self, uids: &[u32]) -> Result<Vec<u32>, ImapError> {
        if uids.is_empty() {
            return Ok(Vec::new());
        }
        let list: Vec<String> = uids.iter().map(u32::to_string).collect();
        let found = self.command("a search", &format!("UID SEARCH UID {} UNSEEN", list.join(","))).await?;
        let left: Vec<u32> = searched(&found).collect();
        Ok(uids.iter().filter(|uid| !left.contains(uid)).copied().collect())
    }

    /// How a mail begins; `None` if it is gone.
    async fn head_of(&mut self, uid: u32) -> Result<Option<Vec<u8>>, ImapError> {
        let fetch = format!("UID FETCH {uid} (UID BODY.PEEK[]<0.{HEAD_BYTES_MAX}>)");
        let answers = self.command("a mail", &fetch).await?;
        let mut fetched = answers.into_iter().filter(|answer| answer.line.contains(" FETCH "));
        Ok(fetched.find_map(|mut answer| answer.literals.pop()))
    }

    /// Returns when there may be something new.
    async fn wait_for_news(&mut self) -> Result<(), ImapError> {
        let tag = self.send("IDLE").await?;
        let mut answer = within(self.answer()).await??;
        // What came in the meantime is said first.
        let mut has_news = false;
        while answer.line.starts_with("* ") {
            has_news |= is_news(&answer);
            answer = within(self.answer()).await??;
        }
        if !answer.line.starts_with('+') {
            tokio::time::sleep(POLL_EVERY).await;
            return self.command("a question", "NOOP").await.map(drop);
        }
        let until = Instant::now() + IDLE_FOR;
        while !has_news {
            match timeout(until.saturating_duration_since(Instant::now()), self.answer()).await {
                Ok(answer) => has_news = is_news(&answer?),
                // Nothing for so long. If it was in the middle of an answer, what follows isn't understood, and the connection is made anew.
                Err(_) => break,
            }
        }
        within(self.stream.write_all(b"DONE\r\n")).await??;
        within(self.stream.flush()).await??;
        self.until_done("waiting", &tag).await.map(drop)
    }
}

/// New mails, mails with other flags, mails that are gone.
fn is_news(answer: &Answer) -> bool {
    let has_changed = answer.line.contains(" FETCH (") || answer.line.ends_with(" EXPUNGE");
    answer.line.ends_with(" EXISTS") || has_changed || answer.line.starts_with("* BYE")
}

fn searched(answers: &[Answer]) -> impl Iterator<Item = u32> + '_ {
    let numbers = answers.iter().filter_map(|answer| answer.line.strip_prefix("* SEARCH"));
    numbers.flat_map(str::split_whitespace).filter_map(|number| number.parse().ok())
}

fn number_after(answers: &[Answer], word: &str) -> Option<u32> {
    let after = answers.iter().find_map(|answer| answer.line.split_once(word).map(|(_, after)| after))?;
    after.split(']').next()?.trim().parse().ok()
}

/// As a quoted string (RFC 3501 section 9). What can't stand in one was refused with the configuration.
fn quoted(text: &str) -> Zeroizing<String> {
    Zeroizing::new(format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")))
}

/// Passwords are printed nowhere.
impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that says `script` whatever it is asked, and then nothing.
    fn scripted(script: &[u8]) -> Connection<tokio_test_stream::Scripted> {
        Connection { stream: BufReader::new(tokio_test_stream::Scripted::new(script)), tag: 0 }
    }

    mod tokio_test_stream {
        use std::io;
        use std::pin::Pin;
        use std::task::{Context, Poll};

        use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

        pub(super) struct Scripted(io::Cursor<Vec<u8>>);

        impl Scripted {
            pub(super) fn new(script: &[u8]) -> Self {
                Self(io::Cursor::new(script.to_vec()))
            }
        }

        impl AsyncRead for Scripted {
            fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.0).poll_read(context, buffer)
            }
        }

        impl AsyncWrite for Scripted {
            fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
                Poll::Ready(Ok(bytes.len()))
            }

            fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }

            fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }
        }
    }

    #[tokio::test]
    async fn answers_are_read_with_their_literals() {
        let script = b"* 1 FETCH (UID 7 BODY[]<0> {5}\r\nab\r\nc X)\r\n* 2 EXISTS\r\nh1 OK done\r\n";
        let answers = scripted(script).command("a mail", "UID FETCH 7").await.unwrap();
        assert_eq!(answers[0].line, "* 1 FETCH (UID 7 BODY[]<0> {5} X)");
        assert_eq!(answers[0].literals, [b"ab\r\nc".to_vec()]);
        assert!(is_news(&answers[1]));
    }

    #[tokio::test]
    async fn only_newer_mails_are_asked_for_and_not_all_of_many() {
        let uids = scripted(b"* SEARCH 9 7 8\r\nh1 OK\r\n").newer_than(7).await.unwrap();
        assert_eq!(uids, [8, 9]);
        assert!(scripted(b"* SEARCH 7\r\nh1 OK\r\n").newer_than(7).await.unwrap().is_empty(), "the last one there is");
        let many: String = (1..500).map(|uid| format!(" {uid}")).collect();
        let uids = scripted(format!("* SEARCH{many}\r\nh1 OK\r\n").as_bytes()).newer_than(0).await.unwrap();
        assert_eq!((uids.len(), uids.last()), (NEW_MAX, Some(&499)));
    }

    #[tokio::test]
    async fn what_is_not_unread_any_more_is_read_or_gone() {
        let read = scripted(b"* SEARCH 8\r\nh1 OK\r\n").read_of(&[7, 8, 9]).await.unwrap();
        assert_eq!(read, [7, 9]);
        assert!(scripted(b"").read_of(&[]).await.unwrap().is_empty(), "nothing is asked");
        for (line, news) in [("* 3 FETCH (FLAGS (\\Seen))", true), ("* 3 EXPUNGE", true), ("* OK still here", false)] {
            assert_eq!(is_news(&Answer { line: line.into(), literals: vec![] }), news, "{line}");
        }
    }

    #[tokio::test]
    async fn a_hostile_server_costs_a_bounded_amount() {
        let error = scripted(b"* 1 FETCH {99999999999}\r\n").command("a mail", "x").await.unwrap_err();
        assert!(matches!(error, ImapError::TooLong | ImapError::Io(_)), "{error}");
        let error = scripted(b"* 1 FETCH {999999}\r\nabc").command("a mail", "x").await.unwrap_err();
        assert!(matches!(error, ImapError::TooLong), "{error}");
        let error = scripted(&vec![b'x'; 300_000]).command("a mail", "x").await.unwrap_err();
        assert!(matches!(error, ImapError::TooLong), "{error}");
        let error = scripted(&b"* OK\r\n".repeat(5_000)).command("a mail", "x").await.unwrap_err();
        assert!(matches!(error, ImapError::TooLong), "{error}");
        let error = scripted(b"h1 NO \x07wrong\r\n").command("the login", "x").await.unwrap_err();
        assert_eq!(error.to_string(), "it has refused the login: NO wrong");
        assert!(matches!(scripted(b"").command("x", "x").await, Err(ImapError::Io(_))));
    }

    #[test]
    fn strings_are_quoted_and_numbers_found() {
        assert_eq!(*quoted(r#"a"b\c"#), r#""a\"b\\c""#);
        let answer = Answer { line: "* OK [UIDVALIDITY 3857529045] UIDs valid".into(), literals: vec![] };
        assert_eq!(number_after(&[answer], "[UIDVALIDITY "), Some(3_857_529_045));
        assert_eq!(number_after(&[], "[UIDNEXT "), None);
    }
}
