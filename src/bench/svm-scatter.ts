import { PAGE_SIZE, hi32, lo32 } from "../base/addr.ts";
import { requestGpuDevice } from "../device/index.ts";
import { makeTransfer, openWaitProbe } from "../device/paths/index.ts";
import type { PathLab } from "../device/paths/index.ts";
import type { KernelSource } from "../hal/gpu.ts";
import type { BenchContext } from "./group.ts";
import { measure } from "./harness.ts";
import { BROWSER_WAIT, ROUND_TRIP } from "./result.ts";
import type { BenchRow, RowKey } from "./result.ts";
import { summarize } from "./stats.ts";
import type { Summary } from "./stats.ts";
import { RawCopies } from "./svm-bounds.ts";
import { samplesOf } from "./svm-faults.ts";
import { SvmRig } from "./svm-rig.ts";

/**
 * Scattered faults: every item of one dispatch misses on a page of its own, somewhere in an area whose ranges are single
 * pages, so one round serves as many faults as there are items. A pass whose pages are resident is taken off; what is left
 * is the service and the replay, against one wait for the GPU and the raw upload of as many scattered pages. The wait is the
 * shortest there is, of a copy and with the engine's own means; beside it stands what a program without them waits for a dispatch.
 */
const FAULTS = 256;
const PAGES = 4 * FAULTS;
/**
 * Passes before anything counts, so that the compiler has had its time: by then some 50,000 faults have been served, and each
 * takes half the time that it took after 5,000.
 */
const WARM_UPS = 200;
const QUICK_WARM_UPS = 5;
/** Before a wait that is left to the browser, so that no message of before shortens it. */
const PAUSE_MS = 3;
/** Most that the service may take, in times of the wait and the copy together. */
const WANTED = 2;

const TOUCH: KernelSource = {
  name: "touch-scattered",
  wgsl: `
fn kernel(item: u32) {
  let at = svm_read(addr_add(arg64(0u), svm_in(item) * ${PAGE_SIZE}u));
  if (svm_missed()) { return; }
  svm_out(item, svm_load(at + item));
}`,
};

const ROWS = {
  cold: ["fault", "scattered pages, cold"],
  resident: ["fault", "scattered, resident"],
  price: ["fault", "scattered, service"],
  upload: ["bound", "best raw upload"],
  wait: ["bound", ROUND_TRIP],
  plainWait: ["bound", BROWSER_WAIT],
} as const;
type Part = keyof typeof ROWS;

function keyOf(part: Part): RowKey {
  const [kind, name] = ROWS[part];
  return { group: "svm", kind, name, bytes: FAULTS * PAGE_SIZE, layout: "random" };
}

export function wantsScattered(context: BenchContext): boolean {
  return (Object.keys(ROWS) as Part[]).some((part) => context.selected(keyOf(part)));
}

export async function measureScattered(lab: PathLab, context: BenchContext): Promise<BenchRow[]> {
  const { random, now, quick } = context;
  const bytes = FAULTS * PAGE_SIZE;
  const rig = await SvmRig.open({
    bytes: PAGES * PAGE_SIZE,
    vram: 2 * PAGES * PAGE_SIZE,
    seed: random.u32(),
    vm: { chunks: [PAGE_SIZE] },
  });
  const uploads = await RawCopies.prepare(lab, "upload", makeTransfer("random", bytes, random), context);
  const faults = new ScatteredFaults(rig, pagesAtRandom(context));
  const probe = await openWaitProbe(await requestGpuDevice());
  const plainWait = async () => void (await probe.run("dispatch", "mapAsync", false));
  try {
    for (let pass = 0; pass < (quick ? QUICK_WARM_UPS : WARM_UPS); pass++) {
      await faults.leaveVram();
      await faults.cold();
    }
    const outcomes = await measure(
      [
        { name: "cold", before: () => faults.leaveVram(), run: () => faults.cold() },
        { name: "resident", before: () => faults.stay(), run: () => faults.touch() },
        { name: "wait", before: () => lab.roundTrip(), run: () => lab.roundTrip() },
        { name: "plain wait", before: () => new Promise((resolve) => setTimeout(resolve, PAUSE_MS)), run: plainWait },
        ...uploads.cases,
      ],
      {
        random,
        now,
        warmUps: 3,
        samples: quick ? 15 : 41,
        minSamples: 9,
        timeBoxMs: quick ? 1500 : 5000,
      },
    );
    const [cold, resident, wait, plain] = outcomes.slice(0, 4).map(samplesOf);
    const best = uploads.best(outcomes.slice(4));
    const price = summarize(cold!.map((ms, i) => ms - resident![i]!));
    const floor = summarize(wait!);
    const plainFloor = summarize(plain!);
    const times = (of: Summary) => (price.median / (of.median + best.ms.median)).toFixed(2);
    const error = faults.wrong;
    return [
      {
        ...keyOf("cold"),
        ms: summarize(cold!),
        error,
        note: `${FAULTS} faults in one round, each of a range of 4 KiB`,
      },
      { ...keyOf("resident"), ms: summarize(resident!), error },
      {
        ...keyOf("price"),
        ms: price,
        error,
        note:
          `cold minus resident: ${times(floor)} x one wait and the copy together (wanted: at most ${WANTED}), ` +
          `${times(plainFloor)} x with a wait for a dispatch that is left to the browser`,
      },
      { ...keyOf("upload"), ms: best.ms, error: null, note: `scattered pages: ${best.name}` },
      { ...keyOf("wait"), ms: floor, error: null },
      { ...keyOf("plainWait"), ms: plainFloor, error: null },
    ];
  } finally {
    probe.close();
    uploads.dispose();
    await rig.close();
  }
}

/** `FAULTS` different pages of the area. */
function pagesAtRandom({ random }: BenchContext): Uint32Array {
  const pages = Uint32Array.from({ length: PAGES }, (_, i) => i);
  for (let i = 0; i < FAULTS; i++) {
    const j = i + random.below(PAGES - i);
    [pages[i], pages[j]] = [pages[j]!, pages[i]!];
  }
  return pages.subarray(0, FAULTS);
}

class ScatteredFaults {
  /** Null while every word that the kernel read was right, and every cold pass was one round of faults. */
  wrong: string | null = null;
  readonly #rig: SvmRig;
  readonly #pages: Uint32Array;

  constructor(rig: SvmRig, pages: Uint32Array) {
    this.#rig = rig;
    this.#pages = pages;
  }

  async leaveVram(): Promise<void> {
    await this.#rig.vm.toSys(this.#rig.data, this.#rig.bytes);
    await this.#rig.rest();
  }

  async stay(): Promise<void> {
    await this.touch();
    await this.#rig.rest();
  }

  async cold(): Promise<void> {
    const { counters } = this.#rig.vm;
    const { rounds, gpuFault } = counters;
    await this.touch();
    const faults = counters.gpuFault - gpuFault;
    if (faults !== FAULTS) this.wrong ??= `${faults} faults were served, not ${FAULTS}`;
    if (counters.rounds - rounds !== 2) this.wrong ??= `${counters.rounds - rounds} rounds ran, not 2`;
  }

  async touch(): Promise<void> {
    const { vm, data, words } = this.#rig;
    const args = [lo32(data), hi32(data)];
    const out = await vm.run(TOUCH, { items: FAULTS, args, input: this.#pages, outWords: FAULTS });
    const wrong = out.findIndex((word, i) => word !== words[(this.#pages[i]! * PAGE_SIZE) / 4 + i]);
    if (wrong >= 0) this.wrong ??= `the word that item ${wrong} read is ${out[wrong]}`;
  }
}
