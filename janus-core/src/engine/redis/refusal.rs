//! The meaning of an error reply.

use super::super::LinkError;

/// An error reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Nothing will be accepted on this connection from now on.
    Ends(LinkError),
    /// The server does not know the script, or no longer.
    NoScript,
    /// This request was refused, and the next may be accepted.
    Refused(String),
}

/// The first words of errors for the whole link, with the reason for metrics, and the meaning for the operator.
const ENDS: &[(&str, &str, &str)] = &[
    ("READONLY", "read_only", "the server has become a replica"),
    ("MASTERDOWN", "read_only", "the server is a replica that has lost its master"),
    ("LOADING", "loading", "the server is still loading its data"),
    ("NOAUTH", "auth", "the server asks for a password, and the address has none"),
    ("WRONGPASS", "auth", "the server does not know this user and password"),
    ("NOPERM", "permission", "the user of the address may not run the commands of the engine"),
    ("CLUSTERDOWN", "cluster", "the Redis Cluster is down"),
    ("MOVED", "cluster", "the server is part of a Redis Cluster, which this address cannot use"),
];

pub(super) fn refusal_of(text: &[u8]) -> Refusal {
    let text = String::from_utf8_lossy(text);
    // Servers before 7.0 put the error of a command in a script behind words of their own.
    let has = |word: &str| text.starts_with(word) || (text.contains("running script") && text.contains(word));
    if has("NOSCRIPT") {
        return Refusal::NoScript;
    }
    let line = shortened(without_script(&text));
    match ENDS.iter().find(|(word, ..)| has(word)) {
        Some((_, reason, meaning)) => Refusal::Ends(LinkError::new(reason, format!("{meaning} ({line})"))),
        None => Refusal::Refused(line.to_owned()),
    }
}

/// The words of the server without the place in the script, which means nothing to a publisher or an operator.
pub(super) fn without_script(text: &str) -> &str {
    // Before 7.0: `ERR Error running script (call to f_…): @user_script:78: @user_script: 78: -OOM …`.
    let text = match text.rsplit_once("@user_script: ") {
        Some((before, rest)) if before.starts_with("ERR Error running script") => {
            rest.split_once(": ").map_or(text, |(_, error)| error.strip_prefix('-').unwrap_or(error))
        }
        _ => text,
    };
    text.split(" script: ").next().unwrap_or(text).trim_end()
}

/// The beginning of a text from elsewhere, for the log.
fn shortened(text: &str) -> &str {
    const MAX: usize = 300;
    text.get(..text.floor_char_boundary(MAX)).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_concerns_the_server_ends_the_link() {
        for (text, reason) in [
            ("READONLY You can't write against a read only replica. script: abc, on @user_script:19.", "read_only"),
            ("ERR Error running script (call to f_a): @user_script:1: -READONLY You can't write", "read_only"),
            ("LOADING Redis is loading the dataset in memory", "loading"),
            ("MASTERDOWN Link with MASTER is down", "read_only"),
            ("NOAUTH Authentication required.", "auth"),
            ("NOPERM this user has no permissions to run the 'evalsha' command", "permission"),
        ] {
            assert!(matches!(refusal_of(text.as_bytes()), Refusal::Ends(error) if error.reason == reason), "{text}");
        }
    }

    #[test]
    fn what_concerns_one_request_does_not_end_the_link() {
        assert_eq!(refusal_of(b"NOSCRIPT No matching script. Please use EVAL."), Refusal::NoScript);
        for text in [
            "NOREPLICAS Not enough good replicas to write.",
            "MISCONF Redis is configured to save RDB snapshots",
            "NUMBERS the topic has no numbers left",
            "WRONGTYPE Operation against a key holding the wrong kind of value, READONLY or not",
        ] {
            assert_eq!(refusal_of(text.as_bytes()), Refusal::Refused(text.to_owned()));
            let in_script = format!("{text} script: 0beb, on @user_script:90.");
            assert_eq!(refusal_of(in_script.as_bytes()), Refusal::Refused(text.to_owned()));
        }
        let memory = "OOM command not allowed when used memory > 'maxmemory'.";
        for text in [
            format!("{memory} script: ae82, on @user_script:90."),
            format!("ERR Error running script (call to f_ae82): @user_script:90: @user_script: 90: -{memory} "),
        ] {
            assert_eq!(refusal_of(text.as_bytes()), Refusal::Refused(memory.to_owned()), "without the script");
        }
        let long = "é".repeat(1000);
        assert!(matches!(refusal_of(long.as_bytes()), Refusal::Refused(text) if text.len() == 300));
    }
}
