//! One example of every wire type, built from fixed keys and times: the table behind the golden vectors, the mutation tests and the
//! allocation tests. A new wire type is one line here.

use halloo_protocol::directory::{DeviceEntry, Lease, Place};
use halloo_protocol::directory::{DeviceKind, Helper, PrivatePart, PushAddress, RECORD_BYTES_MAX, UnverifiedRecord};
use halloo_protocol::identity::{
    Chain, DeviceCertificate, KeySuccession, LinkedId, REVOCATION_LIST_BYTES_MAX, RevocationList, SignedRevocationList,
    SigningCertificate, Tombstone, UserCertificate, UserId,
};
use halloo_protocol::node::{
    Address, Descriptor, Goodbye, Hello, LoadClass, RevocationNotice, RevocationNumber, Roles, Transport,
};
use halloo_protocol::wire::{self, Body, DecodeError, Extensions, FRAME_BYTES_MAX, Frame, Message, Signed};

use super::*;

/// One example.
pub(crate) struct Vector {
    /// Name of its file.
    pub(crate) name: &'static str,
    /// Its encoding.
    pub(crate) bytes: Vec<u8>,
    /// Decodes bytes of this type as a reader does, and encodes the value again.
    pub(crate) again: fn(&[u8]) -> Result<Vec<u8>, DecodeError>,
}

/// `message`: travels as a frame's body. `signed`: a body, shown as the signed object. `plain`: a part or a value with a reader of its own.
macro_rules! vectors {
    ($($name:literal => $how:ident $type:ty = $value:expr;)*) => {
        vec![$(Vector { name: $name, bytes: wire::encode(&$value), again: vectors!(@$how $type) }),*]
    };
    (@message $type:ty) => {
        |bytes| {
            let frame = Frame { kind: <$type as Message>::KIND, id: 7, body: bytes.to_vec() };
            frame.parse::<$type>().map(|message| wire::encode(&message))
        }
    };
    (@signed $type:ty) => {
        |bytes| wire::decode::<Signed<$type>>(bytes, <$type as Body>::LIMIT + SIGNED_OVERHEAD_BYTES_MAX).map(|value| wire::encode(&value))
    };
    (@plain $type:ty) => { |bytes| wire::decode::<$type>(bytes, FRAME_BYTES_MAX).map(|value| wire::encode(&value)) };
}

/// Kind (3), version (3), body length (5) and signature (64).
const SIGNED_OVERHEAD_BYTES_MAX: usize = 75;

/// The table, built once: signing takes longer than what tests do with it.
pub(crate) fn all_cached() -> &'static [Vector] {
    static ALL: std::sync::OnceLock<Vec<Vector>> = std::sync::OnceLock::new();
    ALL.get_or_init(all)
}

/// The table.
pub(crate) fn all() -> Vec<Vector> {
    vectors! {
        // Frames and their parts
        "frame" => plain Frame = Frame::new(7, &goodbye());
        "extensions" => plain Extensions = extensions();
        // Identity
        "user_id_named" => plain UserId = alice_id();
        "user_id_key" => plain UserId = UserId::Key(identity(0));
        "signing_certificate" => signed SigningCertificate = signed_signing();
        "user_certificate" => signed UserCertificate = Signed::sign(full_user_certificate(), &signing_key());
        "device_certificate" => signed DeviceCertificate = Signed::sign(device_certificate(0, 1), &identity_secret(0));
        "tombstone" => signed Tombstone = tombstone(0, 1, NOW.plus_secs(DAY));
        "key_succession" => signed KeySuccession = succession(0, 1);
        "revocation_list" => signed RevocationList = Signed::sign(revocation_list(3, &[4, 5_000], &[9]), &root());
        "signed_revocation_list" => plain SignedRevocationList = by_signing_key(revocation_list(3, &[4, 5_000], &[]));
        "chain" => plain Chain = chain(0, 0);
        "chain_without_name" => plain Chain = Chain { user: UserChain::Key(identity(0)), ..chain(0, 0) };
        // Nodes
        "descriptor" => plain Descriptor = descriptor();
        "hello" => message Hello = hello();
        "hello_before_enrolment" => message Hello = Hello { chain: None, descriptor: None, revocations: Vec::new(), ..hello() };
        "goodbye" => message Goodbye = goodbye();
        "revocation_notice" => message RevocationNotice = revocation_notice();
        // Directory
        "device_entry" => signed DeviceEntry = Signed::sign(full_entry(), &device_secret(0));
        "lease" => signed Lease = Signed::sign(lease(&parts(0, 0, 3), 1), &device_secret(0));
        "private_part" => plain PrivatePart = private_part();
        "directory_record" => plain UnverifiedRecord = record();
    }
}

