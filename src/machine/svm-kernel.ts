import { ConfigError } from "../base/errors.ts";
import type { RoundReport } from "../driver/launch.ts";
import type { KernelDesign, KernelSource } from "../hal/gpu.ts";
import { type Args, type ArrayNames, type ParamType, ParamList, type Params } from "./params.ts";
import type { Vm } from "./vm.ts";

export interface SvmKernelOptions<P extends Params> {
  /**
   * Defines `fn kernel(item: u32)`, or what else its design wants (shaders/svm.wgsl says what it may call), and reaches its
   * parameters by the functions that params.ts lists.
   */
  wgsl: string;
  params?: P;
  /** For error messages. Default "kernel". */
  name?: string;
  /** How it bears faults; shaders/svm.wgsl says what each design asks of it. Default `"item"`. */
  design?: KernelDesign;
  /** Lanes of a workgroup, for design `"workgroup"`, whose items are workgroups. Default 64. */
  workgroupSize?: number;
  /** True when the kernel does atomics through a `"ptr"`; those of an `array<..., atomic>` are known. */
  atomics?: boolean;
  /** The kernel for the reference engine; arrays are its buffers, in order (`context.at`). */
  reference?: NonNullable<KernelSource["reference"]>;
}

export interface RunOptions<P extends Params = Readonly<Record<string, ParamType>>> {
  /** Number of work items. */
  items: number;
  /**
   * Arrays that the items walk through in order: with `n` items, item `i` works on the `i`-th of `n` equal parts of each. They
   * are brought ahead of the items, piece by piece, and the items run while the next piece comes: the quick way through arrays
   * larger than VRAM. A hint: what the items touch besides is found by faults. Designs `"item"` and `"workgroup"`.
   */
  streams?: readonly ArrayNames<P>[];
  /** Words that the kernel reads with `svm_in(i)`. */
  input?: Uint32Array;
  /** Words that the kernel writes with `svm_out(i, v)`. */
  outWords?: number;
  /** Hears of every round of dispatch and service; the next one waits for it. */
  onRound?: (report: RoundReport) => void | Promise<void>;
}

/** What a run has done. */
export interface RunResult {
  /** Rounds of dispatch, service and replay; 1 when everything was resident. */
  readonly rounds: number;
  /** Faults that were served. */
  readonly faults: number;
  /** The output words that were asked for. */
  readonly out: Uint32Array;
}

/**
 * A kernel of the caller's own, for one address space.
 *
 *     const saxpy = await vm.createKernel({
 *       params: { x: "array<f32>", y: "array<f32, read_write>", a: "f32" },
 *       wgsl: `fn kernel(i: u32) { y_store(i, a() * x_load(i) + y_load(i)); }`,
 *     });
 *     await saxpy.run({ x, y, a: 2 }, { items: x.length });
 *
 * An item that misses is run again, so it must not see its own stores: loads first, stores last, as above. One that stores to
 * several places asks `x_at` for all of them first, returns if `svm_missed()`, and then stores.
 *
 * The fast form lets an item work on a page and finds each location once; it runs as fast as on plain buffers, the one above
 * at a third of that (SwiftShader):
 *
 *     fn kernel(page: u32) {
 *       let fx = x_at(page * 1024u);
 *       let fy = y_at(page * 1024u);
 *       if (svm_missed()) { return; }
 *       for (var i = 0u; i < 1024u; i++) { svm_store_f32(fy + i, a() * svm_load_f32(fx + i) + svm_load_f32(fy + i)); }
 *     }
 */
export class SvmKernel<P extends Params = Readonly<Record<string, ParamType>>> {
  readonly vm: Vm;
  readonly source: KernelSource;
  readonly #params: ParamList;

  private constructor(vm: Vm, source: KernelSource, params: ParamList) {
    this.vm = vm;
    this.source = source;
    this.#params = params;
  }

  /** For `Vm.createKernel`. Rejects with ConfigError, or GpuError that names the line of the WGSL that is wrong. */
  static async create<P extends Params>(vm: Vm, options: SvmKernelOptions<P>): Promise<SvmKernel<P>> {
    const { wgsl, name = "kernel", params, atomics, ...rest } = options;
    if (typeof wgsl !== "string") throw new ConfigError("kernel.wgsl", `WGSL text is wanted, not ${typeof wgsl}`);
    const list = new ParamList(params ?? {});
    // Behind the caller's text, so that its lines keep their numbers.
    const source = { ...rest, name, wgsl: `${wgsl}\n${list.wgsl()}`, atomics: atomics === true || list.hasAtomics };
    const kernel = new SvmKernel<P>(vm, source, list);
    await vm.device.compile(source);
    return kernel;
  }

  /**
   * Runs it over all items; resolves when all are done. Rejects with ConfigError for arguments that do not fit the
   * parameters, and as every use of the GPU: KernelError GPUFAULT, DeviceLostError.
   */
  async run(args: Args<P>, { items, streams, input, outWords, onRound }: RunOptions<P>): Promise<RunResult> {
    if (!Number.isSafeInteger(items) || items <= 0) {
      throw new ConfigError("kernel.items", `a whole number above 0 is wanted, not ${items}`);
    }
    const bound = this.#params.bind(this.vm, args);
    let rounds = 0;
    let faults = 0;
    const out = await this.vm.run(
      this.source,
      {
        ...bound,
        items,
        ...(streams ? { streams: this.#params.streams(bound, streams) } : {}),
        ...(input ? { input } : {}),
        ...(outWords ? { outWords } : {}),
      },
      async (report) => {
        rounds = report.round;
        faults += report.faults;
        await onRound?.(report);
      },
    );
    return { rounds, faults, out };
  }
}
