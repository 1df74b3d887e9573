//! What a device says of itself, so that an event finds the one its user is at.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::directory::{DEVICES_MAX, DeviceKind};
use crate::key::DeviceKey;
use crate::time::UnixTime;
use crate::wire::{DecodeError, Extensions};

/// A report older than this, of a device that isn't connected, says that the device is off: reports are repeated every third of it.
pub const STALE_SECS: u64 = 900;

/// Reports kept: as many as a user has devices.
pub const REPORTS_MAX: usize = DEVICES_MAX;

/// Most formats a device says it can show.
pub const FORMATS_MAX: usize = 16;

/// Longest format: MIME types have names of 127 bytes at most (RFC 6838), the usual ones a tenth.
const FORMAT_BYTES_MAX: usize = 64;

/// Farthest distance that is told, in metres; farther is as far.
const METRES_MAX: u16 = 10_000;

/// Whether a device is being used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Usage {
    /// It is on and had input a moment ago, senses its user, or is carried.
    InUse,
    /// It is on, and nobody is at it.
    Idle,
    /// Its screen is locked.
    Locked,
    /// It sleeps.
    Asleep,
    /// It is off. No device says so of itself: it follows from silence.
    Off,
}

impl Usage {
    /// The word in JSON and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InUse => "in-use",
            Self::Idle => "idle",
            Self::Locked => "locked",
            Self::Asleep => "asleep",
            Self::Off => "off",
        }
    }

    /// True if something that comes to the device is shown at once.
    #[must_use]
    pub const fn is_on(self) -> bool {
        matches!(self, Self::InUse | Self::Idle | Self::Locked)
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How near the user is to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode, Serialize, Deserialize)]
pub struct Proximity {
    /// Whether the user is near.
    pub is_near: bool,
    /// How near, in metres.
    pub metres: Option<u16>,
}

/// A screen, in pixels. A device without one has one of no size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode, Serialize, Deserialize)]
pub struct Screen {
    /// Width.
    pub width: u16,
    /// Height.
    pub height: u16,
}

impl Screen {
    /// Whether anything can be seen on it.
    #[must_use]
    pub const fn is_there(self) -> bool {
        self.width > 0 && self.height > 0
    }
}

impl fmt::Display for Screen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

impl FromStr for Screen {
    type Err = &'static str;

    /// `WIDTHxHEIGHT`; `0x0` is no screen.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (width, height) = text.split_once('x')?;
            Some(Self { width: width.parse().ok()?, height: height.parse().ok()? })
        };
        parse().ok_or("expected WIDTHxHEIGHT in pixels, such as 1920x1080, or 0x0 for none")
    }
}

/// The address of a network card that stays powered, to which a magic packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct MacAddress(pub [u8; 6]);

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for MacAddress {
    type Err = &'static str;

    /// Six pairs of hexadecimal digits, with `:` or `-` between them.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.split([':', '-']).collect();
        let bytes: Option<Vec<u8>> =
            parts.iter().map(|part| (part.len() == 2).then(|| u8::from_str_radix(part, 16).ok()).flatten()).collect();
        let bytes = bytes.and_then(|bytes| <[u8; 6]>::try_from(bytes).ok());
        bytes.map(Self).ok_or("expected a MAC address such as 02:00:5e:10:00:01")
    }
}

/// What a device is and can do. Whatever isn't known is absent, and counts neither for nor against the device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Attributes {
    /// What machine it is.
    pub kind: Option<DeviceKind>,
    /// Its screen.
    pub screen: Option<Screen>,
    /// Whether it has a camera.
    pub has_camera: Option<bool>,
    /// MIME types it can show, at most [`FORMATS_MAX`]; `image/*` stands for all images.
    pub formats: Option<Vec<String>>,
    /// Whether it can ring.
    pub can_ring: Option<bool>,
    /// Where a magic packet wakes it, if it can be woken so.
    pub wake_mac: Option<MacAddress>,
}

