/** What the driver decides where it has a choice: migration, prefetch, eviction, thrashing; and the presets. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { ConfigError } from "../../src/base/errors.ts";
import { DENSITY_THRESHOLD, DensityTree } from "../../src/driver/policy/density-tree.ts";
import { evictPolicy } from "../../src/driver/policy/evict.ts";
import type { Evictable, Interval, PrefetchView } from "../../src/driver/policy/policy.ts";
import { prefetchPolicy } from "../../src/driver/policy/prefetch.ts";
import { PRESETS } from "../../src/driver/policy/presets.ts";
import type { PolicyChoice } from "../../src/driver/policy/presets.ts";
import { THRASH_LAPSE, THRASH_MAX_RESETS, THRASH_PIN, thrashPolicy } from "../../src/driver/policy/thrash.ts";
import { Bo } from "../../src/machine/bo.ts";
import { REFERENCE_ENGINE } from "../../src/machine/engine.ts";
import { DEFAULT_VM_CONFIG, Machine } from "../../src/machine/machine.ts";
import type { DeviceOptions, VmConfig } from "../../src/machine/machine.ts";
import type { Process } from "../../src/machine/process.ts";
import { runScenarioModule } from "../../src/scenario/run.ts";
import { PL_VRAM } from "../../src/vram/place.ts";

const KIB = 1 << 10;
const MIB = 1 << 20;

/** "SYS", "NONE", or the name of the device: a device itself is too much to print where a test fails. */
function placeOf(machine: Machine, process: Process, a: number): string {
  const place = machine.where(process, a);
  return typeof place === "string" ? place : place.name;
}
const PAGE = 4096;
const CHUNK = 2 * MIB;

function setUp(config: Partial<VmConfig> = {}, device: DeviceOptions = {}, seed = 1) {
  const machine = new Machine({ engine: REFERENCE_ENGINE, ram: 96 * MIB, config, seed });
  const gpu = machine.createDevice({ vram: 8 * MIB, ...device });
  const process = machine.createProcess();
  return { machine, gpu, process, vm: gpu.vm(process) };
}

describe("a choice of policies", () => {
  test.each([
    ["nobody", "there is no preset"],
    [{ migrate: "sometimes" }, "no migrate policy"],
    [{ prefetch: "all" }, "no prefetch policy"],
    [{ evict: "mru" }, "no evict policy"],
    [{ thrash: "hope" }, "no thrash policy"],
    [{ preset: "xe2" }, "there is no preset"],
  ])("%j is refused by name", (policy, text) => {
    const config = { policy: policy as PolicyChoice };
    expect(() => new Machine({ engine: REFERENCE_ENGINE, config })).toThrow(ConfigError);
    const { gpu, process } = setUp();
    expect(() => gpu.vm(process, config)).toThrow(text);
  });

  test("an evict policy of a device is refused by name", () => {
    expect(() => setUp({}, { evict: "mru" as never })).toThrow(ConfigError);
  });

  test("brings the chunk sizes of its preset, unless others are asked for", () => {
    const { machine, gpu, process } = setUp({ policy: "nvidia-uvm" });
    expect(machine.config.chunks).toEqual([64 * KIB, PAGE]);
    expect(gpu.vm(process, { policy: "xe" }).svm.chunkSizes).toEqual([64 * KIB, PAGE]);
    expect(gpu.vm(process, { policy: "amdkfd" }).svm.chunkSizes).toEqual([CHUNK, PAGE]);
    expect(gpu.vm(process, { policy: "amdkfd", chunks: [PAGE] }).svm.chunkSizes).toEqual([PAGE]);
    expect(setUp().machine.config.chunks).toEqual(DEFAULT_VM_CONFIG.chunks);
  });

  test("begins with a preset and differs where it says so", () => {
    const { gpu, vm } = setUp({ policy: { preset: "nvidia-uvm", thrash: "none", evict: "fifo" } });
    expect([vm.svm.policies.migrate.name, vm.svm.policies.prefetch.name]).toEqual(["fault", "density"]);
    expect([vm.svm.policies.thrash.name, gpu.driver.region.victims.name]).toEqual(["none", "fifo"]);
  });

  test("of a device goes before that of the machine", () => {
    expect(setUp({ policy: { evict: "fifo" } }, { evict: "random" }).gpu.driver.region.victims.name).toBe("random");
  });

  test("of a scenario is given by name", async () => {
    let seen: unknown[] = [];
    await runScenarioModule(
      {
        meta: { config: { policy: "nvidia-uvm" } },
        async default(s) {
          const m = s.device().vm(s.proc());
          seen = [m.svm.policies.prefetch.name, m.svm.chunkSizes, s.config.policy];
        },
      },
      { engine: REFERENCE_ENGINE },
    );
    expect(seen).toEqual(["density", [64 * KIB, PAGE], "nvidia-uvm"]);
  });

  test.each(Object.keys(PRESETS))("preset %s computes the same bytes", async (preset) => {
    const { process, vm } = setUp({ policy: preset as keyof typeof PRESETS });
    const a = await process.mmap(3 * CHUNK, { align: CHUNK });
    await process.fill(a, 3 * CHUNK, 1);
    const want = new Uint8Array(3 * CHUNK).fill(1);
    for (let i = 0; i < 40; i++) {
      const at = (i * 393_244) % (3 * CHUNK - 4);
      const word = at - (at % 4);
      await vm.gst(a + word, i);
      new DataView(want.buffer).setUint32(word, i, true);
      if (i % 3 === 0) await process.st(a + word + 4096 * 8 * (i % 2), i);
      if (i % 3 === 0) new DataView(want.buffer).setUint32(word + 4096 * 8 * (i % 2), i, true);
    }
    expect(Buffer.compare(await process.read(a, 3 * CHUNK), want)).toBe(0);
  });
});

