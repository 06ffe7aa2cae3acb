/** Writes `src/<layer>/tsconfig.json` for every layer from the table in layers.mjs. Run it after editing the table. */
import { writeFileSync } from "node:fs";
import { LAYERS, DOM_LAYERS } from "./layers.mjs";

for (const [layer, imports] of Object.entries(LAYERS)) {
  const dom = DOM_LAYERS.includes(layer);
  const options = {
    tsBuildInfoFile: `../../node_modules/.cache/tsc/${layer}.tsbuildinfo`,
    ...(dom ? { lib: ["es2023", "dom", "dom.iterable"] } : {}),
    ...(layer === "device" ? { types: ["@webgpu/types"] } : {}),
    ...(layer === "app" ? { jsx: "react-jsx", jsxImportSource: "preact" } : {}),
  };
  const config = {
    extends: "../../tsconfig.base.json",
    compilerOptions: options,
    include: layer === "app" ? ["**/*.ts", "**/*.tsx"] : ["**/*.ts"],
    references: imports.map((name) => ({ path: `../${name}` })),
  };
  writeFileSync(new URL(`../src/${layer}/tsconfig.json`, import.meta.url), JSON.stringify(config, null, 2) + "\n");
}
