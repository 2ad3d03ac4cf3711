//! The layers together: values from files, variables and flags, mistakes in these, and `config show`.

use std::time::Duration;

use janus_access::{AccessNamespace, AccessSettings};
use janus_core::{Config, Namespace, SlowConsumer};
use janus_pusher::PusherSettings;

use super::Settings;
use super::load::{Flags, Loaded};
use super::problems::Problems;
use super::table::{TABLE, index_of};

fn of_a_namespace() -> Vec<&'static str> {
    TABLE.iter().filter(|row| row.is_of_a_namespace()).map(|row| row.setting.name).collect()
}

fn read_file(text: &str) -> Result<Loaded, Problems> {
    read(text, Flags::default())
}

fn read(file: &str, flags: Flags) -> Result<Loaded, Problems> {
    let mut temporary = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut temporary, file.as_bytes()).unwrap();
    Loaded::read(&Flags { file: Some(temporary.path().into()), ..flags }, [], None)
}

/// The names of a struct's fields, from its `{:#?}` form.
fn fields_of(debug: &str) -> Vec<&str> {
    let fields = debug.lines().filter_map(|line| line.strip_prefix("    ")?.split_once(": ").map(|(name, _)| name));
    fields.filter(|name| !name.starts_with(' ')).collect()
}

#[test]
fn the_table_has_every_field_of_the_settings() {
    let core = format!("{:#?}", Config::default());
    let mut fields = fields_of(&core);
    let settings = format!("{:#?}", Settings::default());
    let access = format!("{:#?}", AccessSettings::default());
    fields.extend(fields_of(&access));
    let pusher = format!("{:#?}", PusherSettings::default());
    fields.extend(fields_of(&pusher));
    fields.extend(fields_of(&settings).into_iter().filter(|name| !["core", "access", "pusher"].contains(name)));
    // The top level of a file is the default namespace; other namespaces are tables.
    fields.retain(|name| !["default_namespace", "namespaces"].contains(name));
    fields.extend(of_a_namespace());
    let mut names: Vec<&str> = TABLE.iter().map(|row| row.setting.name).collect();
    fields.sort_unstable();
    names.sort_unstable();
    assert_eq!(names, fields);
}

#[test]
fn a_table_of_a_namespace_may_have_every_field_of_a_namespace() {
    let (core, access) = (format!("{:#?}", Namespace::default()), format!("{:#?}", AccessNamespace::default()));
    let (mut fields, mut names) = ([fields_of(&core), fields_of(&access)].concat(), of_a_namespace());
    // Groups may bring rows of both tables together.
    fields.sort_unstable();
    names.sort_unstable();
    assert_eq!(fields, names);
}

#[test]
fn a_namespace_inherits_what_it_leaves_out() {
    let file = "history = true\nhistory_messages = 7\n[namespace.quotes]\nslow_consumer = \"conflate\"\n\
                [namespace.'a \"b\\']\nhistory = false\nhistory_messages = 8";
    let mut flags = Flags::default();
    flags.values.push((index_of("history_bytes"), vec!["2 KiB".to_owned()]));
    let core = read(file, flags).unwrap().settings.core;
    let default = Namespace { history: true, history_messages: 7, history_bytes: 2_048, ..Namespace::default() };
    assert_eq!(core.default_namespace, default);
    assert_eq!(core.namespaces.len(), 2);
    let conflate = Namespace { slow_consumer: SlowConsumer::Conflate, ..default.clone() };
    assert_eq!(core.namespaces["quotes"], conflate);
    let other = Namespace { history: false, history_messages: 8, ..default };
    assert_eq!(core.namespaces["a \"b\\"], other);
}

#[test]
fn the_examples_of_operations_md_are_accepted() {
    let document = include_str!("../../../docs/OPERATIONS.md");
    let examples = document.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let namespaces: usize = examples.map(|text| read_file(text).unwrap().settings.core.namespaces.len()).sum();
    assert_ne!(namespaces, 0, "one of them is about namespaces");
}

