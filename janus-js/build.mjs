/** Makes the files of the package: dist/janus.js, a module, and dist/janus.global.js, for `<script>`. */
import { readFileSync, statSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

/** Bytes of each file. */
const MAX = 12_000;
const { version } = JSON.parse(readFileSync(new URL("package.json", import.meta.url)));
const banner = { js: `/*! janus-client ${version} | MIT OR Apache-2.0 */` };
const absWorkingDir = fileURLToPath(new URL(".", import.meta.url));
// Short lines, because Node shows the line of an uncaught error.
const shared = { bundle: true, minify: true, mangleProps: /^_/, lineLimit: 160, target: "es2022", banner, absWorkingDir };

for (const [source, file, format] of [
  ["index", "janus", "esm"],
  ["global", "janus.global", "iife"],
]) {
  const outfile = `dist/${file}.js`;
  await build({ ...shared, entryPoints: [`src/${source}.js`], outfile, format });
  const { size } = statSync(new URL(outfile, import.meta.url));
  if (size >= MAX) throw new Error(`${outfile} has ${size} bytes, and may have ${MAX - 1}`);
  console.error(`${outfile}: ${size} bytes`);
}
