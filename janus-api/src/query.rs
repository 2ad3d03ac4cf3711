//! The query of a request: known parameters, each once, and numbers and words in words of their own.
//!
//! Pure. An unknown parameter is refused, because only the sender would notice an ignored one.

use std::collections::HashMap;

use janus_core::wire::HttpError;

use crate::body::{bad_request, digits};

/// The parameters of a request by their names.
#[derive(Debug, Default)]
pub struct Query(HashMap<String, String>);

impl Query {
    /// Reads the parameters of a query.
    ///
    /// # Errors
    ///
    /// A parameter that is not `accepted`, or comes twice.
    pub fn of(query: &str, accepted: &[&str]) -> Result<Self, HttpError> {
        let mut parameters = HashMap::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if !accepted.contains(&&*name) {
                return Err(bad_request(format!("the query: expected only {}", in_words(accepted, "and"))));
            }
            if parameters.insert(name.to_string(), value.into_owned()).is_some() {
                return Err(bad_request(format!("the query: duplicate parameter {name}")));
            }
        }
        Ok(Self(parameters))
    }

    /// A text; an empty text is none.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|text| !text.is_empty())
    }

    /// A whole number from 1 to `max`.
    ///
    /// # Errors
    ///
    /// What was expected, for any other text.
    pub fn number(&self, name: &str, max: usize) -> Result<Option<usize>, HttpError> {
        let Some(text) = self.0.get(name) else { return Ok(None) };
        let number = digits(text).and_then(|number| usize::try_from(number).ok());
        let number = number.filter(|number| (1..=max).contains(number));
        let expected = || bad_request(format!("{name}: expected a whole number from 1 to {}", grouped(max)));
        number.map(Some).ok_or_else(expected)
    }

    /// The value of one of these words.
    ///
    /// # Errors
    ///
    /// What was expected, for any other word.
    pub fn one_of<T: Copy>(&self, name: &str, words: &[(&str, T)]) -> Result<Option<T>, HttpError> {
        let Some(text) = self.0.get(name) else { return Ok(None) };
        let found = words.iter().find(|(word, _)| word == text).map(|(_, value)| *value);
        found.map(Some).ok_or_else(|| {
            let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            bad_request(format!("{name}: expected {}", in_words(&words, "or")))
        })
    }
}

/// "a, b and c".
fn in_words(words: &[&str], last: &str) -> String {
    match words {
        [] => String::new(),
        [word] => (*word).to_owned(),
        [first @ .., end] => format!("{} {last} {end}", first.join(", ")),
    }
}

/// A number with its thousands set apart: 10,000.
#[must_use]
pub fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let from_end = |place: usize| digits.len() - place;
    let with_comma = |(place, digit): (usize, char)| {
        let comma = place > 0 && from_end(place).is_multiple_of(3);
        comma.then_some(',').into_iter().chain([digit])
    };
    digits.chars().enumerate().flat_map(with_comma).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_parameter_is_refused_with_the_right_ones() {
        let accepted = ["limit", "after", "sort"];
        let error = |query: &str| Query::of(query, &accepted).unwrap_err().message;
        assert_eq!(error("limt=5"), "the query: expected only limit, after and sort");
        assert_eq!(error("limit=5&limit=6"), "the query: duplicate parameter limit");
        let query = Query::of("limit=10001&sort=size&after=", &accepted).unwrap();
        let of_limit = query.number("limit", 10_000).unwrap_err().message;
        assert_eq!(of_limit, "limit: expected a whole number from 1 to 10,000");
        let of_sort = query.one_of("sort", &[("name", 1), ("rate", 2)]).unwrap_err().message;
        assert_eq!(of_sort, "sort: expected name or rate");
        assert_eq!((query.text("after"), query.number("count", 1).unwrap()), (None, None));
    }

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!([7, 600, 1_000, 10_000, 1_234_567].map(grouped), ["7", "600", "1,000", "10,000", "1,234,567"]);
    }
}
