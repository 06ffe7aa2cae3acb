import { describe, expect, test } from "vitest";
import { checkQuiescent } from "../../src/mm/invariants.ts";
import { Mm } from "../../src/mm/mm.ts";
import { MMU_NOTIFY_UNMAP } from "../../src/mm/types.ts";
import { FakeDevice, PAGE, RecordingNotifier, testPhys } from "./mm-fake-device.ts";

const BASE = 0x7f0000000000;

/** Refuses what it may refuse, as `drm_gpusvm` does. */
class RefusingNotifier extends RecordingNotifier {
  override invalidate(range: Parameters<RecordingNotifier["invalidate"]>[0], curSeq: number) {
    return range.blockable ? super.invalidate(range, curSeq) : false;
  }
}

async function setUp() {
  const phys = testPhys();
  const mm = new Mm({ phys });
  await mm.mmap(4 * PAGE, { at: BASE });
  await mm.mmap(PAGE, { at: BASE + 8 * PAGE, shared: true });
  await mm.fill(BASE, 4 * PAGE, 1);
  await mm.store32(BASE + 8 * PAGE, 5);
  return { phys, mm, used: 2046 - phys.freePages };
}

describe("oomReap", () => {
  test("takes private pages, wherever they are, with an UNMAP that must not wait; shared memory stays", async () => {
    const { phys, mm, used } = await setUp();
    const device = new FakeDevice(phys);
    await device.migrate(mm, BASE, BASE + PAGE);
    await mm.madvise(BASE + PAGE, PAGE, "pageout");
    const watcher = new RecordingNotifier(mm, BASE, BASE + 16 * PAGE);
    await mm.intervalNotifierInsert(watcher);
    const kinds: string[] = [];
    watcher.check = () => void kinds.push(mm.pageAt(BASE).kind);
    expect(await mm.oomReap()).toBe(true);
    expect(watcher.events).toEqual([
      { event: MMU_NOTIFY_UNMAP, start: BASE, end: BASE + 4 * PAGE, blockable: false, owner: null },
    ]);
    expect(kinds).toEqual(["device-private"]);
    expect([used, 2046 - phys.freePages, device.freePages, phys.swap.used]).toEqual([5, 1, 1024, 0]);
    expect(await mm.load32(BASE + 8 * PAGE)).toBe(5);
    checkQuiescent(phys);
  });

  test("what is gone is not filled again", async () => {
    const { mm } = await setUp();
    await mm.oomReap();
    expect(await mm.load32(BASE)).toMatchObject({ code: "BUS" });
    expect(await mm.store32(BASE + PAGE, 1)).toMatchObject({ code: "BUS" });
    expect(await mm.fill(BASE, 4 * PAGE, 1)).toMatchObject({ code: "BUS", addr: BASE });
    await mm.exit();
  });

  test("leaves an area of which a mirror refuses, and says so", async () => {
    const { phys, mm } = await setUp();
    await mm.mmap(PAGE, { at: BASE + 16 * PAGE });
    await mm.store32(BASE + 16 * PAGE, 1);
    await mm.intervalNotifierInsert(new RefusingNotifier(mm, BASE + PAGE, BASE + 2 * PAGE));
    expect(await mm.oomReap()).toBe(false);
    expect(await mm.load32(BASE)).toBe(0x01010101);
    expect(mm.pageAt(BASE + 16 * PAGE).kind).toBe("none");
    expect(mm.notifiers.active).toBe(0);
    checkQuiescent(phys);
  });

  test("does not wait for the mmap lock", async () => {
    const { mm } = await setUp();
    const guard = await mm.mmapLock.write();
    expect(await mm.oomReap()).toBe(false);
    guard.release();
    expect(await mm.load32(BASE)).toBe(0x01010101);
  });
});
