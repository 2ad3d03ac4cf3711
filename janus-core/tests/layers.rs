//! Holds the layout of the crate: each folder knows only the folders on the floors below, each file has a place in a
//! map, and no file grows beyond what a reader takes in.
//!
//! The test reads the sources as text: every path that begins with `crate::`, in `use` lines and in code, but not in
//! comments and strings.

#![expect(clippy::unwrap_used, reason = "a test that meets what it does not expect has failed")]

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// The floors from the ground up. A folder or file knows the folders and files of the floors below, and no other on its
/// own floor.
const FLOORS: &[&[&str]] = &[
    // `supervision` is the crate janus-supervision, under its name in this crate.
    &["supervision", "wire"],
    // The client knows the wire alone: a program with a client carries no server.
    &["client", "config"],
    &["ground", "engine"],
    &["accounts"],
    &["delivery", "hooks"],
    &["topic"],
    &["session"],
    &["connection"],
    &["instance"],
    &["typed"],
    &["conformance", "simulation", "internals", "testing"],
    // The root: the exported names of the crate, which the floors themselves do not use.
    &["lib"],
];

/// Folders whose code may use the exported names as any user of the crate: the conformance suite, the simulation, the
/// servers and clients for tests.
const USERS: &[&str] = &["conformance", "simulation", "internals", "testing"];

/// Lines of a file without its tests.
const MAX_LINES: usize = 800;

struct Source {
    /// Relative to `src`, with `/`.
    path: String,
    text: String,
}

impl Source {
    fn room(&self) -> &str {
        let first = self.path.split('/').next().unwrap_or_default();
        first.strip_suffix(".rs").unwrap_or(first)
    }
}

fn floor_of(room: &str) -> Option<usize> {
    FLOORS.iter().position(|rooms| rooms.contains(&room))
}

fn read(folder: &Path, prefix: &str, sources: &mut Vec<Source>) {
    let mut entries: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            read(&path, &format!("{prefix}{name}/"), sources);
        } else if name.ends_with(".rs") {
            sources.push(Source { path: format!("{prefix}{name}"), text: fs::read_to_string(&path).unwrap() });
        }
    }
}

fn sources_of(folder: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), "", &mut sources);
    assert!(sources.len() > 10, "the sources are found");
    sources
}

fn sources() -> Vec<Source> {
    sources_of("src")
}

/// The sources of the crates that are libraries.
fn crates() -> [Vec<Source>; 4] {
    ["src", "supervision/src", "../janus-server/access/src", "../janus-api/src"].map(sources_of)
}

/// The code of a line, without comments and without the contents of strings.
fn code(line: &str) -> String {
    let mut code = String::new();
    let (mut in_string, mut characters) = (false, line.chars().peekable());
    while let Some(character) = characters.next() {
        match character {
            '\\' if in_string => drop(characters.next()),
            '"' => in_string = !in_string,
            '/' if !in_string && characters.peek() == Some(&'/') => break,
            _ if in_string => {}
            _ => code.push(character),
        }
    }
    code
}

/// The first segment of each path that begins with `crate::`, with its line; of a group, the first segment of each
/// member.
fn crate_paths(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let code: String = text.lines().map(|line| code(line) + "\n").collect();
    for (start, _) in code.match_indices("crate::") {
        let is_crate = !code[..start].ends_with(|before: char| before.is_alphanumeric() || "_$:".contains(before));
        if !is_crate {
            continue;
        }
        let line = code[..start].matches('\n').count() + 1;
        let rest = &code[start + "crate::".len()..];
        match rest.strip_prefix('{') {
            None => found.push((line, first_segment(rest))),
            Some(group) => {
                let mut depth = 1;
                let mut at_start = true;
                for (index, character) in group.char_indices() {
                    match character {
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        ',' if depth == 1 => at_start = true,
                        _ if depth == 1 && at_start && (character.is_alphabetic() || character == '_') => {
                            found.push((line, first_segment(&group[index..])));
                            at_start = false;
                        }
                        _ => {}
                    }
                    if depth == 0 {
                        break;
                    }
                }
            }
        }
    }
    found
}

fn first_segment(path: &str) -> String {
    path.chars().take_while(|character| character.is_alphanumeric() || *character == '_').collect()
}

