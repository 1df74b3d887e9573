//! Video from files and to files: VP8 in IVF, H.264 as a stream of units behind start codes (annex B).
//!
//! IVF says when each frame is to be shown; annex B doesn't, so [`ANNEX_B_RATE`] pictures a second are assumed. A recording has the format that goes
//! with what comes, whatever the file is called. Files are read and written in threads of the runtime's blocking pool.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::atomic::Ordering,
    time::Duration,
};

use tokio::{sync::mpsc, task::JoinHandle, time::Instant};

use super::{CLOCK_HZ, FRAME_BYTES_MAX, VideoCodec, VideoEvent, VideoFrame, VideoLink, VideoPort, packets, ticks_of};

/// Pictures a second in a file that doesn't say.
pub const ANNEX_B_RATE: u32 = 30;
/// Frames read ahead, and waiting to be written.
const AHEAD_MAX: usize = 8;
const IVF_HEAD: usize = 32;
const IVF_FRAME_HEAD: usize = 12;
/// Frames between two updates of a recording's head, so that a process that is killed leaves a file that can be played.
const HEAD_EVERY: u32 = 30;
/// Bytes of an annex B file read at once.
const CHUNK: usize = 64 * 1_024;

/// What is wrong with a file of video.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VideoFileError {
    /// It can't be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is neither IVF with VP8 nor annex B with H.264.
    #[error("neither VP8 in IVF nor H.264 with start codes")]
    Format,
    /// Its head says something impossible.
    #[error("damaged: {0}")]
    Damaged(&'static str),
    /// A frame is longer than [`FRAME_BYTES_MAX`].
    #[error("a frame is longer than {FRAME_BYTES_MAX} bytes")]
    FrameTooLong,
}

/// The files of one end of a call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VideoFiles {
    /// What is sent, once, from its beginning.
    pub play: Option<PathBuf>,
    /// What is received. Replaced if it exists; not made if nothing comes.
    pub record: Option<PathBuf>,
}

impl VideoFiles {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.play.is_none() && self.record.is_none()
    }

    /// Finds what is wrong with the files before the call instead of in it. Reads the first frame: may wait for the disk.
    ///
    /// # Errors
    /// The file, and what is wrong with it.
    pub fn check_blocking(&self) -> Result<(), (PathBuf, VideoFileError)> {
        if let Some(path) = &self.play {
            let first = Source::open(path).and_then(|mut source| source.next_frame());
            match first {
                Ok(Some(_)) => {}
                Ok(None) => return Err((path.clone(), VideoFileError::Damaged("no frames"))),
                Err(error) => return Err((path.clone(), error)),
            }
        }
        if let Some(path) = &self.record {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            if !folder.is_dir() || path.is_dir() {
                return Err((path.clone(), io::Error::from(io::ErrorKind::NotFound).into()));
            }
        }
        Ok(())
    }

    /// Plays and records until the call is over, in a task of its own. Within a runtime.
    pub fn attach(self, link: &VideoLink, port: VideoPort) {
        link.0.is_file.store(true, Ordering::Relaxed);
        tokio::spawn(self.run(port));
    }

    async fn run(self, mut port: VideoPort) {
        let mut player: Option<mpsc::Receiver<VideoFrame>> = None;
        let mut recorder = self.record.clone().map(Recorder::new);
        let mut next: Option<VideoFrame> = None;
        let mut began = Instant::now();
        loop {
            let due = next.as_ref().map_or(began, |frame| began + frame.at);
            tokio::select! {
                event = port.next() => match event {
                    Some(VideoEvent::Started(_)) => {
                        began = Instant::now();
                        player = self.play.clone().map(play);
                    }
                    Some(VideoEvent::Frame(frame)) => {
                        if let Some(recorder) = &mut recorder {
                            recorder.push(frame);
                        }
                    }
                    // A file can't be encoded anew; its next key frame comes when it comes.
                    Some(VideoEvent::KeyFrameWanted) => {}
                    Some(VideoEvent::Ended) | None => break,
                },
                () = tokio::time::sleep_until(due), if next.is_some() => {
                    if let Some(Err(error)) = next.take().map(|frame| port.send(frame)) {
                        tracing::debug!(%error, "frame of a file not sent");
                    }
                }
                frame = read(&mut player), if next.is_none() && player.is_some() => {
                    next = frame;
                    if next.is_none() {
                        player = None;
                    }
                }
            }
        }
        if let Some(recorder) = recorder {
            recorder.finish().await;
        }
    }
}

async fn read(player: &mut Option<mpsc::Receiver<VideoFrame>>) -> Option<VideoFrame> {
    player.as_mut()?.recv().await
}

