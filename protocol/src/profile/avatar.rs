//! Pictures, bounded and cleaned without being decoded.
//!
//! An avatar is a PNG. Nothing here unpacks pixels: the container is walked, every chunk's length and checksum is checked, the dimensions are read
//! from the header, and only what is needed for showing is kept, so that no camera's position or comment travels along. A picture that is read
//! from others has to be in that form already.

/// Largest picture, in bytes.
pub const AVATAR_BYTES_MAX: usize = 32 * 1024;

/// Largest width and height, in pixels.
pub const AVATAR_PIXELS_MAX: u32 = 512;

/// Largest picture taken for cleaning: what is left out may be larger than what stays.
const INPUT_BYTES_MAX: usize = 1024 * 1024;

const SIGNATURE: [u8; 8] = [0x89, b'P', b'N', b'G', 0x0d, 0x0a, 0x1a, 0x0a];

/// Bytes of a chunk around its data: length, type, checksum.
const CHUNK_OVERHEAD: usize = 12;

/// Why a picture isn't taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AvatarError {
    /// Another format.
    #[error("an avatar has to be a PNG picture")]
    NotPng,
    /// Too many bytes.
    #[error("the picture has {length} bytes, at most {limit} are allowed")]
    TooLarge {
        /// Its length.
        length: usize,
        /// The limit.
        limit: usize,
    },
    /// Too many pixels, or none.
    #[error("the picture is {width} x {height} pixels, 1 x 1 to {AVATAR_PIXELS_MAX} x {AVATAR_PIXELS_MAX} are allowed")]
    Dimensions {
        /// Its width.
        width: u32,
        /// Its height.
        height: u32,
    },
    /// The file is damaged, or made to look like a PNG.
    #[error("the picture is damaged: {0}")]
    Damaged(&'static str),
}

/// A picture that is safe to pass on: a PNG of bounded size with nothing in it but the picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Avatar(Vec<u8>);

#[derive(Clone, Copy, Debug)]
struct Chunk<'a> {
    kind: [u8; 4],
    /// The whole chunk.
    bytes: &'a [u8],
    data: &'a [u8],
}

impl Avatar {
    /// Checks a picture and leaves out whatever isn't needed to show it.
    ///
    /// # Errors
    /// [`AvatarError`].
    pub fn clean(bytes: &[u8]) -> Result<Self, AvatarError> {
        if bytes.len() > INPUT_BYTES_MAX {
            return Err(AvatarError::TooLarge { length: bytes.len(), limit: INPUT_BYTES_MAX });
        }
        let mut rest = bytes.strip_prefix(&SIGNATURE).ok_or(AvatarError::NotPng)?;
        let mut kept = SIGNATURE.to_vec();
        let (mut is_first, mut has_data) = (true, false);
        loop {
            let (chunk, after) = read_chunk(rest)?;
            rest = after;
            if std::mem::take(&mut is_first) {
                check_header(chunk)?;
            } else if chunk.kind == *b"IHDR" {
                return Err(AvatarError::Damaged("a second header"));
            }
            match &chunk.kind {
                b"IHDR" | b"PLTE" | b"tRNS" => kept.extend_from_slice(chunk.bytes),
                b"IDAT" => {
                    has_data = true;
                    kept.extend_from_slice(chunk.bytes);
                }
                b"IEND" => {
                    kept.extend_from_slice(chunk.bytes);
                    break;
                }
                // A capital first letter means that the picture can't be shown without it.
                [first, ..] if first.is_ascii_uppercase() => return Err(AvatarError::Damaged("an unknown part")),
                _ => {}
            }
        }
        if !has_data || !rest.is_empty() {
            return Err(AvatarError::Damaged(if has_data { "bytes after its end" } else { "no picture in it" }));
        }
        if kept.len() > AVATAR_BYTES_MAX {
            return Err(AvatarError::TooLarge { length: kept.len(), limit: AVATAR_BYTES_MAX });
        }
        Ok(Self(kept))
    }

    /// Takes a picture of somebody else, which has to be clean.
    ///
    /// # Errors
    /// [`AvatarError`].
    pub fn received(bytes: Vec<u8>) -> Result<Self, AvatarError> {
        let clean = Self::clean(&bytes)?;
        if clean.0 == bytes { Ok(clean) } else { Err(AvatarError::Damaged("more in it than the picture")) }
    }

    /// The file.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The file, given away.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

fn read_chunk(bytes: &[u8]) -> Result<(Chunk<'_>, &[u8]), AvatarError> {
    const CUT: AvatarError = AvatarError::Damaged("it ends too early");
    let (length, after) = bytes.split_first_chunk::<4>().ok_or(CUT)?;
    let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| CUT)?;
    let total = length.checked_add(CHUNK_OVERHEAD).filter(|total| *total <= bytes.len()).ok_or(CUT)?;
    let (kind, after) = after.split_first_chunk::<4>().ok_or(CUT)?;
    let (data, after) = after.split_at_checked(length).ok_or(CUT)?;
    let (sum, rest) = after.split_first_chunk::<4>().ok_or(CUT)?;
    if crc(&bytes[4..total - 4]) != u32::from_be_bytes(*sum) {
        return Err(AvatarError::Damaged("a checksum is wrong"));
    }
    Ok((Chunk { kind: *kind, bytes: &bytes[..total], data }, rest))
}

