import { SZ_2M } from "../base/addr.ts";
import { DeviceLostError } from "../base/errors.ts";
import {
  type CopyPath,
  copyRuns,
  makeTransfer,
  openPathLab,
  type PathLab,
  type PreparedCopy,
  regionBytesOf,
  type Transfer,
} from "../device/paths/index.ts";
import { choiceOf } from "./auto-choice.ts";
import { type Cell, IN_FLIGHT, keyOf, planCells } from "./cells.ts";
import type { BenchContext, BenchGroup } from "./group.ts";
import { type Case, measure, type Outcome } from "./harness.ts";
import { type BenchRow, MEMORY_COPY, ROUND_TRIP } from "./result.ts";
import { summarize } from "./stats.ts";

const LARGE = 64 << 20;

/** All copy paths, by size, layout and mode. */
export const copyPaths: BenchGroup = {
  name: "paths",
  async run(context) {
    if (planCells(context, Infinity).length === 0) return [];
    const calibration = { now: context.now };
    const lab = await openPathLab({ seed: context.seed, limits: context.limits, calibration });
    try {
      context.gpu({ adapter: lab.adapter, limits: lab.limits, features: lab.features });
      const cells = planCells(context, lab.largestRegion);
      if (cells.length === 0) return [];
      lab.reserve(Math.max(...cells.map(({ layout, bytes }) => regionBytesOf(layout, bytes))));
      const rows: BenchRow[] = [];
      const shares = sharesOf(cells);
      let done = 0;
      for (const [i, cell] of cells.entries()) {
        const found = await new CellRun(lab, cell, context, done, shares[i]!).rows();
        context.found(found);
        rows.push(...found);
        done += shares[i]!;
      }
      return rows;
    } finally {
      lab.close();
    }
  },
};

/** How much of the whole time each cell takes, roughly: small ones end with their samples, large ones with the time box. */
function sharesOf(cells: readonly Cell[]): number[] {
  const weights = cells.map(({ bytes, paths }) => paths.length * (1 + bytes / SZ_2M) ** 0.5);
  const sum = weights.reduce((a, b) => a + b, 0);
  return weights.map((weight) => weight / sum);
}

/** A path prepared as often as the mode wants it at once; the first is the one that is checked. */
interface Ready {
  readonly path: CopyPath;
  readonly copies: readonly PreparedCopy[];
}

/** One cell from its first check to its rows. */
class CellRun {
  readonly #lab: PathLab;
  readonly #cell: Cell;
  readonly #context: BenchContext;
  readonly #start: number;
  readonly #share: number;
  readonly #transfer: Transfer;

  constructor(lab: PathLab, cell: Cell, context: BenchContext, start: number, share: number) {
    this.#lab = lab;
    this.#cell = cell;
    this.#context = context;
    this.#start = start;
    this.#share = share;
    this.#transfer = makeTransfer(cell.layout, cell.bytes, context.random);
  }

