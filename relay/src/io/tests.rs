use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

fn socket(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    prepare(&socket).unwrap();
    socket
}

fn loopbacks() -> impl Iterator<Item = &'static str> {
    // A machine may be without IPv6.
    ["127.0.0.1:0", "[::1]:0"].into_iter().filter(|address| UdpSocket::bind(address).is_ok())
}

/// Everything that arrives until there are `datagrams`, in order.
fn receive(socket: &UdpSocket, datagrams: usize) -> Vec<(SocketAddr, Vec<u8>)> {
    let (mut ring, mut all) = (ReceiveRing::new(8), Vec::new());
    let begun = Instant::now();
    while all.len() < datagrams {
        ring.clear();
        match ring.receive(socket, usize::MAX) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && begun.elapsed() < PATIENCE => std::thread::yield_now(),
            Err(error) => panic!("{error} after {} datagrams", all.len()),
        }
        for message in ring.messages() {
            assert_eq!(message.datagrams().count(), message.datagrams_len());
            all.extend(message.datagrams().map(|range| (message.source, ring.bytes()[range].to_vec())));
        }
    }
    all
}

fn flush(batch: &mut SendBatch, ring: &[u8], socket: &UdpSocket) -> SendTotals {
    let mut totals = SendTotals::default();
    batch.flush(ring, |_| Some(socket.as_fd()), &mut totals);
    totals
}

#[test]
fn datagrams_of_many_lengths_arrive_as_they_were_and_in_order() {
    for address in loopbacks() {
        let (from, to) = (socket(address), socket(address));
        let memory: Vec<u8> = (0..60_000_u32).map(|n| n as u8).collect();
        let lengths = [160, 160, 160, 12, 160, 0, 160, 160, 161, 160, 1_200, 1_200, 1_200, 7, 0, 0, 20_000];
        let mut batch = SendBatch::new(64);
        let mut start = 0;
        let mut expected = Vec::new();
        for length in lengths {
            assert!(batch.push(0, to.local_addr().unwrap(), b"", start..start + length));
            expected.push(memory[start..start + length].to_vec());
            start += length;
        }
        let totals = flush(&mut batch, &memory, &from);
        assert_eq!((totals.datagrams, totals.bytes), (lengths.len() as u64, start as u64), "{totals:?}");
        assert!(totals.calls < lengths.len() as u64, "{totals:?}");
        let received = receive(&to, lengths.len());
        assert!(received.iter().all(|(source, _)| *source == from.local_addr().unwrap()));
        assert_eq!(received.into_iter().map(|(_, bytes)| bytes).collect::<Vec<_>>(), expected);
        assert!(batch.is_empty());
    }
}

#[test]
fn a_train_stays_together_and_new_heads_go_before_each_datagram() {
    let (from, middle, to) = (socket("127.0.0.1:0"), socket("127.0.0.1:0"), socket("127.0.0.1:0"));
    let memory: Vec<u8> = (0..10 * 1_200_u32).map(|n| (n / 1_200) as u8).collect();
    let mut batch = SendBatch::new(64);
    for n in 0..10 {
        assert!(batch.push(0, middle.local_addr().unwrap(), b"", n * 1_200..(n + 1) * 1_200));
    }
    assert_eq!(flush(&mut batch, &memory, &from).calls, 1);
    let mut ring = ReceiveRing::new(8);
    let begun = Instant::now();
    while ring.receive(&middle, usize::MAX).is_err() {
        assert!(begun.elapsed() < PATIENCE);
        std::thread::yield_now();
    }
    assert_eq!(ring.messages().len(), 1, "the train came in pieces");
    assert_eq!(ring.messages()[0].datagrams_len(), 10);
    let ranges: Vec<_> = ring.messages()[0].datagrams().collect();
    for (n, range) in ranges.into_iter().enumerate() {
        assert!(batch.push(0, to.local_addr().unwrap(), &[0xAA, n as u8], range.start + 2..range.end));
    }
    assert_eq!(
        flush(&mut batch, ring.bytes(), &middle),
        SendTotals { datagrams: 10, bytes: 12_000, calls: 1, full: 0, refused: 0 }
    );
    for (n, (_, bytes)) in receive(&to, 10).into_iter().enumerate() {
        assert_eq!(bytes[..3], [0xAA, n as u8, n as u8]);
        assert_eq!(bytes.len(), 1_200);
    }
}

