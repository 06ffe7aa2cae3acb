/** More page tables than their aperture holds: those of memory that the GPU has lost give way, then those used the longest ago. */
import { describe, expect, test } from "vitest";
import { assert } from "../../src/base/assert.ts";
import { isErr } from "../../src/base/errno.ts";
import { EVENT_KINDS, TRACE_STRIDE } from "../../src/base/trace.ts";
import { mapBo } from "../../src/driver/bind-ops.ts";
import { Bo } from "../../src/driver/bo.ts";
import { REFERENCE_ENGINE } from "../../src/machine/engine.ts";
import { Machine } from "../../src/machine/machine.ts";
import type { JobOp } from "../../src/machine/vm.ts";
import { openResident } from "../resident-vm.ts";

const MIB = 1 << 20;
const PAGE = 4096;
/** The aperture of a small device has 512 pages, of which two are never handed out. */
const AREAS = 600;
const BATCH = 30;

test.each([
  ["in VRAM, from which the CPU takes it back", true],
  ["in place, from where the CPU discards it", false],
])("one page in each 2 MiB of a large address space, %s", async (_name, migrate) => {
  const machine = new Machine({ engine: REFERENCE_ENGINE, ram: 16 * MIB, config: { migrate } });
  const process = machine.createProcess();
  const vm = machine.createDevice({ vram: 4 * MIB }).vm(process);
  const start = 2 ** 40;
  const at = (i: number): number => start + i * 2 * MIB;
  for (let i = 0; i < AREAS; i++) await process.mmap(PAGE, { at: at(i) });
  for (let first = 0; first < AREAS; first += BATCH) {
    const batch = Array.from({ length: BATCH }, (_, k) => first + k);
    await vm.job(
      batch.map((i): JobOp => ["st", at(i), i]),
      { parallel: true },
    );
    for (const i of batch) expect(await process.ld(at(i))).toBe(i);
    if (!migrate) for (const i of batch) await process.dontneed(at(i), PAGE);
  }
  // What has lost its tables is served again.
  for (const i of [0, 1, 250, AREAS - 1]) expect(await vm.gld(at(i))).toBe(migrate ? i : 0);
  await process.exit();
  await machine.close();
});

describe("tables of mappings that serve", () => {
  const at = (i: number): number => 2 ** 40 + i * 2 * MIB;

  async function open(migrate: boolean) {
    const machine = new Machine({ engine: REFERENCE_ENGINE, ram: 16 * MIB, config: { migrate } });
    const process = machine.createProcess();
    const vm = machine.createDevice({ vram: 4 * MIB }).vm(process);
    for (let i = 0; i < AREAS; i++) await process.mmap(PAGE, { at: at(i) });
    return { machine, process, vm };
  }

  test.each([
    ["in VRAM", true],
    ["in place", false],
  ])("the least recently used give way, %s, and their pages stay where they are", async (_name, migrate) => {
    const { machine, process, vm } = await open(migrate);
    for (let i = 0; i < 480; i++) await vm.gst(at(i), i);
    // The first is new again.
    await process.munmap(at(0), PAGE);
    await process.mmap(PAGE, { at: at(0) });
    await vm.gst(at(0), 1000);
    const { toSysBytes, toDevBytes } = vm.counters;
    for (let i = 480; i < AREAS; i++) await vm.gst(at(i), i);
    expect(vm.counters.toSysBytes).toBe(toSysBytes);
    expect(vm.counters.toDevBytes - toDevBytes).toBe(migrate ? (AREAS - 480) * PAGE : 0);
    const gone = vm.stats.get("wgsvm_table_reclaim_count");
    expect(gone).toBeGreaterThanOrEqual(AREAS - 510);
    expect(gone).toBeLessThan(200);
    const faults = async (i: number): Promise<number> => {
      const { gpuFault, migrationsIn } = vm.counters;
      expect(await vm.gld(at(i))).toBe(i === 0 ? 1000 : i);
      expect(vm.counters.migrationsIn).toBe(migrationsIn);
      return vm.counters.gpuFault - gpuFault;
    };
    expect([await faults(300), await faults(AREAS - 1), await faults(0), await faults(1), await faults(1)]).toEqual([
      0, 0, 0, 1, 0,
    ]);
    for (const i of [0, 2, 479, AREAS - 1]) expect(await process.ld(at(i))).toBe(i === 0 ? 1000 : i);
    await process.exit();
    await machine.close();
  });

  test("a launch that wants more of them than there are goes on with what it has", async () => {
    const { machine, process, vm } = await open(true);
    await vm.job(
      Array.from({ length: AREAS }, (_, i): JobOp => ["st", at(i), i]),
      { parallel: true },
    );
    for (let i = 0; i < AREAS; i += 7) expect(await process.ld(at(i))).toBe(i);
    await process.exit();
    await machine.close();
  });

  test("what was prefetched last is no less recently used than what a fault has brought", async () => {
    const { machine, process, vm } = await open(true);
    for (let i = 0; i < 480; i++) await vm.gst(at(i), i);
    for (let i = 480; i < AREAS; i++) await vm.prefetch(at(i), PAGE, "DEV");
    const { gpuFault } = vm.counters;
    for (let i = 480; i < AREAS; i++) await vm.gld(at(i));
    expect(vm.counters.gpuFault).toBe(gpuFault);
    await process.exit();
    await machine.close();
  });

  test("an object that comes back in pieces, for a launch without fault mode, gets the table that it needs", async () => {
    const { machine, process, vm } = await open(false);
    const { driver } = vm.device;
    const object = async (bytes: number): Promise<Bo> => {
      const bo = await Bo.create(driver, { size: bytes, placement: "vram" });
      assert(!isErr(bo), "there is room for an object");
      return bo;
    };
    const resident = openResident(vm.device, process);
    const whole = await object(2 * MIB);
    expect(await resident.svm.binds.bind([mapBo(at(0), 2 * MIB, whole)])).toBe(0);
    await resident.gst(at(0), 7);
    for (let i = 1; i < AREAS; i++) await vm.gst(at(i), i);
    const full = driver.regions[0]!.tableBytes;
    const others = [await object(MIB), await object(MIB), await object(MIB), await object(MIB)];
    others[0]!.close();
    others[2]!.close();
    await machine.settle();
    for (let i = 1; driver.regions[0]!.tableBytes < full; i++) await vm.gst(at(i), i);
    expect(await resident.gld(at(0))).toBe(7);
    expect(whole.mem.resource!.blocks.length).toBeGreaterThan(1);
    for (const bo of [whole, others[1]!, others[3]!]) bo.close();
    await process.exit();
    await machine.close();
  });

  test("the invalidation comes before the tables are used for others", async () => {
    const { machine, process, vm } = await open(true);
    for (let i = 0; i < AREAS; i++) await vm.gst(at(i), i);
    const events = machine.trace.since(1);
    const rows = Array.from(
      { length: events.length / TRACE_STRIDE },
      (_, i) => EVENT_KINDS[events[i * TRACE_STRIDE + 1]!]![0],
    );
    const first = rows.indexOf("table-reclaim");
    expect(rows[first + 1]).toBe("tlb-invalidate");
    await process.exit();
    await machine.close();
  });
});
