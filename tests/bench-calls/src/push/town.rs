//! Who there is: servers, a gateway, callers, devices that sleep, and a push service between them.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Result, bail};
use halloo::handle::directory::{DeviceReachability, ResolveOptions};
use halloo::handle::power::SuspendOptions;
use halloo::handle::push::{PushChannel, PushTarget};
use halloo::store::Store;
use tokio::sync::mpsc::Receiver;

use super::service::{HandOver, PushService};
use crate::lab::{LEASE_SECS, Lab, Member, Part, eventually};
use crate::slow_link::{Packet, SlowLink};

const SERVERS: usize = 2;
const CALLERS: usize = 3;
const SLEEPERS: usize = 7;

/// How long devices that have just woken are given to publish and to be vouched for.
const SETTLE: Duration = Duration::from_secs(5);

/// Times that all are put to sleep until everybody is vouched for.
const TRIES: usize = 4;

/// A device that is woken by push alone.
#[derive(Debug)]
pub(crate) struct Sleeper {
    pub(crate) member: Member,
    pub(crate) hand_overs: Receiver<HandOver>,
    /// Of its operating system, for the push service.
    pub(crate) system_port: u16,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Town {
    pub(crate) servers: Vec<Member>,
    pub(crate) gateway: Member,
    pub(crate) gateway_store: Store,
    pub(crate) service: PushService,
    pub(crate) callers: Vec<Member>,
    pub(crate) sleepers: Vec<Sleeper>,
    /// A device in the background: nobody can connect to it, and its gateway reaches it on the stream it keeps.
    pub(crate) background: Member,
}

impl Town {
    /// Sets it up, without any delay.
    pub(crate) async fn build(link: &SlowLink) -> Result<Self> {
        link.set_delay(Duration::ZERO);
        let mut lab = Lab::new();
        let (mut servers, mut callers, mut sleepers) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..SERVERS {
            servers.push(lab.join(Part::Server).await?);
        }
        let gateway_store = Store::in_memory()?;
        let gateway = lab.join_with(Part::Gateway, gateway_store.clone()).await?;
        let service = PushService::start().await?;
        for _ in 0..CALLERS {
            callers.push(lab.join(Part::Open).await?);
        }
        for _ in 0..SLEEPERS {
            let member = lab.join(Part::Sleeper).await?;
            let (system_port, hand_overs) = service.attach(&member.peer_id, &member.node).await?;
            let endpoint = Some(service.endpoint(&member.peer_id));
            register(&member, &gateway, PushChannel::Webpush { endpoint, p256dh: None, auth: None }).await?;
            sleepers.push(Sleeper { member, hand_overs, system_port });
        }
        let background = lab.join(Part::Hidden).await?;
        register(&background, &gateway, PushChannel::Stream {}).await?;
        eprintln!("making contacts");
        for caller in &callers {
            for sleeper in &sleepers {
                caller.befriend(&sleeper.member).await?;
            }
        }
        Ok(Self { servers, gateway, gateway_store, service, callers, sleepers, background })
    }

    /// Freezes all sleepers and waits until nobody but their gateway vouches for them.
    pub(crate) async fn sleep(&self) -> Result<()> {
        for _ in 0..TRIES {
            tokio::time::sleep(SETTLE).await;
            for sleeper in &self.sleepers {
                sleeper.member.node.suspend(SuspendOptions::default()).await?;
            }
            tokio::time::sleep(Duration::from_secs(LEASE_SECS + 1)).await;
            let mut left = Vec::new();
            for sleeper in &self.sleepers {
                if !is_vouched_for(&self.callers[0], &sleeper.member).await? {
                    left.push(&sleeper.member);
                }
            }
            if left.is_empty() {
                return Ok(());
            }
            eprintln!("{} devices aren't vouched for yet", left.len());
            for sleeper in left {
                sleeper.node.wake(None).await?;
            }
        }
        bail!("the gateway doesn't vouch for all devices");
    }

    /// The packets of a sleeping device's node among all: those from its ports, and those from ports that nobody else here has. Its operating system's
    /// own, with the push service, are apart.
    pub(crate) async fn packets_of(&self, device: Option<usize>, packets: &[Packet]) -> Result<usize> {
        let mut others = HashSet::from([self.service.port()]);
        let everybody = self.servers.iter().chain(&self.callers).chain([&self.gateway, &self.background]);
        for member in everybody {
            others.extend(member.ports().await?);
        }
        for (number, sleeper) in self.sleepers.iter().enumerate() {
            others.insert(sleeper.system_port);
            if device.is_some_and(|device| device != number) {
                others.extend(sleeper.member.ports().await?);
            }
        }
        let services: HashSet<u16> =
            self.sleepers.iter().map(|sleeper| sleeper.system_port).chain([self.service.port()]).collect();
        let is_others = |packet: &&Packet| others.contains(&packet.from) || services.contains(&packet.to);
        Ok(packets.iter().filter(|packet| !is_others(packet)).count())
    }
}

async fn register(device: &Member, gateway: &Member, channel: PushChannel) -> Result<()> {
    let target = PushTarget { channel, gateway: Some(gateway.peer_id.clone()) };
    eventually("a registration", async || {
        let registered = device.node.push().register(target.clone()).await;
        Ok(registered.inspect_err(|error| eprintln!("not registered yet: {error}")).ok().map(|_| ()))
    })
    .await
}

/// Whether the lease that others see says that the device can be woken. Leaves what was found in the cache.
pub(crate) async fn is_vouched_for(caller: &Member, device: &Member) -> Result<bool> {
    let found = caller.node.directory().resolve(&device.username, ResolveOptions { fresh: true, settled: false }).await?;
    Ok(found.devices.iter().all(|device| device.reachability == DeviceReachability::Push))
}
