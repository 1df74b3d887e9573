//! Where a device's report may come from by itself: a file that some program writes, or a command that goes on saying it. So that a motion detector, a Bluetooth
//! beacon or a screen saver can be put to use with a line of shell.
//!
//! Each line is a reading: `in-use`, `idle`, `locked` or `asleep`, and `near`, `far` or `metres=3`, in any order; the last line counts. What a reading doesn't name stays as
//! it was, and a line that can't be read changes nothing.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use halloo_protocol::choice::{Proximity, Usage};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::Command;
use tokio::sync::mpsc;
use tracing::{debug, warn};

use crate::config::SensorConfig;
use crate::event_loop::Internal;

/// How often a file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Longest line, and as much of a file as is read.
const LINE_BYTES_MAX: u64 = 4 * 1_024;

/// Pauses before a command that has ended is started anew.
const RESTART_MIN: Duration = Duration::from_secs(1);
const RESTART_MAX: Duration = Duration::from_secs(300);

/// A command that ran for so long wasn't wrong.
const STEADY: Duration = Duration::from_secs(60);

/// What a line says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(super) usage: Option<Usage>,
    pub(super) proximity: Option<Proximity>,
}

impl Reading {
    /// `None` if anything in it isn't known, or nothing is in it.
    fn of_line(line: &str) -> Option<Self> {
        let (mut usage, mut is_near, mut metres) = (None, None, None);
        for word in line.split_whitespace() {
            match word {
                "in-use" => usage = Some(Usage::InUse),
                "idle" => usage = Some(Usage::Idle),
                "locked" => usage = Some(Usage::Locked),
                "asleep" => usage = Some(Usage::Asleep),
                "near" => is_near = Some(true),
                "far" => is_near = Some(false),
                other => metres = Some(other.strip_prefix("metres=")?.parse::<u16>().ok()?),
            }
        }
        let proximity = match (is_near, metres) {
            (None, None) => None,
            (is_near, metres) => Some(Proximity { is_near: is_near.unwrap_or(true), metres }),
        };
        (usage.is_some() || proximity.is_some()).then_some(Self { usage, proximity })
    }

    /// The last line that can be read.
    fn of_text(text: &str) -> Option<Self> {
        text.lines().rev().find_map(Self::of_line)
    }
}

/// Starts what the configuration names.
pub(crate) fn start(config: &SensorConfig, news: &mpsc::Sender<Internal>) {
    if let Some(file) = &config.file {
        tokio::spawn(look_at(file.clone(), news.clone()));
    }
    if !config.command.is_empty() {
        tokio::spawn(listen_to(config.command.clone(), news.clone()));
    }
}

async fn look_at(file: PathBuf, news: mpsc::Sender<Internal>) {
    let mut last = None;
    let mut tick = tokio::time::interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = news.closed() => return,
            _ = tick.tick() => {}
        }
        let reading = read(&file).await.and_then(|text| Reading::of_text(&text));
        if reading.is_some() && reading != last && !tell(&news, reading).await {
            return;
        }
        last = reading.or(last);
    }
}

/// The beginning of a file; `None` if it isn't there.
async fn read(file: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    let opened = tokio::fs::File::open(file).await.ok()?;
    opened.take(LINE_BYTES_MAX).read_to_end(&mut bytes).await.ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

async fn listen_to(command: Vec<String>, news: mpsc::Sender<Internal>) {
    let mut pause = RESTART_MIN;
    loop {
        let begun = tokio::time::Instant::now();
        tokio::select! {
            () = news.closed() => return,
            ended = run(&command, &news) => debug!(?ended, "the sensor's command has ended"),
        }
        if begun.elapsed() >= STEADY {
            pause = RESTART_MIN;
        }
        tokio::select! {
            () = news.closed() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(RESTART_MAX);
    }
}

/// Runs a command and tells what it says. It ends with the node.
async fn run(command: &[String], news: &mpsc::Sender<Internal>) -> std::io::Result<()> {
    let Some((program, args)) = command.split_first() else { return Ok(()) };
    let mut command = Command::new(program);
    // What it leaves running when it is killed mustn't keep our standard error open for whoever reads that to its end.
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let child = command.spawn();
    let mut child = child.inspect_err(|error| warn!(program, %error, "the sensor's command doesn't run"))?;
    if let Some(output) = child.stdout.take() {
        follow(output, news).await?;
    }
    child.wait().await.map(drop)
}

async fn follow(output: impl AsyncRead + Unpin, news: &mpsc::Sender<Internal>) -> std::io::Result<()> {
    let mut output = BufReader::new(output);
    let mut last = None;
    loop {
        let mut line = Vec::new();
        if (&mut output).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        let reading = Reading::of_line(&String::from_utf8_lossy(&line));
        if reading.is_some() && reading != last {
            if !tell(news, reading).await {
                return Ok(());
            }
            last = reading;
        }
    }
}

/// False if the node has ended.
async fn tell(news: &mpsc::Sender<Internal>, reading: Option<Reading>) -> bool {
    match reading {
        Some(reading) => news.send(Internal::Sensor(reading)).await.is_ok(),
        None => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_near_the_user_is_and_whether_the_device_is_in_use() {
        let reading = |usage, near: Option<(bool, Option<u16>)>| {
            Some(Reading { usage, proximity: near.map(|(is_near, metres)| Proximity { is_near, metres }) })
        };
        assert_eq!(Reading::of_line("in-use near"), reading(Some(Usage::InUse), Some((true, None))));
        assert_eq!(Reading::of_line(" far\n"), reading(None, Some((false, None))));
        assert_eq!(Reading::of_line("metres=3"), reading(None, Some((true, Some(3)))));
        assert_eq!(Reading::of_line("far metres=400 locked"), reading(Some(Usage::Locked), Some((false, Some(400)))));
        for wrong in ["", "   ", "near by", "metres=", "metres=70000", "\u{0}", "NEAR"] {
            assert_eq!(Reading::of_line(wrong), None, "{wrong:?}");
        }
        assert_eq!(Reading::of_text("far\nnear\nwhat?\n\n"), reading(None, Some((true, None))));
    }

    #[tokio::test]
    async fn a_command_is_followed_whatever_it_says() {
        let (sender, mut news) = mpsc::channel(16);
        let said = [b"near\nnear\nxx\n".as_slice(), &[b'y'; 10_000], b"\nfar\n"].concat();
        follow(said.as_slice(), &sender).await.expect("read");
        drop(sender);
        let mut near = Vec::new();
        while let Some(Internal::Sensor(reading)) = news.recv().await {
            near.push(reading.proximity.expect("told").is_near);
        }
        assert_eq!(near, [true, false], "changes alone");
    }
}
