//! Video in a call's session: from the link to the transport and back.

use std::time::Instant;

use str0m::rtp::RtpPacket;
use tokio::sync::mpsc;

use super::super::{MediaError, transport::Transport};
use super::{
    Outgoing, VideoEvent, VideoFrame, VideoLink, VideoStats,
    assembly::{Assembled, Assembly, Part},
};

/// The video of one session.
pub(in super::super) struct VideoTrack {
    link: VideoLink,
    /// Once started.
    to_send: Option<mpsc::Receiver<Outgoing>>,
    has_started: bool,
    /// Nothing leaves before a key frame.
    needs_key: bool,
    assembly: Assembly,
    stats: VideoStats,
}

/// What the link wants sent.
pub(in super::super) struct ToSend(Outgoing);

impl VideoTrack {
    pub(in super::super) fn new(link: VideoLink) -> Self {
        Self {
            link,
            to_send: None,
            has_started: false,
            needs_key: true,
            assembly: Assembly::default(),
            stats: VideoStats::default(),
        }
    }

    pub(in super::super) fn stats(&self) -> VideoStats {
        VideoStats { packets_lost: self.assembly.lost(), ..self.stats }
    }

    /// The call is answered and connected. What was to be sent before then is of the past.
    pub(in super::super) fn start(&mut self, transport: &Transport) {
        if self.has_started {
            return;
        }
        self.has_started = true;
        let codecs = transport.video_codecs();
        let mut to_send = self.link.take();
        if let Some(receiver) = &mut to_send {
            while receiver.try_recv().is_ok() {}
        }
        self.to_send = to_send.filter(|_| !codecs.is_empty());
        self.link.tell(VideoEvent::Started(codecs));
    }

    /// The next thing to send; never, before the start. Safe to drop.
    pub(in super::super) async fn next(track: &mut Option<Self>) -> ToSend {
        let Some(receiver) = track.as_mut().and_then(|track| track.to_send.as_mut()) else { return std::future::pending().await };
        match receiver.recv().await {
            Some(outgoing) => ToSend(outgoing),
            None => {
                // Nobody sends any more.
                if let Some(track) = track {
                    track.to_send = None;
                }
                std::future::pending().await
            }
        }
    }

    pub(in super::super) fn send(&mut self, what: ToSend, transport: &mut Transport, now: Instant) -> Result<(), MediaError> {
        let frame = match what {
            ToSend(Outgoing::KeyFrameWanted) => return self.ask(transport, now),
            ToSend(Outgoing::Frame(frame)) => frame,
        };
        if self.needs_key && !frame.is_key {
            self.stats.frames_dropped += 1;
            return Ok(());
        }
        let Some(packets) = transport.send_video(&frame, now)? else {
            self.stats.frames_dropped += 1;
            return Ok(());
        };
        self.needs_key = false;
        self.stats.frames_sent += 1;
        self.stats.key_frames_sent += u64::from(frame.is_key);
        self.stats.packets_sent += packets;
        self.stats.bytes_sent += frame.data.len() as u64;
        Ok(())
    }

    /// A packet of the other end's, once the call is answered.
    pub(in super::super) fn take(
        &mut self,
        packet: RtpPacket,
        transport: &mut Transport,
        now: Instant,
    ) -> Result<(), MediaError> {
        let Some(codec) = transport.video.as_ref().and_then(|line| line.codec_of(packet.header.payload_type)) else {
            return Ok(());
        };
        self.stats.packets_received += 1;
        let part = Part { codec, ticks: packet.time.numer(), is_last: packet.header.marker, payload: packet.payload };
        self.assembly.insert(*packet.seq_no, part);
        self.poll(transport, now)
    }

    /// When [`VideoTrack::poll`] is due.
    pub(in super::super) fn wake_at(&self) -> Option<Instant> {
        self.assembly.wake_at()
    }

    pub(in super::super) fn poll(&mut self, transport: &mut Transport, now: Instant) -> Result<(), MediaError> {
        while let Some(assembled) = self.assembly.poll(now) {
            match assembled {
                Assembled::Frame(frame) => self.hand_on(frame),
                Assembled::KeyFrameNeeded => self.ask(transport, now)?,
            }
        }
        Ok(())
    }

    fn hand_on(&mut self, frame: VideoFrame) {
        let (codec, bytes) = (frame.codec, frame.data.len() as u64);
        if !self.link.tell(VideoEvent::Frame(frame)) {
            self.stats.frames_dropped += 1;
            // Whoever doesn't take frames can't go on in the middle.
            return self.assembly.need_key_frame();
        }
        self.stats.codec = Some(codec);
        self.stats.frames_received += 1;
        self.stats.bytes_received += bytes;
    }

    fn ask(&mut self, transport: &mut Transport, now: Instant) -> Result<(), MediaError> {
        self.stats.key_frames_asked += 1;
        transport.want_key_frame(now)
    }

    pub(in super::super) async fn finish(&self) {
        // One that never started is perhaps not the call's.
        if self.has_started {
            self.link.finish().await;
        }
    }

    /// The other end wants a key frame.
    pub(in super::super) fn key_frame_wanted(&mut self) {
        if !self.has_started {
            // Nothing was sent, and what is told of it would take the place of the start.
            return;
        }
        self.stats.key_frames_wanted += 1;
        self.link.tell(VideoEvent::KeyFrameWanted);
    }
}