#[test]
fn trains_longer_than_a_near_slot_and_long_datagrams_come_whole() {
    let (from, to) = (socket("127.0.0.1:0"), socket("127.0.0.1:0"));
    let memory: Vec<u8> = (0..64_000_u32).map(|n| (n % 251) as u8).collect();
    // Length of a datagram, how many of them.
    for (length, count) in [(1_200, 10), (1_984, 3), (992, 20), (1_985, 1), (60_000, 1), (700, 64), (1, 64), (1_983, 2)] {
        let mut batch = SendBatch::new(64);
        for n in 0..count {
            assert!(batch.push(0, to.local_addr().unwrap(), b"", n * length..(n + 1) * length));
        }
        assert_eq!(flush(&mut batch, &memory, &from).datagrams, count as u64);
        let received = receive(&to, count);
        for (n, (_, bytes)) in received.iter().enumerate() {
            assert_eq!(bytes[..], memory[n * length..(n + 1) * length], "datagram {n} of {count} with {length} bytes");
        }
    }
}

#[test]
fn many_trains_at_once_fill_the_far_slots_and_the_rest_waits() {
    let (from, to) = (socket("127.0.0.1:0"), bind_shared("127.0.0.1:0".parse().unwrap()).unwrap());
    let memory: Vec<u8> = (0..100 * 2_400_u32).map(|n| (n / 1_200) as u8).collect();
    for n in 0..100 {
        let mut batch = SendBatch::new(8);
        for half in 0..2 {
            let start = n * 2_400 + half * 1_200;
            assert!(batch.push(0, to.local_addr().unwrap(), b"", start..start + 1_200));
        }
        assert_eq!(flush(&mut batch, &memory, &from).datagrams, 2);
    }
    let mut ring = ReceiveRing::new(1_000);
    let mut seen = 0;
    for expected in [64, 36] {
        ring.clear();
        while let Ok(1..) = ring.receive(&to, usize::MAX) {}
        assert_eq!(ring.messages().len(), expected);
        for message in ring.messages() {
            for range in message.datagrams() {
                assert!(ring.bytes()[range].iter().all(|byte| *byte == seen as u8), "datagram {seen}");
                seen += 1;
            }
        }
    }
    assert_eq!(seen, 200);
}

#[test]
fn each_destination_and_each_socket_gets_its_own() {
    let sockets = [socket("127.0.0.1:0"), socket("127.0.0.1:0")];
    let receivers: Vec<_> = (0..100).map(|_| socket("127.0.0.1:0")).collect();
    let memory: Vec<u8> = (0..=255).collect();
    let mut batch = SendBatch::new(1_000);
    for round in 0..3_usize {
        for (n, receiver) in receivers.iter().enumerate() {
            for via in 0..2 {
                assert!(batch.push(via, receiver.local_addr().unwrap(), &[round as u8], n..n + 8));
            }
        }
    }
    let mut totals = SendTotals::default();
    batch.flush(&memory, |via| Some(sockets[via as usize].as_fd()), &mut totals);
    assert_eq!((totals.datagrams, totals.full, totals.refused), (600, 0, 0));
    // 100 trains of three from each socket, 64 of them at most in one call.
    assert_eq!(totals.calls, 2 + 2);
    for (n, receiver) in receivers.iter().enumerate() {
        let received = receive(receiver, 6);
        for via in &sockets {
            let source = via.local_addr().unwrap();
            let mine: Vec<_> = received.iter().filter(|(from, _)| *from == source).map(|(_, bytes)| bytes).collect();
            assert_eq!(mine.len(), 3, "receiver {n}");
            assert!(mine.iter().enumerate().all(|(round, bytes)| bytes[0] == round as u8 && bytes[1..] == memory[n..n + 8]));
        }
    }
}

