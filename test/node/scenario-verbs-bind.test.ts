import { describe, expect, test } from "vitest";
import { MIB, code, scenario } from "./scenario-support.ts";

const SZ_2M = 2 * MIB;

describe("buffer objects", () => {
  test("are zeroed, and keep what the CPU, the copy engine and the GPU store", () =>
    scenario(async (s) => {
      const d = s.device();
      const m = d.vm(s.proc());
      for (const where of ["VRAM", "SYS"] as const) {
        const b = await s.bo(d, 3 * 4096, where);
        expect(b.size).toBe(3 * 4096);
        expect((await b.read(0, b.size)).every((byte) => byte === 0)).toBe(true);
        await b.st(4096, -1);
        expect(await b.ld(4096n)).toBe(0xffffffff);
        await b.fill(8, 4096, 0x1ab);
        expect([await b.ld(4), await b.ld(8), await b.ld(4096 + 4), await b.ld(4096 + 8)]).toEqual([
          0, 0xabababab, 0xabababab, 0,
        ]);
        await b.write(4097, Uint8Array.of(1, 2, 3, 4, 5, 6));
        expect([...(await b.read(4095, 9))]).toEqual([0xab, 0xab, 1, 2, 3, 4, 5, 6, 0xab]);
        const va = 0x40000000;
        const ops = await m.bind(va, b.size, b);
        const last = ops.at(-1)!.va;
        expect(last.bo === b).toBe(true);
        expect({ ...last, bo: null }).toEqual({ start: va, end: va + b.size, kind: "bo", bo: null, off: 0 });
        await m.gst(va + 8192, 77);
        expect(await b.ld(8192)).toBe(77);
        await m.unbind(va, b.size);
        await b.close();
      }
    }));

  test("copy moves words between objects of a device, physically", () =>
    scenario(async (s) => {
      const d = s.device();
      const [a, b] = [await s.bo(d, 4 * 4096, "VRAM"), await s.bo(d, 2 * 4096, "SYS")];
      const bytes = Uint8Array.from({ length: 8192 }, (_, i) => i * 7);
      await b.write(0, bytes);
      await a.copy(4096 + 4, b, 4, 8188);
      expect(s.same(await a.read(4096 + 4, 8188), bytes.subarray(4))).toBe(true);
      expect([await a.ld(4096), await a.ld(3 * 4096)]).toEqual([0, 0]);
      await a.copy(0, a, 4096, 4096);
      expect(s.same(await a.read(4, 4092), bytes.subarray(4, 4096))).toBe(true);
      expect(await code(a.copy(4, a, 0, 8))).toBe("EINVAL");
      expect(await code(a.copy(0, a, 4096, 6))).toBe("EINVAL");
      expect(await code(a.copy(0, await s.bo(s.device(), 4096, "VRAM"), 0, 4096))).toBe("EINVAL");
    }));

  test("too much is ENOSPC, bad arguments EINVAL, a closed one ENOENT", () =>
    scenario(async (s) => {
      const d = s.device({ vram: 4 * MIB });
      const m = d.vm(s.proc());
      for (const len of [0, -4096, 100, Number.NaN]) expect(await code(s.bo(d, len, "VRAM"))).toBe("EINVAL");
      expect(await code(s.bo(d, 4096, "RAM" as "SYS"))).toBe("EINVAL");
      expect(await code(s.bo(d, 8 * MIB, "VRAM"))).toBe("ENOSPC");
      const b = await s.bo(d, 4096n, "VRAM");
      expect(await code(b.ld(2))).toBe("EINVAL");
      expect(await code(b.ld(4096))).toBe("EINVAL");
      expect(await code(b.ld(-4))).toBe("EINVAL");
      expect(await code(b.read(0, 0))).toBe("EINVAL");
      expect(await code(b.write(4092, new Uint8Array(5)))).toBe("EINVAL");
      expect(await code(b.fill(0, 6, 1))).toBe("EINVAL");
      await m.bind(SZ_2M, 4096, b);
      await b.close();
      expect(await code(b.ld(0))).toBe("ENOENT");
      expect(await code(m.bind(0, 4096, b))).toBe("ENOENT");
      await m.gst(SZ_2M, 5);
      expect(await m.gld(SZ_2M)).toBe(5);
      expect(s.vram(d)).toBe(4096);
      await m.unbind(SZ_2M, 4096);
      await s.settle();
      expect(s.vram(d)).toBe(0);
    }));

  test("contiguous ones lie in one piece where the largest leaf that fits can map them", () =>
    scenario(async (s) => {
      const d = s.device({ vram: 16 * MIB });
      const m = d.vm(s.proc());
      const holes = [];
      for (let i = 0; i < 8; i++) holes.push(await s.bo(d, 4096, "VRAM"), await s.bo(d, 60 * 1024, "VRAM"));
      for (let i = 1; i < holes.length; i += 2) await holes[i]!.close();
      for (const [len, size, count] of [
        [SZ_2M + 4096, SZ_2M, 2],
        [65536 + 4096, 65536, 2],
        [3 * 4096, 4096, 3],
      ] as const) {
        const b = await s.bo(d, len, "VRAM", { contiguous: true });
        await m.bind(0x40000000, len, b);
        const leafs = await s.leafs(m, 0x40000000, 0x40000000 + len);
        expect(leafs[0]!.size).toBe(size);
        expect(leafs.length).toBe(count);
        for (const [i, leaf] of leafs.entries())
          expect(leaf.pa).toBe(leafs[0]!.pa + (i === 0 ? 0 : leaf.va - leafs[0]!.va));
        await m.unbind(0x40000000, len);
      }
    }));
});

