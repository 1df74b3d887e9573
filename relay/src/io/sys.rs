//! The system calls. All of the crate's `unsafe` is here.
#![allow(unsafe_code, reason = "recvmmsg and sendmmsg with control data for each message have no safe interface")]

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use super::CALL_MESSAGES_MAX;
use super::raw_address::{RAW_ADDRESS_BYTES, RawAddress};

/// Bytes of control data for one message: one `int` for UDP_GRO, one `u16` for UDP_SEGMENT, each with its header and padding.
const CONTROL_BYTES: usize = 32;

/// Control data, aligned as `struct cmsghdr` has to be.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL_BYTES]);

// SAFETY: it only computes.
const _: () = assert!(unsafe { libc::CMSG_SPACE(size_of::<i32>() as u32) } as usize <= CONTROL_BYTES);

/// What `recvmmsg` said about one message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Received {
    pub(super) source: RawAddress,
    pub(super) bytes: usize,
    /// Bytes of each datagram in it but the last, if the kernel kept several together; else 0.
    pub(super) segment_bytes: usize,
    /// The slot was too short.
    pub(super) is_cut: bool,
}

/// Memory for one call's headers, of either direction. Pointers in it are only valid during a call; each call writes them anew.
pub(super) struct Headers {
    messages: Box<[libc::mmsghdr]>,
    iovecs: Vec<libc::iovec>,
    names: Box<[RawAddress]>,
    controls: Box<[Control]>,
}

// SAFETY: the pointers that keep it from being `Send` by itself are never followed outside of `receive` and `send`, which write
// them first, and the memory they point to then is borrowed for the call.
unsafe impl Send for Headers {}

impl std::fmt::Debug for Headers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Headers").field("messages", &self.messages.len()).finish_non_exhaustive()
    }
}

/// Which memory a [`Piece`] lies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// The ring that datagrams were received in.
    Ring,
    /// The batch's own memory of new headers.
    Head,
}

/// Bytes of a message to send.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    pub(super) place: Place,
    pub(super) start: u32,
    pub(super) bytes: u32,
}

/// One message to send: some pieces for one destination.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outgoing {
    pub(super) destination: RawAddress,
    pub(super) destination_bytes: u32,
    /// How many of the pieces given beside it are its own, after those of the messages before it.
    pub(super) pieces: usize,
    /// The kernel cuts the bytes into datagrams of this length; 0: they are one datagram.
    pub(super) segment_bytes: u16,
}

impl Headers {
    pub(super) fn new() -> Self {
        // SAFETY: all-zero is a valid `mmsghdr`: null pointers with lengths of zero.
        let message: libc::mmsghdr = unsafe { zeroed() };
        Self {
            messages: vec![message; CALL_MESSAGES_MAX].into(),
            iovecs: Vec::with_capacity(16 * CALL_MESSAGES_MAX),
            names: vec![RawAddress::EMPTY; CALL_MESSAGES_MAX].into(),
            controls: vec![Control([0; CONTROL_BYTES]); CALL_MESSAGES_MAX].into(),
        }
    }

