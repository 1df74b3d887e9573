//! `application/vnd.wap.sia`, version 0: version, list of application ids, list of contact points (WAP-235 section 8.3, WAP-230 section 8.4).
//!
//! A contact point is `flags and length || bearer || port || address`: bit 7 of the first byte says that a bearer follows, bit 6 that a port does, the rest is
//! the address's length.

use std::net::{IpAddr, SocketAddr};

use super::EncapsulationError;
use crate::node::Address;
use crate::push::session::SessionInitiation;

const VERSION: u8 = 0;

/// Longest content that is read.
const BYTES_MAX: usize = 2_048;

/// Most entries of each list.
const ENTRIES_MAX: usize = 16;

const BEARER_INCLUDED: u8 = 0x80;
const PORT_INCLUDED: u8 = 0x40;
const ADDRESS_LENGTH: u8 = 0x3f;

/// Bearers of WAP-259's table: IP of either version, whatever is below it.
const BEARER_IPV4: u8 = 0x00;
const BEARER_IPV6: u8 = 0x01;

/// Application ids with an assigned number (WINA), by number.
const ASSIGNED: [&str; 11] = [
    "x-wap-application:*",
    "x-wap-application:push.sia",
    "x-wap-application:wml.ua",
    "x-wap-application:wta.ua",
    "x-wap-application:mms.ua",
    "x-wap-application:push.syncml",
    "x-wap-application:loc.ua",
    "x-wap-application:syncml.dm",
    "x-wap-application:drm.ua",
    "x-wap-application:emn.ua",
    "x-wap-application:wv.ua",
];

/// What the content says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sia {
    /// Applications to activate.
    pub applications: Vec<String>,
    /// Where to connect: IP address and port.
    pub contacts: Vec<SocketAddr>,
}

/// The content of a request: its application, or any, and those of the server's addresses that are an IP address and a port.
#[must_use]
pub fn encode(initiation: &SessionInitiation) -> Vec<u8> {
    let application = initiation.application.as_ref().map_or(ASSIGNED[0], |activation| activation.application.id.as_str());
    let applications = application_id(application);
    let contacts: Vec<u8> = initiation.server.addresses.iter().filter_map(contact_point).flatten().collect();
    let mut content = vec![VERSION];
    put_uintvar(&mut content, applications.len());
    content.extend(applications);
    put_uintvar(&mut content, contacts.len());
    content.extend(contacts);
    content
}

/// Reads content.
///
/// # Errors
/// [`EncapsulationError::Form`], [`EncapsulationError::TooLarge`].
pub fn decode(content: &[u8]) -> Result<Sia, EncapsulationError> {
    if content.len() > BYTES_MAX {
        return Err(EncapsulationError::TooLarge { bytes: content.len(), limit: BYTES_MAX });
    }
    let mut rest = content;
    if take(&mut rest, 1)? != [VERSION] {
        return Err(EncapsulationError::Form("version"));
    }
    let length = take_uintvar(&mut rest)?;
    let mut list = take(&mut rest, length)?;
    let mut applications = Vec::new();
    while !list.is_empty() && applications.len() < ENTRIES_MAX {
        applications.push(take_application_id(&mut list)?);
    }
    let length = take_uintvar(&mut rest)?;
    let mut points = take(&mut rest, length)?;
    let mut contacts = Vec::new();
    while !points.is_empty() && contacts.len() < ENTRIES_MAX {
        contacts.extend(take_contact_point(&mut points)?);
    }
    if !list.is_empty() || !points.is_empty() || !rest.is_empty() {
        return Err(EncapsulationError::Form("bytes are left over"));
    }
    Ok(Sia { applications, contacts })
}

/// The number of an id that has one, or its text.
pub(super) fn application_id(id: &str) -> Vec<u8> {
    match ASSIGNED.iter().position(|known| *known == id).and_then(|number| u8::try_from(number).ok()) {
        Some(number) => vec![0x80 | number],
        None => text(id),
    }
}