pub(crate) fn extensions() -> Extensions {
    Extensions::none().with(0x0001, vec![1, 2, 3]).with(0x7fff, Vec::new())
}

pub(crate) fn goodbye() -> Goodbye {
    Goodbye { extensions: Extensions::none() }
}

pub(crate) fn full_user_certificate() -> UserCertificate {
    UserCertificate {
        linked: vec![LinkedId { system: "xmpp".into(), id: "alice@example.org".into() }],
        extensions: extensions(),
        ..user_certificate(0, 1)
    }
}

pub(crate) fn descriptor() -> Descriptor {
    Descriptor {
        device: device(0),
        place: Place::assigned(&[0x5a; 32], 0),
        roles: Roles::DIRECTORY.union(Roles::RELAY),
        load: LoadClass(3),
        addresses: vec![
            v4(1, 4_001),
            Address::V6 { ip: [0x20; 16], port: 443, transport: Transport::Tcp },
            Address::Other(vec![4, 127, 0, 0, 1]),
        ],
    }
}

pub(crate) fn hello() -> Hello {
    Hello {
        version: Hello::VERSION,
        features: 5,
        chain: Some(chain(0, 0)),
        descriptor: Some(descriptor()),
        clock: NOW,
        revocations: vec![RevocationNumber { authority: authority(), number: 3 }],
        extensions: extensions(),
    }
}

pub(crate) fn revocation_notice() -> RevocationNotice {
    RevocationNotice { list: by_root(revocation_list(3, &[4], &[9])), extensions: Extensions::none() }
}

/// An entry with something in every field.
pub(crate) fn full_entry() -> DeviceEntry {
    DeviceEntry {
        addresses: vec![v4(9, 443)],
        mailboxes: vec![Helper { device: keeper(3), addresses: Vec::new() }],
        fallback_key: Some([0x24; 32]),
        sealed: Some(seal_key().seal(0, &device(0), &private_part(), [9; 24])),
        extensions: extensions(),
        ..entry(0, 300)
    }
}

pub(crate) fn private_part() -> PrivatePart {
    PrivatePart {
        name: "kitchen tablet".into(),
        kind: DeviceKind::Tablet,
        addresses: vec![v4(1, 5_000)],
        push: vec![PushAddress { gateway: helper(0), handle: vec![0xab; 16], capability: vec![0xcd; 20] }],
        extensions: extensions(),
    }
}

/// A record with two devices, a removed one, a former identity key, leases and extensions.
pub(crate) fn record() -> UnverifiedRecord {
    let mut first = parts(0, 0, 3);
    first.lease = Some(Signed::sign(lease(&first, 1), &device_secret(0)));
    let mut second = parts(0, 1, 8);
    second.keeper_lease = Some(keeper_lease(&second, 0, 7_200));
    UnverifiedRecord {
        successions: vec![succession(1, 0)],
        tombstones: vec![tombstone(0, 2, NOW.plus_secs(DAY))],
        extensions: extensions(),
        ..unverified(vec![first, second])
    }
}

const _: () = assert!(RECORD_BYTES_MAX < FRAME_BYTES_MAX && REVOCATION_LIST_BYTES_MAX < FRAME_BYTES_MAX);
