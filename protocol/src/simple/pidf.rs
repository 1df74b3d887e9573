//! Presence documents of phones (PIDF, RFC 3863), with what somebody is doing (RPID, RFC 4480) as part of the data model's person (RFC 4479).

use std::fmt::Write as _;

use super::xml::{self, Element, XmlError, escape};

/// The type of content.
pub const CONTENT_TYPE: &str = "application/pidf+xml";
const PIDF: &str = "urn:ietf:params:xml:ns:pidf";
const DATA_MODEL: &str = "urn:ietf:params:xml:ns:pidf:data-model";
const RPID: &str = "urn:ietf:params:xml:ns:pidf:rpid";
/// Most tuples of a document: a device each.
const TUPLES_MAX: usize = 32;
/// Longest note, in bytes.
const NOTE_BYTES_MAX: usize = 1_024;

/// Whether somebody can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basic {
    /// Yes.
    Open,
    /// No.
    Closed,
}

/// What somebody is doing, as far as it matters here (RFC 4480 section 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Activity {
    /// Not at the device.
    Away,
    /// Not to be disturbed without need.
    Busy,
    /// In a call.
    OnThePhone,
    /// In a meeting.
    Meeting,
    /// Asleep.
    Sleeping,
}

impl Activity {
    const ALL: [Self; 5] = [Self::Away, Self::Busy, Self::OnThePhone, Self::Meeting, Self::Sleeping];

    const fn name(self) -> &'static str {
        match self {
            Self::Away => "away",
            Self::Busy => "busy",
            Self::OnThePhone => "on-the-phone",
            Self::Meeting => "meeting",
            Self::Sleeping => "sleeping",
        }
    }
}

/// A way to reach somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tuple {
    /// Its name in the document.
    pub id: String,
    /// Whether it is one at present.
    pub basic: Option<Basic>,
    /// Where.
    pub contact: Option<String>,
    /// What is said of it.
    pub note: Option<String>,
}

/// A presence document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Presence {
    /// Whose, a `pres:` or `sip:` URI.
    pub entity: String,
    /// The ways to reach them.
    pub tuples: Vec<Tuple>,
    /// What they are doing; several may hold.
    pub activities: Vec<Activity>,
    /// What they say of themselves.
    pub note: Option<String>,
}

impl Presence {
    /// Whether there is a way to reach them; `None` if the document doesn't say.
    #[must_use]
    pub fn is_open(&self) -> Option<bool> {
        let known: Vec<Basic> = self.tuples.iter().filter_map(|tuple| tuple.basic).collect();
        if known.is_empty() { None } else { Some(known.contains(&Basic::Open)) }
    }

    /// Reads a document. What it has besides is passed over, as RFC 3863 section 4.2 wants it, unless it says that it must be understood.
    ///
    /// # Errors
    /// See [`XmlError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, XmlError> {
        let root = xml::parse(bytes)?;
        if !root.is(PIDF, "presence") {
            return Err(XmlError::Content("no presence document"));
        }
        let entity = root.attribute("entity").filter(|entity| !entity.is_empty() && entity.len() <= 512);
        let entity = entity.ok_or(XmlError::Content("it doesn't say whose presence it is"))?.to_owned();
        let tuples: Vec<Tuple> = root.all(PIDF, "tuple").take(TUPLES_MAX + 1).map(tuple).collect::<Result<_, _>>()?;
        if tuples.len() > TUPLES_MAX {
            return Err(XmlError::TooMuch("more than 32 tuples"));
        }
        let people = [DATA_MODEL, RPID].into_iter().flat_map(|namespace| root.all(namespace, "person"));
        let mut presence = Self { entity, tuples, activities: Vec::new(), note: note_of(&root)? };
        for person in people {
            let activities = person.all(RPID, "activities").flat_map(|activities| &activities.children);
            let known = activities.filter_map(|one| Activity::ALL.into_iter().find(|known| one.is(RPID, known.name())));
            for activity in known {
                if !presence.activities.contains(&activity) {
                    presence.activities.push(activity);
                }
            }
            let said = person.first(DATA_MODEL, "note").map(|note| note.words().to_owned()).filter(|note| !note.is_empty());
            presence.note = presence.note.or(check_note(said)?);
        }
        Ok(presence)
    }

    /// The document.
    #[must_use]
    pub fn to_xml(&self) -> String {
        let mut text = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\r\n<presence xmlns=\"{PIDF}\" xmlns:dm=\"{DATA_MODEL}\" xmlns:rpid=\"{RPID}\" entity=\"{}\">\r\n",
            escape(&self.entity)
        );
        for tuple in &self.tuples {
            tuple.write(&mut text);
        }
        if let Some(note) = &self.note {
            let _ = write!(text, "<note>{}</note>\r\n", escape(note));
        }
        if !self.activities.is_empty() {
            let names: String = self.activities.iter().map(|activity| format!("<rpid:{}/>", activity.name())).collect();
            let _ = write!(text, "<dm:person id=\"person\"><rpid:activities>{names}</rpid:activities></dm:person>\r\n");
        }
        text.push_str("</presence>\r\n");
        text
    }
}