#[test]
fn what_show_prints_reads_back_as_the_same_settings() {
    let changed = "listen = [\"[::1]:0\", \"10.0.0.1:9\"]\nhttp_listen = []\nallowed_origins = \"*\"\nmax_queue_bytes = 100001\nframe_timeout = \"1500 ms\"\n\
                   topic_idle = \"2m\"\nallow_publish = true\nlog = \"DEBUG\"\nthreads = 0x10\n\
                   history = true\nhistory_age = \"5 s\"\nresume = \"session\"\nslow_consumer = \"drop_oldest\"";
    let namespaces =
        "history_age = \"5 s\"\n[namespace.quotes]\nhistory = true\n[namespace.'a \"b\\']\nhistory_bytes = 5000";
    for text in ["", changed, namespaces] {
        let first = read_file(text).unwrap();
        let second = read_file(&first.show()).unwrap();
        assert_eq!(first.settings.core, second.settings.core);
        assert_eq!(first.settings.log, second.settings.log);
    }
}

#[test]
fn frequent_pings_shorten_the_pong_timeout_unless_a_layer_sets_it() {
    for (file, expected) in [
        ("", 20_000),
        ("heartbeat_interval = \"60 s\"", 20_000),
        ("heartbeat_interval = \"1 s\"", 5_000),
        ("heartbeat_interval = \"1 s\"\npong_timeout = \"20 s\"", 20_000),
        ("heartbeat_interval = \"1 s\"\npong_timeout = \"0 s\"", 0),
    ] {
        let loaded = read_file(file).unwrap();
        assert_eq!(loaded.settings.core.pong_timeout, Duration::from_millis(expected), "{file}");
    }
    let shown = read_file("heartbeat_interval = \"1 s\"").unwrap().describe("pong_timeout");
    assert_eq!(shown, "pong_timeout = \"5 s\" (five times heartbeat_interval)");
    let problems = read_file("pong_timeout = \"50 ms\"").unwrap_err().to_string();
    assert!(
        problems.contains("pong_timeout = \"50 ms\": expected 0 s for no limit, or 100 ms to 7 days"),
        "{problems}"
    );
}

#[test]
fn a_key_is_shown_nowhere() {
    let key = "correct-horse-battery";
    let loaded = read_file(&format!("api_key = \"{key}\"\n")).unwrap();
    assert_eq!(loaded.settings.api_key.reveal().collect::<Vec<_>>(), [key]);
    assert!(loaded.show().contains("\napi_key = \"***\"  # file "), "{}", loaded.show());
    for text in [loaded.show(), format!("{loaded:?}"), loaded.describe("api_key")] {
        assert!(!text.contains(key), "{text}");
    }
    let nine = [key; 9].join(",");
    let trailing = format!("{key},");
    for bad in ["tooshort", "with blanks in between", "ümlaut-in-a-secret-key", &"x".repeat(257), &nine, &trailing] {
        let problems = read_file(&format!("api_key = \"{bad}\"\n")).unwrap_err().to_string();
        assert!(
            problems.ends_with(
                ":1: api_key = \"***\": expected 16 to 256 letters, digits and characters of -._~+/=, up to 8 such keys \
                 with commas between them, or \"\" for none"
            ),
            "{problems}"
        );
    }
    let variables = [("JANUS_API_KEY".into(), format!("{key}, another-good-key").into())];
    let loaded = Loaded::read(&Flags::default(), variables, None).unwrap();
    assert_eq!(loaded.settings.api_key.reveal().collect::<Vec<_>>(), [key, "another-good-key"]);
    assert!(loaded.show().contains("\napi_key = \"***\"  # variable JANUS_API_KEY\n"), "{}", loaded.show());
}

