//! The telephone network: providers' trunks, what goes out by them, what it may cost, and whom calls from there ring at.
//!
//! The gateway is an account of the edge, a user of its own. A call to a number is a call to that user, with the number in the sealed invite, so phones of
//! this edge, phones elsewhere and native devices come by the same way, and who they are is verified by the overlay. What they may is the plan's to say
//! ([`halloo_protocol::trunk`]): the node asks it before it rings, and [`outbound`] before anything leaves.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`line`] | one trunk: its socket or connection, its registration |
//! | [`outbound`] | a call to a number, over the trunks that lead there |
//! | `books` | the counts of the spending guard, on disk before anything leaves |

mod books;
pub(super) mod line;
pub(super) mod outbound;

use std::collections::BTreeMap;
use std::sync::Arc;

use halloo_protocol::sip::message::Message;
use halloo_protocol::sip::transaction::{Flow, Transport};
use halloo_protocol::sip::uri::SipUri;
use halloo_protocol::trunk::Plan;
use halloo_protocol::trunk::guard::{Limit, Whose};
use halloo_protocol::trunk::number::{Dialled, is_tel_uri};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use self::books::Books;
use self::line::Line;
use super::transport::{Connector, Transports};
use super::wire::Wire;
use crate::config::{SipConfig, TrunkTransport};
use crate::handle::Node;
use crate::handle::sip::{SipTrunk, SipTrunkList, SipTrunkUse};
use crate::store::Store;

/// All trunks; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Trunks(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    gateway: String,
    plan: Arc<Plan>,
    lines: Vec<Arc<Line>>,
    /// Whom calls to a number ring at, for each trunk.
    inbound: Vec<BTreeMap<String, String>>,
    books: Books,
}

/// Trunks that are kept registered. Dropping it lets go of them without a word.
#[derive(Debug)]
pub(super) struct Kept {
    tasks: Vec<AbortOnDropHandle<()>>,
    leave: CancellationToken,
}

impl Kept {
    /// Says goodbye to the providers, for a second at most; needs the edge to go on meanwhile.
    pub(super) async fn leave(self) {
        self.leave.cancel();
        futures::future::join_all(self.tasks).await;
    }
}

/// Whom a call from the telephone network is for, and from where it comes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Inbound {
    pub(super) user: String,
    pub(super) number: Option<Dialled>,
}

impl Trunks {
    /// Those of the configuration, with their sockets.
    pub(super) async fn open(config: &SipConfig, transports: &mut Transports) -> Result<Self, String> {
        let Some((plan, names)) = config.plan()? else {
            let inner = Inner {
                gateway: String::new(),
                plan: Arc::default(),
                lines: Vec::new(),
                inbound: Vec::new(),
                books: Books::default(),
            };
            return Ok(Self(Arc::new(inner)));
        };
        let (mut lines, mut inbound) = (Vec::new(), Vec::new());
        for name in names {
            let Some(trunk) = config.trunk.get(name) else { continue };
            let wrong = |reason: String| format!("trunk.{name}.{reason}");
            let mut line = Line::new(name, trunk.clone()).map_err(wrong)?;
            if trunk.transport == TrunkTransport::Udp {
                let address = trunk.listen.unwrap_or_else(|| ([0; 4], 0).into());
                let bound = transports.bind(address).await;
                line.socket = Some(bound.map_err(|error| wrong(format!("listen: {address}: {error}")))?);
            }
            lines.push(Arc::new(line));
            inbound.push(trunk.numbers(&plan).map_err(wrong)?);
        }
        let gateway = config.telephone.clone().unwrap_or_default().to_lowercase();
        Ok(Self(Arc::new(Inner { gateway, plan: Arc::new(plan), lines, inbound, books: Books::default() })))
    }

    /// The gateway's account and what it may do, if there is one.
    pub(super) fn plan(&self) -> Option<(String, Arc<Plan>)> {
        (!self.0.lines.is_empty()).then(|| (self.0.gateway.clone(), self.0.plan.clone()))
    }

    pub(super) fn gateway(&self) -> &str {
        &self.0.gateway
    }

    pub(super) fn is_gateway(&self, account: &str) -> bool {
        !self.0.lines.is_empty() && self.0.gateway == account
    }

    /// Keeps trunks registered, until they are left or this is dropped.
    pub(super) fn keep(&self, wire: &Wire, connector: &Connector, own: &Node) -> Kept {
        let (lines, leave) = (self.0.lines.iter().cloned(), CancellationToken::new());
        let keep = |line| line::keep(line, wire.clone(), connector.clone(), own.clone(), leave.clone());
        let tasks = lines.map(|line| AbortOnDropHandle::new(tokio::spawn(keep(line)))).collect();
        Kept { tasks, leave }
    }

