import { PAGE_SIZE } from "../base/addr.ts";
import {
  chooseWay,
  PLAIN,
  type PathTable,
  RING_READBACK_FROM,
  RINGS,
  type Shape,
  SHAPES,
  type Step,
  type WayDirection,
  type WayName,
} from "./path-choice.ts";

/** Directions that are measured; `inside` follows from `device`. */
type MeasuredDirection = Exclude<WayDirection, "inside">;

/** A way that may be the best of its direction. */
export type Candidate = {
  readonly [D in MeasuredDirection]: { readonly direction: D; readonly way: WayName<D> };
}[MeasuredDirection];

/** A way's times for transfers of one size and shape, milliseconds. */
export interface Measurement {
  readonly direction: MeasuredDirection;
  readonly way: string;
  readonly shape: Shape;
  readonly bytes: number;
  readonly samples: readonly number[];
}

/** Sizes that are measured, ascending. */
export const CALIBRATED_BYTES: readonly number[] = [64 << 10, 2 << 20, 4 << 20];
/** Sizes at which a step may begin: powers of two from a page up. */
const LARGEST = 256 << 20;
/** Another way than the default one must be so much quicker to take its place; more beyond the sizes that were measured. */
const WORTH_A_CHANGE = 1.15;
const WORTH_A_CHANGE_UNSEEN = 2;

/**
 * What is worth measuring. Of the two shapes of a kernel, software has always wanted one and hardware the other, and compiling
 * one takes a tenth of the time there is; and where pages lie in long runs there is nothing to scatter.
 */
export function candidates(shape: Shape, software: boolean): readonly Candidate[] {
  const list: Candidate[] = [
    { direction: "upload", way: "writeBuffer per run" },
    { direction: "upload", way: "ring + copy per run" },
    { direction: "readback", way: "copy per run + map" },
    { direction: "device", way: "copyBuffer per run" },
    { direction: "device", way: software ? "compute, p/inv" : "compute, p/wg" },
    { direction: "fill", way: "clearBuffer per run" },
    { direction: "fill", way: "writeBuffer of zeros" },
    { direction: "fill", way: software ? "compute fill, p/inv" : "compute fill" },
  ];
  if (shape === "contiguous") return list;
  list.push({ direction: "upload", way: software ? "write + scatter, p/inv" : "write + scatter, p/wg" });
  list.push({ direction: "readback", way: software ? "gather + map, p/inv" : "gather + map, p/wg" });
  if (!software) list.push({ direction: "upload", way: "ring + scatter" });
  return list;
}

/** The quickest way for every size, where it is worth a change from `standard`; `standard` where nothing was measured. */
export function fitTable(measured: readonly Measurement[], standard: PathTable): PathTable {
  const fit = <D extends WayDirection>(direction: D): PathTable[D] => {
    const byShape = SHAPES.map((shape) => [shape, fitSteps(measured, standard, direction, shape)] as const);
    return Object.fromEntries(byShape) as PathTable[D];
  };
  return {
    upload: fit("upload"),
    readback: fit("readback"),
    device: fit("device"),
    inside: fit("inside"),
    fill: fit("fill"),
  };
}

function fitSteps<D extends WayDirection>(
  measured: readonly Measurement[],
  standard: PathTable,
  direction: D,
  shape: Shape,
): readonly Step<D>[] {
  const from = direction === "inside" ? "device" : direction;
  const lines = linesOf(measured.filter((m) => m.direction === from && m.shape === shape && m.samples.length > 0));
  // Within one buffer a copy goes twice.
  if (direction === "inside") for (const line of lines) if (line.way.startsWith("copyBuffer")) line.factor = 2;
  const steps: Step<D>[] = [];
  for (let bytes = PAGE_SIZE; bytes <= LARGEST; bytes *= 2) {
    const pages = bytes / PAGE_SIZE;
    const usual: string = chooseWay(standard, direction, pages, shape === "contiguous" ? 1 : pages);
    const plain = PLAIN[usual] ?? usual;
    const chosen = quickest(lines, bytes, plain);
    const way = (
      shape === "scattered" && bytes >= RING_READBACK_FROM ? (RINGS[chosen] ?? chosen) : chosen
    ) as WayName<D>;
    if (steps.at(-1)?.way !== way) steps.push({ from: steps.length === 0 ? 0 : bytes, way });
  }
  return steps;
}

/** The way whose line is lowest, or `usual` where that is hardly higher, or where there are no lines. */
function quickest(lines: readonly Line[], bytes: number, usual: string): string {
  const times = lines.map((line) => ({ way: line.way, ms: line.at(bytes) }));
  const least = Math.min(...times.map(({ ms }) => ms));
  const worth = bytes <= CALIBRATED_BYTES.at(-1)! ? WORTH_A_CHANGE : WORTH_A_CHANGE_UNSEEN;
  const worthwhile = times.filter(({ way, ms }) => ms <= least * (way === usual ? worth : 1));
  return worthwhile.find(({ way }) => way === usual)?.way ?? worthwhile[0]?.way ?? usual;
}

/**
 * A way's time over the bytes: straight between the sizes measured; below them as long as the smallest, beyond them at the
 * rate of the largest, because a slope that is carried far carries its noise with it.
 */
class Line {
  readonly way: string;
  factor = 1;
  readonly #bytes: readonly number[];
  readonly #ms: readonly number[];

  constructor(way: string, points: readonly (readonly [bytes: number, ms: number])[]) {
    this.way = way;
    const sorted = points.toSorted(([a], [b]) => a - b);
    this.#bytes = sorted.map(([bytes]) => bytes);
    this.#ms = sorted.map(([, ms]) => ms);
  }

  at(bytes: number): number {
    const last = this.#bytes.length - 1;
    const rest = bytes / this.#bytes[last]!;
    if (last === 0 || rest > 1) return this.factor * this.#ms[last]! * Math.max(1, rest);
    let i = 1;
    if (bytes <= this.#bytes[0]!) return this.factor * this.#ms[0]!;
    while (i < last && this.#bytes[i]! < bytes) i += 1;
    const [b0, b1] = [this.#bytes[i - 1]!, this.#bytes[i]!];
    const [t0, t1] = [this.#ms[i - 1]!, this.#ms[i]!];
    // More bytes never take less time; what looks so is noise.
    const slope = Math.max(0, (t1 - t0) / (b1 - b0));
    return this.factor * (t1 - slope * (b1 - bytes));
  }
}

function linesOf(measured: readonly Measurement[]): Line[] {
  const ways = new Set(measured.map(({ way }) => way));
  return [...ways].map((way) => {
    // The least: what disturbs is the load of the machine, and the browser's polling, which adds steps of 2.5 ms to a wait.
    const points = measured.filter((m) => m.way === way).map((m) => [m.bytes, Math.min(...m.samples)] as const);
    return new Line(way, points);
  });
}
