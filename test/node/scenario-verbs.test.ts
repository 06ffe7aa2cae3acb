import { describe, expect, test } from "vitest";
import { KernelError } from "../../src/base/errors.ts";
import { REFERENCE_ENGINE } from "../../src/machine/engine.ts";
import { runScenarioModule } from "../../src/scenario/run.ts";
import type { Scenario } from "../../src/scenario/verbs.ts";

const MIB = 1 << 20;

/** Runs `body` as a scenario; what it throws is thrown. */
async function scenario(body: (s: Scenario) => Promise<void>): Promise<void> {
  const result = await runScenarioModule({ default: body }, { engine: REFERENCE_ENGINE, ram: 64 * MIB });
  if (result.error !== null) throw result.error;
  expect(result.checks.filter((c) => !c.ok)).toEqual([]);
}

const code = (promise: Promise<unknown>) =>
  promise.then(
    () => "OK",
    (error: unknown) => (error instanceof KernelError ? error.code : String(error)),
  );

describe("memory of every kind", () => {
  test("is told by vmas as it was asked for", () =>
    scenario(async (s) => {
      const p = s.proc();
      const file = s.file(new Uint8Array(3 * 4096).fill(7));
      const at = 0x7f0000000000;
      await p.mmap(4096, { at });
      await p.mmap(4096, { at: at + 8192, kind: "shanon", prot: "R" });
      await p.mmap(2 * MIB, { at: at + 2 * MIB, kind: "huge2m" });
      await p.mmap(4096, { at: at + 8 * MIB, kind: { file, off: 8192 } });
      await p.mmap(4096, { at: at + 9 * MIB, kind: { file, shared: true } });
      expect(s.vmas(p)).toEqual([
        { start: at, end: at + 4096, prot: "RW", kind: "anon" },
        { start: at + 8192, end: at + 12288, prot: "R", kind: "shanon" },
        { start: at + 2 * MIB, end: at + 4 * MIB, prot: "RW", kind: "huge2m" },
        { start: at + 8 * MIB, end: at + 8 * MIB + 4096, prot: "RW", kind: { file, shared: false, off: 8192 } },
        { start: at + 9 * MIB, end: at + 9 * MIB + 4096, prot: "RW", kind: { file, shared: true, off: 0 } },
      ]);
    }));

  test("a file has the stores through a shared mapping and not those through a private one; beyond its end is BUS", () =>
    scenario(async (s) => {
      const p = s.proc();
      const m = s.device().vm(p);
      const file = s.file(4096 + 8);
      const shared = await p.mmap(3 * 4096, { kind: { file, shared: true } });
      const own = await p.mmap(4096, { kind: { file } });
      await p.st(own, 5);
      await p.st(shared, 6);
      await m.ginc(shared + 4096, 7);
      expect(new Uint32Array((await file.read(0, 4)).buffer)[0]).toBe(6);
      expect((await file.read(4096, 100)).length).toBe(8);
      expect([await p.ld(own), await p.ld(shared + 4096)]).toEqual([5, 7]);
      expect(await code(p.ld(shared + 2 * 4096))).toBe("BUS");
      await file.truncate(0);
      expect(await code(p.ld(shared))).toBe("BUS");
      expect(await code(file.write(-1, new Uint8Array(1)))).toBe("EINVAL");
    }));

  test("the GPU stores to a file's page, and to a private copy of it", () =>
    scenario(async (s) => {
      const p = s.proc();
      const m = s.device().vm(p);
      const file = s.file(4096);
      const shared = await p.mmap(4096, { kind: { file, shared: true } });
      const own = await p.mmap(4096, { kind: { file } });
      await m.gst(shared, 1);
      expect(await m.gld(own)).toBe(1);
      await m.gst(own, 2);
      expect([await p.ld(shared), await p.ld(own)]).toEqual([1, 2]);
    }));

  test.each([
    ["a kind that there is none of", { kind: "tape" as "anon" }],
    ["a place that huge pages cannot have", { kind: "huge2m" as const, at: 0x7f0000001000 }],
    ["an offset that is not whole pages", { off: 1 }],
  ])("%s is EINVAL", (_, o) =>
    scenario(async (s) => {
      const { off, ...options } = o as { off?: number };
      const kind = off === undefined ? {} : { kind: { file: s.file(4096), off } };
      expect(await code(s.proc().mmap(4096, { ...options, ...kind }))).toBe("EINVAL");
    }),
  );
});

describe("process verbs", () => {
  test("fork copies, mremap moves, mlock keeps, pin holds, exit ends", () =>
    scenario(async (s) => {
      const p = s.proc();
      const a = await p.mmap(2 * 4096, { thp: false, populate: true, lock: true });
      expect(await code(p.madvise(a, 4096, "pageout"))).toBe("EINVAL");
      await p.munlock(a, 2 * 4096);
      await p.st(a, 1);
      const pin = await p.pin(a, 4096, { write: true });
      const child = await p.fork();
      await p.st(a, 2);
      expect(await child.ld(a)).toBe(1);
      pin.release();
      const to = await p.mremap(a, 4096, null);
      expect(await p.ld(to)).toBe(2);
      expect(await code(p.ld(a))).toBe("SEGV");
      expect(await p.mremap(to, 4096, a, { dontunmap: true })).toBe(a);
      expect([await p.ld(to), await p.ld(a)]).toEqual([0, 2]);
      await child.exit();
      expect(await code(child.fork())).toBe("EINVAL");
      expect(await code(p.mremap(a + 64 * MIB, 4096, null))).toBe("EFAULT");
      expect(await code(p.pin(a + 64 * MIB, 4096))).toBe("EFAULT");
    }));
});

