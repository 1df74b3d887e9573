//! Goal: the README's first command works. Method: run it, and read its last line.

use std::time::Duration;

use halloo_tests::cli::Invocation;
use serde_json::Value;

const TOUR_TIME_MAX: Duration = Duration::from_secs(120);

#[test]
fn the_tour_of_a_local_network_works() {
    let output = Invocation::bare().args(["testnet", "--json"]).limit(TOUR_TIME_MAX).run();
    let lines: Vec<Value> = output.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON lines")).collect();
    let summary = lines.last().unwrap_or_else(|| panic!("no summary: {output:?}"));
    assert_eq!(summary["event"], "summary", "{output:?}");
    assert_eq!(summary["ok"], true, "{summary}");
    let stages = summary["stages"].as_array().expect("a list");
    assert!(!stages.is_empty() && stages.iter().all(|stage| stage["ok"] == true), "{summary}");
    assert_eq!(output.code, 0, "{output:?}");
}

#[test]
fn a_scenario_file_that_cannot_be_used_is_told() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let missing = folder.path().join("none.toml");
    let output = Invocation::bare().args(["testnet", "--json", "--scenario"]).args([&missing]).run();
    assert_eq!(output.code, 2, "{output:?}");
    let broken = folder.path().join("broken.toml");
    std::fs::write(&broken, "this is = = no TOML").expect("written");
    let output = Invocation::bare().args(["testnet", "--json", "--scenario"]).args([&broken]).run();
    assert_eq!(output.code, 2, "{output:?}");
    assert!(output.last_error().contains("broken.toml"), "{output:?}");
}