fn take_application_id(rest: &mut &[u8]) -> Result<String, EncapsulationError> {
    match rest.first() {
        Some(first) if first & 0x80 != 0 => {
            *rest = &rest[1..];
            let known = ASSIGNED.get(usize::from(first & 0x7f));
            known.map(|id| (*id).to_owned()).ok_or(EncapsulationError::Form("application id without a name"))
        }
        _ => take_text(rest).and_then(|text| String::from_utf8(text).map_err(|_| EncapsulationError::Form("application id"))),
    }
}

/// WSP's text string (WAP-230 section 8.4.2.1): ends in a zero; quoted if its first byte could be a number.
pub(super) fn text(text: &str) -> Vec<u8> {
    let quote = text.bytes().next().is_some_and(|first| first & 0x80 != 0);
    let mut bytes = if quote { vec![0x7f] } else { Vec::new() };
    bytes.extend(text.bytes().filter(|byte| *byte != 0));
    bytes.push(0);
    bytes
}

pub(super) fn take_text(rest: &mut &[u8]) -> Result<Vec<u8>, EncapsulationError> {
    let end = rest.iter().position(|byte| *byte == 0).ok_or(EncapsulationError::Form("a text doesn't end"))?;
    let text = take(rest, end)?;
    *rest = &rest[1..];
    Ok(text.strip_prefix(&[0x7f]).unwrap_or(text).to_vec())
}

/// WSP's variable-length number: seven bits a byte, most significant first.
pub(super) fn put_uintvar(bytes: &mut Vec<u8>, value: usize) {
    let mut groups = vec![u8::try_from(value & 0x7f).unwrap_or_default()];
    let mut left = value >> 7;
    while left > 0 {
        groups.push(0x80 | u8::try_from(left & 0x7f).unwrap_or_default());
        left >>= 7;
    }
    bytes.extend(groups.iter().rev());
}

pub(super) fn take_uintvar(rest: &mut &[u8]) -> Result<usize, EncapsulationError> {
    let mut value: usize = 0;
    for _ in 0..5 {
        let [byte] = *take(rest, 1)? else { break };
        value = (value << 7) | usize::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(EncapsulationError::Form("a length is too long"))
}

pub(super) fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], EncapsulationError> {
    let (taken, left) = rest.split_at_checked(length).ok_or(EncapsulationError::Form("it ends early"))?;
    *rest = left;
    Ok(taken)
}

fn contact_point(address: &Address) -> Option<Vec<u8>> {
    let (bearer, port, ip) = match address {
        Address::V4 { ip, port, .. } => (BEARER_IPV4, port, &ip[..]),
        Address::V6 { ip, port, .. } => (BEARER_IPV6, port, &ip[..]),
        Address::Other(_) => return None,
    };
    let mut point = vec![BEARER_INCLUDED | PORT_INCLUDED | u8::try_from(ip.len()).ok()?, bearer];
    point.extend(port.to_be_bytes());
    point.extend(ip);
    Some(point)
}

/// `None` for an address of another kind than IP, or without a port.
fn take_contact_point(rest: &mut &[u8]) -> Result<Option<SocketAddr>, EncapsulationError> {
    let [flags] = *take(rest, 1)? else { return Err(EncapsulationError::Form("contact point")) };
    if flags & BEARER_INCLUDED != 0 {
        take(rest, 1)?;
    }
    let port = if flags & PORT_INCLUDED == 0 { None } else { <[u8; 2]>::try_from(take(rest, 2)?).ok().map(u16::from_be_bytes) };
    let address = take(rest, usize::from(flags & ADDRESS_LENGTH))?;
    let v4 = <[u8; 4]>::try_from(address).ok().map(IpAddr::from);
    let ip = v4.or_else(|| <[u8; 16]>::try_from(address).ok().map(IpAddr::from));
    Ok(ip.zip(port).map(|(ip, port)| SocketAddr::new(ip, port)))
}
