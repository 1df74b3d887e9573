//! The part of [`Streams`](super::Streams) that lives with one connection: opens, reads and
//! writes its streams, and says whether the connection is still needed.
//!
//! Frames are written to one stream, the first there is; any other (both sides opened at once) is
//! only read, but for our hello on it.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use libp2p::{
    StreamProtocol,
    core::upgrade::ReadyUpgrade,
    swarm::{
        ConnectionHandler, ConnectionHandlerEvent, Stream, StreamUpgradeError, SubstreamProtocol,
        handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound},
    },
};
use tokio::time::Sleep;

use super::{
    CLOSE_TIMEOUT, DRAIN_LINGER, DRAIN_TIMEOUT, Gauge, Greeting, MAX_INBOUND_STREAMS, STALL_TIMEOUT, StreamError, Traffic,
    channel::{Channel, Read},
    rest::{Rest, Word},
};

/// Frames still readable when a connection closes are delivered up to this many, so that a peer
/// cannot hold the closing open by writing on.
const MAX_FRAMES_AT_CLOSE: usize = 4_096;

/// What the behaviour asks of a handler.
#[derive(Debug)]
pub enum Command {
    /// Queue this frame; room for it has been reserved.
    Send(Vec<u8>),
    /// Open a stream, though there is nothing to send yet.
    Open,
    /// The first frame of streams from now on.
    Hello(Greeting),
    /// Keep the connection open without frames, or no longer.
    Keep(bool),
    /// Keep it open as long as the peer wants it, or not for that.
    Heed(bool),
    /// Send what is queued, then bring all streams to their end; stay a while for late ones.
    Drain,
    /// The same, but report as soon as nothing is left, and do not wait long for it.
    Finish,
    /// Be of use again after `Drain`.
    Resume,
}

/// What a handler tells the behaviour.
#[derive(Debug)]
pub enum FromHandler {
    /// The first stream has opened (`true`), or the last one ended.
    Open(bool),
    /// A stream's first frame.
    Hello(Vec<u8>),
    /// Any further frame.
    Frame(Vec<u8>),
    /// Both ends have said that they need the connection no longer; or one of them does again.
    Resting(bool),
    /// After `Drain` or `Finish`: nothing is left, or it took too long. Said once.
    Drained,
    /// A stream failed.
    Failed {
        /// How.
        error: StreamError,
        /// Frames that did not get across.
        undelivered: usize,
    },
}

/// How a connection is being left.
#[derive(Debug, Clone, Copy)]
struct Drain {
    since: Instant,
    /// How long it has to be quiet without a stream.
    linger: Duration,
    /// When patience ends.
    deadline: Instant,
}

type Output = ConnectionHandlerEvent<ReadyUpgrade<StreamProtocol>, (), FromHandler>;

/// See the [module's documentation](self).
#[derive(Debug)]
pub struct Handler {
    protocol: StreamProtocol,
    idle: Duration,
    hello: Greeting,
    gauge: Arc<Gauge>,
    traffic: Arc<Traffic>,

    /// Frames not yet given to a stream; bounded by `gauge`.
    queue: VecDeque<Vec<u8>>,
    /// The stream that takes our frames.
    writer: Option<Channel>,
    /// Other streams, read to their end.
    readers: Vec<Channel>,
    /// An outbound stream has been asked for.
    opening: bool,
    /// `Command::Open` waits for a stream.
    open_wanted: bool,
    /// `FromHandler::Open(true)` was the last word.
    reported_open: bool,
    /// Events that wait for the next poll: at most a few per stream.
    events: VecDeque<FromHandler>,

    kept: bool,
    /// What the peer says about needing the connection counts.
    heeds: bool,
    /// `Drain` or `Finish` has come.
    draining: Option<Drain>,
    reported_drained: bool,
    /// When the last frame came or went.
    active: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
    rest: Rest,
    /// Streams are to be looked at once more: a peer has ended its half of one since the last look at what is to be written, or there is more of either.
    again: bool,
    read_at_close: usize,
}

impl Handler {
    pub(super) fn new(
        protocol: StreamProtocol,
        idle: Duration,
        hello: Greeting,
        gauge: Arc<Gauge>,
        traffic: Arc<Traffic>,
    ) -> Self {
        Self {
            protocol,
            idle,
            hello,
            gauge,
            traffic,
            queue: VecDeque::new(),
            writer: None,
            readers: Vec::new(),
            opening: false,
            open_wanted: false,
            reported_open: false,
            events: VecDeque::new(),
            kept: false,
            heeds: false,
            draining: None,
            reported_drained: false,
            active: None,
            timer: None,
            rest: Rest::default(),
            again: false,
            read_at_close: 0,
        }
    }

