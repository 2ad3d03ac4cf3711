/**
 * Charts over time, as SVG: lines, a scale with units, times, and the values of a second under the pointer or by the arrow
 * keys. All charts of a group show the same second.
 */

import { HOLE_MS } from "./samples.js";
import { UNKNOWN, byteRate, bytes, count, minuteOfDay, rate, short, timeOfDay } from "./text.js";

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 132;
const EDGE = { left: 58, right: 8, top: 8, bottom: 20 };

/** Writes a value: in the scale, and in the legend. */
const UNITS = {
  count: { axis: short, value: count, steps: 1_000 },
  rate: { axis: rate, value: rate, steps: 1_000 },
  bytes: { axis: bytes, value: bytes, steps: 1_024 },
  byteRate: { axis: byteRate, value: byteRate, steps: 1_024 },
};

function svg(name, attributes = {}) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

function html(name, className, text = "") {
  const element = document.createElement(name);
  element.className = className;
  element.textContent = text;
  return element;
}

/** The end of a scale that holds the value: 1, 2 or 5 times a power of ten, or of two for bytes, and its half is as round. */
export function scaleFor(value, unit) {
  if (!(value > 0)) return unit.steps === 1_024 ? 1_024 : 2;
  if (unit.steps === 1_024) return Math.max(2, 2 ** Math.ceil(Math.log2(value)));
  const power = 10 ** Math.floor(Math.log10(value));
  const step = [1, 2, 4, 6, 8, 10].find((step) => step * power >= value);
  return Math.max(2, step * power);
}

/** Times for the labels below a chart: full minutes, as many as fit. */
function times(from, to, width) {
  const step = [15_000, 30_000, 60_000, 120_000, 300_000].find((step) => ((to - from) / step) * 56 <= width) ?? 600_000;
  const found = [];
  for (let time = Math.ceil(from / step) * step; time <= to; time += step) found.push(time);
  return found;
}

/** Charts of the same samples over the same time. */
export class Charts {
  #charts;
  #samples;
  #range = 600_000;
  /** The time under the pointer, or null. */
  #cursor = null;
  #say;

