import { describe, expect, test } from "vitest";
import { EBUSY, EFAULT, EPERM } from "../../src/base/errno.ts";
import { Mm } from "../../src/mm/mm.ts";
import { ZERO_PFN } from "../../src/mm/phys-mem.ts";
import {
  HMM_PFN_ERROR,
  HMM_PFN_REQ_FAULT,
  HMM_PFN_REQ_WRITE,
  HMM_PFN_VALID,
  HMM_PFN_WRITE,
  type HmmRange,
  MIGRATE_VMA_SELECT_SYSTEM,
} from "../../src/mm/types.ts";
import { FakeDevice, PAGE, RecordingNotifier, migration, testPhys } from "./mm-fake-device.ts";

const BASE = 0x7f0000000000;
const FAULT = HMM_PFN_REQ_FAULT;
const FAULT_WRITE = HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE;
const READ_ONLY = HMM_PFN_VALID;
const WRITABLE = HMM_PFN_VALID | HMM_PFN_WRITE;

function setUp() {
  const phys = testPhys();
  const mm = new Mm({ phys });
  const notifier = new RecordingNotifier(mm, BASE, BASE + 64 * PAGE);
  mm.intervalNotifierInsert(notifier);
  const device = new FakeDevice(phys);
  /** A look-up of the first `npages`. */
  async function lookUp(npages: number, defaultFlags: number, devPrivateOwner: unknown = null) {
    const range: HmmRange = {
      notifier,
      notifierSeq: await mm.readBegin(notifier),
      start: BASE,
      end: BASE + npages * PAGE,
      pfns: new Float64Array(npages).fill(-1),
      flags: new Uint8Array(npages).fill(255),
      orders: new Uint8Array(npages).fill(255),
      defaultFlags,
      devPrivateOwner,
    };
    const guard = await mm.mmapLock.read();
    const result = await mm.hmmRangeFault(range);
    guard.release();
    return { result, range, flags: [...range.flags], pfns: [...range.pfns] };
  }
  return { phys, mm, notifier, device, lookUp };
}

describe("a snapshot without faulting", () => {
  test("reports holes, the zero page, writable pages and what is no area", async () => {
    const { mm, lookUp } = setUp();
    await mm.mmap(3 * PAGE, { at: BASE });
    await mm.read(BASE + PAGE, 1);
    await mm.store32(BASE + 2 * PAGE, 1);
    const { result, flags, pfns, range } = await lookUp(4, 0);
    expect(result).toBe(0);
    expect(flags).toEqual([0, READ_ONLY, WRITABLE, HMM_PFN_ERROR]);
    expect(pfns).toEqual([0, ZERO_PFN, mm.pageAt(BASE + 2 * PAGE).pfn, 0]);
    expect([...range.orders]).toEqual([0, 0, 0, 0]);
    expect(mm.pageAt(BASE).kind).toBe("none");
  });

  test("an area without read permission is an error per page", async () => {
    const { mm, lookUp } = setUp();
    await mm.mmap(2 * PAGE, { at: BASE });
    await mm.store32(BASE, 1);
    await mm.mprotect(BASE, PAGE, "NONE");
    expect((await lookUp(2, 0)).flags).toEqual([HMM_PFN_ERROR, 0]);
  });

  test("a device page counts for its owner only", async () => {
    const { mm, device, lookUp } = setUp();
    await mm.mmap(2 * PAGE, { at: BASE });
    await mm.store32(BASE, 1);
    expect(await device.migrate(mm, BASE, BASE + PAGE)).toBe(1);
    const { pfn } = mm.pageAt(BASE);
    expect(await lookUp(1, 0, device)).toMatchObject({ flags: [WRITABLE], pfns: [pfn] });
    expect(await lookUp(1, 0, {})).toMatchObject({ flags: [0], pfns: [0] });
    expect(await lookUp(1, 0, null)).toMatchObject({ flags: [0], pfns: [0] });
    expect(mm.pageAt(BASE).kind).toBe("device-private");
  });
});

