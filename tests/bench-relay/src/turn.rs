//! The least TURN client that sets up calls for the load: Allocate, CreatePermission, ChannelBind, Refresh over UDP.
//!
//! Written apart from the relay's own codec, so that the two can't agree on a mistake.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;

/// User, realm and password of the load, alike.
pub(crate) const CREDENTIAL: &str = "bench";
/// MD5 of `bench:bench:bench` (`printf bench:bench:bench | md5sum`), the key of long-term credentials (RFC 8489 section 9.2.2).
const KEY: [u8; 16] = [0x70, 0xf1, 0x18, 0xc5, 0xfa, 0xfe, 0x10, 0xa7, 0x53, 0x79, 0x74, 0x6c, 0xa6, 0xab, 0x61, 0x81];

const COOKIE: [u8; 4] = [0x21, 0x12, 0xA4, 0x42];
/// Where clients are: not at the relay's address, where their ports would be in the way of relayed ones.
const CLIENTS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
/// Waiting for a response before asking again, and how often.
const PATIENCE: Duration = Duration::from_millis(300);
const TRIES: u32 = 10;

const ALLOCATE: u16 = 0x003;
const REFRESH: u16 = 0x004;
const CREATE_PERMISSION: u16 = 0x008;
const CHANNEL_BIND: u16 = 0x009;

const USERNAME: u16 = 0x0006;
const MESSAGE_INTEGRITY: u16 = 0x0008;
const ERROR_CODE: u16 = 0x0009;
const CHANNEL_NUMBER: u16 = 0x000C;
const LIFETIME: u16 = 0x000D;
const XOR_PEER_ADDRESS: u16 = 0x0012;
const REALM: u16 = 0x0014;
const NONCE: u16 = 0x0015;
const XOR_RELAYED_ADDRESS: u16 = 0x0016;
const REQUESTED_TRANSPORT: u16 = 0x0019;

/// One client with its allocation.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) socket: UdpSocket,
    pub(crate) relayed: SocketAddr,
    port: u16,
    realm: Vec<u8>,
    nonce: Vec<u8>,
    transactions: u64,
}

/// A request of one client.
type Request = (u16, Vec<(u16, Vec<u8>)>);

/// Asks for an allocation for each client: twice, as the first time the server gives realm and nonce.
pub(crate) fn allocate(clients: &mut [Client]) -> anyhow::Result<()> {
    let transport = (REQUESTED_TRANSPORT, vec![17, 0, 0, 0]);
    for refusal in ask(clients, |_| (ALLOCATE, vec![transport.clone()]), false)? {
        ensure!(refusal.error == Some(401), "the first Allocate should be refused with 401, got {:?}", refusal.error);
    }
    let successes = request(clients, |_| (ALLOCATE, vec![transport.clone()])).context("allocate")?;
    for (client, success) in clients.iter_mut().zip(successes) {
        let relayed = success.attribute(XOR_RELAYED_ADDRESS).context("no relayed address")?;
        client.relayed = xor_address(relayed).context("relayed address")?;
    }
    Ok(())
}

pub(crate) fn create_permissions(clients: &mut [Client], peers: &[SocketAddr]) -> anyhow::Result<()> {
    request(clients, |n| (CREATE_PERMISSION, vec![(XOR_PEER_ADDRESS, xored(peers[n]))])).context("permission").map(drop)
}

pub(crate) fn bind_channels(clients: &mut [Client], number: u16, peers: &[SocketAddr]) -> anyhow::Result<()> {
    let [high, low] = number.to_be_bytes();
    let number = (CHANNEL_NUMBER, vec![high, low, 0, 0]);
    request(clients, |n| (CHANNEL_BIND, vec![number.clone(), (XOR_PEER_ADDRESS, xored(peers[n]))])).context("channel").map(drop)
}

/// Ends the allocations.
pub(crate) fn release(clients: &mut [Client]) -> anyhow::Result<()> {
    request(clients, |_| (REFRESH, vec![(LIFETIME, vec![0; 4])])).context("release").map(drop)
}

/// Each client's request, signed, until all have succeeded.
fn request(clients: &mut [Client], of: impl Fn(usize) -> Request) -> anyhow::Result<Vec<Response>> {
    let mut responses = ask(clients, &of, true)?;
    if responses.iter().any(|response| response.error == Some(438)) {
        responses = ask(clients, &of, true)?;
    }
    match responses.iter().find_map(|response| response.error) {
        None => Ok(responses),
        Some(code) => bail!("error {code}"),
    }
}

/// Sends each client's request and waits until all have their responses. It never sleeps: a relay would pay for the wake-ups, and the more
/// the slower the machine is at that.
fn ask(clients: &mut [Client], of: impl Fn(usize) -> Request, is_signed: bool) -> anyhow::Result<Vec<Response>> {
    let mut waiting = Vec::new();
    for (n, client) in clients.iter_mut().enumerate() {
        let (method, attributes) = of(n);
        let transaction = client.next_transaction();
        waiting.push((n, transaction, client.encode(method, &transaction, &attributes, is_signed)));
    }
    let mut responses: Vec<Option<Response>> = clients.iter().map(|_| None).collect();
    for _ in 0..TRIES {
        for (n, _, message) in &waiting {
            clients[*n].socket.send(message)?;
        }
        let asked = Instant::now();
        while !waiting.is_empty() && asked.elapsed() < PATIENCE {
            let mut failure = None;
            waiting.retain(|(n, transaction, _)| match clients[*n].response(transaction) {
                Ok(response) => {
                    responses[*n] = response;
                    responses[*n].is_none()
                }
                Err(error) => {
                    failure = Some(error);
                    true
                }
            });
            failure.map_or(Ok(()), Err)?;
        }
    }
    ensure!(waiting.is_empty(), "no response to {} of {} requests", waiting.len(), clients.len());
    Ok(responses.into_iter().flatten().collect())
}

