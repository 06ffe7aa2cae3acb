import { makeTransfer } from "../device/paths/index.ts";
import type { PathLab } from "../device/paths/index.ts";
import type { BenchContext } from "./group.ts";
import { type Case, measure, type Outcome } from "./harness.ts";
import type { BenchRow, RowKey } from "./result.ts";
import { formatBytes } from "./result.ts";
import type { Summary } from "./stats.ts";
import { RawCopies } from "./svm-bounds.ts";
import type { SvmRig } from "./svm-rig.ts";

/**
 * Migration on request, end to end: what lies in RAM is brought to VRAM and mapped there, and back, through the whole stack,
 * against the quickest raw copy of as many bytes in the same run. The issue is the bandwidth that the memory manager leaves.
 */
const MIB = 1 << 20;
const SIZES = [2 * MIB, 8 * MIB, 32 * MIB, 64 * MIB];
const QUICK_SIZES = [2 * MIB, 8 * MIB];
/** What is short is measured more often: a median of few such times is worth little. */
const MANY_BELOW = 16 * MIB;
/** Moved there and back before anything counts, so that the compiler has had its time: a chunk of 2 MiB is one call. */
const WARM_UP_BYTES = 1024 * MIB;
const QUICK_WARM_UP_BYTES = 128 * MIB;
/** Share of the raw bandwidth that is wanted. */
const WANTED = 0.8;

const NAMES = {
  in: "prefetch to VRAM",
  inBound: "best raw upload",
  out: "evict to RAM",
  outBound: "best raw readback",
} as const;
type Part = keyof typeof NAMES;

export function migrateKey(part: Part, bytes: number): RowKey {
  return { group: "svm", kind: "migrate", name: NAMES[part], bytes, layout: "" };
}

/** The sizes of which some row is selected. */
export function migrateSizes(context: Pick<BenchContext, "quick" | "selected">): number[] {
  const parts = Object.keys(NAMES) as Part[];
  return (context.quick ? QUICK_SIZES : SIZES).filter((bytes) =>
    parts.some((part) => context.selected(migrateKey(part, bytes))),
  );
}

export async function measureMigration(rig: SvmRig, lab: PathLab, bytes: number, c: BenchContext): Promise<BenchRow[]> {
  const transfer = makeTransfer("contiguous", bytes, c.random);
  const uploads = await RawCopies.prepare(lab, "upload", transfer, c);
  const readbacks = await RawCopies.prepare(lab, "readback", transfer, c);
  try {
    let error = await proveMigration(rig, bytes, c);
    for (let moved = 0; moved < (c.quick ? QUICK_WARM_UP_BYTES : WARM_UP_BYTES); moved += bytes) {
      await toVram(rig, bytes);
      await home(rig, bytes);
    }
    const cases: Case[] = [
      { name: NAMES.in, before: () => atRest(rig, home(rig, bytes)), run: () => toVram(rig, bytes) },
      { name: NAMES.out, before: () => atRest(rig, toVram(rig, bytes)), run: () => home(rig, bytes) },
      ...uploads.cases,
      ...readbacks.cases,
    ];
    const [into, out, ...raw] = await measure(cases, {
      random: c.random,
      now: c.now,
      warmUps: 3,
      samples: c.quick ? 9 : bytes < MANY_BELOW ? 61 : 21,
      minSamples: 7,
      timeBoxMs: c.quick ? 1500 : 7000,
    });
    error ??= await proveMigration(rig, bytes, c);
    const up = uploads.best(raw.slice(0, uploads.cases.length));
    const down = readbacks.best(raw.slice(uploads.cases.length));
    return [
      { ...migrateKey("in", bytes), ...compared(into!, up, bytes), ...(error !== null && { error }) },
      { ...migrateKey("inBound", bytes), ms: up.ms, error: null, note: `${formatBytes(bytes)}: ${up.name}` },
      { ...migrateKey("out", bytes), ...compared(out!, down, bytes), ...(error !== null && { error }) },
      { ...migrateKey("outBound", bytes), ms: down.ms, error: null, note: `${formatBytes(bytes)}: ${down.name}` },
    ];
  } finally {
    uploads.dispose();
    readbacks.dispose();
  }
}

function compared(outcome: Outcome, bound: { name: string; ms: Summary }, bytes: number) {
  if ("error" in outcome) return { ms: null, error: String(outcome.error) };
  const ratio = (bound.ms.median / outcome.ms.median).toFixed(2);
  const note = `${formatBytes(bytes)}: ${ratio} of the bandwidth of the best raw path (wanted: ${WANTED} or more)`;
  return { ms: outcome.ms, error: null, note };
}

async function toVram(rig: SvmRig, bytes: number): Promise<void> {
  await rig.vm.prefetch(rig.data, bytes, "DEV");
  await rig.settled();
}

async function home(rig: SvmRig, bytes: number): Promise<void> {
  await rig.vm.prefetch(rig.data, bytes, "SYS");
}

async function atRest(rig: SvmRig, before: Promise<void>): Promise<void> {
  await before;
  await rig.rest();
}

/** Null when fresh data arrives in VRAM, and comes back into RAM that held something else, to the byte. */
async function proveMigration(rig: SvmRig, bytes: number, context: BenchContext): Promise<string | null> {
  const { counters } = rig.vm;
  await home(rig, bytes);
  await rig.fill(context.random.u32(), bytes);
  await rig.clearSums();
  const { toDevBytes } = counters;
  await toVram(rig, bytes);
  if (counters.toDevBytes - toDevBytes !== bytes) return `${counters.toDevBytes - toDevBytes} bytes went to VRAM`;
  await rig.poisonFreeRam();
  await rig.sum(bytes);
  const wrong = await rig.checkSums(bytes);
  if (wrong !== null) return wrong;
  const { toSysBytes } = counters;
  await home(rig, bytes);
  if (counters.toSysBytes - toSysBytes !== bytes) return `${counters.toSysBytes - toSysBytes} bytes came back`;
  return rig.checkData(bytes);
}
