//! `janus-server token`: keys and tokens for trying.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use crate::cli_run::{assert_exit, janus, text};

fn run(arguments: &[&str], code: i32) -> (String, String) {
    let output = janus(&[&["token"][..], arguments].concat()).output().unwrap();
    assert_exit(&output, code);
    (text(&output.stdout), text(&output.stderr))
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }
}

#[test]
fn a_key_of_each_kind_makes_a_token_that_the_server_s_half_accepts() {
    for algorithm in ["ES256", "eddsa", "RS256"] {
        let folder = Folder::new();
        let (private, public) = (folder.text("private.pem"), folder.text("public.pem"));
        run(&["key", algorithm, "--private", &private, "--public", &public], 0);
        let mode = |path: &str| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&private), 0o600);
        let make = [
            "make",
            "--keys",
            &private,
            "--sub",
            "alice",
            "--subscribe",
            "news",
            "--subscribe",
            "chat:*",
            "--topic",
            "inbox",
            "--for",
            "10 m",
        ];
        let (token, _) = run(&make, 0);
        let (shown, _) = run(&["show", token.trim(), "--keys", &public], 0);
        for part in [
            "good: user \"alice\"",
            "may subscribe to news, chat:*",
            "may publish to no topic",
            "is subscribed from the start to inbox",
            "(in 9 min)",
            "\"alg\": \"",
        ] {
            assert!(shown.contains(part), "{algorithm}: {part:?} is not in:\n{shown}");
        }
        let (_, error) = run(&["key", algorithm, "--private", &private], 1);
        assert!(error.contains("no key is written over; remove the file first"), "{error}");
        let (_, error) = run(&["make", "--keys", &public, "--sub", "alice"], 1);
        assert!(error.contains("no private key"), "{error}");
    }
}

#[test]
fn a_secret_is_one_file_for_the_issuer_and_the_server() {
    let folder = Folder::new();
    let (secret, _) = run(&["key", "HS256"], 0);
    assert!(secret.starts_with("HS256 ") && secret.len() == 51, "{secret}");
    std::fs::write(folder.path("keys"), &secret).unwrap();
    std::fs::write(
        folder.path("janus.toml"),
        format!("token_keys = {:?}\ntoken_aud = \"push\"\n", folder.text("keys")),
    )
    .unwrap();
    let config = folder.text("janus.toml");
    let (token, _) = run(&["make", "--config", &config, "--sub", "alice"], 0);
    let (shown, _) = run(&["show", token.trim(), "--config", &config], 0);
    assert!(shown.contains("\"aud\": \"push\"") && shown.contains("good: user \"alice\""), "{shown}");
    let (_, error) = run(&["key", "HS256", "--public", &folder.text("public")], 2);
    assert!(error.contains("HS256 has no public key"), "{error}");
}

#[test]
fn show_says_in_plain_words_what_is_wrong() {
    let folder = Folder::new();
    let [keys, others] = ["keys", "others"].map(|name| {
        std::fs::write(folder.path(name), run(&["key", "HS256"], 0).0).unwrap();
        folder.text(name)
    });
    let config = folder.text("janus.toml");
    std::fs::write(folder.path("janus.toml"), format!("token_keys = {keys:?}\ntoken_aud = \"push\"\n")).unwrap();
    let make = |more: &[&str]| run(&[&["make", "--sub", "alice"][..], more].concat(), 0).0.trim().to_owned();
    let good = make(&["--keys", &keys, "--aud", "push"]);
    for (token, words) in [
        (make(&["--keys", &keys, "--aud", "mail"]), "\"aud\" is \"mail\", and token_aud of this server is \"push\""),
        (make(&["--keys", &keys]), "\"aud\" is absent"),
        (make(&["--keys", &others, "--aud", "push"]), "another key has signed the token, or its content was changed"),
        (format!("{good}x"), "not good: "),
        ("nonsense".to_owned(), "expected three parts with dots between them"),
    ] {
        let (shown, error) = run(&["show", &token, "--config", &config], 1);
        assert!(shown.contains(words), "{words:?} is not in:\n{shown}");
        assert!(error.contains("the token is not good"), "{error}");
    }
    let (_, error) = run(&["show", &good], 2);
    assert!(error.contains("no keys to verify with"), "{error}");
    let (_, error) = run(&["make", "--sub", "alice", "--keys", &keys, "--subscribe", "a:b*"], 2);
    assert!(error.contains("a server with these settings would refuse the token"), "{error}");
    let output = janus(&["token", "show", "-", "--config", &config]).write_stdin(format!("{good}\n")).output().unwrap();
    assert_exit(&output, 0);
}
