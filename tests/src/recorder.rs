//! Records every packet at a machine's interface, as its operator can, and takes them apart as far as anybody without keys can.
//!
//! A raw socket needs to be opened inside the machine's namespace, so a small program does it (Python, which `scripts/setup` installs) and writes what
//! it sees into a file.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ropus::{Channels, DecodeMode, Decoder};

use crate::natlab::Machine;

/// Opens a raw socket for all protocols, says so, and writes time, length and bytes of every frame until it is ended. 33 is `SO_RCVBUFFORCE`: nothing is
/// to be missing because this program was late.
const PROGRAM: &str = "
import socket, struct, sys, time
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)
s.bind((sys.argv[1], 0))
out = open(sys.argv[2], 'wb', buffering=0)
print('ready', flush=True)
while True:
    frame = s.recv(65535)
    out.write(struct.pack('>QI', time.time_ns(), len(frame)) + frame)
";

/// A frame's head in the file: nanoseconds and length.
const HEAD_BYTES: usize = 12;

/// Ethernet's header.
const ETHERNET_BYTES: usize = 14;

/// A header of RTP without sources and extensions (RFC 3550 section 5.1).
const RTP_HEADER_BYTES: usize = 12;

/// The authentication tag that SRTP appends (RFC 3711 section 4.2.1).
const SRTP_TAG_BYTES: usize = 10;

/// Samples of a frame of 20 ms, and of the longest that Opus knows.
const FRAME_SAMPLES: usize = 960;
const FRAME_SAMPLES_MAX: usize = 5_760;

/// Opus's clock.
pub const SAMPLE_RATE: u32 = 48_000;

/// A recording that goes on. It ends when dropped.
#[derive(Debug)]
pub struct Recorder {
    child: Child,
    file: PathBuf,
}

/// One packet of a recording.
#[derive(Clone, Debug)]
pub struct Packet {
    /// When it passed, since 1970.
    pub at: Duration,
    /// All of it, from the Ethernet header on.
    pub bytes: Vec<u8>,
}

/// What a packet of UDP shows to everybody.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// From where.
    pub source: SocketAddrV4,
    /// To where.
    pub destination: SocketAddrV4,
    /// What it carries.
    pub payload: &'a [u8],
}

/// What looks like a packet of audio.
#[derive(Clone, Debug)]
pub struct Audio {
    /// Which stream, in which direction.
    pub stream: (u32, SocketAddrV4, SocketAddrV4),
    /// Its number there.
    pub sequence: u16,
    /// When it passed.
    pub at: Duration,
    /// What follows the header.
    pub payload: Vec<u8>,
}

impl Recorder {
    /// Begins to record at a public machine's interface. Nothing is missed from now on.
    ///
    /// # Panics
    /// If that can't be done.
    #[track_caller]
    #[must_use]
    pub fn start(machine: &Machine, folder: &Path) -> Self {
        let file = folder.join("recorded.packets");
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &machine.namespace, "python3", "-c", PROGRAM, "out"]).arg(&file);
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut child = spawned.unwrap_or_else(|error| panic!("can't run {command:?}: {error}"));
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        let read = BufReader::new(stdout).read_line(&mut line);
        assert!(read.is_ok() && line.trim() == "ready", "nothing can be recorded: {line:?}");
        Self { child, file }
    }

    /// What was recorded so far.
    ///
    /// # Panics
    /// If the file can't be read.
    #[track_caller]
    #[must_use]
    pub fn packets(&self) -> Vec<Packet> {
        let bytes = std::fs::read(&self.file).expect("the folder is ours");
        let mut rest = bytes.as_slice();
        let mut packets = Vec::new();
        // The last may be half written.
        while let Some((head, after)) = rest.split_at_checked(HEAD_BYTES) {
            let nanos = u64::from_be_bytes(head[..8].try_into().expect("8 bytes"));
            let length = u32::from_be_bytes(head[8..].try_into().expect("4 bytes")) as usize;
            let Some((frame, after)) = after.split_at_checked(length) else { break };
            packets.push(Packet { at: Duration::from_nanos(nanos), bytes: frame.to_vec() });
            rest = after;
        }
        packets
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Packet {
    /// The datagram that it is, if it is one (UDP over IPv4, not in fragments).
    #[must_use]
    pub fn datagram(&self) -> Option<Datagram<'_>> {
        let ip = self.bytes.get(ETHERNET_BYTES..).filter(|_| self.bytes.get(12..14) == Some(&[0x08, 0x00]))?;
        let header = usize::from(ip.first()? & 0x0f) * 4;
        let address = |from: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(ip.get(from..from + 4)?).ok()?));
        let udp = ip.get(header..).filter(|_| ip.get(9) == Some(&17))?;
        let port = |from: usize| Some(u16::from_be_bytes(udp.get(from..from + 2)?.try_into().ok()?));
        let length = usize::from(port(4)?);
        Some(Datagram {
            source: SocketAddrV4::new(address(12)?, port(0)?),
            destination: SocketAddrV4::new(address(16)?, port(2)?),
            payload: udp.get(8..length)?,
        })
    }
}

