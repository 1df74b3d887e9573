//! The vectors of RFC 3711 and RFC 6188, and packets that aren't what they seem.

use data_encoding::HEXLOWER_PERMISSIVE as HEX;
use proptest::prelude::*;

use super::*;

fn hex(text: &str) -> Vec<u8> {
    HEX.decode(text.replace(' ', "").as_bytes()).unwrap()
}

/// RFC 3711 appendix B.2: the key stream of AES in counter mode.
#[test]
fn the_key_stream_is_that_of_the_specification() {
    let key = hex("2B7E151628AED2A6ABF7158809CF4F3C");
    let mut iv = [0; 16];
    iv[..14].copy_from_slice(&hex("F0F1F2F3F4F5F6F7F8F9FAFBFCFD"));
    let mut stream = [0; 48];
    apply(&key, &iv, &mut stream).unwrap();
    assert_eq!(
        stream[..].to_vec(),
        hex("E03EAD0935C95E80E166B16DD92B4EB4 D23513162B02D0F72A43A2FE4A5F97AB 41E95B3BB0A2E8DD477901E4FCA894C0")
    );
}

/// RFC 3711 appendix B.3, and RFC 6188 section 7.2 for the longer key.
#[test]
fn session_keys_are_derived_as_the_specification_says() {
    let master = hex("E1F97A0D3E018BE0D64FA32C06DE4139 0EC675AD498AFEEBB6960B3AABE6");
    let suite = Suite::Aes128Sha1Of80;
    let keys = SessionKeys::derive(suite, &MasterKey::new(suite, &master).unwrap(), 0).unwrap();
    assert_eq!(keys.key.to_vec(), hex("C61E7A93744F39EE10734AFE3FF7A087"));
    assert_eq!(keys.salt.to_vec(), hex("30CBBC08863D8C85D49DB34A9AE1"));
    let mac = Hmac::<Sha1>::new_from_slice(&hex("CEBE321F6FF7716B6FD4AB49AF256A156D38BAA4")).unwrap();
    assert_eq!(keys.mac(b"packet", b"").finalize().into_bytes(), mac.chain_update(b"packet").finalize().into_bytes());

    let master = hex("f0f04914b513f2763a1b1fa130f10e29 98f6f6e43e4309d1e622a0e332b9f1b6 3b04803de51ee7c96423ab5b78d2");
    let suite = Suite::Aes256Sha1Of80;
    let keys = SessionKeys::derive(suite, &MasterKey::new(suite, &master).unwrap(), 0).unwrap();
    assert_eq!(keys.key.to_vec(), hex("5ba1064e30ec51613cad926c5a28ef73 1ec7fb397f70a960653caf06554cd8c4"));
    assert_eq!(keys.salt.to_vec(), hex("fa31791685ca444a9e07c6c64e93"));
}

/// libsrtp's test vector for AES_CM_128_HMAC_SHA1_80 (test/srtp_driver.c).
#[test]
fn a_packet_looks_as_libsrtp_makes_it() {
    let master = hex("e1f97a0d3e018be0d64fa32c06de4139 0ec675ad498afeebb6960b3aabe6");
    let suite = Suite::Aes128Sha1Of80;
    let key = MasterKey::new(suite, &master).unwrap();
    let mut packet = hex("800f1234decafbadcafebabe abababababababababababababababab");
    let plain = packet.clone();
    let mut protector = Protector::new(suite, &key).unwrap();
    assert!(protector.protect(0x1234, &mut packet));
    assert_eq!(packet, hex("800f1234decafbadcafebabe 4e55dc4ce79978d88ca4d215949d2402 b78d6acc99ea179b8dbb"));
    let mut opener = Opener::new(suite, &key).unwrap();
    let length = opener.open(&mut packet).unwrap();
    assert_eq!(packet[..length], plain[..]);
}

/// libsrtp's vector for reports.
#[test]
fn reports_look_as_libsrtp_makes_them() {
    let master = hex("e1f97a0d3e018be0d64fa32c06de4139 0ec675ad498afeebb6960b3aabe6");
    let suite = Suite::Aes128Sha1Of80;
    let key = MasterKey::new(suite, &master).unwrap();
    let mut packet = hex("81c8000bcafebabe abababababababababababababababab");
    let plain = packet.clone();
    assert!(Protector::new(suite, &key).unwrap().protect_reports(&mut packet));
    assert_eq!(packet, hex("81c8000bcafebabe 7128035be487b9bdbef89041f977a5a8 80000001 993e08cd54d6c1230798"));
    let length = Opener::new(suite, &key).unwrap().open_reports(&mut packet).unwrap();
    assert_eq!(packet[..length], plain[..]);
}

