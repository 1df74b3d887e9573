//! A machine that is far from itself: what it sends to its own public address takes a while.
//!
//! In a network namespace of this process's own a TUN device has the address of all parties. The rule that delivers packets to own addresses is put behind
//! another that sends them out through the device; this program reads them there, waits, and writes them back as if they had come from outside. So
//! whatever any two parties say to each other (QUIC, TURN, media) takes the same time each way, without any of them knowing.

use std::fs::File;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Where all parties are. An address of the internet, so that nodes need no lab; nothing leaves the namespace.
pub(crate) const ADDRESS: Ipv4Addr = Ipv4Addr::new(5, 0, 0, 1);

const DEVICE: &str = "slow0";

/// Number of the routing table that leads into the device.
const TABLE: &str = "100";

/// The rule that sends packets there.
const DETOUR: &str = "pref 5 iif lo to 5.0.0.1 lookup 100";

/// Longest packet: the device's MTU, which is an ordinary one, so that QUIC packs as it does elsewhere.
const PACKET_BYTES_MAX: usize = 1_500;

/// Packets under way; more are lost, as in a network.
const FLIGHT_MAX: usize = 65_536;

/// From `linux/if_tun.h`.
const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
const IFF_TUN: u16 = 0x0001;
const IFF_NO_PI: u16 = 0x1000;

/// The link; there for as long as the process.
#[derive(Debug)]
pub(crate) struct SlowLink {
    delay_us: Arc<AtomicU64>,
    heard: Heard,
}

/// A packet that some party has sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet {
    pub(crate) at: Instant,
    pub(crate) from: u16,
    pub(crate) to: u16,
    /// IP header included.
    pub(crate) bytes: usize,
}

type Heard = Arc<Mutex<Option<Vec<Packet>>>>;

/// Packets kept between two [`SlowLink::listen`]; more are forgotten.
const HEARD_MAX: usize = 1_000_000;

impl Packet {
    /// Reads the ports of an IPv4 packet with TCP or UDP in it.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let header = usize::from(bytes.first()? & 0x0f) * 4;
        let ports = bytes.get(header..header + 4).filter(|_| bytes[0] >> 4 == 4)?;
        let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
        Some(Self { at: Instant::now(), from: port(0), to: port(2), bytes: bytes.len() })
    }
}

struct Parcel {
    due: Instant,
    bytes: Vec<u8>,
}

fn run(program: &str, arguments: &str) -> Result<()> {
    let output = Command::new(program).args(arguments.split(' ')).output().with_context(|| format!("can't run {program}"))?;
    if !output.status.success() {
        bail!("{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn ip(arguments: &str) -> Result<()> {
    run("ip", arguments)
}

fn set(key: &str, value: u8) -> Result<()> {
    let path = format!("/proc/sys/net/ipv4/conf/{key}");
    std::fs::write(&path, value.to_string()).with_context(|| format!("can't write {path}"))
}

impl SlowLink {
    /// Brings it up, for now without a delay.
    ///
    /// # Errors
    /// If this process isn't root in a network namespace of its own.
    pub(crate) fn up() -> Result<Self> {
        let shared = std::fs::read_link("/proc/1/ns/net").ok();
        if shared.is_some() && shared == std::fs::read_link("/proc/self/ns/net").ok() {
            bail!("this needs a network namespace of its own: run it with `scripts/bench calls`");
        }
        ip("link set lo up")?;
        ip(&format!("tuntap add dev {DEVICE} mode tun"))?;
        ip(&format!("address add {ADDRESS}/32 dev {DEVICE}"))?;
        ip(&format!("link set {DEVICE} mtu {PACKET_BYTES_MAX} txqueuelen 10000 up"))?;
        // What comes back has our own address as its source.
        set("all/accept_local", 1)?;
        set(&format!("{DEVICE}/accept_local"), 1)?;
        set("all/rp_filter", 0)?;
        set(&format!("{DEVICE}/rp_filter"), 0)?;
        ip(&format!("route add {ADDRESS}/32 dev {DEVICE} table {TABLE} src {ADDRESS}"))?;
        ip(&format!("rule add {DETOUR}"))?;
        ip("rule add pref 10 lookup local")?;
        ip("rule del pref 0")?;
        let device = attach()?;
        let delay_us = Arc::new(AtomicU64::new(0));
        let (sender, receiver) = mpsc::sync_channel::<Parcel>(FLIGHT_MAX);
        let (mut reader, mut writer) = (device.try_clone()?, device);
        let delay = Arc::clone(&delay_us);
        let heard = Heard::default();
        let hearing = Arc::clone(&heard);
        std::thread::spawn(move || {
            let mut buffer = vec![0; PACKET_BYTES_MAX + 64];
            while let Ok(length) = reader.read(&mut buffer) {
                if let Some(heard) = hearing.lock().unwrap_or_else(PoisonError::into_inner).as_mut()
                    && heard.len() < HEARD_MAX
                {
                    heard.extend(Packet::parse(&buffer[..length]));
                }
                let due = Instant::now() + Duration::from_micros(delay.load(Ordering::Relaxed));
                let _lost_if_full = sender.try_send(Parcel { due, bytes: buffer[..length].to_vec() });
            }
        });
        std::thread::spawn(move || {
            while let Ok(parcel) = receiver.recv() {
                std::thread::sleep(parcel.due.saturating_duration_since(Instant::now()));
                let _refused = writer.write_all(&parcel.bytes);
            }
        });
        Ok(Self { delay_us, heard })
    }

    /// Each packet takes so long from now on.
    pub(crate) fn set_delay(&self, delay: Duration) {
        self.delay_us.store(u64::try_from(delay.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Forgets what was heard, and notes every packet that is sent from now on.
    pub(crate) fn listen(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(Vec::new());
    }

    /// The packets sent since; listens no more.
    pub(crate) fn heard(&self) -> Vec<Packet> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default()
    }

    /// Has the system deliver packets itself, as it does over loopback, or no longer.
    pub(crate) fn bypass(&self, on: bool) -> Result<()> {
        ip(&format!("rule {} {DETOUR}", if on { "del" } else { "add" }))
    }
}

/// Opens the device that `ip` has made.
#[allow(unsafe_code, reason = "there is no other way to attach to a TUN device")]
fn attach() -> Result<File> {
    let file = File::options().read(true).write(true).open("/dev/net/tun").context("can't open /dev/net/tun")?;
    // struct ifreq: the name, then a union of which the first two bytes are the flags.
    let mut request = [0_u8; 40];
    request[..DEVICE.len()].copy_from_slice(DEVICE.as_bytes());
    request[16..18].copy_from_slice(&(IFF_TUN | IFF_NO_PI).to_ne_bytes());
    // SAFETY: the kernel reads and writes a struct ifreq of 40 bytes, which this is, and it outlives the call.
    let outcome = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) };
    if outcome < 0 {
        return Err(std::io::Error::last_os_error()).context("can't attach to the TUN device");
    }
    Ok(file)
}
