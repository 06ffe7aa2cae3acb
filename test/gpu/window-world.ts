import { expect } from "vitest";
import { PTE_W } from "../../src/abi/pte.ts";
import { hi32, lo32 } from "../../src/base/addr.ts";
import { isErr } from "../../src/base/errno.ts";
import { Scheduler } from "../../src/base/scheduler.ts";
import { AP_HOST, AP_WINDOW, PageList } from "../../src/hal/gpu.ts";
import type { Gpu, Kernel, KernelLaunch } from "../../src/hal/gpu.ts";
import type { WebGpuEngine } from "../../src/device/index.ts";
import { DMA_BIDIRECTIONAL, SystemWindow } from "../../src/mm/dma.ts";
import type { DmaDirection, SlotRun } from "../../src/mm/dma.ts";
import { Mm } from "../../src/mm/mm.ts";
import { PhysMemory } from "../../src/mm/phys-mem.ts";
import { MIB, TestTables } from "./support.ts";

/** What window.test.ts works with: devices whose address spaces are mapped by hand, and a flat memory to compare with. */
export const PAGE = 4096;
/** Little more than the areas and the two frames of the machine: what is freed is had again. */
const RAM_PAGES = 14;
/** Places of a window; its first page is never given out. */
export const SLOTS = 4;
export const AREA_PAGES = 10;
const RAM = new Uint8Array(new SharedArrayBuffer(RAM_PAGES * PAGE));
const VA = 0x1_0000_0000;

/** Per item: address lo, hi, whether it stores, what it adds. The old word comes out. */
const KERNEL = `
fn kernel(item: u32) {
  let va = vec2u(svm_in(4u * item), svm_in(4u * item + 1u));
  let stores = svm_in(4u * item + 2u) == 1u;
  var at = 0u;
  if (stores) { at = svm_write(va); } else { at = svm_read(va); }
  if (svm_missed()) { return; }
  let old = svm_load(at);
  svm_out(item, old);
  if (stores) { svm_store(at, old * 3u + svm_in(4u * item + 3u)); }
}`;

/** The GPUs of the devices, for all tests. */
const gpus: Gpu[] = [];

interface Mapping {
  readonly addr: number;
  readonly dir: DmaDirection;
}

/** One access of a kernel: word `word` of page `page`. */
export interface Access {
  readonly page: number;
  readonly word: number;
  readonly stores: boolean;
  readonly add: number;
}

/** An address space of a device, mapped by hand. */
export class Space {
  readonly side: Side;
  readonly mapped = new Map<number, Mapping>();
  readonly #tables: TestTables;

  constructor(side: Side, asid: number) {
    this.side = side;
    this.#tables = new TestTables(side.gpu, asid, 2 + asid * 8);
  }

  get asid(): number {
    return this.#tables.asid;
  }

  map(page: number, pfn: number, dir: DmaDirection): number {
    const addr = this.side.window.map(pfn, dir);
    if (isErr(addr)) return addr;
    this.mapped.set(page, { addr, dir });
    this.#tables.map(VA + page * PAGE, addr, dir === DMA_BIDIRECTIONAL ? PTE_W : 0);
    return addr;
  }

  async unmap(page: number, discard = false): Promise<void> {
    const { addr, dir } = this.mapped.get(page)!;
    this.mapped.delete(page);
    this.#tables.unmap(VA + page * PAGE);
    this.side.gpu.tlbInvalidate(this.asid, VA + page * PAGE, VA + page * PAGE + PAGE - 1);
    await (discard ? this.side.window.unmapDiscarded(addr, dir) : this.side.window.unmap(addr, dir));
  }

  launch(accesses: readonly Access[]): KernelLaunch {
    const input = Uint32Array.from(
      accesses.flatMap(({ page, word, stores, add }) => {
        const va = VA + page * PAGE + word * 4;
        return [lo32(va), hi32(va), stores ? 1 : 0, add];
      }),
    );
    const { gpu, kernel } = this.side;
    return gpu.launch(kernel, { asid: this.asid, items: accesses.length, input, outWords: accesses.length });
  }

  /** Submits a round; resolves when it is in the queue. */
  async submit(launch: KernelLaunch, accesses: readonly Access[]) {
    const writes = accesses.flatMap(({ page, stores }) => {
      const mapping = this.mapped.get(page);
      return stores && mapping !== undefined ? [mapping.addr] : [];
    });
    // What a round waits for comes first: nothing may come between the last copy in and the submission.
    await launch.ready();
    return await this.side.window.submitWith(writes, () => ({ done: launch.round() }));
  }
}

/** A device with its window and two address spaces. */
export class Side {
  readonly gpu: Gpu;
  readonly kernel: Kernel;
  readonly window: SystemWindow;
  readonly spaces: readonly [Space, Space];
  /** Frames that were to come back when the device went. */
  readonly lost: number[] = [];
  pagesIn = 0;
  pagesOut = 0;

