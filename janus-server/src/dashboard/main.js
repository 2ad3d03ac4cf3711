/** The page: its views, the words about the state of the data, and the key. */

import { forgetKey, get, isPossibleKey, key, setKey } from "./api.js";
import { Clients, closing } from "./clients.js";
import { Live } from "./live.js";
import { Messages } from "./messages.js";
import { Overview } from "./overview.js";
import { Topics } from "./topics.js";
import { Tree } from "./tree.js";
import { duration, short, visible } from "./text.js";

const by = (id) => document.getElementById(id);

/** From this age on the page says that its data is old; the server sends data each second. */
const OLD_MS = 3_000;

/** Between two questions whether the server is ready. */
const READY_MS = 5_000;

const TOAST_MS = 8_000;

/** What views use of the page. */
const page = {
  /** Says something in passing. */
  say(words) {
    by("toast").textContent = words;
    clearTimeout(page.toast);
    page.toast = setTimeout(() => (by("toast").textContent = ""), TOAST_MS);
  },

  /** Fills a form with the parameters of the address; what is missing gets its default. */
  fill(form, parameters) {
    for (const field of form.elements) {
      // Letters typed since then must not be lost.
      if (!field.name || field === document.activeElement) continue;
      const value = parameters.get(field.name);
      if (field.type === "checkbox") field.checked = value !== null;
      else if (field instanceof HTMLSelectElement) {
        const options = [...field.options];
        field.value = (options.find((option) => option.value === value) ?? options.find((option) => option.defaultSelected)).value;
      } else field.value = value ?? "";
    }
  },

  /** Puts the state of a view into the address, so that a reload and a bookmark show the same. */
  remember(view, parameters) {
    const kept = Object.entries(parameters).filter(([, value]) => value);
    history.replaceState(null, "", kept.length > 0 ? `#${view}?${new URLSearchParams(kept)}` : `#${view}`);
    turn();
  },

  /** A button that holds a list still. */
  holding(button, onChange) {
    button.addEventListener("click", () => {
      const isHeld = button.ariaPressed !== "true";
      button.ariaPressed = isHeld;
      button.textContent = isHeld ? "Continue the list" : "Hold the list";
      onChange(isHeld);
    });
  },
};
page.closeButton = closing(page);

const overview = new Overview(page);
const views = { overview, topics: new Topics(page), clients: new Clients(page), tree: new Tree(page), messages: new Messages(page) };

/** The lists that the operator holds still: the question whose answer is shown, by the name of the view. */
const held = new Map();
for (const name of ["topics", "clients"]) {
  page.holding(by(`view-${name}`).querySelector(".pause"), (isHeld) => (isHeld ? held.set(name, views[name].views[0]) : held.delete(name)));
}

let shown = null;
let stats = null;
/** Why the server is not ready, in the server's words. */
let notReady = "";
/** What does not work in a server that is ready, in the server's words. */
let degraded = "";

const live = new Live({
  answer(view, answer) {
    if (by("key-dialog").open) by("key-dialog").close();
    if (view === "stats") takeStats(answer);
    else if (views[shown].views.includes(view)) takeList(view, answer);
  },
  refused(view, error) {
    if (view !== "stats" && views[shown].views.includes(view)) views[shown].refused(view, error);
  },
  opened: fillSamples,
  locked(error) {
    if (error.status === 401) askForKey(key() ? "wrong" : "missing");
  },
  changed: tell,
});

function takeList(view, answer) {
  // Another sort or filter is answered even by a list held still, once.
  if (held.get(shown) === view) return;
  if (held.has(shown)) held.set(shown, view);
  views[shown].answer(view, answer);
}

/** After a pause the charts get what the server has kept. */
async function fillSamples() {
  if (stats && performance.now() - stats.at < OLD_MS) return;
  try {
    const answer = await get("/api/stats?samples=600");
    if (answer.samples) overview.samples.fill(answer.samples);
    takeStats(answer);
  } catch {
    // The stream tells the same, or ends; the charts begin with the next second.
  }
}

function takeStats(answer) {
  // A stream's event may be a second older than an answer to a question of its own.
  if (stats && answer.uptime_ms + OLD_MS < stats.uptime_ms) {
    page.say("The server has restarted: its figures begin anew.");
    overview.samples.clear();
    stats = null;
    fillSamples();
  }
  stats = { at: performance.now(), time: answer.time, uptime_ms: answer.uptime_ms, figures: answer.stats };
  by("version").textContent = answer.version ?? "";
  by("uptime").textContent = `up ${duration(answer.uptime_ms)}`;
  by("count-topics").textContent = short(answer.stats.topics?.value);
  by("count-clients").textContent = short(answer.stats.connections?.value);
  overview.stats(answer, shown === "overview");
  tell();
}

/** Shows the view of the address. */
function turn() {
  const [name, query] = location.hash.slice(1).split(/\?(.*)/s);
  const next = Object.hasOwn(views, name) ? name : "overview";
  const isNew = next !== shown;
  shown = next;
  for (const section of document.querySelectorAll("main > section")) section.hidden = section.id !== `view-${shown}`;
  for (const link of document.querySelectorAll("nav a")) {
    const isShown = link.hash.split("?")[0] === `#${shown}`;
    link.ariaCurrent = isShown ? "page" : null;
    // A view left and looked at again has the filters as they were.
    if (isShown && location.hash) link.hash = location.hash;
  }
  document.title = `${by(`view-${shown}`).querySelector("h2").textContent} – Janus`;
  views[shown].open(new URLSearchParams(query ?? ""));
  live.look(["stats", ...views[shown].views]);
  if (isNew) scrollTo(0, 0);
}