describe("migration", () => {
  test("never: a fault maps in place; a request moves, and stays", async () => {
    const { machine, process, vm } = setUp({ policy: { migrate: "never" } });
    const a = await process.mmap(128 * KIB, { align: 64 * KIB, populate: true });
    await vm.gst(a, 5);
    expect(placeOf(machine, process, a)).toBe("SYS");
    await vm.toVram(a, 64 * KIB);
    await vm.gst(a, 6);
    expect(placeOf(machine, process, a)).toBe("gpu0");
    expect(await process.ld(a)).toBe(6);
  });

  test("write: a read maps in place, and the first write moves", async () => {
    const { machine, process, vm } = setUp({ policy: { migrate: "write" } });
    const a = await process.mmap(64 * KIB, { align: 64 * KIB });
    await process.fill(a, 64 * KIB, 2);
    expect(await vm.gld(a)).toBe(0x02020202);
    expect(placeOf(machine, process, a)).toBe("SYS");
    await vm.gst(a + 4, 1);
    expect(placeOf(machine, process, a)).toBe("gpu0");
    expect(await process.ld(a + 4)).toBe(1);
  });

  test("fault: a read moves", async () => {
    const { machine, process, vm } = setUp();
    const a = await process.mmap(64 * KIB, { align: 64 * KIB, populate: true });
    await vm.gld(a);
    expect(placeOf(machine, process, a)).toBe("gpu0");
  });

  test("never, where the window is full: it moves rather than fails", async () => {
    const { process, vm } = setUp({ policy: "nouveau" }, { window: 16 * PAGE });
    const a = await process.mmap(CHUNK, { align: CHUNK });
    await vm.gfill(a, CHUNK, 9);
    expect(new Set(await process.read(a, CHUNK))).toEqual(new Set([9]));
  });
});

/** A process of one area, of which the pages named lie on the device. */
function view(area: Interval, resident: (page: number) => boolean): PrefetchView {
  return {
    blockAt(addr) {
      if (addr < area.start || addr >= area.end) return null;
      const block = addr - (addr % CHUNK);
      return { start: Math.max(block, area.start), end: Math.min(block + CHUNK, area.end) };
    },
    resident: (start, end) =>
      Uint8Array.from({ length: (end - start) / PAGE }, (_, i) => Number(resident((start + i * PAGE) / PAGE))),
  };
}

