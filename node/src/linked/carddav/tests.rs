//! Against a server of a few lines that does what one may do, and what a hostile one does. Real servers are in the scenarios.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

const HEAD: &str = "<multistatus xmlns='DAV:' xmlns:C='urn:ietf:params:xml:ns:carddav' xmlns:S='http://calendarserver.org/ns/'>";

/// A server with one user.
#[derive(Debug, Default)]
struct Server {
    /// Method and path of each request, in order.
    asked: Vec<String>,
    /// By path: the state of each card, and its text. `None`: taken out.
    cards: BTreeMap<String, (u32, Option<String>)>,
    version: u32,
    /// States before this one are forgotten.
    oldest: u32,
    has_sync: bool,
    /// What it says of some cards when it is asked for them: a status; 0: nothing; 200: without the text.
    cards_said: BTreeMap<String, u16>,
    /// Said besides, whichever cards it is asked for.
    cards_besides: String,
    /// How often it is to be asked for cards before it has too much to do.
    reports_left: Option<usize>,
    /// Empty books beside the one.
    others: usize,
    /// What it answers in place of anything else.
    instead: Option<(u16, Option<String>, String)>,
}

impl Server {
    fn put(&mut self, path: &str, text: Option<&str>) {
        self.version += 1;
        self.cards.insert(path.to_owned(), (self.version, text.map(str::to_owned)));
    }

    fn answer(&mut self, method: &str, path: &str, body: &str) -> (u16, Option<String>, String) {
        self.asked.push(format!("{method} {path}"));
        if let Some(instead) = self.instead.clone() {
            return instead;
        }
        let many = |entries: String, token: &str| (207, None, format!("{HEAD}{entries}{token}</multistatus>"));
        let found = |path: &str, props: &str| {
            format!(
                "<response><href>{path}</href><propstat><prop>{props}</prop><status>HTTP/1.1 200 OK</status></propstat></response>"
            )
        };
        match (method, path) {
            ("PROPFIND", "/.well-known/carddav") => (301, Some("/dav/".into()), String::new()),
            ("PROPFIND", "/dav/") => {
                many(found(path, "<current-user-principal><href>/dav/me</href></current-user-principal>"), "")
            }
            ("PROPFIND", "/dav/me") => many(
                found(path, "<C:addressbook-home-set><href>/dav/me/</href><href>/dav/m%65/</href></C:addressbook-home-set>"),
                "",
            ),
            ("PROPFIND", "/dav/me/") => {
                let token = if self.has_sync { format!("<sync-token>t{}</sync-token>", self.version) } else { String::new() };
                let book = format!(
                    "<resourcetype><collection/><C:addressbook/></resourcetype><S:getctag>{}</S:getctag>{token}",
                    self.version
                );
                let others: String = (0..self.others).map(|number| found(&format!("/dav/me/other{number}/"), &book)).collect();
                many(found(path, "<resourcetype><collection/></resourcetype>") + &found("/dav/me/a%20b/", &book) + &others, "")
            }
            (_, path) if path.starts_with("/dav/me/other") => many(String::new(), ""),
            ("PROPFIND", "/dav/me/a%20b/") => {
                let there = self.cards.iter().filter(|(_, (_, text))| text.is_some());
                let there = there.map(|(path, (state, _))| found(path, &format!("<getetag>\"{state}\"</getetag>")));
                many(found(path, "<resourcetype><collection/></resourcetype>") + &there.collect::<String>(), "")
            }
            ("REPORT", "/dav/me/a%20b/") if body.contains("sync-collection") => {
                let since = body.split("sync-token>").nth(1).and_then(|text| text.split('<').next()).unwrap_or_default();
                let since: u32 = since.trim_start_matches('t').parse().unwrap_or(0);
                if since != 0 && since < self.oldest {
                    return (403, None, "<error xmlns='DAV:'><valid-sync-token/></error>".into());
                }
                let changed = self.cards.iter().filter(|(_, (state, text))| *state > since && (since > 0 || text.is_some()));
                let changed = changed.map(|(path, (state, text))| match text {
                    Some(_) => found(path, &format!("<getetag>\"{state}\"</getetag>")),
                    None => format!("<response><href>{path}</href><status>HTTP/1.1 404 Not Found</status></response>"),
                });
                many(changed.collect(), &format!("<sync-token>t{}</sync-token>", self.version))
            }
            ("REPORT", "/dav/me/a%20b/") if self.reports_left == Some(0) => (503, None, String::new()),
            ("REPORT", "/dav/me/a%20b/") => {
                self.reports_left = self.reports_left.map(|left| left - 1);
                let wanted = self.cards.iter().filter(|(path, (_, text))| text.is_some() && body.contains(path.as_str()));
                let card = |(path, (state, text)): (&String, &(u32, Option<String>))| {
                    let text = text.as_deref().unwrap_or_default();
                    match self.cards_said.get(path) {
                        Some(0) => return String::new(),
                        Some(200) => return found(path, "<getetag>\"x\"</getetag>"),
                        Some(status) => {
                            return format!("<response><href>{path}</href><status>HTTP/1.1 {status} Told</status></response>");
                        }
                        None => {}
                    }
                    found(path, &format!("<getetag>\"{state}\"</getetag><C:address-data>{text}</C:address-data>"))
                };
                many(wanted.map(card).collect::<String>() + &self.cards_besides, "")
            }
            _ => (404, None, String::new()),
        }
    }
}

