//! A gateway's records in a PostgreSQL database that several gateways, each with an identity of its own, share.
//!
//! The event loop waits for no database. Before it decides on anything it has what the decision needs fetched ([`Query`]), and holds
//! it for that decision alone ([`World`]); what the decision changes ([`Change`]) is sent off with the version of each row that it was decided by, and
//! refused if another process was faster: then all of it is done again. Tasks of their own ([`worker`]) hold the connections. Pushes that wait belong to the process that
//! accepted them, until another takes them over because that one shows no sign of life.

mod carry;
mod held;
mod house;
mod key;
mod lane;
mod link;
mod rows;
mod worker;

use std::collections::HashMap;
use std::time::Instant;

use halloo_protocol::directory::Helper;
use halloo_protocol::identity::UserId;
use halloo_protocol::key::{DeviceKey, PublicKey};
use halloo_protocol::push::registration::Registration;
use halloo_protocol::push::{DeliveredStatus, PushHandle};
use halloo_protocol::time::UnixTime;
use halloo_protocol::wire;

use super::GatewayRecords;
use crate::roles::gateway::STORED_BYTES_MAX;
use crate::roles::gateway::sessions;
use crate::store::{GATEWAY_PENDING_MAX, PendingPush, StoreError};

use self::held::Held;
pub(in crate::roles::gateway) use self::held::{Compared, Owned};
#[cfg_attr(not(test), allow(unused_imports, reason = "made by tests"))]
pub(in crate::roles::gateway) use self::key::GroupKey;
#[cfg(test)]
pub(in crate::roles::gateway) use self::link::SharedError;
pub(in crate::roles::gateway) use self::worker::{Joined, Opened, Opening, open};

/// Jobs that wait for one connection. Of more, requests are refused, and what is only to be tidied is left for later.
const JOBS_MAX: usize = 4_096;

/// Devices with a connection here that others may want to have something brought to.
const CONNECTED_MAX: usize = 65_536;

/// What a decision is to be made by.
#[derive(Clone, Debug, Default)]
pub(in crate::roles::gateway) struct Query {
    /// The registration with this handle, its user's other ones, and what that user's devices have told.
    pub(in crate::roles::gateway) handle: Option<PushHandle>,
    /// The same for registrations of devices.
    pub(in crate::roles::gateway) devices: Vec<DeviceKey>,
    /// The same for an identity.
    pub(in crate::roles::gateway) identity: Option<PublicKey>,
    /// The same for a user's name.
    pub(in crate::roles::gateway) user: Option<UserId>,
    /// What waits for this device: notices, and pushes that others hold too.
    pub(in crate::roles::gateway) waiting_for: Option<DeviceKey>,
    /// A push, whoever holds it.
    pub(in crate::roles::gateway) push: Option<u64>,
    /// Pushes that this process owns.
    pub(in crate::roles::gateway) own: Vec<u64>,
}

/// What was found, for one decision.
#[derive(Clone, Debug, Default)]
pub(crate) struct World {
    registrations: Vec<(Registration, i64)>,
    choices: HashMap<PublicKey, (Vec<u8>, i64)>,
    notices: Vec<Vec<u8>>,
    /// Pushes that wait for the device that was asked for, whoever holds them.
    pub(in crate::roles::gateway) pushes: Vec<(u64, PendingPush)>,
}

/// What a decision changes.
#[derive(Clone, Debug)]
pub(in crate::roles::gateway) enum Change {
    PutRegistration {
        registration: Box<Registration>,
        version: Option<i64>,
    },
    RemoveRegistration {
        handle: PushHandle,
        version: i64,
    },
    PutChoice {
        identity: PublicKey,
        content: Vec<u8>,
        version: Option<i64>,
    },
    RemoveChoice {
        identity: PublicKey,
        version: i64,
    },
    AddPush {
        number: u64,
        hash: [u8; 32],
        push: PendingPush,
    },
    UpdatePush {
        number: u64,
        push: PendingPush,
    },
    RemovePush {
        number: u64,
        brought: Option<DeliveredStatus>,
    },
    PutNotice {
        device: DeviceKey,
        name: [u8; 32],
        notice: Vec<u8>,
    },
    RemoveNotice {
        device: DeviceKey,
        name: [u8; 32],
    },
    /// Whoever holds a connection of this device may bring it the push.
    Ask {
        number: u64,
        device: DeviceKey,
    },
}