describe("the density tree", () => {
  const piece = (from: number, to: number): Interval => ({ start: from * 64 * KIB, end: to * 64 * KIB });
  const block = piece(0, 32);

  test.each([
    { name: "a single page brings its 64 KiB", there: [], fault: [5 * 16], brings: [5, 6] },
    { name: "1 of 2 is not more than 51 %", there: [], fault: [4 * 16], brings: [4, 5] },
    { name: "2 of 2, then 2 of 4 not", there: [4], fault: [5 * 16], brings: [4, 6] },
    { name: "3 of 4 bring the fourth", there: [4, 5], fault: [6 * 16], brings: [4, 8] },
    { name: "5 of 8 bring 8", there: [0, 1, 2, 3], fault: [4 * 16], brings: [0, 8] },
    { name: "4 of 8 do not", there: [0, 1, 2], fault: [3 * 16], brings: [0, 4] },
    {
      name: "17 of 32 bring the block",
      there: Array.from({ length: 16 }, (_, i) => i),
      fault: [16 * 16],
      brings: [0, 32],
    },
    { name: "16 of 32 do not", there: Array.from({ length: 15 }, (_, i) => i), fault: [15 * 16], brings: [0, 16] },
  ])("$name", ({ there, fault, brings }) => {
    const resident = (page: number): boolean => there.includes(Math.floor(page / 16)) || fault.includes(page);
    const moved = fault.map((page) => ({ start: page * PAGE, end: (page + 1) * PAGE }));
    expect(new DensityTree().afterBatch(moved, view(block, resident))).toEqual([piece(brings[0]!, brings[1]!)]);
  });

  test("clips to the area, and counts the pages that exist", () => {
    const area = { start: 3 * PAGE, end: 20 * PAGE };
    const moved = [{ start: 16 * PAGE, end: 17 * PAGE }];
    // 64 KiB of the fault: pages 16 to 19; of the next, 3 to 15, none: 4 of 17.
    expect(
      new DensityTree().afterBatch(
        moved,
        view(area, () => false),
      ),
    ).toEqual([{ start: 16 * PAGE, end: 20 * PAGE }]);
    const most = (page: number): boolean => page < 8;
    // 5 and 4 of 17: 9 are more than 51 %.
    expect(new DensityTree().afterBatch(moved, view(area, most))).toEqual([area]);
    const fewer = (page: number): boolean => page < 7;
    expect(new DensityTree().afterBatch(moved, view(area, fewer))).toEqual([{ start: 16 * PAGE, end: 20 * PAGE }]);
  });

  test("has nothing to bring where a chunk was the whole block", () => {
    expect(
      new DensityTree().afterBatch(
        [block],
        view(block, () => true),
      ),
    ).toEqual([]);
  });

  test("brings, for any pages, the largest subtree of more than 51 %, as a plain search finds it", () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 512, maxLength: 512, max: 1 }), fc.nat(511), (set, page) => {
        const moved = [{ start: page * PAGE, end: (page + 1) * PAGE }];
        const grown = Uint8Array.from(set);
        const leaf = page - (page % 16);
        grown.fill(1, leaf, leaf + 16);
        let best = [leaf, leaf + 16];
        for (let size = 32; size <= 512; size *= 2) {
          const from = page - (page % size);
          const count = grown.subarray(from, from + size).reduce((a, b) => a + b, 0);
          if (count * 100 > size * DENSITY_THRESHOLD) best = [from, from + size];
        }
        const [region] = new DensityTree().afterBatch(
          moved,
          view(block, (p) => set[p] === 1),
        );
        expect(region).toEqual({ start: best[0]! * PAGE, end: best[1]! * PAGE });
      }),
    );
  });

  test("in the driver: the second half of a block comes without a fault", async () => {
    const { machine, process, vm } = setUp({ policy: "nvidia-uvm" });
    const a = await process.mmap(CHUNK, { align: CHUNK });
    await process.fill(a, CHUNK, 4);
    for (let i = 0; i < 32; i++) await vm.gst(a + i * 64 * KIB, i);
    // 0, 1, 2 (brings 3), 4 (brings up to 7), 8 (to 15), 16 (to 31).
    expect(vm.counters.gpuFault).toBe(6);
    expect(vm.stats.get("wgsvm_prefetched_pages")).toBe(26 * 16);
    expect(vm.counters.toDevBytes).toBe(CHUNK);
    for (let at = a; at < a + CHUNK; at += PAGE) expect(placeOf(machine, process, at)).toBe("gpu0");
    expect(await process.ld(a + 31 * 64 * KIB)).toBe(31);
  });

  test("in the driver: goes nowhere near what had better be in RAM, and puts nobody out", async () => {
    const { machine, process, vm } = setUp({ policy: "nvidia-uvm" }, { vram: 4 * MIB });
    const a = await process.mmap(3 * CHUNK, { align: CHUNK });
    await process.fill(a, 3 * CHUNK, 4);
    await vm.attr(a + MIB, 64 * KIB, { loc: "SYS" });
    for (let i = 0; i < 9; i++) await vm.gst(a + i * 64 * KIB, i);
    expect(placeOf(machine, process, a + 15 * 64 * KIB)).toBe("gpu0");
    await vm.gst(a + 17 * 64 * KIB, 1);
    expect(placeOf(machine, process, a + 31 * 64 * KIB)).toBe("gpu0");
    expect(placeOf(machine, process, a + MIB)).toBe("SYS");
    const evicted = vm.counters.evict;
    await vm.toVram(a + CHUNK, MIB + 15 * 64 * KIB);
    await vm.gst(a + 2 * CHUNK, 1);
    expect(vm.counters.evict).toBe(evicted);
  });
});

