//! Opus in Ogg (RFC 3533, RFC 7845), as far as a recording of one voice needs it: one stream, at most two channels, an end that is marked.
//!
//! [`write`] makes what any player of Opus files plays. [`read`] takes what others have made apart, and takes nothing that isn't right to
//! the last byte: checksums, page numbers, the two headers, every packet's framing (RFC 6716 section 3), and the length.

use super::{VOICEMAIL_BYTES_MAX, VOICEMAIL_MS_MAX};

/// Opus's own clock, whatever rate the audio was recorded at (RFC 7845 section 4).
pub const SAMPLE_RATE: u32 = 48_000;

/// Longest packet: 120 ms (RFC 6716 section 3.2.5).
const PACKET_SAMPLES_MAX: u32 = 5_760;

/// Longest frame within a packet (RFC 6716 section 3.2.1).
const FRAME_BYTES_MAX: usize = 1_275;

/// Most samples that a decoder is told to throw away at the start: a second; encoders say 80 ms at most.
const PRE_SKIP_MAX: u16 = 48_000;

/// Longest recording in samples, with what is thrown away at the start and the rest of the last packet.
const SAMPLES_MAX: u64 = VOICEMAIL_MS_MAX as u64 * SAMPLE_RATE as u64 / 1_000 + PRE_SKIP_MAX as u64 + PACKET_SAMPLES_MAX as u64;

/// Packets on a page that is written: a second of them, as RFC 7845 section 7 advises.
const PACKETS_PER_PAGE: usize = 50;

/// Names the only stream of what is written.
const SERIAL: u32 = 1;

const PAGE_HEADER_BYTES: usize = 27;
const CAPTURE: &[u8; 4] = b"OggS";
const CONTINUED: u8 = 1;
const FIRST: u8 = 2;
const LAST: u8 = 4;
/// A segment of a packet that goes on.
const LACING_FULL: u8 = 255;
/// The position of a page on which no packet ends.
const NO_POSITION: u64 = u64::MAX;

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OggError {
    /// It is larger than recordings may be.
    #[error("{bytes} bytes, at most {VOICEMAIL_BYTES_MAX}")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// It ends before its last page does, or without a page that is marked as the last.
    #[error("cut short at byte {at}")]
    Truncated {
        /// Where.
        at: usize,
    },
    /// What should be a page isn't one.
    #[error("no Ogg page at byte {at}")]
    NoPage {
        /// Where.
        at: usize,
    },
    /// A page's checksum doesn't match.
    #[error("page {page} is damaged")]
    Checksum {
        /// Its number.
        page: u32,
    },
    /// A page is missing, of another stream, or says of itself what it can't be.
    #[error("page {page} is out of order")]
    Order {
        /// The number it should have.
        page: u32,
    },
    /// Something follows the last page.
    #[error("{bytes} bytes follow the last page")]
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// The stream isn't Opus, or of a kind that isn't a voice's.
    #[error("no Opus header of one or two channels")]
    Head,
    /// The second header is missing or broken.
    #[error("no Opus comment header")]
    Tags,
    /// A packet is no Opus packet.
    #[error("packet {number} is no Opus packet")]
    Packet {
        /// Which, from 0 on.
        number: usize,
    },
    /// The pages' positions don't match what is on them.
    #[error("the position of page {page} doesn't match its packets")]
    Position {
        /// Which.
        page: u32,
    },
    /// Nothing is in it.
    #[error("nothing is recorded")]
    Empty,
    /// It is longer than recordings may be.
    #[error("longer than {VOICEMAIL_MS_MAX} ms")]
    TooLong,
}

/// A recording, taken apart: its Opus packets in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recording {
    data: Vec<u8>,
    /// Where each packet ends in `data`.
    ends: Vec<u32>,
    /// Samples, of 48,000 a second, that are thrown away at the start.
    pre_skip: u16,
    /// Samples that are heard, of each channel.
    samples: u64,
    channels: u8,
}

