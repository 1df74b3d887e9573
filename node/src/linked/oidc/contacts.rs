//! Contacts at a provider: JSON in pages, with where things are in it by configuration.

use std::collections::BTreeMap;
use std::time::Duration;

use halloo_protocol::linked::{LinkedId, ListEntry, System};
use http::StatusCode;
use serde_json::Value;
use tokio::time::timeout;

use super::super::http::{Asked, Http, encoded};
use super::super::system::LinkedError;
use crate::config::{ContactIdKind, ContactsConfig};

/// Bounds of one reading.
const PAGES_MAX: usize = 100;
const PAGE_BYTES_MAX: usize = 1_024 * 1_024;
const READ_AT_MOST: Duration = Duration::from_secs(120);

/// Longest name taken of a contact.
const NAME_CHARS_MAX: usize = 128;

/// A contact list as it was read, and what the provider calls this state of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Read {
    pub(super) list: BTreeMap<LinkedId, Option<String>>,
    etag: Option<String>,
}

/// Reads the list, unless it is as it was.
pub(super) async fn read(
    http: &Http,
    config: &ContactsConfig,
    issuer: &str,
    access: &str,
    before: Option<&Read>,
) -> Result<Option<Read>, LinkedError> {
    timeout(READ_AT_MOST, read_pages(http, config, issuer, access, before)).await.map_err(|_elapsed| LinkedError::Timeout)?
}

async fn read_pages(
    http: &Http,
    config: &ContactsConfig,
    issuer: &str,
    access: &str,
    before: Option<&Read>,
) -> Result<Option<Read>, LinkedError> {
    let authorization = zeroize::Zeroizing::new(format!("Bearer {access}"));
    let mut read = Read::default();
    let mut url = config.url.clone();
    for page in 0..PAGES_MAX {
        let etag = before.and_then(|before| before.etag.as_deref()).filter(|_| page == 0);
        let asked = Asked { authorization: Some(&authorization), etag, bytes_max: PAGE_BYTES_MAX, ..Asked::default() };
        let answer = http.ask(&url, asked).await?;
        match answer.status {
            StatusCode::NOT_MODIFIED if etag.is_some() => return Ok(None),
            StatusCode::OK => {}
            _ => return Err(answer.refused("the contacts")),
        }
        let value: Value =
            serde_json::from_slice(&answer.body).map_err(|_| LinkedError::Protocol("its contacts can't be read"))?;
        take(&value, config, issuer, &mut read.list)?;
        if read.list.len() >= super::super::CONTACTS_MAX {
            break;
        }
        let Some(next) = next(&value, config)? else {
            // The name of a page says nothing of the others.
            read.etag = answer.etag.filter(|_| page == 0);
            break;
        };
        url = next;
    }
    Ok(Some(read))
}

fn take(
    page: &Value,
    config: &ContactsConfig,
    issuer: &str,
    list: &mut BTreeMap<LinkedId, Option<String>>,
) -> Result<(), LinkedError> {
    let entries = page.pointer(&config.list);
    // An empty list may be left out.
    let Some(entries) = entries else { return Ok(()) };
    let entries = entries.as_array().ok_or(LinkedError::Protocol("its contacts are no list"))?;
    for entry in entries.iter().take(super::super::CONTACTS_MAX) {
        let text = |pointer: &str| entry.pointer(pointer).and_then(Value::as_str);
        let Some(id) = text(&config.id) else { continue };
        let id = match config.kind {
            ContactIdKind::Subject => LinkedId::new(System::Oidc, &format!("{issuer}#{id}")),
            ContactIdKind::Mail => LinkedId::new(System::Mail, id),
        };
        // One that can't be somebody here is nobody.
        let Ok(id) = id else { continue };
        let name = config.name.as_deref().and_then(text).map(|name| name.chars().take(NAME_CHARS_MAX).collect());
        list.insert(id, name);
    }
    Ok(())
}

