//! Calls whose encoded audio passes through the embedder's hands: [`AudioPort`](super::media::port::AudioPort).

use halloo_protocol::call::CallId;
use halloo_protocol::phone::AudioCodec;

use super::media::port::{AudioLink, AudioPort};
use super::media::{MediaConfig, codecs};
use crate::event_loop::EventLoop;
use crate::handle::calls::CallError;

/// Most codecs that may be named.
const CODECS_MAX: usize = 8;

/// A call's audio at this end.
#[derive(Debug)]
pub(super) struct AudioEnds {
    pub(super) link: AudioLink,
    /// In what it may be, the preferred first.
    pub(super) codecs: Vec<AudioCodec>,
    /// Until somebody takes it.
    port: Option<AudioPort>,
}

impl AudioEnds {
    /// `None` if no codecs are named: the node encodes and decodes.
    pub(super) fn new(codecs: &[AudioCodec]) -> Option<Self> {
        let (link, port) = AudioLink::new();
        let codecs: Vec<AudioCodec> = codecs.iter().copied().take(CODECS_MAX).collect();
        (!codecs.is_empty()).then_some(Self { link, codecs, port: Some(port) })
    }
}

impl EventLoop {
    /// The settings for an answer whose audio passes through, if it does.
    pub(super) fn with_passthrough(&mut self, call: CallId, config: MediaConfig, codecs: &[AudioCodec]) -> MediaConfig {
        let Some(incoming) = self.calls.incoming.get_mut(&call) else { return config };
        // Of two calls that became one, the port is that of the dial.
        incoming.audio = incoming.audio.take().or_else(|| AudioEnds::new(codecs));
        match &incoming.audio {
            Some(audio) => config.passthrough(Some(audio.link.clone()), &audio.codecs),
            None => config,
        }
    }

    /// In what a call's audio passes through, for further legs of the same conversation; nothing if the node encodes and decodes.
    pub(super) fn passes(&self, call: CallId) -> Vec<AudioCodec> {
        let outgoing = self.calls.outgoing.get(&call).and_then(|call| call.audio.as_ref());
        let audio = outgoing.or_else(|| self.calls.incoming.get(&call)?.audio.as_ref());
        audio.and_then(|audio| audio.link.agreed().or(audio.codecs.first().copied())).into_iter().collect()
    }

    pub(super) fn take_audio(&mut self, call_id: &str) -> Result<AudioPort, CallError> {
        let call = self.named_call(call_id)?;
        let outgoing = self.calls.outgoing.get_mut(&call).and_then(|call| call.audio.as_mut());
        let audio = outgoing.or_else(|| self.calls.incoming.get_mut(&call)?.audio.as_mut());
        let port = audio.and_then(|audio| audio.port.take());
        port.ok_or_else(|| CallError::NoPassthrough { call_id: call.to_string() })
    }

    pub(super) fn offered_audio(&self, call_id: &str) -> Result<Vec<AudioCodec>, CallError> {
        let call = self.named_call(call_id)?;
        let incoming = self.calls.incoming.get(&call);
        let not_ours = || CallError::WrongState { call_id: call.to_string(), state: "ours", action: "asked what it offers" };
        Ok(codecs::offered(&incoming.ok_or_else(not_ours)?.offer))
    }
}
