//! What is said on the stream, and how answers are read.

use data_encoding::BASE64;

use crate::linked::{Association, LEAVE_BYTES_MAX, LinkedId, ListEntry, Shown, System, is_token};
use crate::simple::xml::{Element, escape};
use crate::wire::{self, Body, Signed};

/// The personal eventing node (XEP-0163) in which an association stands, and the namespace of the element that holds it.
pub const ASSOCIATION_NODE: &str = "urn:halloo:association:0";

/// The node in which tokens for one event stand, and the namespace of the element that holds a commitment.
pub const EVENT_NODE: &str = "urn:halloo:event:0";

/// Most tokens that stand at a time: of calls on several lines, and of several devices of one account. Where nothing is said, servers keep one.
const EVENT_ITEMS_MAX: u32 = 64;

/// The one item of the association's node.
const ITEM: &str = "current";

const CLIENT: &str = "jabber:client";
const ROSTER: &str = "jabber:iq:roster";
const PUBSUB: &str = "http://jabber.org/protocol/pubsub";
const SASL: &str = "urn:ietf:params:xml:ns:xmpp-sasl";
const TLS: &str = "urn:ietf:params:xml:ns:xmpp-tls";
const BIND: &str = "urn:ietf:params:xml:ns:xmpp-bind";
const ERRORS: &str = "urn:ietf:params:xml:ns:xmpp-stanzas";
const STREAM: &str = "http://etherx.jabber.org/streams";

/// Of a client that no message is for (RFC 6121 section 4.7.2.3).
const PRIORITY: i8 = -128;

/// Longest name of a client (RFC 7622 section 3.4), in bytes.
const CLIENT_BYTES_MAX: usize = 1_023;

/// Longest association as it stands in its element, and longest name of a contact that is kept.
const SHOWN_BYTES_MAX: usize = 2_048;
const NAME_BYTES_MAX: usize = 128;

/// What came, as far as it concerns us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// What the server offers.
    Features(Features),
    /// TLS may begin.
    Proceed,
    /// Logging in goes on.
    Challenge(Vec<u8>),
    /// Logged in.
    Success(Vec<u8>),
    /// Not logged in: the condition.
    Failure(String),
    /// The answer to a request.
    Answer {
        /// The request's id.
        id: String,
        /// Who answers; `None`: the own account or its server.
        from: Option<String>,
        /// What is answered, or the condition of the error.
        result: Result<Option<Element>, String>,
    },
    /// The contact list has changed.
    ListChanged {
        /// The push's id, to be acknowledged.
        id: String,
        /// Who, and what they are now.
        entry: ListEntry,
    },
    /// Somebody's presence (RFC 6121 section 4): of one of their clients.
    Presence(Presence),
    /// A request that nobody here answers.
    Request {
        /// Its id.
        id: String,
        /// Who asks.
        from: Option<String>,
    },
    /// The stream ends with an error.
    StreamError(String),
    /// Anything else.
    Other,
}

/// What one of somebody's clients says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presence {
    /// Whose it is. Servers stamp it, as they do the owner of a place.
    pub of: LinkedId,
    /// Which of their clients; empty if it doesn't say.
    pub client: String,
    /// The client is there. What isn't of this kind says that it isn't there any more, or can't be told anything.
    pub is_available: bool,
    /// The association in it, with what is beside it; `None` if none is that can be read.
    pub shown: Option<Box<Shown>>,
}

/// What a server offers on a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// TLS can begin.
    pub has_tls: bool,
    /// How one logs in.
    pub mechanisms: Vec<String>,
}

/// Begins a stream to the server of a domain.
#[must_use]
pub fn open(domain: &str) -> String {
    format!("<?xml version='1.0'?><stream:stream to='{}' version='1.0' xmlns='{CLIENT}' xmlns:stream='{STREAM}'>", escape(domain))
}

/// Asks for TLS.
#[must_use]
pub fn start_tls() -> String {
    format!("<starttls xmlns='{TLS}'/>")
}

/// Begins to log in.
#[must_use]
pub fn auth(mechanism: &str, initial: &[u8]) -> String {
    format!("<auth xmlns='{SASL}' mechanism='{mechanism}'>{}</auth>", BASE64.encode(initial))
}

/// Goes on logging in.
#[must_use]
pub fn response(said: &[u8]) -> String {
    format!("<response xmlns='{SASL}'>{}</response>", BASE64.encode(said))
}

