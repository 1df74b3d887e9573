//! The presence of a whole list in one notice (RFC 4662): what the list is (RLMI), and a document for each who is on it, in one body of several parts
//! (RFC 2387).

use std::fmt::Write as _;

use super::xml::{self, Element, XmlError, escape};

/// The type of content of the list itself.
pub const CONTENT_TYPE: &str = "application/rlmi+xml";
const RLMI: &str = "urn:ietf:params:xml:ns:rlmi";
/// Most resources of a list.
pub const RESOURCES_MAX: usize = 500;
const INSTANCES_MAX: usize = 16;

/// Where a subscription to one of a list is (RFC 4662 section 5.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// What is known is told.
    Active,
    /// It waits for the other's leave.
    Pending,
    /// It is over.
    Terminated,
}

impl State {
    const ALL: [Self; 3] = [Self::Active, Self::Pending, Self::Terminated];

    const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Pending => "pending",
            Self::Terminated => "terminated",
        }
    }
}

/// What is known of one of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Its name within the resource.
    pub id: String,
    /// Where the subscription is.
    pub state: State,
    /// Why it is over, if it is: `noresource`, `rejected`.
    pub reason: Option<String>,
    /// Which part of the body has the document, if one has.
    pub cid: Option<String>,
}

/// One of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Who.
    pub uri: String,
    /// By which name they are shown.
    pub name: Option<String>,
    /// What is known of them.
    pub instances: Vec<Instance>,
}

/// A list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    /// Which.
    pub uri: String,
    /// Which notice in the subscription this is, from 0 on.
    pub version: u32,
    /// It names all, not only those that have changed.
    pub is_full: bool,
    /// Who is on it.
    pub resources: Vec<Resource>,
}

impl List {
    /// Reads a list.
    ///
    /// # Errors
    /// See [`XmlError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, XmlError> {
        let root = xml::parse(bytes)?;
        if !root.is(RLMI, "list") {
            return Err(XmlError::Content("no list"));
        }
        let version = root.attribute("version").and_then(|version| version.parse().ok());
        let is_full = match root.attribute("fullState") {
            Some("true" | "1") => true,
            Some("false" | "0") => false,
            _ => return Err(XmlError::Content("it doesn't say whether it is full")),
        };
        let resources: Vec<Resource> =
            root.all(RLMI, "resource").take(RESOURCES_MAX + 1).map(resource).collect::<Result<_, _>>()?;
        if resources.len() > RESOURCES_MAX {
            return Err(XmlError::TooMuch("more than 500 resources"));
        }
        let version = version.ok_or(XmlError::Content("it has no version"))?;
        Ok(Self { uri: uri_of(&root)?, version, is_full, resources })
    }

    /// The document.
    #[must_use]
    pub fn to_xml(&self) -> String {
        let (uri, version, is_full) = (escape(&self.uri), self.version, self.is_full);
        let mut text = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\r\n<list xmlns=\"{RLMI}\" uri=\"{uri}\" version=\"{version}\" fullState=\"{is_full}\">\r\n"
        );
        for resource in &self.resources {
            resource.write(&mut text);
        }
        text.push_str("</list>\r\n");
        text
    }
}

impl Resource {
    fn write(&self, text: &mut String) {
        let _ = write!(text, "<resource uri=\"{}\">", escape(&self.uri));
        if let Some(name) = &self.name {
            let _ = write!(text, "<name>{}</name>", escape(name));
        }
        for instance in &self.instances {
            let _ = write!(text, "<instance id=\"{}\" state=\"{}\"", escape(&instance.id), instance.state.name());
            for (name, value) in [("reason", &instance.reason), ("cid", &instance.cid)] {
                if let Some(value) = value {
                    let _ = write!(text, " {name}=\"{}\"", escape(value));
                }
            }
            text.push_str("/>");
        }
        text.push_str("</resource>\r\n");
    }
}

fn uri_of(element: &Element) -> Result<String, XmlError> {
    let uri = element.attribute("uri").filter(|uri| !uri.is_empty() && uri.len() <= 512);
    Ok(uri.ok_or(XmlError::Content("something without URI"))?.to_owned())
}

