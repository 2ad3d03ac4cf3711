/** A place in a topic: the epoch, and the number of the last message that the program has. */
export interface Position {
  epoch: string;
  seq: number;
}

export interface Message<Data = any> {
  topic: string;
  /** The number within the topic, without holes but for gaps. */
  seq: number;
  /** Milliseconds since 1970, by the server's clock. */
  time: number;
  event: any;
  messageId: any;
  /** The publisher's JSON value, or a `Uint8Array` for a payload of bytes. */
  data: Data;
}

/** Messages that do not come, in their place among the messages. */
export type Gap =
  /** The messages `from` to `to`, both included. */
  | { topic: string; from: number; to: number; unknown: false }
  /** The number is not known: load the state anew. */
  | { topic: string; from: null; to: null; unknown: true };

/** Both kinds of items of `messages()`. */
export type Item<Data = any> = (Message<Data> & { type: "message" }) | (Gap & { type: "gap" });

/** The answer to a subscribe, on each connection. */
export interface Subscribed {
  topic: string;
  epoch: string;
  /** The number after which delivery continues. */
  seq: number;
  /** Whether delivery continues after the client's position, without a hole. */
  resumed: boolean;
  /** The number of earlier messages that follow, if resumed. */
  missed?: number;
}

export interface Member {
  user: string;
  /** What the user's token says to others. */
  info?: any;
}

export interface Presence {
  /** `presence` replaces the list; `joined` and `left` change the list by `members`. */
  type: "presence" | "joined" | "left";
  topic: string;
  /** Members from now on, with those that are not listed. */
  count: number;
  members?: Member[];
  /** The whole list after this change; null in a topic that is counted only. */
  all: Member[] | null;
}

export interface Receipt {
  topic: string;
  epoch: string;
  /** The number of the message; 0 if the topic had no subscriber and keeps no history. */
  seq: number;
  subscribers: number;
  /** Whether this is the receipt of an earlier message with the same key. */
  again?: boolean;
}

export interface History<Data = any> {
  topic: string;
  /** Where these messages end: the `since` of the next part in the same direction, or of a `subscribe` after them. */
  epoch: string;
  seq: number;
  /** False if messages are gone that a `since` asks for. */
  complete: boolean;
  /** Whether a limit has cut off further messages. */
  more: boolean;
  /** The number of the topic's latest message. */
  top: number;
  messages: Message<Data>[];
}

export interface HistoryOptions extends Aborting {
  /** Default: the latest messages; with `reverse`, the messages before this position. */
  since?: Since;
  /** Default: 100. The server has a limit of its own. */
  limit?: number;
  /** The newest message first. */
  reverse?: boolean;
}

export interface Aborting {
  /** Ends what the call has begun. */
  signal?: AbortSignal;
}

/** Where to begin: with all kept messages, with the last message, or after a position of an earlier page. Default: with what is new. */
export type Since = "start" | "last" | Position;

/** Handlers of a topic. An exception is reported as uncaught, and stops nothing. */
export interface Handlers<Data = any> extends Aborting {
  since?: Since;
  message?(message: Message<Data>): void;
  gap?(gap: Gap): void;
  subscribed?(answer: Subscribed): void;
  /** Watches the members. The topic must have presence. */
  presence?(presence: Presence): void;
  /** An error with a code of 4400 or more ends the subscription. After any other the client asks again. */
  error?(error: JanusError): void;
  /** The subscription has ended: by `unsubscribe`, by its signal, by a final error, or with the client. */
  ended?(): void;
}

export interface Subscription {
  readonly topic: string;
  /** The place of the last message or gap, for a `since` of a later page. Undefined before the first answer. */
  readonly position: Position | undefined;
  unsubscribe(): void;
}

/** `closed` is final: by `close()`, by the signal, or by an error with a code of 4400 or more. */
export type State = "connecting" | "connected" | "waiting" | "closed";

export interface StateDetail {
  /** In the state `waiting`: milliseconds until the next attempt; null while the browser is offline. */
  retryInMs?: number | null;
  /** Why the connection is lost, or the client closed. `cause` is the exception of `auth` or `getToken`, if any. */
  error?: JanusError;
}