/// Reads a file ahead on a thread.
fn play(path: PathBuf) -> mpsc::Receiver<VideoFrame> {
    let (sender, frames) = mpsc::channel(AHEAD_MAX);
    tokio::task::spawn_blocking(move || {
        let played = Source::open(&path).and_then(|mut source| {
            while let Some(frame) = source.next_frame()? {
                if sender.blocking_send(frame).is_err() {
                    break;
                }
            }
            Ok(())
        });
        if let Err(error) = played {
            tracing::warn!(path = %path.display(), %error, "video not played to its end");
        }
    });
    frames
}

/// A file that is played.
enum Source {
    Ivf { file: BufReader<File>, rate: u64, scale: u64 },
    AnnexB(AnnexB),
}

impl Source {
    fn open(path: &Path) -> Result<Self, VideoFileError> {
        let mut file = BufReader::new(File::open(path)?);
        let mut head = Vec::new();
        file.by_ref().take(IVF_HEAD as u64).read_to_end(&mut head)?;
        if head.starts_with(b"DKIF") {
            return Self::ivf(file, &head);
        }
        if !(head.starts_with(&[0, 0, 1]) || head.starts_with(&[0, 0, 0, 1])) {
            return Err(VideoFileError::Format);
        }
        file.seek(SeekFrom::Start(0))?;
        Ok(Self::AnnexB(AnnexB { file, buffer: Vec::new(), is_end: false, units: VecDeque::new(), pictures: 0 }))
    }

    fn ivf(mut file: BufReader<File>, head: &[u8]) -> Result<Self, VideoFileError> {
        let damaged = || VideoFileError::Damaged("the head is cut off");
        let word = |at: usize| head.get(at..at + 4).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok()).map(u32::from_le_bytes);
        let length = head.get(6..8).ok_or_else(damaged)?;
        if head.get(8..12) != Some(b"VP80") {
            return Err(VideoFileError::Format);
        }
        let (rate, scale) = (word(16).ok_or_else(damaged)?, word(20).ok_or_else(damaged)?);
        if rate == 0 || scale == 0 {
            return Err(VideoFileError::Damaged("its time has no unit"));
        }
        file.seek(SeekFrom::Start(u64::from(u16::from_le_bytes([length[0], length[1]]))))?;
        Ok(Self::Ivf { file, rate: rate.into(), scale: scale.into() })
    }

    fn next_frame(&mut self) -> Result<Option<VideoFrame>, VideoFileError> {
        match self {
            Self::AnnexB(source) => source.next_frame(),
            Self::Ivf { file, rate, scale } => {
                let mut head = Vec::new();
                file.by_ref().take(IVF_FRAME_HEAD as u64).read_to_end(&mut head)?;
                let Some((length, shown)) = head.split_first_chunk::<4>() else { return Ok(None) };
                let Ok(shown) = <[u8; 8]>::try_from(shown) else { return Ok(None) };
                let length = u32::from_le_bytes(*length) as usize;
                if length > FRAME_BYTES_MAX {
                    return Err(VideoFileError::FrameTooLong);
                }
                let mut data = Vec::with_capacity(length);
                file.by_ref().take(length as u64).read_to_end(&mut data)?;
                if data.len() < length || data.is_empty() {
                    return Ok(None);
                }
                let nanos = u128::from(u64::from_le_bytes(shown)) * u128::from(*scale) * 1_000_000_000 / u128::from(*rate);
                let at = Duration::from_nanos(u64::try_from(nanos).map_err(|_| VideoFileError::Damaged("a time out of reach"))?);
                Ok(Some(VideoFrame::new(VideoCodec::Vp8, at, data)))
            }
        }
    }
}

/// Finds pictures in a stream of units.
struct AnnexB {
    file: BufReader<File>,
    /// What was read and isn't cut into units yet.
    buffer: Vec<u8>,
    is_end: bool,
    /// Units of the picture that is being collected, and at most one beyond.
    units: VecDeque<Vec<u8>>,
    pictures: u32,
}

impl AnnexB {
    fn next_frame(&mut self) -> Result<Option<VideoFrame>, VideoFileError> {
        let mut data = Vec::new();
        let mut has_picture = false;
        while let Some(unit) = self.next_unit()? {
            let part = packets::picture_part(&unit);
            // A picture ends where the next one's first part comes, or what stands before one.
            if has_picture && part != Some(false) {
                self.units.push_front(unit);
                break;
            }
            has_picture |= part.is_some();
            data.extend_from_slice(&[0, 0, 0, 1]);
            data.extend_from_slice(&unit);
            if data.len() > FRAME_BYTES_MAX {
                return Err(VideoFileError::FrameTooLong);
            }
        }
        if !has_picture {
            return Ok(None);
        }
        let at = Duration::from_secs(1) * self.pictures / ANNEX_B_RATE;
        self.pictures += 1;
        Ok(Some(VideoFrame::new(VideoCodec::H264, at, data)))
    }