#[test]
fn the_password_of_an_engine_is_shown_nowhere() {
    for file in [
        "engine = \"redis://:hush@10.0.0.7, redis://10.0.0.8\"",
        "engine = [\"redis://:hush@10.0.0.7\", \"redis://10.0.0.8\"]",
    ] {
        let loaded = read_file(file).unwrap();
        assert_eq!(loaded.settings.engine.addresses().unwrap().len(), 2);
        assert!(loaded.show().contains("\nengine = \"***\"  # file "), "{}", loaded.show());
        for text in [loaded.show(), format!("{loaded:?}"), loaded.describe("engine")] {
            assert!(!text.contains("hush"), "{text}");
        }
    }
    for (file, expected) in [
        ("engine = \"http://:hush@10.0.0.7\"", "the address must begin with redis://"),
        ("engine = \"redis://:hush@10.0.0.7:0\"", "the port in the address is not a number from 1 to 65535"),
        ("engine = \"redis://:hush@10.0.0.7,redis://:hush@10.0.0.8:x\"", "(address 2 of 2)"),
        ("engine = 6379", "expected the address of a Redis or Valkey server"),
    ] {
        let problems = read_file(file).unwrap_err().to_string();
        let begin = ":1: engine = \"***\": expected the address of a Redis or Valkey server";
        assert!(problems.contains(begin) || file.ends_with('9'), "{problems}");
        assert!(problems.contains(expected) && !problems.contains("hush"), "{problems}");
    }
    let both = read_file("engine = \"redis://a\"\nengine_file = \"/run/engine\"").unwrap_err().to_string();
    assert!(
        both.ends_with(":2: engine_file = \"/run/engine\": expected no file, because engine has an address already")
    );
}

#[test]
fn a_list_may_be_empty() {
    let variables = [("JANUS_HTTP_LISTEN".into(), "".into()), ("JANUS_ALLOWED_ORIGINS".into(), "*, http://a".into())];
    let core = Loaded::read(&Flags::default(), variables, None).unwrap().settings.core;
    assert_eq!((core.http_listen, core.allowed_origins), (vec![], vec!["*".to_owned(), "http://a".to_owned()]));
    assert_eq!(read_file("http_listen = []").unwrap().settings.core.http_listen, []);
    assert_eq!(read_file("listen = []").unwrap().settings.core.listen, []);
    let problems = read_file("allowed_origins = [\"https://a.example/path\"]").unwrap_err().to_string();
    assert!(problems.ends_with("expected origins such as \"https://app.example\", or \"*\" for any"), "{problems}");
}

#[test]
fn every_problem_of_a_file_is_told_in_the_order_of_its_lines() {
    let problems = read_file("threads = 0\nmax_topcs = 5\nframe_timeout = 10\n[listen]\n").unwrap_err().to_string();
    let lines: Vec<&str> = problems.lines().collect();
    assert!(lines[0].ends_with(":1: threads = 0: expected 1 to 256"), "{problems}");
    assert!(lines[1].ends_with(":2: max_topcs is not a setting; did you mean max_topics?"), "{problems}");
    assert!(lines[2].contains(":3: frame_timeout = 10: expected 10 ms to 7 days, with a unit"), "{problems}");
    assert!(lines[3].contains(":4: listen"), "{problems}");
}

#[test]
fn every_problem_of_a_namespace_is_told_with_its_place() {
    let file = "[namespace.quotes]\nhistry = true\nhistory_age = 5\nmax_topics = 9\nslow_consumer = \"drop\"\n\
                [namespace.\"a:b\"]\n[namespace]\nhistory = true\n[namespaces.news]\n";
    let problems = read_file(file).unwrap_err().to_string();
    for (line, expected) in [
        ":2: namespace.quotes.histry is not a setting; did you mean history?",
        ":3: namespace.quotes.history_age = 5: expected 10 ms to 7 days, with a unit such as \"10 s\"",
        ":4: namespace.quotes.max_topics is not a setting of a namespace: max_topics belongs at the top level",
        ":5: namespace.quotes.slow_consumer = \"drop\": expected \"disconnect\", \"drop_oldest\"",
        ":6: namespace = \"a:b\": expected a name of 1 to 255 bytes without ':'",
        ":8: namespace.history = true: expected a table that starts with [namespace.history]",
        ":9: [namespaces] is not a setting: tables are called [namespace.NAME]",
    ]
    .into_iter()
    .enumerate()
    {
        assert!(problems.lines().nth(line).is_some_and(|line| line.contains(expected)), "{expected}: {problems}");
    }
    assert_eq!(problems.lines().count(), 7, "{problems}");
}

