//! Looks through what a process holds in memory, as whoever runs it can.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Read at a time.
const PART_BYTES: usize = 1 << 20;

/// Which of these texts stand somewhere in the memory that a process can write to.
///
/// # Errors
/// If the system doesn't let anybody look.
pub fn holds(pid: u32, wanted: &[&[u8]]) -> io::Result<Vec<bool>> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let memory = File::open(format!("/proc/{pid}/mem"))?;
    let mut found = vec![false; wanted.len()];
    let mut bytes = 0;
    for (from, to) in maps.lines().filter_map(writable) {
        bytes += search(&memory, from, to, wanted, &mut found);
    }
    if bytes == 0 { Err(io::Error::other("no memory could be read")) } else { Ok(found) }
}

/// First and last address of a line of `/proc/PID/maps`, if it can be written to.
fn writable(line: &str) -> Option<(u64, u64)> {
    let (range, rest) = line.split_once(' ')?;
    let (from, to) = range.split_once('-').filter(|_| rest.starts_with("rw"))?;
    Some((u64::from_str_radix(from, 16).ok()?, u64::from_str_radix(to, 16).ok()?))
}

/// Searches part by part, each with the end of the one before; how many bytes could be read.
fn search(memory: &File, from: u64, to: u64, wanted: &[&[u8]], found: &mut [bool]) -> usize {
    let overlap = wanted.iter().map(|text| text.len()).max().unwrap_or(0);
    let mut part = vec![0; PART_BYTES + overlap];
    let (mut at, mut total) = (from, 0);
    while at < to {
        let length = part.len().min(usize::try_from(to - at).unwrap_or(usize::MAX));
        // What was given back meanwhile can't be read.
        let Ok(read) = memory.read_at(&mut part[..length], at) else { break };
        if read == 0 {
            break;
        }
        mark(&part[..read], wanted, found);
        total += read;
        at += read.min(PART_BYTES) as u64;
    }
    total
}

/// Notes which of these texts stand in the bytes.
pub fn mark(bytes: &[u8], wanted: &[&[u8]], found: &mut [bool]) {
    let mut begins = [false; 256];
    wanted.iter().filter_map(|text| text.first()).for_each(|first| begins[usize::from(*first)] = true);
    for at in (0..bytes.len()).filter(|at| begins[usize::from(bytes[*at])]) {
        for (text, found) in wanted.iter().zip(&mut *found) {
            *found |= bytes[at..].starts_with(text);
        }
    }
}
