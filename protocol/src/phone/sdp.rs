//! Session descriptions of phones (RFC 8866): what counts of them for one stream of audio.
//!
//! Read strictly in form and with bounds on everything; lines and attributes that mean nothing here are passed over. Sections that aren't used are
//! kept as far as it takes to refuse them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::sdes::Crypto;

/// Longest description, in bytes: phones with video and many codecs write about 3,000.
pub const SDP_BYTES_MAX: usize = 8 * 1_024;
/// Longest line, in bytes.
const LINE_BYTES_MAX: usize = 1_024;
/// Most sections (`m=`): audio, video, and what else phones think of.
const SECTIONS_MAX: usize = 8;
/// Most formats in a section, and most attributes that name one.
const FORMATS_MAX: usize = 40;
/// Most keys in a section.
const KEYS_MAX: usize = 12;

/// Why a description can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SdpError {
    /// It is longer than [`SDP_BYTES_MAX`], or one of its lines is too long, or it has more of something than is allowed.
    #[error("too much of it: {0}")]
    TooMuch(&'static str),
    /// It isn't text.
    #[error("not UTF-8")]
    NotText,
    /// A line isn't a type, `=` and a value, or a needed one is missing.
    #[error("line {line}: {what}")]
    Line {
        /// Which line, from 1 on.
        line: usize,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// Who sends in a stream, as the one sees it who says so (RFC 8866 section 6.7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    /// Both.
    #[default]
    SendRecv,
    /// Only the one who says so.
    SendOnly,
    /// Only the other.
    RecvOnly,
    /// Nobody.
    Inactive,
}

impl Direction {
    /// Whether the one who says so sends, and takes what the other sends.
    #[must_use]
    pub const fn new(sends: bool, receives: bool) -> Self {
        match (sends, receives) {
            (true, true) => Self::SendRecv,
            (true, false) => Self::SendOnly,
            (false, true) => Self::RecvOnly,
            (false, false) => Self::Inactive,
        }
    }

    /// Whether the one who says so sends.
    #[must_use]
    pub const fn sends(self) -> bool {
        matches!(self, Self::SendRecv | Self::SendOnly)
    }

    /// Whether the one who says so takes what the other sends.
    #[must_use]
    pub const fn receives(self) -> bool {
        matches!(self, Self::SendRecv | Self::RecvOnly)
    }

    /// The attribute's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SendRecv => "sendrecv",
            Self::SendOnly => "sendonly",
            Self::RecvOnly => "recvonly",
            Self::Inactive => "inactive",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::SendRecv, Self::SendOnly, Self::RecvOnly, Self::Inactive].into_iter().find(|direction| direction.name() == name)
    }
}

/// How packets of a section travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// RTP, `RTP/AVP` or `RTP/AVPF`.
    Plain,
    /// SRTP with keys in the description, `RTP/SAVP` or `RTP/SAVPF`.
    Secure,
    /// Something else: DTLS, T.38, TCP.
    Other,
}

/// A format of a section (`a=rtpmap`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format {
    /// The type of payload.
    pub payload_type: u8,
    /// The encoding's name.
    pub name: String,
    /// Ticks of its clock in a second.
    pub clock_hz: u32,
    /// Channels; one where none are named.
    pub channels: u8,
}

/// A section of a description (`m=`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// What it carries: `audio`, `video`.
    pub kind: String,
    /// The port; 0 refuses the section or takes it back.
    pub port: u16,
    /// The transport, as it was written.
    pub transport_name: String,
    /// The formats, as they were written, in the order of preference.
    pub format_list: Vec<String>,
    /// Those of them that are told what they are.
    pub formats: Vec<Format>,
    /// Where packets go, if the section says so.
    pub address: Option<IpAddr>,
    /// Who sends, if the section says so.
    pub direction: Option<Direction>,
    /// Where reports go, if that is said (RFC 3605).
    pub rtcp: Option<(u16, Option<IpAddr>)>,
    /// Reports share the port of media (RFC 5761).
    pub has_rtcp_mux: bool,
    /// How many milliseconds of audio a packet is to have.
    pub ptime: Option<u16>,
    /// Keys that can be used here, in the order in which they are offered.
    pub keys: Vec<Crypto>,
}

impl Section {
    /// How its packets travel.
    #[must_use]
    pub fn transport(&self) -> Transport {
        match self.transport_name.as_str() {
            "RTP/AVP" | "RTP/AVPF" => Transport::Plain,
            "RTP/SAVP" | "RTP/SAVPF" => Transport::Secure,
            _ => Transport::Other,
        }
    }

