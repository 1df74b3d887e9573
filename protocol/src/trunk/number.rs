//! Telephone numbers: as people dial them, as `tel:` URIs write them (RFC 3966), and as they go to a provider (E.164).

use std::fmt;

/// Longest dialled number: an international one has 15 digits, with prefix and codes of a network a few more.
pub const DIALLED_CHARS_MAX: usize = 32;

/// Longest text that is read as a number.
const TEXT_BYTES_MAX: usize = 128;

/// Digits of an international number (E.164 section 6).
const GLOBAL_DIGITS_MAX: usize = 15;
const GLOBAL_DIGITS_MIN: usize = 5;

/// Numbers that get help. Which of them do depends on the country; none of them is anything else anywhere that a person would miss more.
pub const EMERGENCY_NUMBERS: [&str; 22] = [
    "000", "100", "101", "102", "103", "108", "110", "111", "112", "113", "117", "118", "119", "122", "133", "144", "190", "191",
    "192", "193", "911", "999",
];

/// Why something isn't a number that can be dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NumberError {
    /// Nothing that could be dialled.
    #[error("no telephone number")]
    Empty,
    /// Longer than any.
    #[error("longer than {DIALLED_CHARS_MAX} digits")]
    TooLong,
    /// Letters, or a plus within.
    #[error("a telephone number has digits, and a plus in front")]
    Character,
    /// An extension or subaddress behind the number, which can't be dialled here.
    #[error("an extension behind a number isn't dialled")]
    Extension,
    /// Too few or too many digits for an international number.
    #[error("not an international number")]
    Length,
    /// A local number, and nobody has said where.
    #[error("the number isn't international, and the gateway has no country")]
    Local,
}

/// What somebody has dialled: digits, `*` and `#`, with a plus in front if the number is international. Without separators.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dialled(String);

impl Dialled {
    /// Reads a number as people write it, or a `tel:` URI (RFC 3966): separators are dropped, a local number's `phone-context` is put in front where it
    /// is a number itself, and other parameters say nothing.
    ///
    /// # Errors
    /// [`NumberError`].
    pub fn parse(text: &str) -> Result<Self, NumberError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(NumberError::TooLong);
        }
        let Some(rest) = strip_scheme(text) else { return Self::new(text) };
        let (number, params) = rest.split_once(';').unwrap_or((rest, ""));
        let mut context = None;
        for param in params.split(';').filter(|param| !param.is_empty()) {
            let (name, value) = param.split_once('=').unwrap_or((param, ""));
            match name.to_ascii_lowercase().as_str() {
                "ext" | "isub" => return Err(NumberError::Extension),
                "phone-context" if value.starts_with('+') => context = Some(value),
                _ => {}
            }
        }
        match context {
            Some(context) if !number.starts_with('+') => Self::new(&format!("{context}{number}")),
            _ => Self::new(number),
        }
    }

    fn new(text: &str) -> Result<Self, NumberError> {
        let bare: String = text.trim().chars().filter(|c| !is_separator(*c)).collect();
        let digits = bare.strip_prefix('+').unwrap_or(&bare);
        if digits.is_empty() {
            return Err(NumberError::Empty);
        }
        if bare.len() > DIALLED_CHARS_MAX {
            return Err(NumberError::TooLong);
        }
        if !digits.bytes().all(|b| b.is_ascii_digit() || b == b'*' || b == b'#') {
            return Err(NumberError::Character);
        }
        Ok(Self(bare))
    }

    /// As it goes over the wire.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Dialled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn strip_scheme(text: &str) -> Option<&str> {
    let text = text.trim();
    text.get(..4).filter(|scheme| scheme.eq_ignore_ascii_case("tel:")).map(|_| &text[4..])
}

/// Whether this names a telephone number rather than a user: a `tel:` URI.
#[must_use]
pub fn is_tel_uri(text: &str) -> bool {
    strip_scheme(text).is_some()
}

/// What is put between digits for the eye (RFC 3966 section 3, and blanks).
const fn is_separator(c: char) -> bool {
    matches!(c, '-' | '.' | '(' | ')' | ' ' | '/')
}

/// What a dialled number means here.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Number {
    /// International: `+` and up to 15 digits (E.164).
    Global(String),
    /// One that is dialled as it is: a service of the network, or an emergency number.
    Short(String),
}

