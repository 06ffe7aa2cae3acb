import { describe, expect, test } from "vitest";
import { MIB, code, scenario } from "./scenario-support.ts";

describe("numbers", () => {
  test("a bigint is as good as a number, and words are taken modulo 2^32", () =>
    scenario(async (s) => {
      const d = s.device();
      const p = s.proc();
      const m = d.vm(p);
      const a = await p.mmap(8192n, { at: 0x7f0000000000n, align: 4096n });
      expect(a).toBe(0x7f0000000000);
      const at = BigInt(a);
      await p.st(at, -1n);
      expect([await p.ld(at), await p.inc(at, 2n), await p.ld(at)]).toEqual([0xffffffff, 0xffffffff, 1]);
      await p.st(a, 2 ** 53 - 1);
      expect(await p.ld(a)).toBe(0xffffffff);
      await m.gst(at, 2n ** 40n + 5n);
      expect([await m.gld(at), await m.ginc(at, -6), await m.gld(at)]).toEqual([5, 5, 0xffffffff]);
      expect(
        await m.job([
          ["st", at, 1n],
          ["inc", at, 1n],
          ["hint", at],
          ["ld", at],
        ]),
      ).toEqual([0, 1, 0, 2]);
      await p.fill(at, 4n, 0x105n);
      await m.gfill(at + 4n, 4n, 6n);
      await m.gcpy(at + 8n, at, 8n);
      expect([...(await m.gread(at, 16n))]).toEqual([5, 5, 5, 5, 6, 6, 6, 6, 5, 5, 5, 5, 6, 6, 6, 6]);
      expect(await m.toVram(at, 8192n)).toBeGreaterThanOrEqual(0);
      expect(s.where(p, at, 8192n).length).toBe(2);
      expect(s.where(p, at) === d).toBe(true);
      expect(s.ranges(m, at, at + 8192n).length).toBeGreaterThan(0);
      expect((await s.snap(m, at, 8192n)).length).toBe(2);
      expect((await s.leafs(m, at, at + 8192n)).length).toBeGreaterThan(0);
      expect(s.pages(3n)).toBe(3 * 4096);
      await p.mprotect(at, 4096n, "R");
      await p.munmap(at, 8192n);
      expect(s.vmas(p, at, at + 8192n)).toEqual([]);
    }));

  test.each([0, -4096, Number.NaN, 1.5, -1n])("a length of %s is EINVAL, everywhere", (l) =>
    scenario(async (s) => {
      const p = s.proc();
      const m = s.device().vm(p);
      const a = await p.mmap(MIB);
      for (const verb of [
        () => p.mmap(l),
        () => p.munmap(a, l),
        () => p.mprotect(a, l, "R"),
        () => p.dontneed(a, l),
        () => p.mlock(a, l),
        () => p.mremap(a, l, null),
        () => p.fill(a, l, 0),
        () => p.read(a, l),
        () => m.gfill(a, l, 0),
        () => m.gread(a, l),
        () => m.gcpy(a, a + MIB / 2, l),
        () => m.toVram(a, l),
        () => m.toSys(a, l),
        () => m.prefetch(a, l, "DEV"),
        () => m.attr(a, l, { loc: "SYS" }),
        () => m.attrs(a, l),
        () => m.mirrorBind(a, l),
        () => m.mirrorUnbind(a, l),
        () => m.bind(a, l, s.NULL),
        () => m.unbind(a, l),
        () => s.where(p, a, l),
        () => s.snap(m, a, l),
      ]) {
        expect([String(verb), await code(verb)]).toEqual([String(verb), "EINVAL"]);
      }
      expect(s.vmas(p).map(({ start, end, prot }) => [start, end, prot])).toEqual([[a, a + MIB, "RW"]]);
    }),
  );

  test.each([
    ["an alignment that is no power of two", { align: 3 * 4096 }],
    ["one below a page", { align: 16 }],
    ["a fixed address that is no page's", { at: 0x7f0000000004 }],
    ["a protection that there is none of", { prot: "RWX" as "RW" }],
  ])("mmap: %s is EINVAL", (_, o) => scenario(async (s) => expect(await code(s.proc().mmap(4096, o))).toBe("EINVAL")));

  test("words of the GPU are aligned, values whole, and any address of 64 bits can be asked for", () =>
    scenario(async (s) => {
      const p = s.proc();
      const m = s.device().vm(p);
      const a = await p.mmap(4096);
      for (const verb of [
        () => m.gld(a + 2),
        () => m.gst(a, 0.5),
        () => p.st(a, Number.NaN),
        () => m.gld(-4),
        () => m.gld(2n ** 64n),
        () => m.job([["mul" as "ld", a]]),
        () => m.gwrite(a, new Uint8Array(0)),
        () => p.write(a, [1] as never),
        () => m.prefetch(a, 4096, "VRAM" as "DEV"),
        () => m.kernel("fn kernel(item: u32) {}", { items: 0 }),
        () => s.device({ vram: 1000 }),
      ]) {
        expect([String(verb), await code(verb)]).toEqual([String(verb), "EINVAL"]);
      }
      for (const far of [2 ** 48, 0x1fffffffffff000]) {
        const error = await s.fails(m.gst(far, 1), "GPUFAULT");
        expect(error?.fault).toEqual({ kind: "INVAL", addr: far, access: "write" });
        const dropped = s.cnt(m).hintDropped;
        await m.ghint(far);
        expect(s.cnt(m).hintDropped).toBe(dropped + 1);
      }
    }));
});

