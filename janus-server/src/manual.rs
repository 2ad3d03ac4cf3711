//! Manual pages and completions for shells.
//!
//! The pages of section 1, one for each command, and the completions are made from the command line in `cli.rs`;
//! janus.toml(5) is made from the table of settings. The settings' flags are listed in janus.toml(5) alone: every command
//! that accepts settings would repeat all of them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::cli::{Cli, SETTINGS};
use crate::settings::{Row, TABLE};

const NAME: &str = "janus-server";
const SETTINGS_PAGE: &str = "janus.toml";

/// The page of the settings, before the settings.
const DESCRIPTION: [&str; 4] = [
    "The settings of the Janus message server, in TOML. `janus-server --config` FILE reads the file; there is no file \
     unless `--config` or the variable JANUS_CONFIG names one. The unit of the Debian package names /etc/janus.toml.",
    "Each setting is a key of the file, a variable, and a flag of the commands that accept settings: the flag is the \
     name with two hyphens before it, and hyphens in place of underscores. A flag wins over a variable, and a variable \
     over the file. Secrets have no flag, because every user of a machine can read its command lines.",
    "Sizes are whole numbers of bytes, or have one of the units B, KiB, MiB, GiB, as in \"64 KiB\". Durations always have \
     a unit: ms, s, m, h, d, as in \"10 s\".",
    "`janus-server config check` finds all mistakes, `janus-server config show` prints the settings in force with their \
     origins, and `janus-server reload` has a running server read the file again.",
];

/// Above the settings of namespaces.
const NAMESPACES: &str = "At the top level of the file these settings are for all topics. A table `[namespace.`NAME`]` \
                          sets other values for the topics whose names begin with NAME and a colon.";

/// Above the reference from a command to its settings.
const FLAGS: &str = "Each setting of janus.toml(5) is a flag as well: the name with two hyphens before it, and hyphens in \
                     place of underscores. `--help` lists all of them.";

/// A manual page could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}", path.display())]
pub(crate) struct ManualError {
    path: PathBuf,
    source: io::Error,
}

/// The script that completes commands and flags.
pub(crate) fn completions(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), NAME, &mut script);
    let script = String::from_utf8_lossy(&script);
    // clap_complete 4.6 takes the hyphen in the name of the program, in half of the places, for the space before a
    // command, and then bash finds no command.
    script.replace("janus__subcmd__server", "janus__server")
}

/// Writes all pages to a folder.
///
/// # Errors
///
/// The first page that cannot be written.
pub(crate) fn write(folder: &Path) -> Result<(), ManualError> {
    for (name, page) in pages() {
        let path = folder.join(name);
        fs::write(&path, page).map_err(|source| ManualError { path, source })?;
    }
    Ok(())
}

/// All pages with the names of their files.
fn pages() -> Vec<(String, String)> {
    let mut command = without_settings(Cli::command().disable_help_subcommand(true));
    command.build();
    let mut pages = vec![(format!("{SETTINGS_PAGE}.5"), settings_page())];
    add_pages(&command, &mut pages);
    pages
}

/// The command and its subcommands, with the settings' flags hidden.
fn without_settings(command: Command) -> Command {
    let hide = |arg: clap::Arg| {
        let is_setting = arg.get_help_heading() == Some(SETTINGS);
        let hide = is_setting || arg.is_hide_set();
        arg.hide(hide)
    };
    command.mut_args(hide).mut_subcommands(without_settings)
}

fn add_pages(command: &Command, pages: &mut Vec<(String, String)>) {
    let visible = command.get_subcommands().filter(|command| !command.is_hide_set());
    visible.for_each(|command| add_pages(command, pages));
    let man = Man::new(command.clone()).source(version()).manual("Janus");
    pages.push((man.get_filename(), text(&[command_page(command, &man), notes(command)])));
}

/// What clap knows of the command. Writing to memory does not fail.
fn command_page(command: &Command, man: &Man) -> Vec<u8> {
    let mut page = Vec::new();
    let mut parts = vec![
        Man::render_title,
        Man::render_name_section,
        Man::render_synopsis_section,
        Man::render_description_section,
        Man::render_options_section,
    ];
    if command.get_subcommands().any(|command| !command.is_hide_set()) {
        parts.push(Man::render_subcommands_section);
    }
    for part in parts {
        let _ = part(man, &mut page);
    }
    page
}

/// The sections behind those of clap.
fn notes(command: &Command) -> Vec<u8> {
    let mut roff = Roff::new();
    if command.get_arguments().any(|arg| arg.get_help_heading() == Some(SETTINGS)) {
        roff.control("SH", ["SETTINGS"]).text([roman(FLAGS)]);
    }
    roff.control("SH", ["SEE ALSO"]);
    let main = command.get_name() != NAME;
    let others = if main { format!("{NAME}(1), {SETTINGS_PAGE}(5)") } else { format!("{SETTINGS_PAGE}(5)") };
    roff.text([roman(others)]);
    roff.render().into_bytes()
}

