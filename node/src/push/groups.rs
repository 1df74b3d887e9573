//! Which of this device's gateways share a database, by the word of each of them.
//!
//! A handle is no secret: contacts read it in the device's entry. So that a gateway answers with another's handle shows nothing; that both name each other does: each
//! has said so over its own connection, and whoever is registered there trusts it with the channels that it has.

use std::collections::BTreeMap;

use halloo_protocol::key::DeviceKey;

/// What gateways that this device is registered with have said, since the start.
#[derive(Debug, Default)]
pub(super) struct Groups(BTreeMap<DeviceKey, Vec<DeviceKey>>);

impl Groups {
    /// A gateway names those that share its database.
    pub(super) fn told(&mut self, gateway: DeviceKey, others: Vec<DeviceKey>) {
        self.0.insert(gateway, others);
    }

    /// Forgets what others than these have said.
    pub(super) fn keep(&mut self, gateways: &[DeviceKey]) {
        self.0.retain(|gateway, _| gateways.contains(gateway));
    }

    /// Whether the two are one, or name each other.
    pub(super) fn share(&self, one: &DeviceKey, other: &DeviceKey) -> bool {
        one == other || (self.names(one, other) && self.names(other, one))
    }

    /// Whether anybody of these names the gateway.
    pub(super) fn is_named(&self, by: &[DeviceKey], gateway: &DeviceKey) -> bool {
        by.iter().any(|one| self.names(one, gateway))
    }

    fn names(&self, one: &DeviceKey, other: &DeviceKey) -> bool {
        self.0.get(one).is_some_and(|others| others.contains(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use halloo_protocol::key::PublicKey;

    #[test]
    fn gateways_share_a_database_if_each_says_so() {
        let [honest, partner, liar] = [1, 2, 3].map(|number| DeviceKey(PublicKey([number; 32])));
        let mut groups = Groups::default();
        groups.told(liar, vec![honest, partner]);
        groups.told(honest, vec![partner]);
        assert!(groups.share(&honest, &honest));
        assert!(!groups.share(&honest, &partner), "the partner hasn't said so");
        assert!(!groups.share(&liar, &honest) && !groups.share(&honest, &liar), "nobody names the liar");
        groups.told(partner, vec![honest]);
        assert!(groups.share(&honest, &partner) && groups.share(&partner, &honest));
        assert!(groups.is_named(&[honest], &partner) && !groups.is_named(&[honest, partner], &liar));
        groups.keep(&[honest]);
        assert!(!groups.share(&honest, &partner));
        groups.told(honest, Vec::new());
        assert!(!groups.is_named(&[honest], &partner), "the newest word counts");
    }
}
