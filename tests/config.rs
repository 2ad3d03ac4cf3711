//! Settings: the precedence of their sources, and the answers to mistakes.

use std::io::Write as _;

use tempfile::NamedTempFile;

use crate::cli_run::{assert_exit, binary, janus, text};

fn file(content: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(content.as_bytes()).unwrap();
    file
}

fn path(file: &NamedTempFile) -> &str {
    file.path().to_str().unwrap()
}

/// Expects exit code 2, nothing on standard output, and each of the texts on standard error.
#[track_caller]
fn assert_refused(command: &mut assert_cmd::Command, expected: &[&str]) {
    let output = command.output().unwrap();
    assert_exit(&output, 2);
    assert_eq!(text(&output.stdout), "");
    for part in expected {
        assert!(text(&output.stderr).contains(part), "{part:?} is not in: {}", text(&output.stderr));
    }
}

#[test]
fn flags_win_over_variables_and_variables_over_the_file() {
    let file = file("threads = 3\nmax_topics = 7\nframe_timeout = \"2m\"\n");
    let output = janus(&["config", "show", "--config", path(&file), "--threads", "5"])
        .env("JANUS_THREADS", "4")
        .env("JANUS_MAX_TOPICS", "8")
        .output()
        .unwrap();
    assert_exit(&output, 0);
    let shown = text(&output.stdout);
    for line in [
        "threads = 5  # flag --threads".to_owned(),
        "max_topics = 8  # variable JANUS_MAX_TOPICS".to_owned(),
        format!("frame_timeout = \"120 s\"  # file {}:3", path(&file)),
        "max_queue_bytes = \"1 MiB\"  # default".to_owned(),
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line:?} is not in:\n{shown}");
    }
}

#[test]
fn the_output_of_show_is_a_file_that_shows_the_same() {
    let values = |shown: &str| -> Vec<String> {
        shown.lines().filter_map(|line| line.split_once("  # ").map(|(value, _)| value.to_owned())).collect()
    };
    let first = janus(&["config", "show", "--listen", "[::1]:0", "--listen", "127.0.0.1:9", "--allow-publish"]);
    let first = text(&{ first }.output().unwrap().stdout);
    let again = file(&first);
    let output = janus(&["config", "show"]).env("JANUS_CONFIG", path(&again)).output().unwrap();
    assert_exit(&output, 0);
    assert_eq!(values(&text(&output.stdout)), values(&first));
    assert!(first.contains("listen = [\"[::1]:0\", \"127.0.0.1:9\"]  # flag --listen"), "{first}");
    assert!(first.contains("allow_publish = true  # flag --allow-publish"), "{first}");
}

#[test]
fn check_accepts_good_settings() {
    let file = file("listen = \"127.0.0.1:0\"\nmax_queue_bytes = 2048\nmax_frame_bytes = \"1 KiB\"\n");
    assert_exit(&janus(&["config", "check", "--config", path(&file)]).output().unwrap(), 0);
}

#[test]
fn an_unknown_key_is_refused_with_its_place_and_the_nearest_name() {
    let file = file("# limits\nmax_conections = 5\n");
    let place = format!("{}:2", path(&file));
    let expected = [&place, "max_conections", "did you mean max_connections?"];
    assert_refused(&mut janus(&["config", "check", "--config", path(&file)]), &expected);
    assert_refused(&mut janus(&["--config", path(&file)]), &expected);
}

#[test]
fn a_bad_value_is_refused_with_its_place_and_the_expected_values() {
    let file = file("\n\nmax_frame_bytes = \"64 KB\"\nthreads = \"2\"\nbacklog = 5_000_000_000\n");
    let expected = [
        &format!("{}:3: max_frame_bytes = \"64 KB\": expected 64 bytes to 16 MiB", path(&file)),
        &format!("{}:4: threads = \"2\": expected 1 to 256", path(&file)),
        &format!("{}:5: backlog = 5_000_000_000: expected 16 to 1,048,576", path(&file)),
    ];
    assert_refused(&mut janus(&["config", "check", "--config", path(&file)]), &expected.map(String::as_str));
}