/// Everything in a recording that looks like audio: RTP as it is, or in TURN's ChannelData or indications.
#[must_use]
pub fn audio(packets: &[Packet]) -> Vec<Audio> {
    packets.iter().filter_map(|packet| audio_of(packet.datagram()?, packet.at)).collect()
}

fn audio_of(datagram: Datagram<'_>, at: Duration) -> Option<Audio> {
    let payload = unwrapped(datagram.payload)?;
    let first = *payload.first()?;
    let kind = payload.get(1)? & 0x7f;
    // Version 2, and a number that is given out as it comes (RFC 3551): neither STUN nor DTLS nor RTCP.
    if first >> 6 != 2 || !(96..=127).contains(&kind) {
        return None;
    }
    let mut header = RTP_HEADER_BYTES + usize::from(first & 0x0f) * 4;
    if first & 0x10 != 0 {
        let words = payload.get(header + 2..header + 4)?;
        header += 4 + usize::from(u16::from_be_bytes(words.try_into().ok()?)) * 4;
    }
    Some(Audio {
        stream: (u32::from_be_bytes(payload.get(8..12)?.try_into().ok()?), datagram.source, datagram.destination),
        sequence: u16::from_be_bytes(payload.get(2..4)?.try_into().ok()?),
        at,
        payload: payload.get(header..)?.to_vec(),
    })
}

/// What TURN carries (RFC 8656), or the bytes themselves.
fn unwrapped(bytes: &[u8]) -> Option<&[u8]> {
    match *bytes.first()? {
        0x40..=0x7f => {
            let length = u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?);
            bytes.get(4..4 + usize::from(length))
        }
        0x00 if matches!(bytes.get(..2), Some([0x00, 0x16 | 0x17])) => data_attribute(bytes.get(20..)?),
        _ => Some(bytes),
    }
}

/// The DATA attribute of a Send or Data indication.
fn data_attribute(mut attributes: &[u8]) -> Option<&[u8]> {
    loop {
        let kind = u16::from_be_bytes(attributes.get(..2)?.try_into().ok()?);
        let length = usize::from(u16::from_be_bytes(attributes.get(2..4)?.try_into().ok()?));
        if kind == 0x0013 {
            return attributes.get(4..4 + length);
        }
        attributes = attributes.get(4 + length.next_multiple_of(4)..)?;
    }
}

/// What a decoder makes of audio that is taken for Opus, each stream for itself, with and without the last bytes.
///
/// # Panics
/// If there is no decoder.
#[must_use]
pub fn decoded(audio: &[Audio]) -> Vec<Vec<i16>> {
    let mut streams: Vec<_> = audio.iter().map(|packet| packet.stream).collect();
    streams.sort_unstable();
    streams.dedup();
    let of_stream = |stream| {
        let mut packets: Vec<&Audio> = audio.iter().filter(|packet| packet.stream == stream).collect();
        packets.sort_by_key(|packet| packet.at);
        packets.dedup_by_key(|packet| packet.sequence);
        [0, SRTP_TAG_BYTES].map(|tail| decode(&packets, tail))
    };
    streams.into_iter().flat_map(of_stream).collect()
}

fn decode(packets: &[&Audio], tail: usize) -> Vec<i16> {
    let mut decoder = Decoder::new(SAMPLE_RATE, Channels::Mono).expect("Opus knows 48 kHz");
    let mut heard = Vec::with_capacity(packets.len() * FRAME_SAMPLES);
    let mut frame = [0_i16; FRAME_SAMPLES_MAX];
    for packet in packets {
        let bytes = &packet.payload[..packet.payload.len().saturating_sub(tail)];
        // What is no packet of Opus at all is silence.
        let samples = decoder.decode(bytes, &mut frame, DecodeMode::Normal).unwrap_or(0);
        heard.extend_from_slice(&frame[..samples]);
    }
    heard
}
