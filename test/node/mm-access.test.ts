import { describe, expect, test } from "vitest";
import { AccessFault } from "../../src/mm/access.ts";
import { checkQuiescent } from "../../src/mm/invariants.ts";
import { Mm } from "../../src/mm/mm.ts";
import { ZERO_PFN } from "../../src/mm/phys-mem.ts";
import { MB, PAGE, expectBytes, mmapOk, pattern, readOk, testPhys } from "./mm-fake-device.ts";

function setUp(ramPages?: number) {
  const phys = testPhys(ramPages);
  return { phys, mm: new Mm({ phys }) };
}

describe("demand paging", () => {
  test("the example of mm.ts", async () => {
    const { phys, mm } = setUp();
    const a = await mmapOk(mm, 2 << 20);
    await mm.write(a + 5, Uint8Array.of(1, 2, 3));
    expectBytes(await mm.read(a + 6, 2), Uint8Array.of(2, 3));
    await mm.exit();
    expect(phys.freePages).toBe(2048 - 2);
  });

  test("a page that was only read maps the shared zero frame and costs no RAM", async () => {
    const { phys, mm } = setUp();
    const a = await mmapOk(mm, 4 * PAGE);
    const free = phys.freePages;
    expectBytes(await readOk(mm, a, 4 * PAGE), new Uint8Array(4 * PAGE));
    expect(mm.pageAt(a)).toEqual({ kind: "present", pfn: ZERO_PFN, writable: false, huge: false });
    expect(phys.freePages).toBe(free);
  });

  test("the first write after a read replaces the zero frame and leaves it zero", async () => {
    const { phys, mm } = setUp();
    const a = await mmapOk(mm, 2 * PAGE);
    await readOk(mm, a, 2 * PAGE);
    await mm.store32(a, 0xdeadbeef);
    expect(mm.pageAt(a).pfn).not.toBe(ZERO_PFN);
    expect(await mm.load32(a)).toBe(0xdeadbeef);
    expect(await mm.load32(a + 4)).toBe(0);
    expectBytes(await readOk(mm, a + PAGE, PAGE), new Uint8Array(PAGE));
    expectBytes(phys.ram.subarray(ZERO_PFN * PAGE, (ZERO_PFN + 1) * PAGE), new Uint8Array(PAGE));
    checkQuiescent(phys);
  });

  test.each([
    ["one byte", 1],
    ["a page but for its last byte", PAGE - 1],
    ["one page and a byte", PAGE + 1],
  ])("a frame that another process freed reads zero around a write of %s", async (_, length) => {
    const { phys, mm } = setUp(16);
    const before = await mmapOk(mm, 14 * PAGE);
    await mm.fill(before, 14 * PAGE, 0xaa);
    await mm.exit();
    const next = new Mm({ phys });
    const a = await mmapOk(next, 4 * PAGE);
    await next.fill(a, length, 1);
    const expected = new Uint8Array(4 * PAGE).fill(1, 0, length);
    expectBytes(await readOk(next, a, 4 * PAGE), expected);
  });

  test("accesses to resident memory do not wait", () => {
    const { mm } = setUp();
    const a = mm.mmap(4 * PAGE);
    expect(typeof a).toBe("number");
    expect(mm.write(a as number, pattern(4 * PAGE))).toBeUndefined();
    expectBytes(mm.read(a as number, 4 * PAGE), pattern(4 * PAGE));
    expect(mm.atomicAdd32(a as number, 1)).toBeTypeOf("number");
  });

  test("a chunk written from start to end lies in one run of frames", async () => {
    const { mm } = setUp();
    const other = await mmapOk(mm, 3 * PAGE);
    await mm.fill(other, 3 * PAGE, 9);
    const a = await mmapOk(mm, 2 * MB, { align: 2 * MB });
    await mm.write(a, pattern(2 * MB));
    const first = mm.pageAt(a).pfn;
    for (let i = 0; i < 512; i++) expect(mm.pageAt(a + i * PAGE).pfn).toBe(first + i);
    expectBytes(await readOk(mm, a, 2 * MB), pattern(2 * MB));
  });
});