test.each([
  [0, 0],
  [4, 8],
  [3, 3],
  [4093, 4093],
  [1, 6],
  [4095, 2],
])("gcpy from %i to %i bytes into a page, over its borders", (from, to) =>
  scenario(async (s) => {
    const p = s.proc();
    const m = s.device().vm(p);
    const a = await p.mmap(8 * 4096);
    const bytes = Uint8Array.from({ length: 3 * 4096 }, (_, i) => (i * 7) % 251);
    await p.write(a, bytes);
    const [target, length] = [a + 4 * 4096 + to, 2 * 4096 - 5];
    await p.fill(target - to, 4 * 4096, 0xee);
    await m.gcpy(target, a + from, length);
    const expected = new Uint8Array(4 * 4096).fill(0xee);
    expected.set(bytes.subarray(from, from + length), to);
    expect(s.same(await p.read(target - to, 4 * 4096), expected)).toBe(true);
  }),
);

describe("hints", () => {
  test("what can be served is, what cannot is dropped and counted, and nothing fails", () =>
    scenario(async (s) => {
      const p = s.proc();
      const d = s.device();
      const m = d.vm(p);
      const a = await p.mmap(2 * MIB, { align: 2 * MIB });
      await p.fill(a, 2 * MIB, 1);
      s.mark();
      await m.ghint(a);
      expect(s.where(p, a) === d).toBe(true);
      await m.ghint(a + 64 * MIB);
      expect(s.delta(m).hintDropped).toBe(1);
      s.mark();
      await m.gld(a);
      expect(s.delta(m).gpuFault).toBe(0);
    }));
});

describe("the control verbs", () => {
  test("race: the same seed is the same interleaving, results come in order, the first error after all have ended", () =>
    scenario(async (s) => {
      const order = async (seed: number): Promise<string> => {
        const seen: string[] = [];
        const run = (name: string) => async () => {
          for (let i = 0; i < 8; i++) {
            await s.yield();
            seen.push(name);
          }
          return name;
        };
        expect(await s.race(seed, run("a"), run("b"))).toEqual(["a", "b"]);
        return seen.join("");
      };
      expect(await order(5)).toBe(await order(5));
      expect(new Set([await order(1), await order(2), await order(3), await order(4)]).size).toBeGreaterThan(1);
      let ended = false;
      const slow = async () => {
        for (let i = 0; i < 20; i++) await s.yield();
        ended = true;
      };
      const p = s.proc();
      expect(await code(s.race(1, () => p.ld(0), slow))).toBe("SEGV");
      expect(ended).toBe(true);
      expect(await code(s.race(1, () => s.race(2)))).toBe("EINVAL");
    }));

  test("race: EDEADLK when nobody can go on", () =>
    scenario(async (s) => {
      const never = new Promise<void>(() => undefined);
      expect(await code(s.race(1, () => never))).toBe("EDEADLK");
    }));

  test("steps grow with every verb, and a probe is none", () =>
    scenario(async (s) => {
      const p = s.proc();
      const m = s.device().vm(p);
      const a = await p.mmap(4096);
      let last = s.steps();
      for (const verb of [() => p.st(a, 1), () => m.gld(a), () => s.yield(), () => m.bind(0, 4096, s.NULL)]) {
        await verb();
        expect(s.steps()).toBeGreaterThan(last);
        last = s.steps();
      }
      s.where(p, a);
      s.ranges(m);
      s.vas(m);
      await s.leafs(m);
      await s.snap(m, a, 4096);
      expect(s.steps()).toBe(last);
    }));

  test("watch runs at every yield point, outside of races too, until it is ended", () =>
    scenario(async (s) => {
      const p = s.proc();
      const a = await p.mmap(4096);
      let calls = 0;
      const end = s.watch(() => void calls++);
      await p.st(a, 1);
      expect(calls).toBeGreaterThan(0);
      end();
      const before = calls;
      await p.st(a, 2);
      expect(calls).toBe(before);
    }));

  test("fails gives the error and records a must; null where the verb did otherwise", () =>
    scenario(async (s) => {
      const p = s.proc();
      const a = await p.mmap(4096, { prot: "NONE" });
      const error = await s.fails(p.ld(a + 8), ["BUS", "SEGV"], "no access");
      expect([error?.code, error?.addr]).toEqual(["SEGV", a + 8]);
      expect(await s.fails(() => s.fail("none"))).toMatchObject({ code: "EINVAL" });
      const failed = s.checks.length;
      expect(await s.fails(p.mprotect(a, 4096, "RW"), "SEGV", "no")).toBeNull();
      expect(await s.fails(p.ld(0), "BUS", "other")).toBeNull();
      expect(s.checks.splice(failed).map(({ kind, ok }) => [kind, ok])).toEqual([
        ["must", false],
        ["must", false],
      ]);
    }));

  test("delta counts address spaces that have closed meanwhile", () =>
    scenario(async (s) => {
      const d = s.device();
      const p = s.proc();
      const a = await p.mmap(4096);
      s.mark();
      const child = await p.fork();
      await d.vm(child).gst(a, 1);
      await child.exit();
      expect(s.delta().gpuFault).toBe(1);
    }));
});

