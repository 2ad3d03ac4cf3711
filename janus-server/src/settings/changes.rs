//! The differences between the settings in force and settings read again: what changes, when the change takes effect,
//! and which layer hides a change of the file.

use std::collections::BTreeSet;

use janus_core::settings::{Reload, Value};
use serde::Serialize;

use super::Settings;
use super::load::{Loaded, Section};
use super::problems::{Origin, one_line, toml_key};
use super::table::{Row, TABLE};

/// The outcome of a reload, by the names of settings; a setting of a namespace has a name such as
/// `namespace.quotes.history`.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Changes {
    /// The file that was read, as the flag or the variable of the start names it; `None` without a file.
    pub(crate) file: Option<String>,
    /// In force, also for clients that are connected and topics that exist.
    pub(crate) applied: Vec<String>,
    /// In force for connections, subscriptions and tokens from now on.
    pub(crate) new_connections: Vec<String>,
    /// Not in force before the next start.
    pub(crate) needs_restart: Vec<String>,
    /// Changed in the file, but a variable or a flag has precedence.
    pub(crate) hidden: Vec<Hidden>,
    /// A line for each change, for the log.
    #[serde(skip)]
    pub(crate) lines: Vec<String>,
}

/// A change of the file without effect.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Hidden {
    pub(crate) setting: String,
    /// Such as `flag --max-topics`.
    pub(crate) by: String,
}

impl Changes {
    fn note(&mut self, name: String, reload: Reload, (value, origin): (String, String)) {
        let when = match reload {
            Reload::AtOnce => "applied",
            Reload::NewConnections => "for new connections",
            Reload::Restart => "needs a restart",
        };
        self.lines.push(format!("{name} = {value} ({}): {when}", one_line(&origin)));
        match reload {
            Reload::AtOnce => self.applied.push(name),
            Reload::NewConnections => self.new_connections.push(name),
            Reload::Restart => self.needs_restart.push(name),
        }
    }

    /// Notes that the content of a setting's file has changed, which is read at the start alone.
    pub(crate) fn note_content(&mut self, name: &str) {
        if self.needs_restart.iter().all(|noted| noted != name) {
            self.lines.push(format!("{name}: the file has changed, and is read at the start alone: needs a restart"));
            self.needs_restart.push(name.to_owned());
        }
    }

    /// Whether nothing has changed, in no layer.
    pub(crate) fn are_none(&self) -> bool {
        self.lines.is_empty()
    }
}

impl Loaded {
    /// The changes from these settings to `new`. `stays` names settings that this process cannot take over, although
    /// others could.
    pub(crate) fn changes(&self, new: &Self, stays: impl Fn(&str) -> bool) -> Changes {
        let file = new.file.as_ref().map(|file| file.display().to_string());
        let mut changes = Changes { file, ..Changes::default() };
        for (index, row) in TABLE.iter().enumerate() {
            let (name, value) = (row.setting.name, row.read(&new.settings));
            if row.read(&self.settings) != value {
                let reload = if stays(name) { Reload::Restart } else { row.setting.reload };
                changes.note(name.to_owned(), reload, (row.toml(&value), new.origins[index].to_string()));
            }
            let origin = &new.origins[index];
            if self.of_file.0[index] != new.of_file.0[index] && matches!(origin, Origin::Variable(_) | Origin::Flag(_))
            {
                changes
                    .lines
                    .push(format!("{name}: the change of the file is hidden by {}", one_line(&origin.to_string())));
                changes.hidden.push(Hidden { setting: name.to_owned(), by: origin.to_string() });
            }
        }
        let names: BTreeSet<&str> =
            [self, new].iter().flat_map(|loaded| &loaded.sections).map(|it| &*it.name).collect();
        for name in names {
            self.changes_of_a_namespace(new, name, &mut changes);
        }
        changes
    }

    /// Notes each setting of the namespace's table, before or after, whose value in force differs.
    fn changes_of_a_namespace(&self, new: &Self, name: &str, changes: &mut Changes) {
        let sections = [self, new].map(|loaded| loaded.sections.iter().find(|section| section.name == name));
        let own = |section: Option<&Section>, index| {
            section.and_then(|section| section.values.iter().find(|(own, ..)| *own == index)).cloned()
        };
        for (index, row) in TABLE.iter().enumerate().filter(|(_, row)| row.is_of_a_namespace()) {
            let values = sections.map(|section| own(section, index));
            if values.iter().all(Option::is_none) {
                continue;
            }
            let [before, after] =
                [(self, &values[0]), (new, &values[1])].map(|(loaded, own)| loaded.or_inherited(row, own));
            if before != after {
                let origin = match &values[1] {
                    Some((.., origin)) => origin.to_string(),
                    None => format!("inherited, {}", new.origins[index]),
                };
                let full = format!("namespace.{}.{}", toml_key(name), row.setting.name);
                changes.note(full, row.setting.reload, (row.toml(&after), origin));
            }
        }
    }

    fn or_inherited(&self, row: &Row, own: &Option<(usize, Value, Origin)>) -> Value {
        own.as_ref().map_or_else(|| row.read(&self.settings), |(_, value, _)| value.clone())
    }
}

impl Settings {
    /// Keeps the values of `before` where a change needs a restart: no part of the server may act by a value that is not in
    /// force, and the next reload names these settings again.
    pub(crate) fn keep(&mut self, before: &Self, stays: impl Fn(&str) -> bool) {
        for row in TABLE.iter().filter(|row| row.setting.reload == Reload::Restart || stays(row.setting.name)) {
            row.write(self, row.read(before));
        }
    }
}
