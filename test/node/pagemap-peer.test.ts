/** Devices that reach each other's memory: owner groups, migration between them, and mapping in place. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { EBUSY, EFAULT, EIO, EOPNOTSUPP } from "../../src/base/errno.ts";
import type { GpuSvmDevice } from "../../src/gpusvm/ops.ts";
import { GpuSvmPages } from "../../src/gpusvm/pages.ts";
import { DrmPagemapOwnerList, DrmPagemapPeer, drmPagemapReleaseOwner } from "../../src/pagemap/owner.ts";
import { Driver } from "./gpusvm-driver.ts";
import {
  ArrayVram,
  KB64,
  type Machine,
  PAGE,
  PROTO_PEER,
  expectBalanced,
  expectBytes,
  filled,
  kinds,
  machine,
  readOk,
} from "./pagemap-array-vram.ts";

const BASE = 0x40000000;

/** A second device of the first one's owner. */
function peerOf(m: Machine): ArrayVram {
  return new ArrayVram(m.phys, 256, { owner: m.vram.pagemap.owner });
}

/** Runs with the mmap lock held, as populate_mm does. */
async function locked<T>({ mm }: Machine, f: () => T | Promise<T>): Promise<T> {
  const guard = await mm.mmapLock.read();
  try {
    return await f();
  } finally {
    guard.release();
  }
}

async function expectBothBalanced(m: Machine, peer: ArrayVram): Promise<void> {
  await expectBalanced(m);
  expect(peer.live.size).toBe(0);
  expect(peer.dpagemap.refcount).toBe(1);
  expect(m.vram.peerMappings + peer.peerMappings, "pages are still mapped for a peer").toBe(0);
}

/** In which memory each page lies: 0 RAM, 1 the first device, 2 the peer. */
function places({ mm, vram }: Machine, start: number, pages: number): number[] {
  return Array.from({ length: pages }, (_, i) => {
    const pfn = mm.devicePfnAt(start + i * PAGE);
    if (pfn < 0) return 0;
    return mm.phys.pgmapOf(pfn) === vram.pagemap ? 1 : 2;
  });
}

describe("owner groups", () => {
  const link = (pairs: readonly string[]) => (a: DrmPagemapPeer, b: DrmPagemapPeer) =>
    pairs.includes(`${String(a.private)}${String(b.private)}`) ||
    pairs.includes(`${String(b.private)}${String(a.private)}`);

  test("a device joins the first group with all of whose members it has a link", () => {
    const list = new DrmPagemapOwnerList();
    const has = link(["AB", "CD", "AE", "BE", "CE"]);
    const [a, b, c, d, e] = ["A", "B", "C", "D", "E"].map((name) => new DrmPagemapPeer(name));
    for (const peer of [a, c, b, d, e]) list.acquireOwner(peer, has);
    expect(b.owner).toBe(a.owner);
    expect(d.owner).toBe(c.owner);
    expect(c.owner).not.toBe(a.owner);
    expect(e.owner, "E is linked with one of C and D only").toBe(a.owner);
    expect(a.owner!.refcount).toBe(3);
    expect(list.peers).toEqual([a, b, e, c, d]);
  });

  test("who has no link is alone", () => {
    const list = new DrmPagemapOwnerList();
    const [a, b] = ["A", "B"].map((name) => new DrmPagemapPeer(name));
    expect(list.acquireOwner(a, () => false)).not.toBe(list.acquireOwner(b, () => false));
  });

  test("who leaves makes room for one it had no link with; leaving twice changes nothing", () => {
    const list = new DrmPagemapOwnerList();
    const has = link(["AB", "AC"]);
    const [a, b, c] = ["A", "B", "C"].map((name) => new DrmPagemapPeer(name));
    const owner = list.acquireOwner(a, has);
    list.acquireOwner(b, has);
    drmPagemapReleaseOwner(b);
    drmPagemapReleaseOwner(b);
    expect(b.owner).toBeNull();
    expect(owner.refcount).toBe(1);
    expect(list.acquireOwner(c, has)).toBe(owner);
  });

  test("a peer cannot be in two groups", () => {
    const list = new DrmPagemapOwnerList();
    const a = new DrmPagemapPeer("A");
    list.acquireOwner(a, () => true);
    expect(() => list.acquireOwner(a, () => true)).toThrow(/second group/);
  });

  test("every group is a clique, and its members stand side by side", () => {
    fc.assert(
      fc.property(
        fc.array(fc.nat(63), { minLength: 1, maxLength: 10 }),
        fc.array(fc.nat(9), { maxLength: 6 }),
        (masks, leaving) => {
          const list = new DrmPagemapOwnerList();
          const has = (a: DrmPagemapPeer, b: DrmPagemapPeer) => ((a.private as number) & (b.private as number)) !== 0;
          const peers = masks.map((mask) => new DrmPagemapPeer(mask));
          for (const peer of peers) list.acquireOwner(peer, has);
          for (const i of leaving) if (i < peers.length) drmPagemapReleaseOwner(peers[i]);
          const owners = list.peers.map((peer) => peer.owner!);
          for (const owner of new Set(owners)) {
            const members = list.peers.filter((peer) => peer.owner === owner);
            expect(owner.refcount).toBe(members.length);
            const first = owners.indexOf(owner);
            expect(owners.slice(first, first + members.length).every((o) => o === owner)).toBe(true);
            for (const a of members) for (const b of members) if (a !== b) expect(has(a, b)).toBe(true);
          }
        },
      ),
    );
  });
});

