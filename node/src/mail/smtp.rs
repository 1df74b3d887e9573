//! Taking mail by SMTP (RFC 5321) and LMTP (RFC 2033), as much of both as a mail server that delivers copies needs.
//!
//! A mail is answered for when the user's devices are sure to hear of it. It isn't kept, and of its text no more is read than is told.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use halloo_protocol::rate::{Rate, RateLimiter};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;
use tracing::debug;

use super::parse::HEAD_BYTES_MAX;
use super::{MailNews, Origin};
use crate::event_loop::Internal;

/// Connections at a time. More wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 8;

/// Longest wait for a line, and for a mail to be taken.
const LINE_TIMEOUT: Duration = Duration::from_secs(60);
const TAKE_TIMEOUT: Duration = Duration::from_secs(20);

/// Longest conversation: whoever sends a byte now and then mustn't keep one of the few places.
const SESSION_MAX: Duration = Duration::from_secs(600);

/// Longest line of a command, and of a mail: RFC 5321 allows 1,000, and some send longer ones.
const LINE_BYTES_MAX: u64 = 16 * 1_024;

/// Largest mail.
const MAIL_BYTES_MAX: usize = 64 * 1_024 * 1_024;

/// Most recipients of one mail, and commands on one connection.
const RECIPIENTS_MAX: usize = 100;
const COMMANDS_MAX: usize = 1_000;

/// Mails that are taken at once, and in an hour after that: each is written to disk, sealed for every device and told to a person. More are for later: a mail
/// server keeps them, and tries again.
const PACE: Rate = Rate { per_hour: 1_800, burst: 120 };

/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// What follows from a command.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Reply(&'static str),
    /// The mail comes.
    Data,
    Quit,
}

/// A conversation: what has been said of the next mail. Without I/O.
#[derive(Debug, Default)]
struct Session {
    is_greeted: bool,
    is_lmtp: bool,
    has_sender: bool,
    recipients: usize,
}

impl Session {
    fn command(&mut self, line: &str) -> Step {
        let verb = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
        match verb.as_str() {
            "HELO" => self.greet(false, "250 halloo\r\n"),
            "EHLO" => self.greet(false, "250-halloo\r\n250-8BITMIME\r\n250-PIPELINING\r\n250 SIZE 67108864\r\n"),
            "LHLO" => self.greet(true, "250-halloo\r\n250-8BITMIME\r\n250-PIPELINING\r\n250 SIZE 67108864\r\n"),
            "MAIL" if self.is_greeted && !self.has_sender => {
                self.has_sender = true;
                Step::Reply("250 2.1.0 OK\r\n")
            }
            "RCPT" if self.has_sender && self.recipients >= RECIPIENTS_MAX => Step::Reply("452 4.5.3 too many recipients\r\n"),
            "RCPT" if self.has_sender => {
                self.recipients += 1;
                Step::Reply("250 2.1.5 OK\r\n")
            }
            "DATA" if self.recipients > 0 => Step::Data,
            "MAIL" | "RCPT" | "DATA" => Step::Reply("503 5.5.1 not now\r\n"),
            "RSET" => {
                self.reset();
                Step::Reply("250 2.0.0 OK\r\n")
            }
            "NOOP" => Step::Reply("250 2.0.0 OK\r\n"),
            "QUIT" => Step::Quit,
            _ => Step::Reply("502 5.5.2 unknown command\r\n"),
        }
    }

    fn greet(&mut self, is_lmtp: bool, answer: &'static str) -> Step {
        self.reset();
        (self.is_greeted, self.is_lmtp) = (true, is_lmtp);
        Step::Reply(answer)
    }

    const fn reset(&mut self) {
        (self.has_sender, self.recipients) = (false, 0);
    }

    /// How many answers a mail gets: LMTP has one for each recipient.
    const fn answers(&self) -> usize {
        if self.is_lmtp { self.recipients } else { 1 }
    }
}

/// How many mails are taken, from all connections together.
#[derive(Debug)]
struct Pace(Mutex<RateLimiter<()>>);

impl Pace {
    const fn new() -> Self {
        Self(Mutex::new(RateLimiter::new(1)))
    }

    /// Whether one more is taken now.
    fn admits(&self, now: Instant) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take(&(), PACE, now).is_ok()
    }
}