describe("sequential prefetch", () => {
  const area = { start: 0, end: 64 * CHUNK };
  const chunk = (i: number, n = 1): Interval => ({ start: i * CHUNK, end: (i + n) * CHUNK });

  test("begins with the second fault in a row, and doubles up to 8 chunks", () => {
    const policy = prefetchPolicy("sequential");
    const nothing = view(area, () => false);
    expect(policy.afterBatch([chunk(0)], nothing)).toEqual([]);
    expect(policy.afterBatch([chunk(1)], nothing)).toEqual([chunk(2)]);
    expect(policy.afterBatch([chunk(3)], nothing)).toEqual([chunk(4, 2)]);
    expect(policy.afterBatch([chunk(6)], nothing)).toEqual([chunk(7, 4)]);
    expect(policy.afterBatch([chunk(11)], nothing)).toEqual([chunk(12, 8)]);
    expect(policy.afterBatch([chunk(20)], nothing)).toEqual([chunk(21, 8)]);
  });

  test("faults in a row within one batch count like as many batches, whatever their order", () => {
    const policy = prefetchPolicy("sequential");
    const nothing = view(area, () => false);
    expect(policy.afterBatch([chunk(2), chunk(0), chunk(1), chunk(30)], nothing)).toEqual([chunk(3, 2)]);
    expect(policy.afterBatch([chunk(5), chunk(31), chunk(32)], nothing)).toEqual([chunk(6, 4), chunk(33, 2)]);
  });

  test("a batch with pieces near each other is the front of a stream: its gaps are filled", () => {
    const policy = prefetchPolicy("sequential");
    const nothing = view(area, () => false);
    const front = [chunk(0), chunk(2), chunk(6), chunk(4)];
    expect(policy.afterBatch(front, nothing)).toEqual([chunk(1), chunk(3), chunk(5), chunk(7, 4)]);
    // Three are too few, gaps of two chunks too large.
    expect(policy.afterBatch([chunk(20), chunk(22), chunk(24)], nothing)).toEqual([]);
    expect(policy.afterBatch([chunk(30), chunk(33), chunk(36), chunk(39), chunk(42)], nothing)).toEqual([]);
  });

  test("tells streams apart, ends at the area's end, and leaves jumps alone", () => {
    const policy = prefetchPolicy("sequential");
    const nothing = view(area, () => false);
    expect(policy.afterBatch([chunk(0), chunk(60)], nothing)).toEqual([]);
    expect(policy.afterBatch([chunk(1), chunk(61)], nothing)).toEqual([chunk(2), chunk(62)]);
    expect(policy.afterBatch([chunk(30)], nothing)).toEqual([]);
    expect(policy.afterBatch([chunk(63)], nothing)).toEqual([]);
    expect(policy.afterBatch([chunk(3)], nothing)).toEqual([chunk(4, 2)]);
  });

  test("in the driver: a pass takes fewer faults, and moves no byte more", async () => {
    const faults: number[] = [];
    for (const prefetch of ["none", "sequential"] as const) {
      const { process, vm } = setUp({ policy: { prefetch } }, { vram: 32 * MIB });
      const a = await process.mmap(12 * CHUNK, { align: CHUNK, populate: true });
      for (let i = 0; i < 12; i++) await vm.gst(a + i * CHUNK, i);
      faults.push(vm.counters.gpuFault);
      expect(vm.counters.toDevBytes).toBe(12 * CHUNK);
    }
    expect(faults).toEqual([12, 5]);
  });
});

