//! Who may do what: one pure decision, with its reason.

use std::fmt;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::PassOn;
use crate::wire::{DecodeError, Extensions};

/// For whom something is allowed. Each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Audience {
    /// No one.
    Nobody,
    /// Contacts.
    Contacts,
    /// Contacts, and contacts in a linked system.
    Linked,
    /// Everybody with a certificate that is believed here.
    Anyone,
}

impl Audience {
    /// All of them, narrowest first.
    pub const ALL: [Self; 4] = [Self::Nobody, Self::Contacts, Self::Linked, Self::Anyone];

    /// The name in JSON and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Contacts => "contacts",
            Self::Linked => "linked",
            Self::Anyone => "anyone",
        }
    }
}

impl fmt::Display for Audience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What somebody wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// To ring.
    Call,
    /// To ring with video.
    Video,
    /// To write.
    Message,
    /// To send a file.
    File,
    /// To see the presence.
    Presence,
    /// To add this user to a group. Where it isn't allowed, the user is asked.
    Group,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Call, Self::Video, Self::Message, Self::File, Self::Presence, Self::Group];
}

/// What somebody is to this user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Relation {
    /// Another device of the same user.
    Own,
    /// A contact.
    Contact,
    /// A contact in a linked system.
    Linked,
    /// A contact's name, under a key that isn't the one known.
    Changed,
    /// None of these.
    Stranger,
    /// Blocked.
    Blocked,
}

impl Relation {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Own, Self::Contact, Self::Linked, Self::Changed, Self::Stranger, Self::Blocked];
}

/// Who may do what. The default: contacts everything, contacts in systems that the user has linked all but presence and groups, nobody else anything.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PrivacySettings {
    /// Who may ring.
    pub call: Audience,
    /// Who may ring with video; who may not ring at all may not do this either.
    pub video: Audience,
    /// Who may write.
    pub message: Audience,
    /// Who may send files.
    pub file: Audience,
    /// Who may see the presence: at most contacts, for only they hold its key.
    pub presence: Audience,
    /// Who may add the user to groups without asking: at most contacts.
    pub group: Audience,
    /// Whether authors are told that their messages were read.
    pub receipts: bool,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Default for PrivacySettings {
    fn default() -> Self {
        // Linking is explicit: for a user who has linked nothing it is the same as contacts alone.
        Self::all(Audience::Linked)
    }
}

impl PrivacySettings {
    /// The same audience for everything, save that presence is for contacts at most.
    #[must_use]
    pub fn all(audience: Audience) -> Self {
        Self {
            call: audience,
            video: audience,
            message: audience,
            file: audience,
            presence: audience.min(Audience::Contacts),
            group: audience.min(Audience::Contacts),
            receipts: true,
            extensions: Extensions::none(),
        }
    }

    /// Whether contacts may pass the presence on to each other.
    #[must_use]
    pub fn pass_on(&self) -> PassOn {
        PassOn::of(&self.extensions)
    }

    /// The same settings with another word on that.
    #[must_use]
    pub fn with_pass_on(self, pass_on: PassOn) -> Self {
        Self { extensions: pass_on.within(&self.extensions), ..self }
    }

    /// Checks ranges after decoding.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`] if presence, or adding to groups, is given to others than contacts.
    pub fn check(&self) -> Result<(), DecodeError> {
        if self.presence > Audience::Contacts {
            return Err(DecodeError::invalid("presence", "only contacts can see presence"));
        }
        if self.group > Audience::Contacts {
            return Err(DecodeError::invalid("group", "only contacts can add somebody to a group without asking"));
        }
        Ok(())
    }

    /// For whom something of this kind is allowed.
    #[must_use]
    pub fn audience(&self, kind: Kind) -> Audience {
        match kind {
            Kind::Call => self.call,
            Kind::Video => self.video.min(self.call),
            Kind::Message => self.message,
            Kind::File => self.file,
            Kind::Presence => self.presence.min(Audience::Contacts),
            Kind::Group => self.group.min(Audience::Contacts),
        }
    }

    /// True if somebody who is no contact may ring this user, and so has to find a way to wake the devices.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.call == Audience::Anyone
    }
}

/// Why something is allowed, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Because {
    /// It is the user's own device.
    Own,
    /// They are contacts.
    Contact,
    /// They are contacts in a linked system.
    Linked,
    /// Anyone may.
    Anyone,
    /// Nobody may.
    Nobody,
    /// They aren't contacts.
    NotAContact,
    /// The name came with another key than the contact's.
    KeyChanged,
    /// The user has blocked them.
    Blocked,
}

