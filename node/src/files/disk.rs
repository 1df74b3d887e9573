//! The blocking half of transfers: threads that read, hash, write and move files, told what to do over bounded channels.
//!
//! A worker ends when its channel is dropped, and what it finds out goes to the event loop as [`FileNews`]. It holds one block, or one buffer
//! of [`BUFFER_BYTES`], at a time.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

use halloo_protocol::file::{ChunkHash, ChunkHasher, FileId, Layout};
use tokio::sync::mpsc;

use crate::event_loop::Internal;

/// Bytes read at once for hashing.
const BUFFER_BYTES: usize = 64 * 1024;

/// Reads served between two looks whether the file is still the same.
const READS_PER_LOOK: u32 = 64;

/// Names tried when the wanted one is taken.
const NAMES_TRIED_MAX: u32 = 1_000;

/// When a file was last changed, in nanoseconds since 1970; 0 where the system doesn't tell.
pub(super) type Modified = u64;

/// What a worker has done.
#[derive(Debug)]
pub(crate) struct FileNews {
    pub(super) id: FileId,
    /// The worker: news of one that was given up count for nothing.
    pub(super) worker: u64,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    /// The file was read once.
    Prepared { size: u64, modified: Modified, hashes: Vec<ChunkHash> },
    /// It couldn't be.
    NotPrepared(String),
    /// A block was read.
    Read { ticket: Ticket, bytes: Vec<u8> },
    /// The file isn't what was offered any more.
    Gone,
    /// It can't be read.
    Unreadable(io::Error),
    /// The part file is there; `is_fresh` if nothing is in it.
    Opened { is_fresh: bool },
    /// A block is written.
    Written { offset: u64 },
    /// A chunk was compared with its hash.
    Verified { chunk: u32, is_good: bool },
    /// These chunks are safe on disk.
    Synced(Vec<u32>),
    /// The file stands under its name.
    Placed(PathBuf),
    /// The disk refused.
    Failed(io::Error),
}

/// Whom a block is for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticket {
    pub(super) peer: libp2p::PeerId,
    pub(super) via: libp2p::swarm::ConnectionId,
    pub(super) frame: u32,
}

/// Says what was done; `false` if nobody listens any more.
#[derive(Clone, Debug)]
pub(super) struct Teller {
    pub(super) id: FileId,
    pub(super) worker: u64,
    pub(super) sender: mpsc::Sender<Internal>,
}

impl Teller {
    fn tell(&self, what: What) -> bool {
        self.sender.blocking_send(Internal::File(FileNews { id: self.id, worker: self.worker, what })).is_ok()
    }
}