/// A line for each import that runs up, or sideways.
fn upward_imports(sources: &[Source]) -> String {
    let mut wrong = String::new();
    for source in sources {
        let room = source.room();
        let Some(floor) = floor_of(room) else {
            let _ = writeln!(wrong, "src/{}: give `{room}` a floor in tests/layers.rs", source.path);
            continue;
        };
        for (line, target) in crate_paths(&source.text) {
            // A name without a folder or file is exported by lib.rs.
            let target_floor = floor_of(&target).unwrap_or(FLOORS.len() - 1);
            let exported = floor_of(&target).is_none();
            if target == room || target_floor < floor || exported && (USERS.contains(&room) || room == "lib") {
                continue;
            }
            let _ = writeln!(wrong, "src/{}:{line}: `{room}` must not know `crate::{target}`", source.path);
        }
    }
    wrong
}

/// A line for each file missing from its map. The map of a file is the header of `lib.rs`, of the folder's `mod.rs`, or
/// of the parent module's file.
fn unmapped_files(sources: &[Source]) -> String {
    let header = |path: &str| -> String {
        let source = sources.iter().find(|source| source.path == path);
        let lines = source.map(|source| source.text.lines()).into_iter().flatten();
        lines.take_while(|line| line.starts_with("//")).collect::<Vec<_>>().join("\n")
    };
    let mut wrong = String::new();
    for Source { path, .. } in sources {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        if path == "lib.rs" || name == "tests.rs" {
            continue;
        }
        let named = |map: String, name: &str| map.contains(&format!("`{name}`"));
        let is_named = match (folder, name) {
            ("", name) => named(header("lib.rs"), name),
            (folder, "mod.rs") => {
                let (map, inner) = match folder.rsplit_once('/') {
                    Some((parent, inner)) => (format!("{parent}/mod.rs"), inner),
                    None => ("lib.rs".to_owned(), folder),
                };
                named(header(&map), &format!("{inner}/"))
            }
            (folder, name) => {
                let (parent, inner) = folder.rsplit_once('/').unwrap_or(("", folder));
                named(header(&format!("{folder}/mod.rs")), name)
                    || named(header(&format!("{folder}.rs")), name)
                    || named(header(&format!("{parent}/mod.rs")), &format!("{inner}/{name}"))
            }
        };
        if !is_named {
            let _ = writeln!(wrong, "src/{path}: name the file in the map of its folder (the header of `mod.rs`)");
        }
    }
    wrong
}

/// A line for each file with too many lines, tests not counted.
fn long_files(sources: &[Source]) -> String {
    let mut wrong = String::new();
    for Source { path, text } in sources {
        let tests = text.lines().position(|line| line == "mod tests {" || line.starts_with("pub(crate) mod tests {"));
        let lines = tests.unwrap_or_else(|| text.lines().count());
        if lines > MAX_LINES && !path.ends_with("tests.rs") {
            let _ =
                writeln!(wrong, "src/{path}: {lines} lines without tests, more than {MAX_LINES}; split it by meaning");
        }
    }
    wrong
}

/// The only file with unsafe code; its head has the proof.
const UNSAFE: &str = "delivery/ring.rs";

/// A line for each file with unsafe code, except the one that may have some.
fn unsafe_files(sources: &[Source]) -> String {
    let mut wrong = String::new();
    for Source { path, text } in sources {
        let is_unsafe = |line: &str| {
            let code = code(line);
            let mut words = code.split(|character: char| !character.is_alphanumeric() && character != '_');
            words.any(|word| word == "unsafe" || word == "unsafe_code") && !code.contains("forbid(unsafe_code)")
        };
        if path != UNSAFE && text.lines().any(is_unsafe) {
            let _ = writeln!(wrong, "src/{path}: unsafe code belongs in {UNSAFE}");
        }
    }
    wrong
}

#[test]
fn unsafe_code_lies_in_one_file() {
    let wrong: String = crates().iter().map(|sources| unsafe_files(sources)).collect();
    assert!(wrong.is_empty(), "unsafe code:\n{wrong}");
}

