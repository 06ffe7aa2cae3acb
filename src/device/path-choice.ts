import { PAGE_SIZE } from "../base/addr.ts";
import { ConfigError } from "../base/errors.ts";

/**
 * Which way a list of pages takes (ways/way.ts), by its bytes and by how it lies. The names are those of the copy-path
 * benchmark (paths/), which measures the same code.
 *
 * `device` is from one buffer to another; `inside` is within one, for which WebGPU has no copy command: a buffer copy goes
 * twice there.
 */
export const WAYS = {
  upload: [
    "writeBuffer per run",
    "ring + copy per run",
    "ring + scatter",
    "write + scatter, p/wg",
    "write + scatter, p/inv",
  ],
  readback: [
    "copy per run + map",
    "ring: copy + map",
    "ring: gather + map",
    "gather + map, p/wg",
    "gather + map, p/inv",
  ],
  device: ["copyBuffer per run", "compute, p/wg", "compute, p/inv"],
  inside: ["copyBuffer per run", "compute, p/wg", "compute, p/inv"],
  fill: ["clearBuffer per run", "writeBuffer of zeros", "compute fill", "compute fill, p/inv"],
} as const;
export type WayDirection = keyof typeof WAYS;
export type WayName<D extends WayDirection> = (typeof WAYS)[D][number];
export const WAY_DIRECTIONS = Object.keys(WAYS) as readonly WayDirection[];

/** How pages lie: mostly in long runs, or not. */
export const SHAPES = ["contiguous", "scattered"] as const;
export type Shape = (typeof SHAPES)[number];

/** From `from` bytes on, up to the next step, lists go `way`. */
export interface Step<D extends WayDirection> {
  readonly from: number;
  readonly way: WayName<D>;
}

/** The steps of each direction and shape ascend; the first is from 0. */
export type PathTable = {
  readonly [D in WayDirection]: { readonly [S in Shape]: readonly Step<D>[] };
};

/** A list is scattered when its runs are shorter than this on average. */
const LONG_RUN_PAGES = 16;

export function shapeOf(pages: number, runs: number): Shape {
  return runs > 1 && pages < runs * LONG_RUN_PAGES ? "scattered" : "contiguous";
}

/** The way of `pages` pages in `runs` runs. */
export function chooseWay<D extends WayDirection>(
  table: PathTable,
  direction: D,
  pages: number,
  runs: number,
): WayName<D> {
  const steps: readonly Step<D>[] = table[direction][shapeOf(pages, runs)];
  const bytes = pages * PAGE_SIZE;
  let i = steps.length - 1;
  while (i > 0 && steps[i]!.from > bytes) i -= 1;
  return steps[i]!.way;
}

/** What readback ways become where a ring pays. Slot by slot or all in one, a transfer of one slot goes the same way. */
export const RINGS: Readonly<Record<string, WayName<"readback">>> = {
  "copy per run + map": "ring: copy + map",
  "gather + map, p/wg": "ring: gather + map",
};
export const PLAIN: Readonly<Record<string, WayName<"readback">>> = {
  "ring: copy + map": "copy per run + map",
  "ring: gather + map": "gather + map, p/wg",
};

function always<D extends WayDirection>(way: WayName<D>): PathTable[D] {
  const steps = [{ from: 0, way }];
  return { contiguous: steps, scattered: steps } as unknown as PathTable[D];
}

/** From here on a readback of scattered pages is worth a submission for each slot: mapping and copying overlap. */
export const RING_READBACK_FROM = 32 << 20;

/**
 * As measured in Chromium on SwiftShader, which runs kernels on the CPU: packing 1024 scattered pages takes 22.9 ms up and
 * 16.4 ms down, run by run it takes 2.9 and 2.6.
 */
