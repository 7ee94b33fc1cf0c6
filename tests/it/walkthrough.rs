//! The walk-through in `docs/`: both languages have the same steps and commands, and what they name is there.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// One language's page, with what its four parts of a step begin with.
struct Page {
    file: &'static str,
    text: &'static str,
    parts: [&'static str; 4],
}

const ENGLISH: Page = Page {
    file: "walkthrough.en.md",
    text: include_str!("../../docs/walkthrough.en.md"),
    parts: ["**Do", "**You should see**", "**Check", "**What goes wrong.**"],
};

const FRENCH: Page = Page {
    file: "walkthrough.fr.md",
    text: include_str!("../../docs/walkthrough.fr.md"),
    parts: ["**Faire", "**Vous devez voir**", "**Vérifier", "**Ce qui coince.**"],
};

const PAGES: [&Page; 2] = [&ENGLISH, &FRENCH];

/// A fenced block: in which step it is (0 before the first), its language, its lines.
#[derive(Debug, PartialEq)]
struct Block {
    step: usize,
    language: String,
    lines: Vec<String>,
}

impl Block {
    fn text(&self) -> String {
        self.lines.join("\n")
    }
}

/// The lines outside fences, each with the step that it belongs to, and the fenced blocks.
fn split(text: &str) -> (Vec<(usize, String)>, Vec<Block>) {
    let (mut prose, mut blocks, mut step) = (Vec::new(), Vec::new(), 0);
    let mut open: Option<Block> = None;
    for line in text.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(language)) => {
                open = Some(Block { step, language: language.to_owned(), lines: Vec::new() });
            }
            (Some(_), Some(rest)) => {
                assert_eq!(rest, "", "a fence ends without a word behind it");
                blocks.extend(open.take());
            }
            (Some(block), None) => block.lines.push(line.to_owned()),
            (None, None) => {
                step = number_of(line).unwrap_or(step);
                prose.push((step, line.to_owned()));
            }
        }
    }
    assert!(open.is_none(), "the last fence is closed");
    (prose, blocks)
}

/// `## 3. Make ..` is step 3.
fn number_of(line: &str) -> Option<usize> {
    line.strip_prefix("## ")?.split_once(". ")?.0.parse().ok()
}

fn steps(page: &Page) -> Vec<usize> {
    page.text.lines().filter_map(number_of).collect()
}

/// Without comments: they are in the page's language.
fn without_comments(block: Block) -> Block {
    let lines = block.lines.into_iter().filter(|line| !line.trim_start().starts_with('#'));
    let cut = |line: String| line.split("  #").next().unwrap_or_default().trim_end().to_owned();
    Block { lines: lines.map(cut).collect(), ..block }
}

#[test]
fn both_languages_have_the_same_steps_and_commands() {
    assert_eq!(steps(&ENGLISH), (1..=17).collect::<Vec<_>>());
    assert_eq!(steps(&FRENCH), steps(&ENGLISH));
    let blocks =
        |page: &Page| split(page.text).1.into_iter().map(without_comments).collect::<Vec<Block>>();
    let (english, french) = (blocks(&ENGLISH), blocks(&FRENCH));
    for (a, b) in english.iter().zip(&french) {
        assert_eq!(a, b, "the blocks differ, or are not in the same place");
    }
    assert_eq!(english.len(), french.len());
    assert!(english.len() > 40, "the pages have their commands");
}

#[test]
fn each_step_says_what_to_do_to_see_to_check_and_what_goes_wrong() {
    for page in PAGES {
        let (prose, _) = split(page.text);
        for step in steps(page) {
            let lines = || prose.iter().filter(move |(of, _)| *of == step).map(|(_, line)| line);
            let places: Vec<Vec<usize>> = page
                .parts
                .iter()
                .map(|part| lines().enumerate().filter(move |(_, l)| l.starts_with(part)))
                .map(|found| found.map(|(at, _)| at).collect())
                .collect();
            let once = places.iter().all(|found| found.len() == 1);
            assert!(once && places.is_sorted(), "{} step {step}: {places:?}", page.file);
        }
    }
}

/// What a command line of the pages gives to the gateway's binary: on its own, in the container, or as the image's command.
fn arguments(line: &str) -> Vec<Vec<String>> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let is_binary = |word: &str| {
        ["sphere-gateway", "/sphere-gateway"].contains(&word)
            || (line.contains("docker run ") && word.ends_with("/sphere-gateway:$TAG\""))
    };
    let ends = |word: &&&str| !["|", "||", "&&", ">", "2>&1", "\\"].contains(*word);
    let behind = |at: usize| words[at + 1..].iter().take_while(ends).map(ToString::to_string);
    let found = words.iter().enumerate().filter(|(_, word)| is_binary(word));
    found.map(|(at, _)| behind(at).collect()).collect()
}

