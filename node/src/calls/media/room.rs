//! What one person says and hears in a call, whoever and however many are at the other ends.
//!
//! A call has one session for each leg; a conference several, in one room. Each session asks every 20 ms for the frame to send, and hands over
//! what it has heard from its end. Frames are numbered by the time at which they are due. Each is read once, and encoded once in each codec, for whichever session comes
//! first, and the same bytes go out on all legs that have the codec. What is heard on all of them in the same 20 ms is added up and recorded. With one leg nothing is
//! changed by any of this.
//!
//! No task of its own: sessions drive it, under a lock that is held for as long as encoding takes (0.2 ms). Never reads the clock.

use std::collections::VecDeque;
use std::collections::btree_map::{BTreeMap, Entry};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use halloo_protocol::phone::AudioCodec;

use super::MediaError;
use super::audio::{FRAME_SAMPLES, Frame, FrameEncoder, silence};
use super::session::FRAME_DURATION;
use super::sound::{Microphone, Sounding};
use super::wav::{Played, Player, Recorder};

/// Frames kept for legs that are behind the first, sent ones and heard ones: a little more than the second for which a session catches up.
/// What one that is further behind would have heard isn't recorded.
const BEHIND_MAX: usize = 55; // 1.1 s

/// How long completing the recording may hold up the end of a session.
const RECORDING_END_TIMEOUT: Duration = Duration::from_secs(5);

/// How much of the way back to full loudness a frame goes, once the sum is lower again: half a second to within a tenth.
const RELEASE: f32 = 0.1;

/// The audio of one person's end of a call. Clones are the same room.
#[derive(Clone)]
pub struct Room(Arc<Mutex<State>>);

struct State {
    play: Option<PathBuf>,
    record: Option<PathBuf>,
    /// For each codec that a leg has asked for.
    encoders: BTreeMap<AudioCodec, FrameEncoder>,
    player: Option<Player>,
    recorder: Option<Recorder>,
    /// The machine's microphone and loudspeakers, if they are to be used.
    sound: Sounding,
    /// Keeps the threads that write the file apart: one that goes on waits for the one before to be done.
    file: Arc<Mutex<()>>,
    /// Whether the file was begun.
    is_begun: bool,
    /// Samples in it.
    recorded: u64,
    /// When frame 0 was due.
    epoch: Option<Instant>,
    /// For each leg the number of its next frame.
    seats: BTreeMap<u64, u64>,
    last_seat: u64,
    /// The frames sent lately; the first has the number `sent_from`.
    sent: VecDeque<Vec<(AudioCodec, Arc<[u8]>)>>,
    sent_from: u64,
    /// The sums of what was heard; the first has the number `heard_from`.
    heard: VecDeque<Box<[i32]>>,
    heard_from: u64,
    limiter: Limiter,
}

impl std::fmt::Debug for Room {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Room").finish_non_exhaustive()
    }
}

/// What a leg sends next.
pub(super) struct Turn {
    /// The encoded frame; none if it was due before the leg's codec was known.
    pub(super) payload: Option<Arc<[u8]>>,
    /// The file to send has come to its end; said once.
    pub(super) is_played: bool,
}

impl Room {
    /// A room in which `play` is said, once somebody is there to hear it, and what is heard goes to `record`. Both are WAV files.
    #[must_use]
    pub fn new(play: Option<PathBuf>, record: Option<PathBuf>) -> Self {
        let (seats, sent, heard) = (BTreeMap::new(), VecDeque::new(), VecDeque::new());
        Self(Arc::new(Mutex::new(State {
            play,
            record,
            encoders: BTreeMap::new(),
            player: None,
            recorder: None,
            sound: Sounding::default(),
            file: Arc::default(),
            is_begun: false,
            recorded: 0,
            epoch: None,
            seats,
            last_seat: 0,
            sent,
            sent_from: 0,
            heard,
            heard_from: 0,
            limiter: Limiter::default(),
        })))
    }

    /// The same with this machine's microphone, when no file is played, and its loudspeakers.
    #[must_use]
    pub fn microphone(self, microphone: Microphone) -> Self {
        self.lock().sound = Sounding::new(microphone);
        self
    }

    /// A leg begins to send and to hear, its first frame being due `at`. Playing and recording begin with the first; where a recording was completed
    /// because nobody was left, it goes on.
    ///
    /// # Errors
    /// What is wrong with the codec.
    pub(super) fn enter(&self, at: Instant, codec: AudioCodec) -> Result<Seat, MediaError> {
        let mut seat = self.listen(at, codec)?;
        seat.speak(at);
        Ok(seat)
    }

