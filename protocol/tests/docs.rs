//! `docs/wire.md`, the golden vectors and the fuzz targets know every number that is given out in the sources.

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn sources(directory: &Path, found: &mut String) {
    for file in std::fs::read_dir(directory).expect("sources are there") {
        let path = file.expect("and can be listed").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).expect("sources are text");
            // Types of unit tests are nobody's business.
            found.push_str(text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default());
        }
    }
}

fn number(text: &str) -> Option<u16> {
    let digits = text.split("0x").nth(1)?;
    let digits: String = digits.chars().take_while(char::is_ascii_hexdigit).collect();
    u16::from_str_radix(&digits, 16).ok()
}

/// Every kind, by the name of its type: from `impl Message for T { const KIND .. }`, `impl Body for T { .. }` and `message!(T, ..)`.
fn kinds() -> BTreeMap<String, (u16, bool)> {
    let mut text = String::new();
    sources(&root().join("src"), &mut text);
    let mut kinds: BTreeMap<String, (u16, bool)> = BTreeMap::new();
    let mut of_request: Vec<(String, String)> = Vec::new();
    let mut current = None;
    for line in text.lines().map(str::trim) {
        let name = |rest: &str| rest.split([' ', '{', ',']).next().unwrap_or_default().to_string();
        if let Some(rest) = line.strip_prefix("impl Message for ") {
            current = Some((name(rest), true));
        } else if let Some(rest) = line.strip_prefix("impl Body for ") {
            current = Some((name(rest), false));
        } else if let Some(rest) = line.strip_prefix("message!(") {
            current = None;
            if let Some(kind) = number(rest) {
                kinds.insert(name(rest), (with_bits(rest, kind), true));
            }
        } else if line.starts_with("const KIND")
            && let Some((name, is_message)) = current.take()
        {
            match number(line) {
                Some(kind) => drop(kinds.insert(name, (with_bits(line, kind), is_message))),
                None => {
                    let request = line.split("| ").nth(1).and_then(|rest| rest.split("::").next());
                    if let Some(request) = request {
                        of_request.push((name, request.into()));
                    }
                }
            }
        }
    }
    for (answer, request) in of_request {
        let kind = kinds.get(&request).unwrap_or_else(|| panic!("{answer} answers {request}, which has no kind")).0;
        kinds.insert(answer, (kind | 0x8000, true));
    }
    kinds.retain(|name, _| !name.starts_with('$'));
    kinds
}

fn with_bits(line: &str, kind: u16) -> u16 {
    let answer = if line.contains("ANSWER") { 0x8000 } else { 0 };
    let notice = if line.contains("NOTICE") { 0x4000 } else { 0 };
    kind | answer | notice
}

#[test]
fn every_kind_is_in_the_registry() {
    let document = read("../docs/wire.md");
    let kinds = kinds();
    assert!(kinds.len() >= 48, "the sources are read: {}", kinds.len());
    for (name, (kind, _)) in &kinds {
        let row = format!("| `{kind:#06x}` | {name} |");
        assert!(document.contains(&row), "docs/wire.md has no row `{row}`");
    }
}

#[test]
fn every_row_of_the_registry_is_a_kind() {
    let document = read("../docs/wire.md");
    let known: Vec<String> = kinds().iter().map(|(name, (kind, _))| format!("| `{kind:#06x}` | {name} |")).collect();
    let registry = document.split("## 5. Registry of numbers").nth(1).and_then(|rest| rest.split("\n## 6").next());
    for row in registry.expect("the registry is there").lines().filter(|line| line.starts_with("| `0x")) {
        assert!(known.iter().any(|start| row.starts_with(start.as_str())), "nothing in the sources is {row}");
    }
}

/// 65520 as 65,520.
fn grouped(number: usize) -> String {
    if number < 1_000 { number.to_string() } else { format!("{},{:03}", grouped(number / 1_000), number % 1_000) }
}

#[test]
fn the_limits_of_the_registry_are_those_of_the_code() {
    let document = read("../docs/wire.md");
    for (kind, name, limit) in support::vectors::all().iter().filter_map(|vector| vector.registered) {
        let start = format!("| `{kind:#06x}` | {name} |");
        let row = document.lines().find(|line| line.starts_with(&start)).unwrap_or_else(|| panic!("no row {start}"));
        assert!(row.contains(&format!("| {} |", grouped(limit))), "the limit is {}: {row}", grouped(limit));
    }
}

#[test]
fn no_kind_is_given_out_twice() {
    for is_message in [true, false] {
        let mut seen = BTreeMap::new();
        for (name, (kind, _)) in kinds().into_iter().filter(|(_, (_, message))| *message == is_message) {
            if let Some(other) = seen.insert(kind, name.clone()) {
                panic!("{kind:#06x} is {other} and {name}");
            }
        }
    }
}

#[test]
fn every_type_has_a_golden_vector_and_is_fuzzed() {
    let (table, fuzzed) = (read("tests/support/vectors.rs"), read("fuzz/src/lib.rs"));
    for (name, (_, is_message)) in kinds() {
        let line = format!("=> {} {name} =", if is_message { "message" } else { "signed" });
        assert!(table.contains(&line), "tests/support/vectors.rs has no `{line}`");
        assert!(fuzzed.contains(&format!("::{name},")), "fuzz/src/lib.rs doesn't list {name}");
    }
}
