/** Payloads: JSON, or bytes as base64. */

/** The key and value that carry a payload in a frame. */
export function encode(data) {
  const bytes = data instanceof ArrayBuffer ? new Uint8Array(data) : data;
  if (!(bytes instanceof Uint8Array)) return { data };
  return { data_base64: btoa(bytes.reduce((text, byte) => text + String.fromCharCode(byte), "")) };
}

/** A message of the server as programs see it. */
export function decode({ message_id: messageId, data_base64: text, ...message }) {
  if (text !== undefined) message.data = Uint8Array.from(atob(text), (character) => character.charCodeAt());
  return { ...message, messageId };
}
