//! Gateways that share one database: a device that registers with one of them can be woken through each of them.

use super::PushRegistered;
use crate::directory::Helper;
use crate::wire::{self, Extensions};

/// Most other gateways of a group that a device is told of.
pub const GROUP_GATEWAYS_MAX: usize = 3;

/// Extension of [`PushRegistered`]: an encoded list of [`Helper`]s.
const GROUP_EXTENSION: u16 = 0x004f;

/// Largest encoded list.
const GROUP_BYTES_MAX: usize = 512;

/// Puts a gateway's group into its answer: at most [`GROUP_GATEWAYS_MAX`], and no more than there is room for.
#[must_use]
pub fn put_group(extensions: Extensions, group: &[Helper]) -> Extensions {
    let mut group: Vec<Helper> = group.iter().take(GROUP_GATEWAYS_MAX).cloned().collect();
    while wire::encoded_len(&group) > GROUP_BYTES_MAX {
        group.pop();
    }
    if group.is_empty() { extensions } else { extensions.with(GROUP_EXTENSION, wire::encode(&group)) }
}

/// The other gateways of the one that answers; none if it names none that can be read.
#[must_use]
pub fn group_of(answer: &PushRegistered) -> Vec<Helper> {
    let Some(bytes) = answer.extensions.find(GROUP_EXTENSION) else { return Vec::new() };
    let group: Vec<Helper> = wire::decode(bytes, GROUP_BYTES_MAX).unwrap_or_default();
    let is_good = group.len() <= GROUP_GATEWAYS_MAX && group.iter().all(|gateway| gateway.check().is_ok());
    if is_good { group } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{DeviceKey, PublicKey};
    use crate::push::{PushReason, RegisterStatus};

    fn answer(extensions: Extensions) -> PushRegistered {
        PushRegistered { status: RegisterStatus::Refused(PushReason::FULL), extensions }
    }

    fn gateway(number: u8) -> Helper {
        Helper { device: DeviceKey(PublicKey([number; 32])), addresses: Vec::new() }
    }

    #[test]
    fn a_group_is_read_as_it_was_put_and_bounded() {
        let group: Vec<Helper> = (1..=5).map(gateway).collect();
        assert_eq!(group_of(&answer(put_group(Extensions::none(), &group))), group[..GROUP_GATEWAYS_MAX]);
        assert_eq!(put_group(Extensions::none(), &[]), Extensions::none());
        let too_many = Extensions::none().with(GROUP_EXTENSION, wire::encode(&group));
        assert!(group_of(&answer(too_many)).is_empty());
        let no_list = Extensions::none().with(GROUP_EXTENSION, vec![9; 40]);
        assert!(group_of(&answer(no_list)).is_empty());
        assert!(group_of(&answer(Extensions::none())).is_empty());
    }
}
