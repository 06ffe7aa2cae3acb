import { makeTransfer } from "../device/paths/index.ts";
import type { PathLab } from "../device/paths/index.ts";
import type { BenchContext } from "./group.ts";
import { measure, type Outcome } from "./harness.ts";
import type { BenchRow, RowKey } from "./result.ts";
import { summarize } from "./stats.ts";
import { RawCopies } from "./svm-bounds.ts";
import type { SvmRig } from "./svm-rig.ts";

/**
 * What faults cost: one sequential kernel over data that lies in system memory (cold: every page faults, migrates and is
 * replayed) and over the same data in VRAM (resident). The difference is the price of the faults, and the raw upload of the
 * same bytes, measured between the two in the same run, is what it is compared with. Once with the default policy, which
 * brings what has faulted and nothing else, once with the one for sequential access, which reads ahead, and once by a launch
 * that says what its items walk through, so that it is brought ahead of them.
 */
const BYTES = 64 << 20;
const QUICK_BYTES = 16 << 20;
/** Cold passes before anything counts, so that the compiler has had its time. */
const WARM_UPS = 30;
const QUICK_WARM_UPS = 2;
/** Most that the faults may cost, in raw uploads of the same bytes, and least that a round moves. */
const WANTED = 1.6;
const WANTED_PER_ROUND_MIB = 4;

const ROWS = {
  cold: ["fault", "cold pass"],
  resident: ["fault", "resident pass"],
  price: ["fault", "cold minus resident"],
  ahead: ["fault", "cold pass, read-ahead"],
  aheadPrice: ["fault", "read-ahead minus resident"],
  streamed: ["fault", "cold pass, streamed"],
  streamedPrice: ["fault", "streamed minus resident"],
  evict: ["fault", "back to system memory"],
  upload: ["bound", "best raw upload"],
} as const;
type Part = keyof typeof ROWS;

export function faultBytes({ quick }: Pick<BenchContext, "quick">): number {
  return quick ? QUICK_BYTES : BYTES;
}

export function wantsFaults(context: BenchContext): boolean {
  return (Object.keys(ROWS) as Part[]).some((part) => context.selected(keyOf(part, faultBytes(context))));
}

function keyOf(part: Part, bytes: number): RowKey {
  const [kind, name] = ROWS[part];
  return { group: "svm", kind, name, bytes, layout: "" };
}

