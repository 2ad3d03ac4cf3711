//! Patterns of names: `*` stands for any text, even for an empty one.

/// One pattern. Comparing takes the product of both lengths at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    /// The text between the stars.
    pieces: Vec<String>,
}

impl Pattern {
    pub(super) fn new(text: &str) -> Self {
        Self { pieces: text.split('*').map(str::to_owned).collect() }
    }

    /// Whether the pattern covers the whole name.
    pub(super) fn covers(&self, name: &str) -> bool {
        let [first, middle @ .., last] = &self.pieces[..] else {
            return self.pieces.first().is_some_and(|whole| whole == name);
        };
        let Some(rest) = name.strip_prefix(&**first) else { return false };
        let Some(mut rest) = rest.strip_suffix(&**last) else { return false };
        // The first place is the best: most of the name is left for the next pieces.
        middle.iter().all(|piece| match rest.find(&**piece) {
            Some(at) => {
                rest = &rest[at + piece.len()..];
                true
            }
            None => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text_and_everything_else_for_itself() {
        let covers = |pattern: &str, name: &str| Pattern::new(pattern).covers(name);
        for (pattern, name) in [
            ("topic news", "topic news"),
            ("*", "anything"),
            ("*", ""),
            ("", ""),
            ("topic *", "topic "),
            ("topic quotes:*", "topic quotes:ACME"),
            ("*:ACME", "topic quotes:ACME"),
            ("*quotes*", "topic quotes:ACME"),
            ("a*b*c", "axxbxbc"),
            ("a**c", "ac"),
            ("a*a", "aa"),
        ] {
            assert!(covers(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("topic news", "topic newsletter"),
            ("topic news", "a topic news"),
            ("", "a"),
            ("topic *", "topi"),
            ("a*a", "a"),
            ("a*b*c", "axxc"),
            ("client 7", "Client 7"),
            ("?lient", "client"),
            ("a*bb*b", "abb"),
        ] {
            assert!(!covers(pattern, name), "{pattern} {name}");
        }
    }
}