describe("migration from a peer's memory", () => {
  test.each([
    ["the peer's engine sends", true, { in: 0, out: 1 }],
    ["our engine fetches", false, { in: 1, out: 0 }],
  ])("%s: every byte arrives, and the peer's allocation is released", async (_name, sourcePeerMigrates, copies) => {
    const m = machine();
    const peer = peerOf(m);
    const { start, bytes } = await filled(m.mm, KB64, BASE);
    expect(await locked(m, () => peer.migrate(m.mm, start, start + KB64))).toBe(0);
    const size = KB64;
    expect(await locked(m, () => m.vram.migrate(m.mm, start, start + KB64, 0, size, { sourcePeerMigrates }))).toBe(0);
    expect(places(m, start, 16)).toEqual(new Array(16).fill(1));
    expect({ in: m.vram.copiesIn, out: peer.copiesOut }).toEqual(copies);
    expect(peer.releases).toBe(1);
    expect(peer.live.size).toBe(0);
    expectBytes(m.vram.bytesOf(m.mm.devicePfnAt(start)), bytes.subarray(0, PAGE));
    expectBytes(await readOk(m.mm, start, KB64), bytes);
    await expectBothBalanced(m, peer);
  });

  test("RAM, holes and two peers' pages in one interval: each run by its engine, the fence to the first alone", async () => {
    const m = machine();
    const peer = peerOf(m);
    const third = new ArrayVram(m.phys, 256, { owner: m.vram.pagemap.owner });
    const { start, bytes } = await filled(m.mm, KB64, BASE);
    await m.mm.dontneed(start, PAGE);
    bytes.fill(0, 0, PAGE);
    await locked(m, () => peer.migrate(m.mm, start + 4 * PAGE, start + 8 * PAGE));
    await locked(m, () => third.migrate(m.mm, start + 8 * PAGE, start + 12 * PAGE));
    for (const vram of [m.vram, peer, third]) vram.fences.length = 0;
    const bo = m.vram.alloc(m.mm, KB64);
    const fence = Promise.resolve();
    bo.preMigrateFence = fence;
    expect(await locked(m, () => m.vram.migrateBo(bo, start, start + KB64))).toBe(0);
    expect(m.vram.fences).toEqual([fence, null]);
    expect([peer.fences, third.fences]).toEqual([[null], [null]]);
    expect(bo.preMigrateFence).toBeNull();
    expect(places(m, start, 16)).toEqual(new Array(16).fill(1));
    expectBytes(await readOk(m.mm, start, KB64), bytes);
    expect(third.live.size).toBe(0);
    await expectBothBalanced(m, peer);
  });

  test.each([
    ["sent", true],
    ["fetched", false],
  ])("a page that the link refuses to be %s leaves everything where it was", async (_name, sourcePeerMigrates) => {
    const m = machine();
    const peer = peerOf(m);
    const { start, bytes } = await filled(m.mm, KB64, BASE);
    await locked(m, () => peer.migrate(m.mm, start, start + KB64));
    const refusing = sourcePeerMigrates ? m.vram : peer;
    refusing.refusePeers = true;
    const outcome = locked(m, () => m.vram.migrate(m.mm, start, start + KB64, 0, KB64, { sourcePeerMigrates }));
    expect(await outcome).toBe(EFAULT);
    expect(places(m, start, 16)).toEqual(new Array(16).fill(2));
    expect(m.vram.live.size).toBe(0);
    expectBytes(await readOk(m.mm, start, KB64), bytes);
    await expectBothBalanced(m, peer);
  });

  test("a copy that fails on the peer's engine is its error, and the data stays there", async () => {
    const m = machine();
    const peer = peerOf(m);
    const { start, bytes } = await filled(m.mm, KB64, BASE);
    await locked(m, () => peer.migrate(m.mm, start, start + KB64));
    peer.failCopyToRam = EIO;
    expect(await locked(m, () => m.vram.migrate(m.mm, start, start + KB64))).toBe(EIO);
    expect(places(m, start, 16)).toEqual(new Array(16).fill(2));
    expect(m.vram.releases).toBe(1);
    expectBytes(await readOk(m.mm, start, KB64), bytes);
    await expectBothBalanced(m, peer);
  });

  test("pages of a device of another owner are not collected: -EBUSY", async () => {
    const m = machine();
    const stranger = new ArrayVram(m.phys, 256);
    const { start, bytes } = await filled(m.mm, KB64, BASE);
    await locked(m, () => stranger.migrate(m.mm, start, start + 4 * PAGE));
    expect(await locked(m, () => m.vram.migrate(m.mm, start, start + KB64))).toBe(EBUSY);
    expect(places(m, start, 16).filter((place) => place === 1)).toEqual([]);
    expectBytes(await readOk(m.mm, start, KB64), bytes);
    await expectBothBalanced(m, stranger);
  });
});

