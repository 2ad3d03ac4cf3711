//! What the view asks of the server: the parameters of the routes.

use form_urlencoded::Serializer;

/// Entries of a list that the view holds. The server sorts, so the rest is never the worst.
const LIST: usize = 500;
/// Slow clients that the header counts.
pub(super) const SLOW_MAX: usize = 100;
/// Children of each supervisor, as many as a server lists, so that no topic's crash is left out.
pub(super) const CHILDREN: usize = 10_000;

/// A list of the view.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tab {
    #[default]
    Topics,
    Clients,
    Tree,
}

impl Tab {
    pub(super) const ALL: [Self; 3] = [Self::Topics, Self::Clients, Self::Tree];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Topics => "Topics",
            Self::Clients => "Clients",
            Self::Tree => "Tree",
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum TopicOrder {
    #[default]
    Rate,
    Subscribers,
    InFlight,
    Name,
}

impl TopicOrder {
    pub(super) fn next(self) -> Self {
        match self {
            Self::Rate => Self::Subscribers,
            Self::Subscribers => Self::InFlight,
            Self::InFlight => Self::Name,
            Self::Name => Self::Rate,
        }
    }

    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Subscribers => "subscribers",
            Self::InFlight => "in flight",
            Self::Name => "name",
        }
    }

    fn parameter(self) -> &'static str {
        match self {
            Self::InFlight => "in_flight",
            other => other.words(),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum ClientOrder {
    #[default]
    Lag,
    QueuedBytes,
    Number,
}

impl ClientOrder {
    pub(super) fn next(self) -> Self {
        match self {
            Self::Lag => Self::QueuedBytes,
            Self::QueuedBytes => Self::Number,
            Self::Number => Self::Lag,
        }
    }

    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Lag => "lag",
            Self::QueuedBytes => "queued bytes",
            Self::Number => "number",
        }
    }

    fn parameter(self) -> &'static str {
        match self {
            Self::QueuedBytes => "queued_bytes",
            other => other.words(),
        }
    }
}

/// The topics to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TopicQuery {
    pub(super) order: TopicOrder,
    /// The beginning of the names.
    pub(super) filter: String,
}

impl TopicQuery {
    pub(super) fn target(&self, limit: usize) -> String {
        let mut query = Serializer::new(String::new());
        query.append_pair("sort", self.order.parameter()).append_pair("limit", &limit.to_string());
        if !self.filter.is_empty() {
            query.append_pair("prefix", &self.filter);
        }
        format!("/api/topics?{}", query.finish())
    }
}

/// The clients to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ClientQuery {
    pub(super) order: ClientOrder,
    /// Words of the form `user=alice`; a word without a key is an address if it begins like one, and else a user.
    pub(super) filter: String,
}

impl ClientQuery {
    pub(super) fn target(&self, limit: usize) -> String {
        let mut query = Serializer::new(String::new());
        query.append_pair("sort", self.order.parameter()).append_pair("limit", &limit.to_string());
        query.extend_pairs(self.filters());
        format!("/api/connections?{}", query.finish())
    }

    fn filters(&self) -> Vec<(&'static str, String)> {
        let mut filters: Vec<(&str, String)> = Vec::new();
        for word in self.filter.split(' ') {
            let keyed =
                word.split_once('=').and_then(|(key, value)| Some((FILTERS.into_iter().find(|k| *k == key)?, value)));
            match (keyed, filters.last_mut()) {
                (Some((key, value)), _) => filters.push((key, value.to_owned())),
                // Names of topics and users may have blanks.
                (None, Some((_, value))) => *value += &format!(" {word}"),
                (None, None) if looks_like_an_address(word) => filters.push(("peer", word.to_owned())),
                (None, None) if word.is_empty() => {}
                (None, None) => filters.push(("user", word.to_owned())),
            }
        }
        filters
    }
}

/// The keys of a filter of clients.
pub(super) const FILTERS: [&str; 4] = ["user", "peer", "transport", "topic"];

fn looks_like_an_address(word: &str) -> bool {
    let of_an_address = |character: char| character.is_ascii_hexdigit() || ".:/[]".contains(character);
    word.contains(['.', ':']) && word.chars().all(of_an_address)
}

/// A request for everything on the screen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Query {
    /// Samples of the figures, for the bars.
    pub(super) samples: usize,
    pub(super) list: ListQuery,
}

/// The list in sight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ListQuery {
    Topics(TopicQuery),
    Clients(ClientQuery),
    Tree,
}

impl ListQuery {
    pub(super) fn target(&self) -> String {
        match self {
            Self::Topics(query) => query.target(LIST),
            Self::Clients(query) => query.target(LIST),
            Self::Tree => tree_target(CHILDREN),
        }
    }
}

pub(super) fn tree_target(children: usize) -> String {
    format!("/api/tree?limit={children}")
}

pub(super) fn slow_target(limit: usize) -> String {
    format!("/api/slow?limit={limit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_of_topics_is_a_prefix_whatever_its_characters() {
        let query = TopicQuery { order: TopicOrder::InFlight, filter: "chat: a&b".into() };
        assert_eq!(query.target(5), "/api/topics?sort=in_flight&limit=5&prefix=chat%3A+a%26b");
        assert_eq!(TopicQuery::default().target(500), "/api/topics?sort=rate&limit=500");
    }

    #[test]
    fn a_word_of_a_filter_of_clients_has_a_key_or_is_an_address_or_a_user() {
        for (filter, expected) in [
            ("", ""),
            ("alice", "&user=alice"),
            ("10.0.0.0/8", "&peer=10.0.0.0%2F8"),
            ("[::1]:5000", "&peer=%5B%3A%3A1%5D%3A5000"),
            ("face", "&user=face"),
            ("user=a b topic=news transport=sse", "&user=a+b&topic=news&transport=sse"),
            ("x=y", "&user=x%3Dy"),
        ] {
            let query = ClientQuery { filter: filter.into(), ..ClientQuery::default() };
            assert_eq!(query.target(9), format!("/api/connections?sort=lag&limit=9{expected}"), "{filter}");
        }
    }

    #[test]
    fn every_order_is_reached_and_left() {
        let mut topics = vec![TopicOrder::default()];
        let mut clients = vec![ClientOrder::default()];
        for _ in 0..3 {
            topics.push(topics[topics.len() - 1].next());
            clients.push(clients[clients.len() - 1].next());
        }
        assert_eq!(
            topics.iter().map(|order| order.parameter()).collect::<Vec<_>>(),
            ["rate", "subscribers", "in_flight", "name"]
        );
        assert_eq!(
            clients.iter().map(|order| order.parameter()).collect::<Vec<_>>(),
            ["lag", "queued_bytes", "number", "lag"]
        );
    }
}
