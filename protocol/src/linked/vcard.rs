//! Address books: who is in a file of vCards (RFC 6350, and version 3.0 of RFC 2426), by mail address, telephone number and SIP address.

use std::collections::BTreeMap;

use super::id::{LinkedId, System};

/// Addresses taken of one file.
pub const BOOK_ENTRIES_MAX: usize = 5_000;

/// Longest file read, in bytes: pictures may be in it.
pub const BOOK_BYTES_MAX: usize = 64 * 1_024 * 1_024;

/// Longest line looked at once its pieces are joined; longer ones are pictures.
const LINE_BYTES_MAX: usize = 2_048;

/// Longest name taken.
const NAME_CHARS_MAX: usize = 128;

/// Who is in an address book, and by what name. What isn't an address here, as a number without its country, is passed over; so is what is beyond [`BOOK_ENTRIES_MAX`].
#[must_use]
pub fn read_book(text: &str) -> BTreeMap<LinkedId, Option<String>> {
    let mut book = BTreeMap::new();
    let mut card = Card::default();
    for line in unfolded(text) {
        let Some((name, value)) = line.split_once(':') else { continue };
        match property(name).as_str() {
            "BEGIN" => card = Card::default(),
            "FN" => card.name = name_of(value),
            "EMAIL" => card.ids.extend(LinkedId::new(System::Mail, value.trim().trim_start_matches("mailto:"))),
            "TEL" => card.ids.extend(phone(value)),
            "IMPP" | "X-SIP" => card.ids.extend(sip(value, property(name) == "X-SIP")),
            "END" => {
                for id in std::mem::take(&mut card.ids) {
                    if book.len() < BOOK_ENTRIES_MAX || book.contains_key(&id) {
                        book.insert(id, card.name.clone());
                    }
                }
            }
            _ => {}
        }
        card.ids.truncate(BOOK_ENTRIES_MAX);
    }
    book
}

#[derive(Default)]
struct Card {
    name: Option<String>,
    ids: Vec<LinkedId>,
}

/// The lines that are looked at, one after the other, with those joined that were folded (RFC 6350 section 3.2); too long ones are cut.
fn unfolded(text: &str) -> impl Iterator<Item = String> {
    let mut lines = text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line)).peekable();
    std::iter::from_fn(move || {
        // What continues a line that isn't looked at isn't either.
        let first = lines.find(|line| !line.starts_with([' ', '\t']) && is_of_interest(line))?;
        let mut whole = first[..first.floor_char_boundary(LINE_BYTES_MAX)].to_owned();
        while let Some(more) = lines.peek().copied().and_then(|line| line.strip_prefix([' ', '\t'])) {
            let room = LINE_BYTES_MAX.saturating_sub(whole.len());
            whole.push_str(&more[..more.floor_char_boundary(room)]);
            lines.next();
        }
        Some(whole)
    })
}

fn is_of_interest(line: &str) -> bool {
    let name = line.split(':').next().unwrap_or_default();
    name.len() <= LINE_BYTES_MAX && matches!(property(name).as_str(), "BEGIN" | "END" | "FN" | "EMAIL" | "TEL" | "IMPP" | "X-SIP")
}

/// The name of a property, without its group and parameters: `item1.EMAIL;TYPE=home`.
fn property(name: &str) -> String {
    let name = name.split(';').next().unwrap_or_default();
    name.rsplit('.').next().unwrap_or_default().to_ascii_uppercase()
}

fn phone(value: &str) -> Option<LinkedId> {
    let value = value.trim();
    let number = value.strip_prefix("tel:").unwrap_or(value);
    LinkedId::new(System::Phone, number.split(';').next().unwrap_or_default()).ok()
}

/// A SIP address of record (RFC 4770 has it in IMPP), without what says how to get there. Where nothing else can be meant, its scheme may be missing.
fn sip(value: &str, is_only_sip: bool) -> Option<LinkedId> {
    let value = value.trim();
    let (scheme, rest) = value.split_once(':').unwrap_or_default();
    let address = match scheme.to_ascii_lowercase().as_str() {
        "sip" | "sips" => rest,
        _ if is_only_sip => value,
        _ => return None,
    };
    LinkedId::new(System::Sip, address.split([';', '?']).next().unwrap_or_default()).ok()
}