describe("gathering inside one memory", () => {
  test("with a copy engine that can, an interval that is partly here already becomes one allocation", async () => {
    const m = machine();
    const { start, bytes } = await filled(m.mm, KB64, BASE);
    await locked(m, () => m.vram.migrate(m.mm, start, start + 4 * PAGE));
    const gather = () => m.vram.migrate(m.mm, start, start + KB64, 0, KB64, { canMigrateSamePagemap: true });
    expect(await locked(m, gather)).toBe(0);
    expect(kinds(m.mm, start, start + KB64)).toEqual({ "device-private": 16 });
    expect(m.vram.live.size, "the first allocation is gone").toBe(1);
    const first = m.mm.devicePfnAt(start);
    const pfns = Array.from({ length: 16 }, (_, i) => m.mm.devicePfnAt(start + i * PAGE));
    expect(pfns).toEqual(Array.from({ length: 16 }, (_, i) => first + i));
    expectBytes(await readOk(m.mm, start, KB64), bytes);
    await expectBalanced(m);
  });
});

describe("a peer's pages mapped in place", () => {
  /** The peer as one of its own look-ups sees it: RAM is not its business here. */
  class PeerDevice extends ArrayVram implements GpuSvmDevice {
    dmaMapPage(): number {
      throw new Error("a system page was mapped");
    }
    dmaUnmapPage(): void {
      throw new Error("a system page was unmapped");
    }
  }

  test("get_pages of the one device finds the other's pages by the link's address, and unmaps them there", async () => {
    const m = machine();
    const peer = new PeerDevice(m.phys, 256, { owner: m.vram.pagemap.owner });
    const { start, bytes } = await filled(m.mm, KB64, BASE);
    await locked(m, () => m.vram.migrate(m.mm, start, start + KB64));
    const d = new Driver(m);
    const range = await d.svm.rangeFindOrInsert(start, 0, 2 ** 47, await lockedCtx(d));
    if (typeof range === "number") throw new Error("no range");
    const pages = new GpuSvmPages(peer);
    const { mm } = m;
    const got = await d.svm.getPages(pages, mm, range.notifier!.notifier, start, start + KB64, d.ctx);
    expect(got).toBe(0);
    expect(pages.dpagemap === m.vram.dpagemap).toBe(true);
    expect(m.vram.peerMappings).toBe(pages.dmaAddr!.count);
    expect(pages.dmaAddr!.proto(0)).toBe(PROTO_PEER);
    expect(pages.dmaAddr!.addr[0]).toBe(mm.devicePfnAt(start) * PAGE);
    await d.svm.freePages(pages);
    expect(m.vram.peerMappings).toBe(0);
    d.lockHeld!.release();
    expectBytes(await readOk(mm, start, KB64), bytes);
    await d.close();
    await expectBothBalanced(m, peer);
  });

  test("a range spread over two devices is a mix: -EOPNOTSUPP, and nothing stays mapped", async () => {
    const m = machine();
    const peer = peerOf(m);
    const { start } = await filled(m.mm, KB64, BASE);
    await locked(m, () => m.vram.migrate(m.mm, start, start + 8 * PAGE));
    await locked(m, () => peer.migrate(m.mm, start + 8 * PAGE, start + KB64));
    const d = new Driver(m, { allowMixed: true });
    const range = await d.svm.rangeFindOrInsert(start, 0, 2 ** 47, await lockedCtx(d));
    if (typeof range === "number") throw new Error("no range");
    expect(await d.svm.rangeGetPages(range, d.ctx)).toBe(EOPNOTSUPP);
    expect(range.hasDmaMapping).toBe(false);
    expect(await d.svm.rangeEvict(range)).toBe(0);
    expect(await d.svm.rangeGetPages(range, d.ctx)).toBe(0);
    d.lockHeld!.release();
    await d.close();
    await expectBothBalanced(m, peer);
  });
});

/** Takes the driver's lock, which the calls of a fault want. */
async function lockedCtx(d: Driver) {
  d.lockHeld = await d.lock.write();
  return d.ctx;
}
