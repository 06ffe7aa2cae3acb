import { PAGE_SIZE, hi32, lo32 } from "../base/addr.ts";
import { requestGpuDevice } from "../device/index.ts";
import { WebGpu } from "../device/gpu.ts";
import { makePlainKernel } from "../device/plain.ts";
import type { PlainKernel } from "../device/plain.ts";
import type { Gpu, Kernel, LaunchOptions } from "../hal/gpu.ts";
import type { BenchContext, BenchGroup } from "./group.ts";
import { measure } from "./harness.ts";
import type { Case, Outcome } from "./harness.ts";
import { KERNEL_ASID, KERNEL_BASE, fillScattered, mapScattered, readScattered } from "./kernel-space.ts";
import type { BenchRow } from "./result.ts";
import { measureTranslations } from "./translations.ts";

/**
 * What translation costs when nothing faults: a streaming kernel (y = 3 x + y) and a random gather (out = data[index]) on
 * virtual addresses, against the same kernels on plain bindings with the same partition of work: an item owns a run of 256
 * words. Pages are of 4 KiB and lie in random order, with VRAM in one buffer and in four.
 * A third kernel (y = 3 x) shows what the check of every store costs (svm_reach in svm.wgsl): word by word, and in a loop
 * that checks once per page.
 *
 * The gather comes in two forms: a walk per access, and, as is recommended, through `svm_at`, which reads a table of the
 * launch's buffers. A walk reads one bank, whatever the number of segments; what four cost more is the choice of the bank for
 * the word itself (0.4 to 0.6 of the plain kernel) and the loops over x and y, of which there is one per pair of banks (0.8).
 * The batch translator is measured beside them (translations.ts).
 */
const GROUP = "kernels";
const RUN = 256;
const WORDS = 4 << 20;
const QUICK_WORDS = 1 << 20;
const MIB = 1 << 20;

const SVM_STREAM = `
fn zip_words(a: u32, b: u32, index: u32) -> u32 { return 3u * a + b; }
fn kernel(item: u32) {
  let x = svm_read(addr_add(arg64(0u), item * ${RUN * 4}u));
  let y = svm_write(addr_add(arg64(1u), item * ${RUN * 4}u));
  if (svm_missed()) { return; }
  svm_zip(x, y, ${RUN}u, 0u);
}`;
const PLAIN_STREAM = `
@group(0) @binding(0) var<storage, read_write> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let first = id.x * ${RUN}u;
  for (var i = 0u; i < ${RUN}u; i++) { y[first + i] = 3u * x[first + i] + y[first + i]; }
}`;
/** A pure function, so the idempotent design: the data's address comes from an index, by a walk or through the table. */
const gather = (locate: string) => `
fn map_word(value: u32, index: u32) -> u32 { return svm_load(${locate}); }
fn kernel(item: u32) {
  let x = svm_read(addr_add(arg64(0u), item * ${RUN * 4}u));
  let y = svm_write(addr_add(arg64(1u), item * ${RUN * 4}u));
  svm_map(x, y, ${RUN}u, 0u);
}`;
const SVM_GATHER_WALK = gather("svm_read(addr_add(arg64(2u), 4u * value))");
const SVM_GATHER_TABLE = gather("svm_at(0u, 4u * value)");
const PLAIN_GATHER = `
@group(0) @binding(0) var<storage, read_write> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;
@group(0) @binding(2) var<storage, read_write> data: array<u32>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let first = id.x * ${RUN}u;
  for (var i = 0u; i < ${RUN}u; i++) { y[first + i] = data[x[first + i]]; }
}`;
const SVM_STORE_WORDS = `
fn kernel(item: u32) {
  let x = svm_read(addr_add(arg64(0u), item * ${RUN * 4}u));
  let y = svm_write(addr_add(arg64(1u), item * ${RUN * 4}u));
  if (svm_missed()) { return; }
  for (var i = 0u; i < ${RUN}u; i++) { svm_store(y + i, 3u * svm_load(x + i)); }
}`;
const SVM_STORE_LOOP = `
fn map_word(value: u32, index: u32) -> u32 { return 3u * value; }
fn kernel(item: u32) {
  let x = svm_read(addr_add(arg64(0u), item * ${RUN * 4}u));
  let y = svm_write(addr_add(arg64(1u), item * ${RUN * 4}u));
  if (svm_missed()) { return; }
  svm_map(x, y, ${RUN}u, 0u);
}`;
const PLAIN_STORE = `
@group(0) @binding(0) var<storage, read_write> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let first = id.x * ${RUN}u;
  for (var i = 0u; i < ${RUN}u; i++) { y[first + i] = 3u * x[first + i]; }
}`;

