//! Keys that somebody presses in a call: telephone events (RFC 4733 section 2), and what phones send instead (INFO).
//!
//! A press is a row of packets with one time, of which each says how long the key has been down; the last, sent three times, says that it is over. It is read
//! once, with the first packet that comes, so that no single loss matters.
//!
//! Never reads the clock: [`KeySender`] is asked for a packet every 20 ms.

use std::collections::VecDeque;
use std::fmt;

/// Most keys that wait to be sent: more than any menu or card number wants at once.
pub const KEYS_MAX: usize = 32;

/// Packets a second.
const FRAMES_PER_SEC: u32 = 50;
/// A key is down for 100 ms, and nothing is for 100 ms after it: what every receiver takes (ITU-T Q.24 wants 40 ms of each).
const DOWN_FRAMES: u32 = 5;
const PAUSE_FRAMES: u32 = 5;
/// The last packet comes so often (RFC 4733 section 2.5.1.4).
const END_TIMES: u32 = 3;
/// -10 dBm0, as telephones send.
const VOLUME: u8 = 10;
const END: u8 = 0x80;
/// The events of keys, by their codes (RFC 4733 section 3.2).
const KEYS: &[u8; 16] = b"0123456789*#ABCD";

/// A key of a telephone.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key(u8);

impl Key {
    /// The key that a letter, digit or sign stands for.
    #[must_use]
    pub fn parse(sign: char) -> Option<Self> {
        let sign = sign.to_ascii_uppercase();
        let index = KEYS.iter().position(|known| char::from(*known) == sign)?;
        u8::try_from(index).ok().map(Self)
    }

    /// The key with this code; others, as tones of the network, are none.
    #[must_use]
    pub const fn of_event(event: u8) -> Option<Self> {
        if event < 16 { Some(Self(event)) } else { None }
    }

    /// What stands on it.
    #[must_use]
    pub fn sign(self) -> char {
        KEYS.get(usize::from(self.0)).map_or('?', |sign| char::from(*sign))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.sign())
    }
}

/// What is pressed is as private as what is said.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// Why a text names no keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// There is something else in it.
    #[error("keys are digits, *, # and A to D")]
    NoKey,
    /// None or too many.
    #[error("1 to {KEYS_MAX} keys at once")]
    Count,
}

/// The keys that a text names.
///
/// # Errors
/// See [`KeysError`].
pub fn parse_keys(text: &str) -> Result<Vec<Key>, KeysError> {
    let mut keys = Vec::new();
    for sign in text.chars() {
        if keys.len() == KEYS_MAX {
            return Err(KeysError::Count);
        }
        keys.push(Key::parse(sign).ok_or(KeysError::NoKey)?);
    }
    if keys.is_empty() { Err(KeysError::Count) } else { Ok(keys) }
}

/// The key of an INFO: `application/dtmf-relay` has `Signal=5` among its lines, `application/dtmf` the key alone. Either may have it as the number of the event.
#[must_use]
pub fn of_info(content_type: &str, body: &[u8]) -> Option<Key> {
    const BYTES_MAX: usize = 256;
    let text = std::str::from_utf8(body.get(..body.len().min(BYTES_MAX))?).ok()?;
    let kind = content_type.split(';').next().unwrap_or_default().trim();
    let value = if kind.eq_ignore_ascii_case("application/dtmf-relay") {
        let mut lines = text.lines().filter_map(|line| line.split_once('='));
        lines.find(|(name, _)| name.trim().eq_ignore_ascii_case("signal"))?.1
    } else if kind.eq_ignore_ascii_case("application/dtmf") {
        text
    } else {
        return None;
    };
    let value = value.trim();
    let mut signs = value.chars();
    match (signs.next(), signs.next()) {
        (Some(sign), None) => Key::parse(sign),
        _ => value.parse().ok().and_then(Key::of_event),
    }
}

/// Whether an INFO is about a key, one of ours or not.
#[must_use]
pub fn is_key_info(content_type: &str) -> bool {
    let kind = content_type.split(';').next().unwrap_or_default().trim();
    ["application/dtmf-relay", "application/dtmf"].iter().any(|known| kind.eq_ignore_ascii_case(known))
}

/// Reads the presses of one end of a call.
#[derive(Debug, Default)]
pub struct KeyReader {
    last: Option<Last>,
}

#[derive(Debug)]
struct Last {
    event: u8,
    timestamp: u64,
    duration: u16,
}

impl KeyReader {
    /// Takes a packet with this time, extended: the key, if it has just been pressed.
    pub fn take(&mut self, payload: &[u8], timestamp: u64) -> Option<Key> {
        let [event, _, high, low] = *payload.first_chunk::<4>()?;
        let duration = u16::from_be_bytes([high, low]);
        if let Some(last) = &mut self.last {
            if timestamp <= last.timestamp {
                if timestamp == last.timestamp {
                    last.duration = last.duration.max(duration);
                }
                return None;
            }
            // One that is down for longer than the field holds goes on under another time (section 2.5.1.3).
            let goes_on = event == last.event && timestamp - last.timestamp == u64::from(u16::MAX) && last.duration == u16::MAX;
            *last = Last { event, timestamp, duration };
            if goes_on {
                return None;
            }
        } else {
            self.last = Some(Last { event, timestamp, duration });
        }
        Key::of_event(event)
    }
}

/// A packet of a press.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyPacket {
    /// The payload.
    pub payload: [u8; 4],
    /// The first of its press: marked, and its time is that of all.
    pub is_first: bool,
    /// How many frames of 20 ms ago the press began.
    pub frames: u32,
}

/// Presses keys, one after the other.
#[derive(Debug, Default)]
pub struct KeySender {
    clock_hz: u32,
    waiting: VecDeque<Key>,
    down: Option<Key>,
    frame: u32,
}

