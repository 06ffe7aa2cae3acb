import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { sourceFiles, violations } from "../../scripts/check-layers.mjs";
import { DETERMINISTIC_LAYERS, LAYERS } from "../../scripts/layers.mjs";
import { tsconfigOf } from "../../scripts/make-tsconfigs.mjs";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const layers = LAYERS as Record<string, string[]>;

describe("the project keeps the direction of imports", () => {
  it("no file crosses an arrow that does not exist", () => {
    const files = sourceFiles(ROOT);
    expect(files.length).toBeGreaterThan(10);
    expect(files.flatMap(violations)).toEqual([]);
  });

  it("the table has no cycle: every layer imports only layers that are reachable downwards", () => {
    const below = (layer: string, path: string[]): void => {
      expect(path, `cycle over ${layer}`).not.toContain(layer);
      for (const other of layers[layer]!) below(other, [...path, layer]);
    };
    for (const layer of Object.keys(layers)) below(layer, []);
  });

  it("what is repeatable rests only on what is repeatable", () => {
    for (const layer of DETERMINISTIC_LAYERS) {
      for (const other of layers[layer]!) expect(DETERMINISTIC_LAYERS, `${layer} -> ${other}`).toContain(other);
    }
  });

  it.each(Object.keys(layers))(
    "src/%s/tsconfig.json is what the table says (node scripts/make-tsconfigs.mjs writes it)",
    (layer) => {
      const written: unknown = JSON.parse(readFileSync(`${ROOT}/src/${layer}/tsconfig.json`, "utf8"));
      expect(written).toEqual(tsconfigOf(layer));
    },
  );
});

/** Each rule with its control case: `bad` is reported with `says`, `good` is not reported. */
const RULES = [
  {
    rule: "an import",
    path: "src/mm/a.ts",
    bad: `import { x } from "../driver/x.ts";`,
    good: `import { x } from "../base/x.ts";`,
    says: "mm imports driver (src/driver/x.ts)",
  },
  {
    rule: "a type import",
    path: "src/base/a.ts",
    bad: `import type { X } from "../mm/types.ts";`,
    good: `import type { X } from "./x.ts";`,
    says: "base imports mm",
  },
  {
    rule: "a re-export",
    path: "src/hal/a.ts",
    bad: `export * from "../device/index.ts";`,
    good: `export * from "../abi/index.ts";`,
    says: "hal imports device",
  },
  {
    rule: "an import in a type",
    path: "src/vram/a.ts",
    bad: `let x: import("../hal/gpu.ts").Gpu;`,
    good: `let x: import("../base/addr.ts").Va;`,
    says: "vram imports hal",
  },
  {
    rule: "a dynamic import",
    path: "src/scenario/a.ts",
    bad: `await import("../worker/w.ts");`,
    good: `await import("../machine/index.ts");`,
    says: "scenario imports worker",
  },
  {
    rule: "a worker's URL",
    path: "src/machine/a.ts",
    bad: `new Worker(new URL("../worker/w.ts", import.meta.url));`,
    good: `new URL("../worker/w.ts", "https://x");`,
    says: "machine imports worker",
  },
  {
    rule: "an import from outside src",
    path: "src/base/a.ts",
    bad: `import "../../scripts/browser.mjs";`,
    good: `import "../../shaders/walk.wgsl?raw";`,
    says: "which is in no layer",
  },
  {
    rule: "a package",
    path: "src/machine/a.ts",
    bad: `import { wrap } from "comlink";`,
    good: `import { Vm } from "../driver/vm.ts";`,
    says: "machine imports the package comlink",
  },
  {
    rule: "a Node module",
    path: "src/bench/a.ts",
    bad: `import "node:fs";`,
    good: `import "./b.ts";`,
    says: "the package node:fs",
  },
  {
    rule: "a WebGPU type",
    path: "src/bench/a.ts",
    bad: `let d: GPUDevice;`,
    good: `// GPUDevice\nlet s = "GPUDevice";`,
    says: "GPUDevice is named outside src/device",
  },
  {
    rule: "a WebGPU constant",
    path: "src/app/a.tsx",
    bad: `const u = GPUBufferUsage.STORAGE;`,
    good: `const gpuBuffer = 1, GPUVA_OP_MAP = 2;`,
    says: "GPUBufferUsage is named outside",
  },
  {
    rule: "the wall clock",
    path: "src/driver/a.ts",
    bad: `const t = Date.now();`,
    good: `// Date.now()\nconst t = clock.now();`,
    says: "Date.now in driver",
  },
  {
    rule: "the wall clock as an object",
    path: "src/mm/a.ts",
    bad: `const t = new Date();`,
    good: `const t = new Date(0);`,
    says: "new Date() in mm",
  },
  {
    rule: "a random source",
    path: "src/vram/a.ts",
    bad: `const r = globalThis.Math.random();`,
    good: `const r = Math.floor(1.5);`,
    says: "Math.random in vram",
  },
  {
    rule: "the fine clock",
    path: "src/reference/a.ts",
    bad: `const { now } = { now: performance.now };`,
    good: `const performance = 1;`,
    says: "performance.now in reference",
  },
];

describe("a violation is named", () => {
  it.each(RULES)("$rule", ({ path, bad, good, says }) => {
    const found = violations({ path, text: `\n${bad}\n` });
    expect(found).toHaveLength(1);
    expect(found[0]).toContain(`${path}:2: `);
    expect(found[0]).toContain(says);
    expect(violations({ path, text: `\n${good}\n` })).toEqual([]);
  });

  it("device may name WebGPU objects, machine may read the clock", () => {
    expect(violations({ path: "src/device/a.ts", text: "let d: GPUDevice;" })).toEqual([]);
    expect(violations({ path: "src/machine/a.ts", text: "const t = performance.now();" })).toEqual([]);
  });

  it("a file outside every layer", () => {
    expect(violations({ path: "src/utils/a.ts", text: "" })[0]).toContain("is in no layer");
    expect(violations({ path: "src/a.ts", text: "" })[0]).toContain("is in no layer");
  });
});