#[test]
fn what_does_not_fit_or_cannot_be_sent_is_counted() {
    let from = socket("127.0.0.1:0");
    let to = socket("127.0.0.1:0").local_addr().unwrap();
    let mut batch = SendBatch::new(8);
    assert!(!batch.push(0, to, b"", 0..65_001), "too long");
    for _ in 0..8 {
        assert!(batch.push(0, to, b"x", 0..0));
    }
    assert_eq!(batch.free(), 0);
    assert!(!batch.push(0, to, b"x", 0..0));
    let mut totals = SendTotals::default();
    batch.flush(b"", |_| None, &mut totals);
    assert_eq!(totals, SendTotals { refused: 8, ..SendTotals::default() });
    // A socket of one family can't reach the other: refused one by one, and what comes after goes on.
    let receiver = socket("127.0.0.1:0");
    assert!(batch.push(0, "[::1]:9".parse().unwrap(), b"x", 0..0));
    assert!(batch.push(0, receiver.local_addr().unwrap(), b"y", 0..0));
    let totals = flush(&mut batch, b"", &from);
    assert_eq!((totals.datagrams, totals.refused), (1, 1));
    assert_eq!(receive(&receiver, 1)[0].1, b"y");
}

#[test]
fn a_ring_works_as_before_when_its_memory_was_given_back() {
    let (from, to) = (socket("127.0.0.1:0"), socket("127.0.0.1:0"));
    let mut ring = ReceiveRing::new(8);
    for round in 1..4_u8 {
        for _ in 0..6 {
            from.send_to(&[round; 1_000], to.local_addr().unwrap()).unwrap();
        }
        let begun = Instant::now();
        while ring.messages().len() < 6 {
            let _ = ring.receive(&to, usize::MAX);
            assert!(begun.elapsed() < PATIENCE);
        }
        let ranges: Vec<_> = ring.messages().iter().flat_map(Message::datagrams).collect();
        assert!(ranges.iter().all(|range| ring.bytes()[range.clone()] == [round; 1_000]));
        ring.release();
        assert!(ring.messages().is_empty());
        // The first may lie in a page that isn't wholly the ring's.
        assert!(ranges[3..].iter().all(|range| ring.bytes()[range.clone()] == [0; 1_000]));
    }
}

#[test]
fn a_train_the_way_does_not_take_leaves_as_single_datagrams() {
    let (from, to) = (socket("127.0.0.1:0"), socket("127.0.0.1:0"));
    // With checksums off a train can't be cut up, and the system says so.
    if sys::without_checksums(from.as_fd()).is_err() {
        return;
    }
    let memory = vec![7; 10_000];
    let mut batch = SendBatch::new(16);
    for round in 0..2 {
        for n in 0..10 {
            assert!(batch.push(0, to.local_addr().unwrap(), b"", n * 1_000..(n + 1) * 1_000));
        }
        let totals = flush(&mut batch, &memory, &from);
        assert_eq!((totals.datagrams, totals.refused), (10, 0), "{totals:?}");
        // The first time it is tried as a train; from then on it is known, and one call takes all.
        assert_eq!(totals.calls, if round == 0 { 11 } else { 1 }, "{totals:?}");
        assert!(receive(&to, 10).iter().all(|(_, bytes)| bytes[..] == memory[..1_000]));
    }
}

#[test]
fn an_empty_socket_says_so() {
    let socket = socket("127.0.0.1:0");
    let error = ReceiveRing::new(8).receive(&socket, usize::MAX).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn two_sockets_share_an_address() {
    let first = bind_shared("127.0.0.1:0".parse().unwrap()).unwrap();
    let second = bind_shared(first.local_addr().unwrap()).unwrap();
    assert_eq!(first.local_addr().unwrap(), second.local_addr().unwrap());
}
