import { SZ_2M } from "../base/addr.ts";
import { openStreamLoop } from "../device/stream-loop.ts";
import type { StreamLoop } from "../device/stream-loop.ts";
import type { BenchContext } from "./group.ts";
import { type Case, measure } from "./harness.ts";
import type { BenchRow, RowKey } from "./result.ts";
import { summarize } from "./stats.ts";
import { samplesOf } from "./svm-faults.ts";
import { SvmRig } from "./svm-rig.ts";

/**
 * More data than VRAM: the sums of all pages of an area four times as large, by a kernel that just reads them, against the
 * loop that one would write by hand (device/stream-loop.ts). That one knows what comes next and that nothing need go back;
 * the driver finds out by faults. Once every fault migrates, as by default, so that all comes back to RAM; once with the policy
 * that leaves in place what is only read (`migrate: "write"`), where the system window is what the data goes through. The same with
 * the policy for sequential access, which sees in the first round's faults what the items walk through; and by a launch that says
 * so itself, as the loop by hand does.
 */
const BYTES = 64 << 20;
const QUICK_BYTES = 32 << 20;
const OVER = 4;
/** Sizes of the hand-written loop's pieces; the quickest counts. */
const PIECES = [SZ_2M, 2 * SZ_2M];
/** Share of the hand-written loop's speed that is wanted. */
const WANTED = 0.7;

const ROWS = {
  svm: ["oversubscribed", "4 x VRAM, sequential"],
  inPlace: ["oversubscribed", "4 x, reads in place"],
  ahead: ["oversubscribed", "4 x, in place, read-ahead"],
  streamed: ["oversubscribed", "4 x, in place, streamed"],
  byHand: ["oversubscribed", "loop by hand"],
} as const;
type Part = keyof typeof ROWS;

/** How a pass is made, each in a rig of its own. */
const WAYS = [
  { part: "svm", policy: {}, streamed: false },
  { part: "inPlace", policy: { migrate: "write" }, streamed: false },
  { part: "ahead", policy: { migrate: "write", prefetch: "sequential" }, streamed: false },
  { part: "streamed", policy: { migrate: "write" }, streamed: true },
] as const;

function keyOf(part: Part, { quick }: Pick<BenchContext, "quick">): RowKey {
  const [kind, name] = ROWS[part];
  return { group: "svm", kind, name, bytes: quick ? QUICK_BYTES : BYTES, layout: "" };
}

export function wantsStream(context: BenchContext): boolean {
  return (Object.keys(ROWS) as Part[]).some((part) => context.selected(keyOf(part, context)));
}

export async function measureStream(context: BenchContext): Promise<BenchRow[]> {
  const { random, now, quick } = context;
  const bytes = quick ? QUICK_BYTES : BYTES;
  const seed = random.u32();
  const open: { close(): unknown }[] = [];
  try {
    const streams: Stream[] = [];
    for (const { policy, streamed } of WAYS) {
      // The window is as large as VRAM.
      const rig = await SvmRig.open({ bytes, vram: bytes / OVER, window: bytes / OVER, seed, vm: { policy } });
      open.push(rig);
      streams.push(new Stream(rig, { streamed }));
    }
    const loops: StreamLoop[] = [];
    for (const pieceBytes of PIECES) {
      const loop = await openStreamLoop({ bytes, pieceBytes });
      open.push(loop);
      loops.push(loop);
    }
    const svm = streams[0]!;
    const cases: Case[] = [
      ...streams.map((stream, i): Case => ({
        name: `svm ${i}`,
        before: () => stream.begin(),
        run: () => stream.run(),
      })),
      ...loops.map((loop, i): Case => ({ name: `loop ${i}`, run: () => svm.byHand(loop) })),
    ];
    const count = quick ? 9 : 21;
    const timeBoxMs = quick ? 3000 : 14000;
    // So that the compiler has had its time.
    const warmUps = quick ? 2 : 24;
    const outcomes = await measure(cases, { random, now, warmUps, samples: count, minSamples: 7, timeBoxMs });
    for (const stream of streams) await stream.finish();
    const times = outcomes.map(samplesOf);
    const all = times.slice(streams.length).map((samples, i) => ({ ms: summarize(samples), pieceBytes: PIECES[i]! }));
    const best = all.reduce((a, b) => (b.ms.median < a.ms.median ? b : a));
    const rowOf = (part: Part, samples: readonly number[], { wrong, report }: Stream): BenchRow => {
      const ms = summarize(samples);
      const ratio = (best.ms.median / ms.median).toFixed(2);
      const note = `${ratio} of the speed of the loop by hand (wanted: ${WANTED} or more); ${report}`;
      return { ...keyOf(part, context), ms, error: wrong, note };
    };
    const note = `pieces of ${best.pieceBytes / 1048576} MiB`;
    return [
      ...streams.map((stream, i) => rowOf(WAYS[i]!.part, times[i]!, stream)),
      { ...keyOf("byHand", context), ms: best.ms, error: svm.wrongByHand, note },
    ];
  } finally {
    for (const opened of open) await opened.close();
  }
}

/** Passes over the data, from RAM, with their results checked outside the measured time. */
class Stream {
  wrong: string | null = null;
  wrongByHand: string | null = null;
  /** What the last pass moved. */
  report = "";
  readonly #rig: SvmRig;
  readonly #bytes: Uint8Array;
  readonly #how: { readonly streamed: boolean };

  constructor(rig: SvmRig, how: { readonly streamed: boolean }) {
    this.#rig = rig;
    this.#how = how;
    this.#bytes = new Uint8Array(rig.words.buffer);
  }

  async begin(): Promise<void> {
    await this.#rig.checkPass();
    await this.#rig.vm.toSys(this.#rig.data, this.#rig.bytes);
    await this.#rig.clearSums();
    await this.#rig.rest();
  }

  async run(): Promise<void> {
    const { counters } = this.#rig.vm;
    const { rounds, toDevBytes, toSysBytes } = counters;
    await this.#rig.sum(this.#rig.bytes, this.#how);
    const mib = (bytes: number) => `${(bytes / 1048576).toFixed(0)} MiB`;
    const moved = `${mib(counters.toDevBytes - toDevBytes)} in, ${mib(counters.toSysBytes - toSysBytes)} out`;
    const took = counters.rounds - rounds;
    this.report = `${took} ${took === 1 ? "round" : "rounds"}, ${moved}`;
    this.#rig.passed(async () => {
      this.wrong ??= await this.#rig.checkSums();
    });
  }

  async byHand(loop: StreamLoop): Promise<void> {
    this.wrongByHand ??= this.#rig.compareSums(await loop.run(this.#bytes));
  }

  /** All is home, as it was. */
  async finish(): Promise<void> {
    await this.#rig.checkPass();
    await this.#rig.vm.toSys(this.#rig.data, this.#rig.bytes);
    this.wrong ??= await this.#rig.checkData();
  }
}