    /// Its types of payload, the preferred first.
    pub fn payload_types(&self) -> impl Iterator<Item = u8> + '_ {
        self.format_list.iter().filter_map(|format| format.parse().ok()).filter(|number| *number < 128)
    }

    /// What a type of payload is, if the section says so.
    #[must_use]
    pub fn format(&self, payload_type: u8) -> Option<&Format> {
        self.formats.iter().find(|format| format.payload_type == payload_type)
    }
}

/// A session description.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description {
    /// Where packets go in sections that don't say so.
    pub address: Option<IpAddr>,
    /// Who sends in sections that don't say so.
    pub direction: Option<Direction>,
    /// The sections in their order.
    pub sections: Vec<Section>,
}

impl Description {
    /// Reads a description.
    ///
    /// # Errors
    /// See [`SdpError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, SdpError> {
        if bytes.len() > SDP_BYTES_MAX {
            return Err(SdpError::TooMuch("longer than 8 KiB"));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| SdpError::NotText)?;
        let mut description = Self::default();
        let lines = text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
        let mut count = 0;
        for (index, line) in lines.enumerate().filter(|(_, line)| !line.is_empty()) {
            description.take_line(index + 1, line)?;
            count += 1;
        }
        if count == 0 || !text.starts_with("v=0") {
            return Err(SdpError::Line { line: 1, what: "a description begins with v=0" });
        }
        Ok(description)
    }

    fn take_line(&mut self, number: usize, line: &str) -> Result<(), SdpError> {
        let wrong = |what| SdpError::Line { line: number, what };
        if line.len() > LINE_BYTES_MAX {
            return Err(SdpError::TooMuch("a line longer than 1 KiB"));
        }
        let (kind, value) = line.split_once('=').ok_or_else(|| wrong("no type and value"))?;
        match kind {
            "c" => {
                let address = connection(value).map_err(wrong)?;
                match self.sections.last_mut() {
                    Some(section) => section.address = address,
                    None => self.address = address,
                }
                Ok(())
            }
            "m" => {
                if self.sections.len() == SECTIONS_MAX {
                    return Err(SdpError::TooMuch("more than 8 sections"));
                }
                self.sections.push(section(value).map_err(wrong)?);
                Ok(())
            }
            "a" => self.take_attribute(value).map_err(|trouble| trouble.at(number)),
            _ if kind.len() == 1 && kind.as_bytes()[0].is_ascii_lowercase() => Ok(()),
            _ => Err(wrong("no type and value")),
        }
    }

    fn take_attribute(&mut self, attribute: &str) -> Result<(), Trouble> {
        let (name, value) = attribute.split_once(':').unwrap_or((attribute, ""));
        if let Some(direction) = Direction::from_name(name) {
            match self.sections.last_mut() {
                Some(section) => section.direction = Some(direction),
                None => self.direction = Some(direction),
            }
            return Ok(());
        }
        // What a whole session has besides means nothing here.
        let Some(section) = self.sections.last_mut() else { return Ok(()) };
        section.take_attribute(name, value)
    }
}