impl Number {
    /// As patterns see it, and as it goes to a provider.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let (Self::Global(text) | Self::Short(text)) = self;
        text
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How numbers are dialled where the gateway is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DialPlan {
    /// The country's code: `49`. Without one only international numbers mean anything, and short ones that a pattern names.
    pub country: Option<String>,
    /// What stands before another country's code: `00`.
    pub international_prefix: String,
    /// What stands before an area's code: `0`; empty where nothing does.
    pub national_prefix: String,
    /// The area's code, without the prefix: numbers without one are of this area. `None`: they mean nothing.
    pub area: Option<String>,
    /// Numbers that get help, as they are dialled.
    pub emergency: Vec<String>,
}

impl Default for DialPlan {
    fn default() -> Self {
        Self {
            country: None,
            international_prefix: "00".to_owned(),
            national_prefix: "0".to_owned(),
            area: None,
            emergency: EMERGENCY_NUMBERS.iter().map(ToString::to_string).collect(),
        }
    }
}

impl DialPlan {
    /// What a dialled number means. `is_short` says of digits whether they are dialled as they are.
    ///
    /// # Errors
    /// [`NumberError::Local`], [`NumberError::Length`], [`NumberError::Character`].
    pub fn number(&self, dialled: &Dialled, is_short: impl Fn(&str) -> bool) -> Result<Number, NumberError> {
        let text = dialled.as_str();
        if let Some(emergency) = self.emergency(text) {
            return Ok(Number::Short(emergency.to_owned()));
        }
        if is_short(text) {
            return Ok(Number::Short(text.to_owned()));
        }
        if let Some(digits) = text.strip_prefix('+') {
            return global(digits);
        }
        if let Some(digits) = strip(text, &self.international_prefix) {
            return global(digits);
        }
        let Some(country) = &self.country else { return Err(NumberError::Local) };
        // Where nothing stands before an area's code, a number with and one without it are told apart by the area, if there is one.
        let national =
            if self.national_prefix.is_empty() && self.area.is_none() { Some(text) } else { strip(text, &self.national_prefix) };
        match (national, &self.area) {
            (Some(national), _) => global(&format!("{country}{national}")),
            (None, Some(area)) => global(&format!("{country}{area}{text}")),
            (None, None) => Err(NumberError::Local),
        }
    }

    /// The emergency number that this is, however it is written: alone, behind the prefixes, or behind a country's code.
    fn emergency(&self, text: &str) -> Option<&str> {
        /// A country's code has one to three digits; what is longer than that and an emergency number is somebody's number.
        const COUNTRY_DIGITS: std::ops::RangeInclusive<usize> = 1..=3;
        let find = |digits: &str| self.emergency.iter().find(|known| *known == digits).map(String::as_str);
        let behind_country = |digits: &str| COUNTRY_DIGITS.filter_map(|length| digits.get(length..)).find_map(find);
        if let Some(found) = find(text) {
            return Some(found);
        }
        if let Some(digits) = text.strip_prefix('+') {
            return find(digits).or_else(|| behind_country(digits));
        }
        let international = strip(text, &self.international_prefix);
        let national = strip(text, &self.national_prefix);
        international.and_then(|digits| find(digits).or_else(|| behind_country(digits))).or_else(|| national.and_then(find))
    }
}

/// What follows a prefix that is one.
fn strip<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    text.strip_prefix(prefix).filter(|_| !prefix.is_empty())
}

fn global(digits: &str) -> Result<Number, NumberError> {
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(NumberError::Character);
    }
    // No country's code begins with 0.
    if !(GLOBAL_DIGITS_MIN..=GLOBAL_DIGITS_MAX).contains(&digits.len()) || digits.starts_with('0') {
        return Err(NumberError::Length);
    }
    Ok(Number::Global(format!("+{digits}")))
}

/// Which numbers: digits, `?` for any one digit, and `*` at the end for whatever follows. `+49*`, `+4989????`, `115`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern(String);

/// A pattern that can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?}: a pattern is a plus or none, digits, `?` for any digit, and `*` at the end for any more")]
pub struct PatternError(String);

impl Pattern {
    /// Reads one.
    ///
    /// # Errors
    /// [`PatternError`].
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let body = text.strip_suffix('*').unwrap_or(text);
        let digits = body.strip_prefix('+').unwrap_or(body);
        let is_good = text.len() <= DIALLED_CHARS_MAX
            && !text.is_empty()
            && digits.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'?' | b'#'));
        if is_good { Ok(Self(text.to_owned())) } else { Err(PatternError(text.chars().take(64).collect())) }
    }

    /// Whether a number is one of these.
    #[must_use]
    pub fn matches(&self, number: &str) -> bool {
        let (body, is_open) = match self.0.strip_suffix('*') {
            Some(body) => (body, true),
            None => (self.0.as_str(), false),
        };
        let fits = |(pattern, digit): (u8, u8)| pattern == digit || (pattern == b'?' && digit.is_ascii_digit());
        let has_length = if is_open { number.len() >= body.len() } else { number.len() == body.len() };
        has_length && body.bytes().zip(number.bytes()).all(fits)
    }

    /// Whether it is of numbers that are dialled as they are: those of an exact length without a plus.
    #[must_use]
    pub fn is_short(&self) -> bool {
        !self.0.starts_with('+') && !self.0.ends_with('*')
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
#[path = "number_tests.rs"]
mod tests;
