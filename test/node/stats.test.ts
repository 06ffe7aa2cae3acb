/** Statistics under the names of the Xe driver: what counts, when, and the text form. */
import { describe, expect, test } from "vitest";
import { SIZED, STAT_NAMES, SvmStats } from "../../src/driver/stats.ts";
import type { StatName } from "../../src/driver/stats.ts";
import { REFERENCE_ENGINE } from "../../src/machine/engine.ts";
import { Machine } from "../../src/machine/machine.ts";

const KIB = 1 << 10;
const MIB = 1 << 20;

/** The names of drivers/gpu/drm/xe/xe_gt_stats.c that have a meaning here; those of engine groups and reclaim lists have none. */
const IN_SIZES = [
  "pagefault_count",
  "valid_pagefault_count",
  "pagefault_us",
  "migrate_count",
  "migrate_us",
  "device_copy_us",
  "cpu_copy_us",
  "device_copy_kb",
  "cpu_copy_kb",
  "get_pages_us",
  "bind_us",
];
const XE = [
  ...["svm_pagefault_count", "tlb_inval_count", "svm_tlb_inval_count", "svm_tlb_inval_us"],
  ...["vma_pagefault_count", "vma_pagefault_kb", "invalid_prefetch_pagefault_count"],
  ...["svm_device_copy_us", "svm_cpu_copy_us", "svm_device_copy_kb", "svm_cpu_copy_kb"],
  ...IN_SIZES.flatMap((name) => ["4K", "64K", "2M"].map((size) => `svm_${size}_${name}`)),
];

const turn = (): Promise<void> => new Promise((resume) => setImmediate(resume));
/** A clock that stands: no time slice ends. */
const STILL = { now: () => 0, turn, sleep: () => Promise.resolve() };

function setUp() {
  const machine = new Machine({ engine: REFERENCE_ENGINE, ram: 64 * MIB, platform: STILL });
  const process = machine.createProcess();
  const gpu = machine.createDevice({ vram: 4 * MIB });
  return { machine, process, gpu, vm: gpu.vm(process) };
}

describe("the names", () => {
  test("are Xe's to the letter, and ours under a prefix of their own", () => {
    const ours = STAT_NAMES.filter((name) => name.startsWith("wgsvm_"));
    expect([...STAT_NAMES].filter((name) => !name.startsWith("wgsvm_")).sort()).toEqual(XE.sort());
    expect(ours.length).toBeGreaterThan(0);
    expect(new Set(STAT_NAMES).size).toBe(STAT_NAMES.length);
  });
});

describe("the text form", () => {
  test("is one line `name: value` each, whole numbers", () => {
    const stats = new SvmStats(null);
    stats.add("svm_pagefault_count", 3);
    stats.addSized(SIZED.migrate_us, 64 * KIB, 12.6);
    const lines = stats.text().split("\n");
    expect(lines.pop()).toBe("");
    expect(lines).toHaveLength(STAT_NAMES.length);
    for (const line of lines) expect(line).toMatch(/^[a-z][A-Za-z0-9_]*: \d+$/);
    expect(lines).toContain("svm_pagefault_count: 3");
    expect(lines).toContain("svm_64K_migrate_us: 13");
  });

  test("is of zeros after clear, which leaves the device's alone", () => {
    const device = new SvmStats(null);
    const vm = new SvmStats(device);
    vm.add("tlb_inval_count", 2);
    vm.clear();
    expect([vm.get("tlb_inval_count"), device.get("tlb_inval_count")]).toEqual([0, 2]);
    device.clear();
    expect(device.text()).toBe(new SvmStats(null).text());
  });

  test("of sizes that have no name counts the total only", () => {
    const stats = new SvmStats(null);
    stats.addSized(SIZED.device_copy_kb, 256 * KIB, 256);
    stats.addSized(SIZED.device_copy_kb, 2 * MIB, 2048);
    const counted = Object.entries(stats.all()).filter(([, n]) => n > 0);
    expect(Object.fromEntries(counted)).toEqual({ svm_device_copy_kb: 2304, svm_2M_device_copy_kb: 2048 });
  });
});