/// The texts between single backticks.
fn code_spans(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// The binary's help texts, each asked for once.
#[derive(Default)]
struct Help(BTreeMap<Vec<String>, String>);

impl Help {
    fn of(&mut self, path: &[String]) -> &str {
        self.0.entry(path.to_vec()).or_insert_with(|| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_sphere-gateway"));
            let output = command.args(path).arg("--help").env_clear().output().expect("it runs");
            assert!(output.status.success(), "{path:?} --help");
            String::from_utf8(output.stdout).expect("UTF-8")
        })
    }

    /// Its subcommands, if it has any.
    fn commands(&mut self, path: &[String]) -> Vec<String> {
        let lines = self.of(path).lines().skip_while(|line| *line != "Commands:").skip(1);
        let names = lines.take_while(|line| !line.is_empty()).filter_map(|line| {
            line.strip_prefix("  ").filter(|l| !l.starts_with(' '))?.split(' ').next()
        });
        names.map(str::to_owned).collect()
    }

    /// Walks down the subcommands, and looks for each option where it stands; gives the subcommand.
    fn check(&mut self, arguments: &[String]) -> Result<String, String> {
        let mut path = Vec::new();
        let mut is_value = false;
        for argument in arguments {
            if std::mem::take(&mut is_value) {
                continue;
            }
            if argument.starts_with("--") {
                let name = argument.split('=').next().unwrap_or_default();
                let help = self.of(&path);
                let is_end = |c: char| !c.is_ascii_alphanumeric() && c != '-';
                if !help.split(is_end).any(|word| word == name) {
                    return Err(format!("{path:?} has no option {name}"));
                }
                is_value = argument == name && help.contains(&format!("{name} <"));
                continue;
            }
            let commands = self.commands(&path);
            if commands.contains(argument) {
                path.push(argument.clone());
            } else if !commands.is_empty() {
                return Err(format!("{path:?} has no subcommand {argument}"));
            }
        }
        Ok(path.join(" "))
    }
}

#[test]
fn every_command_of_the_gateway_is_there() {
    let mut help = Help::default();
    for page in PAGES {
        let (prose, blocks) = split(page.text);
        let spans = prose.iter().flat_map(|(_, line)| code_spans(line));
        let fenced = blocks.iter().flat_map(|block| block.lines.iter().map(String::as_str));
        let mut seen = BTreeSet::new();
        for arguments in spans.chain(fenced).flat_map(arguments) {
            match help.check(&arguments) {
                Ok(command) => seen.insert(command),
                Err(why) => panic!("{}: {arguments:?}: {why}", page.file),
            };
        }
        for command in ["certs", "check", "doctor disk", "health", "queue export", "routes check"] {
            assert!(seen.contains(command), "{}: {command} is not in {seen:?}", page.file);
        }
    }
    // The check can fail.
    let words = |line: &str| arguments(line).remove(0);
    assert!(help.check(&words("sudo docker exec edgeHub /sphere-gateway chek")).is_err());
    assert!(help.check(&words("sphere-gateway queue --jso | less")).is_err());
}

/// The anchor that GitHub makes of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

fn anchors(text: &str) -> BTreeSet<String> {
    let (prose, _) = split(text);
    let headings = prose.iter().map(|(_, line)| line).filter(|line| line.starts_with('#'));
    headings.map(|line| anchor(line.trim_start_matches('#').trim())).collect()
}

/// The targets of a page's links.
fn links(text: &str) -> Vec<String> {
    let (prose, _) = split(text);
    let of_line = |(_, line): (usize, String)| -> Vec<String> {
        let ends = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        ends.map(str::to_owned).collect()
    };
    prose.into_iter().flat_map(of_line).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    for page in PAGES {
        let links = links(page.text);
        assert!(links.len() > 20, "{}: the contents, at least", page.file);
        for link in links {
            assert!(!link.contains("://"), "{}: {link} leaves the repository", page.file);
            let (file, part) = link.split_once('#').unwrap_or((&link, ""));
            let path: PathBuf = docs.join(if file.is_empty() { page.file } else { file });
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(!text.is_empty(), "{}: {link}: there is no such file", page.file);
            let is_there = part.is_empty() || anchors(&text).contains(part);
            assert!(is_there, "{}: {link}: there is no such part", page.file);
        }
        let contents = steps(page).len();
        let to_steps = self::links(page.text).into_iter().filter(|link| {
            link.strip_prefix('#').is_some_and(|l| l.starts_with(|c: char| c.is_ascii_digit()))
        });
        assert_eq!(to_steps.count(), contents, "{}: each step is in the contents", page.file);
    }
}

/// Runs a program with `input`; its exit status and what it said.
fn fed(command: &mut Command, input: &str) -> (bool, String) {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(input.as_bytes()).expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn the_blocks_are_what_they_say() {
    let (_, blocks) = split(ENGLISH.text);
    for block in &blocks {
        match block.language.as_str() {
            "sh" => {
                let (is_fine, said) = fed(Command::new("sh").arg("-n"), &block.text());
                assert!(is_fine, "step {}: {said}", block.step);
            }
            "json" => {
                let json: Result<Value, _> = serde_json::from_str(&block.text());
                assert!(json.is_ok_and(|json| json.is_object()), "step {}", block.step);
            }
            "toml" | "text" => {}
            other => panic!("step {}: a fence of language {other:?}", block.step),
        }
    }
    let is_create_options = |block: &&Block| block.text().contains("PortBindings");
    let options = blocks.iter().find(is_create_options).expect("they are there").text();
    // createOptions and createOptions01 to 07, 512 characters each (machine.md 7); the portal folds the lines itself.
    assert!(options.split_whitespace().collect::<String>().len() < 512);
}

#[test]
fn the_two_routes_run() {
    let (_, blocks) = split(ENGLISH.text);
    let routes = blocks.iter().find(|block| block.text().contains("INTO $upstream"));
    let lines = &routes.expect("they are there").lines;
    let named = lines.iter().map(|line| line.split_once(' ').expect("a name and a route"));
    let named = named.map(|(name, route)| (name.to_owned(), Value::from(route.trim())));
    let document = serde_json::json!({
        "schemaVersion": "1.1",
        "routes": Value::Object(named.collect()),
        "storeAndForwardConfiguration": { "timeToLiveSecs": 604_800 },
    });
    let mut check = Command::new(env!("CARGO_BIN_EXE_sphere-gateway"));
    let (is_fine, said) = fed(check.args(["routes", "check", "-"]), &document.to_string());
    assert!(is_fine && said.contains("2 routes run"), "{said}");
}
