/**
 * Uses the chat like two people, each in a frame of this page: both talk, lose their server, and talk again. Reports the
 * visible logs, each entry as its classes and its text.
 */

import { parameters, report } from "./report.js";

const HOSTILE = `<script>parent.broken = true</script><img src="x" onerror="parent.broken = true"> &amp; <b>bold</b>`;

async function person(name) {
  const frame = document.createElement("iframe");
  frame.src = `./index.html?server=${parameters.server}&name=${encodeURIComponent(name)}`;
  document.body.append(frame);
  await new Promise((loaded) => frame.addEventListener("load", loaded));
  const page = frame.contentDocument;
  const find = (selector) => page.querySelector(selector);
  const entry = (item) => [
    item.className,
    (item.querySelector("p") ?? item).textContent,
    item.querySelector("bdi")?.textContent,
  ];
  return {
    say(text) {
      find("#text").value = text;
      find("button").click();
    },
    send: () => find("button").click(),
    typed: () => find("#text").value,
    connection: () => find("#connection").textContent,
    problem: () => find("#problem").textContent,
    entries: () => [...page.querySelectorAll("#log > li")].map(entry),
    made: () => page.querySelectorAll("#log script, #log img, #log b").length,
  };
}

async function until(condition) {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 5));
}

const [ann, bob] = [await person("Ann"), await person("<i>Bob</i>")];
await until(() => ann.connection() === "Connected" && bob.connection() === "Connected");
ann.say(HOSTILE);
await until(() => bob.entries().length === 1);
bob.say("Good morning");
await until(() => ann.entries().length === 2);
bob.say("Ann");
await until(() => ann.entries().length === 3 && bob.entries().length === 3);
report("talk", ann.entries(), bob.entries(), ann.made() + bob.made(), window.broken ?? false);

await until(() => ann.connection() === "Connection lost, trying again …");
ann.say("Are you there?");
await until(() => ann.problem() !== "");
report("unsent", ann.problem(), ann.typed());

await until(() => ann.connection() === "Connected" && bob.connection() === "Connected");
ann.send();
await until(() => bob.entries().length === 5);
report("after", bob.entries().slice(3), ann.problem(), ann.typed());