test("exec: the memory and what mirrors it end, an empty one begins, and a child keeps its own", () =>
  scenario(async (s) => {
    const d = s.device();
    const p = s.proc();
    const m = d.vm(p);
    const a = await p.mmap(2 * MIB, { align: 2 * MIB });
    await m.gst(a, 7);
    const child = await p.fork();
    await p.exec();
    await s.settle();
    expect(s.vmas(p)).toEqual([]);
    expect(await code(p.ld(a))).toBe("SEGV");
    expect([...d.vms]).toEqual([]);
    await p.mmap(4096, { at: a });
    expect(await d.vm(p).gld(a)).toBe(0);
    expect(await child.ld(a)).toBe(7);
    await p.exit();
    expect(await code(p.exec())).toBe("EINVAL");
  }));

describe("probes of pages", () => {
  test("snap: holes and memory without access, untouched, system and device pages, huge ones", () =>
    scenario(async (s) => {
      const p = s.proc();
      const [d0, d1] = [s.device(), s.device()];
      const [m0, m1] = [d0.vm(p), d1.vm(p)];
      const a = await p.mmap(5 * 4096);
      await p.mprotect(a + 4096, 4096, "NONE");
      await p.fill(a + 2 * 4096, 3 * 4096, 1);
      await m0.toVram(a + 3 * 4096, 4096);
      await m1.toVram(a + 4 * 4096, 4096);
      await p.munmap(a + 2 * 4096, 4096);
      const none = { error: false, none: false, read: false, write: false, large: false, local: false, remote: false };
      const rw = { ...none, read: true, write: true };
      const where = () => s.where(p, a, 5 * 4096);
      const before = where();
      expect(await s.snap(m0, a, 5 * 4096)).toEqual([
        { ...none, none: true },
        { ...none, error: true },
        { ...none, error: true },
        { ...rw, local: true },
        { ...rw, remote: true },
      ]);
      expect(where()).toEqual(before);
      const h = await p.mmap(2 * MIB, { kind: "huge2m", populate: true });
      expect(await s.snap(m0, h + 8192, 4096)).toEqual([{ ...rw, large: true }]);
    }));

  test("leafs: what the GPU's page tables map, where and how", () =>
    scenario(async (s) => {
      const p = s.proc();
      const d = s.device();
      const m = d.vm(p);
      const a = await p.mmap(2 * MIB, { align: 2 * MIB });
      await p.fill(a, 2 * MIB, 1);
      await m.gst(a, 2);
      const leafs = await s.leafs(m, a, a + 2 * MIB);
      expect(leafs.reduce((bytes, leaf) => bytes + leaf.size, 0)).toBe(2 * MIB);
      expect(leafs.every((leaf) => leaf.place === d && leaf.write && leaf.pa % leaf.size === 0)).toBe(true);
      const b = await p.mmap(4096, { kind: "shanon", prot: "R" });
      await m.gld(b);
      expect(await s.leafs(m, b, b + 4096)).toMatchObject([{ va: b, size: 4096, place: "SYS", write: false }]);
      await p.munmap(a, 2 * MIB);
      await s.settle();
      expect(await s.leafs(m, a, a + 2 * MIB)).toEqual([]);
    }));
});

describe("injected failures", () => {
  test("the n-th call fails once, and says that it has fired", () =>
    scenario(async (s) => {
      const p = s.proc();
      const a = await p.mmap(4 * 4096);
      const failure = s.fail("frame-alloc", 2);
      await p.st(a, 1);
      expect(failure.fired).toBe(false);
      expect(await code(p.st(a + 4096, 1))).toBe("ENOMEM");
      expect(failure.fired).toBe(true);
      await p.st(a + 4096, 1);
    }));

  test("only calls of the size count; a cancelled one never fires", () =>
    scenario(async (s) => {
      const p = s.proc();
      const a = await p.mmap(4 * 4096);
      const large = s.fail("frame-alloc", 1, { size: 8192 });
      const cancelled = s.fail("frame-alloc");
      cancelled.cancel();
      await p.fill(a, 4 * 4096, 1);
      expect([large.fired, cancelled.fired]).toEqual([false, false]);
      large.cancel();
    }));

  test("every site of the list can be named, and no other", () =>
    scenario(async (s) => {
      for (const site of s.failSites()) s.fail(site, 1000).cancel();
      expect(() => s.fail("no-such-site")).toThrow("frame-alloc");
      expect(() => s.fail("frame-alloc", 0)).toThrow(KernelError);
    }));
});
