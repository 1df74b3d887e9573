//! `halloo history`

use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;

use super::Context;
use super::error::CliError;
use super::progress::Spinner;
use crate::api::requests::ArchiveBody;
use crate::handle::history::Moved;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Write all conversations into a new file, encrypted under a passphrase (asked for, or read from stdin)
    Export(FileArgs),
    /// Add the messages of such a file that aren't here
    Import(FileArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct FileArgs {
    /// The file
    path: PathBuf,
}

pub(super) async fn run(context: &Context, command: Command) -> Result<(), CliError> {
    let (args, is_new) = match &command {
        Command::Export(args) => (args, true),
        Command::Import(args) => (args, false),
    };
    let path = std::path::absolute(&args.path).map_err(|error| CliError::Usage(format!("{}: {error}", args.path.display())))?;
    let client = context.client()?;
    let body = ArchiveBody { path, passphrase: passphrase(is_new)? };
    let (doing, route) = if is_new { ("writing", "export") } else { ("reading", "import") };
    let spinner = Spinner::start(context.output, &format!("{doing} {}", body.path.display()));
    let moved: Moved = client.post(&format!("/v1/history/{route}"), &body).await?;
    drop(spinner);
    context.output.print(&moved, |moved| {
        if is_new {
            format!("{} messages in {}", moved.messages, moved.path)
        } else {
            format!("{} messages in {}, {} of them new", moved.messages, moved.path, moved.new)
        }
    })
}

/// From the terminal without showing it, twice for a new one; else the first line of stdin.
fn passphrase(is_new: bool) -> Result<String, CliError> {
    if !std::io::stdin().is_terminal() {
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line).map_err(|error| CliError::Usage(format!("passphrase: {error}")))?;
        return checked(line.trim_end_matches(['\r', '\n']).to_owned());
    }
    let typed = checked(ask("Passphrase: ")?)?;
    if is_new && ask("The same again: ")? != typed {
        return Err(CliError::Usage("the passphrases differ".to_owned()));
    }
    Ok(typed)
}

fn checked(passphrase: String) -> Result<String, CliError> {
    if passphrase.is_empty() {
        return Err(CliError::Usage("the passphrase is empty".to_owned()));
    }
    Ok(passphrase)
}

fn ask(prompt: &str) -> Result<String, CliError> {
    let mut stderr = std::io::stderr().lock();
    let shown = stderr.write_all(prompt.as_bytes()).and_then(|()| stderr.flush());
    drop(stderr);
    shown
        .and_then(|()| console::Term::stderr().read_secure_line())
        .map_err(|error| CliError::Usage(format!("passphrase: {error}")))
}