fn settings_page() -> String {
    let mut roff = Roff::new();
    roff.control("TH", [SETTINGS_PAGE, "5", "", &version(), "Janus"]);
    roff.control("SH", ["NAME"]).text([roman(format!("{SETTINGS_PAGE} - settings of {NAME}"))]);
    roff.control("SH", ["SYNOPSIS"]).text([bold("/etc/janus.toml")]);
    roff.control("SH", ["DESCRIPTION"]);
    for paragraph in DESCRIPTION {
        roff.control("PP", []).text([roman(paragraph)]);
    }
    let mut group = "";
    for row in TABLE.iter() {
        if group != row.setting.group {
            group = row.setting.group;
            roff.control("SH", [&*group.to_uppercase()]);
            if row.is_of_a_namespace() {
                roff.text([roman(NAMESPACES)]);
            }
        }
        add_setting(row, &mut roff);
    }
    roff.control("SH", ["SEE ALSO"]).text([roman(format!("{NAME}(1), {NAME}-config(1), {NAME}-reload(1)"))]);
    text(&[roff.render().into_bytes()])
}

fn add_setting(row: &Row, roff: &mut Roff) {
    roff.control("TP", []).text([bold(row.setting.name)]).text([roman(row.setting.text())]);
    let facts = [
        format!("Default: {}", row.default_text()),
        format!("Accepted: {}", row.setting.kind.expected()),
        format!("A change takes effect: {}", row.setting.reload),
        format!("Variable: {}", row.variable()),
    ];
    for fact in facts {
        roff.control("br", []).text([roman(fact)]);
    }
}

fn version() -> String {
    format!("{NAME} {}", env!("CARGO_PKG_VERSION"))
}

/// The parts of a page as one text, with `code` in bold.
fn text(parts: &[Vec<u8>]) -> String {
    let parts = parts.concat();
    let page = String::from_utf8_lossy(&parts);
    let mut text = String::with_capacity(page.len());
    for line in page.lines() {
        if line.matches('`').count() % 2 == 0 {
            for (index, part) in line.split('`').enumerate() {
                text.push_str(if index == 0 { "" } else { ["\\fR", "\\fB"][index % 2] });
                text.push_str(part);
            }
        } else {
            text.push_str(line);
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn each_command_has_a_page_and_hidden_commands_have_none() {
        let names: Vec<String> = pages().into_iter().map(|(name, _)| name).collect();
        for name in ["janus.toml.5", "janus-server.1", "janus-server-publish.1", "janus-server-config-check.1"] {
            assert!(names.iter().any(|other| other == name), "{name} is not in {names:?}");
        }
        let hidden = |name: &&String| name.contains("worker") || name.contains("-man") || name.contains("help");
        assert_eq!(names.iter().find(hidden), None);
    }

    #[test]
    fn the_settings_are_in_their_own_page_alone() {
        for (name, page) in pages() {
            assert!(!page.contains("max\\-connections"), "{name} has a flag of a setting");
            assert_eq!(name == "janus.toml.5", page.contains("\\fBmax_connections\\fR"), "{name}");
        }
    }

    #[test]
    fn code_is_bold_and_a_single_backtick_is_left_alone() {
        assert_eq!(
            text(&[b"the `a` and `b`\n".to_vec(), b"one ` only".to_vec()]),
            "the \\fBa\\fR and \\fBb\\fR\none ` only\n"
        );
    }

    #[test]
    fn bash_completes_the_flags_of_a_command() {
        let complete = |words: &str, command: &str, last: &str| {
            let script = format!(
                r#"{}
                set -- $(complete -p janus-server)
                while [ "$1" != -F ]; do shift; done
                COMP_WORDS=({words}) COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
                $2 janus-server "{last}" {command}
                echo "${{COMPREPLY[@]}}""#,
                completions(Shell::Bash)
            );
            // An argument has a limit of 128 KiB.
            let mut bash = Command::new("bash");
            let mut bash = bash.args(["--norc", "-s"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            bash.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
            let output = bash.wait_with_output().unwrap();
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        };
        assert_eq!(complete("janus-server topics --so", "topics", "--so"), "--sort");
        assert_eq!(complete("janus-server config c", "config", "c"), "check");
        assert_eq!(complete("janus-server pub", "janus-server", "pub"), "publish");
    }

    #[test]
    fn secrets_have_no_flag_in_the_pages() {
        for (name, page) in pages().iter().filter(|(name, _)| name.ends_with(".1")) {
            assert!(!page.contains("api\\-key"), "{name}");
        }
    }

    #[test]
    fn completions_name_the_commands_and_the_flags_of_settings() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = completions(shell);
            assert!(script.contains("max-connections") && script.contains("publish"), "{shell}");
        }
    }
}