    fn needs_stream(&self) -> bool {
        self.writer.is_none() && !self.opening && (self.open_wanted || !self.queue.is_empty())
    }

    fn adopt(&mut self, mut stream: Stream, ours: bool) {
        // This handler decides by itself how long the connection is needed.
        stream.ignore_for_keep_alive();
        let hello = self.hello.bytes();
        let mut channel = Channel::new(stream, ours, &hello);
        self.traffic.count_out(1, hello.len());
        if self.writer.is_none() {
            self.open_wanted = false;
            self.writer = Some(channel);
        } else {
            if self.draining.is_some() {
                channel.finish();
            }
            self.readers.push(channel);
        }
        self.active = Some(Instant::now());
        // The hello on it counts as any frame.
        self.rest.stream_opened();
        self.report_rest();
        self.report_open();
    }

    fn handle_inbound(&mut self, stream: Stream) {
        let theirs = |channel: &&Channel| !channel.is_ours();
        let count = self.writer.iter().chain(&self.readers).filter(theirs).count();
        if count >= MAX_INBOUND_STREAMS {
            tracing::debug!("dropping an inbound overlay stream: too many on this connection");
            return;
        }
        self.adopt(stream, false);
    }

    fn handle_outbound(&mut self, stream: Stream) {
        self.opening = false;
        // The peer's own stream came first and is in use: nothing has left on ours yet.
        if self.writer.is_none() {
            self.adopt(stream, true);
        }
    }

    fn handle_upgrade_error(&mut self, error: StreamUpgradeError<std::convert::Infallible>) {
        self.opening = false;
        // An inbound stream that came meanwhile carries the queue.
        if self.writer.is_some() {
            return;
        }
        self.open_wanted = false;
        let error = match error {
            StreamUpgradeError::NegotiationFailed => StreamError::Unsupported,
            StreamUpgradeError::Timeout => StreamError::Timeout,
            StreamUpgradeError::Io(error) => StreamError::Io(error),
            StreamUpgradeError::Apply(never) => match never {},
        };
        let undelivered = self.drop_queue();
        self.events.push_back(FromHandler::Failed { error, undelivered });
    }

    fn drop_queue(&mut self) -> usize {
        let frames = self.queue.len();
        let bytes = self.queue.iter().map(Vec::len).sum();
        self.queue.clear();
        self.gauge.release(frames, bytes);
        frames
    }

    fn report_open(&mut self) {
        let open = self.writer.is_some() || !self.readers.is_empty();
        if self.reported_open != open {
            self.reported_open = open;
            self.events.push_back(FromHandler::Open(open));
        }
    }

    /// The stream our frames go to has failed: what it had, and what waits behind it, is lost.
    fn fail_writer(&mut self, error: StreamError) {
        let Some(channel) = self.writer.take() else {
            return;
        };
        self.gauge.release(channel.held_frames(), channel.held_bytes());
        let undelivered = channel.undelivered() + self.drop_queue();
        self.events.push_back(FromHandler::Failed { error, undelivered });
        self.report_open();
    }

    fn poll_writes(&mut self, cx: &mut Context<'_>) {
        for channel in &mut self.readers {
            // A broken write half has ended, and `reap` says what it lost.
            let _ = channel.poll_write(cx, None);
            note_written(channel, &self.gauge, &self.traffic, &mut self.active);
        }
        if let Some(channel) = &mut self.writer {
            let written = channel.poll_write(cx, Some(&mut self.queue));
            if note_written(channel, &self.gauge, &self.traffic, &mut self.active) {
                self.rest.frame_sent();
            }
            if let Err(error) = written {
                self.fail_writer(StreamError::Io(error));
            } else if self.queue.is_empty() && (self.draining.is_some() || channel.read_ended()) {
                channel.finish();
                let _ = channel.poll_write(cx, None);
            }
        }
        self.reap();
    }

    /// Lets go of streams that have ended on both sides.
    fn reap(&mut self) {
        // A finishing stream only sends what it holds; the next frame opens a new one.
        if let Some(channel) = self.writer.take_if(|channel| channel.is_finishing()) {
            self.readers.push(channel);
        }
        self.drop_readers(Channel::is_over, || io::ErrorKind::BrokenPipe.into());
    }

    /// Drops streams, and reports those that still held frames.
    fn drop_readers(&mut self, over: impl Fn(&Channel) -> bool, cause: impl Fn() -> io::Error) {
        let mut index = 0;
        while let Some(channel) = self.readers.get(index) {
            if !over(channel) {
                index += 1;
                continue;
            }
            let channel = self.readers.swap_remove(index);
            self.gauge.release(channel.held_frames(), channel.held_bytes());
            if channel.held_frames() > 0 {
                self.events
                    .push_back(FromHandler::Failed { error: StreamError::Io(cause()), undelivered: channel.undelivered() });
            }
        }
        self.report_open();
    }

