//! A Markdown page as a reader at a terminal sees the page: sections with commands, their output, and files.
//!
//! Commands stand in `console` blocks behind `$ `, in `sh` blocks, and in indented blocks that begin with a program.
//! A file is a block whose first line, or the line below `#!`, is a comment with nothing but the name.

use std::fs;
use std::path::{Path, PathBuf};

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All pages of the repository, by their paths from the root.
pub(crate) fn all_pages() -> Vec<String> {
    let mut pages = Vec::new();
    list(&root(), "", &mut pages);
    pages.sort();
    pages
}

fn list(folder: &Path, prefix: &str, pages: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if entry.file_type().unwrap().is_dir() {
            if !name.starts_with('.') && name != "target" && name != "node_modules" {
                list(&entry.path(), &format!("{prefix}{name}/"), pages);
            }
        } else if name.ends_with(".md") {
            pages.push(format!("{prefix}{name}"));
        }
    }
}

/// A heading of the first or second level, and everything below up to the next.
pub(crate) struct Section {
    pub(crate) heading: String,
    pub(crate) blocks: Vec<Vec<Step>>,
}

/// What a reader does, or sees, at one place of a block. `line` is the number of the line in the page.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Command(Command),
    /// Further output of a command of an earlier block.
    Output {
        line: usize,
        shown: Vec<String>,
    },
    File {
        line: usize,
        name: String,
        content: String,
    },
    /// A block of TOML without a name.
    Settings {
        line: usize,
        content: String,
    },
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Command {
    pub(crate) line: usize,
    pub(crate) text: String,
    pub(crate) shown: Vec<String>,
}

impl Command {
    /// The command without the comment at its end.
    pub(crate) fn program(&self) -> &str {
        self.text.split_once("  #").or_else(|| self.text.split_once(" # ")).map_or(&*self.text, |(text, _)| text).trim()
    }

    /// The comment at the end of the command.
    pub(crate) fn comment(&self) -> &str {
        self.text[self.program().len()..].trim_start().trim_start_matches("# ")
    }
}

/// The sections of a page.
pub(crate) fn sections(text: &str) -> Vec<Section> {
    let mut sections = vec![Section { heading: "the beginning".to_owned(), blocks: Vec::new() }];
    let mut lines = text.lines().enumerate().map(|(index, line)| (index + 1, line)).peekable();
    let mut after_blank = true;
    while let Some((number, line)) = lines.next() {
        let mut block = Vec::new();
        if let Some(language) = line.trim_start().strip_prefix("```") {
            let indent = line.len() - line.trim_start().len();
            let mut content = Vec::new();
            for (number, line) in lines.by_ref() {
                if line.trim() == "```" {
                    break;
                }
                content.push((number, line.get(indent..).unwrap_or_default()));
            }
            block = fenced(language.trim(), &content);
        } else if let Some(heading) = line.strip_prefix("# ").or_else(|| line.strip_prefix("## ")) {
            sections.push(Section { heading: heading.to_owned(), blocks: Vec::new() });
        } else if after_blank && let Some(first) = line.strip_prefix("    ") {
            let mut content = vec![(number, first)];
            while let Some((number, line)) = lines.next_if(|(_, line)| line.starts_with("    ")) {
                content.push((number, &line[4..]));
            }
            if begins_with_a_program(first) {
                block = commands(&content);
            }
        }
        after_blank = line.trim().is_empty();
        if !block.is_empty() {
            sections.last_mut().unwrap().blocks.push(block);
        }
    }
    sections
}

fn fenced(language: &str, content: &[(usize, &str)]) -> Vec<Step> {
    let Some(&(line, first)) = content.first() else { return Vec::new() };
    let text = content.iter().map(|(_, line)| format!("{line}\n")).collect::<String>();
    let title = if first.starts_with("#!") { content.get(1).map_or("", |(_, second)| second) } else { first };
    let name = title.strip_prefix("# ").filter(|name| !name.contains(' ') && name.contains(['/', '.']));
    if let Some(name) = name.filter(|name| !name.ends_with('.')) {
        return vec![Step::File { line, name: name.to_owned(), content: text }];
    }
    match language {
        "console" if first.starts_with("$ ") => console(content),
        "console" => {
            vec![Step::Output { line, shown: content.iter().map(|(_, line)| (*line).to_owned()).collect() }]
        }
        "sh" => commands(content),
        "toml" => vec![Step::Settings { line, content: text }],
        _ => Vec::new(),
    }
}