describe("eviction", () => {
  const buffers: Evictable[] = ["a", "b", "c", "d", "e"].map((identity) => ({ size: 1, identity }));
  const names = (list: readonly Evictable[]): string => list.map(({ identity }) => identity).join("");

  test("lru is the order of use", () => {
    const lru = evictPolicy("lru", 1);
    expect(lru.isOrderOfUse).toBe(true);
    expect(names(lru.order(buffers))).toBe("abcde");
  });

  test("fifo is that of arrival, whatever is used", () => {
    const fifo = evictPolicy("fifo", 1);
    for (const i of [3, 1, 4, 0, 2]) fifo.arrived(buffers[i]!);
    fifo.used(buffers[3]!);
    expect(names(fifo.order(buffers))).toBe("dbeac");
  });

  test("frequency has the least used first, then the least recently used, and remembers who comes back", () => {
    const policy = evictPolicy("frequency", 1);
    for (const i of [0, 0, 0, 1, 2, 2, 3, 4]) policy.used(buffers[i]!);
    expect(names(policy.order(buffers))).toBe("bdeca");
    const again = { size: 1, identity: "a" };
    expect(names(policy.order([again, ...buffers.slice(1)]))).toBe("bdeca");
  });

  test("random is an order of all, the same for the same seed, and seldom that of use", () => {
    const orders = [1, 1, 2, 3, 4].map((seed) => names(evictPolicy("random", seed).order(buffers)));
    expect(orders[0]).toBe(orders[1]);
    expect(new Set(orders).size).toBeGreaterThan(2);
    for (const order of orders) expect([...order].sort().join("")).toBe("abcde");
  });

  /** Which of chunks 0 to 3 is put out by chunk 4, when 0 came first but has been touched since. */
  async function victim(evict: "lru" | "fifo" | "frequency"): Promise<number> {
    const { machine, process, vm } = setUp({ policy: { evict } });
    const a = await process.mmap(5 * CHUNK, { align: CHUNK });
    for (let i = 0; i < 4; i++) await vm.gst(a + i * CHUNK, i);
    await vm.toVram(a, CHUNK);
    if (evict === "frequency") for (const i of [1, 3, 3]) await vm.toVram(a + i * CHUNK, CHUNK);
    await vm.gst(a + 4 * CHUNK, 4);
    const out = [0, 1, 2, 3].filter((i) => placeOf(machine, process, a + i * CHUNK) !== "gpu0");
    expect(out).toHaveLength(1);
    return out[0]!;
  }

  test("in the driver: lru spares what was touched, fifo does not, frequency takes what was touched least", async () => {
    expect(await victim("lru")).toBe(1);
    expect(await victim("fifo")).toBe(0);
    expect(await victim("frequency")).toBe(2);
  });

  /** Buffer objects and chunks by turns fill VRAM, the first two are used again; who leaves for one more, of which kind. */
  async function mixedVictim(evict: "lru" | "fifo" | "frequency", comes: "object" | "chunk"): Promise<string> {
    const { machine, gpu, process, vm } = setUp({ policy: { evict } });
    const [va, a] = [2 ** 41, await process.mmap(3 * CHUNK, { align: CHUNK })];
    await vm.mirrorUnbind(va, 4 * CHUNK);
    const bos: Bo[] = [];
    const add = async (): Promise<void> => {
      const bo = await Bo.create(gpu, CHUNK, "VRAM");
      await vm.bind(va + bos.length * CHUNK, CHUNK, bo);
      await vm.gst(va + bos.length * CHUNK, 70 + bos.length);
      bos.push(bo);
    };
    await add();
    await vm.gst(a, 1);
    await add();
    await vm.gst(a + CHUNK, 2);
    // Used again, and with "frequency" the last two more often.
    for (const bo of evict === "frequency" ? [bos[0]!, bos[1]!, bos[1]!] : [bos[0]!]) await touch(bo);
    for (const i of evict === "frequency" ? [1, 1] : [0]) await vm.toVram(a + i * CHUNK, CHUNK);
    if (comes === "object") await add();
    else await vm.gst(a + 2 * CHUNK, 3);
    const out = [
      ...[0, 1].filter((i) => bos[i]!.driver.memType !== PL_VRAM).map((i) => `object ${i}`),
      ...[0, 1].filter((i) => placeOf(machine, process, a + i * CHUNK) !== "gpu0").map((i) => `chunk ${i}`),
    ];
    expect([await vm.gld(va), await vm.gld(va + CHUNK)]).toEqual([70, 71]);
    expect([await process.ld(a), await process.ld(a + CHUNK)]).toEqual([1, 2]);
    return out.join();
  }

  async function touch({ driver }: Bo): Promise<void> {
    const guard = await driver.resv.lock();
    expect(await driver.validate()).toBe(0);
    guard.release();
  }

  test.each(["object", "chunk"] as const)("one order for objects and chunks, when one more %s comes", async (comes) => {
    expect(await mixedVictim("lru", comes)).toBe("object 1");
    expect(await mixedVictim("fifo", comes)).toBe("object 0");
    expect(await mixedVictim("frequency", comes)).toBe("chunk 0");
  });

  test("memory that is advised to lie in RAM leaves before others for a buffer object too", async () => {
    const { machine, gpu, process, vm } = setUp();
    const a = await process.mmap(4 * CHUNK, { align: CHUNK });
    for (let i = 0; i < 4; i++) await vm.gst(a + i * CHUNK, i);
    await vm.attr(a + 2 * CHUNK, CHUNK, { loc: "SYS" });
    await Bo.create(gpu, CHUNK, "VRAM");
    expect([0, 1, 2, 3].map((i) => placeOf(machine, process, a + i * CHUNK))).toEqual(["gpu0", "gpu0", "SYS", "gpu0"]);
  });

  test("in the driver: random victims are those of the seed", async () => {
    const outs: string[] = [];
    for (const seed of [1, 1, 2, 3, 4, 5]) {
      const { machine, process, vm } = setUp({ policy: { evict: "random" } }, {}, seed);
      const a = await process.mmap(8 * CHUNK, { align: CHUNK });
      for (let i = 0; i < 8; i++) await vm.gst(a + i * CHUNK, i);
      outs.push([0, 1, 2, 3, 4, 5, 6, 7].filter((i) => placeOf(machine, process, a + i * CHUNK) !== "gpu0").join(""));
    }
    expect(outs[0]).toBe(outs[1]);
    expect(new Set(outs).size).toBeGreaterThan(2);
  });
});

