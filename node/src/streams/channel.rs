//! One overlay stream: hello first, frames both ways, each half ending by itself.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};

use libp2p::{
    core::upgrade::NegotiationError,
    futures::{AsyncRead, AsyncWrite},
    swarm::Stream,
};

use super::{
    StreamError,
    frame::{FrameError, FrameReader, FrameWriter},
};

/// Frames are gathered up to this many bytes before a write: several small ones share a write and a
/// flush, and the transport's own packets are not much larger.
const WRITE_CHUNK: usize = 16 * 1024;

/// Bytes asked of the stream at once; on the stack, not kept per stream.
const READ_CHUNK: usize = 8 * 1024;

/// What came out of a stream.
#[derive(Debug)]
pub(super) enum Read {
    Hello(Vec<u8>),
    Frame(Vec<u8>),
    /// The peer has closed its half, at a frame's end.
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WriteHalf {
    Open,
    /// What is held still goes out, nothing more.
    Finishing,
    Closed,
}

/// See the [module's documentation](self).
#[derive(Debug)]
pub(super) struct Channel {
    stream: Stream,
    ours: bool,
    reader: FrameReader,
    writer: FrameWriter,
    /// The peer's hello has come.
    greeted: bool,
    /// The peer has sent anything, so it speaks the protocol. Until then, lazy negotiation may
    /// still fail, and with it all we wrote.
    confirmed: bool,
    /// Frames written while not `confirmed`.
    unconfirmed: usize,
    /// Queued frames in `writer`, and their bytes.
    held: (usize, usize),
    /// Frames and bytes handed to the stream since the last [`Channel::take_released`].
    released: (usize, usize),
    /// Something was written since the last flush.
    dirty: bool,
    read_ended: bool,
    write_half: WriteHalf,
    stalled: Option<Instant>,
}

impl Channel {
    /// A stream that starts with `hello`; `ours` if we opened it.
    pub(super) fn new(stream: Stream, ours: bool, hello: &[u8]) -> Self {
        let mut writer = FrameWriter::default();
        writer.push(hello);
        Self {
            stream,
            ours,
            reader: FrameReader::default(),
            writer,
            greeted: false,
            confirmed: !ours,
            unconfirmed: 0,
            held: (0, 0),
            released: (0, 0),
            dirty: false,
            read_ended: false,
            write_half: WriteHalf::Open,
            stalled: None,
        }
    }

    pub(super) fn is_ours(&self) -> bool {
        self.ours
    }

    /// Takes no further frames, sends what it holds and closes our half.
    pub(super) fn finish(&mut self) {
        if self.write_half == WriteHalf::Open {
            self.write_half = WriteHalf::Finishing;
        }
    }

    /// Adds a frame of this layer's own behind all it has taken so far. It counts nowhere.
    pub(super) fn push_word(&mut self, frame: &[u8]) {
        if self.write_half == WriteHalf::Open {
            self.writer.push(frame);
        }
    }

    pub(super) fn is_finishing(&self) -> bool {
        self.write_half != WriteHalf::Open
    }

    /// Whether the peer has closed its half.
    pub(super) fn read_ended(&self) -> bool {
        self.read_ended
    }

    /// Whether both halves have ended.
    pub(super) fn is_over(&self) -> bool {
        self.read_ended && self.write_half == WriteHalf::Closed
    }

    /// Whether bytes wait to be written or flushed.
    pub(super) fn has_pending(&self) -> bool {
        self.dirty || !self.writer.pending().is_empty()
    }

    /// Since when the stream has taken nothing, if something waits.
    pub(super) fn stalled_since(&self) -> Option<Instant> {
        self.stalled
    }

    /// Frames taken from the queue and not yet handed to the stream.
    pub(super) fn held_frames(&self) -> usize {
        self.held.0
    }

    /// Bytes of [`Channel::held_frames`].
    pub(super) fn held_bytes(&self) -> usize {
        self.held.1
    }

