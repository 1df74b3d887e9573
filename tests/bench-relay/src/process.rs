//! A relay's process: start it on one core, read what it used, end it.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::Context;

/// A process that ends with this value.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
}

impl Process {
    /// Starts a program on the given cores (a list as `taskset` takes it), with its output in a file.
    pub(crate) fn start(cores: &str, program: &Path, arguments: &[String], log: &Path) -> anyhow::Result<Self> {
        let log = fs::File::create(log).with_context(|| format!("create {}", log.display()))?;
        // `taskset` becomes the program, so the number of the process stays.
        let child = Command::new("taskset")
            .args(["-c", cores])
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        Ok(Self { child })
    }

    /// Nanoseconds each of its threads has run.
    pub(crate) fn cpu_by_thread(&self) -> anyhow::Result<Vec<(String, u64)>> {
        let mut threads = Vec::new();
        for entry in fs::read_dir(format!("/proc/{}/task", self.child.id())).context("the relay has ended")? {
            let entry = entry?;
            // First figure of schedstat: nanoseconds on a processor, with what interrupts did meanwhile.
            let text = fs::read_to_string(entry.path().join("schedstat"))?;
            let cpu = text.split_whitespace().next().and_then(|figure| figure.parse().ok()).context("schedstat")?;
            threads.push((entry.file_name().to_string_lossy().into_owned(), cpu));
        }
        Ok(threads)
    }

    /// Nanoseconds all of its threads have run.
    pub(crate) fn cpu(&self) -> anyhow::Result<u64> {
        Ok(self.cpu_by_thread()?.into_iter().map(|(_, cpu)| cpu).sum())
    }

    /// Resident memory in KiB.
    pub(crate) fn resident_kib(&self) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
        line.split_whitespace().next().and_then(|figure| figure.parse().ok()).context("VmRSS")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself: nothing is lost then.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
