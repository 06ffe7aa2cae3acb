/** The life of a page map: references, the cache that finds it again, the shrinker, and the end of its device. */
import { describe, expect, test } from "vitest";
import { EBUSY, ENODEV } from "../../src/base/errno.ts";
import { DrmPagemapCache } from "../../src/pagemap/cache.ts";
import { drmPagemapEvictAll } from "../../src/pagemap/evict-all.ts";
import { type DrmPagemapDevice, drmPagemapPopulateMm } from "../../src/pagemap/pagemap.ts";
import { DrmPagemapShrinker } from "../../src/pagemap/shrinker.ts";
import {
  ArrayVram,
  KB64,
  type Machine,
  PAGE,
  expectBalanced,
  expectBytes,
  filled,
  kinds,
  machine,
  readOk,
} from "./pagemap-array-vram.ts";

const BASE = 0x40000000;

class TestDevice implements DrmPagemapDevice {
  isAlive = true;
  holds = 0;
  get(): void {
    this.holds += 1;
  }
  put(): void {
    expect(this.holds).toBeGreaterThan(0);
    this.holds -= 1;
  }
}

interface World {
  m: Machine;
  device: TestDevice;
  /** A region beside the machine's own, whose lifetime is counted. */
  vram: ArrayVram;
}

function world(): World {
  const m = machine();
  const device = new TestDevice();
  return { m, device, vram: new ArrayVram(m.phys, 64, { device }) };
}

describe("references", () => {
  test("the last put destroys it, and lets go of the device later, when waiting is allowed", async () => {
    const { m, device, vram } = world();
    const { dpagemap } = vram;
    expect(device.holds).toBe(1);
    expect(dpagemap.get() === dpagemap).toBe(true);
    expect(dpagemap.getUnlessZero() === dpagemap).toBe(true);
    dpagemap.put();
    dpagemap.put();
    expect(vram.destroyed).toBe(0);
    dpagemap.put();
    expect(vram.destroyed).toBe(1);
    expect(device.holds, "the put may stand where nothing may wait").toBe(1);
    await m.phys.sched.settle();
    expect(device.holds).toBe(0);
    expect(dpagemap.getUnlessZero() === null).toBe(true);
    expect(() => dpagemap.get()).toThrow(/after the last put/);
    expect(() => dpagemap.put()).toThrow(/without a reference/);
  });

  test("a live page keeps its page map, and thereby the device", async () => {
    const { m, device, vram } = world();
    const { start } = await filled(m.mm, KB64, BASE);
    expect(await drmPagemapPopulateMm(vram.dpagemap, start, start + KB64, m.mm, 0)).toBe(0);
    vram.dpagemap.put();
    await m.phys.sched.settle();
    expect([vram.destroyed, device.holds]).toEqual([0, 1]);
    await m.mm.munmap(start, KB64);
    await m.phys.sched.settle();
    expect([vram.destroyed, device.holds]).toEqual([1, 0]);
  });

  test("a page map in use can be neither brought back nor destroyed", () => {
    const { vram } = world();
    expect(() => vram.dpagemap.reinit()).toThrow(/in use/);
    expect(() => vram.dpagemap.destroy(false)).toThrow(/in use/);
  });
});

