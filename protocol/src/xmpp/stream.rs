//! A server's stream, cut into stanzas.

use crate::simple::xml::{self, Element, XmlError};

/// Longest stanza, in bytes, and most elements in one: a contact list of several thousand.
pub const STANZA_BYTES_MAX: usize = 1_024 * 1_024;
const STANZA_ELEMENTS_MAX: usize = 20_000;

/// Longest start of a stream.
const HEADER_BYTES_MAX: usize = 4_096;

/// What a server has sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// The stream begins.
    Opened,
    /// A stanza, or another element of the stream's. Of one that can't be read its start alone, without what was in it: what a contact puts into an item of
    /// theirs mustn't end the connection of whoever looks at it.
    Stanza(Element),
    /// The server has ended the stream.
    Closed,
}

/// Why a stream can't be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// More than [`STANZA_BYTES_MAX`] bytes at once.
    #[error("a stanza is longer than what is read")]
    TooLong,
    /// It isn't what XML, or XMPP, allows.
    #[error("not an XMPP stream: {0}")]
    Form(&'static str),
    /// A stanza can't be read.
    #[error("stanza: {0}")]
    Stanza(#[from] XmlError),
}

/// Takes bytes as they come, gives pieces. One per stream: a stream that begins again (after TLS, after log-in) has a new one.
#[derive(Debug, Default)]
pub struct StreamReader {
    buffer: Vec<u8>,
    /// The start tag, which every stanza is read in: it declares namespaces.
    header: Option<Vec<u8>>,
    /// How far the stanza at the front was looked at, and how many elements are open there.
    looked: usize,
    depth: usize,
}

impl StreamReader {
    /// Takes bytes.
    ///
    /// # Errors
    /// [`StreamError::TooLong`] if what isn't read yet is too much.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), StreamError> {
        if self.buffer.len() + bytes.len() > STANZA_BYTES_MAX {
            return Err(StreamError::TooLong);
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    /// The next piece; `None` until more bytes have come.
    ///
    /// # Errors
    /// [`StreamError`]: the stream is of no use any more.
    pub fn next_piece(&mut self) -> Result<Option<Piece>, StreamError> {
        if self.looked == 0 {
            self.skip_between();
        }
        if self.buffer.is_empty() {
            return Ok(None);
        }
        let Some(header) = &self.header else { return self.header() };
        if self.looked == 0 && self.buffer.starts_with(b"</") {
            return Ok(Some(Piece::Closed));
        }
        let header = header.clone();
        let Some(end) = self.stanza_end()? else { return Ok(None) };
        let stanza: Vec<u8> = self.buffer.drain(..end).collect();
        (self.looked, self.depth) = (0, 0);
        let read = read_stanza(&header, &stanza).or_else(|_| read_stanza(&header, &start_alone(&stanza)?))?;
        Ok(Some(Piece::Stanza(read)))
    }

    /// White space keeps connections open.
    fn skip_between(&mut self) {
        let space = self.buffer.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        self.buffer.drain(..space);
    }

    fn header(&mut self) -> Result<Option<Piece>, StreamError> {
        while self.buffer.starts_with(b"<?") {
            let Some(end) = find(&self.buffer, b"?>") else { return self.wait_for_header() };
            self.buffer.drain(..end + 2);
            self.skip_between();
        }
        if self.buffer.is_empty() {
            return Ok(None);
        }
        let Some(end) = tag_end(&self.buffer)? else { return self.wait_for_header() };
        let tag: Vec<u8> = self.buffer.drain(..=end).collect();
        let open = tag.strip_suffix(b">").unwrap_or(&tag).to_vec();
        let element = xml::parse(&[&open[..], b"/>"].concat())?;
        if !element.is("http://etherx.jabber.org/streams", "stream") {
            return Err(StreamError::Form("another element than a stream"));
        }
        self.header = Some(open);
        Ok(Some(Piece::Opened))
    }

    const fn wait_for_header(&self) -> Result<Option<Piece>, StreamError> {
        if self.buffer.len() > HEADER_BYTES_MAX { Err(StreamError::Form("a start without end")) } else { Ok(None) }
    }

    /// Where the element at the front ends, once it is there whole.
    fn stanza_end(&mut self) -> Result<Option<usize>, StreamError> {
        loop {
            let rest = self.buffer.get(self.looked..).unwrap_or_default();
            let Some(start) = rest.iter().position(|&byte| byte == b'<') else { return Ok(None) };
            if self.depth == 0 && start != 0 {
                return Err(StreamError::Form("text between stanzas"));
            }
            let tag = rest.get(start..).unwrap_or_default();
            if let Some(inside) = tag.strip_prefix(b"<![CDATA[") {
                let Some(end) = find(inside, b"]]>") else { return Ok(None) };
                self.looked += start + 9 + end + 3;
                continue;
            }
            // RFC 6120 section 11.1: no comments, instructions and document types.
            if tag.starts_with(b"<?") || (tag.starts_with(b"<!") && !b"<![CDATA[".starts_with(tag)) {
                return Err(StreamError::Form("a comment, instruction or document type"));
            }
            let Some(end) = tag_end(tag)? else { return Ok(None) };
            let whole = tag.get(..=end).unwrap_or_default();
            if whole.starts_with(b"</") {
                self.depth = self.depth.checked_sub(1).ok_or(StreamError::Form("an end without start"))?;
            } else if !whole.ends_with(b"/>") {
                self.depth += 1;
            }
            self.looked += start + end + 1;
            if self.depth == 0 {
                return Ok(Some(self.looked));
            }
        }
    }
}

/// A stanza, read in the start tag of its stream.
fn read_stanza(header: &[u8], stanza: &[u8]) -> Result<Element, StreamError> {
    let document = [header, b">", stanza, b"</", name_of(header), b">"].concat();
    let root = xml::parse_within(&document, STANZA_BYTES_MAX + 2 * HEADER_BYTES_MAX, STANZA_ELEMENTS_MAX)?;
    root.children.into_iter().next().ok_or(StreamError::Form("no element"))
}

/// The start tag of a stanza as an element without content.
fn start_alone(stanza: &[u8]) -> Result<Vec<u8>, StreamError> {
    let end = tag_end(stanza)?.ok_or(StreamError::Form("no element"))?;
    let tag = stanza.get(..end).unwrap_or_default();
    Ok([tag.strip_suffix(b"/").unwrap_or(tag), b"/>"].concat())
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// Where a tag ends that begins at the front: at the `>` outside of values.
fn tag_end(tag: &[u8]) -> Result<Option<usize>, StreamError> {
    if tag.first() != Some(&b'<') {
        return Err(StreamError::Form("no element"));
    }
    let mut quote = None;
    for (at, &byte) in tag.iter().enumerate() {
        match (quote, byte) {
            (None, b'>') => return Ok(Some(at)),
            (None, b'"' | b'\'') => quote = Some(byte),
            (Some(open), byte) if open == byte => quote = None,
            _ => {}
        }
    }
    Ok(None)
}

fn name_of(header: &[u8]) -> &[u8] {
    let name = header.strip_prefix(b"<").unwrap_or(header);
    name.split(|byte| byte.is_ascii_whitespace() || *byte == b'>').next().unwrap_or_default()
}
