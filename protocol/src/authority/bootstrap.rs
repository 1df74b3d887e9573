//! Nodes the authority vouches for as ways into the network.

use bincode::{Decode, Encode};

use crate::identity::{ChainError, SigningCertificate};
use crate::key::AuthorityKey;
use crate::node::Descriptor;
use crate::time::UnixTime;
use crate::wire::{Body, DecodeError, Extensions, Signed};

/// Most nodes in a list: enough that some are always up, few enough for one answer.
pub const BOOTSTRAP_NODES_MAX: usize = 16;

/// Nodes through which a newcomer joins. The highest number wins and replaces what was before.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct BootstrapList {
    /// Whose list.
    pub authority: AuthorityKey,
    /// Grows with every list.
    pub number: u64,
    /// The nodes, at most [`BOOTSTRAP_NODES_MAX`].
    pub nodes: Vec<Descriptor>,
    /// When it was made.
    pub issued_at: UnixTime,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Body for BootstrapList {
    const KIND: u16 = 0x0111;
    const LIMIT: usize = 8 * 1024;

    fn check(&self) -> Result<(), DecodeError> {
        if self.nodes.len() > BOOTSTRAP_NODES_MAX {
            return Err(DecodeError::invalid("nodes", format!("{}, at most {BOOTSTRAP_NODES_MAX}", self.nodes.len())));
        }
        self.nodes.iter().try_for_each(Descriptor::check)
    }
}

/// A list with the certificate of the key that signed it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SignedBootstrapList {
    /// The root key's word for the signing key.
    pub signing: Signed<SigningCertificate>,
    /// The signing key's word for the nodes.
    pub list: Signed<BootstrapList>,
}

impl SignedBootstrapList {
    /// Checks that the authority it names made it. The signing certificate is judged at the time of issue: an old list is worth trying
    /// when nothing else is left, since every node in it still has to prove itself.
    ///
    /// # Errors
    /// Which signature or time is wrong.
    pub fn verify(&self) -> Result<&BootstrapList, ChainError> {
        let list = self.list.unverified();
        let signing = self.signing.verify(&list.authority.0).map_err(ChainError::SigningSignature)?;
        if list.issued_at < signing.not_before || list.issued_at > signing.not_after {
            return Err(ChainError::SigningExpired { not_after: signing.not_after });
        }
        self.list.verify(&signing.key).map_err(ChainError::ListSignature)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::Place;
    use crate::key::{DeviceKey, PublicKey, SecretKey};
    use crate::node::{Address, LoadClass, Roles, Transport};

    fn node(number: u8) -> Descriptor {
        Descriptor {
            device: DeviceKey(PublicKey([number; 32])),
            place: Place([number; 32]),
            roles: Roles::DIRECTORY,
            load: LoadClass(1),
            addresses: vec![Address::V4 { ip: [127, 0, 0, 1], port: 4_000, transport: Transport::Quic }],
        }
    }

    fn list(nodes: u8, root: &SecretKey, signing: &SecretKey) -> SignedBootstrapList {
        let now = UnixTime(1_000_000);
        let certificate = SigningCertificate {
            key: signing.public(),
            serial: 1,
            not_before: now,
            not_after: now.plus_secs(1_000),
            extensions: Extensions::none(),
        };
        let list = BootstrapList {
            authority: AuthorityKey(root.public()),
            number: 1,
            nodes: (0..nodes).map(node).collect(),
            issued_at: now,
            extensions: Extensions::none(),
        };
        SignedBootstrapList { signing: Signed::sign(certificate, root), list: Signed::sign(list, signing) }
    }

    #[test]
    fn only_the_authoritys_own_key_makes_a_list() {
        let (root, signing, other) =
            (SecretKey::from_bytes([1; 32]), SecretKey::from_bytes([2; 32]), SecretKey::from_bytes([3; 32]));
        assert!(list(16, &root, &signing).verify().is_ok());
        let mut forged = list(2, &root, &signing);
        forged.list = list(2, &root, &other).list;
        assert!(matches!(forged.verify(), Err(ChainError::ListSignature(_))));
        let mut forged = list(2, &root, &signing);
        forged.signing = list(2, &other, &signing).signing;
        assert!(matches!(forged.verify(), Err(ChainError::SigningSignature(_))));
    }

    #[test]
    fn too_many_nodes_do_not_decode() {
        let (root, signing) = (SecretKey::from_bytes([1; 32]), SecretKey::from_bytes([2; 32]));
        let fits = crate::wire::encode(&list(16, &root, &signing));
        assert_eq!(crate::wire::decode::<SignedBootstrapList>(&fits, 10_000).ok(), Some(list(16, &root, &signing)));
        let over = crate::wire::encode(&list(17, &root, &signing));
        assert!(crate::wire::decode::<SignedBootstrapList>(&over, 10_000).is_err());
    }
}
