//! A spinner or a bar for long work: on a terminal only.

use std::io::{IsTerminal, stderr};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::output::{Output, printable};

/// Shorter work shows nothing.
const TICK: Duration = Duration::from_millis(120);

/// Runs until dropped.
#[derive(Debug)]
pub(super) struct Spinner(ProgressBar);

impl Spinner {
    /// Shows that something is being waited for. Nothing when piped or with `--json`.
    pub(super) fn start(output: Output, what: &str) -> Self {
        if output.is_json() || !stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::new_spinner().with_message(printable(what).into_owned());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(TICK);
        Self(bar)
    }

    /// Prints something beside it.
    pub(super) fn suspend<T>(&self, print: impl FnOnce() -> T) -> T {
        self.0.suspend(print)
    }

    /// Says something else.
    pub(super) fn set(&self, what: &str) {
        self.0.set_message(printable(what).into_owned());
    }
}

/// Bytes done of bytes in all, until dropped.
#[derive(Debug)]
pub(super) struct Bar(ProgressBar);

impl Bar {
    /// Shows how much of so many bytes is done. Nothing when piped or with `--json`.
    pub(super) fn start(output: Output, size: u64) -> Self {
        if output.is_json() || !stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::new(size);
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left  {msg}") {
            bar.set_style(style);
        }
        Self(bar)
    }

    /// So many are done, and this is being done.
    pub(super) fn set(&self, done: u64, what: &str) {
        self.0.set_position(done);
        self.0.set_message(printable(what).into_owned());
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