impl Recording {
    /// A recording of one voice: these packets, of which `samples` samples are heard after the first `pre_skip`.
    ///
    /// # Errors
    /// [`OggError::Packet`], [`OggError::Empty`], [`OggError::TooLong`]; [`OggError::Position`] if more is to be heard than the packets have.
    pub fn new<'a>(packets: impl IntoIterator<Item = &'a [u8]>, pre_skip: u16, samples: u64) -> Result<Self, OggError> {
        let mut recording = Self { data: Vec::new(), ends: Vec::new(), pre_skip, samples, channels: 1 };
        let mut total = 0;
        for packet in packets {
            total += u64::from(recording.push(packet)?);
        }
        recording.check(total)?;
        Ok(recording)
    }

    /// Its packets.
    pub fn packets(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| self.data.get(start as usize..*end as usize).unwrap_or_default())
    }

    /// Samples thrown away at the start.
    #[must_use]
    pub const fn pre_skip(&self) -> u16 {
        self.pre_skip
    }

    /// Samples heard, of each channel.
    #[must_use]
    pub const fn samples(&self) -> u64 {
        self.samples
    }

    /// One or two.
    #[must_use]
    pub const fn channels(&self) -> u8 {
        self.channels
    }

    /// How long it is; at most [`VOICEMAIL_MS_MAX`].
    #[must_use]
    pub fn duration_ms(&self) -> u32 {
        let ms = self.samples.saturating_mul(1_000).div_ceil(u64::from(SAMPLE_RATE));
        u32::try_from(ms).unwrap_or(u32::MAX)
    }

    fn push(&mut self, packet: &[u8]) -> Result<u32, OggError> {
        let number = self.ends.len();
        let samples = packet_samples(packet).ok_or(OggError::Packet { number })?;
        self.data.extend_from_slice(packet);
        if self.data.len() > VOICEMAIL_BYTES_MAX {
            return Err(OggError::TooLarge { bytes: self.data.len() });
        }
        self.ends.push(u32::try_from(self.data.len()).map_err(|_| OggError::TooLarge { bytes: self.data.len() })?);
        Ok(samples)
    }

    fn check(&self, total: u64) -> Result<(), OggError> {
        if self.samples == 0 {
            return Err(OggError::Empty);
        }
        if self.duration_ms() > VOICEMAIL_MS_MAX || total > SAMPLES_MAX {
            return Err(OggError::TooLong);
        }
        // The last packet may be cut off at the end, not more of them.
        let position = self.samples + u64::from(self.pre_skip);
        if position > total || total - position > u64::from(PACKET_SAMPLES_MAX) {
            return Err(OggError::Position { page: 0 });
        }
        Ok(())
    }
}

/// How many samples a packet has, if it is one (RFC 6716 sections 3.1 to 3.4).
fn packet_samples(packet: &[u8]) -> Option<u32> {
    let (toc, rest) = packet.split_first()?;
    let config = toc >> 3;
    let frame: u32 = match config {
        0..=11 => [480, 960, 1_920, 2_880][usize::from(config % 4)],
        12..=15 => [480, 960][usize::from(config % 2)],
        _ => [120, 240, 480, 960][usize::from(config % 4)],
    };
    let frames = match toc & 3 {
        0 => (rest.len() <= FRAME_BYTES_MAX).then_some(1)?,
        1 => (rest.len().is_multiple_of(2) && rest.len() / 2 <= FRAME_BYTES_MAX).then_some(2)?,
        2 => {
            let (first, rest) = frame_length(rest)?;
            let second = rest.len().checked_sub(first)?;
            (second <= FRAME_BYTES_MAX).then_some(2)?
        }
        _ => many_frames(rest)?,
    };
    let samples = frame * frames;
    (samples <= PACKET_SAMPLES_MAX).then_some(samples)
}

/// The length that stands before a frame, and what follows it (RFC 6716 section 3.2.1).
fn frame_length(bytes: &[u8]) -> Option<(usize, &[u8])> {
    match bytes {
        [short @ 0..=251, rest @ ..] => Some((usize::from(*short), rest)),
        [long, more, rest @ ..] => Some((usize::from(*more) * 4 + usize::from(*long), rest)),
        _ => None,
    }
}

/// How many frames a packet of code 3 has, if they fit (RFC 6716 section 3.2.5).
fn many_frames(bytes: &[u8]) -> Option<u32> {
    let (head, mut rest) = bytes.split_first()?;
    let (has_lengths, has_padding, count) = (head & 0x80 != 0, head & 0x40 != 0, usize::from(head & 0x3f));
    if count == 0 {
        return None;
    }
    let mut padding = 0;
    while has_padding {
        let (byte, after) = rest.split_first()?;
        rest = after;
        padding += if *byte == 255 { 254 } else { usize::from(*byte) };
        if *byte != 255 {
            break;
        }
    }
    if has_lengths {
        let mut told = 0;
        for _ in 1..count {
            let (length, after) = frame_length(rest)?;
            (told, rest) = (told + length, after);
        }
        let last = rest.len().checked_sub(padding)?.checked_sub(told)?;
        (last <= FRAME_BYTES_MAX).then_some(())?;
    } else {
        let frames = rest.len().checked_sub(padding)?;
        (frames.is_multiple_of(count) && frames / count <= FRAME_BYTES_MAX).then_some(())?;
    }
    u32::try_from(count).ok()
}