/// What became of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// They are in the database.
    Done,
    /// The group has this push already; if this process owns it, under this number. Nothing was changed.
    Known(Option<u64>),
    /// Another process was faster. Nothing was changed.
    Conflict,
    /// It couldn't be sealed. Nothing was changed.
    Unsealed,
}

/// News of the database's tasks.
#[derive(Debug)]
pub(crate) enum News {
    /// What was asked for; `None` if the database isn't there.
    Loaded(u64, Option<Box<World>>),
    /// What became of changes; `None` if the database isn't there.
    Committed(u64, Option<Outcome>),
    /// This process has joined, or joined anew after others took it for dead: what is its own now.
    Joined(Joined),
    /// The rows that are this process's own.
    Owned(Owned),
    /// Pushes of a process that is no more.
    Adopted(Vec<(u64, PendingPush)>),
    /// The other processes, and how many registrations there are.
    Group(Option<Vec<Helper>>, Option<u64>),
    /// A push is wanted on the stream of the device with this index.
    Asked(u64, [u8; 32]),
    /// Another process says that it has brought a push: then its row is gone.
    Brought(u64, DeliveredStatus),
}

/// A job for one of the connections.
#[derive(Debug)]
enum Job {
    Load(u64, Query),
    /// Without a ticket nobody waits for it, and it is tried until it is done.
    Commit(Option<u64>, Vec<Change>),
}

/// The event loop's side.
pub(in crate::roles::gateway) struct Shared {
    key: GroupKey,
    /// Jobs are stamped: nobody waits for ever.
    lanes: Vec<tokio::sync::mpsc::Sender<(Instant, Job)>>,
    own_helper: tokio::sync::watch::Sender<Option<Helper>>,
    process: u64,
    counted: u64,
    world: World,
    /// Some while a decision is made.
    gathered: Option<Vec<Change>>,
    held: Held,
    others: Vec<Helper>,
    registrations: u64,
    /// Devices that hold a connection here, by index.
    connected: HashMap<[u8; 32], DeviceKey>,
}

impl Shared {
    /// Has something fetched; false if too much is under way.
    pub(in crate::roles::gateway) fn load(&self, ticket: u64, query: Query) -> bool {
        self.send(ticket, Job::Load(ticket, query))
    }

    /// Has changes committed; false if too much is under way.
    pub(in crate::roles::gateway) fn commit(&self, ticket: u64, changes: Vec<Change>) -> bool {
        self.send(ticket, Job::Commit(Some(ticket), changes))
    }

    fn send(&self, number: u64, job: Job) -> bool {
        let lane = usize::try_from(number).unwrap_or(0) % self.lanes.len().max(1);
        self.lanes.get(lane).is_some_and(|lane| lane.try_send((Instant::now(), job)).is_ok())
    }

    /// Begins a decision by what was found.
    pub(in crate::roles::gateway) fn begin(&mut self, world: World) {
        self.world = world;
        self.gathered = Some(Vec::new());
    }

    /// Ends it. Gives what it changes.
    pub(in crate::roles::gateway) fn end(&mut self) -> Vec<Change> {
        self.world = World::default();
        self.gathered.take().unwrap_or_default()
    }

    /// The pushes that the world has.
    pub(in crate::roles::gateway) fn found_pushes(&self) -> Vec<(u64, PendingPush)> {
        self.world.pushes.clone()
    }

    /// Whether the decision that is being made has found a push.
    pub(in crate::roles::gateway) fn has_found(&self, number: u64) -> bool {
        self.world.pushes.iter().any(|(found, _)| *found == number)
    }

    /// Whether a push is this process's own.
    pub(in crate::roles::gateway) fn is_own(&self, number: u64) -> bool {
        self.held.contains(number)
    }

    /// A push isn't in the database, or is another process's: nothing is changed there.
    pub(in crate::roles::gateway) fn let_go(&mut self, number: u64) {
        self.held.let_go(number);
    }

    /// Another process has brought a push: it is done with. False if it wasn't here.
    pub(in crate::roles::gateway) fn strike(&mut self, number: u64) -> bool {
        self.held.strike(number)
    }

