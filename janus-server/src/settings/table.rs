//! All settings of the server as one table, in the order of documents, and the names of their flags and variables.

use std::sync::LazyLock;

use janus_access::{AccessNamespace, AccessSettings, Url};
use janus_core::settings::{Field, Kind, Setting, Table as _, Value};
use janus_core::{Config, Namespace};
use janus_pusher::PusherSettings;

use super::{Settings, derived, values};

/// A setting, with access to its field of [`Settings`].
#[derive(Debug)]
pub(crate) struct Row {
    /// Name, text, kind and limits.
    pub(crate) setting: &'static Setting,
    place: Place,
}

/// The struct with the field of a setting.
#[derive(Debug)]
enum Place {
    Core(&'static Field<Config>),
    /// The top level of a file is the default namespace.
    Namespace(&'static Field<Namespace>),
    Access(&'static Field<AccessSettings>),
    /// The same top level, for the part of the default namespace that says who may do what.
    AccessNamespace(&'static Field<AccessNamespace>),
    Pusher(&'static Field<PusherSettings>),
    Binary(&'static Field<Settings>),
}

/// Every setting of the server, group by group. The first row decides the place of its group, so that the binary can
/// add rows to a group of the core.
pub(crate) static TABLE: LazyLock<Vec<Row>> = LazyLock::new(|| {
    let core = Config::FIELDS.iter();
    let mut rows: Vec<Row> = core.map(|field| Row { setting: &field.setting, place: Place::Core(field) }).collect();
    rows.extend(Namespace::FIELDS.iter().map(|field| Row { setting: &field.setting, place: Place::Namespace(field) }));
    let access = AccessSettings::FIELDS.iter();
    rows.extend(access.map(|field| Row { setting: &field.setting, place: Place::Access(field) }));
    let access = AccessNamespace::FIELDS.iter();
    rows.extend(access.map(|field| Row { setting: &field.setting, place: Place::AccessNamespace(field) }));
    rows.extend(
        PusherSettings::FIELDS.iter().map(|field| Row { setting: &field.setting, place: Place::Pusher(field) }),
    );
    rows.extend(Settings::FIELDS.iter().map(|field| Row { setting: &field.setting, place: Place::Binary(field) }));
    let groups: Vec<&str> = rows.iter().map(|row| row.setting.group).collect();
    rows.sort_by_key(|row| groups.iter().position(|group| *group == row.setting.group));
    rows
});

/// The prefix of all variables.
pub(super) const PREFIX: &str = "JANUS_";

/// The place in [`TABLE`] of a setting of this name.
pub(super) fn find(name: &str) -> Option<usize> {
    TABLE.iter().position(|row| row.setting.name == name)
}

/// The place in [`TABLE`] of a setting named by this program itself.
pub(super) fn index_of(name: &str) -> usize {
    find(name).expect("the name of a setting")
}

impl Row {
    /// The variable for the value.
    pub(crate) fn variable(&self) -> String {
        format!("{PREFIX}{}", self.setting.name.to_ascii_uppercase())
    }

    /// The flag for the value, without hyphens. A secret has none, because every user of a machine can read the command
    /// lines of its processes.
    pub(crate) fn flag(&self) -> Option<String> {
        (!self.is_secret()).then(|| self.setting.name.replace('_', "-"))
    }

    /// Whether the value is never printed.
    pub(super) fn is_secret(&self) -> bool {
        matches!(self.setting.kind, Kind::Secret { .. })
    }

    /// Whether a variable has several values with commas between them, and a flag may be repeated.
    pub(super) fn is_list(&self) -> bool {
        let kind = &self.setting.kind;
        matches!(
            kind,
            Kind::Addresses | Kind::Networks { .. } | Kind::Origins { .. } | Kind::Paths | Kind::Texts { .. }
        )
    }

    /// Whether tables `[namespace.NAME]` may have the setting.
    pub(crate) fn is_of_a_namespace(&self) -> bool {
        matches!(self.place, Place::Namespace(_) | Place::AccessNamespace(_))
    }

    /// Writes an accepted value of a setting that tables `[namespace.NAME]` may have.
    pub(super) fn write_of_a_namespace(&self, (core, access): (&mut Namespace, &mut AccessNamespace), value: Value) {
        match self.place {
            Place::Namespace(field) => field.write(core, value),
            Place::AccessNamespace(field) => field.write(access, value),
            Place::Core(_) | Place::Access(_) | Place::Pusher(_) | Place::Binary(_) => {
                unreachable!("checked on reading")
            }
        }
    }

    /// The accepted values, and the way to write them.
    pub(crate) fn expected(&self) -> String {
        self.with_unit(&self.setting.kind.expected())
    }

    /// The value in force.
    pub(super) fn read(&self, settings: &Settings) -> Value {
        match self.place {
            Place::Core(field) => field.read(&settings.core),
            Place::Namespace(field) => field.read(&settings.core.default_namespace),
            Place::Access(field) => field.read(&settings.access),
            Place::AccessNamespace(field) => field.read(&settings.access.default_namespace),
            Place::Pusher(field) => field.read(&settings.pusher),
            Place::Binary(field) => field.read(settings),
        }
    }

    /// Writes an accepted value.
    pub(super) fn write(&self, settings: &mut Settings, value: Value) {
        match self.place {
            Place::Core(field) => field.write(&mut settings.core, value),
            Place::Namespace(field) => field.write(&mut settings.core.default_namespace, value),
            Place::Access(field) => field.write(&mut settings.access, value),
            Place::AccessNamespace(field) => field.write(&mut settings.access.default_namespace, value),
            Place::Pusher(field) => field.write(&mut settings.pusher, value),
            Place::Binary(field) => field.write(settings, value),
        }
    }

    /// The value, or the accepted values: the text is not of the setting's kind (`None`), or the value is refused.
    pub(super) fn check(&self, value: Option<Value>) -> Result<Value, String> {
        let value = value.ok_or_else(|| self.expected())?;
        self.setting.check(&value).map_err(|error| self.with_unit(&error.expected))?;
        if let Value::Addresses(addresses) = &value
            && let Some(address) = values::duplicate(addresses)
        {
            return Err(format!("each address once; {address} is a duplicate"));
        }
        Ok(value)
    }

    fn with_unit(&self, expected: &str) -> String {
        match self.setting.kind {
            Kind::Bytes(_) => format!("{expected}, as a whole number of bytes or with a unit such as \"64 KiB\""),
            Kind::Duration(_) => format!("{expected}, with a unit such as \"10 s\""),
            _ => expected.to_owned(),
        }
    }

    /// The default as in a file, or in words if it depends on the machine or on another setting.
    pub(crate) fn default_text(&self) -> String {
        self.default_in_words().map_or_else(|| self.toml(&self.read(&Settings::default())), str::to_owned)
    }

    pub(super) fn default_in_words(&self) -> Option<&'static str> {
        derived::default_in_words(self.setting.name).or(self.setting.default)
    }

    /// A value of this setting as in a file, without the query of an address, which may have a key.
    pub(super) fn toml(&self, value: &Value) -> String {
        match (&self.setting.kind, value) {
            (Kind::Text { expected, .. }, Value::Text(text)) if *expected == Url::EXPECTED => {
                values::toml(&self.setting.kind, &Value::Text(Url::without_query(text)))
            }
            (kind, value) => values::toml(kind, value),
        }
    }
}