/** What the banner says, the colour of the badge, and its word. */
function judge() {
  const age = live.lastAt === null ? null : performance.now() - live.lastAt;
  if (live.phase === "locked") {
    const words = live.error.status === 401 ? "The server asks for its key." : live.error.message;
    return { badge: "bad", word: "locked", words, retries: live.error.status !== 401 };
  }
  const isOld = live.phase === "waiting" || (live.phase !== "idle" && age !== null && age > OLD_MS);
  if (isOld) {
    const from = age === null ? "No data yet" : `Data from ${duration(Math.max(1_000, age - (age % 1_000)))} ago`;
    const wait = live.nextAt === null ? 0 : Math.ceil((live.nextAt - performance.now()) / 1_000);
    const next = live.phase === "waiting" && wait > 0 ? `reconnecting in ${wait} s` : "reconnecting";
    const why = live.error ? `: ${live.error.message}` : "";
    const end = notReady.startsWith("draining") ? " The server was draining." : "";
    return { badge: "bad", word: "old data", words: `${from}; ${next}${why}.${end}`, retries: true };
  }
  if (stats?.figures.draining?.value > 0) {
    const words = "The server is draining: it takes no new clients, and closes its connections one after the other.";
    return { badge: "warn", word: "draining", words };
  }
  if (notReady) return { badge: "warn", word: "not ready", words: `The server is not ready for new clients: ${notReady}.` };
  if (live.phase !== "live") return { badge: "", word: "connecting", words: "" };
  if (degraded) return { badge: "warn", word: "degraded", words: `A part of the server does not work: ${degraded}.` };
  return { badge: "good", word: "live", words: "" };
}

let told = "";

/** Says the state of the data; called with each change, and each second because data grows old. */
function tell() {
  const { badge, word, words, retries } = judge();
  by("state").textContent = word;
  by("state").className = `badge ${badge}`;
  document.body.classList.toggle("stale", word === "old data" || word === "locked");
  by("banner").hidden = words === "";
  by("banner").className = badge;
  by("retry").hidden = !retries;
  by("enter-key").hidden = !(live.phase === "locked" && live.error.status === 401);
  by("forget-key").hidden = !key() || live.phase === "locked";
  // Seconds that count are no news to a reader of screens.
  by("banner-text").ariaLive = word === told ? "off" : "polite";
  told = word;
  by("banner-text").textContent = visible(words);
}

async function askWhetherReady() {
  if (document.hidden || live.phase === "locked") return;
  try {
    const { ready, checks } = await (await fetch("/readyz", { cache: "no-store", credentials: "omit" })).json();
    const reasons = Object.entries(checks).map(([check, reason]) => (check === "draining" ? `draining, ${reason}` : reason)).join("; ");
    [notReady, degraded] = ready ? ["", reasons] : [reasons, ""];
    tell();
    // Without an engine there is no node.
    overview.nodes(stats?.figures.nodes?.value > 0 ? (await get("/api/nodes")).nodes : []);
  } catch {
    // Without an answer the age of the data says enough.
  }
}

function askForKey(reason) {
  const words = {
    missing: "Enter the api_key of the server's settings.",
    wrong: "The server does not accept this key. Enter the api_key of the server's settings.",
    impossible: "A key has only letters, digits and signs, without blanks.",
  };
  by("key-why").textContent = words[reason];
  by("key-why").classList.toggle("bad", reason !== "missing");
  if (!by("key-dialog").open) by("key-dialog").showModal();
  by("key-form").elements.key.select();
}

by("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = event.target.elements.key.value.trim();
  if (!isPossibleKey(text)) {
    askForKey("impossible");
    return;
  }
  setKey(text);
  live.restart();
});
by("key-dialog").addEventListener("close", () => by("key-form").reset());
by("enter-key").addEventListener("click", () => askForKey("missing"));
by("forget-key").addEventListener("click", () => {
  forgetKey();
  views.messages.close("Not subscribed: the key is forgotten.");
  live.restart();
  page.say("The key is forgotten.");
});
for (const dialog of document.querySelectorAll("dialog")) {
  dialog.querySelector("[value=cancel]").addEventListener("click", () => dialog.close());
}
by("retry").addEventListener("click", () => live.retry());
by("skip").addEventListener("click", (event) => {
  event.preventDefault();
  by("main").focus();
});

by("theme").value = document.documentElement.dataset.theme ?? "auto";
by("theme").addEventListener("change", () => {
  const theme = by("theme").value;
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  try {
    if (theme === "auto") localStorage.removeItem("janus-theme");
    else localStorage.setItem("janus-theme", theme);
  } catch {
    // A browser without storage forgets the choice.
  }
});

addEventListener("hashchange", turn);
setInterval(tell, 1_000);
setInterval(askWhetherReady, READY_MS);
turn();
askWhetherReady();
