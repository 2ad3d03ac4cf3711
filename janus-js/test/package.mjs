/** The packed package, as a program finds it in node_modules: its files, their sizes, and each way to load them. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import vm from "node:vm";

const MAX = 12_000;
const root = fileURLToPath(new URL("..", import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "janus-"));
try {
  const [{ filename, files }] = JSON.parse(execFileSync("npm", ["pack", "--json", "--silent", "--pack-destination", folder], { cwd: root, encoding: "utf8" }));
  const names = files.map(({ path }) => path).sort();
  assert.deepEqual(names, ["LICENSE-APACHE", "LICENSE-MIT", "README.md", "dist/janus.global.js", "dist/janus.js", "package.json", "types/janus.d.ts"]);
  for (const { path, size } of files) assert.ok(size < MAX, `${path} has ${size} bytes, and may have ${MAX - 1}`);

  const installed = join(folder, "node_modules/janus-client");
  mkdirSync(installed, { recursive: true });
  execFileSync("tar", ["-xzf", join(folder, filename), "--strip-components=1", "-C", installed]);
  const read = (name) => readFileSync(join(installed, name), "utf8");
  const { dependencies, peerDependencies, exports } = JSON.parse(read("package.json"));
  assert.deepEqual([dependencies, peerDependencies], [undefined, undefined]);
  for (const file of Object.values(exports).flatMap((entry) => Object.values(typeof entry === "string" ? [entry] : entry))) read(file);
  assert.doesNotMatch(read("dist/janus.js"), /\bimport\b|\brequire\b/);

  const program = join(folder, "program.mjs");
  writeFileSync(program, 'export * from "janus-client";');
  const module = await import(pathToFileURL(program).href);
  assert.deepEqual(Object.keys(module).sort(), ["Janus", "JanusError"]);
  if (process.features.require_module) {
    assert.equal(typeof createRequire(program)("janus-client").Janus, "function");
  }

  const page = vm.createContext({ AbortController, URL, setTimeout, clearTimeout });
  vm.runInContext(read("dist/janus.global.js"), page);
  assert.deepEqual(Object.keys(page).filter((name) => !/^(AbortController|URL|setTimeout|clearTimeout)$/.test(name)), ["Janus"]);
  assert.equal(vm.runInContext("new Janus.JanusError('a') instanceof Error", page), true);
  console.log("the package is complete");
} finally {
  rmSync(folder, { recursive: true });
}
