//! The microphone and the loudspeakers of this machine, where the feature `desktop-audio` is built in.
//!
//! What is said comes from a [`Sound`] every 20 ms, and what is heard goes to it; the room doesn't know what is behind. Without the feature there is
//! none, and [`open`] says so.

use std::sync::mpsc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::audio::Frame;

/// Whether this machine's microphone and loudspeakers take part in a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Microphone {
    /// They don't.
    #[default]
    Off,
    /// They do, if there are any: else there is silence.
    Auto,
    /// They do, and a call without them isn't made.
    On,
}

/// Something to speak into and to hear from, in frames of 20 ms at 48 kHz.
pub(super) trait Sound: Send {
    /// What was said in the last 20 ms; silence if nothing has come.
    fn next_frame(&mut self) -> Frame;

    /// What is to be heard next.
    fn play(&mut self, heard: &[i16]);
}

/// Opens the devices that the system names first. They are closed when it is dropped.
///
/// # Errors
/// In words, why not. Waits for the system.
#[cfg(feature = "desktop-audio")]
pub(super) fn open() -> Result<Box<dyn Sound>, String> {
    Ok(Box::new(super::desktop::Desktop::open()?))
}

/// See the other; this build has no sound.
#[cfg(not(feature = "desktop-audio"))]
pub(super) fn open() -> Result<Box<dyn Sound>, String> {
    Err("this build has no microphone and loudspeakers (feature desktop-audio)".to_owned())
}

/// Whether this build has any.
pub(crate) const IS_BUILT_IN: bool = cfg!(feature = "desktop-audio");

/// The sound of a room: opened on a thread of its own, since systems take their time, when somebody is there to be heard.
#[derive(Default)]
pub(super) enum Sounding {
    #[default]
    Off,
    Closed,
    Opening(mpsc::Receiver<Result<Box<dyn Sound>, String>>),
    On(Box<dyn Sound>),
}

impl Sounding {
    pub(super) fn new(microphone: Microphone) -> Self {
        if microphone == Microphone::Off || !IS_BUILT_IN { Self::Off } else { Self::Closed }
    }

    pub(super) fn open(&mut self) {
        if !matches!(self, Self::Closed) {
            return;
        }
        let (sender, opened) = mpsc::sync_channel(1);
        // A receiver that is gone wants no sound any more.
        let thread = std::thread::Builder::new().name("sound-open".to_owned()).spawn(move || drop(sender.send(open())));
        *self = if thread.is_ok() { Self::Opening(opened) } else { Self::Closed };
    }

    pub(super) fn close(&mut self) {
        if !matches!(self, Self::Off) {
            *self = Self::Closed;
        }
    }

    fn opened(&mut self) -> Option<&mut Box<dyn Sound>> {
        if let Self::Opening(opened) = self {
            match opened.try_recv() {
                Ok(Ok(sound)) => *self = Self::On(sound),
                Ok(Err(error)) => {
                    tracing::warn!(error, "the call has no sound");
                    *self = Self::Off;
                }
                Err(mpsc::TryRecvError::Disconnected) => *self = Self::Off,
                Err(mpsc::TryRecvError::Empty) => {}
            }
        }
        match self {
            Self::On(sound) => Some(sound),
            _ => None,
        }
    }

    pub(super) fn next_frame(&mut self) -> Option<Frame> {
        Some(self.opened()?.next_frame())
    }

    pub(super) fn play(&mut self, heard: &[i16]) {
        if let Some(sound) = self.opened() {
            sound.play(heard);
        }
    }
}
