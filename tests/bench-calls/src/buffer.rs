//! The jitter buffer, in virtual time.

use anyhow::Result;
use halloo::calls::media::rehearsal::Rehearsal;

use crate::report::{Report, Row};

/// Beside what the buffer waits: a frame that has to be full before it is encoded, and what Opus looks ahead.
const FRAME_MS: f64 = 20.0;
const OPUS_MS: f64 = 6.5;

/// Millionths by which two clocks differ.
const DRIFTS: [i64; 3] = [0, 100, -100];

pub(crate) fn measure(report: &mut Report) -> Result<()> {
    let mut clean: f64 = 0.0;
    let mut concealed_clean = 0;
    for drift_ppm in DRIFTS {
        let run = Rehearsal { minutes: 10, spread_ms: 2, loss_percent: 0, drift_ppm }.run()?;
        clean = run.delays_ms.iter().copied().fold(clean, f64::max);
        concealed_clean += run.concealed;
    }
    report.add(
        Row::at_most("clean path: added delay from mouth to ear, the worst minute", "ms", 60.0, 0.0, clean + FRAME_MS + OPUS_MS)
            .note(format!(
                "{clean:.0} ms buffer, {FRAME_MS} ms frame, {OPUS_MS} ms Opus; clocks equal and 100 ppm apart, 10 minutes of media each; \
                 {concealed_clean} of 90,000 frames concealed"
            )),
    );
    for drift_ppm in DRIFTS {
        let run = Rehearsal { minutes: 10, spread_ms: 60, loss_percent: 5, drift_ppm }.run()?;
        let share = |count: u64| 100.0 * count as f64 / run.frames as f64;
        report.add(
            Row::at_most(
                &format!("5% loss, 30 ms jitter, clock {drift_ppm:+} ppm: frames concealed"),
                "%",
                share(run.lost),
                1.0,
                share(run.concealed),
            )
            .note(format!("{:.2}% lost", share(run.lost))),
        );
        let first = run.delays_ms.first().copied().unwrap_or_default();
        let last = run.delays_ms.last().copied().unwrap_or_default();
        let all: Vec<String> = run.delays_ms.iter().map(|delay| format!("{delay:.0}")).collect();
        // What is wanted is no growth: a frame can't be divided, so its mean goes up and down by one.
        report.add(
            Row::at_most(
                &format!("5% loss, 30 ms jitter, clock {drift_ppm:+} ppm: delay grows in 10 minutes"),
                "ms",
                0.0,
                20.0,
                last - first,
            )
            .note(format!("buffer of each minute: {} ms", all.join(", "))),
        );
    }
    Ok(())
}