describe("memory at the end of a file", () => {
  test("is reached by the GPU as far as the file goes", () =>
    scenario(async (s) => {
      const p = s.proc();
      const m = s.device().vm(p);
      const file = s.file(Uint8Array.from({ length: MIB + 100 }, (_, i) => i));
      const a = await p.mmap(4 * MIB, { kind: { file, shared: true }, align: 2 * MIB });
      expect(await m.gld(a + MIB)).toBe(await p.ld(a + MIB));
      expect(await m.gld(a + 4)).toBe(0x07060504);
      const error = await s.fails(m.gld(a + MIB + 4096), "GPUFAULT");
      expect(error?.fault?.kind).toBe("BUS");
    }));
});

describe("structures alone", () => {
  test("buddy: blocks of the least size asked for, in windows, in one run; what is not there is refused", () =>
    scenario(async (s) => {
      const u = s.buddy(MIB, { min: 8192 });
      expect(u.avail).toBe(MIB);
      expect(u.alloc(3 * 8192, { contiguous: true }).map(({ off, size }) => [off, size])).toEqual([
        [expect.any(Number), 16384],
        [expect.any(Number), 8192],
      ]);
      expect(u.avail).toBe(MIB - 3 * 8192);
      expect(await code(() => u.alloc(4096))).toBe("EINVAL");
      expect(await code(() => u.alloc(0))).toBe("EINVAL");
      expect(await code(() => u.alloc(2 * MIB))).toMatch(/EINVAL|ENOSPC/);
      expect(await code(() => u.free([{ off: MIB - 8192, size: 8192 }]))).toBe("EINVAL");
      for (const o of [{ min: 100 }, { min: 2048 }]) expect(await code(() => s.buddy(MIB, o))).toBe("EINVAL");
      expect(await code(() => s.buddy(100))).toBe("EINVAL");
      const small = s.buddy(64 * 1024, { maxOrder: 1 });
      const blocks = small.alloc(64 * 1024);
      expect(blocks.map(({ size }) => size)).toEqual(Array.from({ length: 8 }, () => 8192));
      small.free(blocks);
      expect(small.avail).toBe(64 * 1024);
    }));

  test("itree: intervals to both ends, EEXIST where they must be disjoint", () =>
    scenario(async (s) => {
      const t = s.itree({ disjoint: true });
      const a = t.insert(10, 20n);
      expect(a).toEqual({ start: 10, last: 20 });
      expect(await code(() => t.insert(20, 30))).toBe("EEXIST");
      const b = t.insert(21, t.max);
      expect(t.query(20, 21)).toEqual([a, b]);
      expect(t.query(0, 9)).toEqual([]);
      for (const [start, last] of [
        [5, 4],
        [-1, 4],
        [0, t.max + 1],
      ] as const) {
        expect(await code(() => t.insert(start, last))).toBe("EINVAL");
      }
      t.remove(a);
      expect(await code(() => t.remove(a))).toBe("ENOENT");
      const any = s.itree();
      any.insert(0, 5);
      any.insert(0, 5);
      expect(any.query(5, 5).length).toBe(2);
    }));
});
