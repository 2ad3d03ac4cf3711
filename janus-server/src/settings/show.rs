//! Settings in force as text: a whole file for `config show`, or a single setting for the log.

use std::fmt::Write as _;

use super::load::Loaded;
use super::problems::{one_line, toml_key};
use super::table::{TABLE, index_of};

impl Loaded {
    /// A setting in force and its origin, for the log.
    pub(crate) fn describe(&self, name: &str) -> String {
        let index = index_of(name);
        let value = TABLE[index].toml(&TABLE[index].read(&self.settings));
        format!("{name} = {value} ({})", one_line(&self.origins[index].to_string()))
    }

    /// Every setting in force, with origins, as a configuration file.
    pub(crate) fn show(&self) -> String {
        let mut text = String::from("# The settings in force, each with the origin of its value.\n");
        for (row, origin) in TABLE.iter().zip(&self.origins) {
            let (name, value) = (row.setting.name, row.toml(&row.read(&self.settings)));
            let origin = one_line(&origin.to_string());
            let _ = write!(text, "\n# {}\n{name} = {value}  # {origin}\n", row.setting.text());
        }
        for section in &self.sections {
            let origin = one_line(&section.origin.to_string());
            let _ = write!(text, "\n[namespace.{}]  # {origin}\n", toml_key(&section.name));
            for (index, row) in TABLE.iter().enumerate().filter(|(_, row)| row.is_of_a_namespace()) {
                let (value, origin) = match section.values.iter().find(|(own, ..)| *own == index) {
                    Some((_, value, origin)) => (row.toml(value), origin.to_string()),
                    None => (row.toml(&row.read(&self.settings)), format!("inherited, {}", self.origins[index])),
                };
                let _ = writeln!(text, "{} = {value}  # {}", row.setting.name, one_line(&origin));
            }
        }
        text
    }
}
