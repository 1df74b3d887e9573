//! An allocator that counts what is live.
#![allow(unsafe_code, reason = "a global allocator can't be written without; it only counts and passes on to the system's")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

static LIVE: AtomicI64 = AtomicI64::new(0);

/// Powers of two that sizes are sorted by.
const CLASSES: usize = 32;

static BY_SIZE: [AtomicI64; CLASSES] = [const { AtomicI64::new(0) }; CLASSES];

/// Bytes by the power of two that their allocations stay below.
pub(crate) type Sizes = [i64; CLASSES];

/// Live bytes by the power of two that their allocations stay below.
pub(crate) fn live_by_size() -> Sizes {
    std::array::from_fn(|class| BY_SIZE[class].load(Ordering::Relaxed))
}

const fn class(size: usize) -> usize {
    let bits = (usize::BITS - size.leading_zeros()) as usize;
    if bits < CLASSES { bits } else { CLASSES - 1 }
}

/// Bytes allocated and not freed.
pub(crate) fn live_bytes() -> i64 {
    LIVE.load(Ordering::Relaxed)
}

/// Whether allocations of at least [`TRACED_MIN`] bytes are remembered with the way to them.
static IS_TRACING: AtomicBool = AtomicBool::new(false);
static TRACED_MIN: AtomicUsize = AtomicUsize::new(4_096);
static TRACED: Mutex<Option<HashMap<usize, (usize, Backtrace)>>> = Mutex::new(None);

thread_local! {
    /// Set while this thread keeps the books, whose own allocations aren't in them.
    static IS_BOOKKEEPING: Cell<bool> = const { Cell::new(false) };
}

/// Remembers from now on who allocates pieces of at least `min` bytes.
pub(crate) fn trace(min: usize) {
    TRACED_MIN.store(min, Ordering::Relaxed);
    IS_TRACING.store(true, Ordering::Relaxed);
}

/// Live bytes by the way to their allocation, largest first: `depth` places in the code, those of containers and runtimes left out.
pub(crate) fn traced(depth: usize) -> Vec<(String, usize, usize)> {
    IS_TRACING.store(false, Ordering::Relaxed);
    let live = TRACED.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default();
    let mut ways: HashMap<String, (usize, usize)> = HashMap::new();
    for (size, backtrace) in live.into_values() {
        let text = backtrace.to_string();
        let way = text.lines().filter_map(place_of).take(depth).collect::<Vec<_>>().join(" < ");
        let known = ways.entry(way).or_default();
        known.0 += size;
        known.1 += 1;
    }
    let mut ways: Vec<_> = ways.into_iter().map(|(way, (bytes, count))| (way, bytes, count)).collect();
    ways.sort_by_key(|(_, bytes, _)| std::cmp::Reverse(*bytes));
    ways
}

/// Crates in whose code nobody decides what is kept.
const CONTAINERS: [&str; 6] = ["bytes-", "futures-", "hashbrown-", "tokio-", "smallvec-", "either-"];

/// The place a line of a backtrace names, if it tells something.
fn place_of(line: &str) -> Option<String> {
    let path = line.trim().strip_prefix("at ")?;
    let place = match path.split_once("/registry/src/") {
        Some((_, foreign)) => foreign.split_once('/')?.1,
        None => path.split_once("./").map_or(path, |(_, own)| own),
    };
    let is_telling = !place.starts_with("/rustc/") && !place.contains("allocator.rs") && !place.contains("/rustlib/");
    (is_telling && !CONTAINERS.iter().any(|container| place.starts_with(container))).then(|| place.to_owned())
}

fn remember(pointer: *mut u8, size: usize) {
    if size < TRACED_MIN.load(Ordering::Relaxed) || !IS_TRACING.load(Ordering::Relaxed) {
        return;
    }
    let _ = IS_BOOKKEEPING.try_with(|is_bookkeeping| {
        if !is_bookkeeping.replace(true) {
            let backtrace = Backtrace::force_capture();
            let mut traced = TRACED.lock().unwrap_or_else(PoisonError::into_inner);
            traced.get_or_insert_with(HashMap::new).insert(pointer as usize, (size, backtrace));
            is_bookkeeping.set(false);
        }
    });
}

fn forget(pointer: *mut u8, size: usize) {
    if size < TRACED_MIN.load(Ordering::Relaxed) || !IS_TRACING.load(Ordering::Relaxed) {
        return;
    }
    let _ = IS_BOOKKEEPING.try_with(|is_bookkeeping| {
        if !is_bookkeeping.replace(true) {
            let gone = TRACED
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .as_mut()
                .and_then(|traced| traced.remove(&(pointer as usize)));
            drop(gone);
            is_bookkeeping.set(false);
        }
    });
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count(size: usize, sign: i64) {
    let change = sign * size as i64;
    BY_SIZE[class(size)].fetch_add(change, Ordering::Relaxed);
    LIVE.fetch_add(change, Ordering::Relaxed);
}

// SAFETY: every call is passed to the system's allocator unchanged; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 1);
        // SAFETY: the caller keeps `alloc`'s contract.
        let pointer = unsafe { System.alloc(layout) };
        remember(pointer, layout.size());
        pointer
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 1);
        // SAFETY: the caller keeps `alloc_zeroed`'s contract.
        let pointer = unsafe { System.alloc_zeroed(layout) };
        remember(pointer, layout.size());
        pointer
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(layout.size(), -1);
        forget(pointer, layout.size());
        // SAFETY: the caller keeps `dealloc`'s contract.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size, 1);
        count(layout.size(), -1);
        forget(pointer, layout.size());
        // SAFETY: the caller keeps `realloc`'s contract.
        let pointer = unsafe { System.realloc(pointer, layout, size) };
        remember(pointer, size);
        pointer
    }
}