    /// One frame, if there is one. Ends and failures change the streams and push their events.
    fn poll_reads(&mut self, cx: &mut Context<'_>) -> Option<FromHandler> {
        if let Some(channel) = &mut self.writer {
            match channel.poll_read(cx) {
                Poll::Ready(Ok(read)) => match self.handle_read(read) {
                    Ok(Some(event)) => return Some(event),
                    Ok(None) => {}
                    Err(error) => self.fail_writer(error),
                },
                Poll::Ready(Err(error)) => self.fail_writer(error),
                Poll::Pending => {}
            }
        }
        let mut index = 0;
        while let Some(channel) = self.readers.get_mut(index) {
            match channel.poll_read(cx) {
                Poll::Ready(Ok(read)) => {
                    if matches!(read, Read::End) {
                        channel.finish();
                    }
                    match self.handle_read(read) {
                        Ok(Some(event)) => return Some(event),
                        Ok(None) => {}
                        Err(error) => {
                            self.fail_reader(index, error);
                            continue;
                        }
                    }
                }
                Poll::Ready(Err(error)) => {
                    self.fail_reader(index, error);
                    continue;
                }
                Poll::Pending => {}
            }
            index += 1;
        }
        None
    }

    fn fail_reader(&mut self, index: usize, error: StreamError) {
        let channel = self.readers.swap_remove(index);
        self.gauge.release(channel.held_frames(), channel.held_bytes());
        self.events.push_back(FromHandler::Failed { error, undelivered: channel.undelivered() });
        self.report_open();
    }

    /// What was read, for the owner. Without an event there may be more to read.
    fn handle_read(&mut self, read: Read) -> Result<Option<FromHandler>, StreamError> {
        let (bytes, event) = match read {
            Read::Hello(bytes) => (bytes.len(), FromHandler::Hello(bytes)),
            Read::Frame(bytes) => match Word::of(&bytes) {
                Some(word) => {
                    self.again = true;
                    return self.rest.hear(word, Instant::now()).map(|()| None);
                }
                None => (bytes.len(), FromHandler::Frame(bytes)),
            },
            Read::End => {
                self.again = true;
                return Ok(None);
            }
        };
        self.traffic.count_in(bytes);
        self.active = Some(Instant::now());
        self.rest.frame_heard();
        Ok(Some(event))
    }

    /// Says that this end needs the connection no longer, once nothing has passed for long enough, or takes it back.
    fn say_rest(&mut self, now: Instant) {
        let is_idle = self.active.is_none_or(|active| now >= active + self.idle);
        if self.draining.is_none()
            && !self.is_busy()
            && let Some(writer) = &mut self.writer
            && let Some(word) = self.rest.say(self.kept, is_idle)
        {
            writer.push_word(word.frame());
            self.again = true;
        }
        self.report_rest();
    }

    /// Whether both ends have said that they need the connection no longer.
    fn is_resting(&self) -> bool {
        self.rest.is_agreed() && !self.is_busy()
    }

    fn report_rest(&mut self) {
        let resting = self.is_resting();
        self.events.extend(self.rest.news(resting).map(FromHandler::Resting));
    }

    fn start_drain(&mut self, linger: Duration, timeout: Duration) {
        let now = Instant::now();
        self.kept = false;
        self.draining = Some(Drain { since: now, linger, deadline: now + timeout });
        for channel in &mut self.readers {
            channel.finish();
        }
    }

    /// When a connection that is being left will have been quiet for long enough.
    fn quiet_at(&self, drain: Drain) -> Instant {
        self.active.map_or(drain.since, |active| active.max(drain.since)) + drain.linger
    }

    fn is_drained(&self, now: Instant) -> bool {
        self.draining.is_some_and(|drain| {
            let quiet = now >= self.quiet_at(drain) && !self.reported_open && !self.is_busy();
            quiet || now >= drain.deadline
        })
    }

    fn is_busy(&self) -> bool {
        self.opening || !self.queue.is_empty() || self.writer.as_ref().is_some_and(Channel::has_pending)
    }