/// Reads a file.
///
/// # Errors
/// [`OggError`]: what is wrong with it. Never panics, and never holds more than the file's size.
pub fn read(bytes: &[u8]) -> Result<Recording, OggError> {
    if bytes.len() > VOICEMAIL_BYTES_MAX {
        return Err(OggError::TooLarge { bytes: bytes.len() });
    }
    let mut reader = Reader::default();
    let mut rest = bytes;
    while !reader.has_ended {
        let at = bytes.len() - rest.len();
        let (page, after) = Page::split(rest, at)?;
        reader.take(&page)?;
        rest = after;
    }
    if !rest.is_empty() {
        return Err(OggError::Trailing { bytes: rest.len() });
    }
    reader.finish()
}

/// A page whose checksum was right.
struct Page<'a> {
    flags: u8,
    position: u64,
    serial: u32,
    number: u32,
    lacing: &'a [u8],
    body: &'a [u8],
}

impl<'a> Page<'a> {
    /// The page with which `bytes` begins, and what follows it. `at` is where they stand in the file.
    fn split(bytes: &'a [u8], at: usize) -> Result<(Self, &'a [u8]), OggError> {
        let truncated = || OggError::Truncated { at: at + bytes.len() };
        let (header, after) = bytes.split_at_checked(PAGE_HEADER_BYTES).ok_or_else(truncated)?;
        if !header.starts_with(CAPTURE) || header[4] != 0 {
            return Err(OggError::NoPage { at });
        }
        let number_at = |from: usize| u32::from_le_bytes([header[from], header[from + 1], header[from + 2], header[from + 3]]);
        let position = u64::from(number_at(6)) | u64::from(number_at(10)) << 32;
        let (serial, number, checksum) = (number_at(14), number_at(18), number_at(22));
        let (lacing, after) = after.split_at_checked(usize::from(header[26])).ok_or_else(truncated)?;
        let length = lacing.iter().map(|segment| usize::from(*segment)).sum();
        let (body, after) = after.split_at_checked(length).ok_or_else(truncated)?;
        // The checksum is over the page with zeros in its place.
        let sum = [&header[..22], &[0; 4], &header[26..], lacing, body].into_iter().fold(0, crc);
        if sum != checksum {
            return Err(OggError::Checksum { page: number });
        }
        Ok((Self { flags: header[5], position, serial, number, lacing, body }, after))
    }
}

/// Ogg's checksum (RFC 3533 section 6, field 7): CRC-32 of polynomial 0x04c11db7, not reflected, from 0 on.
fn crc(sum: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(sum, |sum, byte| sum << 8 ^ CRC_TABLE[usize::from((sum >> 24) as u8 ^ byte)])
}

const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < table.len() {
        let mut sum = (byte as u32) << 24;
        let mut bit = 0;
        while bit < 8 {
            sum = if sum & 0x8000_0000 == 0 { sum << 1 } else { sum << 1 ^ 0x04c1_1db7 };
            bit += 1;
        }
        table[byte] = sum;
        byte += 1;
    }
    table
};

/// What has been read so far.
#[derive(Default)]
struct Reader {
    serial: u32,
    next: u32,
    headers: u8,
    /// The part of a packet that the last page ended with.
    open: Option<Vec<u8>>,
    recording: Option<Recording>,
    total: u64,
    position: u64,
    has_ended: bool,
}

impl Reader {
    fn take(&mut self, page: &Page<'_>) -> Result<(), OggError> {
        let out_of_order = OggError::Order { page: self.next };
        if self.next == 0 {
            self.serial = page.serial;
        }
        let is_continued = page.flags & CONTINUED != 0;
        let is_first = page.flags & FIRST != 0;
        let is_in_order = page.number == self.next
            && page.serial == self.serial
            && is_first == (self.next == 0)
            && is_continued == self.open.is_some();
        if !is_in_order {
            return Err(out_of_order);
        }
        self.next = self.next.checked_add(1).ok_or(out_of_order)?;
        self.has_ended = page.flags & LAST != 0;
        let has_audio_before = self.headers >= 2;
        let ended = self.take_packets(page)?;
        self.note_position(page, ended, has_audio_before)
    }

