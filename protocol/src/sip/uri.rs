//! Addresses: SIP URIs (RFC 3261 section 19.1), and what stands in `From`, `To` and `Contact` (section 20.10).

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Why a piece of a message can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

/// `;name=value`; names in lower case, values as they were, without quotes.
pub type Param = (String, Option<String>);

/// A `sip:` or `sips:` URI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SipUri {
    /// `sips:`
    pub is_secure: bool,
    /// Unescaped; `None` where there is none.
    pub user: Option<String>,
    /// As it was, in lower case; IPv6 with its brackets.
    pub host: String,
    /// `None`: the transport's own.
    pub port: Option<u16>,
    /// Parameters.
    pub params: Vec<Param>,
    /// What follows the question mark, if anything does.
    pub headers: Option<String>,
}

impl SipUri {
    /// Reads one.
    ///
    /// # Errors
    /// [`Malformed`]: another scheme, or not a URI.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let (scheme, rest) = text.split_once(':').ok_or(Malformed("a URI without a scheme"))?;
        let is_secure = match scheme.to_ascii_lowercase().as_str() {
            "sip" => false,
            "sips" => true,
            _ => return Err(Malformed("another scheme than sip")),
        };
        let (user, rest) = match rest.rfind('@') {
            Some(at) => (Some(user(&rest[..at])?), &rest[at + 1..]),
            None => (None, rest),
        };
        let (rest, headers) = match rest.split_once('?') {
            Some((rest, headers)) => (rest, Some(headers.to_owned())),
            None => (rest, None),
        };
        let (host_port, rest) = rest.split_at(rest.find(';').unwrap_or(rest.len()));
        let (host, port) = host_port_of(host_port)?;
        if rest.contains(char::is_whitespace) || rest.contains(['<', '>', '"', ',']) {
            return Err(Malformed("a character that no URI has"));
        }
        Ok(Self { is_secure, user, host, port, params: params(rest)?, headers })
    }

    /// A parameter's value; empty where it has none.
    #[must_use]
    pub fn param(&self, name: &str) -> Option<&str> {
        find(&self.params, name)
    }
}

impl fmt::Display for SipUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_secure { "sips:" } else { "sip:" })?;
        if let Some(user) = &self.user {
            write!(f, "{}@", escape_user(user))?;
        }
        f.write_str(&self.host)?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        write_params(f, &self.params)
    }
}

fn write_params(f: &mut fmt::Formatter<'_>, params: &[Param]) -> fmt::Result {
    for (name, value) in params {
        match value {
            Some(value) if value.bytes().all(|b| is_token(b) || b"[]:/&+$".contains(&b)) => write!(f, ";{name}={value}")?,
            Some(value) => write!(f, ";{name}={}", quote(value))?,
            None => write!(f, ";{name}")?,
        }
    }
    Ok(())
}

/// A name and an address with parameters, as in `From`, `To`, `Contact`, `Route`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameAddr {
    /// The name shown, without quotes; empty where there is none.
    pub display: String,
    /// The URI as it was; [`SipUri::parse`] reads those of SIP.
    pub uri: String,
    /// The header's parameters, not the URI's.
    pub params: Vec<Param>,
}

impl NameAddr {
    /// Reads one.
    ///
    /// # Errors
    /// [`Malformed`]: not closed, not a URI, or a bare one with what only `<..>` may hold (RFC 3261 section 20).
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let text = text.trim();
        let (display, rest) = display(text)?;
        if let Some(rest) = rest.strip_prefix('<') {
            let (uri, rest) = rest.split_once('>').ok_or(Malformed("an address isn't closed"))?;
            check_uri(uri)?;
            return Ok(Self { display, uri: uri.to_owned(), params: params(rest)? });
        }
        if !display.is_empty() {
            return Err(Malformed("a name without an address"));
        }
        let (uri, rest) = rest.split_at(rest.find(';').unwrap_or(rest.len()));
        let uri = uri.trim_end();
        if uri.contains(['?', ',']) {
            return Err(Malformed("such a URI stands in angle brackets"));
        }
        check_uri(uri)?;
        Ok(Self { display, uri: uri.to_owned(), params: params(rest)? })
    }

    /// A parameter's value; empty where it has none.
    #[must_use]
    pub fn param(&self, name: &str) -> Option<&str> {
        find(&self.params, name)
    }

    /// The address, where it is a SIP URI.
    #[must_use]
    pub fn sip(&self) -> Option<SipUri> {
        SipUri::parse(&self.uri).ok()
    }
}

