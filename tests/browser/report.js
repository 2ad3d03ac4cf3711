/** Sends the reports of a page, in order, to the test that runs the page (tests/browser_run.rs). */

// A test may replace the page's own.
const { fetch } = globalThis;
let waiting = [];
let sending = false;

export async function report(...values) {
  waiting.push(values);
  if (sending) return;
  sending = true;
  while (waiting.length > 0) {
    const body = JSON.stringify(waiting);
    waiting = [];
    await fetch("/report", { method: "POST", body });
  }
  sending = false;
}

/** The parameters given to the page by the test. */
export const parameters = Object.fromEntries(new URLSearchParams(location.search));
