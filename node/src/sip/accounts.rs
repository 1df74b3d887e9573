//! Accounts: each a device of its user, an embedded node with keys and a database of its own under `HOME/sip/`.
//!
//! `HOME/sip/accounts.json` says which there are and what is kept of their passwords: HA1 values, never the password. Whoever reads that file can log
//! in as a phone; it has mode 0600, as keys have.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use halloo_protocol::identity::RecoveryPhrase;
use halloo_protocol::key::AuthorityKey;
use halloo_protocol::linking::DeviceLink;
use halloo_protocol::sip::digest::Ha1;
use halloo_protocol::sip::gruu::GruuKey;
use halloo_protocol::trunk::Plan;
use libp2p::Multiaddr;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::config::{CallsConfig, DeviceKind, RelayPolicy};
use crate::devices::join::{self, JoinOptions, LinkTarget};
use crate::event_loop::ClockSource;
use crate::handle::Node;
use crate::handle::authority::EnrolOptions;
use crate::handle::devices::LinkOptions;
use crate::handle::sip::{SipAccountOptions, SipError};
use crate::home::{Home, write_secret};
use crate::identity::LocalIdentity;
use crate::store::{Store, StoreError};

/// Accounts of one edge: a household or an office.
pub(super) const ACCOUNTS_MAX: usize = 64;

/// Names the edge to phones; passwords are bound to it.
pub(super) const REALM: &str = "halloo";

/// Letters and digits of a password: 125 bits.
const PASSWORD_CHARS: usize = 25;

const FILE: &str = "accounts.json";

/// What is kept of an account.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    /// `name@authority`
    pub(super) account: String,
    /// Its home within `HOME/sip/`.
    directory: String,
    /// When it was made, in Unix seconds.
    pub(super) created_at: u64,
    /// For phones that log in as `name`, and for those that log in as `name@authority`: with SHA-256 and with MD5.
    short: [String; 2],
    long: [String; 2],
}

impl Record {
    /// What is kept of the password of whoever logs in under this name; `None` for another's.
    pub(super) fn ha1(&self, username: &str) -> Option<Ha1> {
        let kept = if username == self.account { &self.long } else { &self.short };
        let is_own = username == self.account || username == self.name();
        is_own.then(|| Ha1 { sha256: kept[0].clone(), md5: kept[1].clone() })
    }

    pub(super) fn name(&self) -> &str {
        self.account.split('@').next().unwrap_or_default()
    }

    /// What temporary addresses of the account's phones are sealed with: another password is the end of all of them, as of the registrations.
    pub(super) fn gruu_key(&self) -> GruuKey {
        GruuKey::of_secret(self.long[0].as_bytes())
    }

    pub(super) fn set_password(&mut self, password: &str) {
        let kept = |user: &str| {
            let ha1 = Ha1::new(user, REALM, password);
            [ha1.sha256.clone(), ha1.md5.clone()]
        };
        self.short = kept(self.name());
        self.long = kept(&self.account);
    }
}

/// How accounts' nodes join the network.
#[derive(Clone, Debug, Default)]
pub struct AccountNetwork {
    /// As [`NodeBuilder::lab`](crate::NodeBuilder::lab).
    pub lab: bool,
    /// Nodes to join through; the edge's own is added.
    pub bootstrap: Vec<Multiaddr>,
    /// Authorities by label.
    pub authorities: Vec<(String, AuthorityKey)>,
    /// How calls ring.
    pub calls: CallsConfig,
    /// Which account is the gateway to the telephone network, and what it may do.
    pub(crate) telephone: Option<(String, Arc<Plan>)>,
}

/// The directory of accounts.
#[derive(Clone, Debug)]
pub(super) struct Accounts {
    root: PathBuf,
    network: AccountNetwork,
}

/// A running account.
#[derive(Clone, Debug)]
pub(super) struct Account {
    pub(super) record: Record,
    pub(super) node: Node,
    pub(super) peer_id: String,
    /// The node's own.
    pub(super) store: Store,
}