describe("a look-up that faults", () => {
  test("for reading maps holes to the zero page", async () => {
    const { mm, lookUp } = setUp();
    await mm.mmap(2 * PAGE, { at: BASE });
    expect(await lookUp(2, FAULT)).toMatchObject({
      result: 0,
      flags: [READ_ONLY, READ_ONLY],
      pfns: [ZERO_PFN, ZERO_PFN],
    });
  });

  test("for writing gives every page a frame of its own, and repeats no event for what was a hole", async () => {
    const { mm, notifier, lookUp } = setUp();
    await mm.mmap(3 * PAGE, { at: BASE });
    await mm.store32(BASE + PAGE, 5);
    const { result, flags, pfns } = await lookUp(3, FAULT_WRITE);
    expect(result).toBe(0);
    expect(flags).toEqual([WRITABLE, WRITABLE, WRITABLE]);
    expect(new Set(pfns).size).toBe(3);
    expect(notifier.events).toEqual([]);
  });

  test("for writing over a mapped zero page collides with its own CLEAR: -EBUSY, then 0", async () => {
    const { mm, lookUp } = setUp();
    await mm.mmap(PAGE, { at: BASE });
    await mm.read(BASE, 1);
    expect((await lookUp(1, FAULT_WRITE)).result).toBe(EBUSY);
    expect(await lookUp(1, FAULT_WRITE)).toMatchObject({ result: 0, flags: [WRITABLE] });
  });

  test.each([
    ["a hole between areas", FAULT, EFAULT],
    ["a hole between areas, for writing", FAULT_WRITE, EFAULT],
  ])("%s: -EFAULT", async (_, flags, errno) => {
    const { mm, lookUp } = setUp();
    await mm.mmap(PAGE, { at: BASE });
    expect((await lookUp(2, flags)).result).toBe(errno);
  });

  test("PROT_NONE: -EFAULT", async () => {
    const { mm, lookUp } = setUp();
    await mm.mmap(PAGE, { at: BASE, prot: "NONE" });
    expect((await lookUp(1, FAULT)).result).toBe(EFAULT);
  });

  test("write wanted where the area forbids it: -EPERM; reading works", async () => {
    const { mm, lookUp } = setUp();
    await mm.mmap(PAGE, { at: BASE, prot: "R" });
    expect((await lookUp(1, FAULT_WRITE)).result).toBe(EPERM);
    expect((await lookUp(1, FAULT)).result).toBe(0);
  });

  test("made to fail: -EFAULT; what needs no fault is reported all the same", async () => {
    const { phys, mm, lookUp } = setUp();
    await mm.mmap(2 * PAGE, { at: BASE });
    await mm.store32(BASE, 1);
    phys.failpoint = (site) => site === "hmm-fault";
    expect((await lookUp(1, FAULT_WRITE)).result).toBe(0);
    expect((await lookUp(2, FAULT_WRITE)).result).toBe(EFAULT);
  });

  test("RAM used up: -EFAULT", async () => {
    const phys = testPhys(4);
    const mm = new Mm({ phys });
    const notifier = new RecordingNotifier(mm, BASE, BASE + 64 * PAGE);
    mm.intervalNotifierInsert(notifier);
    await mm.mmap(3 * PAGE, { at: BASE });
    const guard = await mm.mmapLock.read();
    const range: HmmRange = {
      notifier,
      notifierSeq: await mm.readBegin(notifier),
      start: BASE,
      end: BASE + 3 * PAGE,
      pfns: new Float64Array(3),
      flags: new Uint8Array(3),
      orders: new Uint8Array(3),
      defaultFlags: FAULT_WRITE,
      devPrivateOwner: null,
    };
    expect(await mm.hmmRangeFault(range)).toBe(EFAULT);
    guard.release();
  });

  test("a foreign device page comes home, an own one stays, whatever is requested", async () => {
    const { mm, device, lookUp } = setUp();
    await mm.mmap(PAGE, { at: BASE });
    await mm.store32(BASE, 77);
    await device.migrate(mm, BASE, BASE + PAGE);
    expect(await lookUp(1, FAULT_WRITE, device)).toMatchObject({ result: 0, flags: [WRITABLE] });
    expect(mm.pageAt(BASE).kind).toBe("device-private");
    // Coming home announces MIGRATE inside the look-up's own interval.
    expect((await lookUp(1, FAULT)).result).toBe(EBUSY);
    expect(await lookUp(1, FAULT)).toMatchObject({ result: 0, flags: [WRITABLE] });
    expect(mm.pageAt(BASE).kind).toBe("present");
    expect(await mm.load32(BASE)).toBe(77);
  });

  test("an own device page without write permission is reported as such, even where write is wanted", async () => {
    const { mm, device, lookUp } = setUp();
    await mm.mmap(PAGE, { at: BASE });
    await mm.store32(BASE, 1);
    await device.migrate(mm, BASE, BASE + PAGE);
    await mm.mprotect(BASE, PAGE, "R");
    expect(await lookUp(1, FAULT_WRITE, device)).toMatchObject({ result: 0, flags: [READ_ONLY] });
  });

  test("a device page behind a hole is faulted home with it: a chunk is served as a whole", async () => {
    const { mm, device, lookUp } = setUp();
    await mm.mmap(2 * PAGE, { at: BASE });
    await mm.store32(BASE + PAGE, 4);
    await device.migrate(mm, BASE + PAGE, BASE + 2 * PAGE);
    expect((await lookUp(2, FAULT_WRITE, device)).result).toBe(EBUSY);
    expect(mm.pageAt(BASE + PAGE).kind).toBe("present");
  });

  test("a page under migration is waited for", async () => {
    const { phys, mm, device, lookUp } = setUp();
    await mm.mmap(PAGE, { at: BASE });
    await mm.store32(BASE, 3);
    const guard = mm.mmapLock.tryRead()!;
    const m = migration(mm, BASE, BASE + PAGE, MIGRATE_VMA_SELECT_SYSTEM, device);
    expect(mm.migrateVmaSetup(m)).toBe(0);
    expect(mm.pageAt(BASE).kind).toBe("migration");
    expect((await lookUp(1, 0)).flags).toEqual([0]);
    const looking = lookUp(1, FAULT);
    await new Promise((turn) => setImmediate(turn));
    mm.migrateVmaPages(m);
    mm.migrateVmaFinalize(m);
    guard.release();
    expect(await looking).toMatchObject({ result: 0, flags: [WRITABLE] });
    expect(phys.refcount(mm.pageAt(BASE).pfn)).toBe(1);
  });
});

