//! Reads JSON (RFC 8259) in one pass, and returns the raw text of its parts.
//!
//! Values are checked while being stepped over, and never decoded. Nothing recurses on the input, so no depth of
//! nesting can exhaust the stack. The tests hold this reader to the verdict of `serde_json` on good and bad input.
//!
//! Why not a pass of `serde_json` into raw values? A classic publication nests its parts inside `data`, known to be a
//! publication only with `action`, and either key may come first: raw values would be read twice. Nor is there speed to
//! gain: in `benches/json.rs`, the flat frames of `janus.v1.json` take 1.0 to 1.1 of `serde_json`'s time if small and
//! plain, 0.9 if small and structured, 0.7 to 1.0 at 1 KiB, and 0.4 (a plain string) to 1.0 (structure) at 16 KiB.

use std::borrow::Cow;

/// Where a text stops being JSON; the author of the text is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not JSON at byte {at}: expected {expected}")]
pub struct JsonError {
    /// The offset of the first unexpected byte.
    pub at: usize,
    /// The text expected instead, in words.
    pub expected: &'static str,
}

/// Checks that a text is a single JSON value, and returns the value without surrounding white space.
pub(super) fn one_value(text: &str) -> Result<&str, JsonError> {
    let mut reader = Reader::new(text);
    let value = reader.value()?;
    reader.end()?;
    Ok(value)
}

/// Unescapes a JSON string, given with its quotes. `None` if the text is not a string, or if an escape stands for half
/// of a surrogate pair: allowed by JSON's grammar, but impossible in Unicode text.
pub(super) fn string(raw: &str) -> Option<Cow<'_, str>> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') { serde_json::from_str(raw).ok().map(Cow::Owned) } else { Some(Cow::Borrowed(inner)) }
}

/// The raw text of selected members of an object.
pub(crate) struct Members<'a, const N: usize> {
    /// In the order of the requested keys; the last value of a duplicate key.
    pub(crate) values: [Option<&'a str>; N],
    /// For each key, whether the key is a duplicate.
    pub(super) twice: [bool; N],
}

/// Reads a text, which must be a single object, and returns the members with these keys.
pub(crate) fn members<'a, const N: usize>(text: &'a str, keys: [&str; N]) -> Result<Members<'a, N>, JsonError> {
    let mut reader = Reader::new(text);
    let mut members = Members { values: [None; N], twice: [false; N] };
    let mut key = reader.first_key()?;
    while let Some(name) = key {
        let value = reader.value()?;
        if let Some(index) = keys.iter().position(|key| *key == name) {
            members.twice[index] |= members.values[index].replace(value).is_some();
        }
        key = reader.next_key()?;
    }
    reader.end()?;
    Ok(members)
}

/// The keys and values of an object, in their order.
pub(super) fn members_of(text: &str) -> Result<Vec<(Cow<'_, str>, &str)>, JsonError> {
    let mut reader = Reader::new(text);
    let mut members = Vec::new();
    let mut key = reader.first_key()?;
    while let Some(name) = key {
        members.push((name, reader.value()?));
        key = reader.next_key()?;
    }
    reader.end()?;
    Ok(members)
}

/// The values of a list.
pub(super) fn items_of(text: &str) -> Result<Vec<&str>, JsonError> {
    let mut reader = Reader::new(text);
    let mut items = Vec::new();
    reader.skip_white_space();
    if !reader.eat(b'[') {
        return Err(reader.expected("'['"));
    }
    reader.skip_white_space();
    let mut is_over = reader.eat(b']');
    while !is_over {
        items.push(reader.value()?);
        reader.skip_white_space();
        is_over = reader.eat(b']');
        if !is_over && !reader.eat(b',') {
            return Err(reader.expected("',' or ']'"));
        }
    }
    reader.end()?;
    Ok(items)
}

/// A position in a JSON text.
pub(super) struct Reader<'a> {
    text: &'a str,
    at: usize,
}

/// The outcome of a step. The error is the text expected at the current position, in words: unlike a [`JsonError`],
/// small enough for registers.
type Step<T> = Result<T, &'static str>;

