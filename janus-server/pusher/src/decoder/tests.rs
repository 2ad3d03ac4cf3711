use janus_core::wire::TopicName;

use super::*;
use crate::app::tests::app;
use crate::signature::Keys;

const LIMITS: Limits = Limits { max_frame_bytes: 65_536, max_topic_bytes: 255, max_topics: 3 };

/// What a client sends, and what the decoder makes of it.
struct Client(PusherDecoder);

impl Client {
    fn new() -> Self {
        Self::of(app(|settings| settings.pusher_client_events = true))
    }

    fn of(app: Arc<App>) -> Self {
        let mut decoder = PusherDecoder::new(app, None);
        decoder.opened("secret", ClientId::new(1234, 1234));
        Self(decoder)
    }

    fn send(&mut self, text: &str) -> Vec<Decoded> {
        let (mut message, mut decoded) = (ClientMessage::Text(text), Vec::new());
        loop {
            let before = message;
            let mut reading = Reading { limits: &LIMITS, more: 0, scratch: &mut () };
            decoded.extend(self.0.decode(&mut message, &mut reading));
            if message == before || message.text().is_empty() {
                return decoded;
            }
        }
    }

    #[track_caller]
    fn one(&mut self, text: &str) -> Command {
        let mut decoded = self.send(text);
        assert_eq!(decoded.len(), 1, "{decoded:?}");
        decoded.remove(0).unwrap()
    }