/// A file being hashed.
#[derive(Debug)]
pub(super) struct Hashing {
    pub(super) worker: u64,
    pub(super) done: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Drop for Hashing {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Starts to hash the file at `path`.
pub(super) fn hash_file(teller: Teller, path: PathBuf) -> Hashing {
    let (done, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let hashing = Hashing { worker: teller.worker, done: Arc::clone(&done), stop: Arc::clone(&stop) };
    tokio::task::spawn_blocking(move || {
        let what = match hash_all(&path, &done, &stop) {
            Ok(Some((size, modified, hashes))) => What::Prepared { size, modified, hashes },
            Ok(None) => return,
            Err(error) => What::NotPrepared(error.to_string()),
        };
        teller.tell(what);
    });
    hashing
}

type Prepared = (u64, Modified, Vec<ChunkHash>);

/// `None` if stopped. The size is that of before: a file that grows meanwhile is refused.
fn hash_all(path: &Path, done: &AtomicU64, stop: &AtomicBool) -> io::Result<Option<Prepared>> {
    let mut file = File::open(path)?;
    let metadata = file.metadata()?;
    let (size, before) = (metadata.len(), modified(&metadata));
    let layout = Layout::of_size(size);
    let mut hashes = Vec::with_capacity(layout.chunks() as usize);
    let mut hasher = ChunkHasher::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    for chunk in 0..layout.chunks() {
        let mut left = layout.chunk_len(chunk);
        while left > 0 {
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let part = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let part = &mut buffer[..part];
            file.read_exact(part)?;
            hasher.update(part);
            left -= part.len() as u64;
            done.fetch_add(part.len() as u64, Ordering::Relaxed);
        }
        hashes.push(hasher.finish());
    }
    let after = file.metadata()?;
    if after.len() != size || modified(&after) != before {
        return Err(io::Error::other("it was changed while it was read"));
    }
    Ok(Some((size, before, hashes)))
}

pub(super) fn modified(metadata: &std::fs::Metadata) -> Modified {
    let since = metadata.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    since.and_then(|since| u64::try_from(since.as_nanos()).ok()).unwrap_or(0)
}

/// A block wanted of a file on offer.
#[derive(Debug)]
pub(super) struct ReadJob {
    pub(super) ticket: Ticket,
    pub(super) offset: u64,
    pub(super) length: u32,
}

/// Serves blocks of the file at `path`, as long as it is the one that was offered.
pub(super) fn serve_file(teller: Teller, path: PathBuf, size: u64, was: Modified, queue: usize) -> mpsc::Sender<ReadJob> {
    let (jobs, mut waiting) = mpsc::channel::<ReadJob>(queue);
    tokio::task::spawn_blocking(move || {
        let is_same = |metadata: &std::fs::Metadata| metadata.is_file() && metadata.len() == size && modified(metadata) == was;
        let served = open_source(&path, is_same).and_then(|mut file| {
            let mut reads = 0_u32;
            while let Some(job) = waiting.blocking_recv() {
                let looks = reads.is_multiple_of(READS_PER_LOOK);
                reads = reads.wrapping_add(1);
                if looks && !file.metadata().is_ok_and(|metadata| is_same(&metadata)) {
                    return Err(What::Gone);
                }
                let bytes = read_block(&mut file, job.offset, job.length).map_err(unreadable)?;
                if !teller.tell(What::Read { ticket: job.ticket, bytes }) {
                    break;
                }
            }
            Ok(())
        });
        if let Err(what) = served {
            teller.tell(what);
        }
    });
    jobs
}

/// The file, if it is still the one that was offered. It is looked at before it is opened: opening what isn't a file may never end.
fn open_source(path: &Path, is_same: impl Fn(&std::fs::Metadata) -> bool) -> Result<File, What> {
    match std::fs::metadata(path) {
        Ok(metadata) if is_same(&metadata) => File::open(path).map_err(unreadable),
        Ok(_) => Err(What::Gone),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(What::Gone),
        Err(error) => Err(unreadable(error)),
    }
}

/// A file that ends too early has been cut short since the last look.
fn unreadable(error: io::Error) -> What {
    if error.kind() == ErrorKind::UnexpectedEof { What::Gone } else { What::Unreadable(error) }
}

fn read_block(file: &mut File, offset: u64, length: u32) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length as usize];
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// What a receiving worker is told.
#[derive(Debug)]
pub(super) enum WriteJob {
    /// Put this there.
    Write { offset: u64, bytes: Vec<u8> },
    /// Compare a chunk with its hash.
    Verify { chunk: u32, hash: ChunkHash },
    /// Make what is written safe, and say that these are.
    Sync(Vec<u32>),
    /// All is there and safe: give it its name.
    Place(Target),
}

/// Where a file is to stand.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) path: PathBuf,
}

/// Writes to the part file at `part`.
pub(super) fn receive_file(teller: Teller, part: PathBuf, layout: Layout, expects: bool, queue: usize) -> mpsc::Sender<WriteJob> {
    let (jobs, mut waiting) = mpsc::channel(queue);
    tokio::task::spawn_blocking(move || {
        let (mut file, is_fresh) = match open_part(&part, layout.size(), expects) {
            Ok(opened) => opened,
            Err(error) => {
                teller.tell(What::Failed(error));
                return;
            }
        };
        if !teller.tell(What::Opened { is_fresh }) {
            return;
        }
        let mut buffer = vec![0; BUFFER_BYTES];
        while let Some(job) = waiting.blocking_recv() {
            let done = match job {
                WriteJob::Write { offset, bytes } => write_block(&mut file, offset, &bytes).map(|()| What::Written { offset }),
                WriteJob::Verify { chunk, hash } => hash_chunk(&mut file, &layout, chunk, &mut buffer)
                    .map(|found| What::Verified { chunk, is_good: found == hash }),
                WriteJob::Sync(chunks) => file.sync_data().map(|()| What::Synced(chunks)),
                WriteJob::Place(target) => file.sync_all().and_then(|()| place(&part, &target)).map(What::Placed),
            };
            let what = done.unwrap_or_else(What::Failed);
            let goes_on = !matches!(what, What::Failed(_) | What::Placed(_));
            if !teller.tell(what) || !goes_on {
                return;
            }
        }
    });
    jobs
}

/// The part file, and whether nothing of what was there before can be used. Never through a link: somebody else may have put it there.
fn open_part(part: &Path, size: u64, expects: bool) -> io::Result<(File, bool)> {
    match std::fs::symlink_metadata(part) {
        Ok(metadata) if !metadata.is_file() => Err(io::Error::other("something else has the name of the unfinished file")),
        Ok(metadata) => {
            let file = OpenOptions::new().read(true).write(true).open(part)?;
            let is_ours = expects && metadata.len() == size;
            if !is_ours {
                file.set_len(0)?;
                file.set_len(size)?;
            }
            Ok((file, !is_ours))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create_new(true);
            #[cfg(unix)]
            {
                use std::os::unix::fs::OpenOptionsExt;
                options.mode(0o600);
            }
            let file = options.open(part)?;
            file.set_len(size)?;
            Ok((file, true))
        }
        Err(error) => Err(error),
    }
}

fn write_block(file: &mut File, offset: u64, bytes: &[u8]) -> io::Result<()> {
    file.seek(SeekFrom::Start(offset))?;
    file.write_all(bytes)
}

fn hash_chunk(file: &mut File, layout: &Layout, chunk: u32, buffer: &mut [u8]) -> io::Result<ChunkHash> {
    file.seek(SeekFrom::Start(layout.chunk_start(chunk)))?;
    let mut hasher = ChunkHasher::new();
    let mut left = layout.chunk_len(chunk);
    while left > 0 {
        let part = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        file.read_exact(&mut buffer[..part])?;
        hasher.update(&buffer[..part]);
        left -= part as u64;
    }
    Ok(hasher.finish())
}

/// Gives the part file its name, or the next free one like it; never that of a file that is there.
fn place(part: &Path, target: &Target) -> io::Result<PathBuf> {
    for number in 0..NAMES_TRIED_MAX {
        let path = numbered(&target.path, number);
        match move_without_overwriting(part, &path) {
            Ok(()) => {
                sync_directory(&path);
                return Ok(path);
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::new(ErrorKind::AlreadyExists, "too many files of that name are there"))
}

/// `photo.jpg`, `photo (1).jpg`, ..
pub(super) fn numbered(path: &Path, number: u32) -> PathBuf {
    if number == 0 {
        return path.to_owned();
    }
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let extension = path.extension().map(|extension| format!(".{}", extension.to_string_lossy())).unwrap_or_default();
    path.with_file_name(format!("{stem} ({number}){extension}"))
}

/// A second name for the same file fails if the name is taken, on every system that can do it. Where none can be made, an empty file takes
/// the name first, and is replaced.
fn move_without_overwriting(part: &Path, path: &Path) -> io::Result<()> {
    match std::fs::hard_link(part, path) {
        Ok(()) => std::fs::remove_file(part),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(error),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(error),
        Err(_) => {
            OpenOptions::new().write(true).create_new(true).open(path)?;
            std::fs::rename(part, path).inspect_err(|_| drop(std::fs::remove_file(path)))
        }
    }
}

/// The new name is safe once the directory is. A system that can't sync directories keeps names its own way.
fn sync_directory(path: &Path) {
    if let Some(directory) = path.parent()
        && let Ok(directory) = File::open(directory)
    {
        drop(directory.sync_all());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_taken_is_numbered() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let at = |name: &str| folder.path().join(name);
        let target = Target { path: at("photo.tar.gz") };
        for expected in ["photo.tar.gz", "photo.tar (1).gz", "photo.tar (2).gz"] {
            std::fs::write(at("part"), expected).expect("room");
            assert_eq!(place(&at("part"), &target).expect("placed"), at(expected));
            assert_eq!(std::fs::read_to_string(at(expected)).expect("there"), expected, "nothing was overwritten");
            assert!(!at("part").exists());
        }
        std::fs::write(at("part"), "x").expect("room");
        let nowhere = Target { path: at("no such directory/x") };
        assert_eq!(place(&at("part"), &nowhere).expect_err("no directory").kind(), ErrorKind::NotFound);
        assert!(at("part").exists(), "what was fetched stays");
    }

    #[test]
    fn a_part_file_is_used_only_if_it_is_the_one() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let part = folder.path().join("x.part");
        assert!(open_part(&part, 10, false).expect("made").1);
        assert!(!open_part(&part, 10, true).expect("opened").1);
        assert!(open_part(&part, 11, true).expect("made anew").1, "another size");
        std::fs::remove_file(&part).expect("there");
        assert!(open_part(&part, 10, true).expect("made").1, "it was gone");
        std::fs::remove_file(&part).expect("there");
        std::fs::write(folder.path().join("victim"), "precious").expect("room");
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(folder.path().join("victim"), &part).expect("a link");
            assert!(open_part(&part, 10, true).is_err(), "links aren't followed");
            assert_eq!(std::fs::read_to_string(folder.path().join("victim")).expect("there"), "precious");
        }
    }

    #[test]
    fn hashes_are_those_of_the_chunks_and_a_change_is_noticed() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("x");
        let bytes = vec![7; 300_000];
        std::fs::write(&path, &bytes).expect("room");
        let (done, stop) = (AtomicU64::new(0), AtomicBool::new(false));
        let (size, _, hashes) = hash_all(&path, &done, &stop).expect("read").expect("not stopped");
        assert_eq!((size, hashes.len(), done.load(Ordering::Relaxed)), (300_000, 2, 300_000));
        let mut file = File::open(&path).expect("there");
        let mut buffer = vec![0; BUFFER_BYTES];
        assert_eq!(hash_chunk(&mut file, &Layout::of_size(size), 1, &mut buffer).expect("read"), hashes[1]);
        stop.store(true, Ordering::Relaxed);
        assert!(hash_all(&path, &done, &stop).expect("read").is_none());
    }
}