fn check_header(chunk: Chunk<'_>) -> Result<(), AvatarError> {
    let header: Option<&[u8; 13]> = chunk.data.try_into().ok().filter(|_| chunk.kind == *b"IHDR");
    let [w0, w1, w2, w3, h0, h1, h2, h3, ..] = *header.ok_or(AvatarError::Damaged("no header"))?;
    let (width, height) = (u32::from_be_bytes([w0, w1, w2, w3]), u32::from_be_bytes([h0, h1, h2, h3]));
    let is_good = |pixels: u32| (1..=AVATAR_PIXELS_MAX).contains(&pixels);
    if is_good(width) && is_good(height) { Ok(()) } else { Err(AvatarError::Dimensions { width, height }) }
}

/// CRC-32 as PNG has it (annex D of its specification), bit by bit: pictures here are small.
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| if sum & 1 == 1 { sum >> 1 ^ 0xedb8_8320 } else { sum >> 1 })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
        let body = [&kind[..], data].concat();
        let length = u32::try_from(data.len()).expect("small").to_be_bytes();
        [&length[..], &body, &crc(&body).to_be_bytes()].concat()
    }

    fn header(width: u32, height: u32) -> Vec<u8> {
        let data = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
        chunk(b"IHDR", &data)
    }

    fn png(parts: &[Vec<u8>]) -> Vec<u8> {
        [&SIGNATURE[..], &parts.concat()].concat()
    }

    fn picture() -> Vec<u8> {
        png(&[header(16, 16), chunk(b"IDAT", &[1; 40]), chunk(b"IEND", &[])])
    }

    #[test]
    fn the_checksum_is_the_one_of_png() {
        // The end chunk of every PNG there is.
        assert_eq!(chunk(b"IEND", &[]), [0, 0, 0, 0, b'I', b'E', b'N', b'D', 0xae, 0x42, 0x60, 0x82]);
    }

    #[test]
    fn what_isnt_the_picture_is_left_out() {
        let noted = png(&[
            header(16, 16),
            chunk(b"tEXt", b"Comment\0home address"),
            chunk(b"eXIf", &[7; 90]),
            chunk(b"IDAT", &[1; 40]),
            chunk(b"IEND", &[]),
        ]);
        let clean = Avatar::clean(&noted).expect("a picture");
        assert_eq!(clean.as_bytes(), picture());
        assert_eq!(Avatar::received(picture()), Ok(clean));
        assert!(Avatar::received(noted).is_err());
    }

    #[test]
    fn what_is_no_small_picture_is_refused() {
        let refused = |bytes: &[u8]| Avatar::clean(bytes).expect_err("refused");
        assert_eq!(refused(b"\xff\xd8\xff\xe0 JFIF"), AvatarError::NotPng);
        assert_eq!(refused(b""), AvatarError::NotPng);
        let data = || chunk(b"IDAT", &[1; 40]);
        let end = || chunk(b"IEND", &[]);
        for (width, height) in [(0, 16), (513, 16), (16, u32::MAX)] {
            let vast = png(&[header(width, height), data(), end()]);
            assert_eq!(refused(&vast), AvatarError::Dimensions { width, height });
        }
        for bad in [
            png(&[data(), header(1, 1), end()]),
            png(&[header(1, 1), end()]),
            png(&[header(1, 1), header(2, 2), data(), end()]),
            png(&[header(1, 1), chunk(b"BOMB", &[]), data(), end()]),
            [picture(), vec![0]].concat(),
        ] {
            assert!(matches!(refused(&bad), AvatarError::Damaged(_)));
        }
        let large = png(&[header(16, 16), chunk(b"IDAT", &vec![1; AVATAR_BYTES_MAX]), end()]);
        assert!(matches!(refused(&large), AvatarError::TooLarge { .. }));
        for length in SIGNATURE.len()..picture().len() {
            assert!(Avatar::clean(&picture()[..length]).is_err(), "cut at {length}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Avatar::clean(&bytes);
            let _ = Avatar::clean(&[&SIGNATURE[..], &bytes].concat());
        }

        #[test]
        fn every_change_is_noticed(position in any::<prop::sample::Index>(), flip in 1..=u8::MAX) {
            let mut bytes = picture();
            let position = position.index(bytes.len());
            bytes[position] ^= flip;
            // In a chunk's type a change may make it one that is left out; never a different picture.
            let changed = Avatar::clean(&bytes);
            prop_assert!(changed.is_err(), "{changed:?}");
        }
    }
}
