//! Requests: Binding (RFC 8489) and TURN's four (RFC 8656), one function each: request in, response and changes out.
//!
//! **Unauthenticated senders** may have forged their source, and a response may go to somebody who asked for nothing. Three things keep
//! that harmless: each source address has a share of responses ([`crate::quota::SourceRates`]); nothing is remembered; and a response has at most
//! [`AMPLIFICATION_MAX`] times the bytes of its request, where the realm has 16 bytes at most. The worst case is a bare Refresh of 20 bytes, which
//! has to be answered with realm, nonce and password algorithms. That is why these responses have neither SOFTWARE nor reason phrases.
//!
//! **Authenticated ones** have shown a nonce made for their address, so that is where the response goes.
//!
//! Error codes, by the order in which they are checked: 401 and 400 and 438 (who is it), 420, 437, then the method's own. 446 and 447 belong
//! to TCP towards the peer (RFC 6062), which isn't served: REQUESTED-TRANSPORT with TCP gets 442.

mod allocate;
mod reply;

use std::net::{IpAddr, SocketAddr};

use crate::allocation::binding::BindRefusal;
use crate::allocation::{Family, relayed_id};
use crate::auth::credentials::userhash;
use crate::auth::{AuthRefusal, Grant, Identity, Key, PasswordAlgorithm};
use crate::metrics::{DropReason, Response};
use crate::packet::{ClientPath, Sink};
use crate::relay::{Relay, Shared};
use crate::stun::attribute::{Attribute, AttributeType};
use crate::stun::integrity::Check;
use crate::stun::{Message, Method, channel_data};
use crate::time::Moment;

use reply::{Integrity, Refusal, Reply};
pub use reply::{REALM_BYTES_MAX, RESPONSE_BYTES_MAX};

/// Bytes of a response for each byte of its request, at most, unauthenticated: header 20, ERROR-CODE 8, REALM 20, NONCE 36, PASSWORD-ALGORITHMS
/// 12 to a request of 20. With IPv4 and UDP headers it is (96 + 28) / (20 + 28) = 2.6.
pub const AMPLIFICATION_MAX: f64 = 4.8;

/// Types listed in one error 420. A client that sends more unknown attributes learns of the first ones.
pub const UNKNOWN_ATTRIBUTES_MAX: usize = 64;

/// What a request's outcome is: counted, then written.
type Outcome<T> = Result<T, Refusal>;

impl Shared {
    /// Whether a client may have a permission for this address: as a rule, or as a relayed address of this very relay.
    pub(crate) fn may_permit(&self, ip: IpAddr) -> bool {
        self.is_relayed_ip(ip) || self.settings.peer_filter.allows_ip(ip)
    }

    /// Whether data may be sent there.
    #[inline]
    pub(crate) fn may_reach(&self, peer: SocketAddr) -> bool {
        // A relayed address of ours is reached by way of the directory only, which knows whose it is.
        self.is_relayed(peer) || self.settings.peer_filter.allows(peer)
    }
}