  private constructor(gpu: Gpu, kernel: Kernel, phys: PhysMemory) {
    this.gpu = gpu;
    this.kernel = kernel;
    const port = {
      copyIn: (runs: readonly SlotRun[]) => {
        for (const { pages } of runs) this.pagesIn += pages;
        void gpu.copy(listOf(runs, true));
      },
      copyOut: async (runs: readonly SlotRun[]) => {
        for (const { pages } of runs) this.pagesOut += pages;
        try {
          await gpu.copy(listOf(runs, false));
        } catch (error) {
          if (!gpu.isLost) throw error;
          for (const { frame, pages } of runs) for (let i = 0; i < pages; i++) this.lost.push(frame + i);
        }
      },
    };
    this.window = new SystemWindow(phys, port, (SLOTS + 1) * PAGE);
    this.spaces = [new Space(this, 2), new Space(this, 3)];
  }

  /** Device `i`: the GPU that an earlier test left, where it lives. */
  static async open(engine: WebGpuEngine, i: number, phys: PhysMemory): Promise<Side> {
    if (gpus[i]?.isLost !== false) {
      gpus[i] = engine.createGpu({
        vramBytes: 8 * MIB,
        ptBytes: MIB,
        syswBytes: (SLOTS + 1) * PAGE,
        faultQueueCapacity: 64,
        hostMemory: RAM,
      });
    }
    const gpu = gpus[i]!;
    for (const asid of [2, 3]) gpu.tlbInvalidateAsid(asid);
    return new Side(gpu, await gpu.compile({ name: "window", wgsl: KERNEL }), phys);
  }

  /** Pages that some address space has mapped. */
  get live(): Set<number> {
    return new Set(this.spaces.flatMap((space) => [...space.mapped.keys()]));
  }
}

function listOf(runs: readonly SlotRun[], toDevice: boolean): PageList {
  const list = new PageList(runs.length);
  for (const { frame, slot, pages } of runs) {
    if (toDevice) list.push(AP_HOST, frame, AP_WINDOW, slot, pages);
    else list.push(AP_WINDOW, slot, AP_HOST, frame, pages);
  }
  return list;
}

/** Pages of a process, each an area of its own, and what a flat memory holds in their place. */
export class World {
  readonly phys: PhysMemory;
  readonly mm: Mm;
  readonly at: number[] = [];
  readonly flat: Uint32Array[] = [];
  readonly sides: Side[] = [];

  constructor() {
    const turn = () => new Promise<void>((resume) => void setTimeout(resume));
    RAM.fill(0);
    this.phys = new PhysMemory({
      ram: RAM,
      sched: new Scheduler({ turn, now: () => 0, sleep: turn }),
      poisonFreed: true,
    });
    this.mm = new Mm({ phys: this.phys });
  }

  async open(engine: WebGpuEngine, sides: number): Promise<this> {
    for (let i = 0; i < sides; i++) this.sides.push(await Side.open(engine, i, this.phys));
    for (let page = 0; page < AREA_PAGES; page++) await this.renew(page);
    return this;
  }

  get spaces(): Space[] {
    return this.sides.flatMap((side) => side.spaces);
  }

  pfn(page: number): number {
    return this.mm.pageAt(this.at[page]!).pfn;
  }

  /** A fresh page of zeros in place of an old one, whose frame is free for the next. */
  async renew(page: number): Promise<void> {
    const old = this.at[page];
    if (old !== undefined) await this.mm.munmap(old, PAGE);
    const addr = await this.mm.mmap(PAGE, { populate: true });
    expect(addr).toBeGreaterThan(0);
    this.at[page] = addr;
    this.flat[page] = new Uint32Array(1024);
    await this.store(page, 0, 0);
  }

  async store(page: number, word: number, value: number): Promise<void> {
    await this.mm.store32(this.at[page]! + word * 4, value);
    this.flat[page]![word] = value;
  }

  async expectWord(page: number, word: number): Promise<void> {
    expect(await this.mm.load32(this.at[page]! + word * 4)).toBe(this.flat[page]![word]);
  }

  async expectPage(page: number): Promise<void> {
    const bytes = (await this.mm.read(this.at[page]!, PAGE)) as Uint8Array;
    expect(new Uint32Array(bytes.slice().buffer)).toEqual(this.flat[page]);
  }

  /** What the flat memory makes of the accesses: the words that must come out. */
  apply(accesses: readonly Access[]): number[] {
    return accesses.map(({ page, word, stores, add }) => {
      const old = this.flat[page]![word]!;
      if (stores) this.flat[page]![word] = Math.imul(old, 3) + add;
      return old;
    });
  }

  /** Nothing of this test is under way when the next one begins. */
  async close(): Promise<void> {
    for (const { gpu } of this.sides) if (!gpu.isLost) await gpu.idle();
  }
}
