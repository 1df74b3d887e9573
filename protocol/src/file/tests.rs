use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

fn content(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at * 31 + at / 251) as u8).collect()
}

fn hashes(layout: &Layout, bytes: &[u8]) -> Vec<ChunkHash> {
    let mut hasher = ChunkHasher::new();
    let chunks = bytes.chunks(layout.chunk_bytes() as usize);
    chunks
        .map(|chunk| {
            hasher.update(chunk);
            hasher.finish()
        })
        .collect()
}

fn offer(name: &str) -> FileOffer {
    FileOffer {
        id: FileId([1; 16]),
        name: name.into(),
        size: 5,
        media_type: "text/plain".into(),
        root: FileRoot([2; 32]),
        expires_at: UnixTime(10),
        extensions: Extensions::none(),
    }
}

#[test]
fn names_keep_nothing_that_is_dangerous() {
    let cases = [
        ("photo.jpg", "photo.jpg"),
        ("Größe 東京 🙂.pdf", "Größe 東京 🙂.pdf"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\x\\evil.exe", "evil.exe"),
        ("/", "file"),
        ("", "file"),
        ("..", "file"),
        (".bashrc", "bashrc"),
        ("a\u{0}b\nc", "a_b_c"),
        ("gpj.\u{202e}exe", "gpj.exe"),
        ("x\u{200b}y", "xy"),
        ("con", "_con"),
        ("LPT1.txt", "_LPT1.txt"),
        ("what? \"no\" <x>|*", "what_ _no_ _x___"),
        ("trailing. . ", "trailing"),
    ];
    for (name, clean) in cases {
        assert_eq!(clean_name(name), clean, "{name:?}");
        assert!(is_clean_name(clean));
        assert_eq!(offer(name).check().is_ok(), name == clean, "{name:?}");
    }
}

#[test]
fn long_names_keep_their_extension() {
    let long = clean_name(&format!("{}.tar", "ä".repeat(300)));
    assert!(long.len() <= FILE_NAME_BYTES_MAX && long.ends_with("ä.tar"), "{long}");
    assert!(clean_name(&"x".repeat(1_000)).len() == FILE_NAME_BYTES_MAX);
}

#[test]
fn offers_have_ranges() {
    assert!(offer("a").check().is_ok());
    assert!(FileOffer { size: FILE_BYTES_MAX + 1, ..offer("a") }.check().is_err());
    for media_type in ["", "text", "text/", "/x", "Text/plain", "text/plain; charset=x", "a/b/c", &"a/".repeat(100)] {
        assert!(FileOffer { media_type: media_type.into(), ..offer("a") }.check().is_err(), "{media_type:?}");
    }
}

#[test]
fn chunks_grow_so_that_there_are_few() {
    for (size, chunk_bytes, chunks) in [
        (0, 256 << 10, 0),
        (1, 256 << 10, 1),
        (256 << 10, 256 << 10, 1),
        ((256 << 10) + 1, 256 << 10, 2),
        (4 << 30, 256 << 10, 16_384),
        ((4 << 30) + 1, 512 << 10, 8_193),
        (FILE_BYTES_MAX, 64 << 20, 16_384),
    ] {
        let layout = Layout::of_size(size);
        assert_eq!((layout.chunk_bytes(), layout.chunks()), (chunk_bytes, chunks), "{size}");
        assert_eq!(layout.chunk_bytes() % u64::from(Layout::BLOCK_BYTES), 0);
    }
    let layout = Layout::of_size(100_000);
    assert!(layout.is_within(0, 16_384) && layout.is_within(99_999, 1));
    for (offset, length) in [(0, 0), (0, 16_385), (99_999, 2), (100_000, 1), (u64::MAX, 16_384)] {
        assert!(!layout.is_within(offset, length), "{offset} {length}");
    }
}

#[test]
fn a_list_of_hashes_is_checked_as_a_whole() {
    let bytes = content(600_000);
    let layout = Layout::of_size(bytes.len() as u64);
    let mut list = hashes(&layout, &bytes);
    let root = FileRoot::of(layout.size(), &list);
    assert!(layout.check_hashes(&root, &list).is_ok());
    assert!(layout.check_hashes(&root, &list[1..]).is_err());
    assert!(Layout::of_size(599_999).check_hashes(&root, &list).is_err(), "the size counts");
    list[0][0] ^= 1;
    assert!(layout.check_hashes(&root, &list).is_err());
}

/// A sender, a disk and a path in one: blocks come back in any order, get lost, arrive broken; the receiver is killed now and then.
struct Run {
    bytes: Vec<u8>,
    layout: Layout,
    hashes: Vec<ChunkHash>,
    disk: Vec<u8>,
    progress: Vec<u8>,
    on_the_way: Vec<Block>,
    now: Instant,
    asked: u64,
}

impl Run {
    fn new(size: usize) -> Self {
        let bytes = content(size);
        let layout = Layout::of_size(size as u64);
        let hashes = hashes(&layout, &bytes);
        let now = Instant::now();
        Self { disk: vec![0; size], bytes, layout, hashes, progress: Vec::new(), on_the_way: Vec::new(), now, asked: 0 }
    }

    fn ask(&mut self, pull: &mut Pull) {
        while let Some(block) = pull.poll_block(self.now) {
            assert!(self.layout.is_within(block.offset, block.length));
            self.on_the_way.push(block);
            self.asked += 1;
        }
        assert!(pull.under_way() <= Pace::BLOCKS_MAX);
    }

    /// One block arrives, whole or with a wrong byte.
    fn arrive(&mut self, pull: &mut Pull, which: usize, is_broken: bool) -> Result<(), PullError> {
        if self.on_the_way.is_empty() {
            return Ok(());
        }
        let block = self.on_the_way.swap_remove(which % self.on_the_way.len());
        let (start, end) = (block.offset as usize, block.offset as usize + block.length as usize);
        self.now += Duration::from_millis(1);
        if !pull.handle_block(block.offset, block.length as usize, self.now) {
            return Ok(());
        }
        self.disk[start..end].copy_from_slice(&self.bytes[start..end]);
        self.disk[start] ^= u8::from(is_broken);
        let Written::Verify(chunk) = pull.handle_written(block.offset) else { return Ok(()) };
        let (start, length) = (self.layout.chunk_start(chunk) as usize, self.layout.chunk_len(chunk) as usize);
        let mut hasher = ChunkHasher::new();
        hasher.update(&self.disk[start..start + length]);
        pull.handle_verified(chunk, hasher.finish() == self.hashes[chunk as usize])
    }

    fn sync(&mut self, pull: &mut Pull) -> PullStep {
        let fresh: Vec<u32> = pull.unsynced().collect();
        let step = pull.handle_synced(&fresh);
        self.progress = pull.progress().to_vec();
        step
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn every_byte_arrives_whatever_happens_on_the_way(
        size in 0_usize..900_000,
        events in prop::collection::vec((0_u8..40, any::<usize>()), 0..400),
        broken in 0_u32..2,
    ) {
        let mut run = Run::new(size);
        let mut pull = Pull::new(run.layout, &[], 64);
        let mut broken = broken;
        for (event, which) in events {
            run.ask(&mut pull);
            match event {
                0 => {
                    pull.handle_disconnected();
                    run.on_the_way.clear();
                }
                1 => {
                    run.on_the_way.clear();
                    pull = Pull::new(run.layout, &run.progress, 64);
                }
                2..6 => if let Some(block) = run.on_the_way.pop() {
                    pull.handle_lost(block.offset, run.now);
                },
                6 => { run.sync(&mut pull); }
                7 if broken > 0 => {
                    broken -= 1;
                    run.arrive(&mut pull, which, true).expect("one is put up with");
                }
                _ => run.arrive(&mut pull, which, false).expect("nothing is broken"),
            }
        }
        let mut steps = 0;
        while run.sync(&mut pull) == PullStep::Going {
            run.ask(&mut pull);
            run.arrive(&mut pull, 0, false).expect("nothing is broken");
            steps += 1;
            prop_assert!(steps < 1_000, "it ends");
        }
        prop_assert_eq!(&run.disk, &run.bytes);
        prop_assert_eq!(pull.verified_bytes(), size as u64);
        prop_assert_eq!(pull.poll_block(run.now), None);
    }
}

#[test]
fn a_quiet_run_asks_for_every_block_once() {
    let mut run = Run::new(3_000_001);
    let mut pull = Pull::new(run.layout, &[], 64);
    while run.sync(&mut pull) == PullStep::Going {
        run.ask(&mut pull);
        run.arrive(&mut pull, 0, false).expect("nothing is broken");
    }
    assert_eq!(run.asked, 3_000_001_u64.div_ceil(u64::from(Layout::BLOCK_BYTES)));
    let again = Pull::new(run.layout, &run.progress, 64);
    assert_eq!(again.step(), PullStep::Done);
}

#[test]
fn a_sender_of_wrong_bytes_is_given_up() {
    let mut run = Run::new(700_000);
    let mut pull = Pull::new(run.layout, &[], 64);
    let mut asked_at_most = 0;
    let given_up = loop {
        run.ask(&mut pull);
        if let Err(error) = run.arrive(&mut pull, 0, true) {
            break error;
        }
        asked_at_most += 1;
        assert!(asked_at_most < 200);
    };
    assert_eq!(given_up, PullError::Corrupt(3));
    assert_eq!(pull.verified_bytes(), 0);
}

#[test]
fn answers_nobody_asked_for_and_of_other_lengths_count_for_nothing() {
    let now = Instant::now();
    let mut pull = Pull::new(Layout::of_size(40_000), &[0xff], 64);
    assert_eq!(pull.step(), PullStep::Done, "what is had isn't asked for again");
    pull = Pull::new(Layout::of_size(40_000), &[], 64);
    assert!(!pull.handle_block(0, 16_384, now));
    let block = pull.poll_block(now).expect("there is something to ask for");
    assert!(!pull.handle_block(block.offset, 3, now));
    assert_eq!(pull.poll_block(now), Some(block), "it is asked for again");
    assert!(pull.handle_block(block.offset, block.length as usize, now));
    assert!(!pull.handle_block(block.offset, block.length as usize, now), "a copy");
    assert_eq!(pull.handle_written(99), Written::More);
    assert_eq!(pull.handle_verified(7, true), Ok(()));
}

/// A path with a rate and a way to go: answers are late by what waits before them.
fn settle(rate_bytes_per_sec: f64, way: Duration, seconds: f64) -> (usize, f64, Duration) {
    let mut pace = Pace::new(Pace::BLOCKS_MAX);
    let start = Instant::now();
    let block = f64::from(Layout::BLOCK_BYTES) / rate_bytes_per_sec;
    let mut answers: BTreeMap<u64, Instant> = BTreeMap::new();
    let (mut clock, mut free_at) = (0.0_f64, 0.0_f64);
    let (mut done, mut longest) = (0_u32, Duration::ZERO);
    let at = |secs: f64| start + Duration::from_secs_f64(secs);
    while clock < seconds {
        while answers.len() < pace.window() {
            free_at = free_at.max(clock + way.as_secs_f64() / 2.0) + block;
            answers.insert(((free_at + way.as_secs_f64() / 2.0) * 1e9) as u64 + answers.len() as u64, at(clock));
        }
        let (nanos, asked_at) = answers.pop_first().expect("at least two are under way");
        clock = nanos as f64 / 1e9;
        pace.answered(asked_at, at(clock));
        if clock > seconds / 2.0 {
            done += 1;
            longest = longest.max(at(clock).saturating_duration_since(asked_at));
        }
    }
    (pace.window(), f64::from(done) * f64::from(Layout::BLOCK_BYTES) / (seconds / 2.0), longest)
}

#[test]
fn a_long_path_is_filled() {
    let way = Duration::from_millis(100);
    let (window, rate, _) = settle(12_500_000.0, way, 20.0);
    assert_eq!(window, Pace::BLOCKS_MAX);
    assert!(rate > 8_000_000.0, "{rate}");
    let (_, rate, _) = settle(1_250_000.0, way, 20.0);
    assert!(rate > 1_100_000.0, "10 Mbit/s: {rate}");
}

#[test]
fn a_narrow_path_keeps_short_queues() {
    for rate in [125_000.0, 1_250_000.0] {
        let way = Duration::from_millis(30);
        let (_, reached, longest) = settle(rate, way, 30.0);
        assert!(reached > 0.85 * rate, "{rate}: {reached}");
        let allowed = way + Duration::from_millis(100) + Duration::from_secs_f64(4.0 * f64::from(Layout::BLOCK_BYTES) / rate);
        assert!(longest < allowed, "{rate}: {longest:?}");
    }
}

#[test]
fn progress_bits_are_those_of_the_chunks() {
    let layout = Layout::of_size(20 * Layout::CHUNK_BYTES_MIN);
    let mut pull = Pull::new(layout, &[0b1000_0001, 0, 0b1111_1111], 64);
    assert_eq!(pull.verified_bytes(), 6 * Layout::CHUNK_BYTES_MIN, "bits beyond the end count for nothing");
    assert_eq!(pull.progress().len(), 3);
    let mut asked = BTreeSet::new();
    let now = Instant::now();
    while let Some(block) = pull.poll_block(now) {
        asked.insert(layout.chunk_at(block.offset));
        pull.handle_block(block.offset, block.length as usize, now);
        pull.handle_written(block.offset);
    }
    assert!(asked.contains(&1) && !asked.contains(&0) && !asked.contains(&7));
}