    fn next_unit(&mut self) -> Result<Option<Vec<u8>>, VideoFileError> {
        if let Some(unit) = self.units.pop_front() {
            return Ok(Some(unit));
        }
        loop {
            if let Some((_, begin)) = packets::start_code(&self.buffer, 0) {
                let end = packets::start_code(&self.buffer, begin).map(|(start, _)| start);
                if let Some(end) = end.or(self.is_end.then_some(self.buffer.len())) {
                    // The one unit between the two codes; between codes without any there is none.
                    let unit = packets::units(&self.buffer[..end]).next().map(<[u8]>::to_vec);
                    self.buffer.drain(..end);
                    match unit {
                        Some(unit) => return Ok(Some(unit)),
                        None => continue,
                    }
                }
            } else if self.is_end {
                return Ok(None);
            }
            if self.buffer.len() > FRAME_BYTES_MAX + CHUNK {
                return Err(VideoFileError::FrameTooLong);
            }
            let mut chunk = Vec::with_capacity(CHUNK);
            self.is_end = self.file.by_ref().take(CHUNK as u64).read_to_end(&mut chunk)? == 0;
            self.buffer.append(&mut chunk);
        }
    }
}

/// The thread that writes a recording.
type Writing = JoinHandle<Result<(), VideoFileError>>;

/// Writes what comes on a thread. The format is that of the first frame; frames in another are left out.
struct Recorder {
    path: PathBuf,
    running: Option<(mpsc::Sender<VideoFrame>, Writing)>,
    /// Frames that the disk was too slow for: what depends on them is left out too.
    needs_key: bool,
}

impl Recorder {
    const fn new(path: PathBuf) -> Self {
        Self { path, running: None, needs_key: true }
    }

    fn push(&mut self, frame: VideoFrame) {
        if self.needs_key && !frame.is_key {
            return;
        }
        let path = &self.path;
        let (sender, _) = self.running.get_or_insert_with(|| {
            let (sender, frames) = mpsc::channel(AHEAD_MAX);
            let (path, codec) = (path.clone(), frame.codec);
            (sender, tokio::task::spawn_blocking(move || record(&path, codec, frames)))
        });
        self.needs_key = sender.try_send(frame).is_err();
    }

    async fn finish(self) {
        let Some((sender, thread)) = self.running else { return };
        drop(sender);
        let written = thread.await.map_err(io::Error::other).map_err(VideoFileError::from).and_then(|written| written);
        if let Err(error) = written {
            tracing::warn!(path = %self.path.display(), %error, "video not recorded to its end");
        }
    }
}

fn record(path: &Path, codec: VideoCodec, mut frames: mpsc::Receiver<VideoFrame>) -> Result<(), VideoFileError> {
    let mut file = BufWriter::new(File::create(path)?);
    let mut written: u32 = 0;
    while let Some(frame) = frames.blocking_recv() {
        if frame.codec != codec {
            continue;
        }
        if codec == VideoCodec::Vp8 {
            if written == 0 {
                file.write_all(&ivf_head(&frame.data, 0))?;
            }
            // No longer than FRAME_BYTES_MAX.
            file.write_all(&u32::try_from(frame.data.len()).unwrap_or_default().to_le_bytes())?;
            file.write_all(&ticks_of(frame.at).to_le_bytes())?;
        }
        file.write_all(&frame.data)?;
        written = written.saturating_add(1);
        if written.is_multiple_of(HEAD_EVERY) {
            count_frames(&mut file, codec, written)?;
        }
    }
    count_frames(&mut file, codec, written)
}

fn count_frames(file: &mut BufWriter<File>, codec: VideoCodec, written: u32) -> Result<(), VideoFileError> {
    if codec == VideoCodec::Vp8 {
        file.seek(SeekFrom::Start(24))?;
        file.write_all(&written.to_le_bytes())?;
        file.seek(SeekFrom::End(0))?;
    }
    Ok(file.flush()?)
}

/// The head of an IVF file whose first frame this is.
fn ivf_head(key_frame: &[u8], frames: u32) -> Vec<u8> {
    // Width and height stand behind the frame's tag and start code, the upper two bits being a scale (RFC 6386 section 9.1).
    let side = |at: usize| match key_frame.get(at..at + 2) {
        Some(&[low, high]) => u16::from_le_bytes([low, high]) & 0x3FFF,
        _ => 0,
    };
    let mut head = b"DKIF\0\0\x20\0VP80".to_vec();
    head.extend_from_slice(&side(6).to_le_bytes());
    head.extend_from_slice(&side(8).to_le_bytes());
    // 90 kHz.
    head.extend_from_slice(&(CLOCK_HZ as u32).to_le_bytes());
    head.extend_from_slice(&1_u32.to_le_bytes());
    head.extend_from_slice(&frames.to_le_bytes());
    head.extend_from_slice(&0_u32.to_le_bytes());
    head
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
