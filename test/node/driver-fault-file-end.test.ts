/** GPU accesses behind the end of a mapped file: an error at once, where the CPU gets a bus error, and nowhere else. */
import { describe, expect, test } from "vitest";
import { KernelError } from "../../src/base/errors.ts";
import { newActivity } from "../../src/base/lock-order.ts";
import type { MaybePromise } from "../../src/base/maybe-promise.ts";
import type { EventKind } from "../../src/base/trace.ts";
import { checkInvariants } from "../../src/mm/invariants.ts";
import { UserPtr } from "../../src/machine/bind.ts";
import { REFERENCE_ENGINE } from "../../src/machine/engine.ts";
import type { File } from "../../src/machine/index.ts";
import { Machine } from "../../src/machine/machine.ts";

const PAGE = 4096;
const MIB = 1 << 20;
const CHUNK = 2 * MIB;

function setUp() {
  const machine = new Machine({ engine: REFERENCE_ENGINE, ram: 64 * MIB });
  const process = machine.createProcess();
  return { machine, process, vm: machine.createDevice({ vram: 8 * MIB }).vm(process) };
}
type World = ReturnType<typeof setUp>;

const retries = ({ vm }: World): number => vm.stats.get("wgsvm_fault_retry_count");

async function failure(access: Promise<unknown>): Promise<KernelError> {
  const error: unknown = await access.then(
    () => null,
    (e: unknown) => e,
  );
  expect(error).toBeInstanceOf(KernelError);
  return error as KernelError;
}

/** The access ends with an error that names the page and the file's size, without a retry. */
async function expectBehind(w: World, access: "read" | "write", addr: number, size: number): Promise<void> {
  const before = retries(w);
  const error = await failure(access === "read" ? w.vm.gld(addr) : w.vm.gst(addr, 1));
  expect(error.code).toBe("GPUFAULT");
  expect(error.fault).toEqual({ kind: "BUS", addr, access });
  const page = `0x${(addr - (addr % PAGE)).toString(16)}`;
  expect(error.message).toContain(`page ${page} lies behind the end of its file, which has ${size} bytes (EFAULT)`);
  expect(retries(w)).toBe(before);
}

async function close({ machine, process }: World): Promise<void> {
  await machine.settle();
  checkInvariants(machine.phys);
  await process.exit();
  await machine.settle();
  checkInvariants(machine.phys);
  await machine.close();
}

const mapped = ({ process }: World, file: File, length: number, shared: boolean, off = 0): Promise<number> =>
  process.mmap(length, { align: CHUNK, kind: { file, shared, off } });

describe.each([
  ["shared", true],
  ["private", false],
])("an area larger than its file, mapped %s", (_name, shared) => {
  test.each([
    ["a whole number of pages", 2 * PAGE, 2],
    ["a byte more", 2 * PAGE + 1, 3],
    ["a byte less", 2 * PAGE - 1, 2],
    ["nothing", 0, 0],
  ])("the file has %s", async (_size, size, pages) => {
    const w = setUp();
    const a = await mapped(w, w.machine.createFile(size), 5 * PAGE, shared);
    for (let page = 4; page >= pages; page--) {
      await expectBehind(w, "read", a + page * PAGE, size);
      await expectBehind(w, "write", a + page * PAGE + PAGE - 4, size);
      expect((await failure(w.process.ld(a + page * PAGE))).code).toBe("BUS");
    }
    for (let page = 0; page < pages; page++) {
      expect(await w.vm.gld(a + page * PAGE)).toBe(0);
      // What lies behind the last byte in its page can be stored to.
      await w.vm.gst(a + (page + 1) * PAGE - 4, page + 1);
      expect(await w.process.ld(a + (page + 1) * PAGE - 4)).toBe(page + 1);
    }
    await expectBehind(w, "read", a + pages * PAGE, size);
    await close(w);
  });

  test("in a chunk that the end of the file cuts, the pages before it are served, whoever comes first", async () => {
    const size = 5 * MIB;
    for (const order of ["error first", "error last"]) {
      const w = setUp();
      const file = w.machine.createFile(size);
      const a = await mapped(w, file, 4 * CHUNK, shared);
      if (order === "error first") await expectBehind(w, "write", a + size, size);
      await w.vm.gfill(a, size, 0x5a);
      await expectBehind(w, "write", a + size, size);
      await expectBehind(w, "read", a + 3 * CHUNK, size);
      expect((await w.process.read(a, size)).every((byte) => byte === 0x5a)).toBe(true);
      expect((await file.read(0, size)).every((byte) => byte === (shared ? 0x5a : 0))).toBe(true);
      await close(w);
    }
  });

  test("an error leaves no range behind", async () => {
    const w = setUp();
    const a = await mapped(w, w.machine.createFile(PAGE), CHUNK, shared);
    await expectBehind(w, "read", a + PAGE, PAGE);
    expect(w.vm.svm.ranges(a, a + CHUNK)).toEqual([]);
    expect(w.vm.svm.notifiers()).toEqual([]);
    await close(w);
  });

  test("an area that begins behind the start of the file, or behind its end", async () => {
    const w = setUp();
    const file = w.machine.createFile(3 * PAGE);
    const a = await mapped(w, file, 2 * PAGE, shared, 2 * PAGE);
    const b = await mapped(w, file, 2 * PAGE, shared, 8 * PAGE);
    expect(await w.vm.gld(a)).toBe(0);
    await expectBehind(w, "read", a + PAGE, 3 * PAGE);
    await expectBehind(w, "write", b, 3 * PAGE);
    await close(w);
  });

  test("once the file is cut the GPU has nothing of it, and once it grows the pages are there again, zeroed", async () => {
    const w = setUp();
    const file = w.machine.createFile(4 * PAGE);
    const a = await mapped(w, file, 4 * PAGE, shared);
    await w.vm.gfill(a, 4 * PAGE, 0x11);
    await file.truncate(2 * PAGE);
    await expectBehind(w, "read", a + 2 * PAGE, 2 * PAGE);
    expect(await w.vm.gld(a + PAGE)).toBe(0x11111111);
    await file.truncate(4 * PAGE);
    expect(await w.vm.gld(a + 2 * PAGE)).toBe(0);
    await w.vm.gst(a + 2 * PAGE, 7);
    expect(await w.process.ld(a + 2 * PAGE)).toBe(7);
    await close(w);
  });

  test("what a job did before stays done", async () => {
    const w = setUp();
    const a = await mapped(w, w.machine.createFile(PAGE), 2 * PAGE, shared);
    const job = w.vm.job([
      ["st", a, 1],
      ["st", a + PAGE + 8, 2],
      ["st", a + 4, 3],
    ]);
    expect((await failure(job)).fault).toEqual({ kind: "BUS", addr: a + PAGE + 8, access: "write" });
    expect([await w.process.ld(a), await w.process.ld(a + 4)]).toEqual([1, 0]);
    await close(w);
  });
});

