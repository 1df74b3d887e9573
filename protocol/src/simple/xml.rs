//! As much XML as phones' documents need (XML 1.0, Namespaces in XML 1.0): elements, attributes and text.
//!
//! Strict in form and bounded in everything. There are no document types, so no entities but the five that XML itself has and characters by number:
//! nothing expands. Comments and processing instructions are passed over.

use std::fmt::Write as _;

/// Longest document, in bytes: a list of 200 buddies.
pub const XML_BYTES_MAX: usize = 64 * 1_024;
/// Most elements, most of them within each other, and most attributes of one.
const ELEMENTS_MAX: usize = 2_000;
const DEPTH_MAX: usize = 16;
/// Each element has its own copy.
const NAMESPACE_BYTES_MAX: usize = 256;
const ATTRIBUTES_MAX: usize = 32;

/// Why a document can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum XmlError {
    /// It is longer, deeper or fuller than allowed.
    #[error("too much of it: {0}")]
    TooMuch(&'static str),
    /// It isn't well-formed, or uses what isn't allowed here.
    #[error("at byte {at}: {what}")]
    Form {
        /// Where.
        at: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// It is another document than was expected, or lacks something.
    #[error("{0}")]
    Content(&'static str),
}

/// An element.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Element {
    /// The namespace; empty if it has none.
    pub namespace: String,
    /// The name in it.
    pub name: String,
    /// The attributes as they were written, but for those that declare namespaces.
    pub attributes: Vec<(String, String)>,
    /// The elements in it.
    pub children: Vec<Element>,
    /// The text in it, what its elements have aside.
    pub text: String,
}

impl Element {
    /// An attribute's value.
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The elements of this name in this namespace.
    pub fn all<'a>(&'a self, namespace: &'a str, name: &'a str) -> impl Iterator<Item = &'a Self> {
        self.children.iter().filter(move |child| child.is(namespace, name))
    }

    /// The first of them.
    #[must_use]
    pub fn first(&self, namespace: &str, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.is(namespace, name))
    }

    /// Whether it is this one.
    #[must_use]
    pub fn is(&self, namespace: &str, name: &str) -> bool {
        self.namespace == namespace && self.name == name
    }

    /// Its text without the space around.
    #[must_use]
    pub fn words(&self) -> &str {
        self.text.trim()
    }
}

/// Reads a document.
///
/// # Errors
/// See [`XmlError`].
pub fn parse(bytes: &[u8]) -> Result<Element, XmlError> {
    parse_within(bytes, XML_BYTES_MAX, ELEMENTS_MAX)
}

/// The same for documents of up to so many bytes and elements.
///
/// # Errors
/// See [`XmlError`].
pub fn parse_within(bytes: &[u8], bytes_max: usize, elements_max: usize) -> Result<Element, XmlError> {
    if bytes.len() > bytes_max {
        return Err(XmlError::TooMuch("longer than is read"));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| XmlError::Form { at: error.valid_up_to(), what: "not UTF-8" })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = Reader { text, at: 0, elements: 0, elements_max, namespaces: Vec::new() };
    reader.skip_around()?;
    let root = reader.element(0)?;
    reader.skip_around()?;
    if reader.at < reader.text.len() { Err(reader.wrong("something after the document")) } else { Ok(root) }
}

/// Text with what XML reserves written otherwise; characters that XML can't have are left out.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars().filter(|character| is_allowed(*character)) {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&apos;"),
            // Readers make spaces of these in attributes.
            '\r' | '\n' | '\t' => drop(write!(escaped, "&#{};", u32::from(character))),
            other => escaped.push(other),
        }
    }
    escaped
}

/// The characters of XML (section 2.2).
const fn is_allowed(character: char) -> bool {
    matches!(character, '\t' | '\n' | '\r' | ' '..='\u{fffd}' | '\u{10000}'..)
}

fn is_name(name: &str) -> bool {
    let is_start = |character: char| character.is_alphabetic() || character == '_';
    let is_part = |character: char| is_start(character) || character.is_ascii_digit() || "-.".contains(character);
    name.chars().next().is_some_and(is_start) && name.len() <= 128 && name.chars().all(is_part)
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    elements: usize,
    elements_max: usize,
    /// Prefixes and their namespaces, the innermost last; the default one has an empty prefix.
    namespaces: Vec<(String, String)>,
}

