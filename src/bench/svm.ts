import { PAGE_SIZE, SZ_2M, hi32, lo32 } from "../base/addr.ts";
import { COPY_PATHS, makeTransfer, openPathLab } from "../device/paths/index.ts";
import type { PathLab, PreparedCopy } from "../device/paths/index.ts";
import type { KernelSource } from "../hal/gpu.ts";
import { prepareEngine } from "../machine/engine.ts";
import { Machine } from "../machine/machine.ts";
import type { Process } from "../machine/process.ts";
import type { Vm } from "../machine/vm.ts";
import pageSumWgsl from "../../shaders/kernels/page_sum.wgsl?raw";
import type { BenchContext, BenchGroup } from "./group.ts";
import type { BenchRow } from "./result.ts";
import { summarize } from "./stats.ts";

/**
 * What shared virtual memory costs: one sequential kernel over data that lies in system memory (cold: every page faults,
 * migrates and is replayed) and over the same data in VRAM (resident). The difference is the price of the faults, and the
 * raw upload of the same bytes, measured between the two in the same run, is what it is compared with.
 */
const GROUP = "svm";
const BYTES = 64 << 20;
const QUICK_BYTES = 16 << 20;

const PAGE_SUM: KernelSource = { name: "page-sum", wgsl: pageSumWgsl };

export const svmFaults: BenchGroup = {
  name: GROUP,
  async run(context) {
    const bytes = context.quick ? QUICK_BYTES : BYTES;
    const row = (kind: string, name: string) => ({ group: GROUP, kind, name, bytes, layout: "" });
    const rows = {
      cold: row("fault", "cold pass"),
      resident: row("fault", "resident pass"),
      price: row("fault", "cold minus resident"),
      evict: row("fault", "back to system memory"),
      upload: row("bound", "best raw upload"),
    };
    if (!Object.values(rows).some((r) => context.selected(r))) return [];
    const bench = await FaultBench.open(bytes, context);
    try {
      return await bench.measure(rows);
    } finally {
      await bench.close();
    }
  },
};

type Rows = Readonly<Record<"cold" | "resident" | "price" | "evict" | "upload", Omit<BenchRow, "ms" | "error">>>;

class FaultBench {
  readonly #context: BenchContext;
  readonly #bytes: number;
  readonly #machine: Machine;
  readonly #process: Process;
  readonly #vm: Vm;
  readonly #lab: PathLab;
  readonly #uploads: { name: string; copy: PreparedCopy }[];
  #data = 0;
  #sums = 0;
  #wrong: string | null = null;

  private constructor(
    context: BenchContext,
    bytes: number,
    machine: Machine,
    lab: PathLab,
    uploads: { name: string; copy: PreparedCopy }[],
  ) {
    this.#context = context;
    this.#bytes = bytes;
    this.#machine = machine;
    this.#process = machine.createProcess();
    this.#vm = machine.createDevice({ vram: bytes + 8 * SZ_2M }).vm(this.#process);
    this.#lab = lab;
    this.#uploads = uploads;
  }

  static async open(bytes: number, context: BenchContext): Promise<FaultBench> {
    const lab = await openPathLab({ maxBytes: bytes, seed: context.seed });
    context.gpu({ adapter: lab.adapter, limits: lab.limits, features: lab.features });
    const transfer = makeTransfer("contiguous", bytes, context.random);
    const uploads = [];
    for (const path of COPY_PATHS) {
      if (path.direction === "upload") uploads.push({ name: path.name, copy: await lab.prepare(path, transfer) });
    }
    const machine = new Machine({ engine: await prepareEngine("webgpu"), ram: bytes + (32 << 20) });
    const bench = new FaultBench(context, bytes, machine, lab, uploads);
    await bench.#fill();
    return bench;
  }