/** The forms of each kernel, and the same kernel on plain bindings. */
const TEXTS = {
  stream: { forms: [SVM_STREAM], plain: PLAIN_STREAM },
  store: { forms: [SVM_STORE_WORDS, SVM_STORE_LOOP], plain: PLAIN_STORE },
  gather: { forms: [SVM_GATHER_WALK, SVM_GATHER_TABLE], plain: PLAIN_GATHER },
} as const;
type KernelName = keyof typeof TEXTS;

export const kernels: BenchGroup = {
  name: GROUP,
  async run(context) {
    const words = context.quick ? QUICK_WORDS : WORDS;
    const names = ["stream", "store", "gather"] as const;
    const forms = {
      stream: ["plain bindings", "1 segment", "4 segments"],
      store: ["plain bindings", "1 segment, words", "1 segment, loop", "4 segments, words", "4 segments, loop"],
      gather: ["plain bindings", "1 segment, walk", "1 segment, table", "4 segments, walk", "4 segments, table"],
    };
    const rows: BenchRow[] = [];
    for (const name of names) {
      // A gather is a quarter of the words: an access costs more.
      const bytes = (name === "gather" ? words / 4 : words) * 4;
      const wanted = forms[name].map((form) => ({ group: GROUP, kind: name, name: form, bytes, layout: "" }));
      if (!wanted.some((row) => context.selected(row))) continue;
      const bench = await KernelBench.open(context, bytes / 4);
      try {
        rows.push(...(await bench.measure(name, wanted)));
      } finally {
        bench.close();
      }
    }
    rows.push(...(await measureTranslations(context, GROUP)));
    return rows;
  },
};

/** One emulated GPU whose VRAM is `nseg` buffers, with the three arrays in it. */
interface Side {
  readonly gpu: Gpu;
  readonly places: Uint32Array;
  readonly host: Uint32Array;
}

class KernelBench {
  readonly #context: BenchContext;
  readonly #words: number;
  readonly #arrays: readonly [x: Uint32Array, y: Uint32Array, data: Uint32Array];
  readonly #sides: readonly Side[];
  readonly #plain: (wgsl: string, buffers: readonly Uint32Array[]) => Promise<PlainKernel>;
  readonly #destroy: () => void;

  private constructor(
    context: BenchContext,
    words: number,
    arrays: [Uint32Array, Uint32Array, Uint32Array],
    sides: readonly Side[],
    plain: (wgsl: string, buffers: readonly Uint32Array[]) => Promise<PlainKernel>,
    destroy: () => void,
  ) {
    this.#context = context;
    this.#words = words;
    this.#arrays = arrays;
    this.#sides = sides;
    this.#plain = plain;
    this.#destroy = destroy;
  }

  /** `x` holds indices into `data`; all arrays have `words` words. */
  static async open(context: BenchContext, words: number): Promise<KernelBench> {
    const acquired = await requestGpuDevice();
    context.gpu(acquired);
    const { random } = context;
    const fill = (value: () => number) => Uint32Array.from({ length: words }, value);
    const arrays: [Uint32Array, Uint32Array, Uint32Array] = [
      fill(() => random.below(words)),
      fill(() => random.u32()),
      fill(() => random.u32()),
    ];
    const sides: Side[] = [];
    for (const maxSegBytes of [64 * MIB, 16 * MIB]) {
      const host = new Uint32Array(new SharedArrayBuffer(words * 12));
      for (const [i, array] of arrays.entries()) host.set(array, i * words);
      const gpu = WebGpu.createOn(
        acquired,
        {
          vramBytes: 64 * MIB,
          ptBytes: MIB,
          syswBytes: 0,
          faultQueueCapacity: 1024,
          hostMemory: new Uint8Array(host.buffer),
        },
        { maxSegBytes },
      );
      const places = mapScattered(gpu, (words * 12) / PAGE_SIZE, MIB / PAGE_SIZE, random);
      await fillScattered(gpu, places);
      sides.push({ gpu, places, host });
    }
    const workgroups = words / RUN / 64;
    return new KernelBench(
      context,
      words,
      arrays,
      sides,
      (wgsl, buffers) => makePlainKernel(acquired, { wgsl, buffers, workgroups }),
      () => acquired.device.destroy(),
    );
  }

