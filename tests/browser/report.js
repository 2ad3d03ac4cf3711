/** What a page tells the test that runs it (tests/browser_run.rs), in the order in which it was told. */

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

/** What the test tells the page. */
export const parameters = Object.fromEntries(new URLSearchParams(location.search));
