import { describe, expect, test } from "vitest";
import { EBUSY, ENOMEM } from "../../src/base/errno.ts";
import { DMA_BIDIRECTIONAL, DMA_TO_DEVICE, SystemWindow, type SlotRun, type WindowPort } from "../../src/mm/dma.ts";
import { PG_SLOT } from "../../src/mm/frame-table.ts";
import { Mm } from "../../src/mm/mm.ts";
import type { PhysMemory } from "../../src/mm/phys-mem.ts";
import { PAGE, expectBytes, mmapOk, readOk, testPhys } from "./mm-fake-device.ts";

/** A GPU whose window is a plain array. Copies back wait until the test lets them go, when it says so. */
class FakePort implements WindowPort {
  readonly #phys: PhysMemory;
  readonly memory: Uint8Array;
  readonly copiesIn: SlotRun[][] = [];
  readonly copiesOut: SlotRun[][] = [];
  hold: Promise<void> | null = null;

  constructor(phys: PhysMemory, pages: number) {
    this.#phys = phys;
    this.memory = new Uint8Array(pages * PAGE).fill(0xee);
  }

  copyIn(runs: readonly SlotRun[]): void {
    this.copiesIn.push(runs.map((r) => ({ ...r })));
    for (const { frame, slot, pages } of runs) {
      this.memory.set(this.#phys.ram.subarray(frame * PAGE, (frame + pages) * PAGE), slot * PAGE);
    }
  }

  async copyOut(runs: readonly SlotRun[]): Promise<void> {
    this.copiesOut.push(runs.map((r) => ({ ...r })));
    if (this.hold !== null) await this.hold;
    for (const { frame, slot, pages } of runs) {
      this.#phys.ram.set(this.memory.subarray(slot * PAGE, (slot + pages) * PAGE), frame * PAGE);
    }
  }

  word(addr: number): number {
    return new DataView(this.memory.buffer).getUint32(addr, true);
  }
  setWord(addr: number, value: number): void {
    new DataView(this.memory.buffer).setUint32(addr, value, true);
  }
}

function setUp(windowPages = 16, ramPages = 64) {
  const phys = testPhys(ramPages);
  const mm = new Mm({ phys });
  const port = new FakePort(phys, windowPages);
  const window = new SystemWindow(phys, port, windowPages * PAGE);
  const frameOf = (addr: number) => mm.pageAt(addr).pfn;
  return { phys, mm, port, window, frameOf };
}

/** A submission whose kernel runs `kernel` on the window's memory and may write the pages at `writes`. */
async function submit(window: SystemWindow, writes: number[], kernel: () => void): Promise<void> {
  await window.submitWith(writes, kernel);
}

describe("one frame, two address spaces (the worked example)", () => {
  test("every step has the right bytes in frame and slot", async () => {
    const { mm, port, window, frameOf } = setUp();
    const a = await mmapOk(mm, PAGE);
    await mm.store32(a, 1);
    const pfn = frameOf(a);
    const forA = window.map(pfn, DMA_BIDIRECTIONAL);
    expect(forA).toBeGreaterThan(0);
    const addOne = () => port.setWord(forA, port.word(forA) + 1);
    await submit(window, [forA], addOne);
    expect(port.word(forA)).toBe(2);
    expect(mm.translate(a, false)).toBe(-1);

    const forB = window.map(pfn, DMA_TO_DEVICE);
    expect(forB).toBe(forA);
    port.copiesIn.length = 0;
    await submit(window, [], () => expect(port.word(forB)).toBe(2));
    expect(port.copiesIn).toEqual([]);

    expect(await mm.load32(a)).toBe(2);
    await mm.store32(a, 7);
    await submit(window, [], () => expect(port.word(forB)).toBe(7));
    await submit(window, [forA], addOne);
    await window.unmap(forA, DMA_BIDIRECTIONAL);
    expect(mm.translate(a, false)).toBeGreaterThan(0);
    expect(mm.load32(a)).toBe(8);
    expect(window.unmap(forB, DMA_TO_DEVICE)).toBeUndefined();
    await mm.store32(a, 9);
    expect(window.map(pfn, DMA_TO_DEVICE)).toBe(forA);
    await submit(window, [], () => expect(port.word(forA)).toBe(9));
  });
});

describe("copies", () => {
  test("neighbouring frames in neighbouring slots are one transfer each way", async () => {
    const { mm, port, window, frameOf } = setUp();
    const a = await mmapOk(mm, 8 * PAGE);
    await mm.fill(a, 8 * PAGE, 3);
    const addrs = Array.from({ length: 8 }, (_, i) => window.map(frameOf(a + i * PAGE), DMA_BIDIRECTIONAL));
    await submit(window, addrs, () => port.memory.fill(4));
    expect(port.copiesIn).toEqual([[{ frame: frameOf(a), slot: addrs[0]! / PAGE, pages: 8 }]]);
    expectBytes(await readOk(mm, a, 8 * PAGE), new Uint8Array(8 * PAGE).fill(4));
    expect(port.copiesOut).toEqual([[{ frame: frameOf(a), slot: addrs[0]! / PAGE, pages: 8 }]]);
  });

  test("unmapping an interval copies back what was written, in one transfer", async () => {
    const { mm, port, window, frameOf } = setUp();
    const a = await mmapOk(mm, 4 * PAGE);
    await mm.fill(a, 4 * PAGE, 3);
    const addrs = Array.from({ length: 4 }, (_, i) => window.map(frameOf(a + i * PAGE), DMA_BIDIRECTIONAL));
    await submit(window, [addrs[0]!, addrs[1]!, addrs[3]!], () => port.memory.fill(5));
    await Promise.all(addrs.map((addr) => window.unmap(addr, DMA_BIDIRECTIONAL)));
    expect(port.copiesOut).toHaveLength(1);
    const expected = new Uint8Array(4 * PAGE).fill(5).fill(3, 2 * PAGE, 3 * PAGE);
    expectBytes(await readOk(mm, a, 4 * PAGE), expected);
  });

  test("a CPU store into a page that the GPU writes keeps the bytes of both", async () => {
    const { mm, port, window, frameOf } = setUp();
    const a = await mmapOk(mm, PAGE);
    await mm.fill(a, PAGE, 1);
    const addr = window.map(frameOf(a), DMA_BIDIRECTIONAL);
    await submit(window, [addr], () => port.setWord(addr + 100, 0x22222222));
    await mm.store32(a + 200, 0x33333333);
    expect(await mm.load32(a + 100)).toBe(0x22222222);
    await submit(window, [addr], () => {
      expect([port.word(addr + 100), port.word(addr + 200)]).toEqual([0x22222222, 0x33333333]);
    });
  });

  test("a page that is mapped for reading only never makes the CPU wait", async () => {
    const { mm, port, window, frameOf } = setUp();
    const a = await mmapOk(mm, PAGE);
    await mm.store32(a, 1);
    const addr = window.map(frameOf(a), DMA_TO_DEVICE);
    await submit(window, [], () => {});
    expect(mm.store32(a, 2)).toBeUndefined();
    expect(mm.load32(a)).toBe(2);
    await submit(window, [], () => expect(port.word(addr)).toBe(2));
  });

  test("a submission lets a CPU access finish that waits for a page it would write", async () => {
    const { mm, port, window, frameOf } = setUp();
    const a = await mmapOk(mm, PAGE);
    await mm.store32(a, 1);
    const addr = window.map(frameOf(a), DMA_BIDIRECTIONAL);
    await submit(window, [addr], () => port.setWord(addr, 10));
    let release = () => {};
    port.hold = new Promise((resolve) => (release = resolve));
    const order: string[] = [];
    const stored = Promise.resolve(mm.atomicAdd32(a, 1)).then((old) => order.push(`cpu saw ${String(old)}`));
    const submitted = submit(window, [addr], () => order.push(`gpu saw ${port.word(addr)}`));
    release();
    await Promise.all([stored, submitted]);
    expect(order).toEqual(["cpu saw 10", "gpu saw 11"]);
  });

  test("content that is being discarded is not copied back", async () => {
    const { mm, port, window, frameOf } = setUp();
    const a = await mmapOk(mm, PAGE);
    await mm.store32(a, 1);
    const addr = window.map(frameOf(a), DMA_BIDIRECTIONAL);
    await submit(window, [addr], () => port.setWord(addr, 10));
    expect(window.unmapDiscarded(addr, DMA_BIDIRECTIONAL)).toBeUndefined();
    expect(port.copiesOut).toEqual([]);
    expect(await mm.load32(a)).toBe(1);
  });

  test("a transfer that fails rejects who waits for it; the frame keeps its last bytes", async () => {
    const { mm, port, window, frameOf } = setUp();
    const a = await mmapOk(mm, PAGE);
    await mm.store32(a, 1);
    const addr = window.map(frameOf(a), DMA_BIDIRECTIONAL);
    await submit(window, [addr], () => port.setWord(addr, 10));
    port.hold = Promise.reject(new Error("lost"));
    await expect(mm.load32(a)).rejects.toThrow("lost");
    expect(await mm.load32(a)).toBe(1);
  });
});

describe("two devices", () => {
  test("what one wrote comes home before the other reads, and its slot is out of date when the other writes", async () => {
    const { phys, mm, port, window, frameOf } = setUp();
    const otherPort = new FakePort(phys, 16);
    const other = new SystemWindow(phys, otherPort, 16 * PAGE);
    const a = await mmapOk(mm, PAGE);
    await mm.store32(a, 1);
    const first = window.map(frameOf(a), DMA_BIDIRECTIONAL);
    const second = other.map(frameOf(a), DMA_BIDIRECTIONAL);
    await submit(window, [first], () => port.setWord(first, 5));
    await submit(other, [second], () => otherPort.setWord(second, otherPort.word(second) + 1));
    expect(otherPort.word(second)).toBe(6);
    await submit(window, [first], () => port.setWord(first, port.word(first) + 1));
    expect(await mm.load32(a)).toBe(7);
  });
});

describe("exhaustion", () => {
  test("live mappings hold the window: -ENOMEM; the longest unmapped slot gives way first", async () => {
    const { mm, window, frameOf } = setUp(4);
    const a = await mmapOk(mm, 5 * PAGE, { populate: true });
    const f = [0, 1, 2, 3, 4].map((i) => frameOf(a + i * PAGE));
    const addrs = [0, 1, 2].map((i) => window.map(f[i]!, DMA_TO_DEVICE));
    expect(addrs).toEqual([PAGE, 2 * PAGE, 3 * PAGE]);
    expect(window.map(f[3]!, DMA_TO_DEVICE)).toBe(ENOMEM);
    window.unmap(addrs[1]!, DMA_TO_DEVICE);
    window.unmap(addrs[0]!, DMA_TO_DEVICE);
    expect(window.available).toBe(2);
    expect(window.map(f[3]!, DMA_TO_DEVICE)).toBe(addrs[1]);
    expect(window.map(f[0]!, DMA_TO_DEVICE)).toBe(addrs[0]);
    expect(window.map(f[4]!, DMA_TO_DEVICE)).toBe(ENOMEM);
  });

  test("a slot whose bytes are coming back is -EBUSY, and usable after", async () => {
    const { mm, port, window, frameOf } = setUp(2);
    const a = await mmapOk(mm, 2 * PAGE, { populate: true });
    const addr = window.map(frameOf(a), DMA_BIDIRECTIONAL);
    await submit(window, [addr], () => port.setWord(addr, 3));
    const done = window.unmap(addr, DMA_BIDIRECTIONAL);
    expect(window.map(frameOf(a + PAGE), DMA_TO_DEVICE)).toBe(EBUSY);
    await done;
    expect(window.map(frameOf(a + PAGE), DMA_TO_DEVICE)).toBe(addr);
    expect(await mm.load32(a)).toBe(3);
  });
});

describe("lifetime of the window", () => {
  test("destroyed, it leaves no trace on the frames it knew", async () => {
    const { phys, mm, window, frameOf } = setUp(4);
    const a = await mmapOk(mm, PAGE);
    await mm.store32(a, 1);
    const addr = window.map(frameOf(a), DMA_TO_DEVICE);
    expect(() => window.destroy()).toThrow(/mapped/);
    window.unmap(addr, DMA_TO_DEVICE);
    const flags = phys.frames.flags[frameOf(a)]!;
    window.destroy();
    expect(phys.frames.flags[frameOf(a)]).toBe(flags & ~PG_SLOT);
    expect(mm.store32(a, 2)).toBeUndefined();
  });

  test("a mapping can be made to fail", async () => {
    const { phys, mm, window, frameOf } = setUp(4);
    const a = await mmapOk(mm, PAGE, { populate: true });
    phys.failpoint = (site) => site === "dma-map";
    expect(window.map(frameOf(a), DMA_TO_DEVICE)).toBe(ENOMEM);
    expect(window.available).toBe(3);
  });
});

describe("lifetime of frames", () => {
  test("a freed frame's slot goes without a copy, and the next owner of the frame sees none of it", async () => {
    const { phys, mm, port, window, frameOf } = setUp(4);
    const a = await mmapOk(mm, PAGE);
    await mm.store32(a, 1);
    const pfn = frameOf(a);
    window.unmap(window.map(pfn, DMA_BIDIRECTIONAL), DMA_BIDIRECTIONAL);
    expect(window.available).toBe(3);
    await mm.munmap(a, PAGE);
    expect(window.hasSlot(pfn)).toBe(false);
    expect(window.available).toBe(3);
    expect(port.copiesOut).toEqual([]);
    expect(phys.frames.flags[pfn]).toBe(0);
  });

  test("freeing a frame that is mapped, and one unmapping too many, are errors of the caller", async () => {
    const { mm, window, frameOf } = setUp(4);
    const a = await mmapOk(mm, PAGE);
    await mm.store32(a, 1);
    const addr = window.map(frameOf(a), DMA_TO_DEVICE);
    expect(() => mm.munmap(a, PAGE)).toThrow(/mapped/);
    window.unmap(addr, DMA_TO_DEVICE);
    expect(() => window.unmap(addr, DMA_TO_DEVICE)).toThrow(/more often/);
  });
});

test("what waits for a copy back alone is said to come free, and is then; what is mapped still is not", async () => {
  const { mm, port, window, frameOf } = setUp(3);
  const [a, b] = [await mmapOk(mm, PAGE), await mmapOk(mm, PAGE)];
  await mm.store32(a, 1);
  await mm.store32(b, 2);
  const [forA, forB] = [window.map(frameOf(a), DMA_BIDIRECTIONAL), window.map(frameOf(b), DMA_BIDIRECTIONAL)];
  await submit(window, [forA, forB], () => port.setWord(forA, 7));
  expect(window.whenPlacesComeFree()).toBeUndefined();
  let release = (): void => undefined;
  port.hold = new Promise((resolve) => (release = resolve));
  // The CPU reads b: a copy back, of a page that stays mapped.
  const reading = mm.load32(b);
  expect(window.whenPlacesComeFree()).toBeUndefined();
  const unmapping = window.unmap(forA, DMA_BIDIRECTIONAL);
  const coming = window.whenPlacesComeFree();
  expect([coming === undefined, window.available]).toEqual([false, 0]);
  release();
  await coming;
  expect(window.available).toBe(1);
  await unmapping;
  expect([await reading, await mm.load32(a)]).toEqual([2, 7]);
  await window.unmap(forB, DMA_BIDIRECTIONAL);
});
