//! Words: what clients, operators and callers read names the client, the topic and the setting, and does not say
//! "somebody".
//!
//! The test reads the string literals of the released sources, without comments and tests.

use std::fs;
use std::path::{Path, PathBuf};

/// Words without a meaning for the reader, or foreign to a speaker of English; each with a hint.
const WORDS: [(&str, &str); 16] = [
    ("whoever", "name the client, the caller or the operator"),
    ("whom", "name the client, the caller or the operator"),
    ("somebody", "name the client, the caller or the operator"),
    ("nobody", "name what is missing: no client, no subscriber"),
    ("anybody", "name what is missing: no client, no subscriber"),
    ("everybody", "all clients, all subscribers"),
    ("meanwhile", "leave the word out"),
    ("so many", "give the number, or say \"that many\""),
    ("as it may", "name the limit that is reached"),
    ("as they may", "name the limit that is reached"),
    ("stands twice", "duplicate"),
    ("goes on", "continues"),
    ("asked for with", "requires"),
    ("is asked with", "accepts"),
    ("not any more", "no longer, or name what has closed"),
    ("also if", "even if"),
];

/// The folders of the released sources.
const FOLDERS: [&str; 7] = [
    "janus-api/src",
    "janus-core/src",
    "janus-core/supervision/src",
    "janus-server/access/src",
    "janus-server/centrifuge/src",
    "janus-server/pusher/src",
    "janus-server/src",
];

#[test]
fn texts_for_readers_name_their_nouns() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = Vec::new();
    for folder in FOLDERS {
        list(&root.join(folder), &mut files);
    }
    assert!(files.len() > 100, "the sources are found");
    let mut found = String::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        for (line, literal) in literals(&text) {
            for (word, hint) in words_in(&literal) {
                let file = file.strip_prefix(&root).unwrap().display();
                found += &format!("{file}:{line}: \"{word}\" ({hint}) in: {}\n", literal.trim());
            }
        }
    }
    assert!(found.is_empty(), "words that say nothing to a reader:\n{found}");
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            // Only developers of Janus read these strings.
            if name != "tests" && name != "simulation" {
                list(&path, files);
            }
        } else if name.ends_with(".rs") && name != "tests.rs" {
            files.push(path);
        }
    }
}

/// The words of the list in a text, whatever their case.
fn words_in(text: &str) -> Vec<(&'static str, &'static str)> {
    let text = text.to_lowercase();
    let is_apart = |before: Option<char>| !before.is_some_and(char::is_alphanumeric);
    let stands_in = |word: &str| {
        text.match_indices(word).any(|(start, _)| {
            is_apart(text[..start].chars().next_back()) && is_apart(text[start + word.len()..].chars().next())
        })
    };
    WORDS.into_iter().filter(|(word, _)| stands_in(word)).collect()
}

/// The string literals of a source with their lines, up to the tests at its end; comments are passed over.
fn literals(source: &str) -> Vec<(usize, String)> {
    let end = source.find("mod tests {").unwrap_or(source.len());
    let mut literals = Vec::new();
    let mut rest = &source[..end];
    let line_at = |rest: &str| source[..end - rest.len()].matches('\n').count() + 1;
    while let Some(character) = rest.chars().next() {
        if rest.starts_with("//") {
            rest = rest.find('\n').map_or("", |newline| &rest[newline..]);
        } else if rest.starts_with("'\"'") || rest.starts_with("'\\\"'") {
            rest = &rest[rest[1..].find('\'').unwrap_or(0) + 2..];
        } else if let Some(hashes) = raw_string(rest) {
            let line = line_at(rest);
            let text = &rest[hashes + 2..];
            let close = format!("\"{}", "#".repeat(hashes));
            let length = text.find(&close).unwrap_or(text.len());
            literals.push((line, text[..length].to_owned()));
            rest = text.get(length + close.len()..).unwrap_or_default();
        } else if character == '"' {
            let line = line_at(rest);
            let text = &rest[1..];
            let mut length = 0;
            while let Some(found) = text.get(length..).and_then(|text| text.find(['"', '\\'])) {
                length += found;
                if text[length..].starts_with('"') {
                    break;
                }
                length += 1 + text[length + 1..].chars().next().map_or(0, char::len_utf8);
            }
            literals.push((line, text[..length].to_owned()));
            rest = text.get(length + 1..).unwrap_or_default();
        } else {
            rest = &rest[character.len_utf8()..];
        }
    }
    literals
}

/// The number of `#` of a raw string at the beginning of `rest`.
fn raw_string(rest: &str) -> Option<usize> {
    let after = rest.strip_prefix('r')?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    after[hashes..].starts_with('"').then_some(hashes)
}

#[test]
fn words_are_found_in_strings_and_not_in_comments_or_tests() {
    let source = concat!(
        "// \"nobody\" here\n",
        "let a = \"Nobody\\\" waits\"; // \"somebody\"\n",
        "let b = r#\"so \"many\" so many\"#; let c = '\"'; let d = \"nobodys\";\n",
        "\nmod tests { \"whoever\" }"
    );
    let found: Vec<_> = literals(source)
        .into_iter()
        .flat_map(|(line, text)| words_in(&text).into_iter().map(move |(word, _)| (line, word)))
        .collect();
    assert_eq!(found, [(2, "nobody"), (3, "so many")]);
}