export interface Options extends Aborting {
  /** A token or a proof of identity. A function is called before each connection. */
  auth?: string | (() => string | null | undefined | Promise<string | null | undefined>);
  /** For tokens that end, in place of `auth`: called once for each token, and again before the end of the token. */
  getToken?(): string | null | undefined | Promise<string | null | undefined>;
  /** Handlers for a topic to which the server subscribes the client by itself. Without handlers the topic is ignored. */
  assigned?(topic: string): Handlers | null | undefined | false;
  state?(state: State, detail: StateDetail): void;
  /** Errors about no topic and no request. */
  error?(error: JanusError): void;
  /** Milliseconds of silence before a ping; three times as long, and `timeoutMs`, before a silent event stream is given up. Default: 20,000. */
  heartbeatMs?: number;
  /** Milliseconds for a pong, for `auth`, and for connecting. Default: 10,000. */
  timeoutMs?: number;
  /** Where event streams are, for networks without WebSockets. Default: the URL with `/events` for `/ws`. `null` for no fallback. */
  events?: string | URL | null;
  /** WebSockets in a row that do not open before an event stream is tried. Default: 2. */
  fallbackAfter?: number;
  /** Where to publish while an event stream is in use: `/api/publish` where the server allows this, or a route of your own of the same form. */
  publishUrl?: string | URL;
  /** Whether event streams of another origin are requested with cookies, as WebSockets are. */
  withCredentials?: boolean;
  /** The class, where there is no global one: Node before 22. */
  WebSocket?: any;
}

export interface PublishOptions extends Aborting {
  event?: any;
  messageId?: any;
  /** 1 to 64 printable ASCII characters: of messages with the same key the topic publishes one. */
  idempotencyKey?: string;
  /** The `client` of a connection that does not get the message: `janus.client` for this one. */
  exclude?: string | null;
}

export class Janus {
  /**
   * Connects at once, and again after each loss, until `close()`.
   *
   * `url` may be relative to the page, and begin with `ws` or `http`. Default: `/ws` of a page over https, otherwise port
   * 8080 of the page's host or of this machine.
   */
  constructor(url?: string | URL, options?: Options);

  readonly state: State;
  /** How the client is connected. Null if not connected. */
  readonly transport: "websocket" | "events" | null;
  /** The public name of the connection, for `exclude`. Null without a WebSocket. */
  readonly client: string | null | undefined;

  /** Resolves at once if connected, otherwise with the next connection. Rejected with the end of the client. */
  connected(): Promise<void>;

  /** Delivers a topic to handlers until the end of the subscription. Throws `already_subscribed` or `closed`. */
  subscribe<Data = any>(topic: string, handlers?: Handlers<Data>): Subscription;

  /**
   * Delivers a topic as an iteration. At most `maxUnread` items (1,000) wait to be read: then the client leaves the topic, and
   * continues after the last item once half are read. Messages that the server still keeps follow; a gap stands for others.
   * Leaving the loop unsubscribes. A final error is thrown.
   */
  messages<Data = any>(
    topic: string,
    options?: Omit<Handlers<Data>, "message" | "gap" | "ended"> & { maxUnread?: number },
  ): AsyncGenerator<Item<Data>, void, void>;

  /**
   * Publishes JSON or bytes. Resolves when the message has its number. Rejected with a `JanusError`: `connection_lost` says
   * that the message may have been published, every other reason that it was not.
   */
  publish(topic: string, data: unknown, options?: PublishOptions): Promise<Receipt>;

  /** The members of a topic now. `members` is absent in a topic that is counted only. */
  presence(topic: string, options?: Aborting): Promise<{ topic: string; count: number; members?: Member[] }>;

  /** Messages that the topic keeps, without a subscription. The topic must have history. */
  history<Data = any>(topic: string, options?: HistoryOptions): Promise<History<Data>>;

  /** Ends the client for good. */
  close(): void;
}

export class JanusError extends Error {
  name: "JanusError";
  /**
   * The server's name of the error, or `not_connected`, `too_many_pending`, `connection_lost`, `already_subscribed`,
   * `needs_websocket` or `closed`.
   */
  reason: string;
  /** The server's number: from 4400 on, the same request gets the same answer. */
  code?: number;
}
