import fc from "fast-check";
import { describe, expect, test, vi } from "vitest";
import { EINVAL, ENOMEM } from "../../src/base/errno.ts";
import { AccessFault } from "../../src/mm/access.ts";
import { checkQuiescent } from "../../src/mm/invariants.ts";
import { Mm } from "../../src/mm/mm.ts";
import type { Prot } from "../../src/mm/vma.ts";
import { FakeDevice, PAGE, RecordingNotifier, expectBytes, testPhys } from "./mm-fake-device.ts";

// Many random programs, on a machine that may be busy with other tests.
vi.setConfig({ testTimeout: 60_000 });

/** The window that programs work in: 40 pages over a 2 MiB border, so that table borders are crossed. */
const PAGES = 40;
const BASE = 0x7f0000200000 - 20 * PAGE;
const BYTES = PAGES * PAGE;

type Call =
  | { op: "mmap"; page: number; pages: number; prot: Prot }
  | { op: "munmap" | "dontneed"; page: number; pages: number }
  | { op: "mprotect"; page: number; pages: number; prot: Prot }
  | { op: "read" | "write" | "fill"; at: number; length: number; byte: number }
  | { op: "add"; at: number; by: number }
  | { op: "migrate" | "evict"; page: number; pages: number };

const page = fc.nat(PAGES - 1);
const pages = fc.integer({ min: 1, max: 12 });
const prot = fc.constantFrom<Prot>("RW", "RW", "RW", "R", "NONE");
const at = fc.oneof(
  fc.nat(BYTES - 1),
  page.map((p) => p * PAGE),
);
const call: fc.Arbitrary<Call> = fc.oneof(
  fc.record({ op: fc.constant("mmap" as const), page, pages, prot }),
  fc.record({ op: fc.constantFrom("munmap" as const, "dontneed" as const), page, pages }),
  fc.record({ op: fc.constant("mprotect" as const), page, pages, prot }),
  fc.record({
    op: fc.constantFrom("read" as const, "write" as const, "write" as const, "fill" as const),
    at,
    length: fc.integer({ min: 1, max: 6 * PAGE }),
    byte: fc.nat(255),
  }),
  fc.record({ op: fc.constant("add" as const), at: at.map((x) => x - (x % 4)), by: fc.nat(2 ** 31) }),
  fc.record({ op: fc.constantFrom("migrate" as const, "migrate" as const, "evict" as const), page, pages }),
);

/** Every byte and every page's protection, flat. */
class Model {
  readonly bytes = new Uint8Array(BYTES);
  readonly prot: (Prot | null)[] = Array(PAGES).fill(null);

  isMapped(first: number, count: number): boolean {
    return this.prot.slice(first, first + count).every((p) => p !== null);
  }
  setProt(first: number, count: number, to: Prot | null): void {
    this.prot.fill(to, first, first + count);
  }
  zero(first: number, count: number): void {
    this.bytes.fill(0, first * PAGE, (first + count) * PAGE);
  }
  /** Offset of the first byte of `[from, from + length)` that the access may not touch, or -1. */
  firstRefused(from: number, length: number, write: boolean): number {
    for (let i = Math.floor(from / PAGE); i * PAGE < from + length; i++) {
      const p = this.prot[i] ?? null;
      if (p === null || p === "NONE" || (write && p !== "RW")) return Math.max(from, i * PAGE);
    }
    return -1;
  }
}

class Program {
  readonly phys = testPhys(128);
  readonly mm = new Mm({ phys: this.phys });
  readonly device = new FakeDevice(this.phys, 64);
  readonly watcher = new RecordingNotifier(this.mm, BASE, BASE + BYTES);
  readonly model = new Model();

  async start(): Promise<void> {
    await this.mm.intervalNotifierInsert(this.watcher);
  }

  async run(c: Call): Promise<void> {
    switch (c.op) {
      case "mmap":
        return this.#mmap(c.page, clip(c.page, c.pages), c.prot);
      case "munmap": {
        const count = clip(c.page, c.pages);
        expect(await this.mm.munmap(BASE + c.page * PAGE, count * PAGE)).toBe(0);
        this.model.setProt(c.page, count, null);
        return this.model.zero(c.page, count);
      }
      case "dontneed":
      case "mprotect":
        return this.#change(c);
      case "migrate":
        await this.device.migrate(this.mm, BASE + c.page * PAGE, BASE + (c.page + clip(c.page, c.pages)) * PAGE);
        return;
      case "evict": {
        const views = Array.from({ length: clip(c.page, c.pages) }, (_, i) =>
          this.mm.pageAt(BASE + (c.page + i) * PAGE),
        );
        await this.device.evict(views.filter((v) => v.kind === "device-private").map((v) => v.pfn));
        return;
      }
      case "add":
        return this.#add(c.at, c.by);
      default:
        return this.#access(c.op, c.at, Math.min(c.length, BYTES - c.at), c.byte);
    }
  }

