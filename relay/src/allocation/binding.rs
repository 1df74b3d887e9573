//! Channels and permissions of one allocation: flat arrays that are searched from the front.
//!
//! A call has a handful of each, so a search reads one or two cache lines; the limits keep the worst case at some dozens.
//! What has run out is overlooked, and removed when room is needed.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::directory::Entry;
use crate::packet::ClientPath;
use crate::time::Moment;

/// A permission's life (RFC 8656 section 9).
pub(crate) const PERMISSION_LIFETIME: Duration = Duration::from_secs(300);

/// A channel's life (RFC 8656 section 12).
pub(crate) const CHANNEL_LIFETIME: Duration = Duration::from_secs(600);

/// One channel: a number for a peer's address.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) peer: SocketAddr,
    pub(crate) expires: Moment,
    pub(crate) route: Route,
}

/// Where a channel's packets go, found out once.
#[derive(Debug)]
pub(crate) enum Route {
    /// Not looked up yet, or the other end has changed.
    Unknown,
    /// Out of the relayed socket.
    Outside,
    /// To another client of this relay, without a detour through the relayed sockets.
    Inside(Inside),
}

/// The way to another client of this relay, as it was when the other end's entry had this version.
#[derive(Debug)]
pub(crate) struct Inside {
    pub(crate) target: Arc<Entry>,
    pub(crate) version: u32,
    pub(crate) client: ClientPath,
    /// The channel the other end has bound to this one's relayed address.
    pub(crate) number: Option<u16>,
    /// When the permission, the channel or the allocation at the other end runs out.
    pub(crate) good_until: Moment,
}

/// An allocation's channels.
#[derive(Debug, Default)]
pub(crate) struct Channels {
    /// Numbers apart from the rest: a search compares neighbouring numbers.
    numbers: Vec<u16>,
    channels: Vec<Channel>,
}

/// Why a channel can't be bound (RFC 8656 section 12.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BindRefusal {
    /// The number or the address is part of another binding.
    Conflict,
    /// No more channels for this allocation.
    Full,
}

impl Channels {
    /// The channel with this number, if it is alive.
    #[inline]
    pub(crate) fn get_mut(&mut self, number: u16, now: Moment) -> Option<&mut Channel> {
        let index = self.numbers.iter().position(|known| *known == number)?;
        let channel = self.channels.get_mut(index)?;
        (now < channel.expires).then_some(channel)
    }

    /// Number and end of the channel bound to this peer, if it is alive.
    #[inline]
    pub(crate) fn number_of(&self, peer: SocketAddr, now: Moment) -> Option<u16> {
        let index = self.channels.iter().position(|channel| channel.peer == peer)?;
        (now < self.channels[index].expires).then(|| self.numbers[index])
    }

    /// Binds, or prolongs the same binding.
    pub(crate) fn bind(&mut self, number: u16, peer: SocketAddr, max: usize, now: Moment) -> Result<(), BindRefusal> {
        self.forget_expired(now);
        let expires = now.after(CHANNEL_LIFETIME);
        let by_number = self.numbers.iter().position(|known| *known == number);
        let by_peer = self.channels.iter().position(|channel| channel.peer == peer);
        match (by_number, by_peer) {
            (Some(one), Some(other)) if one == other => self.channels[one].expires = expires,
            (None, None) if self.channels.len() >= max => return Err(BindRefusal::Full),
            (None, None) => {
                self.numbers.push(number);
                self.channels.push(Channel { peer, expires, route: Route::Unknown });
            }
            _ => return Err(BindRefusal::Conflict),
        }
        Ok(())
    }

    fn forget_expired(&mut self, now: Moment) {
        let mut index = 0;
        while index < self.channels.len() {
            if self.channels[index].expires <= now {
                self.channels.swap_remove(index);
                self.numbers.swap_remove(index);
            } else {
                index += 1;
            }
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u16, &Channel)> {
        self.numbers.iter().copied().zip(&self.channels)
    }
}

/// An allocation's permissions: addresses whose packets reach the client.
#[derive(Debug, Default)]
pub(crate) struct Permissions {
    list: Vec<(IpAddr, Moment)>,
}

impl Permissions {
    /// Whether packets of this address reach the client.
    #[inline]
    pub(crate) fn allow(&self, ip: IpAddr, now: Moment) -> bool {
        self.until(ip).is_some_and(|expires| now < expires)
    }

    /// When the permission for this address runs out.
    pub(crate) fn until(&self, ip: IpAddr) -> Option<Moment> {
        self.list.iter().find(|(permitted, _)| *permitted == ip).map(|(_, expires)| *expires)
    }

    /// Whether all of these could be installed: at most `max` in all.
    pub(crate) fn has_room_for(&mut self, peers: &[SocketAddr], max: usize, now: Moment) -> bool {
        self.list.retain(|(_, expires)| now < *expires);
        let new = peers.iter().enumerate().filter(|(index, peer)| {
            self.until(peer.ip()).is_none() && !peers[..*index].iter().any(|earlier| earlier.ip() == peer.ip())
        });
        self.list.len() + new.count() <= max
    }

    /// Installs or prolongs. Room was asked for before.
    pub(crate) fn install(&mut self, ip: IpAddr, now: Moment) {
        let expires = now.after(PERMISSION_LIFETIME);
        match self.list.iter_mut().find(|(permitted, _)| *permitted == ip) {
            Some(permission) => permission.1 = expires,
            None => self.list.push((ip, expires)),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (IpAddr, Moment)> {
        self.list.iter().copied()
    }
}
