//! The layers: flags over variables over file over defaults, with the origin of each value.
//!
//! The file is read first and the flags last, so that a later layer writes over an earlier layer. All layers must be
//! right, even where a later layer wins; every mistake is collected, and none ends the reading.

use std::ffi::OsString;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use janus_core::settings::{HIDDEN, Value};
use janus_core::{Config, ConfigError, Namespace};
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::Settings;
use super::problems::{Origin, Problem, Problems, nearest, one_line, toml_key};
use super::table::{PREFIX, Row, TABLE, find, index_of};
use super::values::{parse, parse_toml};
use crate::client::server::{SERVER_VARIABLE, TOKEN_VARIABLE};
use crate::limits::Memory;

/// The variable with the path of the file.
const FILE_VARIABLE: &str = "JANUS_CONFIG";

/// Variables of the client commands, which are no settings of a server.
const OF_CLIENTS: [&str; 2] = [SERVER_VARIABLE, TOKEN_VARIABLE];
/// The flag with the path of the file.
const FILE_FLAG: &str = "config";

/// The settings of the command line, as text, and the path of the file.
#[derive(Debug, Default)]
pub(crate) struct Flags {
    pub(crate) file: Option<PathBuf>,
    /// Indexes into [`TABLE`]; only a list has more than one text.
    pub(crate) values: Vec<(usize, Vec<String>)>,
}

/// Settings in force, with their origins.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) settings: Settings,
    /// The file that was read.
    pub(crate) file: Option<PathBuf>,
    /// One entry for each row of [`TABLE`].
    pub(super) origins: Vec<Origin>,
    /// The values of the top level of the file, whether in force or not; one entry for each row of [`TABLE`].
    pub(super) of_file: OfFile,
    pub(super) sections: Vec<Section>,
}

/// Values as in the file, never printed: some are secrets.
pub(super) struct OfFile(pub(super) Vec<Option<Value>>);

impl fmt::Debug for OfFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// A table `[namespace.NAME]` of the file.
#[derive(Debug)]
pub(super) struct Section {
    pub(super) name: String,
    pub(super) origin: Origin,
    /// The entries of the table, by index into [`TABLE`]; all other settings are inherited.
    pub(super) values: Vec<(usize, Value, Origin)>,
}

impl Loaded {
    /// Reads the layers. `memory` is for the memory budget, if no layer has one.
    ///
    /// # Errors
    ///
    /// Everything wrong in any layer, in the order of reading.
    pub(crate) fn read(
        flags: &Flags,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
        memory: Option<Memory>,
    ) -> Result<Self, Problems> {
        let origins = vec![Origin::Default; TABLE.len()];
        let mut loaded = Self {
            settings: Settings::default(),
            file: None,
            origins,
            of_file: OfFile(vec![None; TABLE.len()]),
            sections: Vec::new(),
        };
        let mut problems = Vec::new();
        let mut variables: Vec<(String, String)> = variables
            .into_iter()
            .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
            .filter(|(name, _)| name.starts_with(PREFIX) && !OF_CLIENTS.contains(&&**name))
            .collect();
        variables.sort();

        let by_flag = flags.file.clone().map(|path| (path, Origin::Flag(FILE_FLAG.to_owned())));
        let by_variable = || {
            let (name, path) = variables.iter().find(|(name, _)| name == FILE_VARIABLE)?;
            Some((PathBuf::from(path), Origin::Variable(name.clone())))
        };
        if let Some((path, named_by)) = by_flag.or_else(by_variable) {
            loaded.read_file(&path, named_by, &mut problems);
            loaded.file = Some(path);
        }
        for (name, value) in variables.iter().filter(|(name, _)| name != FILE_VARIABLE) {
            loaded.read_variable(name, value, &mut problems);
        }
        for (index, texts) in &flags.values {
            let row = &TABLE[*index];
            let origin = Origin::Flag(row.flag().unwrap_or_default());
            loaded.set(*index, parse(&row.setting.kind, texts), &texts.join(","), origin, &mut problems);
        }
        loaded.derive(memory);
        loaded.add_namespaces();
        if problems.is_empty()
            && let Err(error) = loaded.settings.validate()
        {
            problems.push(loaded.problem_across(error));
        }
        if problems.is_empty() { Ok(loaded) } else { Err(Problems(problems)) }
    }