    /// Receives as many messages as there are `near` slots, without waiting; [`CALL_MESSAGES_MAX`] at most. What doesn't fit a near slot goes on in `far_bytes` of the
    /// memory `far`, each message's from a start of its own: where these overlap, so do the messages.
    ///
    /// # Panics
    /// If there are fewer starts than slots, or what starts there doesn't end within `far`.
    pub(super) fn receive<'m>(
        &mut self,
        socket: BorrowedFd<'_>,
        near: impl Iterator<Item = &'m mut [u8]>,
        far: &mut [u8],
        mut far_starts: impl Iterator<Item = usize>,
        far_bytes: usize,
    ) -> io::Result<usize> {
        self.iovecs.clear();
        let far_memory = far.as_mut_ptr();
        for slot in near.take(CALL_MESSAGES_MAX) {
            self.iovecs.push(libc::iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: slot.len() });
            let start = far_starts.next().filter(|start| start.checked_add(far_bytes).is_some_and(|end| end <= far.len()));
            let start = start.expect("each near slot has a far one");
            self.iovecs.push(libc::iovec { iov_base: far_memory.wrapping_add(start).cast(), iov_len: far_bytes });
        }
        let count = self.iovecs.len() / 2;
        // One pointer to each array, so that writing one element doesn't disturb the pointers to others.
        let (names, controls, iovecs) = (self.names.as_mut_ptr(), self.controls.as_mut_ptr(), self.iovecs.as_mut_ptr());
        for (index, message) in self.messages.iter_mut().take(count).enumerate() {
            // All of it, as the kernel writes lengths and flags back.
            message.msg_len = 0;
            message.msg_hdr.msg_name = names.wrapping_add(index).cast();
            message.msg_hdr.msg_namelen = RAW_ADDRESS_BYTES as u32;
            message.msg_hdr.msg_iov = iovecs.wrapping_add(2 * index);
            message.msg_hdr.msg_iovlen = 2;
            message.msg_hdr.msg_control = controls.wrapping_add(index).cast();
            message.msg_hdr.msg_controllen = CONTROL_BYTES as _;
            message.msg_hdr.msg_flags = 0;
        }
        // SAFETY: `messages` has at least `count` headers. Each points to a name, two iovecs and control data of its own, with their true lengths,
        // in boxes and a vector that aren't touched before the call returns; of the iovecs one points to a slot of `near`, the other into `far`,
        // both exclusively borrowed until after the call.
        let received = unsafe {
            libc::recvmmsg(socket.as_raw_fd(), self.messages.as_mut_ptr(), count as _, libc::MSG_DONTWAIT as _, ptr::null_mut())
        };
        usize::try_from(received).map_err(|_| io::Error::last_os_error())
    }

    /// What the last [`receive`](Self::receive) said about message `index`, which has to be one of those it counted.
    pub(super) fn received(&self, index: usize) -> Received {
        let message = &self.messages[index];
        Received {
            source: self.names[index],
            bytes: message.msg_len as usize,
            segment_bytes: gro_segment_bytes(&self.controls[index], message.msg_hdr.msg_controllen as _),
            is_cut: message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
        }
    }

    /// Sends messages without waiting, [`CALL_MESSAGES_MAX`] at most. Says how many were taken; an error is about the first.
    ///
    /// # Panics
    /// If a piece isn't within its memory, or there are fewer pieces than the messages want.
    pub(super) fn send(
        &mut self,
        socket: BorrowedFd<'_>,
        (ring, heads): (&[u8], &[u8]),
        outgoing: &[Outgoing],
        pieces: &[Piece],
    ) -> io::Result<usize> {
        let outgoing = &outgoing[..outgoing.len().min(CALL_MESSAGES_MAX)];
        self.iovecs.clear();
        for piece in pieces {
            let memory = if piece.place == Place::Ring { ring } else { heads };
            let bytes = &memory[piece.start as usize..][..piece.bytes as usize];
            self.iovecs.push(libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() });
        }
        assert!(outgoing.iter().map(|out| out.pieces).sum::<usize>() <= self.iovecs.len(), "a message without its pieces");
        for (index, out) in outgoing.iter().enumerate() {
            self.names[index] = out.destination;
            self.controls[index] = gso_control(out.segment_bytes);
        }
        let (names, controls, iovecs) = (self.names.as_mut_ptr(), self.controls.as_mut_ptr(), self.iovecs.as_mut_ptr());
        let mut piece = 0;
        for (index, out) in outgoing.iter().enumerate() {
            let header = &mut self.messages[index].msg_hdr;
            header.msg_name = names.wrapping_add(index).cast();
            header.msg_namelen = out.destination_bytes;
            header.msg_iov = iovecs.wrapping_add(piece);
            header.msg_iovlen = out.pieces as _;
            piece += out.pieces;
            header.msg_flags = 0;
            if out.segment_bytes == 0 {
                header.msg_control = ptr::null_mut();
                header.msg_controllen = 0;
            } else {
                header.msg_control = controls.wrapping_add(index).cast();
                header.msg_controllen = GSO_CONTROL_BYTES as _;
            }
        }
        // SAFETY: each of the first `outgoing.len()` headers, no more than there are, was just pointed to a name, iovecs and control data
        // of its own with their true lengths; the iovecs point into `ring` and `heads`, borrowed until after the call. The kernel only reads them.
        let sent = unsafe {
            if let [_] = outgoing {
                // Alone, the plain call is cheaper.
                let sent = libc::sendmsg(socket.as_raw_fd(), &raw const self.messages[0].msg_hdr, libc::MSG_DONTWAIT);
                if sent < 0 { -1 } else { 1 }
            } else {
                libc::sendmmsg(socket.as_raw_fd(), self.messages.as_mut_ptr(), outgoing.len() as _, libc::MSG_DONTWAIT as _)
            }
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}

