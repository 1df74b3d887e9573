//! Finding the `halloo` binary that belongs to the running test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::SystemTime;

/// Overrides which binary is tested.
const VARIABLE: &str = "HALLOO_BIN";

/// The `halloo` binary of this build, built first if it is missing or older than its sources.
///
/// # Panics
/// If it can't be built, or `HALLOO_BIN` names no file.
#[must_use]
pub fn halloo() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(find)
}

/// The workspace's root.
#[must_use]
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn find() -> PathBuf {
    if let Some(path) = std::env::var_os(VARIABLE) {
        let path = PathBuf::from(path);
        assert!(path.is_file(), "{VARIABLE} names {}, which is no file", path.display());
        return path;
    }
    let test = std::env::current_exe().expect("the test has a path");
    // target/PROFILE/deps/scenarios-HASH -> target/PROFILE/halloo
    let profile = test.parent().and_then(Path::parent).expect("cargo puts tests two levels below the profile's directory");
    let binary = profile.join("halloo");
    if is_stale(&binary) {
        build(profile);
    }
    assert!(binary.is_file(), "{} is missing: run `cargo build --workspace`, or set {VARIABLE}", binary.display());
    binary
}

fn is_stale(binary: &Path) -> bool {
    let Ok(built) = std::fs::metadata(binary).and_then(|data| data.modified()) else { return true };
    let root = workspace();
    ["node/src", "protocol/src", "relay/src"].iter().any(|folder| has_newer(&root.join(folder), built))
}

fn has_newer(folder: &Path, than: SystemTime) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else { return false };
    entries.flatten().any(|entry| match entry.metadata() {
        Ok(data) if data.is_dir() => has_newer(&entry.path(), than),
        Ok(data) => data.modified().is_ok_and(|modified| modified > than),
        Err(_) => false,
    })
}

/// Builds as `cargo build --workspace` does, so that both share their artefacts.
fn build(profile: &Path) {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace()).args(["build", "--quiet", "--workspace", "--bin", "halloo"]);
    if profile.ends_with("release") {
        command.arg("--release");
    }
    let status = command.status().expect("cargo runs");
    assert!(status.success(), "the halloo binary does not build: {status}");
}
