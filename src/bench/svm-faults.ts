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
 * same bytes, measured between the two in the same run, is what it is compared with.
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

export async function measureFaults(rig: SvmRig, lab: PathLab, context: BenchContext): Promise<BenchRow[]> {
  const bytes = faultBytes(context);
  const { random, now, quick } = context;
  const uploads = await RawCopies.prepare(lab, "upload", makeTransfer("contiguous", bytes, random), context);
  const pass = new Passes(rig, bytes);
  try {
    for (let i = 0; i < (quick ? QUICK_WARM_UPS : WARM_UPS); i++) {
      await pass.leaveVram();
      await pass.cold();
    }
    const outcomes = await measure(
      [
        { name: "cold", before: () => pass.leaveVram(), run: () => pass.cold() },
        { name: "resident", before: () => pass.fillVram(), run: () => rig.sum(bytes) },
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
    await pass.check();
    await pass.evict();
    pass.wrong ??= await rig.checkData(bytes);
    const [cold, resident, evict] = outcomes.slice(0, 3).map(samplesOf);
    const best = uploads.best(outcomes.slice(3));
    const price = summarize(cold!.map((ms, i) => ms - resident![i]!));
    const perRound = bytes / pass.rounds / 1048576;
    const error = pass.wrong;
    const ratio = (price.median / best.ms.median).toFixed(2);
    return [
      {
        ...keyOf("cold", bytes),
        ms: summarize(cold!),
        error,
        note: `${pass.rounds} rounds, ${perRound.toFixed(1)} MiB moved per round (wanted: ${WANTED_PER_ROUND_MIB} or more)`,
      },
      { ...keyOf("resident", bytes), ms: summarize(resident!), error },
      {
        ...keyOf("price", bytes),
        ms: price,
        error,
        note: `${ratio} x the best raw upload (wanted: at most ${WANTED})`,
      },
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
  readonly #rig: SvmRig;
  readonly #bytes: number;
  #isChecked = true;

  constructor(rig: SvmRig, bytes: number) {
    this.#rig = rig;
    this.#bytes = bytes;
  }

  /** Everything is in RAM, the sums too, and they are forgotten. */
  async leaveVram(): Promise<void> {
    await this.check();
    await this.evict();
    await this.#rig.clearSums();
  }

  async fillVram(): Promise<void> {
    await this.check();
    await this.#rig.sum(this.#bytes);
  }

  async cold(): Promise<void> {
    const { counters } = this.#rig.vm;
    const before = counters.rounds;
    await this.#rig.sum(this.#bytes);
    this.rounds = counters.rounds - before;
    this.#isChecked = false;
  }

  async evict(): Promise<void> {
    await this.#rig.vm.toSys(this.#rig.data, this.#bytes);
  }

  /** What the last cold pass left. */
  async check(): Promise<void> {
    if (this.#isChecked) return;
    this.#isChecked = true;
    this.wrong ??= await this.#rig.checkSums(this.#bytes);
  }
}