    fn read_file(&mut self, path: &Path, named_by: Origin, problems: &mut Vec<Problem>) {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(source) => return problems.push(Problem::Unreadable { named_by, path: path.into(), source }),
        };
        let file = File { path, text: &text };
        let table = match DeTable::parse(&text) {
            Ok(table) => table.into_inner(),
            Err(error) => {
                let line = file.line(error.span().map_or(0, |span| span.start));
                let message = error.message().to_owned();
                return problems.push(Problem::NotToml { path: path.into(), line, message });
            }
        };
        for (key, value) in in_order(&table) {
            let origin = file.origin(key.span());
            let name: &str = key.get_ref();
            if let Some(index) = find(name) {
                let shown = file.shown(value.span());
                self.set(index, parse_toml(&TABLE[index].setting.kind, value.get_ref()), shown, origin, problems);
                continue;
            }
            match value.get_ref() {
                DeValue::Table(namespaces) if name == "namespace" => {
                    for (key, value) in in_order(namespaces) {
                        self.read_namespace(&file, key, value, problems);
                    }
                }
                DeValue::Table(_) => problems.push(Problem::UnknownTable { origin, name: one_line(name) }),
                _ => {
                    let nearest = nearest(name, TABLE.iter().map(|row| row.setting.name.to_owned()));
                    problems.push(Problem::Unknown { origin, name: one_line(name), nearest });
                }
            }
        }
    }

    fn read_namespace(
        &mut self,
        file: &File<'_>,
        key: &Spanned<DeString<'_>>,
        value: &Spanned<DeValue<'_>>,
        problems: &mut Vec<Problem>,
    ) {
        let name: &str = key.get_ref();
        let origin = file.origin(key.span());
        let path = format!("namespace.{}", toml_key(name));
        let DeValue::Table(entries) = value.get_ref() else {
            let (value, expected) = (one_line(file.shown(value.span())), format!("a table that starts with [{path}]"));
            return problems.push(Problem::BadValue { origin, name: path, value, expected });
        };
        let named = [(name.to_owned(), Namespace::default())].into();
        if let Err(error) = (Config { namespaces: named, ..Config::default() }).validate() {
            let (origin, name, expected) = (origin.clone(), "namespace".to_owned(), error.expected.into_owned());
            problems.push(Problem::BadValue { origin, name, value: error.value, expected });
        }
        let entries = in_order(entries).into_iter().filter_map(|(key, value)| {
            let read = read_entry(file, &path, key, value);
            read.map_err(|problem| problems.push(problem)).ok()
        });
        let values = entries.collect();
        self.sections.push(Section { name: name.to_owned(), origin, values });
    }

    fn read_variable(&mut self, name: &str, value: &str, problems: &mut Vec<Problem>) {
        let origin = Origin::Variable(name.to_owned());
        let Some(index) = TABLE.iter().position(|row| row.variable() == name) else {
            let known =
                TABLE.iter().map(Row::variable).chain([FILE_VARIABLE].into_iter().chain(OF_CLIENTS).map(str::to_owned));
            let nearest = nearest(name, known);
            return problems.push(Problem::Unknown { origin, name: name.to_owned(), nearest });
        };
        let row = &TABLE[index];
        let texts: Vec<String> = if row.is_list() {
            value.split(',').map(|part| part.trim().to_owned()).collect()
        } else {
            vec![value.to_owned()]
        };
        self.set(index, parse(&row.setting.kind, &texts), value, origin, problems);
    }

    /// Writes one value, or reports why the value is refused.
    fn set(&mut self, index: usize, value: Option<Value>, shown: &str, origin: Origin, problems: &mut Vec<Problem>) {
        let row = &TABLE[index];
        match row.check(value) {
            Ok(value) => {
                if let Origin::File { .. } = origin {
                    self.of_file.0[index] = Some(value.clone());
                }
                row.write(&mut self.settings, value);
                self.origins[index] = origin;
            }
            Err(expected) => {
                let value = if row.is_secret() { HIDDEN.to_owned() } else { one_line(shown) };
                let name = row.setting.name.to_owned();
                problems.push(Problem::BadValue { origin, name, value, expected });
            }
        }
    }

    /// Adds the namespaces of the file: the default namespace, with the values of each table written over it. Last,
    /// because values of the default namespace may come from variables and flags. Then those of the channels of Pusher, as
    /// far as the file does not have them.
    fn add_namespaces(&mut self) {
        let Settings { core, access, pusher, .. } = &mut self.settings;
        for section in &self.sections {
            let mut namespace = (core.default_namespace.clone(), access.default_namespace.clone());
            for (index, value, _) in &section.values {
                TABLE[*index].write_of_a_namespace((&mut namespace.0, &mut namespace.1), value.clone());
            }
            core.namespaces.insert(section.name.clone(), namespace.0);
            access.namespaces.insert(section.name.clone(), namespace.1);
        }
        pusher.prepare(core);
    }

    /// A broken rule across settings, each of them good by itself.
    fn problem_across(&self, error: ConfigError) -> Problem {
        if let Some((section, setting)) = self.of_a_section(&error.key) {
            let own = section.values.iter().find(|(index, ..)| TABLE[*index].setting.name == setting);
            let origin = own.map_or(&section.origin, |(.., origin)| origin).clone();
            let (name, expected) = (format!("namespace.{}.{setting}", toml_key(&section.name)), error.expected);
            return Problem::BadValue { origin, name, value: error.value, expected: expected.into_owned() };
        }
        // The default namespace is the top level of the file.
        let name = error.key.strip_prefix("default_namespace.").unwrap_or(&error.key);
        let origin = match find(name) {
            Some(index) => self.origins[index].clone(),
            // No single setting is wrong if there are too many namespaces.
            None => self.sections.last().map_or(Origin::Default, |section| section.origin.clone()),
        };
        let (name, expected) = (name.to_owned(), error.expected.into_owned());
        Problem::BadValue { origin, name, value: error.value, expected }
    }

    /// The table of the file, and the setting in the table, with this key of an error.
    fn of_a_section<'k>(&self, key: &'k str) -> Option<(&Section, &'k str)> {
        let (name, setting) = key.strip_prefix("namespaces.")?.rsplit_once('.')?;
        self.sections.iter().find(|section| section.name == name).map(|section| (section, setting))
    }

    /// Whether any layer has the setting, even with its default as value.
    pub(crate) fn is_set(&self, name: &str) -> bool {
        !matches!(self.origins[index_of(name)], Origin::Default | Origin::Memory(_) | Origin::Heartbeat)
    }
}