impl Relay {
    pub(crate) fn handle_request<'b>(
        &mut self,
        request: Message<'_>,
        from: ClientPath,
        now: Moment,
        out: &mut impl Sink<'b>,
    ) -> Result<(), DropReason> {
        if !is_answerable(from.address) {
            return Err(DropReason::UnusableSource);
        }
        let method = request.method();
        let is_turn = matches!(method, Method::ALLOCATE | Method::REFRESH | Method::CREATE_PERMISSION | Method::CHANNEL_BIND);
        if !is_turn && method != Method::BINDING {
            return Err(DropReason::UnknownMethod);
        }
        let has_fingerprint = match request.check_fingerprint() {
            Check::Invalid => return Err(DropReason::WrongFingerprint),
            Check::Valid => true,
            Check::Absent => false,
        };
        let mut reply = Reply::new(request, has_fingerprint);
        if !is_turn {
            self.handle_binding(request, &from, now, &mut reply)?;
        } else {
            match self.authenticate(request, &from, now) {
                _ if !self.shared.settings.serves_turn => {
                    self.take_share(&from, now)?;
                    reply.refuse(&Refusal::NO_TURN, None);
                }
                Err(refusal) => {
                    self.take_share(&from, now)?;
                    let challenge = refusal.is_challenge.then(|| self.challenge(&from, now));
                    reply.refuse(&refusal, challenge);
                }
                Ok(caller) => {
                    reply.sign(caller.integrity, &caller.key);
                    if let Err(refusal) = self.dispatch(request, from, caller, now, &mut reply, out) {
                        reply.refuse(&refusal, None);
                    }
                }
            }
        }
        let (response, bytes) = reply.finish();
        self.metrics.count_response(response, bytes.len());
        out.respond(from, bytes);
        Ok(())
    }

    fn dispatch<'b>(
        &mut self,
        request: Message<'_>,
        from: ClientPath,
        caller: Caller,
        now: Moment,
        reply: &mut Reply<'_>,
        out: &mut impl Sink<'b>,
    ) -> Outcome<()> {
        check_unknown(request, self.shared.settings.can_set_dont_fragment)?;
        match request.method() {
            Method::ALLOCATE => self.handle_allocate(request, from, caller, now, reply, out),
            Method::REFRESH => self.handle_refresh(request, &caller, now, reply, out),
            Method::CREATE_PERMISSION => self.handle_create_permission(request, &caller, now, reply),
            _ => self.handle_channel_bind(request, &caller, now, reply),
        }
    }

    /// RFC 8489 section 6.3.1.
    fn handle_binding(
        &mut self,
        request: Message<'_>,
        from: &ClientPath,
        now: Moment,
        reply: &mut Reply<'_>,
    ) -> Result<(), DropReason> {
        // Counted last, so that what isn't answered uses up nobody's share.
        self.take_share(from, now)?;
        match check_unknown(request, true) {
            Err(refusal) => reply.refuse(&refusal, None),
            Ok(()) => reply.succeed(Response::Binding, |message| {
                // A socket of both families gives IPv4 sources as mapped IPv6 addresses; the client wants to know the IPv4 one.
                message.xor_mapped_address(SocketAddr::new(from.address.ip().to_canonical(), from.address.port()))
            }),
        }
        Ok(())
    }

    /// One more response to somebody who may be anybody.
    fn take_share(&mut self, from: &ClientPath, now: Moment) -> Result<(), DropReason> {
        let is_taken = self.rates.try_take_at(from.address.ip(), now);
        is_taken.then_some(()).ok_or(DropReason::RateLimited)
    }

    fn challenge(&self, from: &ClientPath, now: Moment) -> reply::Challenge<'_> {
        reply::Challenge { realm: &self.shared.settings.realm, nonce: self.shared.nonces.make(from, now) }
    }

    /// RFC 8489 section 9.2.4. The nonce is looked at before the user: it costs less, and what follows is done only for
    /// those who receive at the address they write from.
    fn authenticate(&mut self, request: Message<'_>, from: &ClientPath, now: Moment) -> Outcome<Caller> {
        let claim = Claim::read(request)?;
        if !self.shared.nonces.is_fresh(claim.nonce, from, now) {
            return Err(Refusal::STALE_NONCE);
        }
        let slot = self.by_client.get(from).filter(|slot| self.allocations.get(*slot).is_some_and(|held| now < held.expires));
        let is_signed = |key: &Key| claim.integrity.check(request, key);
        let realm = &*self.shared.settings.realm;
        let owner = slot.and_then(|slot| self.allocations.get(slot)).map(|allocation| &allocation.owner);
        if let Some(owner) = owner.filter(|owner| claim.is_same_user(&owner.username, realm)) {
            // The key that made the allocation stays good for it when the credential has run out: a call isn't cut.
            if owner.key.algorithm() == claim.algorithm && is_signed(&owner.key) {
                let key = owner.key.clone();
                return Ok(Caller { key, integrity: claim.integrity, grant: None, slot });
            }
        }
        let unix_now = self.shared.unix_time(now);
        match self.shared.authenticator.grant(claim.identity, realm, claim.algorithm, unix_now, &is_signed) {
            // Not only a matter of form: two users behind one NAT may get the same five-tuple one after the other.
            Ok(grant) if owner.is_some_and(|owner| owner.username != grant.username) && request.method() != Method::ALLOCATE => {
                Err(Refusal::WRONG_CREDENTIALS)
            }
            Ok(grant) => Ok(Caller { key: grant.key.clone(), integrity: claim.integrity, grant: Some(grant), slot }),
            Err(AuthRefusal::Unknown | AuthRefusal::Expired | AuthRefusal::WrongPassword) => Err(Refusal::UNAUTHENTICATED),
        }
    }

    /// RFC 8656 section 8.2.
    fn handle_refresh<'b>(
        &mut self,
        request: Message<'_>,
        caller: &Caller,
        now: Moment,
        reply: &mut Reply<'_>,
        out: &mut impl Sink<'b>,
    ) -> Outcome<()> {
        let slot = caller.slot.ok_or(Refusal::MISMATCH)?;
        let lifetime = allocate::lifetime(request, self.shared.settings.lifetime_max)?;
        let family = allocate::family(request, AttributeType::REQUESTED_ADDRESS_FAMILY)?;
        let shared = std::sync::Arc::clone(&self.shared);
        let allocation = self.allocations.get_mut(slot).ok_or(Refusal::MISMATCH)?;
        if family.is_some_and(|family| allocation.relayed(family).is_none()) {
            return Err(Refusal::PEER_FAMILY);
        }
        match family {
            _ if !lifetime.is_zero() => {
                allocation.expires = now.after(lifetime);
                allocation.entry.show(allocation, self.worker);
            }
            // Of two families one may be given up.
            Some(family) if Family::ALL.iter().all(|family| allocation.relayed(*family).is_some()) => {
                if let Some(relayed) = allocation.relayed[family.index()].take() {
                    shared.directory.remove(relayed);
                    out.close_relayed(relayed_id(slot, family));
                    shared.ports.give_back(family, relayed.port());
                    allocation.entry.show(allocation, self.worker);
                }
            }
            _ => self.end_allocation(slot, now, out),
        }
        reply.succeed(Response::Refresh, |message| {
            message.attribute(AttributeType::LIFETIME, &(lifetime.as_secs() as u32).to_be_bytes())
        });
        Ok(())
    }

    /// RFC 8656 section 10.2: all peers or none.
    fn handle_create_permission(
        &mut self,
        request: Message<'_>,
        caller: &Caller,
        now: Moment,
        reply: &mut Reply<'_>,
    ) -> Outcome<()> {
        let slot = caller.slot.ok_or(Refusal::MISMATCH)?;
        let max = self.shared.settings.limits.permissions_max as usize;
        let mut peers = Vec::new();
        for attribute in request.attributes().filter(|attribute| attribute.kind == AttributeType::XOR_PEER_ADDRESS) {
            peers.push(attribute.xor_address(request.transaction_id()).map_err(|_| Refusal::BAD_REQUEST)?);
            if peers.len() > max {
                return Err(Refusal::PERMISSIONS);
            }
        }
        if peers.is_empty() {
            return Err(Refusal::BAD_REQUEST);
        }
        let allocation = self.allocations.get_mut(slot).ok_or(Refusal::MISMATCH)?;
        if peers.iter().any(|peer| allocation.relayed(Family::of(*peer)).is_none()) {
            return Err(Refusal::PEER_FAMILY);
        }
        if !peers.iter().all(|peer| self.shared.may_permit(peer.ip())) {
            return Err(Refusal::FORBIDDEN);
        }
        if !allocation.permissions.has_room_for(&peers, max, now) {
            return Err(Refusal::PERMISSIONS);
        }
        peers.iter().for_each(|peer| allocation.permissions.install(peer.ip(), now));
        allocation.entry.show(allocation, self.worker);
        reply.succeed(Response::CreatePermission, |message| Ok(message));
        Ok(())
    }

    /// RFC 8656 section 12.2.
    fn handle_channel_bind(&mut self, request: Message<'_>, caller: &Caller, now: Moment, reply: &mut Reply<'_>) -> Outcome<()> {
        let slot = caller.slot.ok_or(Refusal::MISMATCH)?;
        let (number, peer) = channel_binding(request).ok_or(Refusal::BAD_REQUEST)?;
        let limits = &self.shared.settings.limits;
        let allocation = self.allocations.get_mut(slot).ok_or(Refusal::MISMATCH)?;
        if allocation.relayed(Family::of(peer)).is_none() {
            return Err(Refusal::PEER_FAMILY);
        }
        if !self.shared.may_reach(peer) {
            return Err(Refusal::FORBIDDEN);
        }
        if !allocation.permissions.has_room_for(&[peer], limits.permissions_max as usize, now) {
            return Err(Refusal::PERMISSIONS);
        }
        allocation.channels.bind(number, peer, limits.channels_max as usize, now).map_err(|refusal| match refusal {
            BindRefusal::Conflict => Refusal::BAD_REQUEST,
            BindRefusal::Full => Refusal::CHANNELS,
        })?;
        allocation.permissions.install(peer.ip(), now);
        allocation.entry.show(allocation, self.worker);
        reply.succeed(Response::ChannelBind, |message| Ok(message));
        Ok(())
    }
}