describe("thrashing", () => {
  test("pin: after three bounces in a row, until its time is over; the fifth time for good", () => {
    const policy = thrashPolicy("pin");
    const bounce = (): boolean => {
      policy.onCpuFault(0);
      return policy.onGpuFault(0).pin;
    };
    for (let resets = 0; resets <= THRASH_MAX_RESETS; resets++) {
      expect([policy.onGpuFault(0).pin, bounce(), bounce(), bounce()]).toEqual([false, false, false, true]);
      expect(policy.onGpuFault(4096).pin).toBe(false);
      for (let i = 0; i < THRASH_PIN - 2; i++) expect(policy.onGpuFault(0).pin).toBe(true);
      expect(policy.released()).toEqual([]);
      policy.onGpuFault(8192);
      expect(policy.released()).toEqual(resets < THRASH_MAX_RESETS ? [0] : []);
      expect(policy.released()).toEqual([]);
    }
    expect(policy.onGpuFault(0).pin).toBe(true);
  });

  test("pin: bounces that are far apart do not count together", () => {
    const policy = thrashPolicy("pin");
    for (let i = 0; i < 8; i++) {
      policy.onCpuFault(0);
      for (let k = 0; k <= THRASH_LAPSE; k++) policy.onGpuFault(4096 * (1 + k));
      expect(policy.onGpuFault(0).pin).toBe(false);
    }
  });

  test("timeslice: longer with each bounce, up to 80 ms", () => {
    const policy = thrashPolicy("timeslice");
    const slices = Array.from({ length: 7 }, () => {
      const { timesliceMs } = policy.onGpuFault(0);
      policy.onCpuFault(0);
      return timesliceMs;
    });
    expect(slices).toEqual([0, 5, 10, 20, 40, 80, 80]);
  });

  /** CPU and GPU take turns on one word; bytes that crossed to the device. */
  async function pingPong(policy: PolicyChoice, turns: number) {
    const set = setUp({ policy });
    const a = await set.process.mmap(64 * KIB, { align: 64 * KIB, populate: true });
    for (let i = 0; i < turns; i++) {
      await set.vm.ginc(a);
      await set.process.inc(a);
    }
    expect(await set.process.ld(a)).toBe(2 * turns);
    return { ...set, a };
  }

  test("pin, in the driver: after the third bounce nothing crosses any more", async () => {
    const { machine, process, vm, a } = await pingPong({ thrash: "pin" }, 20);
    expect(vm.counters.toDevBytes).toBe(3 * 64 * KIB);
    expect(placeOf(machine, process, a)).toBe("SYS");
    expect(vm.stats.get("wgsvm_thrash_pin_count")).toBe(1);
    const without = await pingPong("default", 20);
    expect(without.vm.counters.toDevBytes).toBe(20 * 64 * KIB);
  });

  test("pin, in the driver: when its time is over the chunk moves again", async () => {
    const { machine, process, vm, a } = await pingPong({ thrash: "pin", migrate: "fault" }, 6);
    const b = await process.mmap((THRASH_PIN + 1) * PAGE, { populate: true });
    for (let i = 0; i <= THRASH_PIN; i++) {
      vm.svm.policies.thrash.onGpuFault(b + i * PAGE);
    }
    await vm.gst(b, 1);
    await vm.ginc(a);
    expect(placeOf(machine, process, a)).toBe("gpu0");
    expect(await process.ld(a)).toBe(13);
  });

  test("timeslice, in the driver: the CPU waits for what has bounced", async () => {
    const { machine, process, vm } = setUp({ policy: { thrash: "timeslice" } });
    const a = await process.mmap(64 * KIB, { align: 64 * KIB, populate: true });
    const waits: number[] = [];
    await machine.sched.race(1, [
      async () => {
        for (let i = 0; i < 3; i++) {
          await vm.ginc(a);
          const before = machine.sched.now();
          await process.inc(a);
          waits.push(Math.round(machine.sched.now() - before));
        }
      },
    ]);
    expect(waits[0]).toBe(0);
    expect(waits[1]).toBeGreaterThanOrEqual(4);
    expect(waits[2]).toBeGreaterThanOrEqual(9);
    expect(vm.stats.get("wgsvm_thrash_timeslice_count")).toBe(2);
  });

  test("timeslice: memory that is moved on request after bouncing stays as long as after a fault", async () => {
    const { machine, process, vm } = setUp({ policy: { thrash: "timeslice" } });
    const a = await process.mmap(64 * KIB, { align: 64 * KIB, populate: true });
    const waits: number[] = [];
    await machine.sched.race(1, [
      async () => {
        for (let i = 0; i < 3; i++) {
          await vm.prefetch(a, 64 * KIB, "DEV");
          const before = machine.sched.now();
          await process.inc(a);
          waits.push(Math.round(machine.sched.now() - before));
        }
      },
    ]);
    expect(waits[0]).toBe(0);
    expect(waits[1]).toBeGreaterThanOrEqual(4);
    expect(waits[2]).toBeGreaterThanOrEqual(9);
  });

  test("pin: what is kept in RAM is not brought because it is expected to be wanted, but on request", async () => {
    const { machine, process, vm } = setUp({ policy: { thrash: "pin" } });
    const a = await process.mmap(64 * KIB, { align: 64 * KIB, populate: true });
    for (let i = 0; i < 4; i++) {
      await vm.ginc(a);
      await process.inc(a);
    }
    await vm.ginc(a);
    expect(placeOf(machine, process, a)).toBe("SYS");
    expect(await vm.prefetch(a, 64 * KIB, "DEV", { noWait: true })).toBe(0);
    expect(placeOf(machine, process, a)).toBe("SYS");
    expect(await vm.prefetch(a, 64 * KIB, "DEV")).toBe(16);
    expect(await process.ld(a)).toBe(9);
  });
});