impl<'a> Reader<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// Whether the next value is an object.
    pub(super) fn at_object(&mut self) -> bool {
        self.skip_white_space();
        self.byte() == Some(b'{')
    }

    /// Enters an object. Returns the first key, or `None` after an empty object.
    pub(super) fn first_key(&mut self) -> Result<Option<Cow<'a, str>>, JsonError> {
        self.skip_white_space();
        if !self.eat(b'{') {
            return Err(self.expected("'{'"));
        }
        self.skip_white_space();
        if self.eat(b'}') { Ok(None) } else { self.key().map(Some) }
    }

    /// After a value in an object: the next key, or `None` at the end of the object.
    pub(super) fn next_key(&mut self) -> Result<Option<Cow<'a, str>>, JsonError> {
        self.skip_white_space();
        match self.byte() {
            Some(b',') => {
                self.at += 1;
                self.skip_white_space();
                self.key().map(Some)
            }
            Some(b'}') => {
                self.at += 1;
                Ok(None)
            }
            _ => Err(self.expected("',' or '}'")),
        }
    }

    /// The text after the current position.
    pub(super) fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    /// Checks that only white space is left.
    pub(super) fn end(&mut self) -> Result<(), JsonError> {
        self.skip_white_space();
        if self.at == self.text.len() { Ok(()) } else { Err(self.expected("the end")) }
    }

    /// Steps over a value and returns its text.
    pub(super) fn value(&mut self) -> Result<&'a str, JsonError> {
        self.skip_white_space();
        let start = self.at;
        self.skip_value().map_err(|expected| self.expected(expected))?;
        Ok(&self.text[start..self.at])
    }

    fn skip_value(&mut self) -> Step<()> {
        let mut nesting = Nesting::default();
        loop {
            match self.byte() {
                Some(b'{') => {
                    self.at += 1;
                    self.skip_white_space();
                    if !self.eat(b'}') {
                        nesting.enter(Container::Object);
                        self.skip_key()?;
                        self.skip_white_space();
                        continue;
                    }
                }
                Some(b'[') => {
                    self.at += 1;
                    self.skip_white_space();
                    if !self.eat(b']') {
                        nesting.enter(Container::Array);
                        continue;
                    }
                }
                Some(b'"') => _ = self.skip_string()?,
                Some(b'-' | b'0'..=b'9') => self.skip_number()?,
                Some(b't') => self.skip_word("true")?,
                Some(b'f') => self.skip_word("false")?,
                Some(b'n') => self.skip_word("null")?,
                _ => return Err("a value"),
            }
            if self.leave_containers(&mut nesting)? {
                return Ok(());
            }
        }
    }

    /// After a value: leaves the containers ended by this value, and steps to the next value. Returns whether no
    /// container is left.
    fn leave_containers(&mut self, nesting: &mut Nesting) -> Step<bool> {
        loop {
            let Some(container) = nesting.innermost() else { return Ok(true) };
            self.skip_white_space();
            match (self.byte(), container) {
                (Some(b','), Container::Array) => {
                    self.at += 1;
                    break;
                }
                (Some(b','), Container::Object) => {
                    self.at += 1;
                    self.skip_white_space();
                    self.skip_key()?;
                    break;
                }
                (Some(b']'), Container::Array) | (Some(b'}'), Container::Object) => {
                    self.at += 1;
                    nesting.leave();
                }
                (_, Container::Array) => return Err("',' or ']'"),
                (_, Container::Object) => return Err("',' or '}'"),
            }
        }
        self.skip_white_space();
        Ok(false)
    }

    /// Steps over a key and its colon.
    fn key(&mut self) -> Result<Cow<'a, str>, JsonError> {
        let start = self.at;
        let (end, has_escapes) = self.skip_key().map_err(|expected| self.expected(expected))?;
        if !has_escapes {
            return Ok(Cow::Borrowed(&self.text[start + 1..end - 1]));
        }
        let raw = &self.text[start..end];
        // A key impossible in Unicode text keeps its escapes, and so equals no known key.
        Ok(string(raw).unwrap_or(Cow::Borrowed(raw)))
    }

    /// Steps over a key and its colon. Returns the end of the key, and whether the key has escapes.
    fn skip_key(&mut self) -> Step<(usize, bool)> {
        if self.byte() != Some(b'"') {
            return Err("a key in quotes");
        }
        let has_escapes = self.skip_string()?;
        let end = self.at;
        self.skip_white_space();
        if self.eat(b':') { Ok((end, has_escapes)) } else { Err("':'") }
    }

    /// Steps over a string. Returns whether the string has escapes.
    fn skip_string(&mut self) -> Step<bool> {
        self.at += 1;
        let mut has_escapes = false;
        loop {
            self.at += plain_prefix(&self.text.as_bytes()[self.at..]);
            match self.byte() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(has_escapes);
                }
                Some(b'\\') => {
                    self.skip_escape()?;
                    has_escapes = true;
                }
                Some(_) => return Err("an escape for a control character"),
                None => return Err("the end of a string"),
            }
        }
    }

    fn skip_escape(&mut self) -> Step<()> {
        self.at += 1;
        match self.byte() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 1,
            Some(b'u') => {
                self.at += 1;
                for _ in 0..4 {
                    if !self.byte().is_some_and(|byte| byte.is_ascii_hexdigit()) {
                        return Err("a hexadecimal digit");
                    }
                    self.at += 1;
                }
            }
            _ => return Err("one of \"\\/bfnrtu after a backslash"),
        }
        Ok(())
    }

    fn skip_number(&mut self) -> Step<()> {
        if self.byte() == Some(b'-') {
            self.at += 1;
        }
        match self.byte() {
            Some(b'0') => self.at += 1,
            _ => self.skip_digits()?,
        }
        if self.byte() == Some(b'.') {
            self.at += 1;
            self.skip_digits()?;
        }
        if let Some(b'e' | b'E') = self.byte() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.byte() {
                self.at += 1;
            }
            self.skip_digits()?;
        }
        Ok(())
    }

    /// One or more digits.
    fn skip_digits(&mut self) -> Step<()> {
        let digits = self.text.as_bytes()[self.at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += digits;
        if digits > 0 { Ok(()) } else { Err("a digit") }
    }

    fn skip_word(&mut self, word: &'static str) -> Step<()> {
        if self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            self.at += word.len();
            Ok(())
        } else {
            Err(word)
        }
    }

    fn skip_white_space(&mut self) {
        while self.byte().is_some_and(is_white_space) {
            self.at += 1;
        }
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn eat(&mut self, byte: u8) -> bool {
        // A branch can be predicted, and the next byte is then read at once.
        if self.byte() != Some(byte) {
            return false;
        }
        self.at += 1;
        true
    }

    fn expected(&self, expected: &'static str) -> JsonError {
        JsonError { at: self.at, expected }
    }
}

