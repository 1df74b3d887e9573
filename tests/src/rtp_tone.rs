//! The media of a phone that says exactly one thing: a tone in G.711, packet by packet, to wherever it is told, and a count of what comes. Its keys can be pressed, and it
//! notes which are pressed at the other end.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use halloo_protocol::phone::keys::{KeyPacket, KeyReader, KeySender, parse_keys};

/// Samples of a packet: 20 ms at 8 kHz.
const PACKET_SAMPLES: u32 = 160;

/// The type of payload of telephone events.
const EVENTS: u8 = 101;

/// A socket for media, and what it says once it is told where to; silent again when dropped.
#[derive(Debug)]
pub struct RtpTone {
    socket: UdpSocket,
    hertz: f64,
    heard: Arc<AtomicUsize>,
    pressed: Arc<Mutex<String>>,
    keys: Arc<Mutex<KeySender>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl RtpTone {
    /// One that says nothing yet.
    ///
    /// # Panics
    /// If there is no socket.
    #[must_use]
    pub fn new(hertz: f64) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a socket");
        let (heard, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (listener, counted, stopped) = (socket.try_clone().expect("a socket"), Arc::clone(&heard), Arc::clone(&stop));
        let (pressed, keys) = (Arc::new(Mutex::new(String::new())), Arc::new(Mutex::new(KeySender::new(8_000))));
        let noted = Arc::clone(&pressed);
        let listen = move || {
            let (mut bytes, mut reader) = ([0; 2_048], KeyReader::default());
            while !stopped.load(Ordering::Relaxed) {
                // Reports share no port here.
                let Ok((length @ 13.., _)) = listener.recv_from(&mut bytes) else { continue };
                match bytes[1] & 0x7f {
                    0 => drop(counted.fetch_add(1, Ordering::Relaxed)),
                    EVENTS => {
                        let timestamp = u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
                        let key = reader.take(&bytes[12..length], timestamp.into());
                        noted.lock().unwrap_or_else(PoisonError::into_inner).extend(key.map(|key| key.sign()));
                    }
                    _ => {}
                }
            }
        };
        Self { socket, hertz, heard, pressed, keys, stop, threads: vec![std::thread::spawn(listen)] }
    }

    /// Its description: G.711 alone.
    ///
    /// # Panics
    /// If the socket is none.
    #[must_use]
    pub fn sdp(&self) -> String {
        let port = self.socket.local_addr().expect("bound").port();
        format!("v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio {port} RTP/AVP 0\r\n")
    }

    /// The same with keys (RFC 4733).
    ///
    /// # Panics
    /// If the socket is none.
    #[must_use]
    pub fn sdp_with_keys(&self) -> String {
        let plain = self.sdp().replace("RTP/AVP 0", &format!("RTP/AVP 0 {EVENTS}"));
        format!("{plain}a=rtpmap:{EVENTS} telephone-event/8000\r\na=fmtp:{EVENTS} 0-15\r\n")
    }

    /// The port of its media.
    ///
    /// # Panics
    /// If the socket is none.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.socket.local_addr().expect("bound").port()
    }

    /// Presses keys, while it speaks.
    ///
    /// # Panics
    /// If they are none.
    pub fn press(&self, keys: &str) {
        let keys = parse_keys(keys).expect("keys");
        assert!(self.keys.lock().unwrap_or_else(PoisonError::into_inner).press(&keys), "few at once");
    }

    /// What was pressed at the other end so far.
    #[must_use]
    pub fn pressed(&self) -> String {
        self.pressed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Speaks to where the other end's description says.
    ///
    /// # Panics
    /// If it says nothing of it.
    #[track_caller]
    pub fn speak_to(&mut self, sdp: &[u8]) {
        let text = String::from_utf8_lossy(sdp).into_owned();
        let word =
            |start: &str| text.lines().find_map(|line| line.strip_prefix(start)?.split_whitespace().next().map(str::to_owned));
        let to = word("c=IN IP4 ").zip(word("m=audio ")).map(|(address, port)| format!("{address}:{port}"));
        let to: SocketAddr = to.and_then(|to| to.parse().ok()).unwrap_or_else(|| panic!("no address: {text}"));
        let (socket, hertz, stop) = (self.socket.try_clone().expect("a socket"), self.hertz, Arc::clone(&self.stop));
        let keys = Arc::clone(&self.keys);
        self.threads.push(std::thread::spawn(move || {
            let begin = Instant::now();
            for number in 0_u32.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                // The other end may have closed its socket.
                let key = keys.lock().unwrap_or_else(PoisonError::into_inner).next_packet();
                let bytes = key.map_or_else(|| packet(number, hertz), |key| key_packet(number, key));
                let _ = socket.send_to(&bytes, to);
                let due = begin + Duration::from_millis(20) * (number + 1);
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
        }));
    }

    /// How many packets of audio have come.
    #[must_use]
    pub fn heard(&self) -> usize {
        self.heard.load(Ordering::Relaxed)
    }
}

impl Drop for RtpTone {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ended = thread.join();
        }
    }
}

/// RTP (RFC 3550 section 5.1): the head of a packet that began with the one of this number.
fn head(number: u32, began: u32, kind: u8) -> Vec<u8> {
    let sequence = u16::try_from(number & 0xffff).unwrap_or_default();
    let mut bytes = vec![0x80, kind];
    bytes.extend(sequence.to_be_bytes());
    bytes.extend((began * PACKET_SAMPLES).to_be_bytes());
    bytes.extend([0, 0, 0, 7]);
    bytes
}

fn key_packet(number: u32, key: KeyPacket) -> Vec<u8> {
    let marker = if key.is_first { 0x80 } else { 0 };
    let mut bytes = head(number, number.wrapping_sub(key.frames), marker | EVENTS);
    bytes.extend(key.payload);
    bytes
}

/// Payload type 0.
fn packet(number: u32, hertz: f64) -> Vec<u8> {
    let mut bytes = head(number, number, 0);
    bytes.extend((0..PACKET_SAMPLES).map(|sample| {
        let at = f64::from(number * PACKET_SAMPLES + sample) / 8_000.0;
        mu_law((at * hertz * std::f64::consts::TAU).sin() * 0.5)
    }));
    bytes
}

/// A sample from -1 to 1 in µ-law (G.711).
fn mu_law(sample: f64) -> u8 {
    let magnitude = (sample.abs() * 32_635.0) as u16 + 132;
    // 132 is the smallest, so that the first bit that is set is the eighth from below at least.
    let exponent = 8_u16.saturating_sub(u16::try_from(magnitude.leading_zeros()).unwrap_or_default());
    let mantissa = (magnitude >> (exponent + 3)) & 0xf;
    let sign = if sample < 0.0 { 0x80 } else { 0 };
    !(sign | u8::try_from(exponent << 4 | mantissa).unwrap_or_default())
}
