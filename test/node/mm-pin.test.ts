import { describe, expect, test } from "vitest";
import { assert } from "../../src/base/assert.ts";
import { EFAULT, EINVAL, ENOMEM, type Errno } from "../../src/base/errno.ts";
import { compact } from "../../src/mm/compaction.ts";
import { checkInvariants, checkQuiescent } from "../../src/mm/invariants.ts";
import { Mm } from "../../src/mm/mm.ts";
import { Pin } from "../../src/mm/pin.ts";
import { MMU_NOTIFY_CLEAR } from "../../src/mm/types.ts";
import { FakeDevice, MB, PAGE, RecordingNotifier, expectBytes, pattern, readOk, testPhys } from "./mm-fake-device.ts";

const BASE = 0x7f0000000000;

async function setUp(pages = 4) {
  const phys = testPhys(2048);
  const mm = new Mm({ phys });
  await mm.mmap(pages * PAGE, { at: BASE });
  return { phys, mm };
}

function pinned(pin: Pin | Errno): Pin {
  assert(pin instanceof Pin, () => `not pinned: ${Number(pin)}`);
  return pin;
}

const pin = async (mm: Mm, addr: number, length: number, write = true) => pinned(await mm.pin(addr, length, { write }));

describe("pin", () => {
  test("holds every page that the interval touches, until it is released once", async () => {
    const { phys, mm } = await setUp();
    const held = await pin(mm, BASE + 100, 2 * PAGE);
    expect([...held.pfns]).toEqual([0, 1, 2].map((i) => mm.pageAt(BASE + i * PAGE).pfn));
    expect([phys.refcount(held.pfns[0]!), phys.isPinned(held.pfns[2]!), mm.pageAt(BASE + 3 * PAGE).kind]).toEqual([
      2,
      true,
      "none",
    ]);
    checkInvariants(phys);
    held.release();
    expect(phys.isPinned(held.pfns[0]!)).toBe(false);
    expect(() => held.release()).toThrow(/twice/);
    checkQuiescent(phys);
  });

  test("a pinned page neither migrates, nor moves, nor goes to swap; released it does", async () => {
    const { phys, mm } = await setUp(3);
    await mm.write(BASE, pattern(3 * PAGE));
    const device = new FakeDevice(phys);
    const held = await pin(mm, BASE + PAGE, PAGE);
    const [pfn] = held.pfns;
    await mm.madvise(BASE, 3 * PAGE, "pageout");
    expect([0, 1, 2].map((i) => mm.pageAt(BASE + i * PAGE).kind)).toEqual(["swap", "present", "swap"]);
    await compact(phys);
    expect(mm.pageAt(BASE + PAGE).pfn).toBe(pfn);
    expect(await device.migrate(mm, BASE + PAGE, BASE + 2 * PAGE)).toBe(0);
    expectBytes(await readOk(mm, BASE, 3 * PAGE), pattern(3 * PAGE));
    held.release();
    expect(await device.migrate(mm, BASE, BASE + 3 * PAGE)).toBe(3);
    expectBytes(await readOk(mm, BASE, 3 * PAGE), pattern(3 * PAGE));
    checkQuiescent(phys);
  });

  test("outlives the mapping: the frame is free when it is released", async () => {
    const { phys, mm } = await setUp(1);
    const held = await pin(mm, BASE, PAGE);
    await mm.munmap(BASE, PAGE);
    expect(phys.refcount(held.pfns[0]!)).toBe(1);
    const free = phys.freePages;
    held.release();
    expect(phys.freePages).toBe(free + 1);
  });

  test("device memory comes home first, swapped pages come back", async () => {
    const { phys, mm } = await setUp(2);
    await mm.write(BASE, pattern(2 * PAGE));
    const device = new FakeDevice(phys);
    await device.migrate(mm, BASE, BASE + PAGE);
    await mm.madvise(BASE + PAGE, PAGE, "pageout");
    const held = await pin(mm, BASE, 2 * PAGE, false);
    for (const i of [0, 1]) {
      expectBytes(phys.bytesOf(held.pfns[i]!), pattern(2 * PAGE).subarray(i * PAGE, (i + 1) * PAGE));
    }
    held.release();
    checkQuiescent(phys);
  });

  test.for([true, false])(
    "breaks copy-on-write (write %s), announced as CLEAR; the child's page stays",
    async (write) => {
      const { phys, mm } = await setUp(1);
      await mm.write(BASE, pattern(PAGE));
      const child = await mm.fork();
      assert(child instanceof Mm, "fork failed");
      const watcher = new RecordingNotifier(mm, BASE, BASE + PAGE);
      await mm.intervalNotifierInsert(watcher);
      const held = await pin(mm, BASE, PAGE, write);
      expect(held.pfns[0]).not.toBe(child.pageAt(BASE).pfn);
      expect(watcher.take()).toEqual([[MMU_NOTIFY_CLEAR, BASE, BASE + PAGE]]);
      // A store now reaches the page that is held.
      await mm.write(BASE, Uint8Array.of(42));
      expect(phys.bytesOf(held.pfns[0]!)[0]).toBe(42);
      expectBytes(await readOk(child, BASE, PAGE), pattern(PAGE));
      held.release();
      checkQuiescent(phys);
    },
  );

  test("to read: the zero page is replaced by one of the process's own, also where it may not write", async () => {
    const { phys, mm } = await setUp(2);
    await mm.mprotect(BASE + PAGE, PAGE, "R");
    await mm.read(BASE, 2 * PAGE);
    const held = await pin(mm, BASE, 2 * PAGE, false);
    expect([...held.pfns].every((pfn) => phys.isPinned(pfn) && pfn > 1)).toBe(true);
    expect(await mm.write(BASE + PAGE, Uint8Array.of(1))).toMatchObject({ code: "SEGV" });
    await mm.write(BASE, Uint8Array.of(7));
    expect(phys.bytesOf(held.pfns[0]!)[0]).toBe(7);
    held.release();
    checkQuiescent(phys);
  });

  test("shared memory is held where it is, private memory of a file gets its copy", async () => {
    const { phys, mm } = await setUp(1);
    await mm.mmap(PAGE, { at: BASE + MB, shared: true });
    await mm.write(BASE + MB, Uint8Array.of(3));
    const { pfn } = mm.pageAt(BASE + MB);
    const held = await pin(mm, BASE + MB, 1);
    expect([...held.pfns]).toEqual([pfn]);
    held.release();
    checkQuiescent(phys);
  });

  test("pages of a huge one are held without a split; then it cannot migrate", async () => {
    const phys = testPhys(2048);
    const mm = new Mm({ phys });
    await mm.mmap(2 * MB, { at: BASE });
    await mm.madvise(BASE, 2 * MB, "hugepage");
    const held = await pin(mm, BASE + 7 * PAGE, 1);
    expect(mm.pageAt(BASE).huge).toBe(true);
    expect(await new FakeDevice(phys).migrate(mm, BASE, BASE + 2 * MB)).toBe(0);
    expect(mm.pageAt(BASE + 7 * PAGE).pfn).toBe(held.pfns[0]);
    held.release();
    checkQuiescent(phys);
  });

  test("bad input holds nothing: no length, no address, a hole behind, no permission, out of memory", async () => {
    const { phys, mm } = await setUp(2);
    const read = { write: false };
    expect(await mm.pin(BASE, 0, read)).toBe(EINVAL);
    expect(await mm.pin(-PAGE, PAGE, read)).toBe(EINVAL);
    expect(await mm.pin(BASE, 1.5, read)).toBe(EINVAL);
    expect(await mm.pin(2 ** 47, PAGE, read)).toBe(EFAULT);
    expect(await mm.pin(BASE, 3 * PAGE, read)).toBe(EFAULT);
    await mm.mprotect(BASE + PAGE, PAGE, "R");
    expect(await mm.pin(BASE, 2 * PAGE, { write: true })).toBe(EFAULT);
    await mm.mprotect(BASE + PAGE, PAGE, "NONE");
    expect(await mm.pin(BASE, 2 * PAGE, read)).toBe(EFAULT);
    await mm.dontneed(BASE, PAGE);
    phys.failpoint = (site) => site === "frame-alloc";
    expect(await mm.pin(BASE, PAGE, read)).toBe(ENOMEM);
    phys.failpoint = null;
    expect(phys.frames.pins.every((pins) => pins === 0)).toBe(true);
    checkQuiescent(phys);
  });
});
