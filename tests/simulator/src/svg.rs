//! Draws time series as SVG: panels below each other over one time axis. No dependency, no script inside.

use std::fmt::Write;

/// One line of a panel.
#[derive(Clone, Debug)]
pub struct Series {
    /// Its name, for the legend.
    pub name: String,
    /// Minutes and values.
    pub points: Vec<(f64, f64)>,
}

/// One diagram.
#[derive(Clone, Debug)]
pub struct Panel {
    /// What it shows, with the unit.
    pub title: String,
    /// Its lines.
    pub series: Vec<Series>,
}

const WIDTH: f64 = 900.0;
const PANEL: f64 = 190.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 130.0;
const TOP: f64 = 34.0;
const GAP: f64 = 46.0;

/// Told apart also by those who see few colours.
const COLOURS: [&str; 5] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#555555"];

/// The picture as a document. `marks` are times at which something happened, in minutes.
#[must_use]
pub fn draw(title: &str, panels: &[Panel], marks: &[(f64, &str)]) -> String {
    let height = TOP + panels.len() as f64 * (PANEL + GAP) + 24.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"{LEFT}\" y=\"20\" font-size=\"15\">{}</text>\n",
        escaped(title)
    );
    let times = panels.iter().flat_map(|panel| &panel.series).flat_map(|series| &series.points).map(|(time, _)| *time);
    let (first, last) = times.fold((f64::MAX, f64::MIN), |(low, high), time| (low.min(time), high.max(time)));
    for (index, panel) in panels.iter().enumerate() {
        let top = TOP + 20.0 + index as f64 * (PANEL + GAP);
        draw_panel(&mut out, panel, top, (first, last), marks);
    }
    let _ = writeln!(out, "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">minutes</text>\n</svg>", WIDTH / 2.0, height - 8.0);
    out
}

fn draw_panel(out: &mut String, panel: &Panel, top: f64, (first, last): (f64, f64), marks: &[(f64, &str)]) {
    let highest = panel.series.iter().flat_map(|series| &series.points).map(|(_, value)| *value).fold(0.0, f64::max);
    let (step, ceiling) = scale(highest);
    let x = |time: f64| LEFT + (time - first) / (last - first).max(f64::EPSILON) * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| top + PANEL - value / ceiling * PANEL;
    let _ = writeln!(out, "<text x=\"{LEFT}\" y=\"{}\" font-weight=\"bold\">{}</text>", top - 6.0, escaped(&panel.title));
    let mut value = 0.0;
    while value <= ceiling + step / 2.0 {
        let (at, right) = (y(value), WIDTH - RIGHT);
        let _ = writeln!(out, "<path d=\"M{LEFT} {at:.1}H{right}\" stroke=\"#ddd\"/>");
        let _ = writeln!(out, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>", LEFT - 6.0, at + 4.0);
        value += step;
    }
    let (minutes, _) = scale(last - first);
    let mut time = (first / minutes).ceil() * minutes;
    while time <= last {
        let _ = writeln!(out, "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{time}</text>", x(time), top + PANEL + 15.0);
        time += minutes;
    }
    for (time, what) in marks {
        let at = x(*time);
        let _ = writeln!(out, "<path d=\"M{at:.1} {top:.1}v{PANEL}\" stroke=\"#999\" stroke-dasharray=\"4 3\"/>");
        let _ = writeln!(out, "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"#666\">{}</text>", at + 4.0, top + 12.0, escaped(what));
    }
    for (index, series) in panel.series.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let points: Vec<_> = series.points.iter().map(|(time, value)| format!("{:.1},{:.1}", x(*time), y(*value))).collect();
        let _ =
            writeln!(out, "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.6\"/>", points.join(" "));
        let at = top + 12.0 + 16.0 * index as f64;
        let _ =
            writeln!(out, "<text x=\"{}\" y=\"{at:.1}\" fill=\"{colour}\">{}</text>", WIDTH - RIGHT + 8.0, escaped(&series.name));
    }
}

/// A step of 1, 2 or 5 times a power of ten that gives four to ten lines, and the end of the axis.
fn scale(highest: f64) -> (f64, f64) {
    let highest = if highest > 0.0 { highest } else { 1.0 };
    let power = 10_f64.powf((highest / 5.0).log10().floor());
    let step =
        [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|step| highest / step <= 6.0).unwrap_or(power * 10.0);
    (step, (highest / step).ceil() * step)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_round_steps() {
        assert_eq!(scale(1.0), (0.2, 1.0));
        assert_eq!(scale(730.0), (200.0, 800.0));
        assert_eq!(scale(0.0), (0.2, 1.0), "nothing to see is shown as zero");
    }

    #[test]
    fn names_cannot_break_the_document() {
        let panel = Panel { title: "a < b & c".into(), series: vec![Series { name: "<x>".into(), points: vec![(0.0, 1.0)] }] };
        let svg = draw("t", &[panel], &[]);
        assert!(svg.contains("a &lt; b &amp; c") && svg.contains("&lt;x&gt;") && svg.ends_with("</svg>\n"));
    }
}
