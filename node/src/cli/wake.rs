//! `halloo wake`

use std::io::Read;
use std::path::{Path, PathBuf};

use data_encoding::BASE64URL_NOPAD;

use super::Context;
use super::error::CliError;
use super::output::{duration, printable};
use crate::api::requests::WakeRequest;
use crate::handle::power::WakeOutcome;

/// Push services deliver at most 4,096 bytes (RFC 8030 section 7.2).
const PAYLOAD_BYTES_MAX: u64 = 4_096;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// File with what the push service delivered; `-` reads stdin
    #[arg(long, value_name = "FILE")]
    payload: Option<PathBuf>,
}

pub(super) async fn run(context: &Context, args: Args) -> Result<(), CliError> {
    let payload = args.payload.as_deref().map(read_payload).transpose()?;
    let request = WakeRequest { payload: payload.map(|bytes| BASE64URL_NOPAD.encode(&bytes)) };
    let outcome: WakeOutcome = context.client()?.post("/v1/wake", &request).await?;
    context.output.print(&outcome, |outcome| {
        let slept = match outcome.was_suspended {
            true => format!("awake after {}", duration(outcome.suspended_ms)),
            false => "was awake".to_owned(),
        };
        let call = outcome.call_id.as_ref().zip(outcome.from.as_ref());
        let call = call.map(|(id, from)| format!("; {} calls: {id}", printable(from)));
        let message = outcome.message_id.as_ref().and(outcome.from.as_ref());
        let message = message.map(|from| format!("; something new from {}", printable(from)));
        format!("{slept}{}", call.or(message).unwrap_or_default())
    })
}

fn read_payload(path: &Path) -> Result<Vec<u8>, CliError> {
    let mut bytes = Vec::new();
    let read = if path.as_os_str() == "-" {
        std::io::stdin().lock().take(PAYLOAD_BYTES_MAX + 1).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(PAYLOAD_BYTES_MAX + 1).read_to_end(&mut bytes))
    };
    read.map_err(|error| CliError::Usage(format!("can't read {}: {error}", path.display())))?;
    if bytes.is_empty() || bytes.len() as u64 > PAYLOAD_BYTES_MAX {
        let size = if bytes.is_empty() { "is empty" } else { "is too large" };
        return Err(CliError::Usage(format!("{} {size}: a push payload has 1 to {PAYLOAD_BYTES_MAX} bytes", path.display())));
    }
    Ok(bytes)
}