/// A new account, its password, and the words of its user if there was none before.
#[derive(Debug)]
pub(super) struct Added {
    pub(super) account: Account,
    pub(super) password: String,
    pub(super) recovery_phrase: Option<String>,
}

impl Accounts {
    pub(super) fn open(root: PathBuf, network: AccountNetwork) -> Result<Self, SipError> {
        // No home itself: it has accounts' homes in it.
        Home::create_private(&root).map_err(failed)?;
        Ok(Self { root, network })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn load(&self) -> Result<Vec<Record>, SipError> {
        let path = self.root.join(FILE);
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| failed(format!("{}: {error}", path.display()))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(failed(format!("{}: {error}", path.display()))),
        }
    }

    pub(super) fn save<'a>(&self, records: impl Iterator<Item = &'a Record>) -> Result<(), SipError> {
        let records: Vec<&Record> = records.collect();
        let bytes = serde_json::to_vec_pretty(&records).map_err(failed)?;
        write_secret(&self.root.join(FILE), &bytes).map_err(failed)
    }

    /// Where an account's node keeps what it has.
    pub(super) fn home(&self, record: &Record) -> PathBuf {
        self.root.join(&record.directory)
    }

    /// Starts an account's node.
    pub(super) async fn start(&self, record: Record, own: &Node) -> Result<Account, SipError> {
        let home = self.root.join(&record.directory);
        let store = open_store(&home).await?;
        let identity = LocalIdentity::load(&home, &store, ClockSource::default().raw_unix()).map_err(failed)?;
        let plan = self.network.telephone.as_ref().filter(|(gateway, _)| *gateway == record.account);
        let node = self.spawn(identity, store.clone(), &home, own, plan.map(|(_, plan)| plan.clone())).await?;
        let peer_id = node.status().await.map_err(failed)?.peer_id;
        Ok(Account { record, node, peer_id, store })
    }

    async fn spawn(
        &self,
        identity: LocalIdentity,
        store: Store,
        home: &Path,
        own: &Node,
        plan: Option<Arc<Plan>>,
    ) -> Result<Node, SipError> {
        let mut builder = Node::builder(identity)
            .store(store)
            .lab(self.network.lab)
            .mdns(false)
            .upnp(false)
            // A phone's media are connected when it answers, or says something while it rings.
            .early_media(false)
            .calls(CallsConfig { ring_when_busy: true, ..self.network.calls.clone() })
            .device("SIP phone", halloo_protocol::directory::DeviceKind::Phone)
            .telephone_gateway(plan)
            .phones(true)
            .home(home.to_owned());
        for (label, root) in &self.network.authorities {
            builder = builder.authority(label, *root);
        }
        for address in self.network.bootstrap.iter().cloned().chain(own_addresses(own).await) {
            builder = builder.bootstrap(address);
        }
        builder.spawn().await.map_err(failed)
    }

    /// Makes an account as it was asked for.
    pub(super) async fn add(&self, options: SipAccountOptions, own: &Node) -> Result<Added, SipError> {
        let directory = crate::key_file::random_bytes::<8>().map_err(failed)?;
        let directory = data_encoding::HEXLOWER.encode(&directory);
        let home = self.root.join(&directory);
        let (account, recovery_phrase) = match &options {
            SipAccountOptions { link: Some(_), username: None, invite: None } => (self.link(&home, &options).await?, None),
            SipAccountOptions { link: None, username: None, invite: None } => (self.link_own(&home, own).await?, None),
            SipAccountOptions { link: None, username: Some(username), invite } => {
                let (account, phrase) = self.enrol(&home, username, invite.clone(), own).await?;
                (account, Some(phrase))
            }
            _ => return Err(SipError::Invalid { reason: "either a link, or a username with an invite".to_owned() }),
        };
        let password = password()?;
        let created_at = ClockSource::default().raw_unix().0;
        let mut record = Record { account, directory, created_at, short: Default::default(), long: Default::default() };
        record.set_password(&password);
        let account = self.start(record, own).await?;
        Ok(Added { account, password, recovery_phrase })
    }

    /// A device of this home's own user: both ends of the linking are here.
    async fn link_own(&self, home: &Path, own: &Node) -> Result<String, SipError> {
        let refused = |reason: String| SipError::Link { reason };
        let offer = own.devices().offer_link(LinkOptions::default()).await.map_err(|error| refused(error.to_string()))?;
        let options = SipAccountOptions { link: Some(offer.link.clone()), ..SipAccountOptions::default() };
        let devices = own.devices();
        let linked = async { devices.wait_link(&offer.id).await.map_err(|error| refused(error.to_string())) };
        // Whichever end fails first ends the wait for the other.
        let (_, account) = tokio::try_join!(linked, self.link(home, &options))?;
        Ok(account)
    }

    async fn link(&self, home: &Path, options: &SipAccountOptions) -> Result<String, SipError> {
        let link = DeviceLink::parse(options.link.as_deref().unwrap_or_default());
        let link = link.map_err(|error| SipError::Invalid { reason: error.to_string() })?;
        let options = JoinOptions {
            home: home.to_owned(),
            target: LinkTarget::Link(Box::new(link)),
            device_name: Some("SIP phone".to_owned()),
            device_kind: Some(DeviceKind::Phone),
            relay: RelayPolicy::Off,
        };
        let joined = join::join(options, CancellationToken::new(), |_| {}).await;
        Ok(joined.map_err(|error| SipError::Link { reason: error.to_string() })?.username)
    }

    /// A new user of an authority, whose first device the account is.
    async fn enrol(&self, home: &Path, username: &str, invite: Option<String>, own: &Node) -> Result<(String, String), SipError> {
        let made = Home::create(home).map_err(failed)?;
        let phrase = RecoveryPhrase::from_entropy(crate::key_file::random_bytes().map_err(failed)?);
        let store = Store::open(made.root()).map_err(failed)?;
        let now = ClockSource::default().raw_unix();
        let identity = LocalIdentity::create(made.root(), &store, &phrase, now).map_err(failed)?;
        let node = self.spawn(identity, store, home, own, None).await?;
        let enrolled = node.enrol(EnrolOptions { username: username.to_owned(), invite }).await;
        let stopped = node.shutdown().await;
        let account = enrolled.map(|enrolled| enrolled.username);
        match account {
            Ok(account) => {
                stopped.map_err(failed)?;
                Ok((account, phrase.words().to_string()))
            }
            Err(error) => {
                remove_home(home);
                Err(SipError::Link { reason: error.to_string() })
            }
        }
    }

    /// Takes an account's home away; its node has ended.
    pub(super) fn remove(&self, record: &Record) {
        remove_home(&self.root.join(&record.directory));
    }
}