  /** `descriptions`: `{title, text, unit, series: [{name, label, isRate}], limit}`. `say` speaks the values for readers. */
  constructor(place, samples, descriptions, say) {
    this.#samples = samples;
    this.#say = say;
    this.#charts = descriptions.map((description) => new Chart(description, this));
    place.replaceChildren(...this.#charts.map((chart) => chart.element));
    // A narrower window changes every chart at once.
    new ResizeObserver(() => this.draw()).observe(place);
  }

  /** Returns the number of seconds of which each rate is the mean: events that are rare would fill a chart with spikes. */
  setRange(ms) {
    this.#range = ms;
    this.draw();
    return this.#mean;
  }

  get #mean() {
    return Math.max(1, this.#range / 120_000);
  }

  /** `figures`: those of the last answer, for the limits. */
  draw(figures) {
    if (figures) this.figures = figures;
    const to = this.#samples.time.at(-1) ?? Date.now();
    for (const chart of this.#charts) chart.draw(this.#samples, [to - this.#range, to, this.#mean], this.figures ?? {});
    this.#point();
  }

  /** Points at a time in all charts; null points at nothing. */
  pointAt(time) {
    this.#cursor = time;
    this.#point();
  }

  /** Moves by so many seconds, from the latest on, and says the values of this chart. */
  step(seconds, chart) {
    const samples = this.#samples;
    const place = this.#cursor === null ? samples.time.length - 1 : samples.nearest(this.#cursor);
    const next = Math.min(samples.time.length - 1, Math.max(0, place + seconds));
    if (next < 0) return;
    this.pointAt(samples.time[next]);
    this.#say(chart.words(next));
  }

  #point() {
    const place = this.#cursor === null ? -1 : this.#samples.nearest(this.#cursor);
    for (const chart of this.#charts) chart.point(place);
  }
}

class Chart {
  element = html("figure", "card chart");
  #description;
  #unit;
  #picture = svg("svg", { tabindex: 0, role: "img", height: HEIGHT });
  #drawing = svg("g");
  #cursor = svg("g", { class: "cursor", visibility: "hidden" });
  #line = svg("line", { y1: EDGE.top, y2: HEIGHT - EDGE.bottom });
  #time = html("span", "when");
  #values = [];
  #notes = [];
  #drawn = null;

  constructor(description, group) {
    this.#description = description;
    this.#unit = UNITS[description.unit];
    const title = html("figcaption", "", description.title);
    title.title = description.text;
    const legend = html("p", "legend");
    description.series.forEach(({ label }, place) => {
      const [entry, value] = [html("span", "entry"), html("b", "", UNKNOWN)];
      entry.append(html("i", `dot s${place}`), html("span", "label", label), " ", value);
      if (description.series.length === 1) entry.classList.add("single");
      const note = html("span", "note");
      entry.append(note);
      this.#values.push(value);
      this.#notes.push(note);
      legend.append(entry);
    });
    const head = html("div", "chart-head");
    head.append(title, this.#time);
    this.#cursor.append(this.#line);
    this.#picture.append(this.#drawing, this.#cursor);
    this.element.append(head, legend, this.#picture);
    this.#listen(group);
  }

  #listen(group) {
    const at = (event) => {
      if (!this.#drawn) return;
      const { from, to, width } = this.#drawn;
      const x = event.clientX - this.#picture.getBoundingClientRect().left - EDGE.left;
      group.pointAt(from + (Math.min(width, Math.max(0, x)) / width) * (to - from));
    };
    this.#picture.addEventListener("pointermove", at);
    this.#picture.addEventListener("pointerdown", at);
    this.#picture.addEventListener("pointerleave", (event) => {
      // A finger that is lifted leaves the values for reading.
      if (event.pointerType === "mouse") group.pointAt(null);
    });
    this.#picture.addEventListener("blur", () => group.pointAt(null));
    this.#picture.addEventListener("keydown", (event) => {
      const steps = { ArrowLeft: -1, ArrowRight: 1, PageUp: -60, PageDown: 60, Home: -600, End: 600 }[event.key];
      if (event.key === "Escape") group.pointAt(null);
      if (steps === undefined) return;
      event.preventDefault();
      group.step(steps, this);
    });
  }