impl fmt::Display for NameAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.display.is_empty() {
            write!(f, "{} ", quote(&self.display))?;
        }
        write!(f, "<{}>", self.uri)?;
        write_params(f, &self.params)
    }
}

/// The name before an address, and what is left.
fn display(text: &str) -> Result<(String, &str), Malformed> {
    if text.starts_with('"') {
        let (name, rest) = quoted(text)?;
        let rest = rest.trim_start();
        return if rest.starts_with('<') { Ok((name, rest)) } else { Err(Malformed("a name without an address")) };
    }
    let Some(at) = text.find('<') else { return Ok((String::new(), text)) };
    let name = text[..at].trim();
    if !name.bytes().all(|b| is_token(b) || b == b' ' || b == b'\t') {
        return Err(Malformed("a name with such characters stands in quotes"));
    }
    Ok((name.to_owned(), &text[at..]))
}

/// Whatever its scheme: no white space and no quotes within, and a scheme that is one.
fn check_uri(uri: &str) -> Result<(), Malformed> {
    let (scheme, rest) = uri.split_once(':').ok_or(Malformed("a URI without a scheme"))?;
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    if !is_scheme || rest.is_empty() {
        return Err(Malformed("not a URI"));
    }
    if uri.contains(|c: char| c.is_whitespace() || c.is_control() || "<>\"".contains(c)) {
        return Err(Malformed("a character that no URI has"));
    }
    if scheme.eq_ignore_ascii_case("sip") || scheme.eq_ignore_ascii_case("sips") {
        SipUri::parse(uri)?;
    }
    Ok(())
}

/// The user part, unescaped and without a password.
fn user(text: &str) -> Result<String, Malformed> {
    let name = text.split(':').next().unwrap_or_default();
    if name.is_empty() || !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.!~*'()&=+$,;?/:%".contains(&b)) {
        return Err(Malformed("a user part with such characters"));
    }
    unescape(name)
}

pub(super) fn unescape(text: &str) -> Result<String, Malformed> {
    const ESCAPE: Malformed = Malformed("a percent sign without two digits");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|b| char::from(b).to_digit(16)).ok_or(ESCAPE);
        let value = digit()? * 16 + digit()?;
        bytes.push(u8::try_from(value).map_err(|_| ESCAPE)?);
    }
    String::from_utf8(bytes).map_err(|_| Malformed("a user part that is no text"))
}

/// Escapes what may not stand in a user part.
#[must_use]
pub fn escape_user(user: &str) -> String {
    let mut text = String::with_capacity(user.len());
    for byte in user.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.!~*'()&=+$,;?/".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text += &format!("%{byte:02X}");
        }
    }
    text
}

/// The host of users whose own can't be one (RFC 2606: a name that nobody has): those known by their key alone, and those of an authority whose label is no
/// host's name. The user part is all of them then.
pub const WHOLE_USER_HOST: &str = "halloo.invalid";

/// How users known by their key alone are written.
const KEY_PREFIX: &str = "key:";

/// The address of a user of the overlay, `name@authority` or `key:...`: a valid one, whatever the script of the name.
#[must_use]
pub fn address_of_user(user: &str) -> String {
    let named = user.rsplit_once('@').filter(|(_, host)| host_port_of(host).is_ok_and(|(_, port)| port.is_none()));
    match named.filter(|_| !user.starts_with(KEY_PREFIX)) {
        Some((name, host)) => format!("sip:{}@{host}", escape_user(name)),
        None => format!("sip:{}@{WHOLE_USER_HOST}", escape_user(user)),
    }
}

