/**
 * Runs the project's TypeScript in Node: bundles one entry with Vite (so `?raw` shaders work as in the page and hot
 * paths are plain module code) and imports the result.
 */
import { createHash } from "node:crypto";
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { build } from "vite";

export const ROOT = dirname(dirname(fileURLToPath(import.meta.url)));

/** The module at `entry` (path relative to the project's root). */
export async function loadTs(entry) {
  return import(await bundleTs(entry));
}

/** Where the bundle of `entry` stands, for an `import` here or in another thread. */
export async function bundleTs(entry) {
  const built = await build({
    root: ROOT,
    configFile: false,
    logLevel: "error",
    build: { ssr: resolve(ROOT, entry), write: false, target: "node20", minify: false, sourcemap: "inline" },
    ssr: { external: ["webgpu", "fast-check"] },
  });
  const output = Array.isArray(built) ? built[0].output : built.output;
  const code = output[0].code;
  const name = createHash("sha256").update(entry).update(code).digest("hex").slice(0, 16);
  const dir = join(ROOT, "node_modules", ".cache", "webgpu-svm");
  mkdirSync(dir, { recursive: true });
  const file = join(dir, `${name}.mjs`);
  writeFileSync(file, code);
  return pathToFileURL(file).href;
}
