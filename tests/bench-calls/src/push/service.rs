//! A push service, a party of its own on the link: it takes what gateways post (RFC 8030) and hands the body to the device at once, over a connection
//! that the device's operating system keeps.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};
use halloo::Node;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::slow_link::ADDRESS;

/// Longest body: what every push service takes.
const BODY_BYTES_MAX: usize = 4_096;

/// Messages on their way to one phone, and hand-overs that nobody has looked at.
const QUEUE_MAX: usize = 1_024;

const CREATED: &[u8] = b"HTTP/1.1 201 Created\r\nTTL: 60\r\nContent-Length: 0\r\n\r\n";

/// A push has come to the device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HandOver {
    pub(crate) at: Instant,
    pub(crate) bytes: usize,
}

/// The service.
#[derive(Clone, Debug)]
pub(crate) struct PushService {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    phones: Mutex<HashMap<String, Sender<Vec<u8>>>>,
    taken: AtomicU64,
    connections: AtomicU64,
}

impl PushService {
    pub(crate) async fn start() -> Result<Self> {
        let listener = TcpListener::bind((ADDRESS, 0)).await?;
        let service = Self { address: listener.local_addr()?, shared: Arc::default() };
        let shared = Arc::clone(&service.shared);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                shared.connections.fetch_add(1, Ordering::Relaxed);
                let shared = Arc::clone(&shared);
                // A connection that breaks off is the gateway's to open again.
                tokio::spawn(async move { serve(stream, &shared).await });
            }
        });
        Ok(service)
    }

    pub(crate) const fn port(&self) -> u16 {
        self.address.port()
    }

    /// Where gateways post what is for `name`.
    pub(crate) fn endpoint(&self, name: &str) -> String {
        format!("http://{}/push/{name}", self.address)
    }

    /// Messages taken so far.
    pub(crate) fn taken(&self) -> u64 {
        self.shared.taken.load(Ordering::Acquire)
    }

    /// Connections that gateways have opened so far.
    pub(crate) fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Connects a device: each message for `name` crosses the link and wakes `node`. Gives the device's port, and when messages have come.
    pub(crate) async fn attach(&self, name: &str, node: &Node) -> Result<(u16, Receiver<HandOver>)> {
        let listener = TcpListener::bind((ADDRESS, 0)).await?;
        let address = listener.local_addr()?;
        let (here, there) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (mut here, (there, _)) = (here?, there?);
        here.set_nodelay(true)?;
        let (sender, mut bodies) = channel::<Vec<u8>>(QUEUE_MAX);
        tokio::spawn(async move {
            while let Some(body) = bodies.recv().await {
                let length = u16::try_from(body.len()).unwrap_or(u16::MAX).to_be_bytes();
                if here.write_all(&[&length[..], &body].concat()).await.is_err() {
                    break;
                }
            }
        });
        let (come, hand_overs) = channel(QUEUE_MAX);
        tokio::spawn(receive(there, node.clone(), come));
        self.shared.phones.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), sender);
        Ok((address.port(), hand_overs))
    }
}

/// The device's operating system: what comes is handed to the node.
async fn receive(mut stream: TcpStream, node: Node, come: Sender<HandOver>) -> Result<()> {
    loop {
        let length = usize::from(stream.read_u16().await?);
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        let _nobody_looks = come.try_send(HandOver { at: Instant::now(), bytes: length });
        if let Err(error) = node.wake(Some(body)).await {
            eprintln!("a push was refused: {error}");
        }
    }
}

async fn serve(stream: TcpStream, shared: &Shared) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    loop {
        let (mut path, mut length, mut line) = (String::new(), 0, String::new());
        while stream.read_line(&mut line).await? > 2 {
            if let Some(rest) = line.strip_prefix("POST /push/") {
                path = rest.split(' ').next().unwrap_or_default().to_owned();
            } else if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse::<usize>().context("no length")?.min(BODY_BYTES_MAX);
            }
            line.clear();
        }
        if length == 0 {
            return Ok(());
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        if let Some(phone) = shared.phones.lock().unwrap_or_else(PoisonError::into_inner).get(&path) {
            let _hung_up = phone.try_send(body);
        }
        shared.taken.fetch_add(1, Ordering::Release);
        stream.write_all(CREATED).await?;
    }
}
