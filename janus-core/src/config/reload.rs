//! The settings that a running instance takes over, and when.

use std::fmt;

use super::settings::{Field, Table};
use super::{Config, Namespace};

/// When a change of a setting takes effect in a running instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Reload {
    /// At once, also for clients that are connected and topics that exist. A limit below the present use takes nothing
    /// away: further use is refused until there is room.
    AtOnce,
    /// For connections, subscriptions and tokens from then on. What is there keeps the earlier value.
    NewConnections,
    /// At the next start.
    #[default]
    Restart,
}

impl Reload {
    /// The words for documents.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AtOnce => "at once",
            Self::NewConnections => "new connections",
            Self::Restart => "restart",
        }
    }
}

impl fmt::Display for Reload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The outcome of [`Janus::reload`](crate::Janus::reload): the settings that have changed, each with the time at which
/// the change takes effect. Settings of namespaces have names such as `namespaces.quotes.history`, or
/// `default_namespace.history`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reloaded {
    /// In force, also for clients that are connected and topics that exist.
    pub applied: Vec<String>,
    /// In force for connections, subscriptions and tokens from now on.
    pub new_connections: Vec<String>,
    /// Not in force before the next start.
    pub needs_restart: Vec<String>,
}

impl Reloaded {
    fn note(&mut self, name: String, reload: Reload) {
        match reload {
            Reload::AtOnce => self.applied.push(name),
            Reload::NewConnections => self.new_connections.push(name),
            Reload::Restart => self.needs_restart.push(name),
        }
    }
}

impl Config {
    /// Changes to the settings of `new`, as far as a running instance can. Without `takes_tls` the settings of TLS stay
    /// as they are.
    pub(crate) fn change_to(&self, mut new: Self, takes_tls: bool) -> (Self, Reloaded) {
        let mut reloaded = Reloaded::default();
        for Field { setting, .. } in changed(self, &new) {
            let stays = setting.group == "TLS" && !takes_tls;
            reloaded.note(setting.name.to_owned(), if stays { Reload::Restart } else { setting.reload });
        }
        for Field { setting, .. } in changed(&self.default_namespace, &new.default_namespace) {
            reloaded.note(format!("default_namespace.{}", setting.name), setting.reload);
        }
        let old_names = self.namespaces.keys().filter(|name| !new.namespaces.contains_key(*name));
        for name in new.namespaces.keys().chain(old_names) {
            let of = |config: &'_ Self| config.namespaces.get(name).unwrap_or(&config.default_namespace).clone();
            for Field { setting, .. } in changed(&of(self), &of(&new)) {
                reloaded.note(format!("namespaces.{name}.{}", setting.name), setting.reload);
            }
        }
        for field in Self::FIELDS {
            let stays = field.setting.reload == Reload::Restart || field.setting.group == "TLS" && !takes_tls;
            if stays {
                field.write(&mut new, field.read(self));
            }
        }
        // Each setting of a namespace can be taken over.
        debug_assert!(Namespace::FIELDS.iter().all(|field| field.setting.reload != Reload::Restart));
        (new, reloaded)
    }
}

/// The settings with different values.
fn changed<T: Table>(old: &T, new: &T) -> impl Iterator<Item = &'static Field<T>> {
    T::FIELDS.iter().filter(move |field| field.read(old) != field.read(new))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SlowConsumer;

    #[test]
    fn each_change_is_told_and_only_what_needs_no_restart_is_taken_over() {
        let old = Config { threads: 1, ..Config::default() };
        let mut new = Config { threads: 2, max_topics: 7, tls_cert: vec!["a".into()], ..Config::default() };
        new.send_buffer_bytes *= 2;
        new.default_namespace.slow_consumer = SlowConsumer::Conflate;
        let (changed, reloaded) = old.change_to(new.clone(), false);
        assert_eq!(reloaded.applied, ["max_topics"]);
        assert_eq!(reloaded.new_connections, ["send_buffer_bytes", "default_namespace.slow_consumer"]);
        assert_eq!(reloaded.needs_restart, ["tls_cert", "threads"]);
        assert_eq!(changed, Config { threads: 1, tls_cert: Vec::new(), ..new.clone() });
        let (changed, reloaded) = old.change_to(new, true);
        assert_eq!((changed.tls_cert.len(), &*reloaded.needs_restart), (1, &["threads".to_owned()][..]));
        let (again, reloaded) = changed.clone().change_to(changed.clone(), true);
        assert_eq!((again, reloaded), (changed, Reloaded::default()));
    }

    #[test]
    fn namespaces_that_come_or_go_are_told_by_what_changes_for_their_topics() {
        let quotes = |history| Namespace { history, ..Namespace::default() };
        let with = |namespaces: &[(&str, Namespace)]| Config {
            namespaces: namespaces.iter().map(|(name, namespace)| ((*name).to_owned(), namespace.clone())).collect(),
            ..Config::default()
        };
        let (old, new) = (with(&[("gone", quotes(true)), ("same", quotes(false))]), with(&[("new", quotes(true))]));
        let (changed, reloaded) = old.change_to(new.clone(), true);
        assert_eq!(reloaded.applied, ["namespaces.new.history", "namespaces.gone.history"]);
        assert_eq!(changed, new);
    }
}