/// Whose request it is, as checked.
pub(crate) struct Caller {
    key: Key,
    integrity: Integrity,
    /// `None` if it is the owner of the allocation, known by the allocation's key.
    grant: Option<Grant>,
    /// The five-tuple's allocation.
    slot: Option<usize>,
}

/// Who a request says it is from.
struct Claim<'a> {
    identity: Identity<'a>,
    nonce: &'a [u8],
    algorithm: PasswordAlgorithm,
    integrity: Integrity,
}

impl<'a> Claim<'a> {
    fn read(request: Message<'a>) -> Outcome<Self> {
        let [sha256, sha1, name, hash, nonce, realm, offered, chosen] = request.find([
            AttributeType::MESSAGE_INTEGRITY_SHA256,
            AttributeType::MESSAGE_INTEGRITY,
            AttributeType::USERNAME,
            AttributeType::USERHASH,
            AttributeType::NONCE,
            AttributeType::REALM,
            AttributeType::PASSWORD_ALGORITHMS,
            AttributeType::PASSWORD_ALGORITHM,
        ]);
        let integrity = match (sha256, sha1) {
            (Some(_), _) => Integrity::Sha256,
            (None, Some(_)) => Integrity::Sha1,
            (None, None) => return Err(Refusal::UNAUTHENTICATED),
        };
        let name = name.map(|name| name.text().map_err(|_| Refusal::BAD_REQUEST)).transpose()?;
        let hash = hash.map(|hash| hash.value.try_into().map_err(|_| Refusal::BAD_REQUEST));
        let identity = match (name, hash.transpose()?) {
            (Some(name), None) => Identity::Name(name),
            (None, Some(hash)) => Identity::Hash(hash),
            _ => return Err(Refusal::BAD_REQUEST),
        };
        let (Some(nonce), Some(_)) = (nonce, realm) else {
            return Err(Refusal::BAD_REQUEST);
        };
        Ok(Self { identity, nonce: nonce.value, algorithm: password_algorithm(offered, chosen)?, integrity })
    }