/// Whom an address names: what [`address_of_user`] was made of, in lower case where case doesn't count. `None` where it names nobody.
#[must_use]
pub fn user_of_address(uri: &SipUri) -> Option<String> {
    let name = uri.user.as_deref()?;
    if uri.host != WHOLE_USER_HOST {
        return Some(format!("{}@{}", name.to_lowercase(), uri.host));
    }
    Some(if name.starts_with(KEY_PREFIX) { name.to_owned() } else { name.to_lowercase() })
}

/// Host and port.
///
/// # Errors
/// [`Malformed`]: neither a name nor an address, or a port beyond 65,535.
pub fn host_port_of(text: &str) -> Result<(String, Option<u16>), Malformed> {
    const HOST: Malformed = Malformed("not a host");
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, rest) = rest.split_once(']').ok_or(HOST)?;
            address.parse::<Ipv6Addr>().map_err(|_| HOST)?;
            (
                &text[..address.len() + 2],
                rest.trim().strip_prefix(':').or_else(|| rest.trim().is_empty().then_some("")).ok_or(HOST)?,
            )
        }
        None => {
            text.split_once(':').map_or((text, ""), |(host, port)| (host.trim_end(), if port.is_empty() { "x" } else { port }))
        }
    };
    let is_name = host.parse::<Ipv4Addr>().is_ok()
        || host.starts_with('[')
        || (!host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.' || b == b'_'));
    if !is_name || host.len() > 255 {
        return Err(HOST);
    }
    let port = match port.trim() {
        "" => None,
        digits => Some(digits.parse().map_err(|_| Malformed("not a port"))?),
    };
    Ok((host.to_ascii_lowercase(), port))
}

/// A parameter of an address in a header, as [`NameAddr::parse`] and [`NameAddr::param`] have it, with nothing kept of the rest.
///
/// # Errors
/// [`Malformed`]: its parameters can't be read.
pub(super) fn header_param(text: &str, name: &str) -> Result<Option<String>, Malformed> {
    let text = text.trim();
    let is_simple = !text.starts_with('"');
    let rest = match text.split_once('<') {
        Some((_, rest)) if is_simple => rest.split_once('>').ok_or(Malformed("an address isn't closed"))?.1,
        _ => return Ok(NameAddr::parse(text)?.param(name).map(str::to_owned)),
    };
    if rest.trim().is_empty() {
        return Ok(None);
    }
    Ok(find(&params(rest)?, name).map(str::to_owned))
}

/// Reads `;name=value;name`, with white space where RFC 3261 allows it.
///
/// # Errors
/// [`Malformed`]: an empty parameter, or a value that isn't closed.
pub fn params(text: &str) -> Result<Vec<Param>, Malformed> {
    const PARAMS_MAX: usize = 32;
    let mut found = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        rest = rest.strip_prefix(';').ok_or(Malformed("something follows that is no parameter"))?.trim_start();
        let end = rest.bytes().position(|b| !is_token(b) && !b"[]:/&+$".contains(&b)).unwrap_or(rest.len());
        let name = rest[..end].to_ascii_lowercase();
        if name.is_empty() || found.len() == PARAMS_MAX {
            return Err(Malformed("an empty parameter, or too many"));
        }
        rest = rest[end..].trim_start();
        let mut value = None;
        if let Some(after) = rest.strip_prefix('=') {
            let (text, after) = param_value(after.trim_start())?;
            value = Some(text);
            rest = after.trim_start();
        }
        found.push((name, value));
    }
    Ok(found)
}

fn param_value(text: &str) -> Result<(String, &str), Malformed> {
    if text.starts_with('"') {
        return quoted(text);
    }
    let end = text.find(|c: char| c == ';' || c == ',' || c.is_whitespace()).unwrap_or(text.len());
    match end {
        0 => Err(Malformed("a parameter without its value")),
        _ => Ok((text[..end].to_owned(), &text[end..])),
    }
}

/// Reads a quoted string; the text must begin with the quote.
pub(super) fn quoted(text: &str) -> Result<(String, &str), Malformed> {
    let mut value = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((value, &text[at + 1..])),
            '\\' => value.push(chars.next().ok_or(Malformed("quotes aren't closed"))?.1),
            c => value.push(c),
        }
    }
    Err(Malformed("quotes aren't closed"))
}

