import { decode } from "./payload.js";

/** A subscription: its place in the topic, the members seen, and the handlers of the program. */
export class Feed {
  /** `{epoch, seq}` of the last message or gap. */
  position;
  /** User to member; undefined without a list, null in a topic that is counted only. */
  _members;
  /** Whether a subscribe has no answer yet: messages before the answer are of an earlier subscription. */
  _asking = false;
  /** Whether a slow reader has left the topic for a while. */
  _paused = false;
  _ended = false;

  constructor(topic, handlers) {
    Object.assign(this, { topic, _handlers: handlers });
    if (handlers.since?.epoch) this.position = { ...handlers.since };
  }

  /** Where to begin. */
  get since() {
    return this.position ?? this._handlers.since;
  }

  tell(name, value) {
    if (!this._ended) call(this._handlers, name, value);
  }

  subscribed(frame) {
    const { position } = this;
    const { topic, epoch, seq, resumed } = frame;
    this._asking = false;
    if (!resumed || epoch !== position?.epoch) {
      this.position = { epoch, seq };
      if (position) this.tell("gap", { topic, from: null, to: null, unknown: true });
    }
    this.tell("subscribed", frame);
  }

  message(frame) {
    if (frame.seq <= this.position.seq) return;
    this.position.seq = frame.seq;
    this.tell("message", decode(frame));
  }

  gap({ epoch, from, to }) {
    const { topic, position } = this;
    // An event stream announces a topic that cannot resume, which `subscribed` tells next.
    if (to === undefined) return;
    if (epoch === position.epoch) {
      if (to <= position.seq) return;
      from = position.seq + 1;
    }
    this.position = { epoch, seq: to };
    this.tell("gap", { topic, from, to, unknown: false });
  }

  presence({ type, topic, count, members }) {
    if (type === "presence") this._members = members ? new Map() : null;
    for (const member of members ?? []) {
      if (type === "left") this._members?.delete(member.user);
      else this._members?.set(member.user, member);
    }
    this.tell("presence", { type, topic, count, members, all: this._members ? [...this._members.values()] : null });
  }
}

/** Calls a handler of the program. Its exception is reported as uncaught, and stops nothing. */
export function call(handlers, name, ...values) {
  try {
    handlers[name]?.(...values);
  } catch (error) {
    (globalThis.reportError ?? console.error)(error);
  }
}