/// With a list of sources, an extension and numbers that run over, both ways of the tag, as libsrtp makes them (through pylibsrtp 1.0).
#[test]
fn packets_with_lists_and_extensions_look_as_libsrtp_makes_them() {
    let master: Vec<u8> = (0..30).collect();
    let head = |number: &str| format!("9189{number}01020304cafe000100000007bede000110aa0000");
    let first = "e6fe4829e12b05f9cddc079e4fe2e9e06df5fa";
    let second = "6d0db6230da089710f9797a9ef857c215f1953";
    for (suite, tags) in [
        (Suite::Aes128Sha1Of80, ["b641068b9b6d09adc07e", "c33503ee292a6b35a693"]),
        (Suite::Aes128Sha1Of32, ["b641068b", "c33503ee"]),
    ] {
        let key = MasterKey::new(suite, &master).unwrap();
        let (mut protector, mut opener) = (Protector::new(suite, &key).unwrap(), Opener::new(suite, &key).unwrap());
        for (index, number, sealed, tag) in [(65_535, "ffff", first, tags[0]), (65_536, "0000", second, tags[1])] {
            let mut packet = [hex(&head(number)), b"halloo, telephone!!".to_vec()].concat();
            assert!(protector.protect(index, &mut packet));
            assert_eq!(packet, hex(&format!("{}{sealed}{tag}", head(number))), "{suite:?} {index}");
            let length = opener.open(&mut packet).unwrap();
            assert_eq!(&packet[24..length], b"halloo, telephone!!");
        }
        let mut reports = hex("80c90001cafe000181cb0001cafe0001");
        assert!(protector.protect_reports(&mut reports));
        assert_eq!(reports, hex("80c90001cafe0001cbc3c5c037cb235180000001159dc3a3fcba8860f169"), "{suite:?}");
    }
}

fn pair(suite: Suite) -> (Protector, Opener) {
    let key = MasterKey::new(suite, &vec![7; suite.key_bytes() + SALT_BYTES]).unwrap();
    (Protector::new(suite, &key).unwrap(), Opener::new(suite, &key).unwrap())
}

fn packet(sequence: u16) -> Vec<u8> {
    let mut packet = Vec::new();
    let header = Header { payload_type: 0, marker: false, sequence, timestamp: 0, ssrc: 5, payload_at: 12, is_padded: false };
    header.write(&[sequence as u8; 160], &mut packet);
    packet
}

#[test]
fn numbers_run_over_and_packets_come_late_and_twice() {
    for suite in Suite::ALL {
        let (mut protector, mut opener) = pair(suite);
        let mut protect = |index: u64| {
            let mut packet = packet(index as u16);
            assert!(protector.protect(index, &mut packet));
            packet
        };
        for index in [65_530, 65_540, 65_531, 65_535, 65_536, 98_000, 130_700, 131_080] {
            let mut sealed = protect(index);
            let length = opener.open(&mut sealed.clone()).unwrap_or_else(|error| panic!("{index}: {error}"));
            assert_eq!(length, 172);
            assert_eq!(opener.open(&mut sealed), Err(OpenError::Replayed), "{index}");
        }
        assert!(!protector.protect(131_080, &mut packet(8)), "a number is used once");
        assert!(!protector.protect(65_541, &mut packet(5)), "who can't know doesn't");
        let late = |index: u64| {
            let mut packet = packet(index as u16);
            assert!(pair(suite).0.protect(index, &mut packet));
            packet
        };
        assert_eq!(opener.open(&mut late(65_541)), Err(OpenError::NotAuthentic), "a round too late");
        assert_eq!(opener.open(&mut late(130_900)), Err(OpenError::Replayed), "too late to know");
    }
}

#[test]
fn a_packet_that_was_changed_is_refused() {
    let (mut protector, mut opener) = pair(Suite::Aes128Sha1Of32);
    let mut sealed = packet(1);
    assert!(protector.protect(1, &mut sealed));
    for place in [0, 1, 3, 8, 40, sealed.len() - 1] {
        let mut changed = sealed.clone();
        changed[place] ^= 0x01;
        assert!(opener.open(&mut changed).is_err(), "byte {place}");
    }
    assert_eq!(opener.open(&mut sealed[..20].to_vec()), Err(OpenError::NotAuthentic));
    assert_eq!(opener.open(&mut [0x80; 3]), Err(OpenError::Form));
    opener.open(&mut sealed).unwrap();
    let (_, mut other) = pair(Suite::Aes128Sha1Of80);
    assert!(other.open(&mut sealed).is_err());
    assert!(MasterKey::new(Suite::Aes128Sha1Of80, &[0; 29]).is_none());
}

#[test]
fn a_flood_of_streams_ends() {
    let (mut protector, mut opener) = pair(Suite::Aes128Sha1Of80);
    let mut taken = 0;
    for ssrc in 0..300u32 {
        let mut sealed = packet(ssrc as u16);
        sealed[8..12].copy_from_slice(&ssrc.to_be_bytes());
        assert!(protector.protect(ssrc.into(), &mut sealed));
        taken += u32::from(opener.open(&mut sealed).is_ok());
    }
    assert_eq!(taken as usize, STREAMS_MAX);
}

proptest! {
    #[test]
    fn anything_is_opened_or_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let (mut protector, mut opener) = pair(Suite::Aes256Sha1Of80);
        prop_assert!(opener.open(&mut bytes.clone()).is_err());
        prop_assert!(opener.open_reports(&mut bytes.clone()).is_err());
        let _ = protector.protect(3, &mut bytes.clone());
        let _ = protector.protect_reports(&mut bytes);
    }
}