/// Length of a control message's header, as CMSG_DATA skips it.
const CONTROL_HEADER_BYTES: usize = size_of::<libc::cmsghdr>();

/// `CMSG_SPACE` of a `u16`.
// SAFETY: it only computes.
const GSO_CONTROL_BYTES: usize = unsafe { libc::CMSG_SPACE(size_of::<u16>() as u32) } as usize;

/// One UDP_SEGMENT control message.
fn gso_control(segment_bytes: u16) -> Control {
    let mut control = Control([0; CONTROL_BYTES]);
    let length = CONTROL_HEADER_BYTES + size_of::<u16>();
    let (level_at, kind_at) = (size_of::<usize>(), size_of::<usize>() + size_of::<i32>());
    control.0[..level_at].copy_from_slice(&length.to_ne_bytes());
    control.0[level_at..kind_at].copy_from_slice(&libc::SOL_UDP.to_ne_bytes());
    control.0[kind_at..CONTROL_HEADER_BYTES].copy_from_slice(&libc::UDP_SEGMENT.to_ne_bytes());
    control.0[CONTROL_HEADER_BYTES..length].copy_from_slice(&segment_bytes.to_ne_bytes());
    control
}

// `struct cmsghdr` is a `size_t` and two `int`s: what the functions around this rely on.
#[cfg(target_pointer_width = "64")]
const _: () = assert!(CONTROL_HEADER_BYTES == 16);
#[cfg(target_pointer_width = "32")]
const _: () = assert!(CONTROL_HEADER_BYTES == 12);

/// Reads the UDP_GRO control message, if there is one: it is the only kind we asked for.
fn gro_segment_bytes(control: &Control, length: usize) -> usize {
    let number = |at: usize| -> i32 {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&control.0[at..at + 4]);
        i32::from_ne_bytes(bytes)
    };
    let level_at = size_of::<usize>();
    if length < CONTROL_HEADER_BYTES + 4 || number(level_at) != libc::SOL_UDP || number(level_at + 4) != libc::UDP_GRO {
        return 0;
    }
    usize::try_from(number(CONTROL_HEADER_BYTES)).unwrap_or(0)
}

/// Bytes of a page, or less: what isn't whole pages is left alone.
const PAGE_BYTES: usize = 4_096;

/// Gives memory back to the system. It reads as zeros afterwards, and costs nothing until it is written to.
pub(super) fn release(memory: &mut [u8]) {
    let start = memory.as_ptr().align_offset(PAGE_BYTES).min(memory.len());
    let bytes = (memory.len() - start) / PAGE_BYTES * PAGE_BYTES;
    let whole_pages = &mut memory[start..start + bytes];
    // SAFETY: the pages are exclusively borrowed and hold plain bytes, for which zeros are as good as any. A failure, as where pages are
    // larger and these aren't whole ones, leaves everything as it was.
    unsafe { libc::madvise(whole_pages.as_mut_ptr().cast(), whole_pages.len(), libc::MADV_DONTNEED) };
}

/// A socket that can't send trains, for tests.
#[cfg(test)]
pub(super) fn without_checksums(socket: BorrowedFd<'_>) -> io::Result<()> {
    let on: i32 = 1;
    // SAFETY: as in `set_udp_gro`.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NO_CHECK,
            ptr::from_ref(&on).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Has the kernel keep trains of datagrams together (Linux 5.0).
pub(super) fn set_udp_gro(socket: BorrowedFd<'_>) -> io::Result<()> {
    let on: i32 = 1;
    // SAFETY: the value is an `int` that outlives the call, and its length is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_GRO,
            ptr::from_ref(&on).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