#[test]
fn a_bad_flag_is_refused_even_if_another_layer_has_a_good_value() {
    assert_refused(&mut janus(&["--threads", "0"]), &["flag --threads", "expected 1 to 256"]);
    assert_refused(
        janus(&["config", "check", "--frame-timeout", "5s"]).env("JANUS_FRAME_TIMEOUT", "5"),
        &["variable JANUS_FRAME_TIMEOUT", "5: expected 10 ms to 7 days, with a unit such as \"10 s\""],
    );
    for address in ["localhost", "no.such.host.invalid:8081", "8081"] {
        assert_refused(
            &mut janus(&["--listen", address]),
            &["flag --listen", "expected an address and a port", "127.0.0.1:8081"],
        );
    }
    assert_refused(&mut janus(&["--log", "loud"]), &["flag --log", "debug"]);
    assert_refused(&mut janus(&["--thread", "1"]), &["--thread"]);
}

#[test]
fn the_shortest_tested_time_is_accepted_and_shorter_times_are_not() {
    for (setting, shortest) in [
        ("sse-retry", 100),
        ("frame-timeout", 10),
        ("heartbeat-interval", 1_000),
        ("session-ttl", 10),
        ("resume-age", 10),
        ("history-age", 10),
        ("topic-idle", 10),
        ("topic-quarantine", 100),
        ("drain-timeout", 10),
        ("write-timeout", 10),
        ("stall-timeout", 10),
        ("tcp-keepalive", 1_000),
        ("tcp-user-timeout", 100),
    ] {
        let check = |time| janus(&["config", "check", &format!("--{setting}={time}ms")]);
        assert_exit(&check(shortest).output().unwrap(), 0);
        assert_refused(&mut check(shortest - 1), &[&format!("flag --{setting}: "), " to "]);
    }
}

#[test]
fn a_drain_period_may_be_zero_and_is_at_most_half_of_the_timeout() {
    let check = |period, timeout| janus(&["config", "check", "--drain-period", period, "--drain-timeout", timeout]);
    for (period, timeout) in [("20 s", "1 m"), ("0 s", "1 s"), ("5 s", "2 s")] {
        assert_exit(&check(period, timeout).output().unwrap(), 0);
    }
    assert_refused(&mut check("8 d", "2 s"), &["flag --drain-period", "expected 0 s to 7 days"]);
}

#[test]
fn an_unknown_variable_is_refused_with_the_nearest_name() {
    assert_refused(
        janus(&["config", "show"]).env("JANUS_MAX_TOPIC", "5"),
        &["JANUS_MAX_TOPIC is not a setting", "did you mean JANUS_MAX_TOPICS?"],
    );
    assert_refused(janus(&["config", "show"]).env("JANUS_CONFG", "x"), &["did you mean JANUS_CONFIG?"]);
    let output = janus(&["config", "show"]).env("JANUS_FOO", "x").output().unwrap();
    assert_eq!(text(&output.stderr), "error: variable JANUS_FOO is not a setting\n");
}

#[test]
fn a_table_in_the_file_is_refused_with_the_right_place_of_settings() {
    let file = file("log = \"info\"\n[server]\nthreads = 2\n");
    let place = format!("{}:2: [server] is not a setting", path(&file));
    assert_refused(&mut janus(&["config", "check", "--config", path(&file)]), &[&place, "at the top level"]);
}

#[test]
fn the_default_memory_budget_follows_from_the_available_memory() {
    let line = |arguments: &[&str]| {
        let output = janus(&[&["config", "show"], arguments].concat()).output().unwrap();
        assert_exit(&output, 0);
        let shown = text(&output.stdout);
        shown.lines().find(|line| line.starts_with("memory_budget_bytes = ")).unwrap().to_owned()
    };
    let own = line(&[]);
    if cfg!(target_os = "linux") {
        assert!(own.contains("iB\"  # half of the ") || own.contains("  # the least"), "{own}");
    } else {
        assert_eq!(own, "memory_budget_bytes = 0  # default");
    }
    assert_eq!(line(&["--memory-budget-bytes", "0"]), "memory_budget_bytes = 0  # flag --memory-budget-bytes");
    assert_refused(&mut janus(&["--memory-budget-bytes", "1 MiB"]), &["expected 0 for no budget, or 16 MiB and more"]);
}