describe("the CPU map of a buffer object", () => {
  test("shows the object, wherever its bytes are, to processes and their children", () =>
    scenario(async (s) => {
      const d = s.device({ vram: 4 * MIB });
      const p = s.proc();
      const m = d.vm(p);
      const b = await s.bo(d, 3 * 4096, "VRAM");
      const a = await p.mmap(b.size, { kind: b });
      expect(s.vmas(p)[0]!.kind === b).toBe(true);
      await p.st(a + 4, 5);
      await p.write(a + 4095, Uint8Array.of(1, 2, 3));
      expect(await p.inc(a + 4, -6)).toBe(5);
      expect([await b.ld(4), await p.ld(a + 4), ...(await b.read(4095, 3))]).toEqual([0xffffffff, 0xffffffff, 1, 2, 3]);
      await m.bind(0x40000000, b.size, b);
      await m.gst(0x40000000 + 8192, 9);
      const child = await p.fork();
      expect(await child.ld(a + 8192)).toBe(9);
      await child.fill(a + 8192, 4096, 7);
      await s.bo(d, 4 * MIB, "VRAM");
      expect(await p.ld(a + 8192)).toBe(0x07070707);
      expect(await m.gld(0x40000000 + 8192)).toBe(0x07070707);
    }));

  test("keeps the memory until the last of it is unmapped; other memory verbs leave it alone", () =>
    scenario(async (s) => {
      const d = s.device();
      const p = s.proc();
      const m = d.vm(p);
      const b = await s.bo(d, 2 * 4096, "VRAM");
      const a = await p.mmap(b.size, { kind: b, prot: "R", populate: true });
      expect(await code(p.st(a, 1))).toBe("SEGV");
      expect(await code(p.inc(a))).toBe("SEGV");
      await p.mprotect(a + 4096, 4096, "RW");
      await p.st(a + 4096, 3);
      const to = await p.mremap(a + 4096, 4096, null);
      expect(await p.ld(to)).toBe(3);
      expect([await code(m.toVram(to, 4096)), await code(m.gld(to))]).toEqual(["EINVAL", "GPUFAULT"]);
      await b.close();
      expect(await code(p.mmap(4096, { kind: b }))).toBe("ENOENT");
      await p.munmap(a, 4096);
      expect([await p.ld(to), s.vram(d)]).toEqual([3, 8192]);
      await p.munmap(to, 4096);
      expect(s.vram(d)).toBe(0);
      expect(await code(p.mmap(2 * 4096, { kind: await s.bo(d, 4096, "SYS") }))).toBe("EINVAL");
    }));
});

