//! That somebody is writing a message (RFC 3994).

use std::fmt::Write as _;

use super::xml::{self, XmlError, escape};

/// The type of content.
pub const CONTENT_TYPE: &str = "application/im-iscomposing+xml";
const NAMESPACE: &str = "urn:ietf:params:xml:ns:im-iscomposing";
/// How long "active" holds if nothing is said (section 3.3), in seconds, and at most here.
pub const REFRESH_SECS: u32 = 120;
const REFRESH_SECS_MAX: u32 = 3_600;

/// Whether somebody is writing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Composing {
    /// They are; otherwise they have stopped.
    pub is_active: bool,
    /// After how many seconds without news they have stopped.
    pub refresh_secs: u32,
    /// The type of content that is being written.
    pub content_type: Option<String>,
}

impl Composing {
    /// Reads a document. A state that isn't known counts as idle (section 3.2).
    ///
    /// # Errors
    /// See [`XmlError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, XmlError> {
        let root = xml::parse(bytes)?;
        if !root.is(NAMESPACE, "isComposing") {
            return Err(XmlError::Content("no word of composing"));
        }
        let state = root.first(NAMESPACE, "state").ok_or(XmlError::Content("it has no state"))?;
        let refresh = root.first(NAMESPACE, "refresh").map(|refresh| refresh.words().parse::<u32>());
        let refresh_secs = match refresh {
            None => REFRESH_SECS,
            Some(Ok(secs)) => secs.clamp(1, REFRESH_SECS_MAX),
            Some(Err(_)) => return Err(XmlError::Content("a refresh that is no number")),
        };
        let content_type =
            root.first(NAMESPACE, "contenttype").map(|kind| kind.words().to_owned()).filter(|kind| kind.len() <= 128);
        Ok(Self { is_active: state.words() == "active", refresh_secs, content_type })
    }

    /// The document.
    #[must_use]
    pub fn to_xml(&self) -> String {
        let state = if self.is_active { "active" } else { "idle" };
        let mut text =
            format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\r\n<isComposing xmlns=\"{NAMESPACE}\"><state>{state}</state>");
        if let Some(kind) = &self.content_type {
            let _ = write!(text, "<contenttype>{}</contenttype>", escape(kind));
        }
        if self.is_active {
            let _ = write!(text, "<refresh>{}</refresh>", self.refresh_secs);
        }
        text.push_str("</isComposing>\r\n");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_of_composing_comes_back() {
        let active = Composing { is_active: true, refresh_secs: 60, content_type: Some("text/plain".into()) };
        let idle = Composing { is_active: false, refresh_secs: REFRESH_SECS, content_type: None };
        for composing in [active, idle] {
            assert_eq!(Composing::parse(composing.to_xml().as_bytes()), Ok(composing));
        }
    }

    #[test]
    fn unknown_states_are_idle_and_nonsense_is_refused() {
        let of = |inner: &str| Composing::parse(format!("<isComposing xmlns='{NAMESPACE}'>{inner}</isComposing>").as_bytes());
        assert!(!of("<state>dreaming</state>").unwrap().is_active);
        assert_eq!(of("<state>active</state><refresh>999999</refresh>").unwrap().refresh_secs, 3_600);
        assert!(of("").is_err());
        assert!(of("<state>active</state><refresh>soon</refresh>").is_err());
        assert!(Composing::parse(b"<isComposing><state>idle</state></isComposing>").is_err());
    }
}