    /// The text of an answer of the decoder.
    #[track_caller]
    fn answer(&mut self, text: &str) -> String {
        match self.one(text) {
            Command::Answer(bytes) | Command::Close(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            other => panic!("{other:?}"),
        }
    }
}

/// The application's signature of the client's socket id and this text behind a colon.
fn sign(text: &str) -> String {
    let client = Client::new().0;
    sign_for(&client.socket(), text)
}

fn sign_for(socket: &str, text: &str) -> String {
    format!("278d425bdf160c739803:{}", Keys::new(["7ad3773142a6692b25b8"]).sign(&format!("{socket}:{text}")))
}

fn subscribe(channel: &str, auth: Option<&str>, channel_data: Option<&str>) -> String {
    let data = serde_json::json!({ "channel": channel, "auth": auth, "channel_data": channel_data });
    serde_json::json!({ "event": "pusher:subscribe", "data": data }).to_string()
}

fn topic(name: &str) -> TopicName {
    TopicName::new(name, 255).unwrap()
}

#[test]
fn a_public_channel_needs_no_signature() {
    let Command::Subscribe { topic: asked, since: None, presence: false, member: None, id: Some(SUBSCRIBE), .. } =
        Client::new().one(&subscribe("news", None, None))
    else {
        panic!()
    };
    assert_eq!(asked, topic("pusher:news"));
}

#[test]
fn a_private_channel_needs_the_signature_of_this_connection_and_channel() {
    let good = sign("private-a");
    assert!(matches!(Client::new().one(&subscribe("private-a", Some(&good), None)), Command::Subscribe { .. }));
    let other = [sign_for("1234.1234", "private-a"), sign("private-b"), good.replace("278", "279"), String::new()];
    for auth in other.iter().map(|auth| Some(auth.as_str())).chain([None]) {
        let mut client = Client::new();
        let answer = client.answer(&subscribe("private-a", auth, None));
        assert!(answer.contains("AuthError") && answer.contains("401"), "{answer}");
        assert!(client.answer(r#"{"event":"client-a","channel":"private-a","data":1}"#).contains("4301"));
    }
}

#[test]
fn a_presence_channel_names_its_own_member() {
    let data = r#"{"user_id":10,"user_info":{"price":1.50}}"#;
    let auth = sign(&format!("presence-a:{data}"));
    let Command::Subscribe { topic: asked, presence: true, member: Some(member), .. } =
        Client::new().one(&subscribe("presence-a", Some(&auth), Some(data)))
    else {
        panic!()
    };
    assert_eq!((asked, *member), (topic("pusher-presence:presence-a"), Member::new("10", Some("{\"price\":1.50}"))));
    let long = format!("{{\"user_id\":\"{}\"}}", "a".repeat(129));
    for data in ["", "{}", "[]", r#"{"user_id":""}"#, r#"{"user_id":null}"#, r#"{"user_id":"\n"}"#, &long] {
        let auth = sign(&format!("presence-a:{data}"));
        let answer = Client::new().answer(&subscribe("presence-a", Some(&auth), Some(data)));
        assert!(answer.contains("channel_data") && answer.contains("BadRequest"), "{data}: {answer}");
    }
    let auth = sign("presence-a");
    assert!(Client::new().answer(&subscribe("presence-a", Some(&auth), None)).contains("channel_data"));
}

#[test]
fn the_instance_counts_channels_and_the_decoder_keeps_no_more_than_the_limit() {
    let mut client = Client::new();
    for number in 0..3 {
        let channel = format!("private-{number}");
        let auth = sign(&channel);
        assert!(matches!(client.one(&subscribe(&channel, Some(&auth), None)), Command::Subscribe { .. }));
    }
    let auth = sign("private-4");
    let event = r#"{"event":"client-a","channel":"private-4","data":1}"#;
    assert!(matches!(client.one(&subscribe("private-4", Some(&auth), None)), Command::Subscribe { .. }));
    assert!(client.answer(event).contains("4301"), "not kept");
    client.one(r#"{"event":"pusher:unsubscribe","data":{"channel":"private-1"}}"#);
    assert!(matches!(client.one(&subscribe("private-4", Some(&auth), None)), Command::Subscribe { .. }));
    assert!(matches!(client.one(event), Command::Publish { .. }));
}

#[test]
fn a_retry_under_another_signed_user_replaces_the_user() {
    let mut client = Client::new();
    for user in ["alice", "bob"] {
        let data = format!("{{\"user_id\":\"{user}\"}}");
        let auth = sign(&format!("presence-a:{data}"));
        client.one(&subscribe("presence-a", Some(&auth), Some(&data)));
        let event = r#"{"event":"client-a","channel":"presence-a","data":1}"#;
        let Command::Publish { publication, .. } = client.one(event) else { panic!() };
        assert_eq!(publication.message_id(), format!("\"{user}\""));
    }
}

#[test]
fn a_channel_whose_topic_is_too_long_for_the_server_is_not_kept() {
    let mut client = Client::new();
    let text = subscribe("private-a", Some(&sign("private-a")), None);
    let limits = Limits { max_topic_bytes: 8, ..LIMITS };
    let mut reading = Reading { limits: &limits, more: 0, scratch: &mut () };
    let refused = client.0.decode(&mut ClientMessage::Text(&text), &mut reading);
    assert_eq!(refused.unwrap().unwrap_err().code, ErrorCode::BadTopic);
    assert_eq!(client.0.memory(), 0);
}

#[test]
fn a_client_event_goes_to_the_others_and_names_its_sender() {
    let mut client = Client::new();
    let data = r#"{"user_id":"alice"}"#;
    let auth = sign(&format!("presence-a:{data}"));
    client.one(&subscribe("presence-a", Some(&auth), Some(data)));
    let event = r#"{"event":"client-typed","channel":"presence-a","data":{"at":1.50}}"#;
    let Command::Publish { topic: asked, publication, ack: false, .. } = client.one(event) else { panic!() };
    assert_eq!(asked, topic("pusher-presence:presence-a"));
    assert_eq!(
        (publication.event(), publication.message_id(), publication.data()),
        ("\"client-typed\"", "\"alice\"", "{\"at\":1.50}")
    );
    assert_eq!(publication.excluded(), Some(ClientId::new(1234, 1234)));
}

#[test]
fn client_events_have_limits_and_the_connection_continues() {
    let event =
        |channel: &str, data: &str| format!("{{\"event\":\"client-a\",\"channel\":\"{channel}\",\"data\":\"{data}\"}}");
    let mut client = Client::new();
    for channel in ["news", "private-encrypted-a", "private-a", ""] {
        assert!(client.answer(&event(channel, "")).contains("4301"), "{channel}");
    }
    client.one(&subscribe("private-a", Some(&sign("private-a")), None));
    assert!(client.answer(&event("private-a", &"a".repeat(10 * 1024))).contains("longer than the limit"));
    for _ in 0..10 {
        assert!(matches!(client.one(&event("private-a", "")), Command::Publish { .. }));
    }
    assert!(client.answer(&event("private-a", "")).contains("faster than the limit"));

    let mut client = Client::of(app(|_| {}));
    client.one(&subscribe("private-a", Some(&sign("private-a")), None));
    assert!(client.answer(&event("private-a", "")).contains("not enabled"));
}

#[test]
fn the_room_for_client_events_returns_with_time() {
    let (mut bucket, now) = (Bucket::default(), Instant::now());
    let taken = |bucket: &mut Bucket, at| (0..20).filter(|_| bucket.take(10, at)).count();
    assert_eq!(taken(&mut bucket, now), 10);
    assert_eq!(taken(&mut bucket, now + Duration::from_millis(200)), 2);
    assert_eq!(taken(&mut bucket, now + Duration::from_secs(60)), 10);
}

#[test]
fn a_client_signs_in_as_one_user_and_reaches_its_own_channel_alone() {
    let mut client = Client::new();
    let own = subscribe("#server-to-user-12345", None, None);
    assert!(client.answer(&own).contains("sign in"));
    let sign_in = |data: &str| {
        let auth = sign(&format!(":user::{data}"));
        serde_json::json!({ "event": "pusher:signin", "data": { "auth": auth, "user_data": data } }).to_string()
    };
    let decoded = client.send(&sign_in(r#"{"id":"12345"}"#));
    let [Ok(Command::Authenticate { auth }), Ok(Command::Answer(answer))] = &decoded[..] else { panic!("{decoded:?}") };
    assert_eq!(auth.0, "12345");
    assert!(String::from_utf8_lossy(answer).contains("pusher:signin_success"));
    assert!(matches!(client.one(&own), Command::Subscribe { .. }));
    assert!(client.answer(&subscribe("#server-to-user-1", None, None)).contains("sign in"));
    assert!(client.answer(&sign_in(r#"{"id":"1"}"#)).contains("4009"));
    assert!(Client::new().answer(&sign_in("{}")).contains("4009"));
    assert!(client.0.memory() >= size_of::<Signed>() + "12345".len());
    let forged = r#"{"event":"pusher:signin","data":{"auth":"278d425bdf160c739803:00","user_data":"{\"id\":\"1\"}"}}"#;
    assert!(Client::new().answer(forged).contains("4009"));
}

#[test]
fn what_is_no_request_is_refused() {
    for (text, code) in [
        ("", ErrorCode::BadJson),
        ("[]", ErrorCode::BadJson),
        ("{\"event\":1}", ErrorCode::BadJson),
        ("{\"event\":\"pusher:subscribe\"}", ErrorCode::BadRequest),
        ("{\"event\":\"pusher:subscribe\",\"data\":{}}", ErrorCode::BadRequest),
        ("{\"event\":\"pusher:subscribe\",\"data\":\"{}\"}", ErrorCode::BadRequest),
        ("{\"event\":\"pusher_internal:subscription_succeeded\"}", ErrorCode::UnknownAction),
        ("{\"event\":\"news\"}", ErrorCode::UnknownAction),
    ] {
        let decoded = Client::new().send(text);
        let [Err(error)] = &decoded[..] else { panic!("{text}: {decoded:?}") };
        assert_eq!(error.code, code, "{text}");
    }
    let answer = Client::new().answer(&subscribe("a b", None, None));
    assert!(answer.contains("400") && answer.contains("BadRequest"), "{answer}");
}

#[test]
fn a_client_of_another_application_or_version_is_turned_away() {
    let app = app(|_| {});
    for (target, expected) in [
        ("/app/278d425bdf160c739803?protocol=7&client=js&version=8.4.0", None),
        ("/app/278d425bdf160c739803?protocol=5", None),
        ("/app/278d425bdf160c739804?protocol=7", Some((4001, "the key in the path is not the server's pusher_key"))),
        ("/app/?protocol=7", Some((4001, "the path must be /app/KEY"))),
        ("/app/278d425bdf160c739803/?protocol=7", Some((4001, "the path must be /app/KEY"))),
        ("/app/278d425bdf160c739803", Some((4008, "protocol=7"))),
        ("/app/278d425bdf160c739803?protocol=x", Some((4006, "must be a number"))),
        ("/app/278d425bdf160c739803?protocol=8", Some((4007, "5 to 7"))),
    ] {
        let request = HttpRequest::new("GET", target, [("host", &b"example.org"[..])]);
        let mut decoder = PusherDecoder::new(Arc::clone(&app), Some(&request));
        let first = decoder.begin();
        let (Some((number, words)), Some(Command::Close(bytes))) = (expected, &first) else {
            assert!(expected.is_none() && first.is_none(), "{target}: {first:?}");
            continue;
        };
        let told = String::from_utf8_lossy(bytes);
        assert!(told.contains(&format!("\"code\":{number}")) && told.contains(words), "{target}: {told}");
    }
}
