import { describe, expect, test } from "vitest";
import { PG_ANON_EXCLUSIVE } from "../../src/mm/frame-table.ts";
import { checkInvariants, checkQuiescent } from "../../src/mm/invariants.ts";
import { Mm } from "../../src/mm/mm.ts";
import { PTE_WRITE } from "../../src/mm/page-table.ts";
import { MMU_NOTIFY_CLEAR, MMU_NOTIFY_MIGRATE } from "../../src/mm/types.ts";
import { FakeDevice, PAGE, RecordingNotifier, expectBytes, pattern, readOk, testPhys } from "./mm-fake-device.ts";

const BASE = 0x7f0000000000;
const PAGES = 4;
const BYTES = PAGES * PAGE;

/** Two address spaces that map the same pages read-only at the same addresses, as copy-on-write shares them. */
async function setUp() {
  const phys = testPhys();
  const device = new FakeDevice(phys);
  const parent = new Mm({ phys });
  const child = new Mm({ phys });
  for (const mm of [parent, child]) await mm.mmap(BYTES, { at: BASE });
  const bytes = pattern(BYTES);
  await parent.write(BASE, bytes);
  return { phys, device, parent, child, bytes };
}

function share(from: Mm, to: Mm): void {
  const { frames, rmap } = from.phys;
  for (let vpn = BASE / PAGE; vpn < (BASE + BYTES) / PAGE; vpn++) {
    const word = from.tables.read(vpn) & ~PTE_WRITE;
    const pfn = word >>> 6;
    from.tables.write(vpn, word);
    to.tables.make(vpn * PAGE);
    to.tables.write(vpn, word);
    frames.refcount[pfn]! += 1;
    frames.mapcount[pfn]! += 1;
    frames.flags[pfn]! &= ~PG_ANON_EXCLUSIVE;
    rmap.add(pfn, to.id, vpn);
  }
  checkInvariants(from.phys);
}

function watch(mm: Mm): RecordingNotifier {
  const watcher = new RecordingNotifier(mm, BASE, BASE + BYTES);
  void mm.intervalNotifierInsert(watcher);
  return watcher;
}

describe("copy on write", () => {
  test("the writer gets a copy after CLEAR in its own address space; the other keeps its bytes", async () => {
    const { phys, parent, child, bytes } = await setUp();
    share(parent, child);
    const [inParent, inChild] = [watch(parent), watch(child)];
    const shared = parent.pageAt(BASE + PAGE).pfn;
    await child.store32(BASE + PAGE + 8, 0xffffffff);
    expect(inChild.take()).toEqual([[MMU_NOTIFY_CLEAR, BASE + PAGE, BASE + 2 * PAGE]]);
    expect(inParent.events).toEqual([]);
    expect(parent.pageAt(BASE + PAGE).pfn).toBe(shared);
    expect(child.pageAt(BASE + PAGE).pfn).not.toBe(shared);
    expectBytes(await readOk(parent, BASE, BYTES), bytes);
    const expected = bytes.slice().fill(255, PAGE + 8, PAGE + 12);
    expectBytes(await readOk(child, BASE, BYTES), expected);
    checkQuiescent(phys);
  });

  test("the end of one address space leaves the pages to the other", async () => {
    const { phys, parent, child, bytes } = await setUp();
    share(parent, child);
    await parent.exit();
    expectBytes(await readOk(child, BASE, BYTES), bytes);
    checkQuiescent(phys);
    await child.exit();
    expect(phys.freePages).toBe(2046);
  });
});

describe("migration of shared pages", () => {
  test("to the device: unmapped in the other address space too, after CLEAR there; both then see the device page", async () => {
    const { phys, device, parent, child, bytes } = await setUp();
    share(parent, child);
    const [inParent, inChild] = [watch(parent), watch(child)];
    expect(await device.migrate(parent, BASE, BASE + BYTES)).toBe(PAGES);
    expect(inParent.take()).toEqual([[MMU_NOTIFY_MIGRATE, BASE, BASE + BYTES]]);
    expect(inChild.take()).toEqual([[MMU_NOTIFY_CLEAR, BASE, BASE + BYTES]]);
    expect(child.pageAt(BASE)).toEqual(parent.pageAt(BASE));
    expect(child.pageAt(BASE)).toMatchObject({ kind: "device-private", writable: false });
    checkQuiescent(phys);
    // The child touches it: it comes home for both.
    expectBytes(await readOk(child, BASE, BYTES), bytes);
    expect(parent.pageAt(BASE)).toMatchObject({ kind: "present", pfn: child.pageAt(BASE).pfn });
    expectBytes(await readOk(parent, BASE, BYTES), bytes);
    expect(device.freePages).toBe(1024);
    checkQuiescent(phys);
  });

  test("eviction announces CLEAR in every address space that maps the pages, and leaves both with RAM", async () => {
    const { phys, device, parent, child, bytes } = await setUp();
    await device.migrate(parent, BASE, BASE + BYTES);
    share(parent, child);
    const [inParent, inChild] = [watch(parent), watch(child)];
    const pfns = [0, 1, 2, 3].map((i) => parent.pageAt(BASE + i * PAGE).pfn);
    expect(await device.evict(pfns)).toBe(PAGES);
    const covered = (w: RecordingNotifier) =>
      w.take().reduce((sum, [event, start, end]) => sum + (event === MMU_NOTIFY_CLEAR ? end - start : NaN), 0);
    expect([covered(inParent), covered(inChild)]).toEqual([BYTES, BYTES]);
    checkQuiescent(phys);
    for (const mm of [parent, child]) expectBytes(await readOk(mm, BASE, BYTES), bytes);
    await child.store32(BASE, 0);
    expectBytes(await readOk(parent, BASE, BYTES), bytes);
  });

  test("eviction against the end of one address space, in every order that 64 seeds draw", async () => {
    for (let seed = 1; seed <= 64; seed++) {
      const { phys, device, parent, child, bytes } = await setUp();
      await device.migrate(parent, BASE, BASE + BYTES);
      share(parent, child);
      const watcher = watch(child);
      watcher.check = async () => void (await child.sched.point("callback"));
      const pfns = [0, 1, 2, 3].map((i) => parent.pageAt(BASE + i * PAGE).pfn);
      await phys.sched.race<unknown>(seed, [() => device.evict(pfns), async () => child.exit()]);
      await child.intervalNotifierRemove(watcher);
      checkQuiescent(phys);
      expectBytes(await readOk(parent, BASE, BYTES), bytes);
      expect(device.freePages).toBe(1024);
    }
  }, 60_000);
});
