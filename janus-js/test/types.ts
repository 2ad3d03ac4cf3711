/** What a program in TypeScript may write, and what the compiler refuses. Never run. */
import { Janus, JanusError, type Gap, type Item, type Position } from "janus-client";

const controller = new AbortController();
const janus = new Janus("wss://push.example/ws", {
  getToken: async () => (await fetch("/token")).text(),
  state: (state, { retryInMs, error }) => console.log(state satisfies "connecting" | "connected" | "waiting" | "closed", retryInMs, error?.code),
  assigned: (topic) => topic === "inbox" && { message: ({ data }) => console.log(data) },
  events: "/events",
  publishUrl: new URL("https://push.example/publish"),
  signal: controller.signal,
});
new Janus();
new Janus(new URL("https://push.example/ws"), { auth: "key", events: null });

interface Price {
  price: number;
}
const quotes = janus.subscribe<Price>("quotes", {
  since: "start",
  message: ({ seq, time, data }) => console.log(seq.toFixed(), time, data.price.toFixed()),
  gap: (gap: Gap) => console.log(gap.unknown ? "load the state anew" : gap.to - gap.from),
  presence: ({ count, all }) => console.log(count, all?.map(({ user, info }) => [user, info])),
});
const position: Position | undefined = quotes.position;
janus.subscribe("more", { since: position });
quotes.unsubscribe();

async function read() {
  await janus.connected();
  const { seq, again } = await janus.publish("news", new Uint8Array(3), { exclude: janus.client, idempotencyKey: "a" });
  console.log(seq + 1, again === true);
  try {
    for await (const item of janus.messages<Price>("quotes", { maxUnread: 10, signal: controller.signal })) {
      if (item.type === "message") console.log(item.data.price);
      else if (!item.unknown) console.log(item.from + 1);
    }
  } catch (error) {
    if (error instanceof JanusError) console.log(error.reason.length, (error.code ?? 0) + 1);
  }
  const { count, members } = await janus.presence("quotes");
  console.log(count, members?.[0]?.user);
  const { messages, more, epoch, seq: end } = await janus.history<Price>("quotes", { limit: 10, reverse: true });
  if (more) await janus.history("quotes", { since: { epoch, seq: end }, reverse: true });
  console.log(messages.map(({ data }) => data.price));
}
void read();
export type Check = Item<Price>;

// @ts-expect-error a place to begin, and not any text
janus.subscribe("news", { since: "beginning" });
// @ts-expect-error the data of these messages has no such key
janus.subscribe<Price>("news", { message: ({ data }) => data.cost });
// @ts-expect-error the state is told and not set
janus.state = "closed";
// @ts-expect-error a message has data
janus.publish("news");
// @ts-expect-error an option is misspelt
new Janus("/ws", { getTokens: () => "token" });