impl Attributes {
    /// Whether it shows content of this MIME type, if that is known.
    #[must_use]
    pub fn shows(&self, format: &str) -> Option<bool> {
        let formats = self.formats.as_ref()?;
        let matches = |known: &String| match known.split_once('/') {
            Some(("*", "*")) => true,
            Some((major, "*")) => format.split_once('/').is_some_and(|(wanted, _)| wanted.eq_ignore_ascii_case(major)),
            _ => known.eq_ignore_ascii_case(format),
        };
        Some(formats.iter().any(matches))
    }

    /// Checks counts and lengths.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`].
    pub fn check(&self) -> Result<(), DecodeError> {
        let formats = self.formats.as_deref().unwrap_or_default();
        if formats.len() > FORMATS_MAX {
            return Err(DecodeError::invalid("formats", format!("{}, at most {FORMATS_MAX}", formats.len())));
        }
        let is_mime = |format: &String| {
            let parts = format.split_once('/');
            let is_printable = format.chars().all(|character| character.is_ascii_graphic());
            format.len() <= FORMAT_BYTES_MAX
                && is_printable
                && parts.is_some_and(|(major, minor)| !major.is_empty() && !minor.is_empty() && !minor.contains('/'))
        };
        match formats.iter().find(|format| !is_mime(format)) {
            Some(format) => {
                Err(DecodeError::invalid("formats", format!("{:?} is no MIME type", format.chars().take(64).collect::<String>())))
            }
            None => Ok(()),
        }
    }
}

/// What a device says of itself. Every part may be missing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct DeviceReport {
    /// Grows with every report of the device; the higher one counts.
    pub sequence: u64,
    /// When it was made, by the device's clock.
    pub at: UnixTime,
    /// Whether it is in use.
    pub usage: Option<Usage>,
    /// How near its user is.
    pub proximity: Option<Proximity>,
    /// What it is and can do.
    pub attributes: Attributes,
    /// Room to grow.
    pub extensions: Extensions,
}

impl DeviceReport {
    /// Checks ranges.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`]; also for a device that claims to be off, which none can tell of itself.
    pub fn check(&self) -> Result<(), DecodeError> {
        if self.usage == Some(Usage::Off) {
            return Err(DecodeError::invalid("usage", "a device that is off says nothing"));
        }
        if let Some(metres) = self.proximity.and_then(|proximity| proximity.metres)
            && metres > METRES_MAX
        {
            return Err(DecodeError::invalid("metres", format!("{metres}, at most {METRES_MAX}")));
        }
        self.attributes.check()
    }
}

/// The newest report of each of a user's devices, at most [`REPORTS_MAX`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Reports(BTreeMap<DeviceKey, DeviceReport>);

impl Reports {
    /// Takes a report in if it is newer than the one known. True if it is. When all places are taken the oldest makes room.
    pub fn merge(&mut self, device: DeviceKey, report: DeviceReport) -> bool {
        if self.0.get(&device).is_some_and(|known| known.sequence >= report.sequence) {
            return false;
        }
        if !self.0.contains_key(&device)
            && self.0.len() >= REPORTS_MAX
            && let Some(oldest) = self.0.iter().min_by_key(|(_, known)| known.at).map(|(device, _)| *device)
        {
            self.0.remove(&oldest);
        }
        self.0.insert(device, report);
        true
    }

    /// Forgets the reports of devices that are none of the user's any more.
    pub fn retain(&mut self, mut is_own: impl FnMut(&DeviceKey) -> bool) {
        self.0.retain(|device, _| is_own(device));
    }

    /// The newest of a device.
    #[must_use]
    pub fn get(&self, device: &DeviceKey) -> Option<&DeviceReport> {
        self.0.get(device)
    }

    /// All of them, by device.
    pub fn iter(&self) -> impl Iterator<Item = (&DeviceKey, &DeviceReport)> {
        self.0.iter()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