describe("bind", () => {
  test("process memory and NULL", () =>
    scenario(async (s) => {
      const p = s.proc();
      const m = s.device().vm(p, { mirror: false });
      const a = await p.mmap(4 * 4096);
      await p.st(a + 4096, 11);
      await m.bind(SZ_2M, 2 * 4096, s.userptr(p, a), 4096);
      expect(s.vas(m)).toEqual([{ start: SZ_2M, end: SZ_2M + 8192, kind: "userptr", bo: null, off: a + 4096 }]);
      expect(await m.gld(SZ_2M)).toBe(11);
      await m.gst(SZ_2M + 4096, 12);
      expect(await p.ld(a + 8192)).toBe(12);
      await m.bind(SZ_2M + 4096, 4096, s.NULL);
      await m.gst(SZ_2M + 4096, 13);
      expect([await m.gld(SZ_2M + 4096), await p.ld(a + 8192)]).toEqual([0, 12]);
      expect(s.vas(m, BigInt(SZ_2M + 4096))).toMatchObject([{ kind: "null", bo: null, off: 0 }]);
      expect((await s.leafs(m)).map(({ place }) => place)).toEqual(["SYS", "NULL"]);
      expect(await code(m.bind(0, 4096, s.userptr(s.proc(), a)))).toBe("EINVAL");
      expect(() => s.userptr(p, a + 1)).toThrow("EINVAL");
      expect(await code(m.bind(0, 4096, s.userptr(p, a + MIB)))).toBe("EFAULT");
      expect(await code(m.gld(0))).toBe("GPUFAULT");
    }));

  test("what it did: maps, unmaps and remaps, with what may stay", () =>
    scenario(async (s) => {
      const d = s.device();
      const m = d.vm(s.proc(), { mirror: false });
      const b = await s.bo(d, 8 * 4096, "VRAM");
      const at = 0x1a00000;
      const va = (start: number, end: number, off: number) => ({
        start: at + start * 4096,
        end: at + end * 4096,
        kind: "bo",
        bo: b,
        off: off * 4096,
      });
      expect(await m.bind(at, 4 * 4096, b)).toEqual([{ op: "map", va: va(0, 4, 0) }]);
      expect(await m.bind(at + 4096, 4096, b, 4096)).toEqual([
        { op: "remap", va: va(0, 4, 0), prev: va(0, 1, 0), next: va(2, 4, 2), keep: true },
        { op: "map", va: va(1, 2, 1) },
      ]);
      expect(await m.bind(at, 4096, b, 5 * 4096)).toEqual([
        { op: "unmap", va: va(0, 1, 0), keep: false },
        { op: "map", va: va(0, 1, 5) },
      ]);
      expect(await m.unbind(at + 3 * 4096, 4096)).toEqual([
        { op: "remap", va: va(2, 4, 2), prev: va(2, 3, 2), next: null, keep: expect.any(Boolean) },
      ]);
      expect(await m.unbind(at + 3 * 4096, 4096)).toEqual([]);
      expect(s.vas(m)).toEqual([va(0, 1, 5), va(1, 2, 1), va(2, 3, 2)]);
    }));

  test("bad arguments are EINVAL, and so is a range beyond the object", () =>
    scenario(async (s) => {
      const [d, e] = [s.device(), s.device()];
      const m = d.vm(s.proc());
      const b = await s.bo(d, 8192, "VRAM");
      const before = s.vas(m);
      for (const [va, l, off] of [
        [1, 4096, 0],
        [0, 100, 0],
        [0, 0, 0],
        [0, -4096, 0],
        [-4096, 4096, 0],
        [0, 4096, 5],
        [0, 8192, 4096],
        [2 ** 52, 4096, 0],
      ] as const) {
        expect(await code(m.bind(va, l, b, off))).toBe("EINVAL");
      }
      expect(await code(m.bind(0, 4096, await s.bo(e, 4096, "VRAM")))).toBe("EINVAL");
      expect(await code(m.bind(0, 4096, {} as never))).toBe("EINVAL");
      expect(await code(m.bind(0, 4096, b, 0, { by: "dma" as "cpu" }))).toBe("EINVAL");
      expect(await code(m.batch([{ op: "move" as "unmap", va: 0, len: 4096 }]))).toBe("EINVAL");
      expect(s.vas(m)).toEqual(before);
      expect(await m.batch([])).toEqual([]);
    }));

  test("entries that the GPU wrote itself lead to the same memory", () =>
    scenario(async (s) => {
      const d = s.device();
      const m = d.vm(s.proc(), { mirror: false });
      const b = await s.bo(d, SZ_2M + 4 * 4096, "VRAM");
      await b.fill(0, b.size, 0x5a);
      const written = d.gpu.counters.pteWrites;
      await m.bind(0x40000000, b.size, b, 0, { by: "cpu" });
      const byCpu = d.gpu.counters.pteWrites - written;
      const leafs = await s.leafs(m);
      await m.unbind(0x40000000, b.size);
      const before = d.gpu.counters.pteWrites;
      await m.bind(0x40000000, b.size, b, 0, { by: "gpu" });
      expect(d.gpu.counters.pteWrites - before).toBeGreaterThan(byCpu);
      expect(await s.leafs(m)).toEqual(leafs);
      expect((await m.gread(0x40000000, b.size)).every((byte) => byte === 0x5a)).toBe(true);
    }));
});

