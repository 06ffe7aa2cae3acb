import { describe, expect, test } from "vitest";
import { EIO } from "../../src/base/errno.ts";
import { AccessFault } from "../../src/mm/access.ts";
import type { Zdd } from "../../src/pagemap/zdd.ts";
import {
  KB64,
  PAGE,
  expectBalanced,
  expectBytes,
  filled,
  kinds,
  machine,
  migrateIn,
  readOk,
} from "./pagemap-array-vram.ts";

const turn = () => new Promise((resume) => setImmediate(resume));

describe("a CPU access to a page in device memory", () => {
  test.each(["read", "write"] as const)("a %s brings the whole allocation home in one fault", async (access) => {
    const m = machine();
    const { start, bytes } = await filled(m.mm, KB64, 0x40000000);
    await migrateIn(m, start, start + KB64);
    const faults = m.mm.deviceFaults;
    if (access === "read") await m.mm.read(start + 5 * PAGE, 1);
    else {
      await m.mm.write(start + 5 * PAGE, Uint8Array.of(99));
      bytes[5 * PAGE] = 99;
    }
    expect(m.mm.deviceFaults - faults).toBe(1);
    expect(kinds(m.mm, start, start + KB64)).toEqual({ present: 16 });
    expectBytes(await readOk(m.mm, start, KB64), bytes);
    expect(m.vram.releases).toBe(1);
    expect(m.vram.live.size).toBe(0);
    await expectBalanced(m);
  });

  test("the window is cut to the area, when part of the range was unmapped", async () => {
    const m = machine();
    const { start, bytes } = await filled(m.mm, KB64, 0x40000000);
    await migrateIn(m, start, start + KB64);
    await m.mm.munmap(start + 4 * PAGE, 4 * PAGE);
    await m.mm.read(start + PAGE, 1);
    expect(kinds(m.mm, start, start + 4 * PAGE)).toEqual({ present: 4 });
    expect(kinds(m.mm, start + 8 * PAGE, start + KB64), "the other area waits for its own fault").toEqual({
      "device-private": 8,
    });
    expect(m.vram.releases).toBe(0);
    expectBytes(await readOk(m.mm, start + 8 * PAGE, 8 * PAGE), bytes.subarray(8 * PAGE));
    expect(m.vram.releases).toBe(1);
    await expectBalanced(m);
  });

  test("pages of another migration in the window stay where they are", async () => {
    const m = machine();
    const { start, bytes } = await filled(m.mm, KB64, 0x40000000);
    await migrateIn(m, start, start + KB64);
    await m.mm.read(start, 1); // All home again: two migrations of half the window each.
    const guard = m.mm.mmapLock.tryRead()!;
    expect(await m.vram.migrate(m.mm, start, start + 8 * PAGE, 0, KB64)).toBe(0);
    expect(await m.vram.migrate(m.mm, start + 8 * PAGE, start + KB64, 0, KB64)).toBe(0);
    guard.release();
    await m.mm.read(start + 9 * PAGE, 1);
    expect(kinds(m.mm, start, start + 8 * PAGE)).toEqual({ "device-private": 8 });
    expect(kinds(m.mm, start + 8 * PAGE, start + KB64)).toEqual({ present: 8 });
    expectBytes(await readOk(m.mm, start, KB64), bytes);
    expect(m.vram.releases).toBe(3);
    await expectBalanced(m);
  });

  test("holes in the window stay holes", async () => {
    const m = machine();
    const { start } = await filled(m.mm, KB64, 0x40000000);
    await migrateIn(m, start, start + KB64);
    await m.mm.dontneed(start + PAGE, PAGE);
    await m.mm.read(start, 1);
    expect(kinds(m.mm, start, start + KB64)).toEqual({ present: 15, none: 1 });
    await expectBalanced(m);
  });

  test("R13: a copy that fails is a bus error; the page is still in device memory, its data whole", async () => {
    const m = machine();
    const { start, bytes } = await filled(m.mm, KB64, 0x40000000);
    await migrateIn(m, start, start + KB64);
    m.vram.failCopyToRam = EIO;
    const fault = await m.mm.read(start, 4);
    expect(fault).toBeInstanceOf(AccessFault);
    expect((fault as AccessFault).code).toBe("BUS");
    expect(kinds(m.mm, start, start + KB64)).toEqual({ "device-private": 16 });
    expect((m.phys.zoneDeviceData(m.mm.devicePfnAt(start)) as Zdd).refcount).toBe(16);
    expectBytes(await readOk(m.mm, start, KB64), bytes);
    await expectBalanced(m);
  });

  test("when RAM is used up the access fails, and no data is lost", async () => {
    const m = machine(64);
    const { start, bytes } = await filled(m.mm, KB64, 0x40000000);
    await migrateIn(m, start, start + KB64);
    const hog = (await m.mm.mmap(61 * PAGE)) as number;
    await m.mm.fill(hog, 61 * PAGE, 1);
    expect(await m.mm.read(start, 1)).toBeInstanceOf(AccessFault);
    expect(kinds(m.mm, start, start + KB64)).toEqual({ "device-private": 16 });
    await m.mm.munmap(hog, 61 * PAGE);
    expectBytes(await readOk(m.mm, start, KB64), bytes);
    await expectBalanced(m);
  });

  test("many CPU threads on one page: one migrates, all read", async () => {
    const m = machine();
    const { start, bytes } = await filled(m.mm, KB64, 0x40000000);
    await migrateIn(m, start, start + KB64);
    m.vram.duringCopyToRam = async () => void (await turn());
    const reads = Array.from({ length: 8 }, (_, i) => readOk(m.mm, start + i * PAGE, PAGE));
    for (const [i, read] of (await Promise.all(reads)).entries())
      expectBytes(read, bytes.subarray(i * PAGE, (i + 1) * PAGE));
    expect(m.vram.releases).toBe(1);
    await expectBalanced(m);
  });

  test("R15: inside its time slice a page does not move; the access completes after the slice, and others run meanwhile", async () => {
    const m = machine();
    const { start, bytes } = await filled(m.mm, KB64, 0x40000000);
    m.clock.time = 100;
    expect(await migrateIn(m, start, start + KB64, 5)).toBe(0);
    let done = false;
    const reading = readOk(m.mm, start, KB64).finally(() => {
      done = true;
    });
    await turn();
    expect(done).toBe(false);
    expect(m.vram.copiesOut).toBe(0);
    expectBytes(await reading, bytes);
    expect(m.clock.time).toBeGreaterThanOrEqual(105);
    await expectBalanced(m);
  });

  test("a writer waiting for the mmap lock gets in between the naps of a time slice", async () => {
    const m = machine();
    const { start } = await filled(m.mm, KB64, 0x40000000);
    expect(await migrateIn(m, start, start + KB64, 50)).toBe(0);
    const reading = readOk(m.mm, start, 1);
    await turn();
    await m.mm.mmap(PAGE);
    expect(m.clock.time, "the mapping did not wait for the slice").toBeLessThan(50);
    await reading;
    await expectBalanced(m);
  });
});
