//! The table of settings: one row for each setting, and everything else about the setting comes from the row.
//!
//! [`settings!`](crate::settings!) turns the rows into a struct with documented fields, `Default`, and the [`Field`]s
//! of a [`Table`]: name, group, text, kind and accepted values, with access to the field. Checks, flags, variables,
//! files and documents are made from these without naming a single setting. Rules across settings are not in the table:
//! each struct has a function for such rules.
//!
//! Public for the rows of `janus-server`, but hidden, because the module may change in any release.

use super::ConfigError;

pub use super::gate::{Gate, Place};
pub use super::kind::{Bounds, GIB, HIDDEN, KIB, Kind, MIB, Stored, Text, Value, days, millis, secs};
pub use super::reload::Reload;

/// The description of one setting, for readers and parsers.
#[derive(Debug)]
pub struct Setting {
    /// The name of the field, and of the key in a file.
    pub name: &'static str,
    /// The heading above the setting in documents.
    pub group: &'static str,
    /// The whole doc comment of the row. [`text`](Self::text) is the part for operators.
    pub doc: &'static str,
    /// The kind of the value, with the accepted values.
    pub kind: Kind,
    /// The default in words, where the value depends on the machine.
    pub default: Option<&'static str>,
    /// When a change takes effect in a running instance.
    pub reload: Reload,
}

impl Setting {
    /// The text for operators: the first paragraph of the doc comment. Further paragraphs are for programs that embed
    /// Janus.
    #[must_use]
    pub fn text(&self) -> String {
        let paragraph = self.doc.split("\n\n").next().unwrap_or_default();
        // Each line starts with the blank after `///`.
        paragraph.replace('\n', "").trim_start().to_owned()
    }

    /// Checks a value for this setting.
    ///
    /// # Errors
    ///
    /// The value is of another kind, or is not accepted.
    pub fn check(&self, value: &Value) -> Result<(), ConfigError> {
        let refused = self.kind.check(value);
        refused.map_err(|(value, expected)| ConfigError { key: self.name.into(), value, expected })
    }
}

/// A setting, with access to its field of `T`.
#[derive(Debug)]
pub struct Field<T: 'static> {
    /// The setting.
    pub setting: Setting,
    /// Reads the field.
    pub read: fn(&T) -> Value,
    /// Writes the field; `None` if the value is of another type.
    pub write: fn(&mut T, Value) -> Option<()>,
}

impl<T> Field<T> {
    /// The value of the field.
    pub fn read(&self, table: &T) -> Value {
        (self.read)(table)
    }

    /// Writes a value accepted by [`Setting::check`].
    ///
    /// # Panics
    ///
    /// The value is of another kind than the setting.
    pub fn write(&self, table: &mut T, value: Value) {
        (self.write)(table, value).expect("an accepted value has the type of its field");
    }
}

/// A struct whose fields are settings.
pub trait Table: Sized + 'static {
    /// The settings, in the order of the table.
    const FIELDS: &'static [Field<Self>];

    /// Checks each setting by itself.
    ///
    /// # Errors
    ///
    /// The first setting whose value is not accepted.
    fn check_each(&self) -> Result<(), ConfigError> {
        Self::FIELDS.iter().try_for_each(|field| field.setting.check(&field.read(self)))
    }
}