#[test]
fn questions_to_a_backend_end_before_their_hook() {
    let url = "ask_connect = \"http://127.0.0.1:8000/\"\n";
    for (file, expected) in [
        ("ask_timeout = \"5 s\"", Some(":2: ask_timeout = 5 s: expected less than hook_timeout (5 s)")),
        ("ask_timeout = \"5 s\"\nhook_timeout = \"6 s\"", None),
        ("ask_concurrency = 2_000", Some(":2: ask_concurrency = 2000: expected at most max_hook_questions (1024)")),
        (
            "[namespace.chat]\nask_connect = \"http://a/\"",
            Some("namespace.chat.ask_connect is not a setting of a namespace"),
        ),
        (
            "[namespace.chat]\nask_subscribe = \"chat.example\"",
            Some("ask_subscribe = \"chat.example\": expected an address such as"),
        ),
    ] {
        let problems = read_file(&format!("{url}{file}")).err().map(|problems| problems.to_string());
        match expected {
            Some(expected) => assert!(problems.as_ref().is_some_and(|text| text.contains(expected)), "{problems:?}"),
            None => assert_eq!(problems, None),
        }
        assert!(expected.is_none() || !file.starts_with("ask") || read_file(file).is_ok(), "only with an address");
    }
    let file = format!("{url}[namespace.chat]\nask_subscribe = \"http://chat.example/\"");
    let access = read_file(&file).unwrap().settings.access;
    assert!(access.namespace("chat:x").ask_subscribe.is_some() && access.namespace("news").ask_subscribe.is_none());
}

#[test]
fn a_namespace_too_many_is_told_with_its_place() {
    let file: String = (0..1_001).map(|number| format!("[namespace.n{number}]\n")).collect();
    let problems = read_file(&file).unwrap_err().to_string();
    assert!(problems.ends_with(":1001: namespaces = 1001: expected at most 1,000 of them"), "{problems}");
}

#[test]
fn a_namespace_of_presence_channels_without_members_is_told_with_its_place() {
    let app = "pusher_app_id = \"1\"\npusher_key = \"key\"\npusher_secret_file = \"/secret\"\n";
    let expected = "expected \"members\", because the namespace has the presence channels of Pusher";
    for (table, place) in [
        (
            "[namespace.pusher-presence]\nhistory = true\n[namespace.z]\n",
            ":4: namespace.pusher-presence.presence = \"off\"",
        ),
        (
            "[namespace.pusher-presence-cache]\nhistory = true\npresence = \"count\"",
            ":6: namespace.pusher-presence-cache.presence = \"count\"",
        ),
    ] {
        let problems = read_file(&format!("{app}{table}")).unwrap_err().to_string();
        assert!(problems.ends_with(&format!("{place}: {expected}")), "{problems}");
        assert!(read_file(table).is_ok(), "without an application");
    }
    let table = "[namespace.pusher-presence]\npresence = \"members\"";
    assert!(read_file(&format!("{app}{table}")).is_ok());
    let without_id = read_file("pusher_key = \"key\"").unwrap_err().to_string();
    assert!(without_id.contains("pusher_app_id = \"\": expected the id of the application"), "{without_id}");
}

/// Lines of the example with a setting, without the `#` before it.
fn settings_of_the_example() -> Vec<String> {
    let text = super::example();
    let lines = text.lines().filter_map(|line| line.strip_prefix('#'));
    lines.filter(|line| line.starts_with(|first: char| first.is_ascii_lowercase())).map(str::to_owned).collect()
}

#[test]
fn the_example_as_it_is_sets_nothing() {
    let loaded = read_file(&super::example()).unwrap();
    assert_eq!(TABLE.iter().find(|row| loaded.is_set(row.setting.name)).map(|row| row.setting.name), None);
}

#[test]
fn the_example_has_each_setting_once_with_its_default() {
    let lines = settings_of_the_example();
    let names: Vec<&str> = lines.iter().filter_map(|line| line.split_once(" = ").map(|(name, _)| name)).collect();
    assert_eq!(names, TABLE.iter().map(|row| row.setting.name).collect::<Vec<_>>());
    // A default in words has no value that would hold on every machine.
    let (in_words, values): (Vec<_>, Vec<_>) = lines.iter().partition(|line| line.ends_with(" = …"));
    assert!(in_words.iter().all(|line| TABLE[index_of(line.split_once(' ').unwrap().0)].default_in_words().is_some()));
    let values: Vec<&str> = values.into_iter().map(String::as_str).collect();
    let loaded = read_file(&values.join("\n")).unwrap();
    assert_eq!(format!("{:#?}", loaded.settings), format!("{:#?}", Settings::default()));
}
