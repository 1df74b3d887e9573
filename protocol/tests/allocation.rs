//! No bytes a stranger sends make a decoder allocate beyond a stated bound. Measured with a counting allocator.
#![allow(unsafe_code, reason = "a global allocator can't be written without; it only counts and passes on to the system's")]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use halloo_protocol::directory::UnverifiedRecord;
use halloo_protocol::wire::{self, DecodeError, FRAME_BYTES_MAX, Frame};
use support::samples;
use support::vectors::{self, Vector};

/// Most one allocation may take: what a decode may claim.
const LARGEST_MAX: usize = 4 * FRAME_BYTES_MAX;

/// Most that may be live at once while one input is decoded: a list and what its items hold, and the same again for the body of
/// a signed object inside. Far less is used by anything honest.
const LIVE_MAX: usize = 3 * LARGEST_MAX;

thread_local! {
    /// Live bytes since the measurement began, their highest, and the largest single request.
    static USE: Cell<(isize, isize, usize)> = const { Cell::new((0, 0, 0)) };
}

struct Counting;

fn count(grown: isize, request: usize) {
    // A thread that is ending has no cell any more; nothing is measured there.
    let _ = USE.try_with(|cell| {
        let (live, highest, largest) = cell.get();
        let live = live + grown;
        cell.set((live, highest.max(live), largest.max(request)));
    });
}

// SAFETY: every call is passed to the system's allocator unchanged; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize, layout.size());
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize), 0);
        // SAFETY: the caller keeps `dealloc`'s contract.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize - layout.size() as isize, size);
        // SAFETY: the caller keeps `realloc`'s contract.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Highest live bytes and largest request while `work` runs.
fn measure<T>(work: impl FnOnce() -> T) -> (usize, usize) {
    USE.set((0, 0, 0));
    let value = work();
    let (_, highest, largest) = USE.get();
    drop(value);
    (highest.unsigned_abs(), largest)
}

#[derive(Default)]
struct Worst {
    live: (usize, String),
    largest: (usize, String),
    inputs: usize,
}

impl Worst {
    fn try_input(&mut self, name: &str, again: fn(&[u8]) -> Result<Vec<u8>, DecodeError>, bytes: &[u8]) {
        let (live, largest) = measure(|| again(bytes));
        assert!(largest <= LARGEST_MAX, "{name}: one allocation of {largest} bytes for {} bytes of input", bytes.len());
        assert!(live <= LIVE_MAX, "{name}: {live} bytes live for {} bytes of input", bytes.len());
        self.inputs += 1;
        if live > self.live.0 {
            self.live = (live, name.into());
        }
        if largest > self.largest.0 {
            self.largest = (largest, name.into());
        }
    }
}

/// Lengths as varints: at and beyond the limits, in each width.
fn hostile_lengths() -> Vec<Vec<u8>> {
    [17_u64, 8_000, 65_000, 262_144, 1 << 32, u64::MAX].iter().map(wire::encode).collect()
}

/// Every position of a valid encoding with every hostile length in its place: among them are all length fields.
fn with_lengths(vector: &Vector, mut each: impl FnMut(&[u8])) {
    for position in 0..vector.bytes.len() {
        for length in hostile_lengths() {
            let mut bytes = vector.bytes[..position].to_vec();
            bytes.extend_from_slice(&length);
            bytes.extend_from_slice(&vector.bytes[position + 1..]);
            each(&bytes);
        }
    }
}

#[test]
fn announced_lengths_claim_no_memory_beyond_the_bound() {
    let mut worst = Worst::default();
    for vector in vectors::all() {
        with_lengths(&vector, |bytes| worst.try_input(vector.name, vector.again, bytes));
    }
    eprintln!("{} inputs; most live {:?}; largest allocation {:?}", worst.inputs, worst.live, worst.largest);
}

#[test]
fn inputs_of_the_largest_size_stay_within_the_bound() {
    let mut worst = Worst::default();
    // Small numbers are tags, short lengths and empty parts: the densest input there is, so the most memory per byte.
    for fill in [0_u8, 1, 2, 3, 16, 250, 251, 252, 253, 255] {
        for vector in vectors::all() {
            for kept in (0..vector.bytes.len()).step_by(7) {
                let mut bytes = vector.bytes[..kept].to_vec();
                bytes.resize(16 * 1024, fill);
                worst.try_input(vector.name, vector.again, &bytes);
            }
            worst.try_input(vector.name, vector.again, &[fill; FRAME_BYTES_MAX]);
        }
    }
    eprintln!("{} inputs; most live {:?}; largest allocation {:?}", worst.inputs, worst.live, worst.largest);
}

#[test]
fn a_list_of_as_many_small_items_as_fit_stays_within_the_bound() {
    // An announced count that the claim just allows, and items of the smallest encoding.
    let again: fn(&[u8]) -> Result<Vec<u8>, DecodeError> =
        |bytes| wire::decode::<Vec<Vec<u8>>>(bytes, FRAME_BYTES_MAX).map(|value| wire::encode(&value));
    let mut worst = Worst::default();
    for count in [1_000_u64, 10_000, 10_900, 11_000, 65_000] {
        let mut bytes = wire::encode(&count);
        bytes.resize(bytes.len() + usize::try_from(count).expect("small"), 0);
        worst.try_input("list of empty lists", again, &bytes);
    }
    assert!(worst.largest.0 > FRAME_BYTES_MAX, "the measurement sees the allocation");
}

#[test]
fn too_long_inputs_allocate_nothing() {
    let bytes = vec![0; 10 * FRAME_BYTES_MAX];
    let (live, _) = measure(|| wire::decode::<Frame>(&bytes, FRAME_BYTES_MAX));
    assert_eq!(live, 0);
    let (live, _) = measure(|| UnverifiedRecord::from_bytes(&bytes).is_err());
    assert_eq!(live, 0);
}

#[test]
fn an_honest_record_takes_little_more_than_its_bytes() {
    let bytes = wire::encode(&samples::record());
    let (live, _) = measure(|| UnverifiedRecord::from_bytes(&bytes));
    assert!(live < 8 * bytes.len(), "{live} bytes for {}", bytes.len());
}
