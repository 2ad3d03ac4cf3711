/** The file for `<script>`, which leaves the global `Janus`. */

import { parameters, report } from "./report.js";

const script = document.createElement("script");
script.src = "./janus.global.js";
script.onerror = () => report("error", "no janus.global.js");
script.onload = async () => {
  const janus = new Janus(parameters.server);
  const is = await new Promise((resolve) => janus.subscribe("", { error: (error) => resolve(error instanceof Janus.JanusError) }));
  janus.subscribe("news", { message: ({ topic, data }) => report("received", data, topic, is) });
  await janus.publish("news", "over a script");
};
document.head.append(script);
