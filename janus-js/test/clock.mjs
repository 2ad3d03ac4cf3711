/**
 * Runs the tests of tests/browser in Node that need no server: `node clock.mjs [FILE]`, with the client in this file or of
 * src/. The browsers run the same tests (tests/browser.rs).
 */
import { copyFileSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const root = resolve(fileURLToPath(import.meta.url), "../../..");
const client = resolve(process.argv[2] ?? join(root, "janus-js/src/index.js"));
const folder = mkdtempSync(join(tmpdir(), "janus-"));
const pages = ["client.js", "fallback.js"];
for (const name of ["world.js", ...pages]) copyFileSync(join(root, "tests/browser", name), join(folder, name));
writeFileSync(join(folder, "package.json"), '{"type":"module"}');
writeFileSync(join(folder, "janus.js"), `export * from ${JSON.stringify(pathToFileURL(client).href)};`);
writeFileSync(join(folder, "report.js"), "export const report = (...values) => globalThis.reports.push(values);");

// What pages have, and versions of Node before 22 lack.
Promise.withResolvers ??= function () {
  let parts;
  const promise = new this((resolve, reject) => (parts = { resolve, reject }));
  return { promise, ...parts };
};
globalThis.navigator ??= {};
const page = new EventTarget();
globalThis.addEventListener = page.addEventListener.bind(page);
globalThis.dispatchEvent = page.dispatchEvent.bind(page);
globalThis.document = Object.assign(new EventTarget(), { visibilityState: "visible" });
globalThis.reports = [];
try {
  for (const name of pages) await import(pathToFileURL(join(folder, name)).href);
} finally {
  rmSync(folder, { recursive: true });
}
const of = (kind) => reports.filter((report) => report[0] === kind);
of("failed").forEach(([, name, why]) => console.error(`failed: ${name}\n    ${why}`));
console.log(`${of("passed").length} passed, ${of("failed").length} failed`);
process.exit(Number(of("end").length < pages.length || of("failed").length > 0));