  async measure(name: KernelName, rows: readonly Omit<BenchRow, "ms" | "error">[]): Promise<BenchRow[]> {
    const texts = TEXTS[name].forms;
    const [x, y, data] = this.#arrays;
    const plain = await this.#plain(TEXTS[name].plain, name === "gather" ? [x, y, data] : [x, y]);
    const cases: Case[] = [{ name: "plain", run: async () => void (await plain.run()) }];
    const runs = this.#sides.map(() => 0);
    for (const [i, side] of this.#sides.entries()) {
      for (const [form, wgsl] of texts.entries()) {
        const kernel = await side.gpu.compile({
          name: `${name}-${form}`,
          wgsl,
          design: name === "gather" ? "idempotent" : "item",
        });
        cases.push({
          name: `${name} ${i} ${form}`,
          run: () => {
            runs[i]! += 1;
            return this.#launch(side, kernel, wgsl === SVM_GATHER_TABLE);
          },
        });
      }
    }
    const context = this.#context;
    const { quick, random, now } = context;
    const outcomes = await measure(cases, {
      random,
      now,
      warmUps: 2,
      samples: quick ? 7 : 20,
      minSamples: 5,
      timeBoxMs: quick ? 4000 : 30000,
      onProgress: (done) => context.progress(done, name),
    });
    plain.dispose();
    const wrong = await this.#check(name, runs);
    const base = medianOf(outcomes[0]!);
    return rows.map((row, i) => {
      const outcome = outcomes[i]!;
      if ("error" in outcome) return { ...row, ms: null, error: String(outcome.error) };
      const note = i === 0 ? {} : { note: `${(outcome.ms.median / base).toFixed(2)} x plain bindings` };
      return { ...row, ms: outcome.ms, error: wrong, ...note };
    });
  }

  /** One round: everything is resident. */
  async #launch({ gpu }: Side, kernel: Kernel, table: boolean): Promise<void> {
    const bytes = this.#words * 4;
    const at = [0, 1, 2].map((i) => KERNEL_BASE + i * bytes);
    const options: LaunchOptions = {
      asid: KERNEL_ASID,
      items: this.#words / RUN,
      args: at.flatMap((va) => [lo32(va), hi32(va)]),
      ...(table ? { buffers: [{ at: at[2]!, bytes, access: 0 }] } : {}),
    };
    const launch = gpu.launch(kernel, options);
    const { remaining } = await launch.round();
    launch.end();
    if (remaining !== 0) throw new Error(`${remaining} items missed pages that are all there`);
  }

  /** What stands in `y` of every GPU; null when it is right. */
  async #check(name: KernelName, runs: readonly number[]): Promise<string | null> {
    const [x, y, data] = this.#arrays;
    for (const [i, { gpu, places, host }] of this.#sides.entries()) {
      await readScattered(gpu, places);
      const got = host.subarray(this.#words, 2 * this.#words);
      for (let w = 0; w < this.#words; w++) {
        const streamed = (y[w]! + Math.imul(3 * runs[i]!, x[w]!)) >>> 0;
        const want = name === "gather" ? data[x[w]!]! : name === "store" ? Math.imul(3, x[w]!) >>> 0 : streamed;
        if (got[w] !== want) return `word ${w} is ${got[w]}, it must be ${want}`;
      }
    }
    return null;
  }

  close(): void {
    for (const { gpu } of this.#sides) gpu.destroy();
    this.#destroy();
  }
}

function medianOf(outcome: Outcome): number {
  return "ms" in outcome ? outcome.ms.median : NaN;
}
