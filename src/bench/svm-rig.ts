import { PAGE_SIZE, SZ_2M, hi32, lo32 } from "../base/addr.ts";
import { ACCESS_READ, ACCESS_WRITE } from "../abi/fault.ts";
import { Random } from "../base/random.ts";
import type { KernelSource } from "../hal/gpu.ts";
import { prepareEngine } from "../machine/engine.ts";
import { Machine } from "../machine/machine.ts";
import type { VmConfig } from "../machine/machine.ts";
import type { Process } from "../machine/process.ts";
import type { Vm } from "../machine/vm.ts";
import pageSumWgsl from "../../shaders/kernels/page_sum.wgsl?raw";

const PAGE_SUM: KernelSource = { name: "page-sum", wgsl: pageSumWgsl };
/** What stands in free frames where that is to be seen. */
const POISON = 0xa5;
/** RAM beyond the data: for sums, and for what the machine needs itself. */
const SPARE_RAM = 32 << 20;

export interface RigOptions {
  /** Bytes of data, whole pages. */
  readonly bytes: number;
  /** Bytes of VRAM for it. */
  readonly vram: number;
  /** Bytes of the system window; default: the device's. */
  readonly window?: number;
  readonly seed: number;
  readonly vm?: Partial<VmConfig>;
}

/** A process with random data, an address space that mirrors it, a kernel that sums its pages, and what must come out. */
export class SvmRig {
  readonly machine: Machine;
  readonly process: Process;
  readonly vm: Vm;
  readonly bytes: number;
  /** Address of the data. */
  readonly data: number;
  /** The data as it must read. */
  readonly words: Uint32Array;
  readonly #sums: number;
  /** A page that is used for nothing else. */
  readonly #spare: number;
  readonly #expected: Uint32Array;
  /** Looks at what the last pass has left. */
  #check: (() => Promise<void>) | null = null;

  private constructor(
    machine: Machine,
    process: Process,
    vm: Vm,
    bytes: number,
    { data, sums, spare }: { data: number; sums: number; spare: number },
  ) {
    this.machine = machine;
    this.process = process;
    this.vm = vm;
    this.bytes = bytes;
    this.data = data;
    this.words = new Uint32Array(bytes / 4);
    this.#sums = sums;
    this.#spare = spare;
    this.#expected = new Uint32Array(bytes / PAGE_SIZE);
  }

  static async open({ bytes, vram, window, seed, vm = {} }: RigOptions): Promise<SvmRig> {
    const machine = new Machine({ engine: await prepareEngine("webgpu"), ram: bytes + SPARE_RAM });
    const process = machine.createProcess();
    const space = machine.createDevice({ vram, ...(window !== undefined && { window }) }).vm(process, vm);
    // As `process.alloc` maps large arrays.
    const data = await process.mmap(bytes, { align: SZ_2M, thp: true });
    const sums = await process.mmap((bytes / PAGE_SIZE) * 4);
    const spare = await process.mmap(PAGE_SIZE, { populate: true });
    const rig = new SvmRig(machine, process, space, bytes, { data, sums, spare });
    await rig.fill(seed);
    return rig;
  }

  /** New random data in the first `bytes`. */
  async fill(seed: number, bytes = this.bytes): Promise<void> {
    const { words } = this;
    const random = new Random(seed);
    const expected = this.#expected.fill(0, 0, bytes / PAGE_SIZE);
    for (let i = 0; i < bytes / 4; i++) {
      const word = random.u32();
      words[i] = word;
      expected[i >>> 10]! += word;
    }
    for (let at = 0; at < bytes; at += SZ_2M) {
      await this.process.write(this.data + at, words.subarray(at / 4, Math.min(at + SZ_2M, bytes) / 4));
    }
  }

  /** Sums the pages of the first `bytes` on the GPU. `streamed`: the launch says what its items walk through. */
  async sum(bytes = this.bytes, { streamed = false } = {}): Promise<void> {
    const items = bytes / PAGE_SIZE;
    const args = [lo32(this.data), hi32(this.data), lo32(this.#sums), hi32(this.#sums)];
    const streams = [
      { at: this.data, bytes, access: ACCESS_READ },
      { at: this.#sums, bytes: items * 4, access: ACCESS_WRITE },
    ];
    await this.vm.run(PAGE_SUM, { items, args, ...(streamed && { streams }) });
  }

  /** Resolves when all that was queued is done: a migration is over for all who can look when it is queued. */
  async settled(): Promise<void> {
    await this.vm.device.gpu.idle();
  }

  /**
   * The same, and what was queued has left nothing behind: a browser frees what it staged for a write with the next
   * submission, a fifth of a millisecond for 2 MiB. A page goes there and back.
   */
  async rest(): Promise<void> {
    await this.vm.prefetch(this.#spare, PAGE_SIZE, "DEV");
    await this.vm.prefetch(this.#spare, PAGE_SIZE, "SYS");
    await this.settled();
  }

  /** A pass has run, and `check` looks at what it has left: outside the measured time, and before anything else is done here. */
  passed(check: () => Promise<void>): void {
    this.#check = check;
  }

  /** What the last pass has left is looked at, once. */
  async checkPass(): Promise<void> {
    const check = this.#check;
    this.#check = null;
    await check?.();
  }

  /** Forgets the sums, so that those of the next run show. */
  async clearSums(): Promise<void> {
    await this.process.fill(this.#sums, (this.bytes / PAGE_SIZE) * 4, 0);
  }

  /** Null when the sums of the first `bytes` are right, or which is not. */
  async checkSums(bytes = this.bytes): Promise<string | null> {
    const pages = bytes / PAGE_SIZE;
    return this.compareSums(wordsOf(await this.process.read(this.#sums, pages * 4)));
  }

  /** The same for sums that somebody else has made of the first pages. */
  compareSums(sums: Uint32Array): string | null {
    return firstWrong(sums, this.#expected.subarray(0, sums.length), "the sum of page");
  }

  /** Null when the first `bytes` read as they must for the CPU, or where they do not. */
  async checkData(bytes = this.bytes): Promise<string | null> {
    for (let at = 0; at < bytes; at += SZ_2M) {
      const got = wordsOf(await this.process.read(this.data + at, Math.min(SZ_2M, bytes - at)));
      const wrong = firstWrong(got, this.words.subarray(at / 4, at / 4 + got.length), `from ${at} on, word`);
      if (wrong !== null) return wrong;
    }
    return null;
  }

  /** Fills all free RAM, so that a page which nothing was copied to does not hold its old bytes by chance. */
  async poisonFreeRam(): Promise<void> {
    const bytes = this.machine.phys.freePages * PAGE_SIZE;
    const at = await this.process.mmap(bytes);
    await this.process.fill(at, bytes, POISON);
    await this.process.munmap(at, bytes);
  }

  async close(): Promise<void> {
    await this.machine.close();
    this.machine.engine.destroy();
  }
}

function wordsOf(bytes: Uint8Array): Uint32Array {
  return new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
}

function firstWrong(got: Uint32Array, expected: Uint32Array, what: string): string | null {
  for (let i = 0; i < expected.length; i++) {
    if (got[i] !== expected[i]) return `${what} ${i} is ${got[i]}, it must be ${expected[i]}`;
  }
  return null;
}
