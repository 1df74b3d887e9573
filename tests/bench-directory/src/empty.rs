//! Swarms that do nothing: what a node costs is counted above them.

use anyhow::Result;
use futures::StreamExt;
use libp2p::Swarm;
use libp2p::identity::Keypair;
use libp2p::swarm::{self, SwarmEvent, dummy};
use tokio::task::JoinSet;

use crate::overlay::Carrier;
use crate::plain;

/// `count` empty swarms that listen; they end when what is returned is dropped.
pub(crate) async fn swarms(count: usize, carrier: &Carrier) -> Result<JoinSet<()>> {
    let mut tasks = JoinSet::new();
    for _ in 0..count {
        let keypair = Keypair::generate_ed25519();
        let local = keypair.public().to_peer_id();
        let transport = plain::transport(&keypair, carrier, &std::sync::Arc::default())?;
        let mut swarm = Swarm::new(transport, dummy::Behaviour, local, swarm::Config::with_tokio_executor());
        swarm.listen_on("/memory/0".parse()?)?;
        while !matches!(swarm.select_next_some().await, SwarmEvent::NewListenAddr { .. }) {}
        tasks.spawn(async move {
            loop {
                swarm.select_next_some().await;
            }
        });
    }
    Ok(tasks)
}