fn card(name: &str) -> String {
    format!("BEGIN:VCARD\r\nVERSION:3.0\r\nFN:{name}\r\nEMAIL:{name}@there.example\r\nEND:VCARD\r\n")
}

/// Starts a server, and whoever reads it from `path`.
async fn started(server: Server, path: &str) -> (Arc<Mutex<Server>>, CardDav) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tls, server) = (TlsAcceptor::from(Arc::new(config)), Arc::new(Mutex::new(server)));
    let shared = server.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (tls, shared) = (tls.clone(), shared.clone());
            tokio::spawn(async move {
                let Ok(stream) = tls.accept(stream).await else { return };
                let service = service_fn(move |request| serve(shared.clone(), request));
                let _ended = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let roots = folder.path().join("roots.pem");
    std::fs::write(&roots, made.cert.pem()).unwrap();
    let params = CardDavParams {
        url: format!("https://localhost:{port}{path}"),
        user: "alice".into(),
        roots: Some(roots),
        password: Zeroizing::new("pencil".into()),
    };
    (server, CardDav::new(&params).unwrap())
}

async fn serve(server: Arc<Mutex<Server>>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let expected = "Basic YWxpY2U6cGVuY2ls";
    let is_known = head.headers.get(http::header::AUTHORIZATION).is_some_and(|value| value == expected);
    let (status, location, text) = if is_known {
        server.lock().unwrap().answer(head.method.as_str(), head.uri.path(), &String::from_utf8_lossy(&body))
    } else {
        (401, None, String::new())
    };
    let mut response = Response::builder().status(status);
    if let Some(location) = location {
        response = response.header(http::header::LOCATION, location);
    }
    Ok(response.body(Full::new(Bytes::from(text))).unwrap())
}

fn names(read: &BookRead) -> Vec<&str> {
    read.entries.values().filter_map(|name| name.as_deref()).collect()
}

fn with_cards(has_sync: bool) -> Server {
    let mut server = Server { has_sync, ..Server::default() };
    server.put("/dav/me/a%20b/1.vcf", Some(&card("bob")));
    server.put("/dav/me/a%20b/2%40x.vcf", Some(&card("carol")));
    server
}

/// What was asked since the last time.
fn asked(server: &Mutex<Server>) -> Vec<String> {
    std::mem::take(&mut server.lock().unwrap().asked)
}

#[tokio::test]
async fn books_are_found_from_the_server_alone_and_followed() {
    for has_sync in [true, false] {
        let (server, mut client) = started(with_cards(has_sync), "/").await;
        let read = client.read().await.unwrap();
        assert_eq!((names(&read), read.books), (vec!["bob", "carol"], 1));
        assert!(asked(&server).contains(&"PROPFIND /.well-known/carddav".to_owned()));

        assert_eq!(names(&client.read().await.unwrap()), ["bob", "carol"]);
        let again = asked(&server);
        assert!(!again.iter().any(|asked| asked.contains("a%20b")), "it is as it was: {again:?}");

        server.lock().unwrap().put("/dav/me/a%20b/1.vcf", None);
        server.lock().unwrap().put("/dav/me/a%20b/3.vcf", Some(&card("dave")));
        assert_eq!(names(&client.read().await.unwrap()), ["carol", "dave"]);
        let reports = asked(&server).into_iter().filter(|asked| asked.starts_with("REPORT")).count();
        assert_eq!(reports, if has_sync { 2 } else { 1 }, "what has changed, and the new card");

        // A server that has forgotten what was before is read whole.
        {
            let mut server = server.lock().unwrap();
            server.put("/dav/me/a%20b/2%40x.vcf", None);
            server.oldest = server.version;
        }
        assert_eq!(names(&client.read().await.unwrap()), ["dave"]);
    }
}

#[tokio::test]
async fn a_book_and_a_home_can_be_named_themselves() {
    for path in ["/dav/me/", "/dav/me", "/dav/"] {
        let (_server, mut client) = started(with_cards(true), path).await;
        assert_eq!(names(&client.read().await.unwrap()), ["bob", "carol"], "{path}");
    }
}

#[tokio::test]
async fn what_cant_be_read_changes_nothing_and_is_read_again() {
    let (server, mut client) = started(with_cards(true), "/").await;
    client.read().await.unwrap();
    for (status, text, word) in [
        (500, "", "500"),
        (401, "", "the user or the password"),
        (404, "", "no address book"),
        (207, "<html/>", "multistatus"),
        (207, "<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", "can't be read"),
    ] {
        server.lock().unwrap().instead = Some((status, None, text.to_owned()));
        let error = client.read().await.unwrap_err().to_string();
        assert!(error.contains(word), "{status}: {error}");
    }
    server.lock().unwrap().instead = None;
    server.lock().unwrap().put("/dav/me/a%20b/3.vcf", Some(&card("dave")));
    assert_eq!(names(&client.read().await.unwrap()), ["bob", "carol", "dave"]);
}

#[tokio::test]
async fn the_password_goes_nowhere_else() {
    let (server, mut client) = started(with_cards(true), "/").await;
    let port = client.begin.port_u16().unwrap();
    for elsewhere in [
        "https://evil.example/".to_owned(),
        "https://localhost/".to_owned(),
        format!("http://localhost:{port}/"),
        format!("https://notlocalhost:{port}/"),
        format!("https://alice:x@localhost:{port}/"),
        format!("//evil.example:{port}/"),
    ] {
        server.lock().unwrap().instead = Some((302, Some(elsewhere.clone()), String::new()));
        asked(&server);
        let error = client.read().await.unwrap_err().to_string();
        assert!(error.contains("the password isn't told") || error.contains("can't be used"), "{elsewhere}: {error}");
        assert_eq!(asked(&server).len(), 1, "{elsewhere}");
    }
    server.lock().unwrap().instead = Some((302, Some("/".into()), String::new()));
    assert!(client.read().await.unwrap_err().to_string().contains("again and again"));
}

#[tokio::test]
async fn what_cant_be_had_stays_as_it_was_and_is_asked_again() {
    for has_sync in [true, false] {
        let (server, mut client) = started(with_cards(has_sync), "/dav/me/").await;
        client.read().await.unwrap();
        let path = "/dav/me/a%20b/1.vcf";
        for status in [0, 200, 403, 500, 507] {
            {
                let mut server = server.lock().unwrap();
                server.cards_said = [(path.to_owned(), status)].into();
                server.put(path, Some(&card("bert")));
            }
            assert_eq!(names(&client.read().await.unwrap()), ["bob", "carol"], "{status}");
            asked(&server);
            assert_eq!(names(&client.read().await.unwrap()), ["bob", "carol"], "{status}, again");
            assert!(asked(&server).iter().any(|asked| asked.starts_with("REPORT")), "{status}: it is asked for again");
        }
        server.lock().unwrap().cards_said = BTreeMap::new();
        assert_eq!(names(&client.read().await.unwrap()), ["bert", "carol"]);
        asked(&server);
        client.read().await.unwrap();
        assert!(!asked(&server).iter().any(|asked| asked.starts_with("REPORT")), "all is known");
        for status in [404, 410] {
            server.lock().unwrap().cards_said = [(path.to_owned(), status)].into();
            server.lock().unwrap().put(path, Some(&card("bert")));
            assert_eq!(names(&client.read().await.unwrap()), ["carol"], "{status}");
            server.lock().unwrap().cards_said = BTreeMap::new();
            server.lock().unwrap().put(path, Some(&card("bert")));
            assert_eq!(names(&client.read().await.unwrap()), ["bert", "carol"]);
        }
    }
}

#[tokio::test]
async fn cards_that_werent_asked_for_arent_taken() {
    let mut server = with_cards(true);
    let eve = |number: u32| {
        let text = card(&format!("eve{number}"));
        format!(
            "<response><href>/dav/me/a%20b/eve{number}.vcf</href><propstat><prop><C:address-data>{text}</C:address-data></prop>\
             <status>HTTP/1.1 200 OK</status></propstat></response>"
        )
    };
    server.cards_besides = (0..1_000).map(eve).collect();
    let (_server, mut client) = started(server, "/").await;
    assert_eq!(names(&client.read().await.unwrap()), ["bob", "carol"]);
    assert_eq!(client.books[0].cards.len(), 2, "nothing else is kept");
}

#[tokio::test]
async fn homes_are_read_once_and_books_are_bounded() {
    let (server, mut client) = started(Server { others: 100, ..with_cards(true) }, "/").await;
    assert_eq!(client.read().await.unwrap().books, BOOKS_MAX);
    let homes = asked(&server).iter().filter(|asked| asked.ends_with(" /dav/me/") || asked.ends_with("m%65/")).count();
    assert_eq!(homes, 1);
}

#[tokio::test]
async fn cards_that_were_finished_arent_read_again_after_a_failure() {
    let mut server = Server { has_sync: true, reports_left: Some(2), ..Server::default() };
    let count = 3 * CARDS_AT_ONCE;
    (0..count).for_each(|number| server.put(&format!("/dav/me/a%20b/{number:03}.vcf"), Some(&card(&format!("n{number}")))));
    let (server, mut client) = started(server, "/dav/me/").await;
    assert!(client.read().await.unwrap_err().to_string().contains("503"));
    server.lock().unwrap().reports_left = Some(1);
    assert_eq!(client.read().await.unwrap().entries.len(), count, "the last of three is enough");
    assert_eq!(server.lock().unwrap().reports_left, Some(0));
}

#[test]
fn a_book_keeps_what_there_is_room_for() {
    let named = |count: usize| Card {
        etag: None,
        names: (0..count).map(|number| (format!("mailto:a{number}@b.example").parse().unwrap(), None)).collect(),
    };
    let url = address("https://h/b/").unwrap();
    let mut book = Book { url, tag: None, token: None, cards: BTreeMap::new() };
    let room = Room { cards: 2, names: 10 };
    let left = book.put("/b/1".into(), named(4), room.names);
    let left = book.put("/b/2".into(), named(20), left);
    assert_eq!((left, book.names(), book.cards["/b/2"].names.len()), (0, 10, 6));
    assert_eq!((book.put("/b/2".into(), named(20), left), book.names()), (0, 10), "one that is read again takes its own place");
    let left = room.after(&book);
    assert_eq!((left.cards, left.names), (0, 0));
    Room { cards: 1, names: 10 }.fit(&mut book);
    assert_eq!(book.cards.keys().collect::<Vec<_>>(), ["/b/1"]);
    Room { cards: 1, names: 3 }.fit(&mut book);
    assert!(book.cards.is_empty());
}

#[tokio::test]
async fn a_card_that_is_too_long_is_passed_over() {
    let mut server = with_cards(true);
    let long = format!("BEGIN:VCARD\nFN:eve\nPHOTO:{}\nEMAIL:eve@there.example\nEND:VCARD\n", "A".repeat(ANSWER_BYTES_MAX));
    server.put("/dav/me/a%20b/4.vcf", Some(&long));
    let (server, mut client) = started(server, "/dav/me/").await;
    assert_eq!(names(&client.read().await.unwrap()), ["bob", "carol"]);
    asked(&server);
    server.lock().unwrap().put("/dav/me/a%20b/5.vcf", Some(&card("frank")));
    assert_eq!(names(&client.read().await.unwrap()), ["bob", "carol", "frank"]);
    assert_eq!(asked(&server).len(), 4, "it isn't asked for again");
}

#[test]
fn cards_are_read_as_long_as_there_is_room() {
    let card = Card { etag: Some("1".into()), names: Vec::new() };
    let known: BTreeMap<String, Card> = [("/b/1@x".to_owned(), card.clone()), ("/b/2".to_owned(), card)].into();
    let there = |path: &str, etag: Option<&str>| (path.to_owned(), etag.map(str::to_owned));
    let all = vec![
        there("/b/1%40x", Some("1")),
        there("/b/2", Some("2")),
        there("/b/3", None),
        there("/b/4", None),
        there("/b/5", None),
    ];
    let read: Vec<String> = to_read(&known, all, 4).into_iter().map(|(path, _)| path).collect();
    assert_eq!(read, ["/b/2", "/b/3", "/b/4"], "what is as it was isn't read, nor what is beyond");
}

#[test]
fn addresses_are_resolved_and_checked() {
    let base = address("https://Dav.Example.org:8443/x/y").unwrap();
    assert_eq!(base, "https://dav.example.org:8443/x/y");
    for (named, expected) in [
        ("/a/b", Some("https://dav.example.org:8443/a/b")),
        ("z/", Some("https://dav.example.org:8443/x/z/")),
        ("https://DAV.example.org/a", Some("https://dav.example.org/a")),
        ("/a#b", Some("https://dav.example.org:8443/a")),
        ("http://dav.example.org/", None),
        ("https://", None),
        ("https://a@dav.example.org/", None),
        ("/a b", None),
    ] {
        assert_eq!(resolve(&base, named).map(|uri| uri.to_string()).as_deref(), expected, "{named}");
    }
    assert_eq!((decoded("https://h/a%20b"), decoded("/a%zz"), decoded("https://h")), ("/a b".into(), "/a%zz".into(), "/".into()));
    assert!(address("https://h/?x=1").is_none() && address(&format!("https://h/{}", "x".repeat(URL_BYTES_MAX))).is_none());
    let params = |user: &str| CardDavParams {
        url: "https://h/".into(),
        user: user.into(),
        roots: None,
        password: Zeroizing::new(String::new()),
    };
    for user in ["", "a:b", "a\nb"] {
        assert!(CardDav::new(&params(user)).is_err(), "{user:?}");
    }
}
