use super::*;

const SENTENCES: [Sentence; 10] = [
    Sentence::Event(EventKind::MAIL),
    Sentence::Event(EventKind::NOTICE),
    Sentence::Event(EventKind::VOICE_CALL),
    Sentence::Event(EventKind::VIDEO_CALL),
    Sentence::Event(EventKind::MESSAGE),
    Sentence::Event(EventKind::MISSED_CALL),
    Sentence::Event(EventKind::CONTACT_REQUEST),
    Sentence::Event(EventKind::SELF_TEST),
    Sentence::Voicemail,
    Sentence::File,
];

fn tags(tags: &[&str]) -> Vec<String> {
    tags.iter().map(|tag| (*tag).to_owned()).collect()
}

fn said(language: &str, sentence: Sentence, count: u32) -> String {
    in_language(language, sentence, "Bob", count)
        .unwrap_or_else(|| panic!("{language} says nothing for {sentence:?} of {count}"))
        .spoken
}

/// The lint of all templates: each language has each sentence and both buttons, none wants a parameter that isn't given, the name is in it, and
/// numbers aren't lost.
#[test]
fn every_language_says_everything() {
    assert!(LANGUAGES.len() >= 20, "{}", LANGUAGES.len());
    for (language, messages) in LANGUAGES {
        FluentResource::try_new(messages.to_owned()).unwrap_or_else(|(_, errors)| panic!("{language}: {errors:?}"));
        for sentence in SENTENCES {
            for count in [1, 2, 3, 5, 11, 21, 100] {
                let Some(notice) = in_language(language, sentence, "Bob", count) else {
                    panic!("{language} says nothing for {sentence:?} of {count}")
                };
                let has_name = notice.text.contains("\u{2068}Bob\u{2069}") && notice.spoken.contains("Bob");
                assert!(has_name || sentence == Sentence::Event(EventKind::SELF_TEST), "{language}: {}", notice.text);
                assert!(!notice.spoken.contains(['{', '}', '\u{2068}', '\u{2069}']), "{language}: {}", notice.spoken);
                assert!(!notice.accept.is_empty() && !notice.decline.is_empty() && notice.accept != notice.decline, "{language}");
                let is_counted = matches!(
                    sentence,
                    Sentence::Event(EventKind::MESSAGE | EventKind::MISSED_CALL) | Sentence::Voicemail | Sentence::File
                );
                assert!(
                    !is_counted || count < 3 || notice.spoken.contains(&count.to_string()),
                    "{language}: {count}: {}",
                    notice.spoken
                );
            }
        }
    }
}

#[test]
fn every_language_says_where_something_is_shown() {
    let device = || ShownOn { peer_id: "12D3KooWabcdefgh".into(), name: Some("Tablet".into()) };
    for (language, _) in LANGUAGES {
        let notice = in_language(language, Sentence::File, "Bob", 1).expect("tested above").pointing_to(device());
        assert!(notice.text.contains("\u{2068}Bob\u{2069}") && notice.text.contains("\u{2068}Tablet\u{2069}"), "{}", notice.text);
        assert!(notice.spoken.contains("Bob") && notice.spoken.contains("Tablet"), "{}", notice.spoken);
        assert!(!notice.spoken.contains(['{', '}', '\u{2068}']), "{}", notice.spoken);
    }
    let english = || in_language("en", Sentence::File, "Bob", 1).expect("there");
    assert_eq!(english().pointing_to(device()).spoken, "Bob is sending you a file (shown on Tablet)");
    let nameless = ShownOn { name: Some("\u{202e}\n".into()), ..device() };
    assert_eq!(english().pointing_to(nameless).spoken, "Bob is sending you a file (shown on abcdefgh)");
}

#[test]
fn no_file_is_forgotten() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/wording");
    let mut files: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .filter_map(|entry| Some(entry.unwrap().file_name().to_str()?.strip_suffix(".ftl")?.to_owned()))
        .collect();
    files.sort();
    assert_eq!(files, LANGUAGES.map(|(tag, _)| tag));
}

#[test]
fn the_name_stands_where_the_language_puts_it() {
    let call = Sentence::Event(EventKind::VOICE_CALL);
    assert_eq!(said("en", call, 1), "Bob is calling");
    assert_eq!(said("fr", call, 1), "Appel de Bob");
    assert_eq!(said("tr", call, 1), "Bob arıyor");
    assert_eq!(said("ja", call, 1), "Bobさんから着信中");
}

#[test]
fn plurals_are_the_languages_own() {
    let missed = Sentence::Event(EventKind::MISSED_CALL);
    let ru = [1, 2, 5, 21].map(|count| said("ru", missed, count));
    assert_eq!(ru[0], "1 пропущенный звонок: Bob");
    assert_eq!(ru[1], "2 пропущенных звонка: Bob");
    assert_eq!(ru[2], "5 пропущенных звонков: Bob");
    assert_eq!(ru[3], "21 пропущенный звонок: Bob");
    let ar: std::collections::BTreeSet<String> = [1, 2, 3, 11].map(|count| said("ar", missed, count)).into_iter().collect();
    assert_eq!(ar.len(), 4);
    assert_eq!(said("de", missed, 1), "Verpasster Anruf von Bob");
}

#[test]
fn scripts_run_their_way() {
    let call = Sentence::Event(EventKind::VOICE_CALL);
    for (language, _) in LANGUAGES {
        let wanted = if ["ar", "fa", "he", "ur"].contains(&language) { Direction::Rtl } else { Direction::Ltr };
        assert_eq!(in_language(language, call, "Bob", 1).unwrap().direction, wanted, "{language}");
    }
}

#[test]
fn a_name_breaks_no_sentence() {
    let call = Sentence::Event(EventKind::VOICE_CALL);
    let notice = in_language("en", call, "Mal\u{202e}lory\n\u{2069}\u{2068} { $count }\u{7}", 1).unwrap();
    assert_eq!(notice.text, "\u{2068}Mallory  { $count }\u{2069} is calling");
    let long = in_language("en", call, &"x".repeat(1_000), 1).unwrap();
    assert_eq!(long.spoken, format!("{} is calling", "x".repeat(NAME_CHARS_MAX)));
}

#[test]
fn both_peoples_languages_decide() {
    let call = Sentence::Event(EventKind::VOICE_CALL);
    let told = |told: &[&str], other: &[&str]| notice(call, "Bob", 1, &tags(told), &tags(other)).unwrap().spoken;
    assert_eq!(told(&["fr", "de-CH"], &["de"]), "Bob ruft an");
    assert_eq!(told(&["fr", "de-CH"], &["it"]), "Appel de Bob");
    assert_eq!(told(&["rm"], &["it"]), "Chiamata da Bob");
    assert_eq!(told(&[], &[]), "Bob is calling");
}

#[test]
fn an_unknown_kind_is_a_notice() {
    assert_eq!(said("en", Sentence::Event(EventKind(999)), 1), "Something new from Bob");
}
