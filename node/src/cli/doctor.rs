//! `halloo doctor`

use super::Context;
use super::error::CliError;
use super::output::printable;
use super::progress::Spinner;
use crate::handle::network::{Check, CheckResult, Diagnosis};

/// Exits 1 if something failed.
pub(super) async fn run(context: &Context) -> Result<(), CliError> {
    let client = context.client()?;
    let spinner = Spinner::start(context.output, "examining");
    let diagnosis: Diagnosis = client.get("/v1/doctor").await?;
    drop(spinner);
    context.output.print(&diagnosis, |diagnosis| checks_for_people(&diagnosis.checks))?;
    if diagnosis.ok { Ok(()) } else { Err(CliError::Told) }
}

pub(super) fn checks_for_people(checks: &[Check]) -> String {
    let width = checks.iter().map(|check| check.name.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for check in checks {
        let mark = match check.result {
            CheckResult::Ok => "ok     ",
            CheckResult::Warning => "warning",
            CheckResult::Failed => "FAILED ",
            CheckResult::Skipped => "skipped",
        };
        text += &format!("{mark}  {:width$}  {}\n", check.name, printable(&check.detail));
        if let Some(advice) = &check.advice {
            text += &format!("         {:width$}  -> {}\n", "", printable(advice));
        }
    }
    text
}