describe("accesses that cross pages", () => {
  test("a read and a write at an odd offset over several pages", async () => {
    const { mm } = setUp();
    const a = await mmapOk(mm, 4 * PAGE);
    const data = pattern(2 * PAGE + 77, 3);
    await mm.write(a + 1000, data);
    expectBytes(await readOk(mm, a + 1000, data.length), data);
    expectBytes(await readOk(mm, a + 999, 1), Uint8Array.of(0));
  });

  test("an unaligned word over a page border is little-endian", async () => {
    const { mm } = setUp();
    const a = await mmapOk(mm, 2 * PAGE);
    await mm.store32(a + PAGE - 1, 0x04030201);
    expectBytes(await readOk(mm, a + PAGE - 1, 4), Uint8Array.of(1, 2, 3, 4));
    expect(await mm.load32(a + PAGE - 1)).toBe(0x04030201);
  });

  test("words are unsigned and stores wrap modulo 2^32", async () => {
    const { mm } = setUp();
    const a = await mmapOk(mm, PAGE);
    await mm.store32(a, -1);
    expect(await mm.load32(a)).toBe(0xffffffff);
    await mm.store32(a, 2 ** 32 + 5);
    expect(await mm.load32(a)).toBe(5);
    await mm.store32(a, 0xffffffff);
    expect(await mm.atomicAdd32(a, 2)).toBe(0xffffffff);
    expect(await mm.load32(a)).toBe(1);
  });

  test("an unaligned atomic is a bus error and changes nothing", async () => {
    const { mm } = setUp();
    const a = await mmapOk(mm, PAGE);
    const fault = await mm.atomicAdd32(a + 2, 1);
    expect(fault).toMatchObject({ code: "BUS", addr: a + 2 });
    expect(await mm.load32(a)).toBe(0);
  });
});

describe("accesses that fail", () => {
  test("outside every area: SEGV with the address, what lies before it is stored", async () => {
    const { mm } = setUp();
    const a = await mmapOk(mm, PAGE);
    expect(await mm.read(a - 1, 1)).toMatchObject({ code: "SEGV", addr: a - 1 });
    const fault = await mm.write(a + PAGE - 2, Uint8Array.of(1, 2, 3));
    expect(fault).toBeInstanceOf(AccessFault);
    expect(fault).toMatchObject({ code: "SEGV", addr: a + PAGE });
    expectBytes(await readOk(mm, a + PAGE - 2, 2), Uint8Array.of(1, 2));
  });

  test("a write to a read-only area: SEGV; a read of it works", async () => {
    const { mm } = setUp();
    const a = await mmapOk(mm, PAGE, { prot: "R" });
    expect(await mm.store32(a, 1)).toMatchObject({ code: "SEGV", addr: a });
    expect(await mm.load32(a)).toBe(0);
    expect(await mm.store32(a, 1)).toMatchObject({ code: "SEGV", addr: a });
  });

  test("a refused write shows nothing of what a frame held before", async () => {
    const { phys, mm } = setUp(16);
    await mm.fill(await mmapOk(mm, 14 * PAGE), 14 * PAGE, 0xaa);
    await mm.exit();
    const next = new Mm({ phys });
    const a = await mmapOk(next, 4 * PAGE, { prot: "R" });
    expect(await next.fill(a, 4 * PAGE, 1)).toMatchObject({ code: "SEGV", addr: a });
    expectBytes(await readOk(next, a, 4 * PAGE), new Uint8Array(4 * PAGE));
  });

  test("PROT_NONE: SEGV for both, also where pages are resident", async () => {
    const { mm } = setUp();
    const a = await mmapOk(mm, 2 * PAGE);
    await mm.store32(a, 5);
    await mm.mprotect(a, 2 * PAGE, "NONE");
    for (const at of [a, a + PAGE]) {
      expect(await mm.load32(at)).toMatchObject({ code: "SEGV", addr: at });
      expect(await mm.store32(at, 1)).toMatchObject({ code: "SEGV", addr: at });
      expect(await mm.atomicAdd32(at, 1)).toMatchObject({ code: "SEGV", addr: at });
    }
    await mm.mprotect(a, 2 * PAGE, "R");
    expect(await mm.load32(a)).toBe(5);
  });

  test("RAM used up: ENOMEM, and what was freed serves the next access", async () => {
    const { phys, mm } = setUp(8);
    const a = await mmapOk(mm, 8 * PAGE);
    expect(await mm.fill(a, 8 * PAGE, 1)).toMatchObject({ code: "ENOMEM", addr: a + 6 * PAGE });
    expect(phys.freePages).toBe(0);
    await mm.dontneed(a, PAGE);
    expect(await mm.store32(a + 7 * PAGE, 1)).toBeUndefined();
    expect(await mm.store32(a, 1)).toMatchObject({ code: "ENOMEM" });
    checkQuiescent(phys);
  });

  test("an access waits for a system call that has the address space locked", async () => {
    const { mm } = setUp();
    const a = await mmapOk(mm, PAGE);
    const guard = mm.mmapLock.tryWrite()!;
    const stored = mm.store32(a, 7);
    expect(stored).toBeInstanceOf(Promise);
    guard.release();
    expect(await stored).toBeUndefined();
    expect(await mm.load32(a)).toBe(7);
  });
});