/// Listens; the task ends with the node's event loop.
pub(super) fn listen(address: SocketAddr, news: mpsc::Sender<Internal>) -> std::io::Result<()> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    tracing::info!(address = %listener.local_addr()?, "mail is taken");
    let (places, pace) = (Arc::new(Semaphore::new(CONNECTIONS_MAX)), Arc::new(Pace::new()));
    tokio::spawn(async move {
        while !news.is_closed() {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            tokio::select! {
                () = news.closed() => return,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let (news, pace) = (news.clone(), Arc::clone(&pace));
                        tokio::spawn(async move {
                            match timeout(SESSION_MAX, converse(stream, &news, &pace)).await {
                                Ok(Ok(())) => {}
                                Ok(Err(error)) => debug!(%error, "mail connection ended"),
                                Err(_) => debug!("mail connection ended: it took too long"),
                            }
                            drop(place);
                        });
                    }
                    Err(error) => {
                        debug!(%error, "no mail connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    });
    Ok(())
}

async fn converse(stream: TcpStream, news: &mpsc::Sender<Internal>, pace: &Pace) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut session = Session::default();
    stream.write_all(b"220 halloo ESMTP\r\n").await?;
    for _ in 0..COMMANDS_MAX {
        let Some(line) = read_line(&mut stream).await? else { return Ok(()) };
        match session.command(&String::from_utf8_lossy(&line)) {
            Step::Reply(answer) => stream.write_all(answer.as_bytes()).await?,
            Step::Quit => return stream.write_all(b"221 2.0.0 bye\r\n").await,
            Step::Data if !pace.admits(Instant::now()) => {
                stream.write_all(b"451 4.7.1 too much mail; later\r\n").await?;
                session.reset();
            }
            Step::Data => {
                stream.write_all(b"354 go on\r\n").await?;
                let Some(head) = read_mail(&mut stream).await? else {
                    return stream.write_all(b"552 5.3.4 too large\r\n").await;
                };
                let answer = if hand_over(head, news).await { "250 2.0.0 OK\r\n" } else { "451 4.3.0 not now\r\n" };
                for _ in 0..session.answers() {
                    stream.write_all(answer.as_bytes()).await?;
                }
                session.reset();
            }
        }
    }
    stream.write_all(b"421 4.7.0 too many commands\r\n").await
}

/// A line without its end; `None` at the end of the connection, or of what is waited for.
async fn read_line(stream: &mut BufReader<TcpStream>) -> std::io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let read = timeout(LINE_TIMEOUT, stream.take(LINE_BYTES_MAX).read_until(b'\n', &mut line)).await;
    // A bare line feed ends no line (RFC 5321 section 2.3.8): a mail within a mail could begin after it.
    if read.is_err() || !line.ends_with(b"\r\n") {
        return Ok(None);
    }
    read.unwrap_or(Ok(0))?;
    line.truncate(line.len() - 2);
    Ok(Some(line))
}

/// How a mail begins, read to its end; `None` if it is too large or has none.
async fn read_mail(stream: &mut BufReader<TcpStream>) -> std::io::Result<Option<Vec<u8>>> {
    let (mut head, mut length) = (Vec::new(), 0_usize);
    while let Some(line) = read_line(stream).await? {
        if line == b"." {
            return Ok(Some(head));
        }
        length = length.saturating_add(line.len() + 2);
        if length > MAIL_BYTES_MAX {
            return Ok(None);
        }
        if head.len() < HEAD_BYTES_MAX {
            head.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
            head.extend_from_slice(b"\r\n");
        }
    }
    Ok(None)
}

/// True once the mail is on its way to the user's devices.
async fn hand_over(head: Vec<u8>, news: &mpsc::Sender<Internal>) -> bool {
    let (taken, is_taken) = oneshot::channel();
    let mail = MailNews::Came { account: "smtp".to_owned(), raw: head, origin: Origin::Delivered, taken };
    if news.send(Internal::Mail(mail)).await.is_err() {
        return false;
    }
    matches!(timeout(TAKE_TIMEOUT, is_taken).await, Ok(Ok(true)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_refused(step: &Step) -> bool {
        matches!(step, Step::Reply(answer) if answer.starts_with('5') || answer.starts_with('4'))
    }

    #[test]
    fn a_mail_has_a_sender_and_recipients_in_this_order() {
        let mut session = Session::default();
        for early in ["MAIL FROM:<a@b>", "RCPT TO:<c@d>", "DATA", "EXPN x", "", "\u{0}"] {
            assert!(is_refused(&session.command(early)), "{early:?}");
        }
        assert!(!is_refused(&session.command("ehlo there")));
        assert!(is_refused(&session.command("RCPT TO:<c@d>")));
        assert!(!is_refused(&session.command("mail from:<>")));
        assert!(is_refused(&session.command("DATA")), "nobody it is for");
        for number in 0..RECIPIENTS_MAX {
            assert!(!is_refused(&session.command("RCPT TO:<c@d>")), "{number}");
        }
        assert!(is_refused(&session.command("RCPT TO:<one@more>")));
        assert_eq!((session.command("DATA"), session.answers()), (Step::Data, 1));
        session.command("RSET");
        assert!(is_refused(&session.command("DATA")));
        assert_eq!(session.command("QUIT"), Step::Quit);
    }

    #[test]
    fn a_flood_of_mail_is_for_later() {
        let (pace, start) = (Pace::new(), Instant::now());
        assert!((0..120).all(|_| pace.admits(start)));
        assert!(!pace.admits(start + Duration::from_secs(1)));
        assert!(pace.admits(start + Duration::from_secs(2)));
        assert!(!pace.admits(start + Duration::from_secs(2)));
    }

    #[test]
    fn lmtp_answers_for_each_recipient() {
        let mut session = Session::default();
        for line in ["LHLO there", "MAIL FROM:<a@b>", "RCPT TO:<c@d>", "RCPT TO:<e@f>"] {
            assert!(!is_refused(&session.command(line)), "{line}");
        }
        assert_eq!((session.command("DATA"), session.answers()), (Step::Data, 2));
    }
}
