import { hi32, lo32, PAGE_SIZE, SZ_2M, SZ_64K } from "../base/addr.ts";
import type { KernelSource } from "../hal/gpu.ts";
import { prepareEngine } from "../machine/engine.ts";
import { Machine } from "../machine/machine.ts";
import type { Process } from "../machine/process.ts";
import type { Vm } from "../machine/vm.ts";
import type { BenchContext, BenchGroup } from "./group.ts";
import { type Case, measure, type Outcome } from "./harness.ts";
import type { BenchRow } from "./result.ts";

/**
 * The system window against migration, through the whole stack: the CPU has filled fresh pages; a kernel, run once or
 * eight times, adds 1 to every word; the CPU reads them all and unmaps. In the window the pages are mapped where they lie
 * and their slots follow every change; migration takes them to VRAM at the first fault and home at the CPU's first touch.
 */
const GROUP = "window";
const SIZES = [SZ_64K, SZ_2M];
const USES = [1, 8];
const WAYS = ["map in place", "migrate"] as const;
type Way = (typeof WAYS)[number];

const ADD_ONE: KernelSource = {
  name: "add-one",
  wgsl: `
fn kernel(item: u32) {
  let at = svm_write(addr_add(arg64(0u), item * ${PAGE_SIZE}u));
  if (svm_missed()) { return; }
  for (var w = 0u; w < ${PAGE_SIZE / 4}u; w++) { svm_store(at + w, svm_load(at + w) + 1u); }
}`,
};

export const systemWindow: BenchGroup = {
  name: GROUP,
  async run(context) {
    const wanted = SIZES.flatMap((bytes) => USES.map((uses) => ({ bytes, uses })))
      .map(({ bytes, uses }) => ({
        bytes,
        uses,
        ways: WAYS.filter((way) => context.selected(keyOf(way, uses, bytes))),
      }))
      .filter(({ ways }) => ways.length > 0);
    if (wanted.length === 0) return [];
    const most = Math.max(...SIZES);
    const machine = new Machine({ engine: await prepareEngine("webgpu"), ram: most * 4 + (32 << 20) });
    try {
      const rows: BenchRow[] = [];
      for (const [i, { bytes, uses, ways }] of wanted.entries()) {
        context.progress(i / wanted.length, uses === 1 ? "1 use" : `${uses} uses`);
        rows.push(...(await compare(machine, ways, bytes, uses, context)));
      }
      return rows;
    } finally {
      await machine.close();
      machine.engine.destroy();
    }
  },
};

function keyOf(way: Way, uses: number, bytes: number) {
  return { group: GROUP, kind: uses === 1 ? "1 use" : `${uses} uses`, name: way, bytes, layout: "" };
}

async function compare(
  machine: Machine,
  ways: readonly Way[],
  bytes: number,
  uses: number,
  context: BenchContext,
): Promise<BenchRow[]> {
  const device = machine.createDevice({ vram: 4 * SZ_2M });
  const { adapter, limits, features } = device.gpu.info;
  context.gpu({ adapter, limits, features });
  const sides = ways.map((way) => {
    const process = machine.createProcess();
    return new Side(way, process, device.vm(process, { migrate: way === "migrate" }), bytes, uses);
  });
  const cases = sides.map((side): Case => ({ name: side.way, before: () => side.fill(), run: () => side.run() }));
  const outcomes = await measure(cases, {
    random: context.random,
    now: context.now,
    warmUps: 2,
    samples: context.quick ? 10 : 30,
    minSamples: 5,
    timeBoxMs: context.quick ? 2000 : 10000,
  });
  return sides.map((side, i) => rowOf(side, outcomes[i]!));
}

/** One process, and an address space that mirrors it. */
class Side {
  readonly way: Way;
  readonly bytes: number;
  readonly uses: number;
  /** Null while every word that the CPU read was right. */
  wrong: string | null = null;
  readonly #process: Process;
  readonly #vm: Vm;
  readonly #words: Uint32Array;
  #at = 0;
  /** What the CPU read at the end of the last run, until it is checked, and how many bytes had gone to VRAM. */
  #read: Uint8Array | null = null;
  #moved = 0;

  constructor(way: Way, process: Process, vm: Vm, bytes: number, uses: number) {
    this.way = way;
    this.bytes = bytes;
    this.uses = uses;
    this.#process = process;
    this.#vm = vm;
    this.#words = Uint32Array.from({ length: bytes / 4 }, (_, i) => Math.imul(i, 2654435761) >>> 0);
  }

  /** Looks at what the last run left, then makes fresh pages, filled by the CPU. */
  async fill(): Promise<void> {
    this.check();
    this.#at = await this.#process.mmap(this.bytes, { align: SZ_2M });
    await this.#process.write(this.#at, this.#words);
  }

  async run(): Promise<void> {
    const moved = this.#vm.counters.toDevBytes;
    const request = { items: this.bytes / PAGE_SIZE, args: [lo32(this.#at), hi32(this.#at)] };
    for (let i = 0; i < this.uses; i++) await this.#vm.run(ADD_ONE, request);
    this.#read = await this.#process.read(this.#at, this.bytes);
    await this.#process.munmap(this.#at, this.bytes);
    this.#moved = this.#vm.counters.toDevBytes - moved;
  }

  /** Every word must be what the uses made of it, and the pages must have gone the way that is measured. */
  check(): void {
    const read = this.#read;
    if (read === null) return;
    this.#read = null;
    const found = new Uint32Array(read.buffer, read.byteOffset, this.#words.length);
    const at = found.findIndex((word, i) => word !== (this.#words[i]! + this.uses) >>> 0);
    const right = (this.#words[at]! + this.uses) >>> 0;
    if (at >= 0) this.wrong ??= `the word at ${at * 4} is ${found[at]}, not ${right}`;
    const expected = this.way === "migrate" ? this.bytes : 0;
    if (this.#moved !== expected) this.wrong ??= `${this.#moved} bytes went to VRAM, not ${expected}`;
  }
}

function rowOf(side: Side, outcome: Outcome): BenchRow {
  side.check();
  const key = keyOf(side.way, side.uses, side.bytes);
  if ("error" in outcome) return { ...key, ms: null, error: String(outcome.error) };
  return { ...key, ...outcome, error: side.wrong };
}