describe("cache and shrinker", () => {
  async function cached(w: World): Promise<DrmPagemapCache> {
    const cache = new DrmPagemapCache(new DrmPagemapShrinker());
    const lookup = await cache.lockLookup();
    expect(cache.get(lookup) === null).toBe(true);
    cache.set(lookup, w.vram.dpagemap);
    lookup.release();
    return cache;
  }

  async function lookUp(cache: DrmPagemapCache) {
    const lookup = await cache.lockLookup();
    const found = cache.get(lookup);
    lookup.release();
    return found;
  }

  test("one in use is found with a new reference", async () => {
    const w = world();
    const cache = await cached(w);
    expect((await lookUp(cache)) === w.vram.dpagemap).toBe(true);
    expect(cache.getIfActive() === w.vram.dpagemap).toBe(true);
    expect(w.vram.dpagemap.refcount).toBe(3);
    expect(cache.shrinker.count).toBe(0);
  });

  test("an unused one waits for the shrinker, and a look-up brings it back with a new hold on the device", async () => {
    const w = world();
    const cache = await cached(w);
    w.vram.dpagemap.put();
    await w.m.phys.sched.settle();
    expect([w.vram.destroyed, cache.shrinker.count, w.device.holds]).toEqual([0, 1, 0]);
    expect(cache.getIfActive() === null, "only a look-up under the lock brings one back").toBe(true);
    expect((await lookUp(cache)) === w.vram.dpagemap).toBe(true);
    expect([w.vram.dpagemap.refcount, cache.shrinker.count, w.device.holds]).toEqual([1, 0, 1]);
    const { start, bytes } = await filled(w.m.mm, KB64, BASE);
    expect(await drmPagemapPopulateMm(w.vram.dpagemap, start, start + KB64, w.m.mm, 0)).toBe(0);
    expectBytes(await readOk(w.m.mm, start, KB64), bytes);
  });

  test("what the shrinker has freed is not found, and the next one takes its place", async () => {
    const w = world();
    const cache = await cached(w);
    w.vram.dpagemap.put();
    expect(cache.shrinker.scan(0)).toBe(0);
    expect(cache.shrinker.scan(5)).toBe(1);
    expect(w.vram.destroyed).toBe(1);
    expect((await lookUp(cache)) === null).toBe(true);
    const next = new ArrayVram(w.m.phys, 64);
    const lookup = await cache.lockLookup();
    cache.set(lookup, next.dpagemap);
    lookup.release();
    expect((await lookUp(cache)) === next.dpagemap).toBe(true);
  });

  test("the shrinker frees the oldest first, as many as it was told", async () => {
    const { m } = world();
    const shrinker = new DrmPagemapShrinker();
    const vrams = [64, 64, 64].map((pages) => new ArrayVram(m.phys, pages));
    for (const vram of vrams) {
      const cache = new DrmPagemapCache(shrinker);
      const lookup = await cache.lockLookup();
      cache.set(lookup, vram.dpagemap);
      lookup.release();
      vram.dpagemap.put();
    }
    expect(shrinker.scan(2)).toBe(2);
    expect(vrams.map((vram) => vram.destroyed)).toEqual([1, 1, 0]);
    shrinker.fini();
    expect(vrams.map((vram) => vram.destroyed)).toEqual([1, 1, 1]);
  });

  test("two look-ups at once make one page map", async () => {
    const w = world();
    const cache = new DrmPagemapCache(new DrmPagemapShrinker());
    let made = 0;
    const use = async () => {
      const lookup = await cache.lockLookup();
      let found = cache.get(lookup);
      if (found === null) {
        await w.m.phys.sched.sleep(1);
        made += 1;
        found = w.vram.dpagemap;
        cache.set(lookup, found);
      }
      lookup.release();
      return found;
    };
    const found = await Promise.all([use(), use(), use()]);
    expect(found.every((dpagemap) => dpagemap === w.vram.dpagemap)).toBe(true);
    expect(made).toBe(1);
    expect(w.vram.dpagemap.refcount).toBe(3);
  });

  test("without the look-up lock it is a bug", async () => {
    const w = world();
    const cache = await cached(w);
    const lookup = await cache.lockLookup();
    lookup.release();
    expect(() => cache.get(lookup)).toThrow(/without the look-up lock/);
    expect(() => cache.set(lookup, w.vram.dpagemap)).toThrow(/without the look-up lock/);
  });

  test("the end of the device frees an unused one at once, and one in use at its last put", async () => {
    const unused = world();
    const cacheOfUnused = await cached(unused);
    unused.vram.dpagemap.put();
    cacheOfUnused.fini();
    expect(unused.vram.destroyed).toBe(1);

    const used = world();
    const cacheOfUsed = await cached(used);
    cacheOfUsed.fini();
    expect(used.vram.destroyed).toBe(0);
    used.vram.dpagemap.put();
    expect(used.vram.destroyed).toBe(1);
  });

  test("the last put after the device has gone destroys it, cache or not", async () => {
    const w = world();
    const cache = await cached(w);
    w.device.isAlive = false;
    w.vram.dpagemap.put();
    expect([w.vram.destroyed, cache.shrinker.count]).toEqual([1, 0]);
    expect((await lookUp(cache)) === null).toBe(true);
  });
});

describe("unbinding a device", () => {
  test("nothing moves in any more, everything moves out, and the frames can go", async () => {
    const { m, device, vram } = world();
    const { start, bytes } = await filled(m.mm, 2 * KB64, BASE);
    expect(await drmPagemapPopulateMm(vram.dpagemap, start, start + KB64, m.mm, 1000)).toBe(0);
    expect(await drmPagemapPopulateMm(vram.dpagemap, start + KB64, start + 2 * KB64, m.mm, 0)).toBe(0);
    device.isAlive = false;
    expect(await drmPagemapPopulateMm(vram.dpagemap, start, start + KB64, m.mm, 0)).toBe(ENODEV);
    expect(await drmPagemapEvictAll(vram.dpagemap, m.phys)).toBe(0);
    expect(kinds(m.mm, start, start + 2 * KB64)).toEqual({ present: 32 });
    expect(vram.live.size).toBe(0);
    vram.dpagemap.put();
    expect(vram.destroyed).toBe(1);
    m.phys.removePagemap(vram.pagemap);
    expectBytes(await readOk(m.mm, start, 2 * KB64), bytes);
    await expectBalanced(m);
    expect(device.holds).toBe(0);
  });

  test("a page that somebody holds is -EBUSY and stays valid; when it is let go, the rest follows", async () => {
    const { m, vram } = world();
    const { start, bytes } = await filled(m.mm, KB64, BASE);
    await drmPagemapPopulateMm(vram.dpagemap, start, start + KB64, m.mm, 0);
    const pfn = m.mm.devicePfnAt(start + 2 * PAGE);
    m.phys.getPage(pfn);
    m.phys.getPage(pfn);
    expect(await drmPagemapEvictAll(vram.dpagemap, m.phys)).toBe(EBUSY);
    expect(kinds(m.mm, start, start + KB64)).toEqual({ present: 15, "device-private": 1 });
    m.phys.putPage(pfn);
    m.phys.putPage(pfn);
    expect(await drmPagemapEvictAll(vram.dpagemap, m.phys)).toBe(0);
    expectBytes(await readOk(m.mm, start, KB64), bytes);
    await expectBalanced(m);
  });
});
