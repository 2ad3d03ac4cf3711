/** Numbers with their units, times, and strangers' texts with every character visible. Pure, but for `show`. */

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const tenths = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const clockMinutes = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });

/** In place of a figure that is not known. */
export const UNKNOWN = "–";

/** Such as `10,012`. */
export const count = (number) => (Number.isFinite(number) ? whole.format(number) : UNKNOWN);

/** A count with its noun, such as `1 topic` or `5,000 topics`. */
export const counted = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;

/** Such as `950`, `9.5`, or `1.23M`: at most five characters. */
export function short(number) {
  if (!Number.isFinite(number)) return UNKNOWN;
  if (Math.abs(number) >= 100_000) return compact.format(number);
  return Math.abs(number) < 100 ? tenths.format(number) : whole.format(number);
}

export const rate = (perSecond) => (Number.isFinite(perSecond) ? `${short(perSecond)}/s` : UNKNOWN);

const BYTES = ["B", "KiB", "MiB", "GiB", "TiB"];

export function bytes(number) {
  if (!Number.isFinite(number)) return UNKNOWN;
  let unit = 0;
  while (Math.abs(number) >= 1024 && unit < BYTES.length - 1) {
    number /= 1024;
    unit += 1;
  }
  return `${(unit > 0 && number < 100 ? tenths : whole).format(number)} ${BYTES[unit]}`;
}

export const byteRate = (perSecond) => (Number.isFinite(perSecond) ? `${bytes(perSecond)}/s` : UNKNOWN);

export function duration(ms) {
  if (!Number.isFinite(ms)) return UNKNOWN;
  if (ms < 1_000) return `${whole.format(ms)} ms`;
  const seconds = Math.floor(ms / 1_000);
  if (seconds < 10) return `${tenths.format(ms / 1_000)} s`;
  if (seconds < 60) return `${seconds} s`;
  const [minutes, hours] = [Math.floor(seconds / 60), Math.floor(seconds / 3_600)];
  if (hours < 1) return `${minutes} min ${seconds % 60} s`;
  if (hours < 24) return `${hours} h ${minutes % 60} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

/** The time of day, of a Unix time in milliseconds. */
export const timeOfDay = (ms) => clock.format(ms);
export const minuteOfDay = (ms) => clockMinutes.format(ms);

/** Characters without a shape of their own, or that change the order of their neighbours. Plain blanks are fine. */
const HIDDEN = /[\p{C}\p{Zl}\p{Zp}\p{DI}]|(?! )\p{Zs}/u;
const HIDDEN_ALL = new RegExp(`(${HIDDEN.source})`, "gu");

const nameOf = (character) => `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;

/** A stranger's text as one string, with the names of hidden characters in their places. */
export const visible = (text) => String(text).replace(HIDDEN_ALL, (character) => `‹${nameOf(character)}›`);

const shown = new WeakMap();

/**
 * Shows a stranger's text in an element. Hidden characters are set apart, so that no text can imitate their names.
 * Nothing happens if the element shows the text already.
 */
export function show(element, text) {
  text = String(text);
  if (shown.get(element) === text) return;
  shown.set(element, text);
  if (!HIDDEN.test(text)) {
    element.textContent = text;
    return;
  }
  // Odd places hold the hidden characters, because the pattern is a group.
  const parts = text.split(HIDDEN_ALL).map((part, place) => {
    if (place % 2 === 0) return document.createTextNode(part);
    const name = document.createElement("span");
    name.className = "hidden-character";
    name.textContent = nameOf(part);
    return name;
  });
  element.replaceChildren(...parts);
}
