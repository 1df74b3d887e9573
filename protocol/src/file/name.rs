//! Names of files that come from others.
//!
//! A name decides where something lands on the receiver's disk and what a person believes it is. So what is left of it is a name alone: no
//! path, nothing hidden, nothing that steers a terminal or turns the order of its letters round, nothing a file system gives a meaning.

/// Longest name, in bytes: file systems take 255, and the receiver may have to add something.
pub const FILE_NAME_BYTES_MAX: usize = 200;

/// What is made of a name of which nothing is left.
const NAMELESS: &str = "file";

/// Longest extension that is kept when a name has to be cut, in bytes, dot included.
const EXTENSION_BYTES_MAX: usize = 16;

/// Names that are devices on Windows, whatever follows a dot.
const DEVICE_NAMES: [&str; 22] = [
    "con", "prn", "aux", "nul", "com1", "com2", "com3", "com4", "com5", "com6", "com7", "com8", "com9", "lpt1", "lpt2", "lpt3",
    "lpt4", "lpt5", "lpt6", "lpt7", "lpt8", "lpt9",
];

/// True if the name may be used as it is: [`clean_name`] would change nothing.
#[must_use]
pub fn is_clean_name(name: &str) -> bool {
    clean_name(name) == name
}

/// The last part of a path, without what makes a name dangerous; always a usable name of at most [`FILE_NAME_BYTES_MAX`] bytes.
///
/// Characters that would be dangerous are replaced by `_`, invisible ones that change the writing direction are left out.
#[must_use]
pub fn clean_name(name: &str) -> String {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let kept: String = last.chars().filter(|c| !is_invisible(*c)).map(|c| if is_forbidden(c) { '_' } else { c }).collect();
    let trimmed = trim(&kept);
    let stem = trimmed.split('.').next().unwrap_or_default().trim_end().to_ascii_lowercase();
    let named = match trimmed {
        "" => NAMELESS.to_owned(),
        device if DEVICE_NAMES.contains(&stem.as_str()) => format!("_{device}"),
        plain => plain.to_owned(),
    };
    shorten(&named)
}

/// Leading dots hide a file, trailing ones and spaces are dropped by some systems and not by others.
fn trim(name: &str) -> &str {
    name.trim_start_matches(|c: char| c == '.' || c.is_whitespace()).trim_end_matches(|c: char| c == '.' || c.is_whitespace())
}

fn is_forbidden(c: char) -> bool {
    matches!(c, '<' | '>' | ':' | '"' | '|' | '?' | '*' | '/' | '\\') || c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}

/// Marks of direction, joiners that show nothing, byte order marks and tags.
const fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{61c}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

/// Cuts the stem, so that the extension stays.
fn shorten(name: &str) -> String {
    if name.len() <= FILE_NAME_BYTES_MAX {
        return name.to_owned();
    }
    let extension =
        name.rfind('.').map(|at| &name[at..]).filter(|extension| extension.len() <= EXTENSION_BYTES_MAX).unwrap_or_default();
    let stem = &name[..name.len() - extension.len()];
    let mut end = (FILE_NAME_BYTES_MAX - extension.len()).min(stem.len());
    while !stem.is_char_boundary(end) {
        end -= 1;
    }
    // Cutting can leave a space or a dot at the end of the stem, which is fine before an extension and not without one.
    let cut = format!("{}{extension}", &stem[..end]);
    match trim(&cut) {
        "" => NAMELESS.to_owned(),
        whole => whole.to_owned(),
    }
}