describe("what only seems so is tried again", () => {
  test("a look-up that fails for another reason, on a page that is there", async () => {
    const w = setUp();
    const a = await mapped(w, w.machine.createFile(PAGE), 2 * PAGE, true);
    let failures = 6;
    w.machine.phys.failpoint = (site) => site === "hmm-fault" && failures-- > 0;
    await w.vm.gst(a, 3);
    expect(retries(w)).toBe(6);
    expect(await w.process.ld(a)).toBe(3);
    await close(w);
  });

  /** Somebody else does something as the driver records the `nth` event of this kind. */
  function at({ machine: { trace } }: World, wanted: EventKind, nth: number, act: () => MaybePromise<unknown>): void {
    const record = trace.record.bind(trace);
    let seen = 0;
    trace.record = (kind, ...event) => {
      if (kind === wanted && ++seen === nth) void newActivity(act);
      return record(kind, ...event);
    };
  }

  test("the file grows meanwhile", async () => {
    const w = setUp();
    const file = w.machine.createFile(PAGE);
    const a = await mapped(w, file, 2 * PAGE, true);
    // Behind the look-up that failed, and before what comes of it.
    at(w, "get-pages", 1, () => file.truncate(2 * PAGE));
    await w.vm.gst(a + PAGE, 9);
    expect(retries(w)).toBe(1);
    expect(await w.process.ld(a + PAGE)).toBe(9);
    await close(w);
  });

  test("the file is cut while the fault begins again: then it is behind the end", async () => {
    const w = setUp();
    const file = w.machine.createFile(2 * PAGE);
    const a = await mapped(w, file, 2 * PAGE, true);
    w.machine.phys.failpoint = (site) => site === "hmm-fault" && file.size > PAGE;
    at(w, "retry", 3, () => file.truncate(PAGE));
    const error = await failure(w.vm.gld(a + PAGE));
    expect(error.message).toContain("behind the end of its file, which has 4096 bytes");
    expect(retries(w)).toBe(3);
    await close(w);
  });
});

test("a hint at such a page is dropped, and is no error", async () => {
  const w = setUp();
  const a = await mapped(w, w.machine.createFile(PAGE), 2 * PAGE, true);
  await w.vm.job([["hint", a + PAGE]]);
  expect(w.vm.counters.hintDropped).toBe(1);
  expect(retries(w)).toBe(0);
  await close(w);
});

test("what is bound at such an address is no page of the file, and its errors are its own", async () => {
  const w = setUp();
  const a = await mapped(w, w.machine.createFile(PAGE), 2 * PAGE, true);
  const b = await w.process.mmap(PAGE);
  await w.vm.bind(a + PAGE, PAGE, new UserPtr(w.process, b));
  await w.vm.gst(a + PAGE, 4);
  expect(await w.process.ld(b)).toBe(4);
  await w.process.munmap(b, PAGE);
  const error = await failure(w.vm.gld(a + PAGE));
  expect(error.fault?.kind).toBe("BUS");
  expect(error.message).not.toContain("file");
  await close(w);
});