    /// A leg begins to hear, and says nothing yet: recording begins with it, playing doesn't.
    ///
    /// # Errors
    /// What is wrong with the codec.
    pub(super) fn listen(&self, at: Instant, codec: AudioCodec) -> Result<Seat, MediaError> {
        let mut state = self.lock();
        if let Entry::Vacant(place) = state.encoders.entry(codec) {
            place.insert(FrameEncoder::of(codec)?);
        }
        let next = state.number_of(at);
        if state.seats.is_empty() {
            state.begin(next);
        }
        state.last_seat += 1;
        let number = state.last_seat;
        state.seats.insert(number, next);
        Ok(Seat { room: self.clone(), number, codec, failed: None })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock would be a bug of ours; what is in there is audio, and the next frame is as good as ever.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A leg's place in a room. Dropping it leaves; the recording is then completed by itself.
pub(super) struct Seat {
    room: Room,
    number: u64,
    codec: AudioCodec,
    /// The recorder that has failed, and its file, if this leg was the one that met it.
    failed: Option<(Recorder, PathBuf)>,
}

impl Seat {
    /// Takes what the leg hears in the 20 ms from `at` on, and gives what it is to send then.
    ///
    /// # Errors
    /// What is wrong with the file to send, or with the codec; [`MediaError::Ended`] if the recording has failed, of which [`Seat::leave`] says why.
    pub(super) fn turn(&mut self, at: Instant, heard: &[i16]) -> Result<Turn, MediaError> {
        let mut state = self.room.lock();
        let number = state.number_of(at);
        let is_played = state.send_to(number)?;
        state.hear(number, heard);
        state.seats.insert(self.number, number + 1);
        state.flush();
        if state.recorder.as_ref().is_some_and(Recorder::has_failed) {
            // Said once: the other legs talk on.
            let path = state.record.take().unwrap_or_default();
            self.failed = state.recorder.take().map(|recorder| (recorder, path));
            return Err(MediaError::Ended);
        }
        // Of a time that is out of reach there is but the oldest left.
        let index = usize::try_from(number.saturating_sub(state.sent_from)).unwrap_or_default();
        let encoded = state.sent.get(index).and_then(|frame| frame.iter().find(|(codec, _)| *codec == self.codec));
        let payload = encoded.map(|(_, payload)| Arc::clone(payload));
        Ok(Turn { payload, is_played })
    }

    /// Begins to send, the first frame being due `at`. What is played begins with the first that does.
    pub(super) fn speak(&mut self, at: Instant) {
        let mut state = self.room.lock();
        let next = state.number_of(at);
        state.begin_playing(next);
    }

    /// Takes what the leg hears while it says nothing.
    pub(super) fn hear(&mut self, at: Instant, heard: &[i16]) {
        let mut state = self.room.lock();
        let number = state.number_of(at);
        state.hear(number, heard);
        state.seats.insert(self.number, number + 1);
        state.flush();
    }

    /// Takes what was heard when nothing is sent any more: at the end of a call. Only for the last leg; others go on in their own time.
    pub(super) fn hear_last(&mut self, at: Instant, heard: &[i16]) {
        let mut state = self.room.lock();
        if state.seats.len() == 1 {
            let number = state.number_of(at);
            state.hear(number, heard);
            state.seats.insert(self.number, number + 1);
            state.flush();
        }
    }

    /// Whether anything is recorded.
    pub(super) fn is_recorded(&self) -> bool {
        self.room.lock().recorder.is_some()
    }

    /// Leaves; the last one out completes the recording. The samples in it so far.
    ///
    /// # Errors
    /// [`MediaError::Record`].
    pub(super) async fn leave(mut self) -> Result<u64, MediaError> {
        let finished = self.failed.take().or_else(|| {
            let mut state = self.room.lock();
            state.seats.remove(&self.number);
            state.flush();
            let path = state.record.clone().unwrap_or_default();
            let recorder = if state.seats.is_empty() { state.recorder.take() } else { None };
            state.close_unused();
            recorder.map(|recorder| (recorder, path))
        });
        let Some((recorder, path)) = finished else { return Ok(self.room.lock().recorded) };
        match tokio::time::timeout(RECORDING_END_TIMEOUT, recorder.finish()).await {
            Ok(Ok(_)) => Ok(self.room.lock().recorded),
            Ok(Err(source)) => Err(MediaError::Record { path, source }),
            Err(_) => {
                let source = std::io::Error::from(std::io::ErrorKind::TimedOut).into();
                Err(MediaError::Record { path, source })
            }
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.room.lock();
        state.seats.remove(&self.number);
        if state.seats.is_empty() {
            // A recorder that is dropped completes its file by itself.
            state.recorder = None;
        }
        state.close_unused();
        state.flush();
    }
}

impl State {
    fn begin(&mut self, next: u64) {
        (self.sent_from, self.heard_from) = (next, next);
        self.sent.clear();
        self.heard.clear();
        self.limiter = Limiter::default();
        if let Some(path) = self.record.clone() {
            self.recorder = Some(Recorder::spawn(path, self.is_begun, Arc::clone(&self.file)));
            self.is_begun = true;
        }
        self.sound.open();
    }

    /// What is played begins once, and goes on where it was when nobody heard it.
    fn begin_playing(&mut self, next: u64) {
        if self.seats.len() == 1 {
            // Nothing was said while nobody but this leg was there.
            self.sent.clear();
            self.sent_from = next;
        }
        if self.player.is_none() {
            self.player = self.play.clone().map(Player::spawn);
        }
    }

    /// The frame that is due at this time.
    fn number_of(&mut self, at: Instant) -> u64 {
        let epoch = *self.epoch.get_or_insert(at);
        let frames = at.saturating_duration_since(epoch).as_micros() / FRAME_DURATION.as_micros();
        u64::try_from(frames).unwrap_or(u64::MAX)
    }

    /// Encodes up to this frame, if it wasn't done; whether the file to send has come to its end.
    fn send_to(&mut self, number: u64) -> Result<bool, MediaError> {
        if number >= self.sent_from + (self.sent.len() + BEHIND_MAX) as u64 {
            // Nobody was there for so long that nobody misses it.
            self.sent.clear();
            self.sent_from = number;
        }
        let mut is_played = false;
        while self.sent_from + self.sent.len() as u64 <= number {
            is_played |= self.send_next()?;
        }
        Ok(is_played)
    }

    fn send_next(&mut self) -> Result<bool, MediaError> {
        let (frame, is_played) = self.next_played()?;
        let mut encoded = Vec::with_capacity(self.encoders.len());
        for (codec, encoder) in &mut self.encoders {
            encoded.push((*codec, Arc::from(encoder.encode(&frame)?)));
        }
        self.sent.push_back(encoded);
        if self.sent.len() > BEHIND_MAX {
            self.sent.pop_front();
            self.sent_from += 1;
        }
        Ok(is_played)
    }

    fn next_played(&mut self) -> Result<(Frame, bool), MediaError> {
        match self.player.as_mut().and_then(Player::next) {
            Some(Played::Frame(frame)) => Ok((frame, false)),
            Some(Played::End) => {
                (self.player, self.play) = (None, None);
                Ok((silence(), true))
            }
            Some(Played::Failed(source)) => {
                self.player = None;
                Err(MediaError::Play { path: self.play.take().unwrap_or_default(), source })
            }
            None => Ok((self.sound.next_frame().unwrap_or_else(silence), false)),
        }
    }

    fn close_unused(&mut self) {
        if self.seats.is_empty() {
            self.sound.close();
        }
    }

    fn hear(&mut self, number: u64, heard: &[i16]) {
        if number >= self.heard_from + (self.heard.len() + BEHIND_MAX) as u64 {
            while !self.heard.is_empty() {
                self.record_first();
            }
            self.heard_from = number;
        }
        while self.heard_from + self.heard.len() as u64 <= number {
            self.heard.push_back(vec![0; FRAME_SAMPLES].into_boxed_slice());
            if self.heard.len() > BEHIND_MAX {
                self.record_first();
            }
        }
        let index = number.checked_sub(self.heard_from).and_then(|index| usize::try_from(index).ok());
        if let Some(sum) = index.and_then(|index| self.heard.get_mut(index)) {
            for (sum, sample) in sum.iter_mut().zip(heard) {
                *sum += i32::from(*sample);
            }
        }
    }

    /// Records what no leg can add to any more.
    fn flush(&mut self) {
        let complete_to = self.seats.values().copied().min().unwrap_or(u64::MAX);
        while !self.heard.is_empty() && self.heard_from < complete_to {
            self.record_first();
        }
    }

    fn record_first(&mut self) {
        let Some(sum) = self.heard.pop_front() else { return };
        self.heard_from += 1;
        let frame = self.limiter.apply(&sum);
        self.sound.play(&frame);
        if let Some(recorder) = &mut self.recorder {
            recorder.push(frame);
            self.recorded += FRAME_SAMPLES as u64;
        }
    }
}

/// Keeps a sum of voices within what 16 bits hold: a frame that would exceed it is made quieter as a whole, and loudness comes back slowly. What
/// fits is left as it is.
#[derive(Debug)]
struct Limiter {
    gain: f32,
}

impl Default for Limiter {
    fn default() -> Self {
        Self { gain: 1.0 }
    }
}

impl Limiter {
    fn apply(&mut self, sum: &[i32]) -> Frame {
        let peak = sum.iter().map(|sample| sample.unsigned_abs()).max().unwrap_or(0);
        let fitting = if peak > i16::MAX.unsigned_abs().into() { f32::from(i16::MAX) / peak as f32 } else { 1.0 };
        let before = self.gain;
        self.gain = fitting.min(before + (1.0 - before) * RELEASE);
        if self.gain > 0.999 {
            self.gain = 1.0;
        }
        // Downwards at once, for nothing may be clipped; upwards in a line, for steps would be heard.
        let (start, end) = (before.min(self.gain), self.gain);
        let step = (end - start) / sum.len().max(1) as f32;
        let scale = |(index, sample): (usize, &i32)| {
            let gain = start + step * index as f32;
            if gain >= 1.0 { *sample as f32 } else { *sample as f32 * gain }
        };
        let clamp = |sample: f32| sample.clamp(f32::from(i16::MIN), f32::from(i16::MAX)) as i16;
        sum.iter().enumerate().map(scale).map(clamp).collect()
    }
}

#[cfg(test)]
#[path = "room_tests.rs"]
mod tests;
