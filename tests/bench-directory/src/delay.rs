//! A way for datagrams that takes time: forwards UDP, each datagram a fixed time after it came, both ways.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

/// Largest datagram forwarded: more than any on loopback.
const DATAGRAM_BYTES_MAX: usize = 65_536;

/// Datagrams on their way in one direction of one flow; more are lost, as in a network.
const FLIGHT_MAX: usize = 4_096;

/// Datagrams that wait in a socket while the machine is busy. QUIC takes their loss for a slow network.
const RECEIVES_AT_ONCE: usize = 64;

/// A delay each way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Delay(pub(crate) Duration);

struct Parcel {
    due: Instant,
    bytes: Vec<u8>,
}

impl Delay {
    /// Forwards what comes to the returned port of loopback to `target`, and what comes back to whom it is for. Runs until the runtime ends.
    pub(crate) async fn forward_to(self, target: SocketAddr) -> Result<u16> {
        let front = Arc::new(UdpSocket::bind("127.0.0.1:0").await?);
        let port = front.local_addr()?.port();
        tokio::spawn(self.serve(front, target));
        Ok(port)
    }

    async fn serve(self, front: Arc<UdpSocket>, target: SocketAddr) {
        let mut flows: HashMap<SocketAddr, mpsc::Sender<Parcel>> = HashMap::new();
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        let mut taken = 0;
        loop {
            let Ok((length, source)) = front.recv_from(&mut buffer).await else { continue };
            let flow = match flows.get(&source) {
                Some(flow) => flow,
                None => match self.open(Arc::clone(&front), source, target).await {
                    Ok(flow) => flows.entry(source).or_insert(flow),
                    Err(_) => continue,
                },
            };
            let _lost_if_full = flow.try_send(self.parcel(&buffer[..length]));
            taken += 1;
            if taken % RECEIVES_AT_ONCE == 0 {
                tokio::task::yield_now().await;
            }
        }
    }

    fn parcel(self, bytes: &[u8]) -> Parcel {
        Parcel { due: Instant::now() + self.0, bytes: bytes.to_vec() }
    }

    /// A socket of its own for each source, so that answers find their way back.
    async fn open(self, front: Arc<UdpSocket>, source: SocketAddr, target: SocketAddr) -> Result<mpsc::Sender<Parcel>> {
        let back = Arc::new(UdpSocket::bind("127.0.0.1:0").await?);
        back.connect(target).await?;
        let (there, mut going) = mpsc::channel::<Parcel>(FLIGHT_MAX);
        let (here, mut coming) = mpsc::channel::<Parcel>(FLIGHT_MAX);
        let out = Arc::clone(&back);
        tokio::spawn(async move {
            while let Some(parcel) = going.recv().await {
                sleep_until(parcel.due).await;
                let _lost = out.send(&parcel.bytes).await;
            }
        });
        tokio::spawn(async move {
            while let Some(parcel) = coming.recv().await {
                sleep_until(parcel.due).await;
                let _lost = front.send_to(&parcel.bytes, source).await;
            }
        });
        tokio::spawn(async move {
            let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
            loop {
                match back.recv(&mut buffer).await {
                    Ok(length) => {
                        let _lost_if_full = here.try_send(self.parcel(&buffer[..length]));
                    }
                    // The target is gone; what comes later may find it back.
                    Err(_) => tokio::time::sleep(self.0).await,
                }
            }
        });
        Ok(there)
    }
}