/// White space as defined by JSON, a smaller set than in ASCII or Unicode.
pub(super) fn is_white_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// The number of bytes before the next quote, backslash or control character.
fn plain_prefix(bytes: &[u8]) -> usize {
    /// Bytes searched word by word: most strings end within these.
    const SHORT: usize = 32;
    const BLOCK: usize = 32;
    let mut at = 0;
    while let Some(word) = bytes[at..].first_chunk() {
        let specials = specials(u64::from_le_bytes(*word));
        if specials != 0 {
            return at + specials.trailing_zeros() as usize / 8;
        }
        at += 8;
        if at == SHORT {
            // Whole blocks without an early exit become vector instructions.
            let (blocks, _) = bytes[at..].as_chunks::<BLOCK>();
            let is_plain = |block: &[u8; BLOCK]| !block.iter().fold(false, |any, &byte| any | is_special(byte));
            at += BLOCK * blocks.iter().take_while(|block| is_plain(block)).count();
        }
    }
    at + bytes[at..].iter().take_while(|&&byte| !is_special(byte)).count()
}

fn is_special(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

/// Sets the highest bit of each special byte of a word. Only the lowest of these bits is reliable, because a
/// subtraction borrows from higher bytes.
fn specials(word: u64) -> u64 {
    const ONES: u64 = u64::MAX / 0xff;
    let below = |limit: u8, word: u64| word.wrapping_sub(ONES * u64::from(limit));
    let equal_to = |byte: u8| below(1, word ^ (ONES * u64::from(byte)));
    // A byte with the highest bit set is special in no way.
    (below(0x20, word) | equal_to(b'"') | equal_to(b'\\')) & !word & (ONES * 0x80)
}

#[derive(Clone, Copy)]
enum Container {
    Array,
    Object,
}

/// The open containers, a bit for each, so that ordinary nesting needs no heap memory.
#[derive(Default)]
struct Nesting {
    /// The innermost containers, at most 64, the last in the lowest bit; a set bit is an object.
    inner: u64,
    /// How many containers are open.
    depth: usize,
    /// The outer containers, 64 in each word.
    outer: Vec<u64>,
}

impl Nesting {
    fn enter(&mut self, container: Container) {
        if self.depth > 0 && self.depth.is_multiple_of(64) {
            self.outer.push(self.inner);
        }
        self.inner = self.inner << 1 | u64::from(matches!(container, Container::Object));
        self.depth += 1;
    }

    fn leave(&mut self) {
        self.depth -= 1;
        self.inner >>= 1;
        if self.depth > 0
            && self.depth.is_multiple_of(64)
            && let Some(outer) = self.outer.pop()
        {
            self.inner = outer;
        }
    }

    fn innermost(&self) -> Option<Container> {
        match (self.depth, self.inner & 1) {
            (0, _) => None,
            (_, 0) => Some(Container::Array),
            _ => Some(Container::Object),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::de::IgnoredAny;

    use super::*;

    #[track_caller]
    fn agrees_with_serde_json(text: &str) -> bool {
        let ours = one_value(text);
        let theirs = serde_json::from_str::<IgnoredAny>(text);
        assert_eq!(ours.is_ok(), theirs.is_ok(), "{text:?}: {ours:?}, {theirs:?}");
        ours.is_ok()
    }

    #[test]
    fn values_valid_by_rfc_8259_are_accepted() {
        for text in [
            "0",
            "-0",
            "10",
            "0.10",
            "1e400",
            "-1E-7",
            "1e+07",
            "123456789012345678901234567890",
            "true",
            "false",
            "null",
            "\"\"",
            "\"é\u{7f}\u{2028}\"",
            r#""\"\\\/\b\f\n\r\t\u00e9""#,
            r#""\ud800""#,
            "[]",
            "{}",
            " \t\r\n[ ] ",
            "[1,[2,{}],{\"a\":[]}]",
            "{\"a\":1,\"a\":2}",
            r#"{"\u0061":1}"#,
        ] {
            assert!(agrees_with_serde_json(text), "{text}");
        }
    }

    #[test]
    fn texts_invalid_by_rfc_8259_are_refused() {
        for text in [
            "",
            " ",
            "01",
            "-",
            "+1",
            ".5",
            "1.",
            "1e",
            "1e+",
            "0x1",
            "NaN",
            "Infinity",
            "-Infinity",
            "True",
            "nul",
            "truex",
            "'a'",
            "\"",
            "\"\\",
            "\"\\x\"",
            r#""\u12""#,
            r#""\u12g4""#,
            "\"\n\"",
            "\"\u{1}\"",
            "\"\u{1f}\"",
            "\"\0\"",
            "[",
            "]",
            "[1",
            "[1,",
            "[1,]",
            "[,1]",
            "[1 2]",
            "[1}",
            "{",
            "}",
            "{1:2}",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1",
            "{\"a\":1,}",
            "{\"a\":1]",
            "{,}",
            "{a:1}",
            "{\"\u{2}\":1}",
            "1 2",
            "{}{}",
            "[]]",
            "// c\n1",
            "\u{feff}1",
            "\u{a0}1",
            "\u{b}1",
        ] {
            assert!(!agrees_with_serde_json(text), "{text}");
        }
    }

    #[test]
    fn control_characters_are_found_at_every_place() {
        for length in 0..140 {
            for at in 0..length {
                let mut text = vec![b'a'; length];
                text[at] = 0x01;
                let text = format!("\"{}\"", String::from_utf8(text).unwrap());
                assert_eq!(one_value(&text).unwrap_err().at, at + 1);
            }
        }
    }

    #[test]
    fn lists_and_objects_are_taken_apart() {
        assert_eq!(items_of(" [ 1 ,[2,3], {\"a\":[]} ] "), Ok(vec!["1", "[2,3]", "{\"a\":[]}"]));
        assert_eq!(items_of("[]"), Ok(Vec::new()));
        assert!(["", "[", "[1", "[1,]", "[1 2]", "[1}", "[1]]", "{}"].iter().all(|text| items_of(text).is_err()));
        let members = members_of(r#"{"b":1,"\u0061":[2],"b":3}"#).unwrap();
        assert_eq!(members, [("b".into(), "1"), ("a".into(), "[2]"), ("b".into(), "3")]);
        assert!(members_of("[]").is_err());
    }

    #[test]
    fn an_error_says_where_and_what() {
        let error = one_value("{\"a\" 1}").unwrap_err();
        assert_eq!(error.to_string(), "not JSON at byte 5: expected ':'");
    }

    #[test]
    fn brackets_are_matched_at_every_depth() {
        for depth in [1, 2, 63, 64, 65, 127, 128, 129, 1_000] {
            // Every third container is an object, so that no block of 64 looks like the next.
            let open: String = (0..depth).map(|level| if level % 3 == 0 { "{\"\":" } else { "[" }).collect();
            let close: String = (0..depth).rev().map(|level| if level % 3 == 0 { '}' } else { ']' }).collect();
            assert!(agrees_with_serde_json(&format!("{open}0{close}")));
            for wrong in 0..depth {
                let mut close = close.clone().into_bytes();
                close[wrong] ^= b']' ^ b'}';
                assert!(one_value(&format!("{open}0{}", String::from_utf8(close).unwrap())).is_err());
            }
        }
    }

    #[test]
    fn no_depth_of_nesting_exhausts_a_small_stack() {
        let deep = || {
            assert!(one_value(&"[".repeat(60_000)).is_err());
            assert!(one_value(&"{\"\":".repeat(60_000)).is_err());
            assert!(one_value(&format!("{}{}", "[".repeat(60_000), "]".repeat(60_000))).is_ok());
        };
        std::thread::Builder::new().stack_size(64 * 1024).spawn(deep).unwrap().join().unwrap();
    }

    #[test]
    fn half_of_a_surrogate_pair_is_json_but_not_text() {
        for raw in [r#""\ud800""#, r#""\udc00""#, r#""\ud800\u0041""#, r#""\udc00\ud800""#] {
            assert!(one_value(raw).is_ok(), "{raw}");
            assert_eq!(string(raw), None, "{raw}");
        }
        assert_eq!(string(r#""\ud83d\ude00""#).as_deref(), Some("😀"));
    }

    proptest! {
        #[test]
        fn the_plain_prefix_ends_at_the_first_special_byte(
            bytes in proptest::collection::vec(
                prop_oneof![40 => any::<u8>().prop_map(|byte| byte | 0x80), 40 => 0x20..0x80_u8, 1 => any::<u8>()],
                0..200,
            ),
        ) {
            prop_assert_eq!(plain_prefix(&bytes), bytes.iter().take_while(|byte| !is_special(**byte)).count());
        }

        #[test]
        fn random_tokens_get_the_verdict_of_serde_json(
            tokens in proptest::collection::vec(
                prop_oneof![
                    proptest::sample::select(vec![
                        "{", "}", "[", "]", ",", ":", "\"", "\"a\"", "\"a\":", "\\", "\\u", "\\ud83d", "00e9", "0", "1", "-", ".",
                        "e", "E+", "true", "null", "fals", " ", "\n", "\u{1}", "\u{7f}", "é",
                    ]).prop_map(str::to_owned),
                    any::<char>().prop_map(String::from),
                ],
                0..24,
            ),
        ) {
            agrees_with_serde_json(&tokens.concat());
        }

        #[test]
        fn a_changed_value_gets_the_verdict_of_serde_json(
            at in 0_usize..80,
            character in any::<char>(),
        ) {
            let mut text: Vec<char> =
                r#"{"a":[1.5e-3,"b\u00e9\n",{"c":null,"d":[true,false,[]]},-0],"e":{}, "f" : "ghijklmnopqrstuvwxyz" }"#.chars().collect();
            text[at] = character;
            agrees_with_serde_json(&text.into_iter().collect::<String>());
        }
    }
}