/// Reads an entry of the table `path` of a namespace.
fn read_entry(
    file: &File<'_>,
    path: &str,
    key: &Spanned<DeString<'_>>,
    value: &Spanned<DeValue<'_>>,
) -> Result<(usize, Value, Origin), Problem> {
    let origin = file.origin(key.span());
    let key: &str = key.get_ref();
    let name = format!("{path}.{}", toml_key(key));
    let Some(index) = find(key) else {
        let known = TABLE.iter().filter(|row| row.is_of_a_namespace());
        let nearest = nearest(key, known.map(|row| row.setting.name.to_owned()));
        return Err(Problem::Unknown { origin, name, nearest });
    };
    let row = &TABLE[index];
    if !row.is_of_a_namespace() {
        return Err(Problem::Misplaced { origin, name, key: row.setting.name });
    }
    match row.check(parse_toml(&row.setting.kind, value.get_ref())) {
        Ok(value) => Ok((index, value, origin)),
        Err(expected) => {
            let value = one_line(file.shown(value.span()));
            Err(Problem::BadValue { origin, name, value, expected })
        }
    }
}

/// A file of settings, to find the line of a key or value.
struct File<'a> {
    path: &'a Path,
    text: &'a str,
}

impl<'a> File<'a> {
    fn line(&self, offset: usize) -> usize {
        1 + self.text.as_bytes()[..offset.min(self.text.len())].iter().filter(|&&byte| byte == b'\n').count()
    }

    fn origin(&self, place: Range<usize>) -> Origin {
        Origin::File { path: self.path.into(), line: self.line(place.start) }
    }

    fn shown(&self, place: Range<usize>) -> &'a str {
        self.text.get(place).unwrap_or_default()
    }
}

/// The entries of a table in the order of the file, so that mistakes are reported from top to bottom.
fn in_order<'a, 'b>(table: &'a DeTable<'b>) -> Vec<(&'a Spanned<DeString<'b>>, &'a Spanned<DeValue<'b>>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}
