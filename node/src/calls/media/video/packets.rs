//! Frames in packets: VP8 by RFC 7741, H.264 by RFC 6184 in its non-interleaved mode. Reads what the other end sends, so nothing here is taken
//! for granted.

use super::{FRAME_BYTES_MAX, VideoCodec};

/// Bytes of a packet's payload: with everything around it, a relay's header included, it fits a path that carries 1,280 bytes.
pub(super) const PAYLOAD_MAX: usize = 1_100;

/// VP8: the first byte of a payload descriptor has another behind it.
const VP8_EXTENDED: u8 = 0x80;
/// VP8: a partition begins with this packet.
const VP8_START: u8 = 0x10;
/// VP8: which partition.
const VP8_PARTITION: u8 = 0x07;
/// VP8: in the first byte of a frame, that it depends on others.
const VP8_INTER: u8 = 0x01;

/// H.264: the type in a unit's first byte, and the rest of it.
const UNIT_TYPE: u8 = 0x1F;
const UNIT_REST: u8 = 0xE0;
const IDR: u8 = 5;
const SEQUENCE_SET: u8 = 7;
const PICTURE_SET: u8 = 8;
/// Says where a picture begins; packets say that themselves.
const DELIMITER: u8 = 9;
const FILLER: u8 = 12;
/// Several units in one packet.
const AGGREGATE: u8 = 24;
/// A part of a unit.
const FRAGMENT: u8 = 28;
const FRAGMENT_START: u8 = 0x80;
const FRAGMENT_END: u8 = 0x40;
/// Before each unit (annex B).
const START_CODE: [u8; 4] = [0, 0, 0, 1];

/// Whether a frame can be decoded without those before it.
pub(super) fn is_key_frame(codec: VideoCodec, frame: &[u8]) -> bool {
    match codec {
        VideoCodec::Vp8 => frame.first().is_some_and(|first| first & VP8_INTER == 0),
        VideoCodec::H264 => units(frame).any(|unit| unit_type(unit) == Some(IDR)),
    }
}

/// Cuts a frame into the payloads of packets.
pub(super) fn cut(codec: VideoCodec, frame: &[u8]) -> Vec<Vec<u8>> {
    match codec {
        VideoCodec::Vp8 => cut_vp8(frame),
        VideoCodec::H264 => cut_h264(frame),
    }
}

/// Whether a key frame begins with this packet.
pub(super) fn begins_key_frame(codec: VideoCodec, payload: &[u8]) -> bool {
    match codec {
        VideoCodec::Vp8 => vp8_body(payload).is_some_and(|(is_start, body)| is_start && is_key_frame(codec, body)),
        // Nothing can be decoded before the sets that say how.
        VideoCodec::H264 => aggregated(payload).any(|unit| unit_type(unit) == Some(SEQUENCE_SET)),
    }
}

/// Puts a frame together of all its packets' payloads in order. `None` if they make none.
pub(super) fn join<'a>(codec: VideoCodec, payloads: impl Iterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
    let frame = match codec {
        VideoCodec::Vp8 => join_vp8(payloads),
        VideoCodec::H264 => join_h264(payloads),
    }?;
    (!frame.is_empty() && frame.len() <= FRAME_BYTES_MAX).then_some(frame)
}

fn cut_vp8(frame: &[u8]) -> Vec<Vec<u8>> {
    let parts = frame.chunks(PAYLOAD_MAX - 1).enumerate();
    let packet = |(index, part): (usize, &[u8])| {
        let descriptor = if index == 0 { VP8_START } else { 0 };
        [&[descriptor], part].concat()
    };
    parts.map(packet).collect()
}

fn join_vp8<'a>(payloads: impl Iterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
    let mut frame = Vec::new();
    for payload in payloads {
        let (is_start, body) = vp8_body(payload)?;
        if frame.is_empty() && !is_start {
            return None;
        }
        frame.extend_from_slice(body);
    }
    Some(frame)
}

/// Whether the frame begins in this packet, and what is behind the descriptor.
fn vp8_body(payload: &[u8]) -> Option<(bool, &[u8])> {
    let (&first, mut rest) = payload.split_first()?;
    let is_start = first & VP8_START != 0 && first & VP8_PARTITION == 0;
    if first & VP8_EXTENDED != 0 {
        let (&fields, behind) = rest.split_first()?;
        rest = behind;
        // The number of the picture, with one byte or two.
        if fields & 0x80 != 0 {
            let (&number, behind) = rest.split_first()?;
            rest = if number & 0x80 != 0 { behind.get(1..)? } else { behind };
        }
        if fields & 0x40 != 0 {
            rest = rest.get(1..)?;
        }
        if fields & 0x30 != 0 {
            rest = rest.get(1..)?;
        }
    }
    (!rest.is_empty()).then_some((is_start, rest))
}

/// The units of a frame in annex B's form, without what is before and between them.
pub(super) fn units(frame: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = start_code(frame, 0).map_or(&frame[..0], |(_, end)| &frame[end..]);
    std::iter::from_fn(move || {
        while !rest.is_empty() {
            let (unit, behind) = match start_code(rest, 0) {
                Some((start, end)) => (&rest[..start], &rest[end..]),
                None => (rest, &rest[rest.len()..]),
            };
            rest = behind;
            // Zeros may follow a unit, and none ends in one.
            let length = unit.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            if length > 0 {
                return Some(&unit[..length]);
            }
        }
        None
    })
}