/** `ahead`: as `rig`, with an address space that reads ahead. */
export async function measureFaults(
  rig: SvmRig,
  ahead: SvmRig,
  lab: PathLab,
  context: BenchContext,
): Promise<BenchRow[]> {
  const bytes = faultBytes(context);
  const { random, now, quick } = context;
  const uploads = await RawCopies.prepare(lab, "upload", makeTransfer("contiguous", bytes, random), context);
  const pass = new Passes(rig, bytes);
  const aheadPass = new Passes(ahead, bytes);
  const streamedPass = new Passes(rig, bytes, { streamed: true });
  try {
    for (let i = 0; i < (quick ? QUICK_WARM_UPS : WARM_UPS); i++) {
      for (const passes of [pass, aheadPass, streamedPass]) {
        await passes.leaveVram();
        await passes.cold();
      }
    }
    const outcomes = await measure(
      [
        { name: "cold", before: () => pass.leaveVram(), run: () => pass.cold() },
        { name: "resident", before: () => pass.fillVram(), run: () => rig.sum(bytes) },
        { name: "ahead", before: () => aheadPass.leaveVram(), run: () => aheadPass.cold() },
        { name: "streamed", before: () => streamedPass.leaveVram(), run: () => streamedPass.cold() },
        { name: "evict", before: () => pass.fillVram(), run: () => pass.evict() },
        ...uploads.cases,
      ],
      {
        random,
        now,
        warmUps: 2,
        samples: quick ? 7 : 15,
        minSamples: 7,
        timeBoxMs: quick ? 2500 : 12000,
      },
    );
    for (const passes of [pass, aheadPass, streamedPass]) await passes.finish();
    const [cold, resident, read, streamed, evict] = outcomes.slice(0, 5).map(samplesOf);
    const best = uploads.best(outcomes.slice(5));
    const error = pass.wrong;
    const priced = (part: Part, times: readonly number[], wrong: string | null): BenchRow => {
      const ms = summarize(times.map((time, i) => time - resident![i]!));
      const ratio = (ms.median / best.ms.median).toFixed(2);
      const note = `${ratio} x the best raw upload (wanted: at most ${WANTED})`;
      return { ...keyOf(part, bytes), ms, error: wrong, note };
    };
    const perRound = ({ rounds }: Passes) =>
      `${rounds} rounds, ${(bytes / rounds / 1048576).toFixed(1)} MiB moved per round (wanted: ${WANTED_PER_ROUND_MIB} or more)`;
    return [
      { ...keyOf("cold", bytes), ms: summarize(cold!), error, note: perRound(pass) },
      { ...keyOf("resident", bytes), ms: summarize(resident!), error },
      priced("price", cold!, error),
      { ...keyOf("ahead", bytes), ms: summarize(read!), error: aheadPass.wrong, note: perRound(aheadPass) },
      priced("aheadPrice", read!, aheadPass.wrong),
      {
        ...keyOf("streamed", bytes),
        ms: summarize(streamed!),
        error: streamedPass.wrong,
        note: `${streamedPass.passes} passes ahead of ${streamedPass.rounds === 1 ? "one round" : `${streamedPass.rounds} rounds`}`,
      },
      priced("streamedPrice", streamed!, streamedPass.wrong),
      { ...keyOf("evict", bytes), ms: summarize(evict!), error },
      { ...keyOf("upload", bytes), ms: best.ms, error: null, note: best.name },
    ];
  } finally {
    uploads.dispose();
  }
}

/** @throws what the case threw. */
export function samplesOf(outcome: Outcome): readonly number[] {
  if ("error" in outcome) throw outcome.error;
  return outcome.samples;
}

/** Passes of the kernel over the data, with their results checked outside the measured time. */
class Passes {
  /** Null while all sums were right, and the data is as it was. */
  wrong: string | null = null;
  /** Of the last cold pass. */
  rounds = 0;
  /** Of the last cold pass: dispatches that ran ahead of its faults. */
  passes = 0;
  readonly #rig: SvmRig;
  readonly #bytes: number;
  readonly #how: { readonly streamed?: boolean };

  constructor(rig: SvmRig, bytes: number, how: { readonly streamed?: boolean } = {}) {
    this.#rig = rig;
    this.#bytes = bytes;
    this.#how = how;
  }

  /** Everything is in RAM, the sums too, and they are forgotten. */
  async leaveVram(): Promise<void> {
    await this.#rig.checkPass();
    await this.evict();
    await this.#rig.clearSums();
    await this.#rig.rest();
  }

  async fillVram(): Promise<void> {
    await this.#rig.checkPass();
    await this.#rig.sum(this.#bytes);
    await this.#rig.rest();
  }

  async cold(): Promise<void> {
    const { counters, stats } = this.#rig.vm;
    const before = { rounds: counters.rounds, passes: stats.get("wgsvm_stream_pass_count") };
    await this.#rig.sum(this.#bytes, this.#how);
    this.rounds = counters.rounds - before.rounds;
    this.passes = stats.get("wgsvm_stream_pass_count") - before.passes;
    this.#rig.passed(async () => {
      this.wrong ??= await this.#rig.checkSums(this.#bytes);
    });
  }

  async evict(): Promise<void> {
    await this.#rig.vm.toSys(this.#rig.data, this.#bytes);
  }

  /** All is home, as it was. */
  async finish(): Promise<void> {
    await this.#rig.checkPass();
    await this.evict();
    this.wrong ??= await this.#rig.checkData(this.#bytes);
  }
}
