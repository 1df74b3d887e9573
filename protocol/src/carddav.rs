//! As much CardDAV as reading an address book takes, without I/O (RFC 6352, over WebDAV, RFC 4918): what is asked, and how answers are read.
//!
//! 1. *Where the books are* ([`find`]): what stands at an address says whether it is a book, or who is asking, and where that one's books are (RFC 5397, RFC 6352 section 7.1.1).
//! 2. *What is in a book*: which cards in which state ([`list`]), or what has changed since ([`changes`], RFC 6578).
//! 3. *The cards* ([`cards`]), some at a time.
//!
//! Everything is answered by a *multistatus* ([`read`]). A server is believed in what it says of its user's books and nothing else; what it sends is bounded, and XML with entities of its
//! own, or a document type, isn't read ([`xml`](crate::simple::xml)).

use crate::simple::xml::{self, Element, XmlError, escape};

const DAV: &str = "DAV:";
const CARD: &str = "urn:ietf:params:xml:ns:carddav";
const SERVER: &str = "http://calendarserver.org/ns/";

/// Most elements of an answer: a list of some 10,000 cards.
const ELEMENTS_MAX: usize = 100_000;

/// Longest path, tag or token of a server that is kept.
const WORD_BYTES_MAX: usize = 2_048;

/// Asks what stands at an address, and what is right below it if asked for that: whether it is a book, who asks, where their books are, and in which state (PROPFIND).
#[must_use]
pub fn find() -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><d:propfind xmlns:d=\"{DAV}\" xmlns:c=\"{CARD}\" xmlns:s=\"{SERVER}\"><d:prop>\
         <d:resourcetype/><d:current-user-principal/><c:addressbook-home-set/><d:sync-token/><s:getctag/></d:prop></d:propfind>"
    )
}

/// Asks which cards are in a book, and in which state (PROPFIND).
#[must_use]
pub fn list() -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><d:propfind xmlns:d=\"{DAV}\"><d:prop><d:resourcetype/><d:getetag/></d:prop></d:propfind>"
    )
}

/// Asks what has changed in a book since a state of it (REPORT, RFC 6578 section 3.2); an empty token is before all.
#[must_use]
pub fn changes(token: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><d:sync-collection xmlns:d=\"{DAV}\"><d:sync-token>{}</d:sync-token>\
         <d:sync-level>1</d:sync-level><d:prop><d:resourcetype/><d:getetag/></d:prop></d:sync-collection>",
        escape(token)
    )
}

/// Asks for cards by their paths (REPORT, RFC 6352 section 8.7), without pictures where the server can leave them out.
#[must_use]
pub fn cards<'a>(paths: impl IntoIterator<Item = &'a str>) -> String {
    let wanted = ["VERSION", "FN", "EMAIL", "TEL", "IMPP", "X-SIP"];
    let wanted: String = wanted.iter().map(|name| format!("<c:prop name=\"{name}\"/>")).collect();
    let paths: String = paths.into_iter().map(|path| format!("<d:href>{}</d:href>", escape(path))).collect();
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><c:addressbook-multiget xmlns:d=\"{DAV}\" xmlns:c=\"{CARD}\"><d:prop><d:getetag/>\
         <c:address-data>{wanted}</c:address-data></d:prop>{paths}</c:addressbook-multiget>"
    )
}

/// What stands at one path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// The path, or a whole address, as the server writes it.
    pub path: String,
    /// There is nothing, or nothing any more (404 and 410).
    pub is_gone: bool,
    /// It can't be had for another reason; it may be there.
    pub is_failed: bool,
    /// The server has more to say than it says here (RFC 6578 section 3.6).
    pub is_cut: bool,
    /// It has other things in it.
    pub is_collection: bool,
    /// It is an address book.
    pub is_book: bool,
    /// Where who asks is described.
    pub principal: Option<String>,
    /// Where that one's books are.
    pub homes: Vec<String>,
    /// A book's state, by two ways of naming it.
    pub tag: Option<String>,
    /// The same, for [`changes`].
    pub token: Option<String>,
    /// A card's state.
    pub etag: Option<String>,
    /// A card: text of RFC 6350.
    pub card: Option<String>,
}