#[test]
fn a_folder_knows_only_the_floors_below() {
    let wrong = upward_imports(&sources());
    assert!(wrong.is_empty(), "imports that run up or sideways:\n{wrong}");
}

#[test]
fn every_file_is_named_in_a_map() {
    let wrong: String = crates().iter().map(|sources| unmapped_files(sources)).collect();
    assert!(wrong.is_empty(), "files without a place in a map:\n{wrong}");
}

#[test]
fn no_file_is_longer_than_a_reader_takes_in() {
    let wrong: String = crates().iter().map(|sources| long_files(sources)).collect();
    assert!(wrong.is_empty(), "files that are too long:\n{wrong}");
}

/// The checks themselves, on layouts that are wrong on purpose.
mod checks {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source { path: path.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn an_import_that_runs_up_is_found_wherever_it_stands() {
        let up = [
            "use crate::topic::Topics;",
            "use crate::{config::Config, topic::Topics};",
            "use crate::{\n    config::Config,\n    topic::{Topics, TopicState},\n};",
            "fn f() { let _ = crate::topic::Topics; }",
            "pub(crate) fn f(_: &crate::Janus) {}",
        ];
        for text in up {
            let wrong = upward_imports(&[source("delivery/slot.rs", text)]);
            assert_eq!(wrong.lines().count(), 1, "{text}: {wrong}");
        }
        let sideways = upward_imports(&[source("delivery/slot.rs", "use crate::hooks::Client;")]);
        assert!(sideways.contains("must not know `crate::hooks`"), "{sideways}");
        let nowhere = upward_imports(&[source("cellar/mod.rs", "")]);
        assert!(nowhere.contains("give `cellar` a floor"), "{nowhere}");
    }

    #[test]
    fn an_import_that_runs_down_is_allowed() {
        let down = [
            ("delivery/slot.rs", "use crate::delivery::queue;\nuse crate::wire::Event;\nuse crate::config::Config;"),
            (
                "delivery/slot.rs",
                "//! See [`crate::topic::Topics`].\n// crate::topic\nconst S: &str = \"crate::topic\";",
            ),
            ("simulation/mod.rs", "use crate::{Config, Janus};\nuse crate::connection::acceptor;"),
            ("lib.rs", "pub use crate::topic::TopicInfo;"),
        ];
        for (path, text) in down {
            assert_eq!(upward_imports(&[source(path, text)]), "", "{path}: {text}");
        }
    }

    #[test]
    fn unsafe_code_outside_of_its_file_is_found() {
        for text in ["#![allow(unsafe_code)]", "fn f() { unsafe { g() } }", "unsafe impl Send for T {}"] {
            assert_eq!(unsafe_files(&[source("a.rs", text)]).lines().count(), 1, "{text}");
            assert_eq!(unsafe_files(&[source(UNSAFE, text)]), "");
        }
        assert_eq!(unsafe_files(&[source("lib.rs", "#![forbid(unsafe_code)]\n// unsafe\nlet s = \"unsafe\";")]), "");
    }

    #[test]
    fn a_file_without_a_place_in_a_map_is_found() {
        let lib = source("lib.rs", "//! - `topic/`: topics\n//! - `typed.rs`: types\n");
        let folder = source("topic/mod.rs", "//! | `actor.rs` | `parts/one.rs` |\nmod tests {}");
        let named =
            [lib, folder, source("typed.rs", ""), source("topic/actor.rs", ""), source("topic/parts/one.rs", "")];
        assert_eq!(unmapped_files(&named), "");
        let mut more = Vec::from(named);
        more.extend([source("other.rs", ""), source("topic/lost.rs", ""), source("cellar/mod.rs", "")]);
        assert_eq!(unmapped_files(&more).lines().count(), 3, "{}", unmapped_files(&more));
    }

    #[test]
    fn the_lines_of_tests_do_not_count() {
        let code = "fn f() {}\n".repeat(MAX_LINES);
        assert_eq!(long_files(&[source("a.rs", &code)]), "");
        assert_eq!(long_files(&[source("a.rs", &(code.clone() + "mod tests {\n" + &code))]), "");
        assert_eq!(long_files(&[source("a.rs", &(code + "fn one_more() {}\n"))]).lines().count(), 1);
    }
}
