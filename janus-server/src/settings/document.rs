//! docs/SETTINGS.md: the table of settings as a document, and the test that holds the file against the table.

use std::fmt::Write as _;
use std::path::Path;

use super::table::{Row, TABLE};

/// Above the settings of namespaces.
const NAMESPACES: &str = "
For all topics at the top level of the file, and for the topics of one namespace in a table `[namespace.NAME]`: see
[Namespaces](OPERATIONS.md#namespaces).
";

/// With this variable the test writes the document.
const REFRESH: &str = "UPDATE_DOCS=1 cargo test -p janus-server --bin janus-server settings_md";

fn document() -> String {
    let mut text = format!(
        "# Settings of `janus-server`\n\n\
         <!-- Made from the tables of settings in the code; do not edit. To refresh: {REFRESH} -->\n\n\
         Each setting has a key for the file, a flag and a variable. A flag wins over a variable, and a variable over the file;\n\
         [OPERATIONS](OPERATIONS.md#settings) has examples, and the units of sizes and durations. A change takes effect in a\n\
         running server [after a reload](OPERATIONS.md#reload): at once, for new connections only, or not before a restart.\n"
    );
    let mut group = "";
    for row in TABLE.iter() {
        if group != row.setting.group {
            group = row.setting.group;
            let note = if row.is_of_a_namespace() { NAMESPACES } else { "" };
            let _ = write!(
                text,
                "\n## {group}\n{note}\n| key, flag, variable | default | accepted | a change takes effect | meaning |\n|---|---|---|---|---|\n"
            );
        }
        let reload = row.setting.reload.to_string();
        let cells = [names(row), default(row), row.setting.kind.expected().into_owned(), reload, row.setting.text()];
        assert!(cells.iter().all(|cell| !cell.contains('|')), "a bar ends a cell: {}", row.setting.name);
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    text
}

fn names(row: &Row) -> String {
    let flag = row.flag().map_or_else(|| "no flag".to_owned(), |flag| format!("`--{flag}`"));
    format!("`{}`<br>{flag}<br>`{}`", row.setting.name, row.variable())
}

/// The default as code, unless described in words.
fn default(row: &Row) -> String {
    let default = row.default_text();
    if row.default_in_words().is_some() { default } else { format!("`{default}`") }
}

#[test]
fn settings_md_lists_exactly_the_settings_of_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/SETTINGS.md");
    let document = document();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &document).unwrap();
    }
    let file = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(file == document, "docs/SETTINGS.md is out of date; refresh the file with\n\n    {REFRESH}\n");
}