/// A multistatus (RFC 4918 section 13).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answered {
    /// What is said of each path.
    pub entries: Vec<Entry>,
    /// The state after [`changes`].
    pub token: Option<String>,
}

/// Reads a multistatus of up to so many bytes.
///
/// # Errors
/// [`XmlError`]: it is something else, or too much.
pub fn read(bytes: &[u8], bytes_max: usize) -> Result<Answered, XmlError> {
    let root = xml::parse_within(bytes, bytes_max, ELEMENTS_MAX)?;
    if !root.is(DAV, "multistatus") {
        return Err(XmlError::Content("expected a multistatus"));
    }
    let entries = root.all(DAV, "response").filter_map(entry).collect();
    Ok(Answered { entries, token: root.first(DAV, "sync-token").and_then(word) })
}

fn entry(response: &Element) -> Option<Entry> {
    let mut entry = Entry { path: response.first(DAV, "href").and_then(word)?, ..Entry::default() };
    match response.first(DAV, "status").and_then(status) {
        Some(507) => entry.is_cut = true,
        Some(404 | 410) => entry.is_gone = true,
        Some(300..) => entry.is_failed = true,
        _ => {}
    }
    // What it doesn't have stands under another status.
    let is_had = |propstat: &&Element| propstat.first(DAV, "status").and_then(status).is_none_or(|code| code / 100 == 2);
    let properties = response.all(DAV, "propstat").filter(is_had).flat_map(|propstat| propstat.all(DAV, "prop"));
    properties.flat_map(|prop| &prop.children).for_each(|property| take(&mut entry, property));
    Some(entry)
}

fn take(entry: &mut Entry, property: &Element) {
    match (property.namespace.as_str(), property.name.as_str()) {
        (DAV, "resourcetype") => {
            entry.is_collection = property.first(DAV, "collection").is_some();
            entry.is_book = property.first(CARD, "addressbook").is_some();
        }
        (DAV, "current-user-principal") => entry.principal = property.first(DAV, "href").and_then(word),
        (CARD, "addressbook-home-set") => entry.homes = property.all(DAV, "href").filter_map(word).collect(),
        (DAV, "sync-token") => entry.token = word(property),
        (SERVER, "getctag") => entry.tag = word(property),
        (DAV, "getetag") => entry.etag = word(property),
        (CARD, "address-data") => entry.card = Some(property.text.clone()),
        _ => {}
    }
}

/// `HTTP/1.1 200 OK`
fn status(element: &Element) -> Option<u16> {
    element.words().split_ascii_whitespace().nth(1)?.parse().ok()
}