/// What is wrong with an attribute.
enum Trouble {
    Wrong(&'static str),
    TooMuch(&'static str),
}

impl Trouble {
    const fn at(self, line: usize) -> SdpError {
        match self {
            Self::Wrong(what) => SdpError::Line { line, what },
            Self::TooMuch(what) => SdpError::TooMuch(what),
        }
    }
}

impl Section {
    fn take_attribute(&mut self, name: &str, value: &str) -> Result<(), Trouble> {
        match name {
            "rtpmap" => {
                if self.formats.len() == FORMATS_MAX {
                    return Err(Trouble::TooMuch("more than 40 formats"));
                }
                // One that is told twice is what it was told first.
                let format = rtpmap(value).ok_or(Trouble::Wrong("an rtpmap that can't be read"))?;
                if self.format(format.payload_type).is_none() {
                    self.formats.push(format);
                }
            }
            "rtcp" => self.rtcp = Some(rtcp(value).ok_or(Trouble::Wrong("an rtcp that can't be read"))?),
            "rtcp-mux" => self.has_rtcp_mux = true,
            "ptime" => self.ptime = value.trim().parse().ok(),
            "crypto" => {
                if self.keys.len() == KEYS_MAX {
                    return Err(Trouble::TooMuch("more than 12 keys"));
                }
                // One that can't be used is as good as none: there may be others.
                self.keys.extend(Crypto::parse(value));
            }
            _ => {}
        }
        Ok(())
    }
}

/// `<kind> <port>[/<count>] <transport> <format>..`
fn section(value: &str) -> Result<Section, &'static str> {
    let mut words = value.split(' ').filter(|word| !word.is_empty());
    let (Some(kind), Some(port), Some(transport)) = (words.next(), words.next(), words.next()) else {
        return Err("a section has a kind, a port, a transport and formats");
    };
    let is_token = |text: &str| text.len() <= 64 && text.bytes().all(|byte| byte.is_ascii_graphic());
    let port = port.split_once('/').map_or(port, |(port, _)| port);
    let port = port.parse().map_err(|_| "a port is 0 to 65535")?;
    let formats: Vec<String> = words.take(FORMATS_MAX + 1).map(str::to_owned).collect();
    if formats.is_empty() || formats.len() > FORMATS_MAX {
        return Err("a section has 1 to 40 formats");
    }
    if !is_token(kind) || !is_token(transport) || !formats.iter().all(|format| is_token(format)) {
        return Err("a section's words are printable");
    }
    Ok(Section {
        kind: kind.to_owned(),
        port,
        transport_name: transport.to_owned(),
        format_list: formats,
        formats: Vec::new(),
        address: None,
        direction: None,
        rtcp: None,
        has_rtcp_mux: false,
        ptime: None,
        keys: Vec::new(),
    })
}

/// `IN IP4 <address>`; `None` for a name, which isn't looked up: the first packet shows where the phone is.
fn connection(value: &str) -> Result<Option<IpAddr>, &'static str> {
    let mut words = value.split_whitespace();
    let (Some("IN"), Some(family @ ("IP4" | "IP6")), Some(address)) = (words.next(), words.next(), words.next()) else {
        return Err("an address is IN IP4 or IP6");
    };
    // What follows a slash is of multicast, which isn't used.
    let Ok(address) = address.split('/').next().unwrap_or_default().parse::<IpAddr>() else { return Ok(None) };
    if address.is_ipv4() != (family == "IP4") {
        return Err("an address of another family");
    }
    if address.is_multicast() || address == IpAddr::V4(Ipv4Addr::BROADCAST) {
        return Err("an address that isn't one machine's");
    }
    Ok(Some(address))
}

/// `<type> <name>/<clock>[/<channels>]`
fn rtpmap(value: &str) -> Option<Format> {
    let (number, rest) = value.trim().split_once(' ')?;
    let mut parts = rest.trim().split('/');
    let (name, clock) = (parts.next()?, parts.next()?);
    let channels = parts.next().map_or(Some(1), |channels| channels.parse().ok())?;
    let payload_type = number.parse().ok().filter(|number| *number < 128)?;
    let is_name = !name.is_empty() && name.len() <= 32 && name.bytes().all(|byte| byte.is_ascii_graphic());
    is_name.then(|| Some(Format { payload_type, name: name.to_owned(), clock_hz: clock.parse().ok()?, channels }))?
}

/// `<port> [IN IP4 <address>]`
fn rtcp(value: &str) -> Option<(u16, Option<IpAddr>)> {
    let (port, rest) = value.trim().split_once(' ').unwrap_or((value.trim(), ""));
    let address = if rest.is_empty() { None } else { connection(rest).ok()? };
    Some((port.parse().ok()?, address))
}

/// `IP4 192.0.2.1`, as `o=` and `c=` have it.
pub(super) fn family_and_address(address: IpAddr) -> String {
    let family = if address.is_ipv4() { "IP4" } else { "IP6" };
    format!("{family} {address}")
}

/// Where packets of a section go, and where reports on them go.
pub(super) fn destinations(section: &Section, session: Option<IpAddr>) -> (Option<SocketAddr>, Option<SocketAddr>) {
    let is_used = |address: &IpAddr| !address.is_unspecified();
    let Some(address) = section.address.or(session).filter(is_used) else { return (None, None) };
    if section.port == 0 {
        return (None, None);
    }
    let media = SocketAddr::new(address, section.port);
    let reports = match section.rtcp {
        _ if section.has_rtcp_mux => Some(media),
        Some((0, _)) => None,
        Some((port, other)) => Some(SocketAddr::new(other.filter(is_used).unwrap_or(address), port)),
        None => section.port.checked_add(1).map(|port| SocketAddr::new(address, port)),
    };
    (Some(media), reports)
}

#[cfg(test)]
#[path = "sdp_tests.rs"]
pub(super) mod tests;
