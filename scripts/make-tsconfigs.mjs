/** Writes `src/<layer>/tsconfig.json` for every layer from the table in layers.mjs. Run it after editing the table. */
import { writeFileSync } from "node:fs";
import { pathToFileURL } from "node:url";
import { LAYERS, DOM_LAYERS } from "./layers.mjs";

/** The content of `src/<layer>/tsconfig.json`. */
export function tsconfigOf(layer) {
  const dom = DOM_LAYERS.includes(layer);
  const options = {
    tsBuildInfoFile: `../../node_modules/.cache/tsc/${layer}.tsbuildinfo`,
    ...(dom ? { lib: ["es2023", "dom", "dom.iterable"] } : {}),
    ...(layer === "device" ? { types: ["@webgpu/types"] } : {}),
    ...(layer === "app" ? { jsx: "react-jsx", jsxImportSource: "preact" } : {}),
  };
  return {
    extends: "../../tsconfig.base.json",
    compilerOptions: options,
    include: layer === "app" ? ["**/*.ts", "**/*.tsx"] : ["**/*.ts"],
    references: LAYERS[layer].map((name) => ({ path: `../${name}` })),
  };
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  for (const layer of Object.keys(LAYERS)) {
    const file = new URL(`../src/${layer}/tsconfig.json`, import.meta.url);
    writeFileSync(file, JSON.stringify(tsconfigOf(layer), null, 2) + "\n");
  }
}