/// Asks for an address of this connection; the server chooses it.
#[must_use]
pub fn bind(id: &str) -> String {
    format!("<iq type='set' id='{id}'><bind xmlns='{BIND}'/></iq>")
}

/// Asks for the contact list, and from then on for its changes (RFC 6121 section 2.1.6).
#[must_use]
pub fn list(id: &str) -> String {
    format!("<iq type='get' id='{id}'><query xmlns='{ROSTER}'/></iq>")
}

/// Asks whether the own server is there (XEP-0199).
#[must_use]
pub fn ping(id: &str) -> String {
    format!("<iq type='get' id='{id}'><ping xmlns='urn:xmpp:ping'/></iq>")
}

/// Acknowledges.
#[must_use]
pub fn acknowledge(id: &str) -> String {
    format!("<iq type='result' id='{}'/>", escape(id))
}

/// Says that a request isn't answered here.
#[must_use]
pub fn decline(id: &str, to: Option<&str>) -> String {
    let to = to.map(|to| format!(" to='{}'", escape(to))).unwrap_or_default();
    format!("<iq type='error' id='{}'{to}><error type='cancel'><service-unavailable xmlns='{ERRORS}'/></error></iq>", escape(id))
}

/// Puts an association, and the leave beside it, into the own node, for the contact list alone, and keeps them there.
#[must_use]
pub fn publish(id: &str, shown: &Shown) -> String {
    let shown = association_element(shown);
    format!(
        "<iq type='set' id='{id}'><pubsub xmlns='{PUBSUB}'><publish node='{ASSOCIATION_NODE}'><item id='{ITEM}'>\
         {shown}</item></publish>{}</pubsub></iq>",
        options(None)
    )
}

fn association_element(shown: &Shown) -> String {
    let leave = shown.leave.iter().map(|leave| format!("<leave>{}</leave>", BASE64.encode(leave)));
    let shown = format!("{}{}", BASE64.encode(&wire::encode(&shown.association)), leave.collect::<String>());
    format!("<association xmlns='{ASSOCIATION_NODE}'>{shown}</association>")
}

/// Has the own node show nothing to some people, and to others again as to everybody in the contact list (XEP-0060 section 8.9.2).
#[must_use]
pub fn deny(id: &str, denied: &[LinkedId], again: &[LinkedId]) -> String {
    let one =
        |who: &LinkedId, affiliation: &str| format!("<affiliation jid='{}' affiliation='{affiliation}'/>", escape(who.address()));
    let denied = denied.iter().map(|who| one(who, "outcast"));
    let all: String = denied.chain(again.iter().map(|who| one(who, "none"))).collect();
    format!(
        "<iq type='set' id='{id}'><pubsub xmlns='{PUBSUB}#owner'><affiliations node='{ASSOCIATION_NODE}'>{all}</affiliations></pubsub></iq>"
    )
}

/// Says that this client is there, though away and not for messages, to everybody who sees the account's presence or to one of them; with the association or without.
///
/// The association is whole, some 300 bytes, for a shorter form would have everybody who hears it look at the place. The leave beside it is for those who call, and as long again three times: it is
/// in it only where there is no place for it.
#[must_use]
pub fn presence(to: Option<&str>, shown: Option<&Shown>) -> String {
    let to = to.map(|to| format!(" to='{}'", escape(to))).unwrap_or_default();
    let said = shown.map(association_element);
    format!("<presence{to}><show>xa</show><priority>{PRIORITY}</priority>{}</presence>", said.unwrap_or_default())
}

/// Kept, and for the contact list alone.
fn options(items_max: Option<u32>) -> String {
    let field = |name: &str, value: &str| format!("<field var='{name}'><value>{value}</value></field>");
    format!(
        "<publish-options><x xmlns='jabber:x:data' type='submit'>\
         <field var='FORM_TYPE' type='hidden'><value>http://jabber.org/protocol/pubsub#publish-options</value></field>{}{}{}</x></publish-options>",
        field("pubsub#persist_items", "true"),
        field("pubsub#access_model", "presence"),
        items_max.map_or_else(String::new, |max| field("pubsub#max_items", &max.to_string()))
    )
}