/// Declares a struct of settings, one row for each field.
///
/// ```
/// use janus_core::settings::{KIB, Table as _, secs};
/// use std::time::Duration;
///
/// janus_core::settings! {
///     /// The settings of a cache.
///     pub struct Cache {
///         "Limits" {
///             /// Bytes of one entry. A larger entry is refused.
///             max_entry_bytes: usize = 4 * KIB, bytes(1..=64 * KIB), reload(at_once);
///             /// How long an entry is kept.
///             ttl: Duration = secs(10), duration_or_zero("no limit", secs(1)..=secs(60));
///             /// Threads that serve the cache.
///             threads: usize = 2 * 4, count(1..=64), shown as "twice the number of cores";
///         }
///         nested {
///             /// The address of the cache.
///             host: String = "localhost".to_owned();
///         }
///     }
/// }
///
/// let cache = Cache { max_entry_bytes: 0, ..Cache::default() };
/// assert_eq!(cache.check_each().unwrap_err().to_string(), "max_entry_bytes = 0: expected 1 byte to 64 KiB");
/// ```
///
/// A row is `name: type = default, kind(accepted);`. The kind is a constructor of [`Kind`], and the type of the field
/// implements [`Stored`]. `reload(at_once)` or `reload(new_connections)` is for a setting whose change takes effect without
/// a restart; see [`Reload`]. A default that depends on the machine is followed by `shown as` and words for documents.
/// `nested` has the fields that are no settings, such as structs with settings of their own.
#[doc(hidden)]
#[macro_export]
macro_rules! settings {
    (
        $(#[$meta:meta])*
        $vis:vis struct $table:ident {
            $($group:literal {
                $(
                    $(#[doc = $doc:literal])+
                    $field:ident: $type:ty = $default:expr, $kind:ident $(($($accepted:expr),+))?
                        $(, reload($reload:ident))? $(, shown as $words:literal)?;
                )*
            })*
            $(nested {
                $(
                    $(#[doc = $nested_doc:literal])+
                    $nested:ident: $nested_type:ty = $nested_default:expr;
                )*
            })?
        }
    ) => {
        $(#[$meta])*
        $vis struct $table {
            $($(
                $(#[doc = $doc])+
                #[doc = ""]
                #[doc = concat!(
                    " Default: `", stringify!($default), "`" $(, " (", $words, ")")?
                    $(, "; accepted: `", stringify!($kind), "(", stringify!($($accepted),+), ")`")?, "."
                )]
                $vis $field: $type,
            )*)*
            $($(
                $(#[doc = $nested_doc])+
                #[doc = ""]
                #[doc = concat!(" Default: `", stringify!($nested_default), "`.")]
                $vis $nested: $nested_type,
            )*)?
        }

        impl Default for $table {
            fn default() -> Self {
                Self {
                    $($($field: $default,)*)*
                    $($($nested: $nested_default,)*)?
                }
            }
        }

        impl $crate::settings::Table for $table {
            const FIELDS: &'static [$crate::settings::Field<Self>] = &[$($(
                $crate::settings::Field {
                    setting: $crate::settings::Setting {
                        name: stringify!($field),
                        group: $group,
                        doc: concat!($($doc, "\n"),+),
                        kind: $crate::settings::Kind::$kind($($($accepted),+)?),
                        default: $crate::settings!(@words $($words)?),
                        reload: $crate::settings!(@reload $($reload)?),
                    },
                    read: |table: &Self| $crate::settings::Stored::to_value(&table.$field),
                    write: |table: &mut Self, value| {
                        table.$field = $crate::settings::Stored::from_value(value)?;
                        Some(())
                    },
                },
            )*)*];
        }
    };
    (@reload) => { $crate::settings::Reload::Restart };
    (@reload at_once) => { $crate::settings::Reload::AtOnce };
    (@reload new_connections) => { $crate::settings::Reload::NewConnections };
    (@words) => { None };
    (@words $words:literal) => { Some($words) };
}

/// The names of an enum's variants in a configuration, in both directions.
macro_rules! names {
    ($type:ident as $key:literal: $($variant:ident = $name:literal),+ $(,)?) => {
        impl $type {
            pub(crate) const NAMES: &'static [&'static str] = &[$($name),+];

            /// The name in a configuration.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $type {
            type Err = $crate::config::ConfigError;

            fn from_str(name: &str) -> Result<Self, $crate::config::ConfigError> {
                match name {
                    $($name => Ok(Self::$variant),)+
                    _ => Err($crate::config::ConfigError {
                        key: $key.into(),
                        value: format!("{name:?}"),
                        expected: $crate::config::settings::Kind::one_of(Self::NAMES).expected(),
                    }),
                }
            }
        }

        impl $crate::config::settings::Stored for $type {
            fn to_value(&self) -> $crate::config::settings::Value {
                $crate::config::settings::Value::Text(self.as_str().to_owned())
            }

            fn from_value(value: $crate::config::settings::Value) -> Option<Self> {
                <String as $crate::config::settings::Stored>::from_value(value)?.parse().ok()
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::{Config, Namespace};

    /// Checks each row against itself, as the compiler cannot.
    fn assert_consistent<T: Table + Default + PartialEq + std::fmt::Debug>() {
        let mut names = BTreeSet::new();
        for field in T::FIELDS {
            let Setting { name, group, .. } = field.setting;
            assert!(names.insert(name), "duplicate setting {name}");
            assert!(!group.is_empty(), "{name}");
            let text = field.setting.text();
            assert!(text.ends_with('.') && text.starts_with(|c: char| c.is_uppercase()), "{name}: {text}");
            assert!(!text.contains("  ") && !text.contains("]("), "operators read this as it is: {name}: {text}");

            let mut copy = T::default();
            let default = field.read(&copy);
            assert_eq!(field.setting.check(&default), Ok(()));
            field.write(&mut copy, default);
            assert_eq!(copy, T::default(), "{name}");
        }
    }

    #[test]
    fn each_default_is_accepted_and_survives_a_round_trip() {
        assert_consistent::<Config>();
        assert_consistent::<Namespace>();
    }

    #[test]
    fn the_text_for_operators_is_the_first_paragraph() {
        let doc = " Threads for\n delivery.\n\n For embedders.\n";
        let setting = Setting {
            name: "threads",
            group: "Delivery",
            doc,
            kind: Kind::boolean(),
            default: None,
            reload: Reload::AtOnce,
        };
        assert_eq!(setting.text(), "Threads for delivery.");
    }
}
