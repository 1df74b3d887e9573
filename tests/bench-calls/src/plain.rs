//! str0m and nothing else: what a packet costs without what we add. Two engines, a socket each, a payload made beforehand.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use str0m::format::Codec;
use str0m::media::{Direction, MediaKind, Mid, Pt};
use str0m::net::{Protocol, Receive};
use str0m::rtp::RtpWrite;
use str0m::{Candidate, Event, Input, Output, Rtc, RtcConfig};
use tokio::net::UdpSocket;

/// A packet of voice at 32 kbit/s.
const PAYLOAD: [u8; 80] = [0x5a; 80];

const FRAME: Duration = Duration::from_millis(20);
const FRAME_SAMPLES: u32 = 960;

/// What all ends have sent, and received.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) connected: AtomicU64,
    pub(crate) sent: AtomicU64,
    pub(crate) received: AtomicU64,
}

struct End {
    rtc: Rtc,
    socket: UdpSocket,
    local: SocketAddr,
    mid: Mid,
    pt: Pt,
    is_connected: bool,
    counts: Arc<Counts>,
}

fn engine(local: SocketAddr) -> Result<Rtc> {
    let provider = Arc::new(str0m::crypto::from_feature_flags());
    let config = RtcConfig::new().set_crypto_provider(provider).set_rtp_mode(true).clear_codecs().enable_opus(true, false);
    let mut rtc = config.build(Instant::now());
    rtc.add_local_candidate(Candidate::host(local, Protocol::Udp)?);
    Ok(rtc)
}

fn opus(rtc: &Rtc) -> Result<Pt> {
    let params = rtc.codec_config().params();
    params.iter().find(|params| params.spec().codec == Codec::Opus).map(|params| params.pt()).context("no Opus")
}

/// Starts a call of two ends, which goes on until the runtime ends.
pub(crate) async fn call(counts: &Arc<Counts>) -> Result<()> {
    let sockets = [UdpSocket::bind("127.0.0.1:0").await?, UdpSocket::bind("127.0.0.1:0").await?];
    let [here, there] = sockets;
    let (at, peer) = (here.local_addr()?, there.local_addr()?);
    let (mut caller, mut callee) = (engine(at)?, engine(peer)?);
    let mut changes = caller.sdp_api();
    let mid = changes.add_media(MediaKind::Audio, Direction::SendRecv, None, None, None);
    let (offer, pending) = changes.apply().context("no offer")?;
    let answer = callee.sdp_api().accept_offer(offer)?;
    caller.sdp_api().accept_answer(pending, answer)?;
    for (rtc, socket, local) in [(caller, here, at), (callee, there, peer)] {
        let pt = opus(&rtc)?;
        let end = End { rtc, socket, local, mid, pt, is_connected: false, counts: Arc::clone(counts) };
        tokio::spawn(async move {
            if let Err(error) = end.run().await {
                eprintln!("plain call: {error}");
            }
        });
    }
    Ok(())
}

impl End {
    async fn run(mut self) -> Result<()> {
        let mut buffer = vec![0; 2_000];
        let mut tick = tokio::time::interval(FRAME);
        let (mut sequence, mut timestamp) = (0_u64, 0_u32);
        let mut wake_at = self.drain()?;
        loop {
            tokio::select! {
                received = self.socket.recv_from(&mut buffer) => {
                    let (length, source) = received?;
                    if let Ok(receive) = Receive::new(Protocol::Udp, source, self.local, &buffer[..length]) {
                        self.rtc.handle_input(Input::Receive(Instant::now(), receive))?;
                    }
                }
                () = tokio::time::sleep_until(wake_at.into()) => self.rtc.handle_input(Input::Timeout(Instant::now()))?,
                _ = tick.tick(), if self.is_connected => {
                    let now = Instant::now();
                    let mut api = self.rtc.direct_api();
                    let stream = api.stream_tx_by_mid(self.mid, None).context("no stream")?;
                    stream.write_rtp(RtpWrite::new(self.pt, sequence.into(), timestamp, now, &PAYLOAD[..]));
                    (sequence, timestamp) = (sequence + 1, timestamp.wrapping_add(FRAME_SAMPLES));
                    self.counts.sent.fetch_add(1, Ordering::Relaxed);
                    self.drain()?;
                    self.rtc.handle_input(Input::Timeout(now))?;
                }
            }
            wake_at = self.drain()?;
        }
    }

    fn drain(&mut self) -> Result<Instant> {
        loop {
            match self.rtc.poll_output()? {
                Output::Timeout(at) => return Ok(at),
                Output::Transmit(transmit) => {
                    let _lost_if_full = self.socket.try_send_to(&transmit.contents, transmit.destination);
                }
                Output::Event(Event::Connected) => {
                    self.is_connected = true;
                    self.counts.connected.fetch_add(1, Ordering::Relaxed);
                }
                Output::Event(Event::RtpPacket(_)) => {
                    self.counts.received.fetch_add(1, Ordering::Relaxed);
                }
                Output::Event(_) => {}
            }
        }
    }
}
