/**
 * Runs the project's TypeScript in Node: bundles one entry, as for a page (so `?raw` shaders work and hot paths are plain
 * module code), and imports the result.
 */
import { createHash } from "node:crypto";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { bundle, ROOT } from "./bundle.mjs";

/** The module at `entry` (path relative to the project's root). */
export async function loadTs(entry) {
  return import(await bundleTs(entry));
}

/** Where the bundle of `entry` stands, for an `import` here or in another thread. */
export async function bundleTs(entry) {
  const external = ["webgpu", "fast-check"];
  const [{ code }] = await bundle({ entry }, { platform: "node", external, sourcemap: "inline" });
  const name = createHash("sha256").update(entry).update(code).digest("hex").slice(0, 16);
  const dir = join(ROOT, "node_modules", ".cache", "webgpu-svm");
  mkdirSync(dir, { recursive: true });
  const file = join(dir, `${name}.mjs`);
  writeFileSync(file, code);
  return pathToFileURL(file).href;
}
