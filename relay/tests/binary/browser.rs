//! A browser: two peer connections of one page, allowed to use relayed addresses only.
//!
//! The page comes from this test and tells it what happened. Wants Chromium, which `scripts/setup --long` installs; a long test for that.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::Relay;

/// A browser takes some seconds to start, more on a machine that builds at the same time.
const BROWSER_DEADLINE: Duration = Duration::from_secs(120);

/// How often it is looked whether the browser has connected.
const POLL: Duration = Duration::from_millis(20);

/// Connects two ends over the given TURN server; sends data there and back and half a second of sound; reports.
const PAGE: &str = r#"<!doctype html><title>relay</title><script>
const url = new URLSearchParams(location.search).get('turn');
const config = { iceServers: [{ urls: url, username: 'user', credential: 'password' }], iceTransportPolicy: 'relay' };
const report = text => fetch('/result', { method: 'POST', body: text });
const stats = async (pc, type) => [...(await pc.getStats()).values()].filter(s => s.type === type);
async function run() {
  const [a, b] = [new RTCPeerConnection(config), new RTCPeerConnection(config)];
  a.onicecandidate = e => e.candidate && b.addIceCandidate(e.candidate);
  b.onicecandidate = e => e.candidate && a.addIceCandidate(e.candidate);
  const echoed = new Promise(done => {
    const channel = a.createDataChannel('data');
    b.ondatachannel = e => e.channel.onmessage = m => e.channel.send(m.data + ' and back');
    channel.onopen = () => channel.send('there');
    channel.onmessage = m => done(m.data);
  });
  const audio = new AudioContext(), oscillator = audio.createOscillator(), sound = audio.createMediaStreamDestination();
  oscillator.connect(sound); oscillator.start();
  a.addTrack(sound.stream.getAudioTracks()[0], sound.stream);
  await a.setLocalDescription();
  await b.setRemoteDescription(a.localDescription);
  await b.setLocalDescription();
  await a.setRemoteDescription(b.localDescription);
  const data = await echoed;
  let heard = {};
  while (!(heard.packetsReceived >= 50)) {
    await new Promise(done => setTimeout(done, 50));
    heard = (await stats(b, 'inbound-rtp'))[0] || {};
  }
  const pair = (await stats(a, 'candidate-pair')).find(s => s.nominated && s.state === 'succeeded');
  const kinds = [...await stats(a, 'local-candidate'), ...await stats(a, 'remote-candidate')]
    .filter(c => c.id === pair.localCandidateId || c.id === pair.remoteCandidateId).map(c => c.candidateType);
  await report(`${data}; ${kinds.join(' to ')}; ${heard.packetsReceived} packets of sound, ${heard.packetsLost} lost`);
}
run().catch(error => report('failed: ' + error));
</script>"#;

/// The browser, ended when dropped.
struct Browser {
    child: Child,
    _profile: tempfile::TempDir,
}

impl Browser {
    fn start(page: &str) -> Self {
        let profile = tempfile::tempdir().expect("a directory");
        let mut command = Command::new("chromium");
        command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]);
        command.args(["--autoplay-policy=no-user-gesture-required", "--allow-loopback-in-peer-connection"]);
        command.arg(format!("--user-data-dir={}", profile.path().display())).arg(page);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let child =
            child.unwrap_or_else(|error| panic!("cannot run chromium ({error}): run scripts/setup --long, which installs it"));
        Self { child, _profile: profile }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Serves the page until somebody posts a result.
fn result_of_page(listener: &TcpListener) -> String {
    let started = Instant::now();
    listener.set_nonblocking(true).expect("a mode can be set");
    loop {
        assert!(started.elapsed() < BROWSER_DEADLINE, "the page reported nothing within {BROWSER_DEADLINE:?}");
        match listener.accept() {
            Ok((stream, _)) => {
                if let Some(result) = answer(stream) {
                    return result;
                }
            }
            Err(_) => std::thread::sleep(POLL),
        }
    }
}

fn answer(stream: TcpStream) -> Option<String> {
    stream.set_nonblocking(false).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let mut reader = BufReader::new(&stream);
    let mut request = String::new();
    reader.read_line(&mut request).ok()?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        // A browser may open a connection ahead of need and say nothing.
        if reader.read_line(&mut line).ok()? <= 2 {
            break;
        }
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let page = if request.starts_with("GET /?") { PAGE } else { "" };
    let head =
        format!("HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", page.len());
    (&stream).write_all((head + page).as_bytes()).ok()?;
    request.starts_with("POST /result").then(|| String::from_utf8_lossy(&body).into_owned())
}

fn two_ends_talk(way: &str) {
    let loopback = "127.0.0.1:0";
    let relay = Relay::start(&[
        "--listen",
        loopback,
        "--listen-tcp",
        loopback,
        "--user",
        "user:password",
        "--lab",
        "--metrics",
        loopback,
        "--drain",
        "0",
    ]);
    let transport = if way == "turn-tcp" { "tcp" } else { "udp" };
    let turn = format!("turn:{}?transport={transport}", relay.address(way));
    let listener = TcpListener::bind(loopback).expect("a free port");
    let address = listener.local_addr().expect("bound");
    let _browser = Browser::start(&format!("http://{address}/?turn={}", turn.replace('?', "%3F").replace('=', "%3D")));
    let result = result_of_page(&listener);
    let relayed = relay.counters("halloo_relay_relayed_packets_total");
    eprintln!("{way}: {result}; {relayed} packets relayed");
    assert!(result.starts_with("there and back; relay to relay; "), "{result}");
    assert!(result.ends_with(", 0 lost"), "{result}");
    assert!(relayed >= 50, "{relayed}");
}

#[test]
#[ignore = "long: wants a browser"]
fn chromium_talks_over_relayed_addresses_only() {
    two_ends_talk("turn");
    two_ends_talk("turn-tcp");
}
