import { describe, expect, test, vi } from "vitest";
import type { Scenario } from "../../src/scenario/verbs.ts";
import { MIB, code, scenario } from "./scenario-support.ts";

vi.setConfig({ testTimeout: 30_000 });

const BYTES = 256 << 10;

/** Sites, and how often the work below passes them before the call that fails. */
const SITES: readonly (readonly [site: string, n: number])[] = [
  ["frame-alloc", 1],
  ["frame-alloc", 200],
  ["vram-alloc", 1],
  ["table-alloc", 1],
  ["table-alloc", 3],
  ["va-alloc", 1],
  ["va-alloc", 4],
  ["dma-map", 1],
  ["dma-map", 100],
  ["migrate-collect", 1],
  ["migrate-collect", 2],
  ["migrate-populate", 1],
  ["migrate-populate", 2],
  ["copy-submit", 1],
  ["copy-submit", 2],
  ["copy-submit", 4],
  ["copy-complete", 1],
  ["copy-complete", 2],
  ["copy-complete", 4],
  ["bind-commit", 1],
  ["bind-commit", 2],
  ["notifier-insert", 1],
  ["hmm-fault", 1],
  ["readback", 1],
  ["readback", 5],
];

/** Work that passes every site, on memory and objects with known bytes; a verb that fails is asked again. */
async function work(s: Scenario): Promise<string[]> {
  const codes: string[] = [];
  const insist = async <T>(verb: () => T | Promise<T>): Promise<T> => {
    try {
      return await verb();
    } catch (error) {
      codes.push(await code(Promise.reject(error)));
      return verb();
    }
  };
  const p = s.proc();
  const d = s.device({ vram: 4 * MIB });
  const m = await insist(() => d.vm(p));
  const words = Uint32Array.from({ length: BYTES / 4 }, (_, i) => i + 1);
  const a = await p.mmap(6 * MIB, { align: 2 * MIB });
  const shared = await p.mmap(BYTES, { kind: "shanon" });
  for (const at of [a, a + 2 * MIB, a + 4 * MIB, shared]) await insist(() => p.write(at, words));
  for (const at of [a, a + 2 * MIB, a + 4 * MIB]) await insist(() => m.gwrite(at + 4096, words.subarray(1024, 2048)));
  await insist(() => m.gwrite(shared, words));
  const untouched = await p.mmap(4096, { kind: "shanon" });
  await insist(() => m.gst(untouched, 1));
  await insist(() => p.ld(a));
  await insist(() => m.prefetch(a, BYTES, "DEV"));
  const b = await insist(() => s.bo(d, BYTES, "VRAM"));
  await insist(() => b.write(0, words));
  // It puts the others out.
  const c = await insist(() => s.bo(d, 4 * MIB - BYTES, "VRAM"));
  await insist(() => b.fill(0, 4096, 7));
  await insist(() => b.write(0, words.subarray(0, 1024)));
  await insist(() => m.bind(0x1000_0000, BYTES, b));
  s.must(s.same(await insist(() => m.gread(0x1000_0000, BYTES)), words), "the GPU reads the object");
  await insist(() => m.bind(0x2000_0000, BYTES, s.userptr(p, shared)));
  s.must(s.same(await insist(() => m.gread(0x2000_0000, BYTES)), words), "and the memory that it is shown");
  for (const at of [a, a + 2 * MIB, a + 4 * MIB, shared]) {
    s.must(s.same(await insist(() => p.read(at, BYTES)), words), "every word is there");
  }
  s.must(s.same(await insist(() => b.read(0, BYTES)), words), "those of the object too");
  await insist(() => c.close());
  return codes;
}

describe("an injected failure", () => {
  test("has all the sites that are asked for, and says what others it knows", () =>
    scenario(async (s) => {
      expect(s.failSites()).toEqual(expect.arrayContaining([...SITES.map(([site]) => site), "device-lost"]));
      expect(await code(() => s.fail("no-such-site"))).toBe("EINVAL");
      expect(await code(() => s.fail("readback", 0))).toBe("EINVAL");
    }));

  test.each(SITES)("at %s, time %i, is the site's own error or none, and loses nothing", (site, n) =>
    scenario(async (s) => {
      const failure = s.fail(site, n);
      const codes = await work(s);
      expect(failure.fired).toBe(true);
      for (const seen of codes) expect(["ENOMEM", "ENOSPC", "EFAULT", "EIO", "BUS", "GPUFAULT"]).toContain(seen);
      expect(codes.length).toBeLessThanOrEqual(1);
    }),
  );

  test.each(["copy-submit", "copy-complete"])("at %s of a page's way home is a bus error, once", (site) =>
    scenario(async (s) => {
      const d = s.device();
      const p = s.proc();
      const a = await p.mmap(4096);
      await p.st(a, 3);
      await d.vm(p).toVram(a, 4096);
      s.fail(site);
      expect(await code(p.ld(a))).toBe("BUS");
      expect(s.where(p, a) === d).toBe(true);
      expect([await p.ld(a), s.where(p, a)]).toEqual([3, "SYS"]);
    }),
  );

  test("of the device ends it, and the process goes on with what it has", () =>
    scenario(async (s) => {
      const d = s.device();
      const p = s.proc();
      const m = d.vm(p);
      const a = await p.mmap(8192);
      await p.fill(a, 8192, 1);
      const failure = s.fail("device-lost");
      expect(await code(m.gld(a))).toBe("EIO");
      expect(failure.fired).toBe(true);
      expect(d.gpu.isLost).toBe(true);
      expect(await p.ld(a)).toBe(0x01010101);
      expect(await code(m.gld(a))).toBe("EIO");
    }));
});