#[test]
fn a_namespace_shows_its_own_and_its_inherited_values() {
    let file = file("history_messages = 7\n\n[namespace.quotes]\nhistory = true\nslow_consumer = \"conflate\"\n");
    assert_exit(&janus(&["config", "check", "--config", path(&file)]).output().unwrap(), 0);
    let output = janus(&["config", "show", "--config", path(&file), "--history-bytes", "2 KiB"])
        .env("JANUS_HISTORY_AGE", "5s")
        .output()
        .unwrap();
    assert_exit(&output, 0);
    let place = |line| format!("file {}:{line}", path(&file));
    let expected = [
        format!("[namespace.quotes]  # {}", place(3)),
        "client_publish_rate = 0  # inherited, default".to_owned(),
        "presence = \"off\"  # inherited, default".to_owned(),
        "clustered = true  # inherited, default".to_owned(),
        format!("history = true  # {}", place(4)),
        format!("history_messages = 7  # inherited, {}", place(1)),
        "history_bytes = \"2 KiB\"  # inherited, flag --history-bytes".to_owned(),
        "history_age = \"5 s\"  # inherited, variable JANUS_HISTORY_AGE".to_owned(),
        "resume = \"position\"  # inherited, default".to_owned(),
        format!("slow_consumer = \"conflate\"  # {}", place(5)),
        "anonymous_subscribe = false  # inherited, default".to_owned(),
        "ask_subscribe = \"\"  # inherited, default".to_owned(),
        "ask_publish = \"\"  # inherited, default".to_owned(),
    ];
    let shown = text(&output.stdout);
    assert!(shown.ends_with(&format!("\n{}\n", expected.join("\n"))), "{shown}");
}

#[test]
fn a_mistake_in_a_namespace_is_refused_with_place_and_expectation() {
    let file = file("[namespace.quotes]\nhistory_bytes = 5\nslow_consumr = \"conflate\"\n");
    let expected = [
        &format!("{}:2: namespace.quotes.history_bytes = 5: expected 1 KiB to 1 GiB", path(&file)),
        &format!("{}:3: namespace.quotes.slow_consumr is not a setting; did you mean slow_consumer?", path(&file)),
    ];
    assert_refused(&mut janus(&["--config", path(&file)]), &expected.map(String::as_str));
}

#[test]
fn a_check_tells_what_a_stranger_can_do_and_reads_the_keys() {
    let output = janus(&["config", "check", "--listen", "0.0.0.0:8081", "--http-listen", ""]).output().unwrap();
    assert_exit(&output, 0);
    let warning = text(&output.stderr);
    assert!(
        warning.contains("other machines reach 0.0.0.0:8081: a stranger may subscribe to every topic"),
        "{warning}"
    );
    let output = janus(&["config", "check", "--token-keys", "/nowhere/keys"]).output().unwrap();
    assert_ne!(output.status.code(), Some(0));
    assert!(text(&output.stderr).contains("/nowhere/keys"), "{}", text(&output.stderr));
}

#[test]
fn an_address_is_listened_on_once() {
    let check = ["config", "check", "--listen", "127.0.0.1:0", "--listen", "127.0.0.1:0", "--listen", "127.0.0.1:9"];
    assert_exit(&janus(&check).output().unwrap(), 0);
    assert_refused(
        &mut janus(&[&check[..], &["--listen", "127.0.0.1:9"]].concat()),
        &["flag --listen", "expected each address once; 127.0.0.1:9 is a duplicate"],
    );
}

#[test]
fn a_host_name_stands_for_its_addresses() {
    let output = janus(&["config", "show", "--listen", "localhost:8081"]).output().unwrap();
    assert_exit(&output, 0);
    assert!(text(&output.stdout).contains("\"127.0.0.1:8081\""), "{}", text(&output.stdout));
}

#[test]
fn either_list_of_addresses_may_be_empty_and_not_both() {
    for alone in ["--listen", "--http-listen"] {
        // The other list has its default.
        let mut check = binary(&["config", "check", alone, ""]);
        assert_exit(&check.env_remove("JANUS_HTTP_LISTEN").output().unwrap(), 0);
    }
    let neither = ["config", "check", "--listen", "", "--http-listen", ""];
    assert_refused(&mut janus(&neither), &["flag --http-listen", "[]: expected an address here or in listen"]);
}

