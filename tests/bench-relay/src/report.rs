//! Table and JSON.

use serde_json::{Value, json};

use crate::delays::Delays;
use crate::relays::{Kind, SetUp};
use crate::rows::{Row, RowKind};

/// Most that a packet may cost with two threads, as a share of what it costs with one.
const TWO_THREADS_MAX: f64 = 1.15;

/// One relay in one row, all rounds.
#[derive(Debug)]
pub(crate) struct Column {
    pub(crate) kind: Kind,
    pub(crate) set_up: Option<SetUp>,
    /// Resident memory for one allocation with the load's traces, in KiB.
    pub(crate) kib_after: Option<f64>,
    pub(crate) rounds: Vec<Round>,
    pub(crate) delays: Delays,
}

/// One relay in one round.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Round {
    /// Nanoseconds of processor time for each packet that arrived.
    pub(crate) cpu_ns: f64,
    pub(crate) packets_per_sec: f64,
    /// Share of the core.
    pub(crate) busy: f64,
    pub(crate) sent: u64,
    pub(crate) lost: u64,
    /// Share of the busiest thread.
    pub(crate) busiest: f64,
}

impl Column {
    fn all(&self, figure: impl Fn(&Round) -> f64) -> Vec<f64> {
        self.rounds.iter().map(figure).collect()
    }

    fn loss(&self) -> f64 {
        let (lost, sent) = self.rounds.iter().fold((0, 0), |(lost, sent), round| (lost + round.lost, sent + round.sent));
        lost as f64 / (sent as f64).max(1.0)
    }
}

/// Middle, and the quarter and three quarters marks, of the ratios within rounds.
fn ratios(ours: &Column, theirs: &Column) -> [f64; 3] {
    let mut ratios: Vec<f64> = ours.rounds.iter().zip(&theirs.rounds).map(|(a, b)| a.cpu_ns / b.cpu_ns).collect();
    [0.5, 0.25, 0.75].map(|share| quantile(&mut ratios, share))
}

fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    values.get((share * last as f64).round() as usize).copied().unwrap_or(f64::NAN)
}

fn median(mut values: Vec<f64>) -> f64 {
    quantile(&mut values, 0.5)
}

/// Lines for people. The first column is the one the others are compared with.
pub(crate) fn text(row: &Row, columns: &[Column]) -> String {
    let mut text = format!("\n{} ({})\n", row.what, row.name);
    text += &format!(
        "  {:36} {:>9} {:>16} {:>11} {:>6} {:>9} {:>9} {:>7} {:>8} {:>8} {:>9}\n",
        "",
        if matches!(row.kind, RowKind::SetUp(_)) { "ns" } else { "ns/packet" },
        "ours/it (quart.)",
        "packets/s",
        "core",
        "p50 us",
        "p99 us",
        "loss",
        "setup us",
        "KiB each",
        "with load"
    );
    for column in columns {
        let [middle, low, high] = ratios(&columns[0], column);
        let whole = |figure: f64| if figure.is_nan() { "-".to_owned() } else { format!("{figure:.0}") };
        let optional = |figure: Option<f64>| figure.map_or_else(|| "-".to_owned(), |figure| format!("{figure:.1}"));
        text += &format!(
            "  {:36} {:>9.0} {:>16} {:>11.0} {:>5.0}% {:>9} {:>9} {:>6.2}% {:>8} {:>8} {:>9}\n",
            column.kind.name(),
            median(column.all(|round| round.cpu_ns)),
            format!("{middle:.2} ({low:.2}-{high:.2})"),
            median(column.all(|round| round.packets_per_sec)),
            100.0 * median(column.all(|round| round.busy)),
            whole(column.delays.quantile(0.5)),
            whole(column.delays.quantile(0.99)),
            100.0 * column.loss(),
            optional(column.set_up.map(|set_up| set_up.cpu_us)),
            optional(column.set_up.map(|set_up| set_up.kib)),
            optional(column.kib_after),
        );
        if row.kind == RowKind::Threads {
            text += &format!("  {:36} busiest thread {:.0}%\n", "", 100.0 * median(column.all(|round| round.busiest)));
        }
    }
    if let (RowKind::Threads, Some(two)) = (row.kind, columns.get(1)) {
        let [middle, ..] = ratios(two, &columns[0]);
        let verdict = if middle <= TWO_THREADS_MAX { "reached" } else { "MISSED" };
        text += &format!("  aim: two threads at most {TWO_THREADS_MAX:.2} of one: {middle:.2}, {verdict}\n");
    }
    for (kind, aim) in [(Kind::TurnServer, row.aims.0), (Kind::Coturn, row.aims.1)] {
        let theirs = columns.iter().find(|column| column.kind == kind);
        if let (Some(aim), Some(theirs)) = (aim, theirs) {
            let [middle, ..] = ratios(&columns[0], theirs);
            let verdict = if middle <= aim { "reached" } else { "MISSED" };
            text += &format!("  aim: at most {aim:.2} of {}: {middle:.2}, {verdict}\n", kind.name());
        }
    }
    text
}

/// The same for programs.
pub(crate) fn json(row: &Row, columns: &[Column]) -> Value {
    let columns: Vec<Value> = columns
        .iter()
        .map(|column| {
            let [middle, low, high] = ratios(&columns[0], column);
            json!({
                "relay": column.kind.name(),
                "cpu_ns_per_packet": median(column.all(|round| round.cpu_ns)),
                "ratio": { "median": middle, "quarter": low, "three_quarters": high },
                "packets_per_sec": median(column.all(|round| round.packets_per_sec)),
                "core": median(column.all(|round| round.busy)),
                "delay_us": { "p50": column.delays.quantile(0.5), "p99": column.delays.quantile(0.99) },
                "loss": column.loss(),
                "setup_us": column.set_up.map(|set_up| set_up.cpu_us),
                "kib_per_allocation": column.set_up.map(|set_up| set_up.kib),
                "kib_per_allocation_with_load": column.kib_after,
                "busiest_thread": median(column.all(|round| round.busiest)),
                "rounds": column.rounds.iter().map(|round| round.cpu_ns).collect::<Vec<_>>(),
            })
        })
        .collect();
    json!({ "row": row.name, "what": row.what, "aims": { "turn_server": row.aims.0, "coturn": row.aims.1 }, "relays": columns })
}
