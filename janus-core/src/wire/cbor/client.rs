//! The client's end of `janus.v1.cbor`: frames from and to the JSON of [`v1::client`](crate::wire::v1::client).
//!
//! For tests, load tools and embedders. A client that is to be fast reads and writes CBOR itself.

use bytes::BytesMut;
use minicbor::Encoder;

use super::{Out, Part, Parts, Side, put_frame};
use crate::wire::FrameError;
use crate::wire::json;
use crate::wire::publication::data_of_bytes;

/// A frame from its JSON. Bytes are `data_base64`. For the frames of a program's own: the depth of the text is not limited.
///
/// ```
/// use janus_core::wire::cbor::client;
/// use janus_core::wire::v1;
///
/// assert_eq!(client::frame(v1::client::PING), b"\xa1\x64type\x64ping");
/// ```
///
/// # Panics
///
/// The text is no JSON object.
#[must_use]
pub fn frame(json: &str) -> Vec<u8> {
    let json = json::one_value(json).expect("a frame is JSON");
    assert!(json.starts_with('{'), "a frame is an object");
    let mut out = BytesMut::new();
    put_frame(json, &mut Encoder::new(Out(&mut out))).expect("memory takes all");
    out.into()
}

/// The JSON of a frame, for [`ServerFrame::parse`](crate::wire::v1::client::ServerFrame::parse). Bytes are `data_base64`.
///
/// ```
/// use janus_core::wire::cbor::client;
///
/// let json = client::json(b"\xa2\x64type\x67message\x64data\x42\x00\xff")?;
/// assert_eq!(json, r#"{"type":"message","data_base64":"AP8="}"#);
/// # Ok::<_, janus_core::wire::FrameError>(())
/// ```
///
/// # Errors
///
/// The bytes are no frame.
pub fn json(frame: &[u8]) -> Result<String, FrameError> {
    let mut json = String::new();
    let Parts { event, message_id, data, duplicate: _ } = Parts::read(frame, Side::Server, &mut json)?;
    let bytes;
    let payload = match data {
        Part::Bytes(payload) => {
            bytes = data_of_bytes(payload);
            // Behind the `null` and its comma.
            Some(&bytes[5..])
        }
        data => data.json("data")?,
    };
    let end = json.pop();
    for (key, value) in
        [("event", event.json("event")?), ("message_id", message_id.json("message_id")?), ("data", payload)]
    {
        let Some(value) = value else { continue };
        if !json.ends_with('{') {
            json.push(',');
        }
        if !matches!((key, data), ("data", Part::Bytes(_))) {
            json.extend(["\"", key, "\":"]);
        }
        json.push_str(value);
    }
    json.extend(end);
    Ok(json)
}
