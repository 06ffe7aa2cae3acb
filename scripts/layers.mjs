/**
 * The layers of the project and the direction of imports between them, as data.
 * `tsconfig.json` of each layer and the edge test are both derived from this table.
 * A layer may import itself and the layers listed; nothing else.
 */
export const LAYERS = {
  base: [],
  trace: ["base"],
  abi: ["base"],
  hal: ["abi", "base"],
  mm: ["base"],
  pagemap: ["mm", "base"],
  gpusvm: ["pagemap", "mm", "base"],
  gpuvm: ["base"],
  vram: ["base"],
  driver: ["gpusvm", "gpuvm", "vram", "hal", "pagemap", "mm", "abi", "base"],
  device: ["hal", "abi", "base"],
  reference: ["hal", "abi", "base"],
  machine: ["driver", "trace", "device", "reference", "gpusvm", "gpuvm", "vram", "hal", "pagemap", "mm", "abi", "base"],
  explore: ["driver", "reference", "gpusvm", "vram", "hal", "pagemap", "mm", "abi", "base"],
  scenario: ["machine", "driver", "gpusvm", "gpuvm", "vram", "hal", "pagemap", "mm", "abi", "base"],
  bench: ["machine", "driver", "device", "reference", "gpusvm", "gpuvm", "vram", "hal", "pagemap", "mm", "abi", "base"],
  worker: ["scenario", "bench", "machine", "trace", "base"],
  app: ["worker", "scenario", "bench", "machine", "trace", "base"],
};

/** Layers that run in a browser and may name DOM types. */
export const DOM_LAYERS = ["device", "bench", "worker", "app"];

/** The one layer in which a name beginning with `GPU` may appear. */
export const GPU_LAYER = "device";

/** Layers below `machine`: no clock, no random source of their own. */
export const DETERMINISTIC_LAYERS = [
  "base",
  "abi",
  "hal",
  "mm",
  "pagemap",
  "gpusvm",
  "gpuvm",
  "vram",
  "driver",
  "reference",
  "explore",
];