impl KeySender {
    /// For times in ticks of this clock.
    #[must_use]
    pub const fn new(clock_hz: u32) -> Self {
        Self { clock_hz, waiting: VecDeque::new(), down: None, frame: 0 }
    }

    /// Keys that are to be pressed after those that wait already. False if that would be too many: none of them is.
    pub fn press(&mut self, keys: &[Key]) -> bool {
        let has_room = self.waiting.len() + keys.len() <= KEYS_MAX;
        if has_room {
            self.waiting.extend(keys);
        }
        has_room
    }

    /// The packet of this 20 ms, if a key is down. To be asked for every 20 ms.
    pub fn next_packet(&mut self) -> Option<KeyPacket> {
        let key = match self.down {
            Some(key) => key,
            None => {
                let key = self.waiting.pop_front()?;
                (self.down, self.frame) = (Some(key), 0);
                key
            }
        };
        let frame = self.frame;
        self.frame += 1;
        if frame >= DOWN_FRAMES + END_TIMES - 1 {
            if self.frame >= DOWN_FRAMES + END_TIMES - 1 + PAUSE_FRAMES {
                self.down = None;
            }
            return None;
        }
        let end = if frame + 1 >= DOWN_FRAMES { END } else { 0 };
        let ticks = (frame + 1).min(DOWN_FRAMES) * (self.clock_hz / FRAMES_PER_SEC);
        let [high, low] = u16::try_from(ticks).unwrap_or(u16::MAX).to_be_bytes();
        Some(KeyPacket { payload: [key.0, end | VOLUME, high, low], is_first: frame == 0, frames: frame })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(keys: &[Key]) -> String {
        keys.iter().map(Key::to_string).collect()
    }

    #[test]
    fn what_is_sent_is_read_once_a_press_whatever_is_lost() {
        for lost in 0..64_u32 {
            let (mut sender, mut reader) = (KeySender::new(8_000), KeyReader::default());
            let keys = parse_keys("0055*#ad").expect("keys");
            assert!(sender.press(&keys));
            let (mut read, mut began) = (Vec::new(), 0);
            for frame in 0..200_u64 {
                let Some(packet) = sender.next_packet() else { continue };
                if packet.is_first {
                    began = 1_000 + frame * 160;
                }
                // Six of seven at most are lost of each press, never all.
                let is_lost = packet.frames < 6 && lost >> packet.frames & 1 == 1;
                if !is_lost {
                    read.extend(reader.take(&packet.payload, began));
                    read.extend(reader.take(&packet.payload, began));
                }
            }
            assert_eq!(text(&read), "0055*#AD", "{lost:b}");
        }
    }

    #[test]
    fn a_press_has_a_row_of_packets_of_which_the_last_says_the_end() {
        let mut sender = KeySender::new(48_000);
        assert!(sender.press(&parse_keys("9").expect("a key")));
        let packets: Vec<KeyPacket> = (0..20).filter_map(|_| sender.next_packet()).collect();
        let payloads: Vec<[u8; 4]> = packets.iter().map(|packet| packet.payload).collect();
        let durations = [960_u16, 1_920, 2_880, 3_840, 4_800, 4_800, 4_800];
        let ends = [0, 0, 0, 0, END, END, END];
        let expected = durations.iter().zip(ends).map(|(duration, end)| {
            let [high, low] = duration.to_be_bytes();
            [9, end | VOLUME, high, low]
        });
        assert_eq!(payloads, expected.collect::<Vec<_>>());
        assert_eq!(packets.iter().filter(|packet| packet.is_first).count(), 1);
        assert!(sender.press(&[Key(1); KEYS_MAX]));
        assert!(!sender.press(&[Key(1)]), "as many wait as may");
    }

    #[test]
    fn a_key_held_for_long_is_one_and_what_is_no_key_is_none() {
        let mut reader = KeyReader::default();
        assert_eq!(reader.take(&[5, 10, 0xff, 0xff], 1_000), Some(Key(5)));
        assert_eq!(reader.take(&[5, 10, 0, 160], 1_000 + 65_535), None, "it goes on");
        assert_eq!(reader.take(&[5, 10, 0, 160], 1_000), None, "late");
        assert_eq!(reader.take(&[5, 10, 0, 160], 100_000), Some(Key(5)), "again");
        assert_eq!(reader.take(&[66, 10, 0, 160], 200_000), None, "a tone of the network");
        assert_eq!(reader.take(&[1, 2, 3], 300_000), None);
        assert_eq!(parse_keys(""), Err(KeysError::Count));
        assert_eq!(parse_keys(&"1".repeat(KEYS_MAX + 1)), Err(KeysError::Count));
        assert_eq!(parse_keys("1x"), Err(KeysError::NoKey));
        assert!(!format!("{:?}", parse_keys("12")).contains('1'), "keys are passwords too");
    }

    #[test]
    fn an_info_names_its_key() {
        let relay = "application/dtmf-relay";
        assert_eq!(of_info(relay, b"Signal=5\r\nDuration=160\r\n"), Key::parse('5'));
        assert_eq!(of_info("Application/DTMF-Relay; x=y", b"duration = 100\nsignal = # \n"), Key::parse('#'));
        assert_eq!(of_info(relay, b"Signal=10\r\n"), Key::parse('*'));
        assert_eq!(of_info("application/dtmf", b"a"), Key::parse('A'));
        for (kind, body) in
            [(relay, &b"Duration=160"[..]), (relay, b"Signal=77"), (relay, b"Signal="), ("text/plain", b"5"), (relay, b"\xff")]
        {
            assert_eq!(of_info(kind, body), None);
        }
        assert!(is_key_info(relay) && !is_key_info("text/plain"));
    }
}