impl<'a> Reader<'a> {
    const fn wrong(&self, what: &'static str) -> XmlError {
        XmlError::Form { at: self.at, what }
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn take(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn skip_space(&mut self) -> bool {
        let rest = self.rest();
        let length = rest.len() - rest.trim_start_matches([' ', '\t', '\r', '\n']).len();
        self.at += length;
        length > 0
    }

    /// What is up to this token, which is passed over.
    fn until(&mut self, token: &str, what: &'static str) -> Result<&'a str, XmlError> {
        let rest = self.rest();
        let length = rest.find(token).ok_or_else(|| self.wrong(what))?;
        self.at += length + token.len();
        Ok(rest.get(..length).unwrap_or_default())
    }

    /// Passes over what may stand around the document.
    fn skip_around(&mut self) -> Result<(), XmlError> {
        loop {
            self.skip_space();
            if self.take("<!--") {
                self.until("-->", "a comment without end")?;
            } else if self.take("<?") {
                self.until("?>", "an instruction without end")?;
            } else {
                return Ok(());
            }
        }
    }

    fn element(&mut self, depth: usize) -> Result<Element, XmlError> {
        self.elements += 1;
        if depth > DEPTH_MAX || self.elements > self.elements_max {
            return Err(XmlError::TooMuch("more elements than are read, or 16 within each other"));
        }
        if self.rest().starts_with("<!") || !self.take("<") {
            return Err(self.wrong("no element"));
        }
        let qualified = self.name()?;
        let outer = self.namespaces.len();
        let attributes = self.attributes()?;
        let (namespace, name) = self.resolve(qualified, true)?;
        let mut element = Element { namespace, name, attributes, ..Element::default() };
        if !self.take("/>") {
            if !self.take(">") {
                return Err(self.wrong("a tag without end"));
            }
            self.contents(&mut element, depth)?;
            let end = self.name()?;
            self.skip_space();
            if end != qualified || !self.take(">") {
                return Err(self.wrong("another end than the element's"));
            }
        }
        self.namespaces.truncate(outer);
        Ok(element)
    }

    /// Everything up to the end tag's name.
    fn contents(&mut self, element: &mut Element, depth: usize) -> Result<(), XmlError> {
        loop {
            let rest = self.rest();
            let length = rest.find('<').ok_or_else(|| self.wrong("an element without end"))?;
            let text = rest.get(..length).unwrap_or_default();
            element.text.push_str(&self.unescape(text)?);
            self.at += length;
            if self.take("</") {
                return Ok(());
            } else if self.take("<!--") {
                self.until("-->", "a comment without end")?;
            } else if self.take("<![CDATA[") {
                element.text.push_str(self.until("]]>", "CDATA without end")?);
            } else if self.take("<?") {
                self.until("?>", "an instruction without end")?;
            } else {
                let child = self.element(depth + 1)?;
                element.children.push(child);
            }
        }
    }

    fn name(&mut self) -> Result<&'a str, XmlError> {
        let rest = self.rest();
        let length = rest.find([' ', '\t', '\r', '\n', '>', '/', '=', '<']).unwrap_or(rest.len());
        let name = rest.get(..length).unwrap_or_default();
        let (prefix, local) = name.split_once(':').unwrap_or(("_", name));
        if !is_name(prefix) || !is_name(local) {
            return Err(self.wrong("no name"));
        }
        self.at += length;
        Ok(name)
    }

    fn attributes(&mut self) -> Result<Vec<(String, String)>, XmlError> {
        let mut attributes: Vec<(String, String)> = Vec::new();
        let mut count = 0;
        loop {
            let has_space = self.skip_space();
            if self.rest().starts_with(['>', '/']) {
                return Ok(attributes);
            }
            count += 1;
            if !has_space || count > ATTRIBUTES_MAX {
                return Err(self.wrong("attributes that aren't apart, or more than 32"));
            }
            let name = self.name()?;
            self.skip_space();
            if !self.take("=") {
                return Err(self.wrong("an attribute without value"));
            }
            self.skip_space();
            let quote = if self.take("\"") {
                "\""
            } else if self.take("'") {
                "'"
            } else {
                return Err(self.wrong("a value without quotes"));
            };
            let value = self.until(quote, "a value without end")?;
            if value.contains('<') {
                return Err(self.wrong("a value with a tag in it"));
            }
            let value = self.unescape(value)?;
            if name.starts_with("xmlns") && value.len() > NAMESPACE_BYTES_MAX {
                return Err(XmlError::TooMuch("a namespace longer than 256 bytes"));
            }
            match name.strip_prefix("xmlns") {
                Some("") => self.namespaces.push((String::new(), value)),
                Some(prefix) if prefix.starts_with(':') => self.namespaces.push((prefix[1..].to_owned(), value)),
                _ if attributes.iter().any(|(known, _)| known == name) => return Err(self.wrong("an attribute twice")),
                _ => attributes.push((name.to_owned(), value)),
            }
        }
    }

    fn resolve(&self, qualified: &str, has_default: bool) -> Result<(String, String), XmlError> {
        let (prefix, name) = qualified.split_once(':').unwrap_or(("", qualified));
        let known = self.namespaces.iter().rev().find(|(known, _)| known == prefix).map(|(_, namespace)| namespace.clone());
        match known {
            Some(namespace) => Ok((namespace, name.to_owned())),
            None if prefix.is_empty() && has_default => Ok((String::new(), name.to_owned())),
            None => Err(self.wrong("a prefix without namespace")),
        }
    }

    fn unescape(&self, text: &str) -> Result<String, XmlError> {
        let mut plain = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('&') {
            plain.push_str(before);
            let (name, after) = after.split_once(';').ok_or_else(|| self.wrong("an entity without end"))?;
            plain.push(entity(name).ok_or_else(|| self.wrong("an unknown entity"))?);
            rest = after;
        }
        plain.push_str(rest);
        if plain.chars().all(is_allowed) { Ok(plain) } else { Err(self.wrong("a character that XML can't have")) }
    }
}

fn entity(name: &str) -> Option<char> {
    match name {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        _ => {
            let number = name.strip_prefix('#').filter(|number| number.len() <= 8)?;
            let code = match number.strip_prefix('x') {
                Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                None => number.parse().ok()?,
            };
            char::from_u32(code).filter(|character| is_allowed(*character))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn elements_attributes_and_text_are_read() {
        let text = "\u{feff}<?xml version='1.0'?><!-- a --><p:a xmlns:p='urn:x' xmlns=\"urn:y\" p:q='1 &lt; 2'>one<b/> &amp;<![CDATA[<two>]]>\
<c xmlns=''><d e='&#x41;&#66;'>x</d></c></p:a>\n<!-- z -->";
        let root = parse(text.as_bytes()).unwrap();
        assert!(root.is("urn:x", "a"));
        assert_eq!((root.attribute("p:q"), root.text.as_str()), (Some("1 < 2"), "one &<two>"));
        assert!(root.first("urn:y", "b").is_some());
        let inner = root.first("", "c").unwrap().first("", "d").unwrap();
        assert_eq!((inner.attribute("e"), inner.words()), (Some("AB"), "x"));
    }

    #[test]
    fn what_isnt_well_formed_is_refused() {
        for wrong in [
            "",
            "x",
            "<a>",
            "<a></b>",
            "<a/><b/>",
            "<a b></a>",
            "<a b='1' b='2'/>",
            "<a b=1/>",
            "<a b='<'/>",
            "<a>&b;</a>",
            "<a>&</a>",
            "<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>",
            "<p:a/>",
            "<a>&#0;</a>",
            "<1/>",
            "<a b='1'c='2'/>",
            "<a",
            "<a>\u{1}</a>",
            "<:a/>",
            "<a:/>",
        ] {
            assert!(parse(wrong.as_bytes()).is_err(), "{wrong}");
        }
        assert!(matches!(parse("<a>".repeat(40).as_bytes()), Err(XmlError::TooMuch(_))));
        assert!(matches!(parse(format!("<a>{}</a>", "<b/>".repeat(3_000)).as_bytes()), Err(XmlError::TooMuch(_))));
        assert!(matches!(parse(&vec![b' '; XML_BYTES_MAX + 1]), Err(XmlError::TooMuch(_))));
    }

    proptest! {
        #[test]
        fn anything_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), tags in "[<>/a='&; !-]{0,60}") {
            let _ = parse(&bytes);
            let _ = parse(tags.as_bytes());
        }

        #[test]
        fn text_comes_back(text in "\\PC{0,60}") {
            let root = parse(format!("<a b='{0}'>{0}</a>", escape(&text)).as_bytes()).unwrap();
            prop_assert_eq!(root.attribute("b"), Some(root.text.as_str()));
            prop_assert_eq!(root.text, text.chars().filter(|character| is_allowed(*character)).collect::<String>());
        }
    }
}
