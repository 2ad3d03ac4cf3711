use super::*;

fn options(addresses: &[&str]) -> Options {
    Options::new(addresses.iter().map(|address| address.parse().unwrap()))
}

#[test]
fn options_that_no_engine_can_have_are_refused() {
    let wrong = |options: Options| Redis::new(options).unwrap_err();
    assert_eq!(wrong(options(&[])), OptionsError::NoAddress);
    for prefix in ["", "a b", "{a}", "é", "a*"] {
        let options = Options { prefix: prefix.to_owned(), ..options(&["redis://h"]) };
        assert_eq!(wrong(options), OptionsError::Prefix(prefix.to_owned()));
    }
    let short = Duration::from_millis(9);
    assert_eq!(wrong(Options { timeout: short, ..options(&["redis://h"]) }), OptionsError::Timeout(short));
    #[cfg(feature = "tls")]
    for address in ["rediss://i", "rediss+sentinel://i/m"] {
        let error = OptionsError::NoCertificates(address.parse().unwrap());
        assert_eq!(wrong(options(&["redis://h", address])), error);
    }
}

#[test]
fn topics_have_their_place_among_several_servers() {
    let engine = Redis::new(options(&["redis://a", "redis://b", "redis://c"])).unwrap();
    let mut counts = vec![0; engine.shards()];
    for number in 0..3_000 {
        counts[engine.shard_of(&TopicName::new(&format!("topic {number}"), 255).unwrap())] += 1;
    }
    assert!(counts.iter().all(|count| (800..1_200).contains(count)), "{counts:?}");
}

#[test]
fn the_password_is_not_in_the_debug_text_of_an_engine() {
    let engine = Redis::new(options(&["redis://u:secret@h"])).unwrap();
    assert!(!format!("{engine:?}").contains("secret"));
}
