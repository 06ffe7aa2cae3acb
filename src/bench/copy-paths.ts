import { SZ_2M, SZ_4K, SZ_64K } from "../base/addr.ts";
import { DeviceLostError } from "../base/errors.ts";
import {
  COPY_PATHS,
  type CopyPath,
  copyRuns,
  type Layout,
  makeTransfer,
  openPathLab,
  type PathLab,
  type PreparedCopy,
} from "../device/paths/index.ts";
import type { BenchContext, BenchGroup } from "./group.ts";
import { type Case, measure } from "./harness.ts";
import type { BenchRow } from "./result.ts";

const SZ_64M = 64 * 1048576;
const SIZES = [SZ_4K, SZ_64K, SZ_2M, SZ_64M];
const QUICK_SIZES = [SZ_4K, SZ_64K, SZ_2M];
const LAYOUTS: readonly Layout[] = ["contiguous", "random"];

/** What one size and layout compares: all paths, and the two bounds measured beside them. */
interface Cell {
  readonly bytes: number;
  readonly layout: Layout;
  readonly paths: readonly CopyPath[];
}

/** No path beats the first; the second, of 4 bytes, is the least that a readback costs. */
const MEMCPY = { group: "paths", kind: "bound", name: "JavaScript memory copy" };
const ROUND_TRIP = { group: "paths", kind: "bound", name: "submit + mapAsync" };

/** All copy paths, by size and layout. */
export const copyPaths: BenchGroup = {
  name: "paths",
  async run(context) {
    const cells = selectedCells(context);
    if (cells.length === 0) return [];
    const lab = await openPathLab({ maxBytes: Math.max(...cells.map((cell) => cell.bytes)), seed: context.seed });
    try {
      context.gpu({ adapter: lab.adapter, limits: lab.limits, features: lab.features });
      const rows: BenchRow[] = [];
      for (const [i, cell] of cells.entries()) {
        rows.push(...(await measureCell(lab, cell, context, i / cells.length, 1 / cells.length)));
      }
      return rows;
    } finally {
      lab.close();
    }
  },
};

function selectedCells(context: BenchContext): Cell[] {
  const cells: Cell[] = [];
  for (const layout of context.quick ? LAYOUTS.slice(0, 1) : LAYOUTS) {
    for (const bytes of context.quick ? QUICK_SIZES : SIZES) {
      // One page has one layout.
      if (bytes === SZ_4K && layout !== "contiguous") continue;
      const paths = COPY_PATHS.filter((path) => context.selected(rowOf(path, bytes, layout)));
      if (paths.length > 0) cells.push({ bytes, layout, paths });
    }
  }
  return cells;
}

function rowOf(path: CopyPath, bytes: number, layout: Layout) {
  return { group: "paths", kind: path.direction, name: path.name, bytes, layout };
}

async function measureCell(
  lab: PathLab,
  cell: Cell,
  context: BenchContext,
  start: number,
  share: number,
): Promise<BenchRow[]> {
  const { bytes, layout } = cell;
  const transfer = makeTransfer(layout, bytes, context.random);
  const at = (done: number, text: string) => context.progress(start + share * done, `${text}, ${layout}`);
  const rows: BenchRow[] = [];
  const ready: { path: CopyPath; copy: PreparedCopy }[] = [];
  try {
    for (const [i, path] of cell.paths.entries()) {
      at((0.3 * i) / cell.paths.length, `checking ${path.name}`);
      const checked = await prepareAndVerify(lab, path, transfer);
      if (typeof checked === "string") rows.push({ ...rowOf(path, bytes, layout), ms: null, error: checked });
      else ready.push({ path, copy: checked });
    }
    const cases: Case[] = [
      ...ready.map(({ path, copy }) => ({ name: path.name, run: () => copy.run() })),
      { name: MEMCPY.name, repeat: Math.max(1, SZ_2M / bytes), run: () => copyRuns(transfer, lab.host, lab.hostOut) },
      { name: ROUND_TRIP.name, run: () => lab.roundTrip() },
    ];
    const outcomes = await measure(cases, {
      random: context.random,
      now: context.now,
      warmUps: 3,
      samples: context.quick ? 15 : 60,
      minSamples: 5,
      timeBoxMs: context.quick ? 1000 : 8000,
      onProgress: (done) => at(0.3 + 0.6 * done, "measuring"),
    });
    // Checked again with the ring in the state that many runs leave behind.
    for (const [i, { path, copy }] of ready.entries()) {
      const outcome = outcomes[i]!;
      const error = "error" in outcome ? textOf(outcome.error) : await verify(copy);
      rows.push({ ...rowOf(path, bytes, layout), ms: "ms" in outcome ? outcome.ms : null, error });
    }
    for (const [i, bound] of [MEMCPY, ROUND_TRIP].entries()) {
      const outcome = outcomes[ready.length + i]!;
      const error = "error" in outcome ? textOf(outcome.error) : null;
      rows.push({ ...bound, bytes, layout, ms: "ms" in outcome ? outcome.ms : null, error });
    }
    return rows;
  } finally {
    for (const { copy } of ready) copy.dispose();
  }
}

/** The path ready to run, or why it is not. @throws DeviceLostError */
async function prepareAndVerify(
  lab: PathLab,
  path: CopyPath,
  transfer: ReturnType<typeof makeTransfer>,
): Promise<PreparedCopy | string> {
  let copy: PreparedCopy;
  try {
    copy = await lab.prepare(path, transfer);
  } catch (error) {
    return textOf(error);
  }
  const wrong = await verify(copy);
  if (wrong === null) return copy;
  copy.dispose();
  return wrong;
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