/// Puts a text in quotes; control characters become spaces.
#[must_use]
pub fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push(' '),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// Whether a byte may stand in a token (RFC 3261 section 25.1).
#[must_use]
pub const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'!' | b'%' | b'*' | b'_' | b'+' | b'`' | b'\'' | b'~')
}

pub(super) fn find<'a>(params: &'a [Param], name: &str) -> Option<&'a str> {
    params.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_deref().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_user_has_a_valid_address() {
        for (user, address) in [
            ("bob@example", "sip:bob@example"),
            ("jürgen@example", "sip:j%C3%BCrgen@example"),
            ("анна@пример", "sip:%D0%B0%D0%BD%D0%BD%D0%B0%40%D0%BF%D1%80%D0%B8%D0%BC%D0%B5%D1%80@halloo.invalid"),
            ("key:Ab_9", "sip:key%3AAb_9@halloo.invalid"),
        ] {
            assert_eq!(address_of_user(user), address);
            let uri = SipUri::parse(address).expect("an address");
            assert_eq!(user_of_address(&uri).as_deref(), Some(user));
            assert!(NameAddr::parse(&format!("\"{user}\" <{address}>")).is_ok());
        }
        let shouted = SipUri::parse("sip:BOB@EXAMPLE").expect("an address");
        assert_eq!(user_of_address(&shouted).as_deref(), Some("bob@example"));
    }

    #[test]
    fn uris_are_read_and_written() {
        for (text, user, host, port) in [
            ("sip:bob@example.com", Some("bob"), "example.com", None),
            ("sips:bob@[2001:db8::1]:5061;transport=tls", Some("bob"), "[2001:db8::1]", Some(5061)),
            ("sip:127.0.0.1:5060;lr", None, "127.0.0.1", Some(5060)),
            ("sip:user;par=u%40example.net@example.com", Some("user;par=u@example.net"), "example.com", None),
        ] {
            let uri = SipUri::parse(text).expect(text);
            assert_eq!((uri.user.as_deref(), uri.host.as_str(), uri.port), (user, host, port), "{text}");
            assert_eq!(SipUri::parse(&uri.to_string()), Ok(uri), "{text}");
        }
        for text in ["sip:", "sip:@a", "tel:1", "sip:a@b:99999", "sip:a%4@b", "sip:a@b c", "sip:a@", "sip:a@b:"] {
            SipUri::parse(text).expect_err(text);
        }
    }

    #[test]
    fn a_parameter_of_a_header_is_the_one_of_the_whole_address() {
        for text in [
            "<sip:a@b;tag=no>;tag=1",
            "A B <sip:a@b> ;x; Tag = 1 ",
            "\"a <b>;tag=no\" <sip:a@b>;tag=1",
            "sip:a@b;tag=1",
            "<sip:a@b>;tag",
            "<sip:a@b>",
            "<sip:a@b>;tag=",
            "<sip:a@b>;;",
            "<sip:a@b",
        ] {
            let whole = NameAddr::parse(text).map(|address| address.param("tag").map(str::to_owned));
            assert_eq!(header_param(text, "tag"), whole, "{text}");
        }
    }

    #[test]
    fn names_and_addresses_are_read_and_written() {
        let read = NameAddr::parse("\"A \\\"B\\\"\" <sip:a@b;lr> ; tag = 1 ;x").expect("an address");
        assert_eq!(
            (read.display.as_str(), read.uri.as_str(), read.param("tag"), read.param("x")),
            ("A \"B\"", "sip:a@b;lr", Some("1"), Some(""))
        );
        assert_eq!(NameAddr::parse(&read.to_string()), Ok(read));
        let bare = NameAddr::parse("sip:a@b;tag=1").expect("an address");
        assert_eq!((bare.uri.as_str(), bare.param("tag")), ("sip:a@b", Some("1")));
        for text in
            ["\"A <sip:a@b>", "A, B <sip:a@b>", "< sip:a@b >", "sip:a@b?x=y", "<sip:a@b", "a", "<sip:a@b>;;", "<sip:a@b>;tag="]
        {
            NameAddr::parse(text).expect_err(text);
        }
    }
}