    /// Pushes whose rows are there and this process's own. Gives those to deliver: not what is done with meanwhile.
    pub(in crate::roles::gateway) fn take_up(&mut self, pushes: &[(u64, PendingPush)]) -> Vec<(u64, PendingPush)> {
        self.held.take_up(pushes)
    }

    /// What is this process's own from now on. Gives the numbers of what isn't any more.
    pub(in crate::roles::gateway) fn joined(&mut self, joined: &Joined) -> Vec<u64> {
        if self.process != joined.process {
            (self.process, self.counted) = (joined.process, 0);
        }
        let numbers = joined.pushes.iter().map(|(number, _)| *number).collect();
        self.held.compare(&Owned { process: joined.process, since: joined.since, numbers, is_all: true }).lost
    }

    /// Compares what is known with the rows; what wasn't struck is struck again.
    pub(in crate::roles::gateway) fn compare(&mut self, owned: &Owned) -> Compared {
        if owned.process != self.process {
            return Compared::default();
        }
        let compared = self.held.compare(owned);
        for number in &compared.undone {
            self.change(*number, Change::RemovePush { number: *number, brought: None });
        }
        compared
    }

    pub(in crate::roles::gateway) fn set_group(&mut self, others: Option<Vec<Helper>>, registrations: Option<u64>) {
        self.others = others.unwrap_or_else(|| std::mem::take(&mut self.others));
        self.registrations = registrations.unwrap_or(self.registrations);
    }

    /// The other processes.
    pub(in crate::roles::gateway) fn others(&self) -> &[Helper] {
        &self.others
    }

    /// Says where this process is found.
    pub(in crate::roles::gateway) fn describe(&self, helper: Helper) {
        self.own_helper.send_if_modified(|known| {
            let is_new = known.as_ref() != Some(&helper);
            *known = Some(helper);
            is_new
        });
    }

    /// A device has a connection here.
    pub(in crate::roles::gateway) fn note_connected(&mut self, device: DeviceKey, is_there: impl Fn(&DeviceKey) -> bool) {
        if self.connected.len() >= CONNECTED_MAX {
            self.connected.retain(|_, device| is_there(device));
        }
        if self.connected.len() < CONNECTED_MAX {
            self.connected.insert(self.key.index("device", device.as_bytes()), device);
        }
    }

    /// The device with this index, if it was here.
    pub(in crate::roles::gateway) fn connected(&self, index: &[u8; 32]) -> Option<DeviceKey> {
        self.connected.get(index).copied()
    }

    /// Asks the other processes to bring a push on the device's stream.
    pub(in crate::roles::gateway) fn ask(&mut self, number: u64, device: DeviceKey) {
        if !self.others.is_empty() {
            self.change(number, Change::Ask { number, device });
        }
    }

    /// Notes a change of the decision that is being made; outside of one it is sent off.
    fn change(&mut self, number: u64, change: Change) {
        match &mut self.gathered {
            Some(gathered) => gathered.push(change),
            None => {
                if !self.send(number, Job::Commit(None, vec![change])) {
                    tracing::warn!("too much waits for the gateway's database: a push may go out twice");
                }
            }
        }
    }

    fn version_of(&self, handle: &PushHandle) -> Option<i64> {
        self.world.registrations.iter().find(|(known, _)| known.handle == *handle).map(|(_, version)| *version)
    }
}

impl GatewayRecords for Shared {
    fn registration(&self, handle: &PushHandle) -> Result<Option<Registration>, StoreError> {
        let mut known = self.world.registrations.iter().map(|(known, _)| known);
        Ok(known.find(|known| known.handle == *handle).cloned())
    }

    fn registrations_of(&self, device: &DeviceKey) -> Result<Vec<Registration>, StoreError> {
        let known = self.world.registrations.iter().map(|(known, _)| known);
        Ok(known.filter(|known| known.device() == *device).cloned().collect())
    }

    fn registrations_of_user(&self, user: &UserId) -> Result<Vec<Registration>, StoreError> {
        let known = self.world.registrations.iter().map(|(known, _)| known);
        Ok(known.filter(|known| sessions::user_of(known).as_ref() == Some(user)).cloned().collect())
    }