#[test]
fn flags_may_precede_the_command_and_later_flags_win() {
    let file = file("threads = 3\n");
    let before = ["--config", path(&file), "--max-topics", "7", "--backlog", "80"];
    let output = janus(&[&before[..], &["config", "show", "--max-topics", "9"]].concat()).output().unwrap();
    assert_exit(&output, 0);
    for line in ["threads = 3  #", "max_topics = 9  #", "backlog = 80  #"] {
        assert!(text(&output.stdout).contains(line), "{line:?} is not in {}", text(&output.stdout));
    }
    assert_refused(
        &mut janus(&["--threads", "2", "publish", "t", "1"]),
        &["are for the server: only `serve` and `config` accept settings", "accept --config alone"],
    );
}

#[test]
fn help_is_a_command_too() {
    for (arguments, expected) in [(&["help"][..], "Usage:"), (&["help", "publish"], "no client was subscribed")] {
        let output = janus(arguments).output().unwrap();
        assert_exit(&output, 0);
        assert!(text(&output.stdout).contains(expected), "{}", text(&output.stdout));
    }
}

#[test]
fn a_secret_on_the_command_line_is_refused_and_not_repeated() {
    for (flag, variable) in [("--api-key", "JANUS_API_KEY"), ("--backend-secret", "JANUS_BACKEND_SECRET")] {
        for arguments in [&[flag, "correct-horse-battery"][..], &["config", "show", flag, "correct-horse-battery"]] {
            let output = janus(arguments).output().unwrap();
            assert_exit(&output, 2);
            let told = text(&output.stderr);
            assert!(told.contains(&format!("set the variable {variable}")) && !told.contains("horse"), "{told}");
        }
    }
    assert!(!text(&janus(&["--help"]).output().unwrap().stdout).contains("--api-key"));
}

#[test]
fn the_query_of_an_address_is_not_shown_and_what_is_shown_is_no_address() {
    let output = janus(&["config", "show", "--ask-connect", "https://app.example/janus?key=horse"]).output().unwrap();
    assert_exit(&output, 0);
    let shown = text(&output.stdout);
    assert!(shown.contains("\nask_connect = \"https://app.example/janus?***\"  # flag"), "{shown}");
    assert!(!shown.contains("horse"), "{shown}");
    assert_refused(&mut janus(&["--ask-connect", "https://app.example/janus?***"]), &["ask_connect = "]);
}

#[test]
fn a_port_of_two_settings_is_refused_with_both_names() {
    let same = &mut janus(&["--listen", "127.0.0.1:8099", "--admin-listen", "127.0.0.1:8099"]);
    let told =
        "flag --admin-listen: admin_listen = 127.0.0.1:8099: expected a port of its own; listen has 127.0.0.1:8099";
    assert_refused(same, &[told]);
    let every = &mut janus(&["config", "check", "--listen", "127.0.0.1:8099", "--http-listen", "0.0.0.0:8099"]);
    assert_refused(every, &["http_listen = 0.0.0.0:8099: expected a port of its own; listen has 127.0.0.1:8099"]);
    let twice = &mut janus(&["config", "check", "--listen", "[::1]:8099", "--listen", "[::1]:8099"]);
    assert_refused(twice, &["flag --listen: listen = ", "expected each address once"]);
    let apart = ["--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.2:8099"];
    let apart = [&["config", "check"][..], &apart, &["--listen", "127.0.0.1:8099", "--listen", "[::]:8099"]].concat();
    assert_exit(&janus(&apart).output().unwrap(), 0);
}

#[test]
fn a_file_that_cannot_be_read_is_refused_with_its_name_or_its_line() {
    let unreadable = "cannot read /nonexistent/janus.toml";
    let flag = &mut janus(&["--config", "/nonexistent/janus.toml"]);
    assert_refused(flag, &[&format!("flag --config: {unreadable}")]);
    let mut variable = janus(&[]);
    variable.env("JANUS_CONFIG", "/nonexistent/janus.toml");
    assert_refused(&mut variable, &[&format!("variable JANUS_CONFIG: {unreadable}")]);
    let file = file("threads = 2\nmax_topics == 5\n");
    assert_refused(&mut janus(&["config", "check", "--config", path(&file)]), &[&format!("{}:2", path(&file))]);
}