fn word(element: &Element) -> Option<String> {
    let word = element.words();
    let is_usable = !word.is_empty() && word.len() <= WORD_BYTES_MAX && !word.chars().any(char::is_control);
    is_usable.then(|| word.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: usize = 1_024 * 1_024;

    #[test]
    fn places_are_read_as_servers_write_them() {
        let text = r#"<?xml version="1.0"?><multistatus xmlns="DAV:" xmlns:CR="urn:ietf:params:xml:ns:carddav" xmlns:CS="http://calendarserver.org/ns/">
            <response><href>/alice/</href><propstat><prop><resourcetype><principal/><collection/></resourcetype>
            <current-user-principal><href>/alice/</href></current-user-principal><CR:addressbook-home-set><href>/alice/</href><href>/team/</href></CR:addressbook-home-set>
            </prop><status>HTTP/1.1 200 OK</status></propstat><propstat><prop><CS:getctag/></prop><status>HTTP/1.1 404 Not Found</status></propstat></response>
            <response><href>/alice/b%20k/</href><propstat><prop><resourcetype><CR:addressbook/><collection/></resourcetype><CS:getctag>"7"</CS:getctag>
            <sync-token>http://s.example/7</sync-token></prop><status>HTTP/1.1 200 OK</status></propstat></response></multistatus>"#;
        let read = read(text.as_bytes(), MAX).expect("a multistatus");
        let [home, book] = &read.entries[..] else { panic!("{read:?}") };
        assert_eq!((home.is_collection, home.is_book, home.principal.as_deref()), (true, false, Some("/alice/")));
        assert_eq!((&home.homes[..], &home.tag), (&["/alice/".to_owned(), "/team/".to_owned()][..], &None), "404 is nothing");
        assert!(book.is_book && book.path == "/alice/b%20k/");
        assert_eq!((book.tag.as_deref(), book.token.as_deref()), (Some("\"7\""), Some("http://s.example/7")));
    }

    #[test]
    fn cards_and_changes_are_read() {
        let text = "<d:multistatus xmlns:d='DAV:' xmlns:c='urn:ietf:params:xml:ns:carddav'>\
            <d:response><d:href>/b/1.vcf</d:href><d:propstat><d:prop><d:getetag>\"e1\"</d:getetag>\
            <c:address-data>BEGIN:VCARD&#13;\nFN:A &amp; B&#13;\nEND:VCARD</c:address-data></d:prop><d:status>HTTP/1.1 200 OK</d:status></d:propstat></d:response>\
            <d:response><d:href>/b/2.vcf</d:href><d:status>HTTP/1.1 404 Not Found</d:status></d:response>\
            <d:response><d:href>/b/</d:href><d:status>HTTP/1.1 507 Insufficient Storage</d:status></d:response>\
            <d:response><d:href>/b/3.vcf</d:href><d:status>HTTP/1.1 403 Forbidden</d:status></d:response>\
            <d:response><d:status>HTTP/1.1 200 OK</d:status></d:response><d:sync-token>t2</d:sync-token></d:multistatus>";
        let read = read(text.as_bytes(), MAX).expect("a multistatus");
        let [card, gone, cut, failed] = &read.entries[..] else { panic!("what has no path isn't read: {read:?}") };
        assert_eq!((card.etag.as_deref(), card.card.as_deref()), (Some("\"e1\""), Some("BEGIN:VCARD\r\nFN:A & B\r\nEND:VCARD")));
        assert!(gone.is_gone && !card.is_gone && cut.is_cut && !cut.is_gone);
        assert!(failed.is_failed && !failed.is_gone && !gone.is_failed && !card.is_failed && !cut.is_failed);
        assert_eq!(read.token.as_deref(), Some("t2"));
    }

    #[test]
    fn what_is_asked_is_well_formed_whatever_a_server_names() {
        let odd = "/b/<&'\"\u{1}.vcf";
        let asked = xml::parse(cards([odd, "/b/2.vcf"]).as_bytes()).expect("well-formed");
        let paths: Vec<&str> = asked.all(DAV, "href").map(Element::words).collect();
        assert_eq!(paths, ["/b/<&'\".vcf", "/b/2.vcf"]);
        let asked = xml::parse(changes("<t>").as_bytes()).expect("well-formed");
        assert_eq!(asked.first(DAV, "sync-token").map(Element::words), Some("<t>"));
        assert!(xml::parse(find().as_bytes()).is_ok() && xml::parse(list().as_bytes()).is_ok());
    }

    #[test]
    fn what_expands_is_too_much_or_is_something_else_is_refused() {
        let bomb = "<!DOCTYPE m [<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '&a;&a;&a;'>]><m xmlns='DAV:'>&b;</m>";
        let outside = "<!DOCTYPE m SYSTEM 'file:///etc/passwd'><multistatus xmlns='DAV:'/>";
        for text in [bomb, outside, "<html/>", "<multistatus/>", "<multistatus xmlns='DAV:'>&a;</multistatus>", ""] {
            assert!(read(text.as_bytes(), MAX).is_err(), "{text}");
        }
        let many = format!("<multistatus xmlns='DAV:'>{}</multistatus>", "<a/>".repeat(ELEMENTS_MAX));
        assert!(matches!(read(many.as_bytes(), MAX), Err(XmlError::TooMuch(_))));
        assert!(matches!(read(many.as_bytes(), 10), Err(XmlError::TooMuch(_))));
        let long = format!("<multistatus xmlns='DAV:'><sync-token>{}</sync-token></multistatus>", "t".repeat(WORD_BYTES_MAX + 1));
        assert_eq!(read(long.as_bytes(), MAX), Ok(Answered::default()), "a token that can't be kept is none");
    }

    proptest! {
        #[test]
        fn anything_is_read_or_refused(tags in "(<(/)?(d:)?(multistatus|response|href|propstat|prop|status)( xmlns='DAV:')?>|HTTP/1.1 200|&amp;){0,30}") {
            let _ = read(tags.as_bytes(), MAX);
        }
    }
}