const SOFTWARE: PathTable = {
  upload: {
    contiguous: [
      { from: 0, way: "writeBuffer per run" },
      { from: 4 << 20, way: "ring + copy per run" },
    ],
    scattered: [
      { from: 0, way: "writeBuffer per run" },
      { from: 1 << 20, way: "ring + copy per run" },
    ],
  },
  readback: {
    contiguous: [{ from: 0, way: "copy per run + map" }],
    scattered: [
      { from: 0, way: "copy per run + map" },
      { from: RING_READBACK_FROM, way: "ring: copy + map" },
    ],
  },
  device: always<"device">("copyBuffer per run"),
  inside: always<"inside">("copyBuffer per run"),
  fill: {
    contiguous: [
      { from: 0, way: "writeBuffer of zeros" },
      { from: 512 << 10, way: "clearBuffer per run" },
    ],
    scattered: [
      { from: 0, way: "writeBuffer of zeros" },
      { from: 512 << 10, way: "clearBuffer per run" },
    ],
  },
};

const RING_FROM = 256 << 10;

/** On hardware a kernel runs at the speed of memory, and a command costs a microsecond or more however few its bytes. */
const HARDWARE: PathTable = {
  upload: {
    contiguous: [
      { from: 0, way: "writeBuffer per run" },
      { from: RING_FROM, way: "ring + copy per run" },
    ],
    scattered: [
      { from: 0, way: "writeBuffer per run" },
      { from: RING_FROM, way: "ring + scatter" },
    ],
  },
  readback: {
    contiguous: [{ from: 0, way: "copy per run + map" }],
    scattered: [
      { from: 0, way: "copy per run + map" },
      { from: RING_FROM, way: "gather + map, p/wg" },
      { from: RING_READBACK_FROM, way: "ring: gather + map" },
    ],
  },
  device: always<"device">("compute, p/wg"),
  inside: always<"inside">("compute, p/wg"),
  fill: {
    contiguous: [{ from: 0, way: "clearBuffer per run" }],
    scattered: [
      { from: 0, way: "clearBuffer per run" },
      { from: 128 << 10, way: "compute fill" },
    ],
  },
};

/** What is taken where nothing was measured: right in kind, with borders that are estimates. */
export function defaultTable(software: boolean): PathTable {
  return software ? SOFTWARE : HARDWARE;
}

/** One way for all lists of each direction that is named; the others as in `rest`. */
export function pinWays(ways: { readonly [D in WayDirection]?: WayName<D> }, rest: PathTable = SOFTWARE): PathTable {
  const pinned: Record<string, unknown> = { ...rest };
  for (const direction of WAY_DIRECTIONS) {
    const way = ways[direction];
    if (way !== undefined) pinned[direction] = always(way);
  }
  return pinned as PathTable;
}

/** A table from outside: a pinned one, or one that was kept. @throws ConfigError that names what is wrong. */
export function checkTable(value: unknown, path = "copyPaths"): PathTable {
  for (const direction of WAY_DIRECTIONS) {
    for (const shape of SHAPES) {
      const at = `${path}.${direction}.${shape}`;
      const steps = fieldOf(fieldOf(value, direction), shape);
      if (!Array.isArray(steps) || steps.length === 0) throw new ConfigError(at, "a list of steps is wanted");
      checkSteps(steps, WAYS[direction], at);
    }
  }
  return value as PathTable;
}

function checkSteps(steps: readonly unknown[], ways: readonly string[], at: string): void {
  let last = -1;
  for (const step of steps) {
    const [from, way] = [fieldOf(step, "from"), fieldOf(step, "way")];
    if (typeof way !== "string" || !ways.includes(way)) {
      throw new ConfigError(at, `${JSON.stringify(way)} is none of the ways: ${ways.join("; ")}`);
    }
    if (typeof from !== "number" || !(from > last) || (last < 0 && from !== 0)) {
      throw new ConfigError(at, "steps begin at 0 bytes and ascend");
    }
    last = from;
  }
}

function fieldOf(value: unknown, name: string): unknown {
  return typeof value === "object" && value !== null ? (value as Record<string, unknown>)[name] : undefined;
}