    fn registration_count(&self) -> Result<u64, StoreError> {
        Ok(self.registrations)
    }

    fn put_registration(&mut self, registration: &Registration) -> Result<(), StoreError> {
        let length = wire::encoded_len(registration);
        if length > STORED_BYTES_MAX {
            return Err(StoreError::TooLarge { what: "registration", length, limit: STORED_BYTES_MAX });
        }
        let version = self.version_of(&registration.handle);
        self.world.registrations.retain(|(known, _)| known.handle != registration.handle);
        self.world.registrations.push((registration.clone(), version.unwrap_or_default()));
        self.change(0, Change::PutRegistration { registration: Box::new(registration.clone()), version });
        Ok(())
    }

    fn remove_registration(&mut self, handle: &PushHandle) -> Result<bool, StoreError> {
        let Some(version) = self.version_of(handle) else { return Ok(false) };
        self.world.registrations.retain(|(known, _)| known.handle != *handle);
        self.change(0, Change::RemoveRegistration { handle: *handle, version });
        Ok(true)
    }

    fn end_channel(&mut self, left: &Registration, name: &[u8; 32], notice: &[u8]) -> Result<(), StoreError> {
        if left.request.channels.is_empty() {
            self.remove_registration(&left.handle)?;
        } else {
            self.put_registration(left)?;
        }
        self.change(0, Change::PutNotice { device: left.device(), name: *name, notice: notice.to_vec() });
        Ok(())
    }

    /// The database's tasks do it.
    fn purge(&mut self, _now: UnixTime) -> Result<Vec<PublicKey>, StoreError> {
        Ok(Vec::new())
    }

    fn choice(&self, identity: &PublicKey) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.world.choices.get(identity).map(|(content, _)| content.clone()))
    }

    fn put_choice(&mut self, identity: &PublicKey, content: &[u8]) -> Result<(), StoreError> {
        let version = self.world.choices.get(identity).map(|(_, version)| *version);
        self.world.choices.insert(*identity, (content.to_vec(), version.unwrap_or_default()));
        self.change(0, Change::PutChoice { identity: *identity, content: content.to_vec(), version });
        Ok(())
    }

    fn remove_choice(&mut self, identity: &PublicKey) -> Result<(), StoreError> {
        if let Some((_, version)) = self.world.choices.remove(identity) {
            self.change(0, Change::RemoveChoice { identity: *identity, version });
        }
        Ok(())
    }

    fn pending(&self, number: u64) -> Result<Option<PendingPush>, StoreError> {
        Ok(self.held.get(number).cloned())
    }

    fn add_pending(&mut self, push: &PendingPush, hash: &[u8; 32]) -> Result<u64, StoreError> {
        if self.held.len() as u64 >= GATEWAY_PENDING_MAX {
            return Err(StoreError::Full { table: "gateway pending pushes", limit: GATEWAY_PENDING_MAX });
        }
        self.counted += 1;
        let number = worker::number_of(self.process, self.counted);
        self.held.begin(number, push.clone());
        self.change(number, Change::AddPush { number, hash: *hash, push: push.clone() });
        Ok(number)
    }

    fn update_pending(&mut self, number: u64, push: &PendingPush) -> Result<(), StoreError> {
        if self.held.update(number, push) {
            self.change(number, Change::UpdatePush { number, push: push.clone() });
        }
        Ok(())
    }

    fn remove_pending(&mut self, numbers: &[u64], brought: Option<DeliveredStatus>) -> Result<(), StoreError> {
        for number in numbers {
            // One that is another's is struck only if it was brought here.
            if self.held.contains(*number) || brought.is_some() {
                self.held.strike(*number);
                self.change(*number, Change::RemovePush { number: *number, brought });
            }
        }
        Ok(())
    }

    fn notices_of(&self, _device: &DeviceKey) -> Result<Vec<Vec<u8>>, StoreError> {
        Ok(self.world.notices.clone())
    }

    fn remove_notice(&mut self, device: &DeviceKey, name: &[u8; 32]) -> Result<(), StoreError> {
        self.change(0, Change::RemoveNotice { device: *device, name: *name });
        Ok(())
    }
}
