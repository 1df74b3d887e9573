//! Questions and answers over overlay streams: pairing, deadlines, and the frames that wait for a connection.
//!
//! Holds no socket. The event loop asks for a request to be sent; if there is no connection it waits here while the peer is dialled. Every
//! request ends exactly once: by its answer, or by a [`Failure`].

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use halloo_protocol::wire::Frame;
use libp2p::PeerId;

use crate::room::give_back;

/// Requests that may be under way; more are refused at once, so that a stuck network can't eat memory.
const PENDING_MAX: usize = 8_192;

/// Frames that may wait for one peer's connection.
const WAITING_PER_PEER_MAX: usize = 64;

/// How long a request to a peer that must be dialled first may take, and the longest any may.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a request got no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    /// No answer in time.
    #[error("no answer in time")]
    Timeout,
    /// None of the peer's addresses could be connected.
    #[error("not reachable")]
    Unreachable,
    /// The connection went away.
    #[error("connection lost")]
    Disconnected,
    /// The peer doesn't know this kind of request.
    #[error("not supported by the peer")]
    Unsupported,
    /// The peer refuses because we ask too much.
    #[error("peer is busy")]
    Busy,
    /// Too much is under way here.
    #[error("too many requests under way")]
    Overloaded,
}

#[derive(Debug)]
struct Pending<P> {
    purpose: P,
    deadline: Instant,
    sent_at: Instant,
}

/// A request that got no answer in time.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Expired<P> {
    pub(crate) purpose: P,
    pub(crate) peer: PeerId,
    pub(crate) asked_at: Instant,
}

/// Requests under way. `P` says what each was for.
#[derive(Debug)]
pub(crate) struct Rpc<P> {
    next_id: u32,
    pending: HashMap<(PeerId, u32), Pending<P>>,
    deadlines: BTreeSet<(Instant, PeerId, u32)>,
    waiting: HashMap<PeerId, Vec<Frame>>,
}

impl<P> Rpc<P> {
    pub(crate) fn new() -> Self {
        Self { next_id: 1, pending: HashMap::new(), deadlines: BTreeSet::new(), waiting: HashMap::new() }
    }

    /// Registers a request; the returned id goes into its frame.
    pub(crate) fn register(&mut self, peer: PeerId, purpose: P, timeout: Duration, now: Instant) -> Result<u32, P> {
        if self.pending.len() >= PENDING_MAX {
            return Err(purpose);
        }
        let id = self.next_id;
        self.next_id = self.next_id.checked_add(1).unwrap_or(1);
        let deadline = now + timeout;
        self.pending.insert((peer, id), Pending { purpose, deadline, sent_at: now });
        self.deadlines.insert((deadline, peer, id));
        Ok(id)
    }

    /// Takes the request an answer belongs to, with the time it took. `None` for an answer nobody waits for.
    pub(crate) fn take(&mut self, peer: PeerId, id: u32, now: Instant) -> Option<(P, Duration)> {
        let pending = self.pending.remove(&(peer, id))?;
        give_back(&mut self.pending);
        self.deadlines.remove(&(pending.deadline, peer, id));
        Some((pending.purpose, now.saturating_duration_since(pending.sent_at)))
    }

    /// Keeps a frame until the peer is connected. Gives it back when too many wait.
    pub(crate) fn wait_for_connection(&mut self, peer: PeerId, frame: Frame) -> Result<(), Frame> {
        let queue = self.waiting.entry(peer).or_default();
        if queue.len() >= WAITING_PER_PEER_MAX {
            return Err(frame);
        }
        queue.push(frame);
        Ok(())
    }

    /// Whether frames wait for a connection to the peer.
    pub(crate) fn is_waiting(&self, peer: &PeerId) -> bool {
        self.waiting.get(peer).is_some_and(|queue| !queue.is_empty())
    }

    /// The frames that waited for this connection.
    pub(crate) fn connected(&mut self, peer: &PeerId) -> Vec<Frame> {
        self.waiting.remove(peer).unwrap_or_default()
    }

    /// Ends all requests to a peer that can't be reached or is gone.
    pub(crate) fn disconnected(&mut self, peer: &PeerId) -> Vec<P> {
        self.waiting.remove(peer);
        let ids: Vec<(PeerId, u32)> = self.pending.keys().filter(|(other, _)| other == peer).copied().collect();
        let ended = ids.into_iter().filter_map(|key| {
            let pending = self.pending.remove(&key)?;
            self.deadlines.remove(&(pending.deadline, key.0, key.1));
            Some(pending.purpose)
        });
        let ended = ended.collect();
        give_back(&mut self.pending);
        ended
    }

    /// When the next request runs out of time.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, ..)| *deadline)
    }

    /// A request whose time is over.
    pub(crate) fn poll_expired(&mut self, now: Instant) -> Option<Expired<P>> {
        let (deadline, peer, id) = *self.deadlines.first()?;
        if deadline > now {
            return None;
        }
        self.deadlines.remove(&(deadline, peer, id));
        if let Some(queue) = self.waiting.get_mut(&peer) {
            queue.retain(|frame| frame.id != id);
        }
        let pending = self.pending.remove(&(peer, id))?;
        give_back(&mut self.pending);
        Some(Expired { purpose: pending.purpose, peer, asked_at: pending.sent_at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use halloo_protocol::wire::FrameKind;

    #[test]
    fn each_request_ends_exactly_once() {
        let mut rpc = Rpc::new();
        let (peer, other) = (PeerId::random(), PeerId::random());
        let now = Instant::now();
        let answered = rpc.register(peer, "answered", Duration::from_secs(1), now).expect("room");
        let expired = rpc.register(peer, "expired", Duration::from_secs(1), now).expect("room");
        rpc.register(peer, "lost", Duration::from_secs(9), now).expect("room");
        assert!(rpc.take(other, answered, now).is_none(), "only the asked peer can answer");
        assert_eq!(rpc.take(peer, answered, now).map(|(purpose, _)| purpose), Some("answered"));
        assert!(rpc.take(peer, answered, now).is_none());
        assert_eq!(rpc.poll_expired(now), None);
        let over = rpc.poll_expired(now + Duration::from_secs(2));
        assert_eq!(over, Some(Expired { purpose: "expired", peer, asked_at: now }));
        assert!(rpc.take(peer, expired, now).is_none());
        assert_eq!(rpc.disconnected(&peer), vec!["lost"]);
        assert_eq!(rpc.next_deadline(), None);
    }

    #[test]
    fn frames_wait_for_a_connection_up_to_a_bound() {
        let mut rpc = Rpc::<()>::new();
        let peer = PeerId::random();
        let frame = |id| Frame { kind: FrameKind(0x10), id, body: vec![] };
        for id in 0..WAITING_PER_PEER_MAX as u32 {
            assert!(rpc.wait_for_connection(peer, frame(id)).is_ok());
        }
        assert!(rpc.wait_for_connection(peer, frame(9_999)).is_err());
        assert_eq!(rpc.connected(&peer).len(), WAITING_PER_PEER_MAX);
        assert!(rpc.connected(&peer).is_empty());
    }
}