    fn is_same_user(&self, username: &str, realm: &str) -> bool {
        match self.identity {
            Identity::Name(name) => name == username,
            Identity::Hash(hash) => *hash == userhash(username, realm),
        }
    }
}

/// The algorithm of the client's key. A list other than ours, or one without the other, means that somebody in between has
/// altered what we offered (RFC 8489 section 9.2.4).
fn password_algorithm(offered: Option<Attribute<'_>>, chosen: Option<Attribute<'_>>) -> Outcome<PasswordAlgorithm> {
    match (offered, chosen) {
        (None, None) => Ok(PasswordAlgorithm::Md5),
        (Some(offered), Some(chosen)) if offered.value == reply::PASSWORD_ALGORITHMS => {
            // Number, then the length of parameters, of which both have none.
            let [high, low, 0, 0] = *chosen.value else { return Err(Refusal::BAD_REQUEST) };
            PasswordAlgorithm::from_number(u16::from_be_bytes([high, low])).ok_or(Refusal::BAD_REQUEST)
        }
        _ => Err(Refusal::BAD_REQUEST),
    }
}

fn channel_binding(request: Message<'_>) -> Option<(u16, SocketAddr)> {
    let number = request.attribute(AttributeType::CHANNEL_NUMBER)?.value;
    let &[high, low, _, _] = number else { return None };
    let number = u16::from_be_bytes([high, low]);
    let peer = request.attribute(AttributeType::XOR_PEER_ADDRESS)?.xor_address(request.transaction_id()).ok()?;
    channel_data::CHANNEL_NUMBERS.contains(&number).then_some((number, peer))
}

fn check_unknown(request: Message<'_>, knows_dont_fragment: bool) -> Outcome<()> {
    let has_unknown = unknown_attributes(request, knows_dont_fragment).next().is_some();
    if has_unknown { Err(Refusal::unknown(knows_dont_fragment)) } else { Ok(()) }
}

fn unknown_attributes(request: Message<'_>, knows_dont_fragment: bool) -> impl Iterator<Item = AttributeType> + Clone {
    request
        .attributes()
        .map(|attribute| attribute.kind)
        .filter(move |kind| {
            let is_known = kind.is_understood() && (knows_dont_fragment || *kind != AttributeType::DONT_FRAGMENT);
            kind.is_comprehension_required() && !is_known
        })
        .take(UNKNOWN_ATTRIBUTES_MAX)
}

fn is_answerable(source: SocketAddr) -> bool {
    let ip = source.ip().to_canonical();
    let is_broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    source.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && !is_broadcast
}