/// Puts a commitment into the own node. The server names it, and answers with the name (XEP-0060 section 7.1.2): the token.
#[must_use]
pub fn issue(id: &str, commitment: &[u8; 32]) -> String {
    let text = BASE64.encode(commitment);
    format!(
        "<iq type='set' id='{id}'><pubsub xmlns='{PUBSUB}'><publish node='{EVENT_NODE}'><item>\
         <event xmlns='{EVENT_NODE}'>{text}</event></item></publish>{}</pubsub></iq>",
        options(Some(EVENT_ITEMS_MAX))
    )
}

/// The token that was answered.
#[must_use]
pub fn read_issued(answer: Option<&Element>) -> Option<String> {
    let publish = answer?.first(PUBSUB, "publish").filter(|publish| publish.attribute("node") == Some(EVENT_NODE))?;
    let token = publish.first(PUBSUB, "item")?.attribute("id")?;
    is_token(token).then(|| token.to_owned())
}

/// Asks for what stands under a token in the node of an account.
#[must_use]
pub fn token(id: &str, at: &LinkedId, token: &str) -> String {
    format!(
        "<iq type='get' id='{id}' to='{}'><pubsub xmlns='{PUBSUB}'><items node='{EVENT_NODE}'><item id='{}'/></items></pubsub></iq>",
        escape(at.address()),
        escape(token)
    )
}

/// The commitment that stands under a token that was asked for; `None` if there is none.
#[must_use]
pub fn read_token(answer: Option<&Element>, token: &str) -> Option<[u8; 32]> {
    let items = answer?.first(PUBSUB, "items").filter(|items| items.attribute("node") == Some(EVENT_NODE))?;
    let item = items.all(PUBSUB, "item").find(|item| item.attribute("id") == Some(token))?;
    let text = item.first(EVENT_NODE, "event")?.words();
    if text.len() > 64 { None } else { BASE64.decode(text.as_bytes()).ok()?.try_into().ok() }
}

/// Has the server forget a token.
#[must_use]
pub fn spend(id: &str, token: &str) -> String {
    format!(
        "<iq type='set' id='{id}'><pubsub xmlns='{PUBSUB}'><retract node='{EVENT_NODE}'><item id='{}'/></retract></pubsub></iq>",
        escape(token)
    )
}

/// Asks for what stands in the node of an account.
#[must_use]
pub fn look(id: &str, at: &LinkedId) -> String {
    format!(
        "<iq type='get' id='{id}' to='{}'><pubsub xmlns='{PUBSUB}'><items node='{ASSOCIATION_NODE}' max_items='1'/></pubsub></iq>",
        escape(at.address())
    )
}

/// Ends the stream.
#[must_use]
pub const fn close() -> &'static str {
    "</stream:stream>"
}

/// The account of an address, with a resource or without.
#[must_use]
pub fn account_of(address: &str) -> Option<LinkedId> {
    let bare = address.split('/').next().unwrap_or_default();
    LinkedId::new(System::Xmpp, bare).ok()
}

/// Reads what came to an account.
#[must_use]
pub fn read(element: &Element, me: &LinkedId) -> Incoming {
    match (element.namespace.as_str(), element.name.as_str()) {
        (STREAM, "features") => Incoming::Features(features(element)),
        (STREAM, "error") => Incoming::StreamError(condition(element)),
        (TLS, "proceed") => Incoming::Proceed,
        (TLS, "failure") => Incoming::Failure("no TLS".into()),
        (SASL, "challenge") => Incoming::Challenge(base64(element)),
        (SASL, "success") => Incoming::Success(base64(element)),
        (SASL, "failure") => Incoming::Failure(condition(element)),
        (CLIENT, "iq") => iq(element, me),
        (CLIENT, "presence") => read_presence(element).map_or(Incoming::Other, Incoming::Presence),
        _ => Incoming::Other,
    }
}

fn base64(element: &Element) -> Vec<u8> {
    BASE64.decode(element.words().as_bytes()).unwrap_or_default()
}

/// The name of the first element in an error: what went wrong.
fn condition(element: &Element) -> String {
    element.children.first().map_or_else(|| "no reason given".to_owned(), |child| child.name.clone())
}

fn features(element: &Element) -> Features {
    let mechanisms = element.first(SASL, "mechanisms");
    let names = mechanisms.into_iter().flat_map(|list| list.all(SASL, "mechanism")).map(|name| name.words().to_owned());
    Features { has_tls: element.first(TLS, "starttls").is_some(), mechanisms: names.collect() }
}

