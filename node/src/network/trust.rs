//! Whose certificates hold: revocation lists that peers exchange, chains that end.

use halloo_protocol::identity::{TrustStore, VerifiedChain};
use halloo_protocol::node::{RevocationNotice, RevocationNumber};
use halloo_protocol::time::UnixTime;
use halloo_protocol::wire::Extensions;
use libp2p::PeerId;
use tracing::debug;

use super::Target;
use crate::event_loop::EventLoop;
use crate::handle::Event;

impl EventLoop {
    pub(super) fn exchange_revocations(&mut self, peer: PeerId, theirs: &[RevocationNumber]) {
        let ours: Vec<_> = self.trust.authorities().copied().collect();
        for authority in ours {
            let known = theirs.iter().find(|number| number.authority == authority).map_or(0, |number| number.number);
            // A peer that doesn't trust the authority has no use for its list.
            if !theirs.iter().any(|number| number.authority == authority) {
                continue;
            }
            let Some(list) = self.trust.revocation_list(&authority) else { continue };
            let number = list.list.unverified().number;
            if number <= known || !self.peers.get_mut(&peer).is_some_and(|entry| entry.is_news(authority, number)) {
                continue;
            }
            let notice = RevocationNotice { list: list.clone(), extensions: Extensions::none() };
            self.notify(&Target::connected(peer), &notice);
        }
    }

    /// Takes over a revocation list from anywhere and, if it was news, passes it on to everybody connected.
    pub(crate) fn handle_revocation_list(
        &mut self,
        list: &halloo_protocol::identity::SignedRevocationList,
        from: Option<PeerId>,
    ) {
        let authority = list.list.unverified().authority;
        match self.trust.apply_revocations(list) {
            Ok(false) => return,
            Err(error) => {
                debug!(?from, %error, "revocation list refused");
                self.counters.malformed += 1;
                return;
            }
            Ok(true) => {}
        }
        self.store_revocation_list(list);
        let number = list.list.unverified().number;
        self.events.send(Event::RevocationList { authority: self.labels.label_of(&authority), number });
        let notice = RevocationNotice { list: list.clone(), extensions: Extensions::none() };
        let others: Vec<PeerId> = self.peers.connected.keys().filter(|peer| Some(**peer) != from).copied().collect();
        for peer in others {
            self.notify(&Target::connected(peer), &notice);
        }
        self.trust_changed();
        self.refresh_hello();
    }

    /// Re-judges every connected peer after a revocation: what was believed may be believed no longer.
    fn trust_changed(&mut self) {
        let now = self.now();
        let _still_connected = self.disbelieve("revoked by its authority", |chain, trust| trust.is_revoked(&chain.user));
        self.directory.machine.handle_trust_changed(now, &self.trust);
    }

    /// Believes no certificate longer than it lasts, also of peers that stay connected.
    pub(crate) fn expire_chains(&mut self, now: UnixTime) {
        let _still_connected = self.disbelieve("its certificate has ended", |chain, _| now > chain.not_after);
    }

    /// Believes some peers no more; tells which.
    pub(crate) fn disbelieve(&mut self, why: &str, is_over: impl Fn(&VerifiedChain, &TrustStore) -> bool) -> Vec<PeerId> {
        let over: Vec<PeerId> = self
            .peers
            .connected
            .iter()
            .filter(|(_, peer)| peer.chain.as_ref().is_some_and(|chain| is_over(chain, &self.trust)))
            .map(|(peer, _)| *peer)
            .collect();
        for peer in over.iter().copied() {
            if let Some(known) = self.peers.connected.get_mut(&peer) {
                known.chain = None;
                known.chain_error = Some(why.to_owned());
                known.descriptor = None;
            }
            self.account_circuits(peer);
            self.directory_revoked(peer);
        }
        over
    }
}