describe("a run counts", () => {
  const of = (stats: SvmStats, ...names: StatName[]): number[] => names.map((name) => stats.get(name));

  test("faults, migrations and copies by the size of the range", async () => {
    const { machine, process, gpu, vm } = setUp();
    const a = await process.mmap(2 * MIB + 64 * KIB + 4 * KIB, { align: 2 * MIB, populate: true });
    for (const at of [a, a + 2 * MIB, a + 2 * MIB + 64 * KIB]) await vm.gst(at, 1);
    const { stats } = vm;
    expect(
      of(stats, "svm_pagefault_count", "svm_2M_pagefault_count", "svm_64K_pagefault_count", "svm_4K_pagefault_count"),
    ).toEqual([3, 1, 1, 1]);
    expect(of(stats, "svm_2M_migrate_count", "svm_64K_migrate_count", "svm_4K_migrate_count")).toEqual([1, 1, 1]);
    expect(of(stats, "svm_device_copy_kb", "svm_2M_device_copy_kb", "svm_4K_device_copy_kb")).toEqual([2116, 2048, 4]);
    await process.ld(a);
    expect(of(stats, "svm_cpu_copy_kb", "svm_2M_cpu_copy_kb", "svm_64K_cpu_copy_kb")).toEqual([2048, 2048, 0]);
    expect(of(stats, "wgsvm_cpu_fault_count", "wgsvm_refault_count")).toEqual([1, 0]);
    expect(stats.get("svm_tlb_inval_count")).toBeGreaterThan(0);
    expect(stats.get("tlb_inval_count")).toBe(vm.counters.tlbInval);
    await vm.gst(a, 1);
    expect(stats.get("wgsvm_refault_count")).toBe(1);
    expect(gpu.stats.all()).toEqual(stats.all());
    await machine.settle();
  });

  test("times, in microseconds of the scheduler's clock", async () => {
    let now = 0;
    const tick = { ...STILL, now: () => (now += 0.25) };
    const machine = new Machine({ engine: REFERENCE_ENGINE, ram: 16 * MIB, platform: tick });
    const process = machine.createProcess();
    const vm = machine.createDevice({ vram: 4 * MIB }).vm(process);
    const a = await process.mmap(64 * KIB, { align: 64 * KIB, populate: true });
    await vm.gst(a, 1);
    await process.ld(a);
    for (const name of ["pagefault", "migrate", "device_copy", "cpu_copy", "get_pages", "bind"] as const) {
      expect(vm.stats.get(`svm_64K_${name}_us`)).toBeGreaterThanOrEqual(250);
      expect(vm.stats.get(`svm_2M_${name}_us`)).toBe(0);
    }
    expect(vm.stats.get("svm_64K_pagefault_us")).toBeGreaterThan(vm.stats.get("svm_64K_migrate_us"));
  });

  test("faults that find the range valid, and those that come with another", async () => {
    const { process, vm } = setUp();
    const a = await process.mmap(2 * MIB, { align: 2 * MIB });
    await vm.job(
      [
        ["st", a, 1],
        ["st", a + 4096, 2],
        ["st", a + MIB, 3],
      ],
      { parallel: true },
    );
    expect(of(vm.stats, "svm_pagefault_count", "wgsvm_chained_fault_count")).toEqual([1, 2]);
    await vm.ghint(a);
    expect(of(vm.stats, "svm_pagefault_count", "svm_2M_valid_pagefault_count")).toEqual([1, 0]);
    await vm.ghint(16);
    expect(vm.stats.get("invalid_prefetch_pagefault_count")).toBe(1);
    expect(vm.stats.get("wgsvm_round_count")).toBe(vm.counters.rounds);
  });

  test("one fault for a range, even where the time slice is over before it", async () => {
    let now = 0;
    const slow = { ...STILL, now: () => (now += 25) };
    const machine = new Machine({ engine: REFERENCE_ENGINE, ram: 16 * MIB, platform: slow });
    const process = machine.createProcess();
    const vm = machine.createDevice({ vram: 4 * MIB }).vm(process);
    const a = await process.mmap(2 * MIB, { align: 2 * MIB });
    const ops = [0, 1, 2, 3].map((i): ["st", number, number] => ["st", a + i * 4096, i]);
    await vm.job(ops, { parallel: true });
    expect(vm.counters.slices).toBeGreaterThan(0);
    expect(of(vm.stats, "svm_pagefault_count", "wgsvm_chained_fault_count")).toEqual([1, 3]);
    expect(vm.counters.gpuFault).toBe(1);
    expect(await process.ld(a + 3 * 4096)).toBe(3);
  });

  test("and keeps what the pages lie in now, where others have moved them meanwhile", async () => {
    let now = 0;
    let turns = 0;
    let pins = -1;
    const machine = new Machine({
      engine: REFERENCE_ENGINE,
      ram: 16 * MIB,
      platform: { ...STILL, now: () => (now += 25), turn: () => others() },
    });
    const process = machine.createProcess();
    const gpu = machine.createDevice({ vram: 4 * MIB });
    const vm = gpu.vm(process);
    // Three ranges. Others have their turn before the first fault of each.
    const a = await process.mmap(192 * KIB, { align: 64 * KIB, populate: true });
    let isTheirTurn = false;
    const others = async (): Promise<void> => {
      // What they do gives way in its turn.
      if (isTheirTurn) return;
      turns += 1;
      const buffer = () => gpu.driver.buffersIn(process.mm, a, a + 64 * KIB)[0]!;
      if (turns === 2) {
        isTheirTurn = true;
        const before = buffer();
        before.unpin();
        await vm.toSys(a, 64 * KIB);
        before.pin();
        await vm.prefetch(a, 64 * KIB, "DEV");
        expect(buffer() === before).toBe(false);
        isTheirTurn = false;
      }
      if (turns === 3) ({ pins } = buffer());
    };
    const ops = [0, 64, 4, 128].map((at): ["st", number, number] => ["st", a + at * KIB, at]);
    await vm.job(ops, { parallel: true });
    expect(turns).toBeGreaterThanOrEqual(3);
    expect(pins).toBeGreaterThan(0);
    expect(vm.counters.gpuFault).toBe(3);
  });

  test("evictions, of the space whose buffer went, and of the device beyond the space's life", async () => {
    const { machine, process, gpu, vm } = setUp();
    const other = gpu.vm(machine.createProcess());
    const a = await process.mmap(4 * MIB, { align: 2 * MIB });
    const b = await other.process.mmap(2 * MIB, { align: 2 * MIB });
    await vm.gst(a, 1);
    await vm.gst(a + 2 * MIB, 1);
    await other.gst(b, 1);
    expect([vm.stats.get("wgsvm_evict_count"), other.stats.get("wgsvm_evict_count")]).toEqual([1, 0]);
    await vm.close();
    expect(gpu.stats.get("svm_2M_pagefault_count")).toBe(3);
    expect(gpu.stats.get("wgsvm_evict_count")).toBe(1);
  });
});
