//! Server-sent events: live, resumed, and told when something was missed.

use halloo::api::client::Client;
use halloo::handle::Event;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines, ReadHalf};

use crate::api::{Stream, connect};
use crate::fake::{DEADLINE, Fake};

type Reader = Lines<BufReader<ReadHalf<Box<dyn Stream>>>>;

/// Opens the stream and reads past its head, so that later events are seen.
async fn open(fake: &Fake, last_id: Option<&str>) -> (Reader, u16) {
    let (read, mut write) = tokio::io::split(connect(fake).await);
    let last_id = last_id.map(|id| format!("Last-Event-ID: {id}\r\n")).unwrap_or_default();
    let request = format!("GET /v1/events HTTP/1.1\r\nHost: localhost\r\n{last_id}\r\n");
    write.write_all(request.as_bytes()).await.expect("sent");
    let mut lines = BufReader::new(read).lines();
    let status = next_line(&mut lines).await;
    while !next_line(&mut lines).await.is_empty() {}
    let status = status.split(' ').nth(1).and_then(|word| word.parse().ok());
    (lines, status.expect("a status"))
}

async fn next_line(lines: &mut Reader) -> String {
    let line = tokio::time::timeout(DEADLINE, lines.next_line()).await.expect("in time");
    line.expect("read").expect("a line")
}

/// The next event's id, name and data.
async fn next_event(lines: &mut Reader) -> (String, String, serde_json::Value) {
    let (mut id, mut name) = (String::new(), String::new());
    loop {
        let line = next_line(lines).await;
        if let Some(value) = line.strip_prefix("id: ") {
            id = value.to_owned();
        } else if let Some(value) = line.strip_prefix("event: ") {
            name = value.to_owned();
        } else if let Some(data) = line.strip_prefix("data: ") {
            return (id, name, serde_json::from_str(data).expect("JSON"));
        }
    }
}

fn warning(detail: &str) -> Event {
    Event::Warning { code: "test".to_owned(), detail: detail.to_owned() }
}

#[tokio::test]
async fn a_client_resumes_where_it_stopped() {
    let dir = tempfile::tempdir().expect("a directory");
    let fake = Fake::start(dir.path(), None).await;
    fake.events.send(warning("before"));
    let (mut lines, status) = open(&fake, None).await;
    assert_eq!(status, 200);
    let first = fake.events.send(warning("first\nwith two lines"));
    let (id, name, data) = next_event(&mut lines).await;
    assert_eq!((id.as_str(), name.as_str()), (first.to_string().as_str(), "warning"));
    assert_eq!(data["detail"], "first\nwith two lines");
    assert_eq!(data["id"], first);
    drop(lines);

    let second = fake.events.send(warning("second"));
    let (mut lines, _) = open(&fake, Some(&id)).await;
    let third = fake.events.send(warning("third"));
    for expected in [second, third] {
        assert_eq!(next_event(&mut lines).await.0, expected.to_string());
    }
}

#[tokio::test]
async fn a_client_from_before_a_restart_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let fake = Fake::start(dir.path(), None).await;
    let (mut lines, _) = open(&fake, Some("5")).await;
    let (_, name, data) = next_event(&mut lines).await;
    assert_eq!(name, "missed");
    assert_eq!(data["count"], 0);
}

#[tokio::test]
async fn an_id_that_is_no_number_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let fake = Fake::start(dir.path(), None).await;
    assert_eq!(open(&fake, Some("x")).await.1, 400);
}

#[tokio::test]
async fn the_client_reads_events_until_the_daemon_stops() {
    let dir = tempfile::tempdir().expect("a directory");
    let fake = Fake::start(dir.path(), None).await;
    let mut events = Client::of(&fake.home).expect("found").events().await.expect("open");
    let id = fake.events.send(warning(&"long ".repeat(5_000)));
    let record = tokio::time::timeout(DEADLINE, events.next()).await.expect("in time").expect("read");
    assert_eq!(record.map(|record| record.id), Some(id));
    fake.stop().await;
    let end = tokio::time::timeout(DEADLINE, events.next()).await.expect("in time").expect("read");
    assert_eq!(end, None);
}