fn resource(element: &Element) -> Result<Resource, XmlError> {
    let instances: Vec<Instance> =
        element.all(RLMI, "instance").take(INSTANCES_MAX + 1).map(instance).collect::<Result<_, _>>()?;
    if instances.len() > INSTANCES_MAX {
        return Err(XmlError::TooMuch("more than 16 instances"));
    }
    let name = element.first(RLMI, "name").map(|name| name.words().to_owned()).filter(|name| !name.is_empty());
    Ok(Resource { uri: uri_of(element)?, name, instances })
}

fn instance(element: &Element) -> Result<Instance, XmlError> {
    let state = element.attribute("state").and_then(|state| State::ALL.into_iter().find(|known| known.name() == state));
    let state = state.ok_or(XmlError::Content("a state that isn't known"))?;
    let id = element.attribute("id").ok_or(XmlError::Content("an instance without id"))?.to_owned();
    let text = |name: &str| element.attribute(name).map(str::to_owned);
    Ok(Instance { id, state, reason: text("reason"), cid: text("cid") })
}

/// A part of a body: its name, its type of content and what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// Its name, by which the list points to it.
    pub cid: &'a str,
    /// Its type of content.
    pub content_type: &'a str,
    /// What it holds.
    pub content: &'a str,
}

/// A body of several parts, the list first, and the value of its Content-Type field. The boundary must stand in no part; a random one doesn't.
#[must_use]
pub fn multipart(boundary: &str, parts: &[Part<'_>]) -> (String, String) {
    let start = parts.first().map_or("", |part| part.cid);
    let field = format!("multipart/related;type=\"{CONTENT_TYPE}\";start=\"<{start}>\";boundary=\"{boundary}\"");
    let mut body = String::new();
    for Part { cid, content_type, content } in parts {
        let head =
            format!("Content-Transfer-Encoding: binary\r\nContent-ID: <{cid}>\r\nContent-Type: {content_type};charset=\"UTF-8\"");
        let _ = write!(body, "--{boundary}\r\n{head}\r\n\r\n{content}\r\n");
    }
    let _ = write!(body, "--{boundary}--\r\n");
    (field, body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list() -> List {
        let instance = Instance { id: "i1".into(), state: State::Active, reason: None, cid: Some("bob@edge".into()) };
        let gone = Instance { id: "i2".into(), state: State::Terminated, reason: Some("noresource".into()), cid: None };
        let resource =
            |uri: &str, name: &str, instance| Resource { uri: uri.into(), name: Some(name.into()), instances: vec![instance] };
        let resources = vec![resource("sip:bob@example", "Bob & Co", instance), resource("sip:carol@example", "Carol", gone)];
        List { uri: "sip:alice-buddies@example".into(), version: 7, is_full: true, resources }
    }

    #[test]
    fn a_list_comes_back() {
        assert_eq!(List::parse(list().to_xml().as_bytes()), Ok(list()));
    }

    #[test]
    fn what_is_no_list_is_refused() {
        let wrong = |from: &str, to: &str| List::parse(list().to_xml().replace(from, to).as_bytes());
        assert!(wrong("fullState=\"true\"", "").is_err());
        assert!(wrong("version=\"7\"", "version=\"-1\"").is_err());
        assert!(wrong("state=\"active\"", "state=\"asleep\"").is_err());
        assert!(wrong("uri=\"sip:bob@example\"", "").is_err());
        assert!(wrong(RLMI, "urn:other").is_err());
    }

    #[test]
    fn parts_stand_one_after_the_other() {
        let list = list().to_xml();
        let parts = [
            Part { cid: "list@edge", content_type: CONTENT_TYPE, content: &list },
            Part { cid: "bob@edge", content_type: super::super::pidf::CONTENT_TYPE, content: "<presence/>" },
        ];
        let (field, body) = multipart("b0", &parts);
        assert_eq!(field, "multipart/related;type=\"application/rlmi+xml\";start=\"<list@edge>\";boundary=\"b0\"");
        assert!(body.starts_with("--b0\r\n") && body.ends_with("\r\n<presence/>\r\n--b0--\r\n"));
        assert_eq!(body.matches("Content-ID: <").count(), 2);
    }
}