fn iq(element: &Element, me: &LinkedId) -> Incoming {
    let Some(id) = element.attribute("id").map(str::to_owned) else { return Incoming::Other };
    let from = element.attribute("from").map(str::to_owned);
    match element.attribute("type") {
        Some("result") => Incoming::Answer { id, from, result: Ok(element.children.first().cloned()) },
        Some("error") => {
            let error = element.first(CLIENT, "error");
            Incoming::Answer { id, from, result: Err(error.map_or_else(|| "no reason given".to_owned(), condition)) }
        }
        Some("set") if is_own(from.as_deref(), me) => {
            match element.first(ROSTER, "query").and_then(|query| query.first(ROSTER, "item")) {
                Some(item) => match list_item(item) {
                    Some(entry) => Incoming::ListChanged { id, entry },
                    None => Incoming::Request { id, from },
                },
                None => Incoming::Request { id, from },
            }
        }
        Some("get" | "set") => Incoming::Request { id, from },
        _ => Incoming::Other,
    }
}

/// Somebody's presence; `None` for requests to see somebody's, and what else comes as one.
fn read_presence(element: &Element) -> Option<Presence> {
    let is_available = match element.attribute("type") {
        None => true,
        Some("unavailable" | "error") => false,
        Some(_) => return None,
    };
    let from = element.attribute("from")?;
    let client = from.split_once('/').map_or("", |(_, client)| client);
    if client.len() > CLIENT_BYTES_MAX {
        return None;
    }
    let shown = element.first(ASSOCIATION_NODE, "association").filter(|_| is_available).and_then(read_shown);
    Some(Presence { of: account_of(from)?, client: client.to_owned(), is_available, shown: shown.map(Box::new) })
}

/// A contact list is changed by the own account alone (RFC 6121 section 2.1.6): whoever else says so is passed over.
fn is_own(from: Option<&str>, me: &LinkedId) -> bool {
    from.is_none_or(|from| !from.contains('/') && account_of(from).as_ref() == Some(me))
}

/// Who an item is of. Contacts are those whose presence this user sees, for only they let this user see what they show; and the other way round.
fn list_item(item: &Element) -> Option<ListEntry> {
    let id = LinkedId::new(System::Xmpp, item.attribute("jid")?).ok()?;
    let name = item.attribute("name").filter(|name| !name.is_empty()).map(|name| {
        let clean: String = name.chars().filter(|c| !c.is_control()).collect();
        clean.get(..clean.floor_char_boundary(NAME_BYTES_MAX)).unwrap_or_default().to_owned()
    });
    let subscription = item.attribute("subscription");
    let is_contact = matches!(subscription, Some("to" | "both"));
    Some(ListEntry { id, name, is_contact, is_reader: matches!(subscription, Some("from" | "both")) })
}

/// Who is in a contact list that was answered, or reads what this user shows.
#[must_use]
pub fn read_list(answer: Option<&Element>) -> Vec<ListEntry> {
    let items = answer.filter(|query| query.is(ROSTER, "query")).into_iter().flat_map(|query| query.all(ROSTER, "item"));
    items.filter_map(list_item).filter(|entry| entry.is_contact || entry.is_reader).collect()
}

/// The association that stands in a node that was answered, with what is beside it; `None` if none does that can be read.
#[must_use]
pub fn read_look(answer: Option<&Element>) -> Option<Shown> {
    let items = answer?.first(PUBSUB, "items").filter(|items| items.attribute("node") == Some(ASSOCIATION_NODE))?;
    let item = items.all(PUBSUB, "item").last()?;
    read_shown(item.first(ASSOCIATION_NODE, "association")?)
}

fn read_shown(element: &Element) -> Option<Shown> {
    let association = read_association(element)?;
    let leave = element.first(ASSOCIATION_NODE, "leave").and_then(shown_bytes).filter(|leave| leave.len() <= LEAVE_BYTES_MAX);
    Some(Shown { association, leave })
}

fn read_association(element: &Element) -> Option<Signed<Association>> {
    wire::decode(&shown_bytes(element)?, Association::LIMIT + 75).ok()
}

fn shown_bytes(element: &Element) -> Option<Vec<u8>> {
    let text = element.words();
    if text.len() > SHOWN_BYTES_MAX { None } else { BASE64.decode(text.as_bytes()).ok() }
}