/// Commands behind `$ `, each with its output.
fn console(content: &[(usize, &str)]) -> Vec<Step> {
    let mut steps: Vec<Command> = Vec::new();
    let mut continued = false;
    for &(line, text) in content {
        let end = text.ends_with('\\');
        if let Some(text) = text.strip_prefix("$ ") {
            steps.push(Command { line, text: text.to_owned(), shown: Vec::new() });
            continued = end;
            continue;
        }
        let command = steps.last_mut().expect("the block begins with a command");
        if continued {
            command.text += &format!("\n{text}");
            continued = end;
        } else if !text.trim().is_empty() {
            command.shown.push(text.to_owned());
        }
    }
    steps.into_iter().map(Step::Command).collect()
}

/// Commands, a line each, without output.
fn commands(content: &[(usize, &str)]) -> Vec<Step> {
    let mut steps: Vec<Command> = Vec::new();
    let mut continued = false;
    for &(line, text) in content.iter().filter(|(_, text)| !text.trim().is_empty() && !text.starts_with("# ")) {
        match steps.last_mut().filter(|_| continued) {
            Some(command) => command.text += &format!("\n{text}"),
            None => steps.push(Command { line, text: text.to_owned(), shown: Vec::new() }),
        }
        continued = text.ends_with('\\');
    }
    steps.into_iter().map(Step::Command).collect()
}

/// Whether a line begins with a program of the machine or of the repository, behind assignments.
fn begins_with_a_program(line: &str) -> bool {
    let is_assignment = |word: &&str| word.split_once('=').is_some_and(|(name, _)| name.chars().all(is_of_a_variable));
    let Some(word) = line.split_whitespace().find(|word| !is_assignment(word)) else { return false };
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let of_the_machine = || std::env::split_paths(&folders).any(|folder| folder.join(word).is_file());
    ["cargo", "janus-server"].contains(&word)
        || word.starts_with("target/")
        || (word.contains('/') && root().join(word).is_file())
        || (word.chars().all(char::is_alphanumeric) && of_the_machine())
}

fn is_of_a_variable(character: char) -> bool {
    character.is_ascii_uppercase() || character.is_ascii_digit() || character == '_'
}

#[test]
fn a_page_is_read_as_a_reader_reads_the_page() {
    let page = concat!(
        "# Title\n\n    cargo run    # starts\n\n    error: no command\n\n## Part\n```console\n$ curl a \\\n  -d b\n{\"x\":1}\n\n",
        "$ ls\n```\ntext\n```console\nfurther\n```\n```toml\n# janus.toml\nlisten = []\n```\n",
        "```sh\n# Says what follows.\nA=1 b   # 403 forbidden\n```\n"
    );
    let command = |line, text: &str, shown: &[&str]| {
        Step::Command(Command { line, text: text.into(), shown: shown.iter().map(|&line| line.into()).collect() })
    };
    let sections = sections(page);
    let found: Vec<_> = sections.iter().map(|section| (&*section.heading, &*section.blocks)).collect();
    let title = [vec![command(3, "cargo run    # starts", &[])]];
    let part = [
        vec![command(9, "curl a \\\n  -d b", &["{\"x\":1}"]), command(13, "ls", &[])],
        vec![Step::Output { line: 17, shown: vec!["further".into()] }],
        vec![Step::File { line: 20, name: "janus.toml".into(), content: "# janus.toml\nlisten = []\n".into() }],
        vec![command(25, "A=1 b   # 403 forbidden", &[])],
    ];
    assert_eq!(found, [("the beginning", &[][..]), ("Title", &title), ("Part", &part)]);
    let Step::Command(last) = &part[3][0] else { panic!("a command") };
    assert_eq!((last.program(), last.comment()), ("A=1 b", "403 forbidden"));
}
