import { alignUp, SZ_2M } from "../base/addr.ts";
import { Random } from "../base/random.ts";
import type { AcquiredDevice } from "./acquire.ts";
import { WayEngine, bankRunsOf } from "./paths/way-engine.ts";
import { makeTransfer } from "./paths/transfer.ts";
import { checkTable, defaultTable, type PathTable, SHAPES } from "./path-choice.ts";
import { CALIBRATED_BYTES, type Candidate, candidates, fitTable, type Measurement } from "./path-fit.ts";
import type { BankRuns } from "./ways/bank-runs.ts";

/** What a calibration needs of its surroundings: this layer has neither clock nor storage of its own. */
export interface CalibrationHost {
  /** Milliseconds, ascending. */
  readonly now: () => number;
  /** Where a result is kept for the next time; left out, it is not. */
  readonly cache?: PathCache;
}

/** Text by key. What cannot be read or kept is simply not there the next time. */
export interface PathCache {
  get(key: string): Promise<string | null>;
  put(key: string, text: string): Promise<void>;
}

/** The table that the copy engine chooses by, and where it comes from. */
export interface CopyPaths {
  readonly source: "default" | "pinned" | "calibrated" | "cached";
  readonly table: PathTable;
  /** What the calibration took. */
  readonly calibrationMs?: number;
}

/** Raised when ways, what is measured, or the fit change: what was kept before is void. */
const VERSION = 1;
/** The whole of it stays below a second. */
const TIME_BOX_MS = 700;
const REPETITIONS = 9;
/** After two repetitions, ways whose best took so many times what the quickest way's took are given up. */
const HOPELESS = 3;

/**
 * Measures the ways that may be best on this adapter, side by side, and fits a table to them; or takes the one that was
 * fitted before. Where measuring fails the default table stands, and for what there was no time to measure.
 */
export async function calibratePaths(acquired: AcquiredDevice, { now, cache }: CalibrationHost): Promise<CopyPaths> {
  const key = keyOf(acquired);
  const kept = await cache?.get(key).catch(() => null);
  const table = kept == null ? null : parsed(kept);
  if (table !== null) return { source: "cached", table };
  const start = now();
  const measured = await measure(acquired, now).catch(() => []);
  const calibrationMs = now() - start;
  const { fallback } = acquired.adapter;
  if (measured.length === 0) return { source: "default", table: defaultTable(fallback), calibrationMs };
  const fitted = fitTable(measured, defaultTable(fallback));
  // One that was cut short by a busy machine is made anew the next time.
  const perSize = SHAPES.reduce((sum, shape) => sum + candidates(shape, fallback).length, 0);
  const isWhole = measured.length === perSize * CALIBRATED_BYTES.length;
  if (isWhole) await cache?.put(key, JSON.stringify(fitted)).catch(() => undefined);
  return { source: "calibrated", table: fitted, calibrationMs };
}

/** What the speed of copies depends on. */
function keyOf({ adapter, limits }: AcquiredDevice): string {
  const { maxBufferSize, maxStorageBufferBindingSize } = limits;
  const browser = (globalThis.navigator as Navigator | undefined)?.userAgent ?? "";
  return JSON.stringify([
    "webgpu-svm copy paths",
    VERSION,
    adapter,
    maxBufferSize,
    maxStorageBufferBindingSize,
    browser,
  ]);
}

function parsed(text: string): PathTable | null {
  try {
    return checkTable(JSON.parse(text));
  } catch {
    return null;
  }
}

interface Trial extends Measurement {
  readonly samples: number[];
  run(): Promise<unknown>;
}

async function measure({ device, adapter }: AcquiredDevice, now: () => number): Promise<readonly Measurement[]> {
  const deadline = now() + TIME_BOX_MS;
  const size = alignUp(2 * Math.max(...CALIBRATED_BYTES), SZ_2M);
  const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
  const [vram, vramOut] = ["calibration", "calibration out"].map((label) =>
    device.createBuffer({ label, size, usage }),
  );
  const host = new Uint8Array(size);
  const engine = new WayEngine({ device, vram: vram!, vramOut: vramOut!, host, hostOut: host, clock: null }, "upload");
  try {
    const trials = makeTrials(engine, adapter.fallback);
    // Before the first repetition, small transfers pay for buffers and pipelines.
    for (let repetition = -1; repetition < REPETITIONS; repetition++) {
      const turn = repetition < 0 ? trials.filter(({ bytes }) => bytes === CALIBRATED_BYTES[0]) : alive(trials);
      for (const trial of turn) {
        // With all slots mapped, as the ring is when nothing is under way.
        await engine.ways.ring.ready(Infinity);
        const start = now();
        if (start > deadline) return complete(trials);
        await trial.run();
        if (repetition >= 0) trial.samples.push(now() - start);
      }
    }
    return complete(trials);
  } finally {
    engine.destroy();
    vram!.destroy();
    vramOut!.destroy();
  }
}

/** Those that may still win their cell, in turn. */
function alive(trials: readonly Trial[]): readonly Trial[] {
  return trials.filter((trial) => {
    if (trial.samples.length < 2) return true;
    const times = rivalsOf(trial, trials).flatMap(({ samples }) => samples);
    return Math.min(...trial.samples) <= HOPELESS * Math.min(...times);
  });
}

/** Those whose rivals were all measured too: who was not may have been the best. */
function complete(trials: readonly Trial[]): readonly Trial[] {
  return trials.filter((trial) => rivalsOf(trial, trials).every(({ samples }) => samples.length > 0));
}

/** All of its cell, itself too. */
function rivalsOf({ direction, shape, bytes }: Trial, trials: readonly Trial[]): readonly Trial[] {
  return trials.filter((t) => t.direction === direction && t.shape === shape && t.bytes === bytes);
}

function makeTrials(engine: WayEngine, software: boolean): Trial[] {
  const random = new Random(1);
  const trials: Trial[] = [];
  for (const bytes of CALIBRATED_BYTES) {
    for (const shape of SHAPES) {
      const transfer = makeTransfer(shape === "contiguous" ? "contiguous" : "random", bytes, random);
      for (const candidate of candidates(shape, software)) {
        const runs = bankRunsOf(transfer, candidate.direction);
        trials.push({ ...candidate, shape, bytes, samples: [], run: () => runOnce(engine, candidate, runs) });
      }
    }
  }
  return trials;
}

function runOnce({ ways, context }: WayEngine, candidate: Candidate, runs: BankRuns): Promise<unknown> {
  const { commands, health } = context;
  let arrival: Promise<void> | null = null;
  if (candidate.direction === "upload") ways.upload(candidate.way, runs);
  else if (candidate.direction === "readback") arrival = ways.readback(candidate.way, runs);
  else if (candidate.direction === "device") ways.copy(candidate.way, runs);
  else ways.fill(candidate.way, runs);
  commands.submit();
  return arrival ?? health.guardWork(commands.device.queue.onSubmittedWorkDone());
}