/// Where the next page is. The access token goes to the place that is configured, and to no other.
fn next(page: &Value, config: &ContactsConfig) -> Result<Option<String>, LinkedError> {
    let next = config.next.as_deref().and_then(|pointer| page.pointer(pointer)).and_then(Value::as_str);
    let Some(next) = next.filter(|next| !next.is_empty()) else { return Ok(None) };
    if let Some(parameter) = &config.page_parameter {
        let joint = if config.url.contains('?') { '&' } else { '?' };
        return Ok(Some(format!("{}{joint}{}={}", config.url, encoded(parameter), encoded(next))));
    }
    if origin(next).is_none() || origin(next) != origin(&config.url) {
        return Err(LinkedError::Protocol("the next page of its contacts is somewhere else"));
    }
    Ok(Some(next.to_owned()))
}

fn origin(url: &str) -> Option<http::uri::Authority> {
    let uri: http::Uri = url.parse().ok()?;
    uri.authority().filter(|_| uri.scheme_str() == Some("https")).cloned()
}

/// What has changed from one reading to the next.
pub(super) fn changes(before: &Read, now: &Read) -> Vec<ListEntry> {
    let entry = |id: &LinkedId, name: &Option<String>, is_contact| ListEntry {
        id: id.clone(),
        name: name.clone(),
        is_contact,
        // There is no place where they could read anything.
        is_reader: false,
    };
    let gone = before.list.iter().filter(|(id, _)| !now.list.contains_key(id)).map(|(id, name)| entry(id, name, false));
    let come = now.list.iter().filter(|(id, name)| before.list.get(id) != Some(name)).map(|(id, name)| entry(id, name, true));
    gone.chain(come).collect()
}

impl Read {
    pub(super) fn entries(&self) -> Vec<ListEntry> {
        changes(&Self::default(), self)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ISSUER: &str = "https://id.example";

    fn config() -> ContactsConfig {
        ContactsConfig {
            url: "https://people.example/v1/me?size=2".into(),
            list: "/connections".into(),
            id: "/ids/0/value".into(),
            kind: ContactIdKind::Subject,
            name: Some("/name".into()),
            next: Some("/next".into()),
            page_parameter: None,
            poll_secs: 60,
        }
    }

    fn read(page: &Value) -> Read {
        let mut read = Read::default();
        take(page, &config(), ISSUER, &mut read.list).expect("a list");
        read
    }

    #[test]
    fn contacts_are_where_the_configuration_says() {
        let page = json!({"connections": [
            {"ids": [{"value": "bob"}], "name": "Bob"},
            {"ids": [{"value": "carol"}]},
            {"ids": []}, {"ids": [{"value": "white space"}]}, {"ids": [{"value": 7}]}, "nobody",
        ]});
        let id = |text: &str| format!("oidc:{ISSUER}#{text}").parse::<LinkedId>().expect("an identity");
        let list = read(&page);
        assert_eq!(list.list, BTreeMap::from([(id("bob"), Some("Bob".to_owned())), (id("carol"), None)]));
        assert_eq!(read(&json!({})).list, BTreeMap::new());
        assert!(take(&json!({"connections": {}}), &config(), ISSUER, &mut BTreeMap::new()).is_err());
        let later = read(&json!({"connections": [{"ids": [{"value": "bob"}], "name": "Robert"}]}));
        let told: Vec<_> = changes(&list, &later).into_iter().map(|entry| (entry.id, entry.is_contact)).collect();
        assert_eq!(told, [(id("carol"), false), (id("bob"), true)]);
        assert_eq!(list.entries().len(), 2);
    }

    #[test]
    fn the_next_page_is_at_the_same_place() {
        let page = |next: &str| json!({"next": next});
        assert_eq!(next(&page(""), &config()).ok(), Some(None));
        assert_eq!(next(&json!({}), &config()).ok(), Some(None));
        let same = "https://people.example/v1/me?page=2";
        assert_eq!(next(&page(same), &config()).ok(), Some(Some(same.to_owned())));
        for other in ["https://evil.example/v1", "http://people.example/v1", "https://people.example.evil.example/", "/v1/me"] {
            assert!(next(&page(other), &config()).is_err(), "{other}");
        }
        let by_token = ContactsConfig { page_parameter: Some("pageToken".into()), ..config() };
        let expected = "https://people.example/v1/me?size=2&pageToken=a%2Fb";
        assert_eq!(next(&page("a/b"), &by_token).ok(), Some(Some(expected.to_owned())));
    }
}
