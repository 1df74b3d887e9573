//! What a person reads or hears when something happens: one sentence in a language they read, made on their device.
//!
//! Each language is a file of Fluent messages in `wording/`, one message for each [`Sentence`]; where the name stands, how many there are of something and
//! which way the script runs is the language's own affair. A new language is a file and a line in [`LANGUAGES`]; the tests say what it lacks.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use fluent_bundle::concurrent::FluentBundle;
use fluent_bundle::{FluentArgs, FluentResource};
use halloo_protocol::contact::{RosterEntry, Standing};
use halloo_protocol::event::EventKind;
use halloo_protocol::identity::UserId;
use halloo_protocol::language::{self, Choice};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use unic_langid::{CharacterDirection, LanguageIdentifier};

use crate::event_loop::EventLoop;

/// The language of who names none.
const DEFAULT: &str = "en";

/// Longest name shown, in characters: a longer one is cut.
const NAME_CHARS_MAX: usize = 64;

/// The end of a peer id, by which a device without a name is called.
const PEER_ID_CHARS: usize = 8;

/// The message that says where something is shown.
const SHOWN_ON: &str = "shown-on";

macro_rules! languages {
    ($($tag:literal)*) => {
        /// Languages that there are words in, with their messages.
        const LANGUAGES: [(&str, &str); 0 $(+ { let _ = $tag; 1 })*] = [$(($tag, include_str!(concat!("wording/", $tag, ".ftl")))),*];
    };
}

languages! {
    "ar" "cs" "de" "el" "en" "es" "fa" "fi" "fr" "he" "hi" "hu" "id" "it" "ja" "ko" "nl" "pl" "pt" "ru" "sv" "tr" "uk" "ur" "vi" "zh"
}

/// What is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sentence {
    /// Something has happened, by the kind of event.
    Event(EventKind),
    /// A recording was left.
    Voicemail,
    /// A file is offered.
    File,
}

impl Sentence {
    fn message(self) -> String {
        match self {
            Self::Event(kind) => kind.to_string(),
            Self::Voicemail => "voicemail".to_owned(),
            Self::File => "file".to_owned(),
        }
    }
}

/// Which way a script runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// From left to right.
    Ltr,
    /// From right to left.
    Rtl,
}

/// Another device of the user, which shows what this one can't.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ShownOn {
    /// Its peer id.
    pub peer_id: String,
    /// What its user calls it, if that is known.
    pub name: Option<String>,
}

impl ShownOn {
    /// What a sentence calls it.
    fn spoken(&self) -> String {
        let name = self.name.as_deref().map(harmless).filter(|name| !name.is_empty());
        name.unwrap_or_else(|| self.peer_id.chars().rev().take(PEER_ID_CHARS).collect::<Vec<_>>().into_iter().rev().collect())
    }
}

/// A sentence for a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Notice {
    /// Its language (BCP 47).
    pub language: String,
    /// Which way it runs.
    pub direction: Direction,
    /// To be shown: the name stands between isolates (U+2068, U+2069), so that its script doesn't turn the sentence around.
    pub text: String,
    /// To be spoken: the same without them.
    pub spoken: String,
    /// What the button says that accepts.
    pub accept: String,
    /// What the button says that refuses.
    pub decline: String,
    /// Where it is shown, if this device can't show it: the sentence says so too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shown_on: Option<ShownOn>,
}

/// One language's messages, for the eye and for the ear.
struct Words {
    shown: FluentBundle<FluentResource>,
    spoken: FluentBundle<FluentResource>,
    direction: Direction,
}

static WORDS: LazyLock<BTreeMap<&'static str, Words>> =
    LazyLock::new(|| LANGUAGES.iter().filter_map(|(tag, messages)| Some((*tag, Words::read(tag, messages)?))).collect());

impl Words {
    /// `None` if the file isn't well formed, which a test excludes.
    fn read(tag: &str, messages: &str) -> Option<Self> {
        let language: LanguageIdentifier = tag.parse().ok()?;
        let bundle = |isolates: bool| {
            let mut bundle = FluentBundle::new_concurrent(vec![language.clone()]);
            bundle.set_use_isolating(isolates);
            bundle.add_resource(FluentResource::try_new(messages.to_owned()).ok()?).ok()?;
            Some(bundle)
        };
        let direction = match language.character_direction() {
            CharacterDirection::RTL => Direction::Rtl,
            _ => Direction::Ltr,
        };
        Some(Self { shown: bundle(true)?, spoken: bundle(false)?, direction })
    }
}

/// A message with its parameters put in. `None` if it isn't there, or wants others.
fn filled(bundle: &FluentBundle<FluentResource>, message: &str, args: &FluentArgs<'_>) -> Option<String> {
    let pattern = bundle.get_message(message)?.value()?;
    let mut errors = Vec::new();
    let text = bundle.format_pattern(pattern, Some(args), &mut errors).into_owned();
    errors.is_empty().then_some(text)
}