    /// Takes the packets of a page; how many ended on it.
    fn take_packets(&mut self, page: &Page<'_>) -> Result<usize, OggError> {
        let mut body = page.body;
        let mut packet = self.open.take();
        let mut ended = 0;
        for segment in page.lacing {
            let (bytes, rest) = body.split_at_checked(usize::from(*segment)).unwrap_or((body, &[]));
            body = rest;
            packet.get_or_insert_default().extend_from_slice(bytes);
            if *segment < LACING_FULL {
                self.packet(&packet.take().unwrap_or_default())?;
                ended += 1;
            }
        }
        self.open = packet;
        Ok(ended)
    }

    fn packet(&mut self, packet: &[u8]) -> Result<(), OggError> {
        match (self.headers, &mut self.recording) {
            (0, _) => self.recording = Some(head(packet).ok_or(OggError::Head)?),
            (1, _) => tags(packet).ok_or(OggError::Tags)?,
            (_, Some(recording)) => {
                self.total += u64::from(recording.push(packet)?);
                if self.total > SAMPLES_MAX {
                    return Err(OggError::TooLong);
                }
            }
            (_, None) => return Err(OggError::Head),
        }
        self.headers = self.headers.saturating_add(1).min(2);
        Ok(())
    }

    /// Positions say how many samples have ended with a page: exactly as many, but on the last one, which may cut some off.
    fn note_position(&mut self, page: &Page<'_>, ended: usize, has_audio_before: bool) -> Result<(), OggError> {
        let wrong = Err(OggError::Position { page: page.number });
        if self.next == 1 && (self.headers != 1 || self.open.is_some()) {
            // RFC 7845 section 3: the first header has a page of its own.
            return Err(OggError::Head);
        }
        let expected = match (ended, has_audio_before || self.total > 0) {
            (0, _) => NO_POSITION,
            (_, false) => 0,
            (_, true) => self.total,
        };
        if !self.has_ended {
            self.position = if ended == 0 { self.position } else { page.position };
            return if page.position == expected { Ok(()) } else { wrong };
        }
        if self.open.is_some() || page.position > self.total || page.position < self.position {
            return wrong;
        }
        self.position = page.position;
        Ok(())
    }

    fn finish(self) -> Result<Recording, OggError> {
        let mut recording = self.recording.ok_or(OggError::Head)?;
        if self.headers < 2 {
            return Err(OggError::Tags);
        }
        recording.samples = self.position.saturating_sub(u64::from(recording.pre_skip));
        recording.check(self.total)?;
        Ok(recording)
    }
}

/// The first header (RFC 7845 section 5.1): a recording without packets yet.
fn head(packet: &[u8]) -> Option<Recording> {
    let fields = packet.strip_prefix(b"OpusHead")?;
    let [version, channels, skip_low, skip_high, _, _, _, _, _, _, family] = *fields else { return None };
    let pre_skip = u16::from_le_bytes([skip_low, skip_high]);
    let is_known = version >> 4 == 0 && matches!(channels, 1 | 2) && family == 0 && pre_skip <= PRE_SKIP_MAX;
    is_known.then(|| Recording { data: Vec::new(), ends: Vec::new(), pre_skip, samples: 0, channels })
}

/// The second header (RFC 7845 section 5.2): who wrote it, and comments. Nothing of it is used; what follows the comments may be anything.
fn tags(packet: &[u8]) -> Option<()> {
    let mut rest = packet.strip_prefix(b"OpusTags")?;
    let number = |rest: &mut &[u8]| {
        let (number, after) = rest.split_first_chunk::<4>()?;
        *rest = after;
        usize::try_from(u32::from_le_bytes(*number)).ok()
    };
    let vendor = number(&mut rest)?;
    rest = rest.get(vendor..)?;
    // Each comment has at least its length, so the count is bounded by what is there.
    for _ in 0..number(&mut rest)? {
        let length = number(&mut rest)?;
        rest = rest.get(length..)?;
    }
    Some(())
}