    /// The gateway's account runs: its database has the counts.
    pub(super) fn open_books(&self, store: Store) {
        self.0.books.open(store);
    }

    /// The gateway's account is gone, and nothing may be placed any more.
    pub(super) fn close_books(&self) {
        self.0.books.close();
    }

    /// Which trunk's provider speaks: on the socket or the connection that is for it alone, and with datagrams from one of its addresses.
    pub(super) fn line_of(&self, flow: Flow) -> Option<usize> {
        self.0.lines.iter().position(|line| match flow.transport {
            Transport::Udp => line.socket == Some(flow.connection) && line.is_provider(flow.peer.ip()),
            Transport::Tcp | Transport::Tls => line.flow() == Some(flow),
        })
    }

    /// A connection is gone, which may have been a trunk's.
    pub(super) fn closed(&self, flow: Flow) {
        self.0.lines.iter().filter(|line| line.flow() == Some(flow)).for_each(|line| line.closed());
    }

    /// Whom a provider's call is for, by its Request-URI, else by `To`; `None` if nobody has the number.
    pub(super) fn inbound(&self, line: usize, invite: &Message) -> Option<Inbound> {
        let mapped = self.0.inbound.get(line)?;
        let called = [Some(invite.request_uri().to_owned()), invite.to().map(|to| to.uri)];
        let users = called.into_iter().flatten().filter_map(|uri| user_part(&uri));
        // Many providers leave the plus away.
        let find = |user: String| mapped.get(&self.written(&user)).or_else(|| mapped.get(&format!("+{user}")));
        let user = users.filter_map(find).next()?.clone();
        Some(Inbound { user, number: self.caller(invite) })
    }

    /// A number as the plan writes it; what is none stays as it is.
    fn written(&self, text: &str) -> String {
        let number = Dialled::parse(text).and_then(|dialled| self.0.plan.number(&dialled));
        number.map_or_else(|_| text.to_owned(), |number| number.to_string())
    }

    /// From where a call comes, by the provider's word: what it asserts, else `From`; nothing if the caller wants it so.
    fn caller(&self, invite: &Message) -> Option<Dialled> {
        if invite.lists("privacy", "id") || invite.lists("privacy", "user") {
            return None;
        }
        let asserted = invite.get("p-asserted-identity").and_then(|text| halloo_protocol::sip::uri::NameAddr::parse(text).ok());
        let uri = asserted.or_else(|| invite.from())?.uri;
        let text = user_part(&uri)?;
        // Digits without a prefix may be a number of another country without its plus: nothing is made of them.
        let is_clear = text.starts_with('+') || text.starts_with('0');
        Dialled::parse(&if is_clear { self.written(&text) } else { text }).ok()
    }

    /// For the owner.
    pub(super) fn list(&self) -> SipTrunkList {
        let rules = self.0.plan.trunks.iter();
        let all = rules.zip(&self.0.lines).zip(&self.0.inbound);
        let trunks = all.map(|((rule, line), inbound)| {
            let (state, reason) = line.state();
            let limits = &rule.limits;
            let mut used = vec![self.used(&rule.name, Whose::All, limits.all)];
            used.extend(rule.callers.iter().map(|user| self.used(&rule.name, Whose::User(user.clone()), limits.user)));
            used.extend(limits.prefixes.iter().map(|of| self.used(&rule.name, Whose::Prefix(of.prefix.clone()), of.limit)));
            SipTrunk {
                name: rule.name.clone(),
                server: line.config.server.clone(),
                transport: line.config.transport.name().to_owned(),
                state,
                reason,
                patterns: rule.patterns.iter().map(ToString::to_string).collect(),
                emergency: rule.emergency,
                used,
                inbound: inbound.clone(),
            }
        });
        let gateway = (!self.0.gateway.is_empty()).then(|| self.0.gateway.clone());
        SipTrunkList { gateway, has_gateway: self.0.books.is_open(), trunks: trunks.collect() }
    }

    fn used(&self, trunk: &str, whose: Whose, limit: Limit) -> SipTrunkUse {
        let count = self.0.books.used(trunk, &whose);
        let of = match whose {
            Whose::All => "all".to_owned(),
            Whose::User(name) | Whose::Prefix(name) => name,
        };
        let max = |limit: u32| (limit != u32::MAX).then_some(limit);
        SipTrunkUse {
            of,
            calls: count.calls,
            calls_max: max(limit.calls),
            minutes: count.minutes,
            minutes_max: max(limit.minutes),
        }
    }
}

/// What names somebody in an address of SIP or a telephone.
fn user_part(uri: &str) -> Option<String> {
    if is_tel_uri(uri) {
        return Dialled::parse(uri).ok().map(|number| number.to_string());
    }
    SipUri::parse(uri).ok()?.user.map(|user| user.split(';').next().unwrap_or_default().to_owned())
}
