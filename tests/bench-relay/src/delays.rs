//! Delays, counted in classes of which each is at most a sixteenth wider than where it begins.

const CLASSES_PER_OCTAVE: u64 = 16;

/// How often which delay was seen.
#[derive(Debug, Default, Clone)]
pub(crate) struct Delays {
    counts: Vec<u64>,
    total: u64,
}

impl Delays {
    pub(crate) fn add(&mut self, nanoseconds: u64) {
        let class = class(nanoseconds);
        if self.counts.len() <= class {
            self.counts.resize(class + 1, 0);
        }
        self.counts[class] += 1;
        self.total += 1;
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        if self.counts.len() < other.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        self.counts.iter_mut().zip(&other.counts).for_each(|(count, more)| *count += more);
        self.total += other.total;
    }

    /// The delay, in microseconds, that this share of all packets didn't exceed, rounded up to its class's end.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let wanted = (share * self.total as f64).ceil() as u64;
        let mut counted = 0;
        for (class, count) in self.counts.iter().enumerate() {
            counted += count;
            if counted >= wanted.max(1) {
                return end(class) as f64 / 1e3;
            }
        }
        f64::NAN
    }
}

fn class(value: u64) -> usize {
    let value = value.max(CLASSES_PER_OCTAVE);
    let octave = u64::from(value.ilog2());
    let within = (value >> (octave - 4)) - CLASSES_PER_OCTAVE;
    (octave * CLASSES_PER_OCTAVE + within) as usize
}

fn end(class: usize) -> u64 {
    let (octave, within) = (class as u64 / CLASSES_PER_OCTAVE, class as u64 % CLASSES_PER_OCTAVE);
    if octave < 4 { 0 } else { (CLASSES_PER_OCTAVE + within + 1) << (octave - 4) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_a_sixteenth_off_at_most() {
        let mut delays = Delays::default();
        (1..=1_000_u64).for_each(|n| delays.add(n * 1_000));
        for share in [0.01, 0.5, 0.99] {
            let exact = share * 1_000.0;
            let found = delays.quantile(share);
            assert!(found >= exact && found <= exact * 1.07, "{share}: {found}");
        }
    }
}