/// Writes a file; `vendor` says what made it.
///
/// # Errors
/// [`OggError::TooLarge`].
pub fn write(recording: &Recording, vendor: &str) -> Result<Vec<u8>, OggError> {
    let mut writer = Writer { bytes: Vec::new(), next: 0 };
    let [skip_low, skip_high] = recording.pre_skip.to_le_bytes();
    let [rate_a, rate_b, rate_c, rate_d] = SAMPLE_RATE.to_le_bytes();
    let fields = [1, recording.channels, skip_low, skip_high, rate_a, rate_b, rate_c, rate_d, 0, 0, 0];
    writer.page(FIRST, 0, &[&[&b"OpusHead"[..], &fields].concat()]);
    let vendor = vendor.as_bytes().get(..64).unwrap_or(vendor.as_bytes());
    let length = u32::try_from(vendor.len()).unwrap_or_default().to_le_bytes();
    writer.page(0, 0, &[&[&b"OpusTags"[..], &length, vendor, &[0; 4]].concat()]);
    let packets: Vec<&[u8]> = recording.packets().collect();
    let mut pages = packets.chunks(PACKETS_PER_PAGE).peekable();
    let mut position = 0;
    while let Some(page) = pages.next() {
        position += page.iter().map(|packet| u64::from(packet_samples(packet).unwrap_or(0))).sum::<u64>();
        let is_last = pages.peek().is_none();
        let shown = if is_last { position.min(recording.samples + u64::from(recording.pre_skip)) } else { position };
        writer.page(if is_last { LAST } else { 0 }, shown, page);
    }
    if writer.bytes.len() > VOICEMAIL_BYTES_MAX {
        return Err(OggError::TooLarge { bytes: writer.bytes.len() });
    }
    Ok(writer.bytes)
}

struct Writer {
    bytes: Vec<u8>,
    next: u32,
}

impl Writer {
    /// Writes whole packets, on as many pages as their segments need. `position` is that of the last one.
    fn page(&mut self, flags: u8, position: u64, packets: &[&[u8]]) {
        let lacing: Vec<u8> = packets.iter().flat_map(|packet| lacing_of(packet.len())).collect();
        let body = packets.concat();
        let mut rest = body.as_slice();
        let count = lacing.len().div_ceil(usize::from(u8::MAX)).max(1);
        for (place, segments) in lacing.chunks(usize::from(u8::MAX)).enumerate() {
            let length = segments.iter().map(|segment| usize::from(*segment)).sum();
            let (bytes, after) = rest.split_at_checked(length).unwrap_or((rest, &[]));
            rest = after;
            let is_last = place + 1 == count;
            let before = place * usize::from(u8::MAX);
            let is_continued = before > 0 && lacing.get(before - 1) == Some(&LACING_FULL);
            let mut page_flags = if is_last { flags } else { flags & !LAST };
            page_flags |= if is_continued { CONTINUED } else { 0 };
            let shown =
                if is_last { position } else { self.position_within(&lacing[..before + segments.len()], packets, position) };
            self.one(page_flags, shown, segments, bytes);
        }
    }

    /// The position after the packets that end within these segments; their number's samples before the last one's.
    fn position_within(&self, lacing: &[u8], packets: &[&[u8]], end: u64) -> u64 {
        let ended = lacing.iter().filter(|segment| **segment < LACING_FULL).count();
        if ended == 0 {
            return NO_POSITION;
        }
        let after: u64 = packets.iter().skip(ended).map(|packet| u64::from(packet_samples(packet).unwrap_or(0))).sum();
        end.saturating_sub(after)
    }

    fn one(&mut self, flags: u8, position: u64, lacing: &[u8], body: &[u8]) {
        let segments = u8::try_from(lacing.len()).unwrap_or(u8::MAX);
        let mut header = [0; PAGE_HEADER_BYTES];
        header[..4].copy_from_slice(CAPTURE);
        header[5] = flags;
        header[6..14].copy_from_slice(&position.to_le_bytes());
        header[14..18].copy_from_slice(&SERIAL.to_le_bytes());
        header[18..22].copy_from_slice(&self.next.to_le_bytes());
        header[26] = segments;
        let sum = [&header[..], lacing, body].into_iter().fold(0, crc);
        header[22..26].copy_from_slice(&sum.to_le_bytes());
        self.next += 1;
        [&header[..], lacing, body].into_iter().for_each(|part| self.bytes.extend_from_slice(part));
    }
}

/// How a packet's length is laced (RFC 3533 section 6, field 10).
fn lacing_of(length: usize) -> impl Iterator<Item = u8> {
    let last = u8::try_from(length % usize::from(LACING_FULL)).unwrap_or_default();
    std::iter::repeat_n(LACING_FULL, length / usize::from(LACING_FULL)).chain(std::iter::once(last))
}