impl Tuple {
    fn write(&self, text: &mut String) {
        let _ = write!(text, "<tuple id=\"{}\"><status>", escape(&self.id));
        if let Some(basic) = self.basic {
            let _ = write!(text, "<basic>{}</basic>", if basic == Basic::Open { "open" } else { "closed" });
        }
        text.push_str("</status>");
        if let Some(contact) = &self.contact {
            let _ = write!(text, "<contact>{}</contact>", escape(contact));
        }
        if let Some(note) = &self.note {
            let _ = write!(text, "<note>{}</note>", escape(note));
        }
        text.push_str("</tuple>\r\n");
    }
}

fn tuple(element: &Element) -> Result<Tuple, XmlError> {
    let id = element.attribute("id").filter(|id| !id.is_empty() && id.len() <= 128);
    let status = element.first(PIDF, "status").ok_or(XmlError::Content("a tuple without status"))?;
    let must_be_known =
        |child: &Element| child.attributes.iter().any(|(name, value)| name.ends_with(":mustUnderstand") && is_true(value));
    if status.children.iter().any(must_be_known) {
        return Err(XmlError::Content("a status that must be understood and isn't"));
    }
    let basic = match status.first(PIDF, "basic").map(Element::words) {
        Some("open") => Some(Basic::Open),
        Some("closed") => Some(Basic::Closed),
        None => None,
        Some(_) => return Err(XmlError::Content("a status that is neither open nor closed")),
    };
    let contact = element.first(PIDF, "contact").map(|contact| contact.words().to_owned()).filter(|contact| contact.len() <= 512);
    let id = id.ok_or(XmlError::Content("a tuple without id"))?.to_owned();
    Ok(Tuple { id, basic, contact, note: note_of(element)? })
}

fn is_true(value: &str) -> bool {
    value == "true" || value == "1"
}

fn note_of(element: &Element) -> Result<Option<String>, XmlError> {
    check_note(element.first(PIDF, "note").map(|note| note.words().to_owned()).filter(|note| !note.is_empty()))
}

fn check_note(note: Option<String>) -> Result<Option<String>, XmlError> {
    match note {
        Some(note) if note.len() > NOTE_BYTES_MAX => Err(XmlError::TooMuch("a note longer than 1 KiB")),
        note => Ok(note),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What linphone and others publish.
    const PHONE: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<presence xmlns="urn:ietf:params:xml:ns:pidf" xmlns:dm="urn:ietf:params:xml:ns:pidf:data-model"
 xmlns:rpid="urn:ietf:params:xml:ns:pidf:rpid" xmlns:x="urn:x" entity="sip:alice@example">
 <tuple id="a1"><status><basic>open</basic><x:more/></status><contact priority="0.8">sip:alice@192.0.2.1</contact>
  <timestamp>2026-11-27T01:00:00Z</timestamp></tuple>
 <tuple id="a2"><status><basic>closed</basic></status></tuple>
 <dm:person id="p1"><rpid:activities><rpid:on-the-phone/><rpid:other>x</rpid:other></rpid:activities><dm:note>In &lt;a&gt; call</dm:note></dm:person>
</presence>"#;

    #[test]
    fn a_phones_document_is_read_and_ours_comes_back() {
        let presence = Presence::parse(PHONE.as_bytes()).unwrap();
        assert_eq!((presence.entity.as_str(), presence.is_open()), ("sip:alice@example", Some(true)));
        assert_eq!(
            (presence.activities.as_slice(), presence.note.as_deref()),
            (&[Activity::OnThePhone][..], Some("In <a> call"))
        );
        assert_eq!(presence.tuples[0].contact.as_deref(), Some("sip:alice@192.0.2.1"));
        assert_eq!(Presence::parse(presence.to_xml().as_bytes()), Ok(presence));
    }

    #[test]
    fn what_is_no_presence_is_refused() {
        let wrong = |from: &str, to: &str| Presence::parse(PHONE.replace(from, to).as_bytes());
        assert!(wrong("entity=\"sip:alice@example\"", "").is_err());
        assert!(wrong("<basic>open</basic>", "<basic>ajar</basic>").is_err());
        assert!(wrong(" id=\"a1\"", "").is_err());
        assert!(wrong("<status><basic>closed</basic></status>", "").is_err());
        assert!(wrong("<x:more/>", "<x:more x:mustUnderstand='1'/>").is_err());
        assert!(wrong("xmlns=\"urn:ietf:params:xml:ns:pidf\"", "xmlns=\"urn:other\"").is_err());
        assert!(wrong("In ", &"In ".repeat(500)).is_err());
        let nobody = "<presence xmlns='urn:ietf:params:xml:ns:pidf' entity='pres:x@y'/>";
        assert_eq!(Presence::parse(nobody.as_bytes()).unwrap().is_open(), None);
    }
}