  async #fill(): Promise<void> {
    this.#data = await this.#process.mmap(this.#bytes, { align: SZ_2M });
    this.#sums = await this.#process.mmap((this.#bytes / PAGE_SIZE) * 4);
    const words = new Uint32Array(SZ_2M / 4);
    for (let at = 0; at < this.#bytes; at += SZ_2M) {
      for (let i = 0; i < words.length; i++) words[i] = this.#context.random.u32();
      await this.#process.write(this.#data + at, words);
    }
  }

  async measure(rows: Rows): Promise<BenchRow[]> {
    const { now, quick } = this.#context;
    const time = async (what: () => Promise<unknown>): Promise<number> => {
      const start = now();
      await what();
      return now() - start;
    };
    const cold: number[] = [];
    const resident: number[] = [];
    const evict: number[] = [];
    const uploads = this.#uploads.map(() => [] as number[]);
    const warmUps = 2;
    const repetitions = warmUps + (quick ? 5 : 12);
    let rounds = 0;
    for (let i = 0; i < repetitions; i++) {
      this.#context.progress(i / repetitions, "cold and resident passes");
      await this.#process.fill(this.#sums, (this.#bytes / PAGE_SIZE) * 4, 0);
      const before = this.#vm.counters.rounds;
      const coldMs = await time(() => this.#sum());
      rounds = this.#vm.counters.rounds - before;
      const residentMs = await time(() => this.#sum());
      const evictMs = await time(() => this.#vm.toSys(this.#data, this.#bytes));
      await this.#check();
      for (const [k, { copy }] of this.#uploads.entries()) {
        const ms = await time(() => copy.run());
        if (i >= warmUps) uploads[k]!.push(ms);
      }
      if (i < warmUps) continue;
      cold.push(coldMs);
      resident.push(residentMs);
      evict.push(evictMs);
    }
    const all = uploads.map((samples, k) => ({ name: this.#uploads[k]!.name, ms: summarize(samples) }));
    const best = all.reduce((a, b) => (b.ms.median < a.ms.median ? b : a));
    const price = summarize(cold.map((ms, i) => ms - resident[i]!));
    const perRound = this.#bytes / rounds / 1048576;
    const error = this.#wrong;
    return [
      {
        ...rows.cold,
        ms: summarize(cold),
        error,
        note: `${rounds} rounds, ${perRound.toFixed(1)} MiB moved per round`,
      },
      { ...rows.resident, ms: summarize(resident), error },
      { ...rows.price, ms: price, error, note: `${(price.median / best.ms.median).toFixed(2)} x the best raw upload` },
      { ...rows.evict, ms: summarize(evict), error },
      { ...rows.upload, ms: best.ms, error, note: best.name },
    ];
  }

  #sum(): Promise<unknown> {
    const args = [lo32(this.#data), hi32(this.#data), lo32(this.#sums), hi32(this.#sums)];
    return this.#vm.run(PAGE_SUM, { items: this.#bytes / PAGE_SIZE, args });
  }

  /** The sums that the GPU left, against the CPU's own. */
  async #check(): Promise<void> {
    if (this.#wrong !== null) return;
    const pages = this.#bytes / PAGE_SIZE;
    const sums = await this.#process.read(this.#sums, pages * 4);
    const got = new Uint32Array(sums.buffer, sums.byteOffset, pages);
    for (let page = 0; page < pages; page++) {
      const bytes = await this.#process.read(this.#data + page * PAGE_SIZE, PAGE_SIZE);
      let sum = 0;
      for (const word of new Uint32Array(bytes.buffer, bytes.byteOffset, PAGE_SIZE / 4)) sum = (sum + word) >>> 0;
      if (sum === got[page]) continue;
      this.#wrong = `the sum of page ${page} is ${got[page]}, it must be ${sum}`;
      return;
    }
  }

  async close(): Promise<void> {
    for (const { copy } of this.#uploads) copy.dispose();
    this.#lab.close();
    await this.#machine.close();
    this.#machine.engine.destroy();
  }
}