describe("scratch", () => {
  test("what is bound to nothing reads 0 and forgets stores, until something is bound there", () =>
    scenario(async (s) => {
      const d = s.device();
      const p = s.proc();
      const m = d.vm(p, { scratch: true, mirror: false });
      const a = await p.mmap(SZ_2M, { align: SZ_2M });
      await p.fill(a, SZ_2M, 7);
      await m.gst(a, 5);
      expect([await m.gld(a), await m.ginc(a), await m.gld(a)]).toEqual([0, 0, 0]);
      expect((await s.leafs(m)).map(({ va, size, place }) => [va, size, place])).toEqual([[a, 4096, "NULL"]]);
      expect([await p.ld(a), s.vas(m)]).toEqual([0x07070707, []]);
      await m.mirrorBind(a, SZ_2M);
      expect(await m.gld(a)).toBe(0x07070707);
      const b = await s.bo(d, 8192, "VRAM");
      await m.gst(SZ_2M, 9);
      await m.bind(SZ_2M, 8192, b);
      await m.gst(SZ_2M + 4, 9);
      expect([await m.gld(SZ_2M), await b.ld(4)]).toEqual([0, 9]);
      await m.unbind(SZ_2M, 8192);
      await m.gst(SZ_2M + 4, 10);
      expect([await m.gld(SZ_2M + 4), await b.ld(4)]).toEqual([0, 9]);
      expect(await code(d.vm(p, { mirror: false }).gld(a))).toBe("GPUFAULT");
    }));
});

describe("mirror and batch", () => {
  test("binding into the mirror is EBUSY while ranges are there, dead ones too", () =>
    scenario(async (s) => {
      const d = s.device();
      const p = s.proc();
      const m = d.vm(p);
      const b = await s.bo(d, SZ_2M, "VRAM");
      const a = await p.mmap(SZ_2M, { align: SZ_2M });
      await m.gst(a, 1);
      expect(await code(m.bind(a, SZ_2M, b))).toBe("EBUSY");
      expect(await code(m.mirrorUnbind(a, SZ_2M))).toBe("EBUSY");
      expect(s.vas(m).length).toBe(1);
      await p.munmap(a, SZ_2M);
      await s.settle();
      const ops = await m.bind(a, SZ_2M, b);
      expect(ops.map(({ op }) => op)).toEqual(["remap", "map"]);
      expect(s.vas(m).map(({ kind }) => kind)).toEqual(["mirror", "bo", "mirror"]);
      await m.mirrorBind(a, SZ_2M);
      await p.mmap(SZ_2M, { at: a });
      await m.gst(a, 2);
      expect(await p.ld(a)).toBe(2);
      const before = s.vas(m);
      await m.mirrorBind(a - SZ_2M, 3 * SZ_2M);
      expect(s.vas(m)).toEqual(before);
    }));

  test("without a mirror nothing is reached until it is bound, and mirrorUnbind takes it away again", () =>
    scenario(async (s) => {
      const p = s.proc();
      const m = s.device().vm(p, { mirror: false });
      expect(s.vas(m)).toEqual([]);
      const a = await p.mmap(SZ_2M, { align: SZ_2M });
      await p.st(a, 3);
      expect(await code(m.gld(a))).toBe("GPUFAULT");
      await m.mirrorBind(a, SZ_2M);
      expect(await m.gld(a)).toBe(3);
      await p.munmap(a, SZ_2M);
      await s.settle();
      await m.mirrorUnbind(a - SZ_2M, 4 * SZ_2M);
      expect(s.vas(m)).toEqual([]);
      await m.mirrorUnbind(a, SZ_2M);
      const outside = s.device().vm(p, { window: [SZ_2M, 2 * SZ_2M], mirror: false });
      expect(await code(outside.mirrorBind(0, SZ_2M))).toBe("EINVAL");
    }));

  test("a batch is all or nothing", () =>
    scenario(async (s) => {
      const d = s.device();
      const m = d.vm(s.proc(), { mirror: false });
      const b = await s.bo(d, 4 * 4096, "VRAM");
      await m.bind(0, 4096, b);
      const before = [s.vas(m), await s.leafs(m)];
      const failure = s.fail("bind-commit", 3);
      const ops = [
        { op: "map", va: 4096, len: 4096, obj: b },
        { op: "unmap", va: 0, len: 4096 },
        { op: "mirror", va: 8192, len: 4096 },
      ] as const;
      expect(await code(m.batch([...ops]))).toBe("ENOMEM");
      expect(failure.fired).toBe(true);
      expect([s.vas(m), await s.leafs(m)]).toEqual(before);
      expect((await m.batch([...ops])).map(({ op }) => op)).toEqual(["map", "unmap", "map"]);
      expect(s.vas(m).map(({ start, kind }) => [start, kind])).toEqual([
        [4096, "bo"],
        [8192, "mirror"],
      ]);
    }));
});
