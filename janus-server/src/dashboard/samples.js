/** The figures of the last ten minutes, one sample a second: what the charts draw. Owns the samples; pure. */

/** Ten minutes, as the server keeps. */
const MAX_SAMPLES = 600;

/** Between two samples further apart the line of a chart is broken, because nothing is known. */
export const HOLE_MS = 3_500;

/** Samples closer together than this are one: the few events between two of them would make a rate of hundreds. */
const CLOSE_MS = 500;

/** A sample older than the last by this much comes from a clock that was set back. */
const SET_BACK_MS = 10_000;

export class Samples {
  /** Unix times in milliseconds, rising. */
  time = [];
  #values = new Map();

  /** Keeps the figures of these names alone. */
  constructor(names) {
    for (const name of names) this.#values.set(name, []);
  }

  /** Replaces everything by the server's own samples. */
  fill({ time, values }) {
    const from = Math.max(0, time.length - MAX_SAMPLES);
    this.time = time.slice(from);
    for (const name of this.#values.keys()) {
      this.#values.set(name, values[name]?.slice(from) ?? this.time.map(() => null));
    }
  }

  /** Adds a sample, unless the sample is not later than the last, or hardly later. A clock that was set back begins a new series. */
  add(time, figures) {
    if (time <= this.time.at(-1) - SET_BACK_MS) this.clear();
    if (time < this.time.at(-1) + CLOSE_MS) return;
    this.time.push(time);
    for (const [name, values] of this.#values) values.push(figures[name]?.value ?? null);
    if (this.time.length <= MAX_SAMPLES) return;
    this.time.shift();
    for (const values of this.#values.values()) values.shift();
  }

  clear() {
    this.time = [];
    for (const name of this.#values.keys()) this.#values.set(name, []);
  }

  /** The values of a gauge; null where nothing is known. */
  gauge(name) {
    return this.#values.get(name);
  }

  /** The rates of a counter in events a second, each as the mean of so many samples; null where nothing is known. */
  rate(name, mean) {
    const values = this.#values.get(name);
    // A counter that falls is that of a server started afresh.
    const follows = (place) =>
      place > 0 && values[place - 1] !== null && values[place] >= values[place - 1] && this.time[place] - this.time[place - 1] <= HOLE_MS;
    let run = 0;
    return values.map((value, place) => {
      run = value !== null && follows(place) ? Math.min(run + 1, mean) : 0;
      if (run === 0) return null;
      return (value - values[place - run]) / ((this.time[place] - this.time[place - run]) / 1_000);
    });
  }

  /** The place of the sample nearest to a time, or -1 without samples. */
  nearest(time) {
    if (this.time.length === 0) return -1;
    let [low, high] = [0, this.time.length - 1];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.time[middle] < time) low = middle + 1;
      else high = middle;
    }
    return low > 0 && time - this.time[low - 1] < this.time[low] - time ? low - 1 : low;
  }
}