/// A name as it may stand in a sentence: somebody else has chosen it. Without line breaks and other controls, without marks that turn the text around,
/// and of bounded length.
fn harmless(name: &str) -> String {
    let is_mark = |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}');
    let kept = name.chars().map(|c| if c.is_control() { ' ' } else { c }).filter(|c| !is_mark(*c));
    let kept: String = kept.take(NAME_CHARS_MAX).collect();
    kept.trim().to_owned()
}

/// The language for somebody who reads `told`, about somebody who reads `other`.
#[must_use]
pub fn language(told: &[String], other: &[String]) -> Choice<'static> {
    let available: Vec<&'static str> = LANGUAGES.iter().map(|(tag, _)| *tag).collect();
    language::choose(told, other, &available, DEFAULT)
}

/// A sentence about `count` things of somebody called `name`, for somebody who reads `told`, while the other reads `other`. `None` can't come, as the
/// tests of all messages show: whatever happens is told without a sentence then.
#[must_use]
pub fn notice(sentence: Sentence, name: &str, count: u32, told: &[String], other: &[String]) -> Option<Notice> {
    in_language(language(told, other).language, sentence, name, count)
}

fn in_language(language: &str, sentence: Sentence, name: &str, count: u32) -> Option<Notice> {
    let words = WORDS.get(language)?;
    let mut args = FluentArgs::new();
    args.set("name", harmless(name));
    args.set("count", count);
    let known = sentence.message();
    let message = if words.shown.has_message(&known) { known } else { EventKind::NOTICE.to_string() };
    Some(Notice {
        language: language.to_owned(),
        direction: words.direction,
        text: filled(&words.shown, &message, &args)?,
        spoken: filled(&words.spoken, &message, &args)?,
        accept: filled(&words.shown, "accept", &args)?,
        decline: filled(&words.shown, "decline", &args)?,
        shown_on: None,
    })
}

impl Notice {
    /// The same, with a word on where it is shown.
    fn pointing_to(self, device: ShownOn) -> Self {
        let Some(words) = WORDS.get(self.language.as_str()) else { return self };
        let said = |bundle: &FluentBundle<FluentResource>, event: &str| {
            let mut args = FluentArgs::new();
            args.set("event", event);
            args.set("device", device.spoken());
            filled(bundle, SHOWN_ON, &args)
        };
        let (text, spoken) = (said(&words.shown, &self.text), said(&words.spoken, &self.spoken));
        Self { text: text.unwrap_or(self.text), spoken: spoken.unwrap_or(self.spoken), shown_on: Some(device), ..self }
    }
}

impl EventLoop {
    /// What this device's user is told of one thing that somebody does. Contacts are called as they want to be called; of anybody else only the verified
    /// username is shown, for they could call themselves like a contact.
    pub(crate) fn notice(&self, sentence: Sentence, about: &UserId) -> Option<Notice> {
        self.notice_shown(sentence, about, None)
    }

    /// The same of something that may be shown on another device.
    pub(crate) fn notice_shown(&self, sentence: Sentence, about: &UserId, shown_on: Option<ShownOn>) -> Option<Notice> {
        let roster = self.contacts.roster();
        let own = self.own_languages();
        let is_contact = matches!(roster.standing(about), Standing::Contact | Standing::Changed);
        let profile = roster.entry(about).filter(|_| is_contact).and_then(RosterEntry::profile);
        let name = profile.map(|profile| profile.display_name.clone()).filter(|name| !harmless(name).is_empty());
        let name = name.or_else(|| self.linked_name_of(about)).unwrap_or_else(|| self.labels.display(about));
        // Whoever isn't known has told the gateway, if it was one that brought this.
        let told = self.push_language().map(std::slice::from_ref);
        let languages = profile.map(|profile| profile.languages.as_slice()).or(told).unwrap_or_default();
        let notice = notice(sentence, &name, 1, &own, languages)?;
        Some(match shown_on {
            Some(device) => notice.pointing_to(device),
            None => notice,
        })
    }

    /// The same of something that somebody does who is no user, and is called `name`.
    pub(crate) fn notice_named(&self, sentence: Sentence, name: &str, shown_on: Option<ShownOn>) -> Option<Notice> {
        let notice = notice(sentence, name, 1, &self.own_languages(), &[])?;
        Some(match shown_on {
            Some(device) => notice.pointing_to(device),
            None => notice,
        })
    }

    /// Languages this user reads, best first.
    pub(crate) fn own_languages(&self) -> Vec<String> {
        let profile = self.contacts.roster().own().profile.as_ref().map(|card| card.profile.unverified().languages.clone());
        profile.filter(|languages| !languages.is_empty()).unwrap_or_else(|| self.settings.languages.clone())
    }
}

#[cfg(test)]
#[path = "wording/tests.rs"]
mod tests;
