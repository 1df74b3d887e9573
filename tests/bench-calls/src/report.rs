//! What was measured: a line each while it goes on, a table at the end.

use serde::Serialize;

/// A figure.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    name: String,
    /// What is aimed at, and by how much it may be more.
    reach: Option<f64>,
    tolerance: f64,
    measured: f64,
    unit: String,
    note: String,
}

impl Row {
    /// A figure with an upper bound.
    pub(crate) fn at_most(name: &str, unit: &str, reach: f64, tolerance: f64, measured: f64) -> Self {
        Self { name: name.to_owned(), reach: Some(reach), tolerance, measured, unit: unit.to_owned(), note: String::new() }
    }

    /// A figure that is only stated.
    pub(crate) fn stated(name: &str, unit: &str, measured: f64) -> Self {
        Self { name: name.to_owned(), reach: None, tolerance: 0.0, measured, unit: unit.to_owned(), note: String::new() }
    }

    /// How it came about.
    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    /// Whether the bound is kept.
    fn is_met(&self) -> bool {
        self.reach.is_none_or(|reach| self.measured <= reach + self.tolerance)
    }
}

/// All figures.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    /// How busy the machine was: processes that wanted to run, over a minute, before and after.
    pub(crate) load: (f64, f64),
    rows: Vec<Row>,
}

impl Report {
    pub(crate) fn add(&mut self, row: Row) {
        eprintln!("{}: {:.2} {}; {}", row.name, row.measured, row.unit, row.note);
        self.rows.push(row);
    }

    /// The table, then what missed its bound.
    #[allow(clippy::print_stdout, reason = "the table is what the program is for")]
    pub(crate) fn print(&self) {
        println!("Load of the machine: {:.1} before, {:.1} after.\n", self.load.0, self.load.1);
        println!("| figure | reach | measured | |");
        println!("| --- | --- | --- | --- |");
        for row in &self.rows {
            let reach = match row.reach {
                Some(reach) if row.tolerance > 0.0 => format!("{reach:.1} (+{:.1})", row.tolerance),
                Some(reach) => format!("{reach:.1}"),
                None => String::new(),
            };
            let miss = if row.is_met() { "" } else { " (missed)" };
            println!("| {} | {reach} | {} {}{miss} | {} |", row.name, number(row.measured), row.unit, row.note);
        }
        let missed = self.rows.iter().filter(|row| !row.is_met()).count();
        println!("\n{missed} of {} bounds missed", self.rows.iter().filter(|row| row.reach.is_some()).count());
    }
}

fn number(value: f64) -> String {
    if value.abs() >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

/// The middle one; of an even number the lower of two.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}

/// Processes that wanted to run, over the last minute.
pub(crate) fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(f64::NAN)
}
