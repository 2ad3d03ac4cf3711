/**
 * The commands of passes.py for the library `centrifuge`, in Node (program.mjs) and in a browser (page.html).
 *
 * A command is a list, [number, name, argument…], and so is a report: ["answer", number, result], ["refused", number, error], or an
 * event of the library with its channel and context.
 */

export function program(Centrifuge, options, report) {
  let client;
  let asked = [];
  const subscriptions = {};

  const events = (source, names, channel) => {
    for (const name of names) source.on(name, (context) => report(name, context.channel ?? channel ?? null, context));
  };

  const commands = {
    connect(url, { token, getsToken, data, ping }) {
      client = new Centrifuge(url, {
        ...options,
        token: token ?? "",
        getToken: getsToken ? () => new Promise((resolve) => { asked.push(resolve); report("token", null, {}); }) : null,
        data: data ?? null,
        minReconnectDelay: 100,
        maxReconnectDelay: 500,
        maxServerPingDelay: ping ?? 10_000,
        timeout: 10_000,
      });
      events(client, ["connecting", "connected", "disconnected", "error", "subscribed", "unsubscribed", "publication", "join", "leave"]);
      client.connect();
    },
    give: (token) => asked.shift()(token),
    subscribe(channel, more) {
      const subscription = client.newSubscription(channel, { minResubscribeDelay: 100, maxResubscribeDelay: 500, ...more });
      subscriptions[channel] = subscription;
      events(subscription, ["subscribing", "subscribed", "unsubscribed", "publication", "join", "leave", "error"], channel);
      subscription.subscribe();
    },
    unsubscribe: (channel) => subscriptions[channel].unsubscribe(),
    publish: (channel, data) => client.publish(channel, data),
    history: (channel, more) => client.history(channel, more),
    presence: (channel) => client.presence(channel),
    stats: (channel) => client.presenceStats(channel),
    rpc: (method) => client.rpc(method, {}),
    send: (data) => client.send(data),
    disconnect: () => client.disconnect(),
    // Nothing is read for this long.
    block(milliseconds) {
      const end = Date.now() + milliseconds;
      while (Date.now() < end);
    },
  };

  return async ([number, name, ...values]) => {
    try {
      report("answer", number, (await commands[name](...values)) ?? null);
    } catch (error) {
      report("refused", number, { code: error.code ?? null, message: error.message });
    }
  };
}