impl Client {
    pub(crate) fn new(server: SocketAddr) -> anyhow::Result<Self> {
        let socket = UdpSocket::bind((CLIENTS, 0))?;
        socket.connect(server)?;
        socket.set_nonblocking(true)?;
        let (relayed, port) = (SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), socket.local_addr()?.port());
        Ok(Self { socket, relayed, port, realm: Vec::new(), nonce: Vec::new(), transactions: 0 })
    }

    fn next_transaction(&mut self) -> [u8; 12] {
        self.transactions += 1;
        let mut transaction = [0; 12];
        transaction[..8].copy_from_slice(&self.transactions.to_be_bytes());
        transaction[8..10].copy_from_slice(&self.port.to_be_bytes());
        transaction
    }

    fn encode(&self, method: u16, transaction: &[u8; 12], attributes: &[(u16, Vec<u8>)], is_signed: bool) -> Vec<u8> {
        let mut message = Vec::with_capacity(256);
        message.extend(method.to_be_bytes());
        message.extend([0, 0]);
        message.extend(COOKIE);
        message.extend(transaction);
        for (kind, value) in attributes {
            append(&mut message, *kind, value);
        }
        if is_signed {
            append(&mut message, USERNAME, CREDENTIAL.as_bytes());
            append(&mut message, REALM, &self.realm);
            append(&mut message, NONCE, &self.nonce);
            // The length that is signed counts the signature.
            let length = message.len() - 20 + 24;
            message[2..4].copy_from_slice(&(length as u16).to_be_bytes());
            let mut mac = Hmac::<Sha1>::new_from_slice(&KEY).expect("any key length does");
            mac.update(&message);
            append(&mut message, MESSAGE_INTEGRITY, &mac.finalize().into_bytes());
        }
        let length = message.len() - 20;
        message[2..4].copy_from_slice(&(length as u16).to_be_bytes());
        message
    }

    /// The response, if it is there.
    fn response(&mut self, transaction: &[u8; 12]) -> io::Result<Option<Response>> {
        let mut buffer = [0; 2_048];
        let bytes = match self.socket.recv(&mut buffer) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        };
        let response = Response::parse(&buffer[..bytes], transaction);
        if let Some(response) = &response
            && let (Some(realm), Some(nonce)) = (response.attribute(REALM), response.attribute(NONCE))
        {
            (self.realm, self.nonce) = (realm.to_vec(), nonce.to_vec());
        }
        Ok(response)
    }
}

struct Response {
    attributes: Vec<(u16, Vec<u8>)>,
    error: Option<u16>,
}

impl Response {
    /// Nothing if it is something else: late data, an answer to an earlier try.
    fn parse(bytes: &[u8], transaction: &[u8; 12]) -> Option<Self> {
        if bytes.len() < 20 || bytes[4..8] != COOKIE || bytes[8..20] != *transaction {
            return None;
        }
        let is_error = bytes[0] & 1 == 1 && bytes[1] & 0x10 != 0;
        let (mut attributes, mut rest) = (Vec::new(), &bytes[20..]);
        while let Some((header, value)) = rest.split_first_chunk::<4>() {
            let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
            attributes.push((u16::from_be_bytes([header[0], header[1]]), value.get(..length)?.to_vec()));
            rest = value.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        let mut response = Self { attributes, error: None };
        if is_error {
            let code = response.attribute(ERROR_CODE).filter(|value| value.len() >= 4)?;
            response.error = Some(u16::from(code[2] & 7) * 100 + u16::from(code[3]));
        }
        Some(response)
    }

    fn attribute(&self, kind: u16) -> Option<&[u8]> {
        self.attributes.iter().find(|(k, _)| *k == kind).map(|(_, value)| value.as_slice())
    }
}

fn append(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    message.extend(kind.to_be_bytes());
    message.extend((value.len() as u16).to_be_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
}

fn xored(address: SocketAddr) -> Vec<u8> {
    let IpAddr::V4(ip) = address.ip() else { unreachable!("the load is IPv4") };
    let [high, low] = (address.port() ^ 0x2112).to_be_bytes();
    let mut value = vec![0, 1, high, low];
    value.extend(ip.octets().iter().zip(COOKIE).map(|(byte, mask)| byte ^ mask));
    value
}

fn xor_address(value: &[u8]) -> Option<SocketAddr> {
    let value: &[u8; 8] = value.try_into().ok()?;
    let ip = Ipv4Addr::new(value[4] ^ COOKIE[0], value[5] ^ COOKIE[1], value[6] ^ COOKIE[2], value[7] ^ COOKIE[3]);
    Some((ip, u16::from_be_bytes([value[2], value[3]]) ^ 0x2112).into())
}
