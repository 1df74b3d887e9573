//! What goes to stdout: text for people or JSON for programs.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use super::error::CliError;
use crate::wording::Notice;

/// How to print.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    json: bool,
}

impl Output {
    pub(super) const fn new(json: bool) -> Self {
        Self { json }
    }

    pub(super) const fn is_json(self) -> bool {
        self.json
    }

    /// Prints a result: as one JSON document, or as the text `people` makes of it.
    pub(super) fn print<T: Serialize>(self, value: &T, people: impl FnOnce(&T) -> String) -> Result<(), CliError> {
        if self.json { self.json(value) } else { self.text(&people(value)) }
    }

    /// Prints one JSON document on one line.
    pub(super) fn json(self, value: &impl Serialize) -> Result<(), CliError> {
        let mut line = serde_json::to_vec(value).map_err(|error| CliError::Output(error.into()))?;
        line.push(b'\n');
        write(&line)
    }

    /// Prints text, with a line end if it has none.
    pub(super) fn text(self, text: &str) -> Result<(), CliError> {
        let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        write(format!("{text}{end}").as_bytes())
    }

    /// Says on stderr, in one line, what is wrong.
    pub(super) fn error(self, message: &str) {
        let message = message.split_whitespace().collect::<Vec<_>>().join(" ");
        self.note(&format!("halloo: {message}"));
    }

    /// Says something on stderr, to people.
    pub(super) fn note(self, line: &str) {
        // Nobody can be told if stderr is gone.
        let _gone = writeln!(io::stderr(), "{}", printable(line));
    }
}

/// Where something is shown, if not on this device, to be added to a line about it.
pub(super) fn shown_on(notice: Option<&Notice>) -> String {
    let device = notice.and_then(|notice| notice.shown_on.as_ref());
    let name = device.map(|device| device.name.as_deref().unwrap_or(&device.peer_id));
    name.map(|name| format!(", shown on {}", printable(name))).unwrap_or_default()
}

fn write(bytes: &[u8]) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(CliError::Output)
}

/// Whether a person watches both ends.
pub(super) fn is_dialogue() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Text from others made harmless for a terminal: control characters and those that change
/// the direction of writing are shown as a dot.
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    let is_bad = |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if text.contains(is_bad) { Cow::Owned(text.replace(is_bad, "·")) } else { Cow::Borrowed(text) }
}

/// Rows of text with aligned columns; the first row is the heading. The last column is not padded.
pub(super) fn table<const N: usize>(heading: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut lines = vec![heading.map(str::to_owned)];
    lines.extend(rows.into_iter().map(|row| row.map(|cell| printable(&cell).into_owned())));
    let mut widths = [0; N];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for line in &lines {
        let cells = line.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

/// Names and values, one pair per line; pairs without a value are left out.
pub(super) fn pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, Option<String>)>) -> String {
    let pairs: Vec<_> = pairs.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    let width = pairs.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    pairs.iter().map(|(name, value)| format!("{name:width$}  {}\n", printable(value))).collect()
}

/// A duration for people.
pub(super) fn duration(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        60_000..3_600_000 => format!("{} min {} s", ms / 60_000, ms / 1_000 % 60),
        _ => format!("{} h {} min", ms / 3_600_000, ms / 60_000 % 60),
    }
}

/// A number of bytes for people.
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let (mut tenths, mut unit) = (bytes.saturating_mul(10), None);
    for name in UNITS.iter().take_while(|_| bytes >= 1_024) {
        if unit.is_some() && tenths < 10_240 {
            break;
        }
        tenths /= 1_024;
        unit = Some(*name);
    }
    match unit {
        None => format!("{bytes} B"),
        Some(unit) => format!("{}.{} {unit}", tenths / 10, tenths % 10),
    }
}

/// The word JSON has for a value, for people too.
pub(super) fn word(value: &impl Serialize) -> String {
    let value = serde_json::to_value(value).ok();
    value.as_ref().and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
}

/// `yes` or `no`.
pub(super) fn yes_no(is: bool) -> String {
    if is { "yes" } else { "no" }.to_owned()
}

/// A list for people; `None` if it is empty.
pub(super) fn list(items: &[String]) -> Option<String> {
    (!items.is_empty()).then(|| items.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_others_cannot_steer_the_terminal() {
        assert_eq!(printable("plain ünïcode"), "plain ünïcode");
        assert_eq!(printable("\u{1b}[2J\u{202e}x\n"), "·[2J·x·");
    }

    #[test]
    fn bytes_have_the_unit_that_suits() {
        let cases =
            [(0, "0 B"), (1_023, "1023 B"), (1_024, "1.0 KiB"), (1_536, "1.5 KiB"), (5 << 20, "5.0 MiB"), (1 << 40, "1.0 TiB")];
        for (count, text) in cases {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn tables_align() {
        let rows = [["x".to_owned(), "1".to_owned()], ["länger".to_owned(), String::new()]];
        assert_eq!(table(["A", "B"], rows), "A       B\nx       1\nlänger\n");
    }
}
