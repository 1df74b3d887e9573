//! A gateway with a million devices: how large its database is, and how long start and look-ups take.

use std::time::Instant;

use anyhow::{Context, Result};
use halloo::roles::gateway::webpush::ReceiverKeys;
use halloo::store::{DATABASE_FILE, Store, StoreError};
use halloo_protocol::push::registration::Registration;
use halloo_protocol::wire;

use super::processor::Registered;
use crate::lab::{Lab, Part, eventually};
use crate::report::{Report, Row, median};

/// Registrations of one commit.
const BATCH: usize = 20_000;

/// Look-ups that are timed.
const LOOKUPS: usize = 10_000;

/// An endpoint as long as those of the large push services.
const ENDPOINT: &str = "https://push.services.example/wpush/v2/gAAAAABlZ4h3J2m8QkXo1Yw0Zt5uVn7Rb9cLd6eFsGaHiKjMpNqTyUxWzBvCrDtEuFwGxHyIzJ0K1L2M3N4O5P6Q7R8S9T0U1V2W3X4Y5Z6a7b8c9d0e";

pub(crate) async fn measure(count: usize, report: &mut Report) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let keys = ReceiverKeys::generate()?;
    let (mut handles, began) = (Vec::new(), Instant::now());
    let store = Store::open(folder.path())?;
    let template = Registered::new(ENDPOINT, keys.public_key(), *keys.auth()).registration;
    let row_bytes = wire::encode(&template).len();
    while handles.len() < count {
        store.transaction::<_, StoreError>(|tx| {
            for _ in 0..BATCH.min(count - handles.len()) {
                let registration = fresh(&template);
                let (handle, device) = (registration.handle.0, registration.device());
                tx.put_gateway_registration(&handle, &device, &wire::encode(&registration))?;
                handles.push((handle, device));
            }
            Ok(())
        })?;
        if handles.len() % (5 * BATCH) == 0 {
            eprintln!("{} registrations after {:.0} s", handles.len(), began.elapsed().as_secs_f64());
        }
    }
    let made = began.elapsed();
    let bytes = std::fs::metadata(folder.path().join(DATABASE_FILE))?.len();
    drop(store);
    let began = Instant::now();
    let store = Store::open(folder.path())?;
    let opened = began.elapsed();
    let mut lab = Lab::new();
    let began = Instant::now();
    let gateway = lab.join_with(Part::Gateway, store.clone()).await?;
    let started = began.elapsed();
    let (mut by_handle, mut by_device) = (Vec::new(), Vec::new());
    for number in 0..LOOKUPS {
        let (handle, device) = handles[(number * 7_919 + 13) % handles.len()];
        let began = Instant::now();
        let found = store.read::<_, StoreError>(|view| view.gateway_registration(&handle))?;
        found.context("a registration is missing")?;
        by_handle.push(began.elapsed().as_secs_f64() * 1e6);
        let began = Instant::now();
        let found = store.read::<_, StoreError>(|view| view.gateway_registrations_of(&device))?;
        found.first().context("a device's registration is missing")?;
        by_device.push(began.elapsed().as_secs_f64() * 1e6);
    }
    gateway.node.shutdown().await?;
    drop((gateway, lab));
    eventually("the gateway's end", async || Ok(Some(()))).await?;
    let worst = |times: &[f64]| {
        let mut sorted = times.to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() * 99 / 100).copied().unwrap_or(f64::NAN)
    };
    report.add(Row::stated(&format!("{count} registrations: database"), "MB", bytes as f64 / 1e6).note(format!(
        "{:.0} bytes each, of which a registration's own are {row_bytes}; made in {:.0} s in commits of {BATCH}",
        bytes as f64 / count as f64,
        made.as_secs_f64()
    )));
    report.add(
        Row::stated("the same: opening the database", "ms", opened.as_secs_f64() * 1e3)
            .note(format!("and {:.0} ms more until the gateway listens", started.as_secs_f64() * 1e3)),
    );
    let note =
        |times: &[f64]| format!("{LOOKUPS} at random, 99% below {:.0} µs; a page cache of 4 MB, the system's warm", worst(times));
    report.add(Row::stated("the same: look-up by handle", "µs", median(&by_handle)).note(note(&by_handle)));
    report.add(Row::stated("the same: look-up by device", "µs", median(&by_device)).note(note(&by_device)));
    Ok(())
}

/// Another device's registration: keys are random, which costs less than making them.
fn fresh(template: &Registration) -> Registration {
    use halloo_protocol::capability::CapabilityRules;
    use halloo_protocol::key::{DeviceKey, IdentityKey, PublicKey};
    use halloo_protocol::push::PushHandle;
    let key = || PublicKey(rand::random());
    Registration {
        handle: PushHandle(rand::random()),
        rules: CapabilityRules::new(DeviceKey(key()), IdentityKey(key()), 0),
        ..template.clone()
    }
}