  async rows(): Promise<BenchRow[]> {
    const { paths } = this.#cell;
    const rows: BenchRow[] = [];
    const ready: Ready[] = [];
    try {
      for (const [i, path] of paths.entries()) {
        this.#at((0.25 * i) / paths.length, `checking ${path.name}`);
        if (!this.#lab.supports(path)) continue;
        const prepared = await this.#prepare(path);
        if (typeof prepared === "string") rows.push({ ...this.#key(path), ms: null, error: prepared });
        else ready.push(prepared);
      }
      const outcomes = await this.#measure(ready);
      const gpu = await this.#gpuTimes(ready);
      for (const [i, { path, copies }] of ready.entries()) {
        this.#at(0.9 + (0.1 * i) / ready.length, `checking ${path.name} again`);
        const outcome = outcomes[i]!;
        // Checked again with the rings in the state that many runs leave behind.
        const error = "error" in outcome ? textOf(outcome.error) : await verify(copies[0]!);
        const times = gpu[i]!;
        const choice = this.#choice(path, ready, outcomes);
        rows.push({
          ...this.#key(path),
          ...measured(outcome),
          error,
          ...(choice !== null && { choice }),
          ...(times.length > 0 && { gpu: summarize(times) }),
        });
      }
      for (const [i, name] of [MEMORY_COPY, ROUND_TRIP].entries()) {
        const outcome = outcomes[ready.length + i]!;
        const error = "error" in outcome ? textOf(outcome.error) : null;
        rows.push({ ...keyOf("bound", name, this.#cell), ...measured(outcome), error });
      }
      return rows;
    } finally {
      for (const { copies } of ready) for (const copy of copies) copy.dispose();
    }
  }

  /** How good the choice is that `path` makes, if it makes one. */
  #choice(path: CopyPath, ready: readonly Ready[], outcomes: readonly Outcome[]) {
    if (path.chosen === undefined) return null;
    const paths = new Map<string, readonly number[]>();
    for (const [i, other] of ready.entries()) {
      const outcome = outcomes[i]!;
      const competes = other.path.direction === path.direction && other.path.chosen === undefined;
      if (competes && !("error" in outcome)) paths.set(other.path.name, outcome.samples);
    }
    const way = path.chosen(this.#lab, this.#transfer);
    // What does the same cannot be better, and would look so by luck.
    const same = (name: string) => ready.find((r) => r.path.name === name)?.path.sameAs?.(this.#transfer) ?? name;
    for (const name of paths.keys()) if (name !== way && same(name) === same(way)) paths.delete(name);
    return choiceOf(way, this.#lab.pathsSource, paths);
  }

  #at(done: number, text: string): void {
    const { layout, mode } = this.#cell;
    this.#context.progress(
      this.#start + this.#share * done,
      `${text}, ${layout}${mode === undefined ? "" : `, ${mode}`}`,
    );
  }

  #key(path: CopyPath) {
    return keyOf(path.direction, path.name, this.#cell);
  }

  /** The path ready to run, or why it is not. @throws DeviceLostError */
  async #prepare(path: CopyPath): Promise<Ready | string> {
    const copies: PreparedCopy[] = [];
    const count = this.#cell.mode === "8 in flight" ? IN_FLIGHT : 1;
    let wrong: string | null;
    try {
      while (copies.length < count) copies.push(await this.#lab.prepare(path, this.#transfer));
      wrong = await verify(copies[0]!);
    } catch (error) {
      wrong = textOf(error);
    }
    if (wrong === null) return { path, copies };
    for (const copy of copies) copy.dispose();
    return wrong;
  }

  #measure(ready: readonly Ready[]): Promise<Outcome[]> {
    const { bytes, mode } = this.#cell;
    const { quick, random, now } = this.#context;
    const cases: Case[] = ready.map(({ path, copies }) => {
      const first = copies[0]!;
      if (mode === "8 in flight") return { name: path.name, transfers: copies.length, run: () => together(copies) };
      const run = () => first.run();
      return mode === "first touch" ? { name: path.name, before: () => first.renew(), run } : { name: path.name, run };
    });
    cases.push(
      {
        name: MEMORY_COPY,
        repeat: Math.max(1, SZ_2M / bytes),
        run: () => copyRuns(this.#transfer, this.#lab.host, this.#lab.hostOut),
      },
      { name: ROUND_TRIP, run: () => this.#lab.roundTrip() },
    );
    return measure(cases, {
      random,
      now,
      warmUps: bytes < LARGE ? 3 : 1,
      samples: quick ? 15 : 60,
      minSamples: 5,
      timeBoxMs: quick ? 1000 : 10000,
      onProgress: (done) => this.#at(0.25 + 0.6 * done, "measuring"),
    });
  }

  /** By path: a few times of the GPU's own clock, none where it has none or counts nothing. */
  async #gpuTimes(ready: readonly Ready[]): Promise<number[][]> {
    const times = ready.map((): number[] => []);
    // One transfer at a time, in memory that was used before.
    const repetitions = this.#cell.mode === undefined ? (this.#cell.bytes < LARGE && !this.#context.quick ? 9 : 3) : 0;
    for (let i = 0; i < repetitions; i++) {
      this.#at(0.85 + (0.05 * i) / repetitions, "asking the GPU's clock");
      for (const [k, { copies }] of ready.entries()) {
        const time = await copies[0]!.gpuTime();
        if (time !== null) times[k]!.push(time);
      }
    }
    return times;
  }
}

async function together(copies: readonly PreparedCopy[]): Promise<void> {
  await Promise.all(copies.map((copy) => copy.run()));
}

function measured(outcome: Outcome): Pick<BenchRow, "ms" | "samples"> {
  if ("error" in outcome) return { ms: null };
  return { ms: outcome.ms, samples: outcome.samples.map((ms) => Math.round(ms * 1e4) / 1e4) };
}

async function verify(copy: PreparedCopy): Promise<string | null> {
  try {
    return await copy.verify();
  } catch (error) {
    return textOf(error);
  }
}

/** A lost device ends the whole run; any other error belongs to its path. @throws DeviceLostError */
function textOf(error: unknown): string {
  if (error instanceof DeviceLostError) throw error;
  return error instanceof Error ? error.message : String(error);
}