fn name_of(value: &str) -> Option<String> {
    let mut name = String::new();
    let mut rest = value.trim().chars();
    while let Some(next) = rest.next() {
        // RFC 6350 section 3.4.
        name.push(match next {
            '\\' => match rest.next() {
                Some('n' | 'N') | None => ' ',
                Some(other) => other,
            },
            other => other,
        });
    }
    let name: String = name.chars().filter(|c| !c.is_control()).take(NAME_CHARS_MAX).collect();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOK: &str = "BEGIN:VCARD\r\nVERSION:3.0\r\nFN:Lovelace\\, Ada\r\nPHOTO;ENCODING=b:AAAA\r\n BBBB\r\n\
        item1.EMAIL;type=INTERNET:Ada@Example.org\r\nTEL;TYPE=CELL:+49 (30) 123-456\r\nTEL:030 123456\r\nEND:VCARD\r\n\
        BEGIN:VCARD\nVERSION:4.0\nFN:Very long na\n me\nEMAIL:mailto:bob@example.org\nTEL;VALUE=uri:tel:+1-555-0100;ext=5\n\
        IMPP;TYPE=work:sip:bob@Example.org;transport=tls\nIMPP:xmpp:bob@example.org\nitem2.X-SIP:bob@pbx.example\nEND:VCARD\n\
        BEGIN:VCARD\nEMAIL:nobody\nEND:VCARD\n";

    #[test]
    fn addresses_are_found_in_both_versions() {
        let book = read_book(BOOK);
        let entries: Vec<(String, Option<&str>)> = book.iter().map(|(id, name)| (id.to_string(), name.as_deref())).collect();
        let expected = [
            ("mailto:ada@example.org", Some("Lovelace, Ada")),
            ("mailto:bob@example.org", Some("Very long name")),
            ("tel:+15550100", Some("Very long name")),
            ("tel:+4930123456", Some("Lovelace, Ada")),
            ("sip:bob@example.org", Some("Very long name")),
            ("sip:bob@pbx.example", Some("Very long name")),
        ];
        assert_eq!(entries, expected.map(|(id, name)| (id.to_owned(), name)));
    }

    #[test]
    fn a_line_that_isnt_looked_at_goes_on_as_one() {
        let text = "BEGIN:VCARD\nFN:bob\nNOTE:see\n EMAIL:eve@example.org\n\tx.EMAIL:eve@example.org\nEMAIL:bob@exam\n ple.org\nEND:VCARD";
        let found: Vec<String> = read_book(text).keys().map(ToString::to_string).collect();
        assert_eq!(found, ["mailto:bob@example.org"]);
    }

    #[test]
    fn one_card_takes_no_more_than_a_book() {
        let many: String = (0..BOOK_ENTRIES_MAX + 10).map(|number| format!("EMAIL:a{number}@b.example\n")).collect();
        assert_eq!(read_book(&format!("BEGIN:VCARD\n{many}END:VCARD\n")).len(), BOOK_ENTRIES_MAX);
    }

    #[test]
    fn what_is_no_book_is_an_empty_one_and_a_large_one_is_cut() {
        for text in ["", "\n\n :", "EMAIL:a@b.example", "BEGIN:VCARD\nEMAIL:a@b.example", ":::\n \n", "\u{feff}END:VCARD"] {
            assert!(read_book(text).is_empty(), "{text:?}");
        }
        let card = |number: usize| format!("BEGIN:VCARD\nFN:{}\nEMAIL:a{number}@b.example\nEND:VCARD\n", "n".repeat(5_000));
        let many: String = (0..BOOK_ENTRIES_MAX + 10).map(card).collect();
        let book = read_book(&many);
        assert_eq!(book.len(), BOOK_ENTRIES_MAX);
        assert!(book.values().all(|name| name.as_ref().is_some_and(|name| name.len() == NAME_CHARS_MAX)));
    }
}
