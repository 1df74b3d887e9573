//! Associations of a device that has the login of an account and not the identity key: another own device signs them.

use std::time::{Duration, Instant};

use halloo_protocol::key::DeviceKey;
use halloo_protocol::linked::{
    Association, AssociationParams, IdentityMerge, LeaveScope, LinkedAsk, LinkedId, LinkedLeave, LinkedQuestion, LinkedReply,
    ProofMethod,
};
use halloo_protocol::time::UnixTime;
use halloo_protocol::wire::{Extensions, Signed};
use tracing::{debug, warn};

use super::asking::OwnAsk;
use crate::address;
use crate::event_loop::EventLoop;
use crate::network::{Purpose, Target};

/// How long the device with the identity key has: it may have to be dialled.
const SIGN_AT_MOST: Duration = Duration::from_secs(10);

/// How soon it is asked after it was met: it is known from then on.
const SIGN_SOON: Duration = Duration::from_millis(100);

/// When it is asked again that wasn't there.
const SIGN_AGAIN: Duration = Duration::from_secs(60);

// The device with the login.
impl EventLoop {
    /// An own device that has the identity key and can be asked; a connected one first.
    pub(super) fn signer_target(&self) -> Option<Target> {
        let (user, identity, now) = (self.identity.user_id(), self.identity.identity(), self.now().unix);
        let is_there = |device: &DeviceKey| !self.trust.is_device_removed(&identity, device, now);
        let devices: Vec<DeviceKey> = self.devices.with_identity_key().filter(is_there).collect();
        let peers = devices.iter().filter_map(address::peer_id);
        let connected = peers.filter(|peer| self.is_own_peer(peer)).map(Target::connected).next();
        connected.or_else(|| devices.iter().find_map(|device| self.cached_target(&user, device)))
    }

    /// Has another own device sign what this user says of an account.
    pub(super) fn ask_to_sign(&mut self, account: &LinkedId, last_serial: u64, is_revoked: bool) {
        let ask = OwnAsk::Sign { account: account.clone(), is_revoked };
        let Some(target) = self.signer_target() else { return self.asked_in_vain(ask) };
        let question = LinkedQuestion::Sign { last_serial, is_revoked, merge: self.linked.own_merge.clone().map(Box::new) };
        let message = LinkedAsk { account: account.clone(), question, extensions: Extensions::none() };
        self.request(&target, &message, Purpose::LinkedAsk(Box::new(ask)), SIGN_AT_MOST);
    }

    /// An own device that has the identity key is there: what waits for it is asked at once.
    pub(crate) fn linked_signer_met(&mut self) {
        let now = Instant::now();
        let waiting = self.linked.accounts.values_mut().filter_map(|account| account.show_again_at.as_mut());
        waiting.for_each(|at| *at = now + SIGN_SOON);
    }

    pub(super) fn signed_elsewhere(
        &mut self,
        account: &LinkedId,
        is_revoked: bool,
        association: Signed<Association>,
        leave: Option<LinkedLeave>,
    ) {
        let own = (self.identity.user_id(), self.identity.identity());
        let is_it = Association::verify_signature(&association).is_ok_and(|said| {
            (&said.user, said.identity) == (&own.0, own.1) && said.linked == *account && said.is_revoked == is_revoked
        });
        if !is_it {
            warn!(%account, "an own device has signed something else");
            return self.not_signed(account, is_revoked);
        }
        if let Some(here) = self.linked.accounts.get_mut(account) {
            here.leave = leave;
            self.put_at_place(account, association);
        }
    }

    pub(super) fn not_signed(&mut self, account: &LinkedId, is_revoked: bool) {
        let Some(here) = self.linked.accounts.get_mut(account) else { return };
        let asked = here.asked.take();
        match asked {
            asked if is_revoked => self.account_unlinked(account, asked, false),
            Some(asked) => {
                let reason = "no own device that has the identity key can be asked to sign for it".to_owned();
                self.account_failed(account, asked, reason);
            }
            None => {
                debug!(%account, "the association isn't said anew: no device with the identity key is there");
                here.show_again_at = Some(Instant::now() + SIGN_AGAIN);
            }
        }
    }

    /// Whether what stands beside an association that is said already can be shown without the identity key.
    pub(super) fn has_leave_for(&self, account: &LinkedId) -> bool {
        let epoch = self.contacts.presence_secret().linked_key().epoch;
        let leave = self.linked.accounts.get(account).and_then(|account| account.leave.as_ref());
        self.identity.has_identity_key() || leave.is_some_and(|leave| leave.key.epoch == epoch)
    }
}

// The device with the identity key.
impl EventLoop {
    pub(super) fn sign_for(
        &self,
        account: LinkedId,
        last_serial: u64,
        is_revoked: bool,
        merge: Option<Signed<IdentityMerge>>,
    ) -> LinkedReply {
        let (user, now) = (self.identity.user_id(), self.now().unix);
        // After a serial from far ahead nothing could take the association back.
        if UnixTime(last_serial).is_from_the_future(now) {
            return LinkedReply::Unable;
        }
        let is_ours = |merge: &Signed<IdentityMerge>| IdentityMerge::verify(merge).is_ok_and(|merge| merge.user == user);
        let merge = merge.filter(is_ours);
        let params = AssociationParams { user, linked: account, method: ProofMethod::OWN_ITEM, last_serial, now };
        match self.identity.associate(params, merge.as_ref(), is_revoked) {
            Ok(association) => {
                let leave = if is_revoked { None } else { self.leave_to_give() };
                LinkedReply::Signed { association: Box::new(association), leave: leave.map(Box::new) }
            }
            Err(_) => LinkedReply::Unable,
        }
    }

    /// What contacts in linked systems are given leave for at present.
    fn leave_to_give(&self) -> Option<LinkedLeave> {
        let scope: LeaveScope = super::leave::scope_of(self.privacy_settings());
        let key = self.contacts.presence_secret().linked_key();
        if scope.is_empty() { None } else { self.identity.linked_leave(key, scope, self.now().unix) }
    }
}
