//! The README quotes `durability.json`, and types no number of it.

use serde_json::Value;

use crate::quoted;

#[test]
fn the_readme_says_what_the_durability_campaign_found() {
    let report: Value = serde_json::from_str(include_str!("../../durability.json")).expect("JSON");
    let readme = include_str!("../../README.md");
    let quoted = quoted::quote(readme, &report).expect("the README has the part");
    assert!(
        quoted == readme,
        "run `cargo run --release --example durability -- --quote README.md` to quote the file anew"
    );
    assert_eq!(report["passed"], true, "nothing else is published");
    let campaigns = report["campaigns"].as_object().expect("campaigns");
    for (name, count, least) in [
        ("power-cuts", "cuts", 100_000),
        ("damages", "damages", 10_000),
        ("io-faults", "faults", 1_000),
        ("kills", "cycles", 1_000),
    ] {
        let done = campaigns[name][count].as_u64().expect("a count");
        assert!(done >= least, "{name}: {done} of at least {least}");
        assert_eq!(campaigns[name]["lost"], 0, "{name}");
    }
}

#[test]
fn the_readme_lists_the_routing_language_s_deviations_as_the_code_does() {
    let rows = |text: &'static str, from: &str, line_start: &str| -> Vec<&'static str> {
        let part = &text[text.find(from).expect("the part is there")..];
        let rows = part.lines().skip(1).skip_while(|line| !line.starts_with(line_start));
        // The head of the table and the line below it.
        let rows = rows.take_while(|line| line.starts_with(line_start)).skip(2);
        rows.map(|line| &line[line_start.len()..]).collect()
    };
    let code = include_str!("../../src/route/mod.rs");
    let code = rows(code, "# On purpose different from the reference", "//! |");
    let readme = rows(include_str!("../../README.md"), "### The routing language", "|");
    assert!(code.len() > 20, "{code:?}");
    assert_eq!(readme, code);
}
