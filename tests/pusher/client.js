/**
 * A user of pusher-js or of Laravel Echo, for scenarios.py: takes commands, and reports everything that a program would see.
 *
 * Runs in Node and in a page: `run(Pusher, Echo, report)` returns the function that carries out a command.
 */

globalThis.run = (Pusher, Echo, report) => {
  let pusher;
  let echo;

  const plain = (value) => {
    if (!value?.members) return value;
    // The members of a presence channel, as pusher-js gives them to the program.
    return { count: value.count, members: value.members, me: value.me };
  };

  const observe = () => {
    pusher.connection.bind("state_change", ({ current }) => report("state", current, pusher.connection.socket_id ?? null));
    pusher.connection.bind("error", (error) => report("error", error?.error?.data?.code ?? error?.data?.code ?? null));
    pusher.user?.bind_global((event, data) => report("user", event, data));
    report("state", pusher.connection.state, pusher.connection.socket_id ?? null);
  };

  const options = ({ host, port, auth }) => ({
    wsHost: host,
    wsPort: port,
    forceTLS: false,
    enabledTransports: ["ws"],
    enableStats: false,
    cluster: "",
    channelAuthorization: { endpoint: `${auth}/channel` },
    userAuthentication: { endpoint: `${auth}/user` },
  });

  const commands = {
    connect(settings) {
      pusher = new Pusher(settings.key, options(settings));
      observe();
    },

    echo(settings) {
      const { channelAuthorization, ...rest } = options(settings);
      const authEndpoint = channelAuthorization.endpoint;
      echo = new Echo({ broadcaster: "pusher", key: settings.key, Pusher, authEndpoint, ...rest });
      pusher = echo.connector.pusher;
      observe();
    },

    subscribe(name) {
      const channel = pusher.subscribe(name);
      channel.unbind_global();
      channel.bind_global((event, data) => report("event", name, event, plain(data) ?? null));
    },

    unsubscribe(name) {
      pusher.unsubscribe(name);
    },

    sender(name, event) {
      pusher.channel(name).bind(event, (_, metadata) => report("sender", metadata?.user_id ?? null));
    },

    trigger(name, event, data) {
      pusher.channel(name).trigger(event, data);
    },

    signin() {
      pusher.signin();
    },

    raw(text) {
      pusher.connection.connection.transport.send(text);
    },

    disconnect() {
      pusher.disconnect();
    },

    // Laravel Echo.
    listen(kind, name, event) {
      const channel = echo[kind](name);
      channel.listen(event, (data) => report("heard", name, event, data));
      channel.error((error) => report("refused", name, error?.status ?? null));
      channel.subscribed(() => report("subscribed", name));
      if (kind !== "join") return;
      channel
        .here((users) => report("here", name, users))
        .joining((user) => report("joining", name, user))
        .leaving((user) => report("leaving", name, user));
    },

    whisper(name, event, data) {
      echo.private(name).whisper(event, data);
    },

    hearWhisper(name, event) {
      echo.private(name).listenForWhisper(event, (data) => report("whispered", name, data));
    },
  };

  return ([command, ...values]) => commands[command](...values);
};