test("waiting for a page under migration leaves the device pages behind it where they are", async () => {
  const { mm, device, lookUp } = setUp();
  await mm.mmap(2 * PAGE, { at: BASE });
  await mm.fill(BASE, 2 * PAGE, 1);
  await device.migrate(mm, BASE + PAGE, BASE + 2 * PAGE);
  const guard = mm.mmapLock.tryRead()!;
  const m = migration(mm, BASE, BASE + PAGE, MIGRATE_VMA_SELECT_SYSTEM, device);
  mm.migrateVmaSetup(m);
  const looking = lookUp(2, FAULT_WRITE, device);
  await new Promise((turn) => setImmediate(turn));
  mm.migrateVmaPages(m);
  mm.migrateVmaFinalize(m);
  guard.release();
  expect(await looking).toMatchObject({ result: 0, flags: [WRITABLE, WRITABLE] });
  expect(mm.pageAt(BASE + PAGE).kind).toBe("device-private");
});

describe("collision", () => {
  test("an invalidation of the interval since the sequence was read: -EBUSY before anything is looked at", async () => {
    const { mm, notifier, lookUp } = setUp();
    await mm.mmap(PAGE, { at: BASE });
    const seq = await mm.readBegin(notifier);
    await mm.dontneed(BASE, PAGE);
    expect(mm.readRetry(notifier, seq)).toBe(true);
    const { range } = await lookUp(1, 0);
    range.notifierSeq = seq;
    const guard = await mm.mmapLock.read();
    expect(await mm.hmmRangeFault(range)).toBe(EBUSY);
    guard.release();
  });
});