  draw(samples, [from, to, mean], figures) {
    const width = this.#picture.clientWidth - EDGE.left - EDGE.right;
    // Not laid out: the view is hidden.
    if (width <= 0) return;
    const lines = this.#description.series.map(({ name, isRate }) => (isRate ? samples.rate(name, Math.floor(mean)) : samples.gauge(name)));
    const first = samples.nearest(from);
    const highest = lines.reduce((most, line) => line.slice(Math.max(0, first)).reduce((a, b) => Math.max(a, b ?? 0), most), 0);
    const limit = figures[this.#description.limit]?.value;
    // A limit far above would press the line to the ground.
    const showsLimit = limit > 0 && highest >= limit / 2;
    const top = scaleFor(showsLimit ? Math.max(limit, highest) : highest, this.#unit);
    this.#drawn = { samples, lines, from, to, width, top, limit };
    const [x, y] = [(time) => this.#x(time), (value) => this.#y(value)];
    const parts = [];
    for (const value of [0, top / 2, top]) {
      parts.push(svg("line", { class: "grid", x1: EDGE.left, x2: EDGE.left + width, y1: y(value), y2: y(value) }));
      const label = svg("text", { class: "scale", x: EDGE.left - 6, y: y(value) + 4 });
      label.textContent = this.#unit.axis(value);
      parts.push(label);
    }
    for (const time of times(from, to, width)) {
      const label = svg("text", { class: "time", x: Math.min(Math.max(x(time), EDGE.left + 14), EDGE.left + width - 14), y: HEIGHT - 5 });
      label.textContent = to - from > 120_000 ? minuteOfDay(time) : timeOfDay(time);
      parts.push(svg("line", { class: "tick", x1: x(time), x2: x(time), y1: y(0), y2: y(0) + 4 }), label);
    }
    if (showsLimit) parts.push(svg("line", { class: "limit", x1: EDGE.left, x2: EDGE.left + width, y1: y(limit), y2: y(limit) }));
    lines.forEach((line, place) => {
      const runs = this.#runs(line, Math.max(0, first - 1));
      if (lines.length === 1) parts.push(svg("path", { class: `area s${place}`, d: runs.map((run) => this.#area(run)).join("") }));
      parts.push(svg("path", { class: `line s${place}`, d: runs.map((run) => `M${run.join("L")}`).join("") }));
    });
    this.#drawing.replaceChildren(...parts);
    this.#describe(highest);
  }

  #x(time) {
    const { from, to, width } = this.#drawn;
    return Math.round((EDGE.left + ((time - from) / (to - from)) * width) * 10) / 10;
  }

  #y(value) {
    const height = HEIGHT - EDGE.top - EDGE.bottom;
    return Math.round((EDGE.top + height - (value / this.#drawn.top) * height) * 10) / 10;
  }

  /** The points of a line, apart where nothing is known. */
  #runs(line, first) {
    const { samples, from } = this.#drawn;
    const runs = [];
    let [run, before] = [null, null];
    for (let place = first; place < line.length; place += 1) {
      const time = samples.time[place];
      if (line[place] === null || time < from) {
        run = null;
        continue;
      }
      if (!run || time - before > HOLE_MS) runs.push((run = []));
      run.push(`${this.#x(time)} ${this.#y(line[place])}`);
      before = time;
    }
    // A single point has no line; a line of no length is drawn as a dot.
    for (const run of runs) if (run.length === 1) run.push(run[0]);
    return runs;
  }

  #area(run) {
    const [left, right] = [run[0].split(" ")[0], run.at(-1).split(" ")[0]];
    return `M${left} ${this.#y(0)}L${run.join("L")}L${right} ${this.#y(0)}Z`;
  }

  #describe(highest) {
    const { samples, from, to } = this.#drawn;
    const minutes = Math.round((to - from) / 60_000);
    const words = samples.time.length > 0 ? this.words(samples.time.length - 1) : "no data yet";
    const most = `highest in ${minutes} min: ${this.#unit.value(highest)}`;
    this.#picture.setAttribute("aria-label", `${this.#description.title}: ${words}; ${most}`);
  }

  /** The values of a sample in words. */
  words(place) {
    const { samples, lines } = this.#drawn;
    const values = this.#description.series.map(({ label }, series) => `${label} ${this.#unit.value(lines[series][place] ?? NaN)}`);
    return `${values.join(", ")}, at ${timeOfDay(samples.time[place])}`;
  }

  /** Shows the values of a sample, or those of the last for -1. */
  point(place) {
    if (!this.#drawn) return;
    const { samples, lines, from, to, limit } = this.#drawn;
    const time = samples.time[place];
    const isIn = place >= 0 && time >= from && time <= to;
    this.#cursor.setAttribute("visibility", isIn ? "visible" : "hidden");
    this.#time.textContent = isIn ? timeOfDay(time) : "";
    const shown = isIn ? place : samples.time.length - 1;
    const dots = [];
    lines.forEach((line, series) => {
      const value = line[shown] ?? NaN;
      this.#values[series].textContent = this.#unit.value(value);
      const isFirst = series === 0 && limit > 0 && Number.isFinite(value);
      this.#notes[series].textContent = isFirst ? ` of ${this.#unit.value(limit)} (${share(value / limit)})` : "";
      if (isIn && Number.isFinite(value)) dots.push(svg("circle", { class: `s${series}`, cx: this.#x(time), cy: this.#y(value), r: 3 }));
    });
    if (!isIn) return;
    this.#line.setAttribute("x1", this.#x(time));
    this.#line.setAttribute("x2", this.#x(time));
    this.#cursor.replaceChildren(this.#line, ...dots);
  }
}

const share = (part) => (part > 0 && part < 0.01 ? "under 1 %" : `${Math.round(part * 100)} %`);