    /// Frames taken from the queue that certainly did not reach the peer, if the stream ends now.
    pub(super) fn undelivered(&self) -> usize {
        self.held.0 + self.unconfirmed
    }

    /// Frames and bytes handed to the stream since the last call.
    pub(super) fn take_released(&mut self) -> (usize, usize) {
        std::mem::take(&mut self.released)
    }

    /// Writes what it holds, and as much of `queue` as the stream takes, then flushes once.
    /// Registers for waking if anything is left.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, mut queue: Option<&mut VecDeque<Vec<u8>>>) -> io::Result<()> {
        match self.poll_write_all(cx, &mut queue) {
            Poll::Ready(result) => {
                self.stalled = None;
                if result.is_err() {
                    self.write_half = WriteHalf::Closed;
                    self.writer = FrameWriter::default();
                    self.dirty = false;
                }
                result
            }
            Poll::Pending => {
                self.stalled.get_or_insert_with(Instant::now);
                Ok(())
            }
        }
    }

    fn poll_write_all(&mut self, cx: &mut Context<'_>, queue: &mut Option<&mut VecDeque<Vec<u8>>>) -> Poll<io::Result<()>> {
        loop {
            if let Some(queue) = queue {
                self.fill(queue);
            }
            if self.writer.pending().is_empty() {
                break;
            }
            let pending = self.writer.pending();
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, pending))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.stalled = None;
            self.dirty = true;
            self.writer.advance(written);
            if self.writer.pending().is_empty() {
                self.release();
            }
        }
        if self.dirty {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.dirty = false;
        }
        if self.write_half == WriteHalf::Finishing {
            ready!(Pin::new(&mut self.stream).poll_close(cx))?;
            self.write_half = WriteHalf::Closed;
        }
        Poll::Ready(Ok(()))
    }

    fn fill(&mut self, queue: &mut VecDeque<Vec<u8>>) {
        while self.write_half == WriteHalf::Open
            && self.writer.pending().len() < WRITE_CHUNK
            && let Some(frame) = queue.pop_front()
        {
            self.writer.push(&frame);
            self.held.0 += 1;
            self.held.1 += frame.len();
        }
    }

    fn release(&mut self) {
        let (frames, bytes) = std::mem::take(&mut self.held);
        self.released.0 += frames;
        self.released.1 += bytes;
        if !self.confirmed {
            self.unconfirmed += frames;
        }
    }

    /// The next frame or the end. After an error the stream is of no use.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Read, StreamError>> {
        if self.read_ended {
            return Poll::Pending;
        }
        loop {
            if let Some(frame) = self.reader.next_frame()? {
                return Poll::Ready(Ok(self.classify(frame)));
            }
            let mut chunk = [0; READ_CHUNK];
            match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut chunk)) {
                Ok(0) => return Poll::Ready(self.handle_end()),
                Ok(read) => {
                    self.confirmed = true;
                    self.unconfirmed = 0;
                    self.reader.extend(&chunk[..read]);
                }
                Err(error) => return Poll::Ready(Err(read_error(error))),
            }
        }
    }

    fn classify(&mut self, frame: Vec<u8>) -> Read {
        if std::mem::replace(&mut self.greeted, true) { Read::Frame(frame) } else { Read::Hello(frame) }
    }

    fn handle_end(&mut self) -> Result<Read, StreamError> {
        self.read_ended = true;
        if self.reader.is_empty() { Ok(Read::End) } else { Err(StreamError::Io(io::ErrorKind::UnexpectedEof.into())) }
    }
}

impl From<FrameError> for StreamError {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Malformed => Self::Malformed,
            FrameError::Oversized(length) => Self::Oversized(length),
        }
    }
}

/// Lazy negotiation reports at the first read that the peer does not know the protocol.
fn read_error(error: io::Error) -> StreamError {
    let refused = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<NegotiationError>())
        .is_some_and(|inner| matches!(inner, NegotiationError::Failed));
    if refused { StreamError::Unsupported } else { StreamError::Io(error) }
}
