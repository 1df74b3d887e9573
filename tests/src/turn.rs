//! A client of a TURN server (RFC 8656) over UDP, for traffic that no call would make.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use serde_json::Value;
use turn_client_proto::api::{Transmit, TurnConfig, TurnEvent, TurnPollRet};
use turn_client_proto::prelude::*;
use turn_client_proto::types::{TransportType, TurnCredentials};
use turn_client_proto::udp::TurnClientUdp;

/// Longest wait for the server.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(20);

/// Pause between two looks at the socket.
const PAUSE: Duration = Duration::from_millis(1);

/// An allocation at a relay on loopback.
#[derive(Debug)]
pub struct TurnClient {
    socket: UdpSocket,
    local: SocketAddr,
    relay: SocketAddr,
    client: TurnClientUdp,
    started: Instant,
    /// The address the relay lends.
    pub relayed: SocketAddr,
}

impl TurnClient {
    /// Has an address lent by `relay`, with what its entry in `/v1/media-relays` says.
    ///
    /// # Errors
    /// What the client said, or that it waited in vain.
    ///
    /// # Panics
    /// If the entry isn't one.
    pub fn allocate(access: &Value) -> Result<Self, String> {
        let text = |value: &Value| value.as_str().expect("an entry of /v1/media-relays").to_owned();
        let url = text(&access["urls"][0]);
        let relay = url.trim_start_matches("turn:").split('?').next().and_then(|address| address.parse().ok());
        let relay: SocketAddr = relay.expect("an address of a relay");
        let config = TurnConfig::new(TurnCredentials::new(&text(&access["username"]), &text(&access["credential"])));
        let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback has a free port");
        socket.set_nonblocking(true).expect("a socket can be nonblocking");
        let local = socket.local_addr().expect("it is bound");
        let client = TurnClientUdp::allocate(local, relay, config);
        let mut turn = Self { socket, local, relay, client, started: Instant::now(), relayed: relay };
        turn.relayed = turn.wait(|event| match event {
            TurnEvent::AllocationCreated(_, relayed) => Some(Ok(*relayed)),
            TurnEvent::AllocationCreateFailed(_) => Some(Err("no address is lent".to_owned())),
            _ => None,
        })?;
        Ok(turn)
    }

    /// Lets a peer in.
    ///
    /// # Errors
    /// As for [`TurnClient::allocate`].
    ///
    /// # Panics
    /// If it was let in before.
    pub fn permit(&mut self, peer: SocketAddr) -> Result<(), String> {
        let now = self.now();
        self.client.create_permission(TransportType::Udp, peer.ip(), now).expect("an allocation without this permission");
        self.wait(|event| match event {
            TurnEvent::PermissionCreated(..) => Some(Ok(())),
            TurnEvent::PermissionCreateFailed(..) => Some(Err("no permission".to_owned())),
            _ => None,
        })
    }

    /// Sends to a peer from the relayed address.
    pub fn send(&mut self, peer: SocketAddr, bytes: &[u8]) {
        let now = self.now();
        if let Ok(Some(transmit)) = self.client.send_to(TransportType::Udp, peer, bytes, now) {
            // What the system has no room for is lost, as anywhere.
            let _lost = self.socket.send_to(&transmit.data.build(), self.relay);
        }
        self.exchange();
    }

    fn now(&self) -> turn_client_proto::types::Instant {
        let nanos = i64::try_from(self.started.elapsed().as_nanos()).unwrap_or(i64::MAX);
        turn_client_proto::types::Instant::from_nanos(nanos)
    }

    /// Handles what has come and sends what is due.
    fn exchange(&mut self) {
        let mut buffer = [0; 2_048];
        loop {
            match self.socket.recv_from(&mut buffer) {
                Ok((length, _)) => {
                    let now = self.now();
                    let transmit = Transmit::new(&buffer[..length], TransportType::Udp, self.relay, self.local);
                    let _data = self.client.recv(transmit, now);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {}
            }
        }
        let now = self.now();
        // The client wants to be asked until it waits; the bound is for its faults.
        for _ in 0..32 {
            if matches!(self.client.poll(now), TurnPollRet::WaitUntil(_) | TurnPollRet::Closed) {
                break;
            }
        }
        while let Some(transmit) = self.client.poll_transmit(now) {
            let _lost = self.socket.send_to(transmit.data.as_ref(), self.relay);
        }
    }

    fn wait<T>(&mut self, wanted: impl Fn(&TurnEvent) -> Option<Result<T, String>>) -> Result<T, String> {
        let deadline = Instant::now() + ANSWER_TIME_MAX;
        while Instant::now() < deadline {
            self.exchange();
            while let Some(event) = self.client.poll_event() {
                if let Some(result) = wanted(&event) {
                    return result;
                }
            }
            std::thread::sleep(PAUSE);
        }
        Err(format!("{} doesn't answer", self.relay))
    }
}
