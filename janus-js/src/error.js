/**
 * `reason` is the server's name of an error, with the server's `code`. Reasons of the client itself are `not_connected`,
 * `too_many_pending`, `connection_lost` (a message may have been published), `already_subscribed`, `needs_websocket` and
 * `closed`. `frame_too_large` has the server's code, and was not sent.
 */
export class JanusError extends Error {
  constructor(reason, message, code, cause) {
    super(message || reason, cause && { cause });
    Object.assign(this, { name: "JanusError", reason, code });
  }
}

/** The end of a connection, or of an attempt to connect. */
export const lost = (message, code, cause) => new JanusError("connection_lost", message, code, cause);