impl fmt::Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Own => "own device",
            Self::Contact => "a contact",
            Self::Linked => "a contact in a linked system",
            Self::Anyone => "anyone may",
            Self::Nobody => "nobody may",
            Self::NotAContact => "not a contact",
            Self::KeyChanged => "the contact's identity key has changed",
            Self::Blocked => "blocked",
        })
    }
}

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Decision {
    /// Whether it may be.
    pub is_allowed: bool,
    /// Why, for the user it is asked of. Who asks is told no more than that it isn't allowed.
    pub because: Because,
}

/// Decides whether somebody may do something.
///
/// Blocking beats everything. A name under a changed key is nobody's contact; where anyone may, it may as well, as any stranger.
pub fn decide(settings: &PrivacySettings, relation: Relation, kind: Kind) -> Decision {
    let audience = settings.audience(kind);
    let yes = |because| Decision { is_allowed: true, because };
    let no = |because| Decision { is_allowed: false, because };
    match (relation, audience) {
        (Relation::Own, _) => yes(Because::Own),
        (Relation::Blocked, _) => no(Because::Blocked),
        (_, Audience::Nobody) => no(Because::Nobody),
        (Relation::Contact, _) => yes(Because::Contact),
        (Relation::Linked, Audience::Linked | Audience::Anyone) => yes(Because::Linked),
        (_, Audience::Anyone) => yes(Because::Anyone),
        (Relation::Changed, _) => no(Because::KeyChanged),
        (Relation::Linked | Relation::Stranger, _) => no(Because::NotAContact),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(kind: Kind, audience: Audience) -> PrivacySettings {
        let mut settings = PrivacySettings::all(Audience::Nobody);
        match kind {
            Kind::Call => settings.call = audience,
            Kind::Video => (settings.call, settings.video) = (Audience::Anyone, audience),
            Kind::Message => settings.message = audience,
            Kind::File => settings.file = audience,
            Kind::Presence => settings.presence = audience,
            Kind::Group => settings.group = audience,
        }
        settings
    }

    /// The whole table: every audience, relation and kind.
    #[test]
    fn every_case_is_decided_as_the_table_says() {
        use Because as B;
        let rows = [
            (Audience::Nobody, [B::Own, B::Nobody, B::Nobody, B::Nobody, B::Nobody, B::Blocked]),
            (Audience::Contacts, [B::Own, B::Contact, B::NotAContact, B::KeyChanged, B::NotAContact, B::Blocked]),
            (Audience::Linked, [B::Own, B::Contact, B::Linked, B::KeyChanged, B::NotAContact, B::Blocked]),
            (Audience::Anyone, [B::Own, B::Contact, B::Linked, B::Anyone, B::Anyone, B::Blocked]),
        ];
        for kind in Kind::ALL {
            for (audience, expected) in rows {
                // Presence and groups are for contacts at most, whatever is set.
                let row = if matches!(kind, Kind::Presence | Kind::Group) && audience > Audience::Contacts {
                    rows[1].1
                } else {
                    expected
                };
                for (relation, because) in Relation::ALL.into_iter().zip(row) {
                    let decision = decide(&settings(kind, audience), relation, kind);
                    assert_eq!(decision.because, because, "{kind:?} {audience} {relation:?}");
                    let allowed = matches!(because, B::Own | B::Contact | B::Linked | B::Anyone);
                    assert_eq!(decision.is_allowed, allowed, "{kind:?} {audience} {relation:?}");
                }
            }
        }
    }

    #[test]
    fn by_default_contacts_may_and_others_may_not() {
        let settings = PrivacySettings::default();
        for kind in Kind::ALL {
            assert!(decide(&settings, Relation::Contact, kind).is_allowed);
            for relation in [Relation::Stranger, Relation::Changed, Relation::Blocked] {
                assert!(!decide(&settings, relation, kind).is_allowed, "{kind:?} {relation:?}");
            }
            let is_for_linked = !matches!(kind, Kind::Presence | Kind::Group);
            assert_eq!(decide(&settings, Relation::Linked, kind).is_allowed, is_for_linked, "{kind:?}");
        }
    }

    #[test]
    fn who_may_not_ring_may_not_ring_with_video() {
        let settings = PrivacySettings { call: Audience::Contacts, video: Audience::Anyone, ..PrivacySettings::default() };
        assert!(!decide(&settings, Relation::Stranger, Kind::Video).is_allowed);
        assert!(PrivacySettings { presence: Audience::Anyone, ..settings }.check().is_err());
    }
}