    /// When this handler's mind may change without anything happening.
    fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let stalled = self.writer.iter().chain(&self.readers).filter_map(Channel::stalled_since).min();
        [
            self.active.map(|active| active + self.idle),
            self.draining.map(|drain| self.quiet_at(drain)),
            self.draining.map(|drain| drain.deadline),
            stalled.map(|since| since + STALL_TIMEOUT),
        ]
        .into_iter()
        .flatten()
        .filter(|deadline| *deadline > now)
        .min()
    }

    fn handle_timeouts(&mut self, now: Instant) {
        let stalled = |channel: &Channel| channel.stalled_since().is_some_and(|since| since + STALL_TIMEOUT <= now);
        let drained = self.draining.is_some_and(|drain| drain.deadline <= now);
        if self.writer.as_ref().is_some_and(stalled) {
            self.fail_writer(StreamError::Stalled);
        } else if drained && self.writer.is_some() {
            self.fail_writer(StreamError::Timeout);
        }
        self.drop_readers(|channel| drained || stalled(channel), || io::ErrorKind::TimedOut.into());
        self.say_rest(now);
        if !self.reported_drained && self.is_drained(now) {
            self.reported_drained = true;
            self.events.push_back(FromHandler::Drained);
        }
    }

    /// Arms the timer for the next deadline. Later activity only moves deadlines back, so the timer is
    /// touched when it fires or an earlier deadline appears, not once a frame.
    fn poll_timer(&mut self, cx: &mut Context<'_>) {
        loop {
            let now = Instant::now();
            self.handle_timeouts(now);
            let Some(deadline) = self.next_deadline(now).map(tokio::time::Instant::from_std) else {
                return;
            };
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
            if timer.is_elapsed() || deadline < timer.deadline() {
                timer.as_mut().reset(deadline);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return;
            }
        }
    }
}

/// Accounts for what a stream has taken since last asked. False if that was nothing.
fn note_written(channel: &mut Channel, gauge: &Gauge, traffic: &Traffic, active: &mut Option<Instant>) -> bool {
    let (frames, bytes) = channel.take_released();
    if frames > 0 {
        gauge.release(frames, bytes);
        traffic.count_out(frames, bytes);
        *active = Some(Instant::now());
    }
    frames > 0
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Command;
    type ToBehaviour = FromHandler;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(ReadyUpgrade::new(self.protocol.clone()), ())
    }

    fn connection_keep_alive(&self) -> bool {
        let now = Instant::now();
        if self.draining.is_some() {
            return !self.reported_drained;
        }
        let active = self.active.is_some_and(|active| now < active + self.idle);
        // It may keep what we don't.
        let is_wanted_there = self.heeds && self.writer.is_some() && !self.is_resting();
        self.kept || self.is_busy() || active || is_wanted_there
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Output> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(event));
            }
            if self.needs_stream() {
                self.opening = true;
                return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol: self.listen_protocol() });
            }
            self.poll_writes(cx);
            if let Some(event) = self.poll_reads(cx) {
                return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(event));
            }
            if std::mem::take(&mut self.again) {
                continue;
            }
            self.poll_timer(cx);
            if self.events.is_empty() && !self.needs_stream() && !std::mem::take(&mut self.again) {
                return Poll::Pending;
            }
        }
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Option<FromHandler>> {
        if self.read_at_close == 0 {
            self.poll_writes(cx);
        }
        if let Some(event) = self.events.pop_front() {
            return Poll::Ready(Some(event));
        }
        // Frames that came just before the end are worth no less than those before.
        while self.read_at_close < MAX_FRAMES_AT_CLOSE {
            self.read_at_close += 1;
            match self.poll_reads(cx) {
                Some(event @ (FromHandler::Hello(_) | FromHandler::Frame(_))) => {
                    return Poll::Ready(Some(event));
                }
                // The connection's own end says the rest.
                Some(_) => {}
                None if std::mem::take(&mut self.again) => {}
                None => break,
            }
        }
        self.read_at_close = MAX_FRAMES_AT_CLOSE;
        Poll::Ready(None)
    }

    fn on_behaviour_event(&mut self, command: Command) {
        match command {
            Command::Send(frame) => self.queue.push_back(frame),
            Command::Open => self.open_wanted = self.writer.is_none(),
            Command::Hello(hello) => self.hello = hello,
            Command::Keep(keep) => self.kept = keep,
            Command::Heed(heed) => self.heeds = heed,
            Command::Drain => self.start_drain(DRAIN_LINGER, DRAIN_TIMEOUT),
            Command::Finish => self.start_drain(Duration::ZERO, CLOSE_TIMEOUT),
            Command::Resume => {
                self.draining = None;
                self.reported_drained = false;
            }
        }
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Self::InboundProtocol, Self::OutboundProtocol>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, .. }) => self.handle_inbound(protocol),
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, .. }) => self.handle_outbound(protocol),
            ConnectionEvent::DialUpgradeError(DialUpgradeError { error, .. }) => {
                self.handle_upgrade_error(error);
            }
            _ => {}
        }
    }
}
