//! One short mail, handed to a mail server by SMTP (RFC 5321): for authorities that send codes to addresses.

use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::config::SmtpConfig;

/// Longest time for all of it.
const SEND_AT_MOST: Duration = Duration::from_secs(60);

/// Longest line of a server, and lines of one answer.
const LINE_BYTES_MAX: u64 = 2_048;
const LINES_MAX: usize = 64;

/// A mail: both addresses are of characters that need no care, and the text has lines of ASCII.
#[derive(Debug)]
pub(crate) struct Mail<'a> {
    pub(crate) to: &'a str,
    pub(crate) subject: &'a str,
    pub(crate) text: &'a str,
    /// When, as a header says it.
    pub(crate) date: String,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Hands a mail over.
pub(crate) async fn send(config: &SmtpConfig, mail: Mail<'_>) -> Result<(), String> {
    timeout(SEND_AT_MOST, hand_over(config, mail)).await.map_err(|_elapsed| "it doesn't answer".to_owned())?
}

async fn hand_over(config: &SmtpConfig, mail: Mail<'_>) -> Result<(), String> {
    let (host, _) = config.server.rsplit_once(':').ok_or("server: expected HOST:PORT")?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let is_here = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if !config.tls && !config.starttls && !is_here {
        return Err("without TLS only a mail server on this machine is spoken to".to_owned());
    }
    let tcp = TcpStream::connect(&config.server).await.map_err(|error| error.to_string())?;
    let mut stream: BufReader<Box<dyn Stream>> = BufReader::new(Box::new(tcp));
    if config.tls {
        stream = secured(config, &host, stream).await?;
    }
    expect(&mut stream, "2", "the connection").await?;
    say(&mut stream, "EHLO localhost", "2").await?;
    if config.starttls {
        say(&mut stream, "STARTTLS", "2").await?;
        // What came before TLS is forgotten with the reader: it was said by anybody.
        stream = secured(config, &host, stream).await?;
        say(&mut stream, "EHLO localhost", "2").await?;
    }
    if let (Some(user), Some(file)) = (&config.user, &config.password_file) {
        let password = super::password(file)?;
        let plain = Zeroizing::new(format!("\0{user}\0{}", *password));
        let line = Zeroizing::new(format!("AUTH PLAIN {}", data_encoding::BASE64.encode(plain.as_bytes())));
        say(&mut stream, &line, "2").await?;
    }
    say(&mut stream, &format!("MAIL FROM:<{}>", config.from), "2").await?;
    say(&mut stream, &format!("RCPT TO:<{}>", mail.to), "2").await?;
    say(&mut stream, "DATA", "3").await?;
    say(&mut stream, &written(&config.from, &mail), "2").await?;
    // It is handed over: what is said last changes nothing.
    let _over = say(&mut stream, "QUIT", "2").await;
    Ok(())
}

async fn secured(
    config: &SmtpConfig,
    host: &str,
    stream: BufReader<Box<dyn Stream>>,
) -> Result<BufReader<Box<dyn Stream>>, String> {
    let connector = super::connector(config.roots.as_deref())?;
    let name = rustls::pki_types::ServerName::try_from(host.to_owned()).map_err(|_| "server: not a name".to_owned())?;
    let stream = connector.connect(name, stream.into_inner()).await.map_err(|error| error.to_string())?;
    Ok(BufReader::new(Box::new(stream)))
}

/// The whole mail, and the dot that ends it. No line of ours begins with one.
fn written(from: &str, mail: &Mail<'_>) -> String {
    let head = format!("From: <{from}>\r\nTo: <{}>\r\nSubject: {}\r\nDate: {}\r\n", mail.to, mail.subject, mail.date);
    let kind = "Auto-Submitted: auto-generated\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=us-ascii\r\n";
    let text: String = mail.text.lines().map(|line| format!("{line}\r\n")).collect();
    format!("{head}{kind}\r\n{text}.")
}

async fn say(stream: &mut BufReader<Box<dyn Stream>>, line: &str, wanted: &str) -> Result<(), String> {
    let whole = Zeroizing::new(format!("{line}\r\n"));
    stream.write_all(whole.as_bytes()).await.map_err(|error| error.to_string())?;
    stream.flush().await.map_err(|error| error.to_string())?;
    expect(stream, wanted, line.split(' ').next().unwrap_or_default()).await
}

/// An answer, of one line or several (RFC 5321 section 4.2.1), that begins as `wanted`.
async fn expect(stream: &mut BufReader<Box<dyn Stream>>, wanted: &str, what: &str) -> Result<(), String> {
    for _ in 0..LINES_MAX {
        let mut line = Vec::new();
        let read = (&mut *stream).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await;
        if read.map_err(|error| error.to_string())? == 0 {
            return Err("it has closed the connection".to_owned());
        }
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        if line.get(3..4) == Some("-") {
            continue;
        }
        // The text of a mail isn't the name of a command.
        let what = if what.len() <= 10 { what } else { "the mail" };
        return if line.starts_with(wanted) { Ok(()) } else { Err(format!("it has refused {what}: {line}")) };
    }
    Err("its answer has too many lines".to_owned())
}