  async #mmap(first: number, count: number, to: Prot): Promise<void> {
    expect(await this.mm.mmap(count * PAGE, { at: BASE + first * PAGE, prot: to })).toBe(BASE + first * PAGE);
    this.model.setProt(first, count, to);
    this.model.zero(first, count);
  }

  async #change(c: Extract<Call, { page: number }>): Promise<void> {
    const count = clip(c.page, c.pages);
    const mapped = this.model.isMapped(c.page, count);
    const start = BASE + c.page * PAGE;
    const result =
      c.op === "mprotect" ? this.mm.mprotect(start, count * PAGE, c.prot) : this.mm.dontneed(start, count * PAGE);
    expect(await result).toBe(mapped ? 0 : ENOMEM);
    if (!mapped) return;
    if (c.op === "mprotect") this.model.setProt(c.page, count, c.prot);
    else this.model.zero(c.page, count);
  }

  async #access(op: "read" | "write" | "fill", from: number, length: number, byte: number): Promise<void> {
    const { mm, model } = this;
    const refused = model.firstRefused(from, length, op !== "read");
    const upTo = refused < 0 ? from + length : refused;
    const data = Uint8Array.from({ length }, (_, i) => (op === "fill" ? byte : byte + i));
    const result =
      op === "read"
        ? await mm.read(BASE + from, length)
        : op === "write"
          ? await mm.write(BASE + from, data)
          : await mm.fill(BASE + from, length, byte);
    if (op !== "read") model.bytes.set(data.subarray(0, upTo - from), from);
    if (refused >= 0) expect(result).toMatchObject({ code: "SEGV", addr: BASE + refused });
    else if (op === "read") expectBytes(result, model.bytes.slice(from, from + length));
    else expect(result).toBeUndefined();
  }

  async #add(from: number, by: number): Promise<void> {
    const refused = this.model.firstRefused(from, 4, true);
    const old = await this.mm.atomicAdd32(BASE + from, by);
    if (refused >= 0) {
      expect(old).toMatchObject({ code: "SEGV", addr: BASE + from });
      return;
    }
    const word = new DataView(this.model.bytes.buffer, from, 4);
    expect(old).toBe(word.getUint32(0, true));
    word.setUint32(0, word.getUint32(0, true) + by, true);
  }

  /** Everything that can be read equals the model; the areas are those of the model. */
  async verify(): Promise<void> {
    for (let i = 0; i < PAGES; i++) {
      const vma = this.mm.vmaLookup(BASE + i * PAGE);
      expect(vma?.prot ?? null).toBe(this.model.prot[i]);
      const bytes = await this.mm.read(BASE + i * PAGE, PAGE);
      if (vma === null || vma.prot === "NONE") expect(bytes).toBeInstanceOf(AccessFault);
      else expectBytes(bytes, this.model.bytes.subarray(i * PAGE, (i + 1) * PAGE));
    }
  }
}

function clip(first: number, count: number): number {
  return Math.min(count, PAGES - first);
}

describe("random programs of system calls, accesses and migrations", () => {
  test("equal a flat model byte for byte, with every invariant after every call", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(call, { minLength: 20, maxLength: 60 }), async (calls) => {
        const program = new Program();
        await program.start();
        for (const c of calls) {
          await program.run(c);
          checkQuiescent(program.phys);
        }
        await program.verify();
        await program.mm.exit();
        expect(program.phys.freePages).toBe(126);
        expect(program.device.freePages).toBe(64);
      }),
      { numRuns: 200 },
    );
  });

  test("with callbacks that wait, the outcome is the same", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(call, { minLength: 10, maxLength: 40 }), async (calls) => {
        const program = new Program();
        program.watcher.check = async () => {};
        await program.start();
        for (const c of calls) await program.run(c);
        checkQuiescent(program.phys);
        await program.verify();
      }),
      { numRuns: 100 },
    );
  });
});

describe("two activities on disjoint halves of one area, in any order", () => {
  test("do not disturb each other (each equals its own model)", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(call, { maxLength: 12 }),
        fc.array(call, { maxLength: 12 }),
        fc.nat(),
        async (left, right, seed) => {
          const program = new Program();
          await program.start();
          const inHalf = (calls: readonly Call[], half: 0 | 1) => calls.map((c) => toHalf(c, half));
          const go = (calls: readonly Call[]) => async () => {
            for (const c of calls) await program.run(c);
          };
          await program.phys.sched.race(seed, [go(inHalf(left, 0)), go(inHalf(right, 1))]);
          checkQuiescent(program.phys);
          await program.verify();
        },
      ),
      { numRuns: 60 },
    );
  });

  /** The same call inside one half of the window. */
  function toHalf(c: Call, half: 0 | 1): Call {
    const firstPage = half * (PAGES / 2);
    const lastPage = firstPage + PAGES / 2;
    if ("at" in c) {
      const start = firstPage * PAGE + (c.at % (BYTES / 2));
      return "length" in c
        ? { ...c, at: start, length: Math.min(c.length, lastPage * PAGE - start) }
        : { ...c, at: start };
    }
    const first = firstPage + (c.page % (PAGES / 2));
    return { ...c, page: first, pages: Math.min(c.pages, lastPage - first) };
  }
});

test("a system call that is refused leaves the model as it is", async () => {
  const program = new Program();
  await program.start();
  await program.run({ op: "mmap", page: 3, pages: 4, prot: "RW" });
  await program.run({ op: "write", at: 3 * PAGE + 5, length: 2 * PAGE, byte: 3 });
  expect(await program.mm.munmap(BASE + 1, PAGE)).toBe(EINVAL);
  expect(await program.mm.mmap(0, { at: BASE })).toBe(EINVAL);
  expect(await program.mm.mprotect(BASE, 8 * PAGE, "NONE")).toBe(ENOMEM);
  expect(program.watcher.events).toEqual([]);
  await program.verify();
});