/// Where the next start code begins and ends.
pub(super) fn start_code(bytes: &[u8], from: usize) -> Option<(usize, usize)> {
    let found = bytes.get(from..)?.windows(3).position(|window| window == [0, 0, 1])?;
    Some((from + found, from + found + 3))
}

pub(super) fn unit_type(unit: &[u8]) -> Option<u8> {
    unit.first().map(|first| first & UNIT_TYPE)
}

/// Whether a picture's content is in the unit, and whether its first part is.
pub(super) fn picture_part(unit: &[u8]) -> Option<bool> {
    let is_picture = unit_type(unit).is_some_and(|kind| (1..=IDR).contains(&kind));
    // The number of the first block is what follows the first byte; 0 is written as a single bit that is set.
    is_picture.then(|| unit.get(1).is_some_and(|byte| byte & 0x80 != 0))
}

fn cut_h264(frame: &[u8]) -> Vec<Vec<u8>> {
    let mut packets: Vec<Vec<u8>> = Vec::new();
    let mut sets: Vec<&[u8]> = Vec::new();
    for unit in units(frame) {
        match unit_type(unit) {
            Some(SEQUENCE_SET | PICTURE_SET) => sets.push(unit),
            Some(DELIMITER | FILLER) | None => {}
            Some(_) => {
                cut_sets(&mut sets, &mut packets);
                cut_unit(unit, &mut packets);
            }
        }
    }
    cut_sets(&mut sets, &mut packets);
    packets
}

/// The sets before a picture go together, so that none of them arrives alone.
fn cut_sets(sets: &mut Vec<&[u8]>, packets: &mut Vec<Vec<u8>>) {
    let length: usize = sets.iter().map(|set| 2 + set.len()).sum();
    if sets.len() < 2 || 1 + length > PAYLOAD_MAX {
        sets.drain(..).for_each(|set| cut_unit(set, packets));
        return;
    }
    let importance = sets.iter().map(|set| set[0] & UNIT_REST).max().unwrap_or_default();
    let mut packet = vec![importance | AGGREGATE];
    for set in sets.drain(..) {
        // Shorter than a packet, so it fits.
        packet.extend_from_slice(&u16::try_from(set.len()).unwrap_or_default().to_be_bytes());
        packet.extend_from_slice(set);
    }
    packets.push(packet);
}

fn cut_unit(unit: &[u8], packets: &mut Vec<Vec<u8>>) {
    if unit.len() <= PAYLOAD_MAX {
        packets.push(unit.to_vec());
        return;
    }
    let (first, body) = (unit[0], &unit[1..]);
    let parts = body.len().div_ceil(PAYLOAD_MAX - 2);
    for (index, part) in body.chunks(PAYLOAD_MAX - 2).enumerate() {
        let start = if index == 0 { FRAGMENT_START } else { 0 };
        let end = if index + 1 == parts { FRAGMENT_END } else { 0 };
        let head = [first & UNIT_REST | FRAGMENT, start | end | first & UNIT_TYPE];
        packets.push([&head, part].concat());
    }
}

/// The units of a packet that has whole ones.
fn aggregated(payload: &[u8]) -> impl Iterator<Item = &[u8]> {
    let is_aggregate = unit_type(payload) == Some(AGGREGATE);
    let is_single = unit_type(payload).is_some_and(|kind| (1..AGGREGATE).contains(&kind));
    let single = is_single.then_some(payload);
    let mut rest = if is_aggregate { &payload[1..] } else { &payload[..0] };
    let several = std::iter::from_fn(move || {
        let (length, behind) = rest.split_first_chunk::<2>()?;
        let length = usize::from(u16::from_be_bytes(*length));
        // An empty one is none: it would be looked at as often as a packet has room for it.
        let unit = behind.get(..length).filter(|unit| !unit.is_empty())?;
        rest = &behind[length..];
        Some(unit)
    });
    single.into_iter().chain(several)
}

fn join_h264<'a>(payloads: impl Iterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
    let mut frame = Vec::new();
    let mut is_within = false;
    for payload in payloads {
        if unit_type(payload)? != FRAGMENT {
            if is_within {
                return None;
            }
            for unit in aggregated(payload).filter(|unit| !unit.is_empty()) {
                frame.extend_from_slice(&START_CODE);
                frame.extend_from_slice(unit);
            }
            continue;
        }
        let (&[first, kind], part) = payload.split_first_chunk::<2>()?;
        if (kind & FRAGMENT_START != 0) == is_within {
            return None;
        }
        if !is_within {
            frame.extend_from_slice(&START_CODE);
            frame.push(first & UNIT_REST | kind & UNIT_TYPE);
        }
        frame.extend_from_slice(part);
        is_within = kind & FRAGMENT_END == 0;
    }
    (!is_within).then_some(frame)
}

#[cfg(test)]
#[path = "packets_tests.rs"]
mod tests;