/// Opens a home's database. A node that has just ended there, as the one that enrolled a new user, may let go of it a moment later.
async fn open_store(home: &Path) -> Result<Store, SipError> {
    const LETTING_GO_MAX: Duration = Duration::from_secs(10);
    let deadline = Instant::now() + LETTING_GO_MAX;
    loop {
        match Store::open(home) {
            Err(StoreError::InUse { .. }) if Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(20)).await,
            opened => return opened.map_err(failed),
        }
    }
}

fn remove_home(home: &Path) {
    if let Err(error) = std::fs::remove_dir_all(home) {
        tracing::warn!(home = %home.display(), %error, "an account's home is left over");
    }
}

fn failed(error: impl std::fmt::Display) -> SipError {
    SipError::Failed { reason: error.to_string() }
}

/// A password that nobody guesses, of letters that are told apart.
pub(super) fn password() -> Result<String, SipError> {
    const ALPHABET: &[u8; 32] = b"abcdefghjkmnpqrstuvwxyz023456789";
    let bytes = crate::key_file::random_bytes::<PASSWORD_CHARS>().map_err(failed)?;
    Ok(bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect())
}

/// Where the edge's own node listens: the nearest way into the network.
async fn own_addresses(own: &Node) -> Vec<Multiaddr> {
    let Ok(status) = own.status().await else { return Vec::new() };
    status.listen.iter().filter_map(|address| address.parse().ok()).collect()
}
