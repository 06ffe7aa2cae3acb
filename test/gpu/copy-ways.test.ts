import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { PTE_DM, encodeLeaf } from "../../src/abi/pte.ts";
import { WebGpu } from "../../src/device/gpu.ts";
import type { AcquiredDevice } from "../../src/device/index.ts";
import { defaultTable, pinWays } from "../../src/device/path-choice.ts";
import { AP_HOST, AP_VRAM, PageList } from "../../src/hal/gpu.ts";
import type { Gpu } from "../../src/hal/gpu.ts";
import { LIMITS_OPTIONS, MIB, TestTables, fillPages, testDevice } from "./support.ts";

/** What the copy engine does with its lists, seen from the commands that reach WebGPU. */
const HEAP = MIB / 4096;

let acquired: AcquiredDevice;
let gpu: Gpu;
let words: Uint32Array;
/** Labels of the buffers that copy commands read. */
let copies: string[] = [];
/** Bytes of `writeBuffer` calls. */
let writes: number[] = [];

beforeAll(async () => {
  acquired = await testDevice();
  const { device } = acquired;
  const { createCommandEncoder } = device;
  device.createCommandEncoder = (descriptor) => {
    const encoder = createCommandEncoder.call(device, descriptor);
    const { copyBufferToBuffer } = encoder;
    encoder.copyBufferToBuffer = (...args: unknown[]) => {
      copies.push((args[0] as GPUBuffer).label);
      copyBufferToBuffer.call(encoder, ...(args as Parameters<typeof copyBufferToBuffer>));
    };
    return encoder;
  };
  const { queue } = device;
  const { writeBuffer } = queue;
  queue.writeBuffer = (...args: unknown[]) => {
    writes.push((args[4] as number | undefined) ?? (args[2] as Uint8Array).byteLength);
    writeBuffer.call(queue, ...(args as Parameters<typeof writeBuffer>));
  };
});
afterAll(() => acquired.device.destroy());

async function boot(copyPaths = pinWays({}), on = acquired, vramBytes = 24 * MIB): Promise<void> {
  const hostMemory = new Uint8Array(new SharedArrayBuffer(vramBytes));
  words = new Uint32Array(hostMemory.buffer);
  const config = { vramBytes, ptBytes: MIB, syswBytes: 0, faultQueueCapacity: 64, hostMemory };
  gpu = WebGpu.createOn(on, config, { ...LIMITS_OPTIONS, copyPaths });
  await gpu.idle();
  [copies, writes] = [[], []];
}
afterEach(() => gpu.destroy());

const RING = pinWays({ upload: "ring + copy per run" });

function up(host: number, page: number, pages: number): PageList {
  const list = new PageList();
  list.push(AP_HOST, host, AP_VRAM, HEAP + page, pages);
  return list;
}

/** One page of VRAM to another: a command that is recorded. */
function copyInside(from: number, to: number): void {
  const list = new PageList();
  list.push(AP_VRAM, HEAP + from, AP_VRAM, HEAP + to, 1);
  void gpu.copy(list);
}

async function expectInVram(page: number, pages: number, wanted: Uint32Array): Promise<void> {
  const found = new Uint32Array((await gpu.readVram((HEAP + page) * 4096, pages * 4096)).buffer);
  expect(found.findIndex((word, i) => word !== wanted[i])).toBe(-1);
}

describe("uploads", () => {
  test("scattered frames for neighbouring pages become one copy", async () => {
    await boot();
    fillPages(words, 0, 512, 3);
    const list = new PageList();
    const wanted = new Uint32Array(256 * 1024);
    for (let i = 0; i < 256; i++) {
      const frame = (i * 37) % 512;
      list.push(AP_HOST, frame, AP_VRAM, HEAP + i, 1);
      wanted.set(words.subarray(frame * 1024, (frame + 1) * 1024), i * 1024);
    }
    expect(list.count).toBe(256);
    void gpu.copy(list);
    gpu.flush();
    expect(copies.filter((label) => label.startsWith("upload slot"))).toHaveLength(1);
    expect(writes.filter((bytes) => bytes >= 4096)).toEqual([]);
    await expectInVram(0, 256, wanted);
  });

  test("and one write, where they are too few for the ring", async () => {
    await boot();
    fillPages(words, 0, 64, 5);
    const list = new PageList();
    for (let i = 0; i < 16; i++) list.push(AP_HOST, 3 * i, AP_VRAM, HEAP + i, 1);
    void gpu.copy(list);
    gpu.flush();
    expect(writes).toEqual([16 * 4096]);
    const wanted = new Uint32Array(16 * 1024);
    for (let i = 0; i < 16; i++) wanted.set(words.subarray(3 * i * 1024, (3 * i + 1) * 1024), i * 1024);
    await expectInVram(0, 16, wanted);
  });

  test.each([
    ["up", (i: number) => i],
    ["down", (i: number) => 99 - i],
  ])(
    "so do lists of one page each that go %s, with page-table writes between; what is recorded comes behind",
    async (_name, place) => {
      await boot();
      const tables = new TestTables(gpu, 1);
      tables.map(0, MIB, PTE_DM);
      gpu.flush();
      fillPages(words, 0, 100, 7);
      const wanted = words.slice(0, 100 * 1024);
      writes = [];
      const { submissions } = gpu.counters;
      for (let i = 0; i < 100; i++) {
        gpu.ptWrite(tables.entry(i * 4096, 0), encodeLeaf(MIB + i * 4096, PTE_DM, 0));
        void gpu.copy(up(place(i), place(i), 1));
      }
      copyInside(99, 200);
      words.fill(0);
      expect(gpu.counters.submissions - submissions).toBe(0);
      // 256 KiB at a time.
      expect(writes).toEqual([64 * 4096, 36 * 4096]);
      await expectInVram(0, 100, wanted);
      await expectInVram(200, 1, wanted.subarray(99 * 1024));
    },
  );

  test.each([
    ["where nothing is recorded, go before all that is recorded later", false],
    ["behind recorded commands wait for their submission", true],
  ])("short lists %s, and take effect in order", async (_name, recorded) => {
    await boot();
    const tables = new TestTables(gpu, 1);
    tables.map(0, MIB, PTE_DM);
    gpu.flush();
    fillPages(words, 0, 200, 9);
    const wanted = words.slice(0, 100 * 1024);
    const { submissions } = gpu.counters;
    for (let i = 0; i < 100; i++) {
      gpu.ptWrite(tables.entry(i * 4096, 0), encodeLeaf(MIB, PTE_DM, 0));
      if (recorded) copyInside(300, 301);
      // Each page twice: the second counts.
      void gpu.copy(up(100 + i, i, 1));
      void gpu.copy(up(i, i, 1));
    }
    expect(gpu.counters.submissions - submissions).toBeLessThanOrEqual(1);
    words.fill(0);
    await expectInVram(0, 100, wanted);
  });

  test("a stream that waits goes through the ring alone; one that does not is served all the same", async () => {
    await boot(RING, acquired, 38 * MIB);
    fillPages(words, 0, words.length / 1024, 1);
    const total = 36 * MIB;
    const step = 2 * MIB;
    let waits = 0;
    for (let at = 0; at < total; at += step) {
      const ready = gpu.uploadReady(step);
      if (ready !== undefined) waits += 1;
      await ready;
      void gpu.copy(up(at / 4096, at / 4096, step / 4096));
    }
    expect(waits).toBeGreaterThan(0);
    expect(writes.filter((bytes) => bytes >= 4096)).toEqual([]);
    await expectInVram(0, total / 4096, words.slice(0, total / 4));
    words.fill(7);
    for (let at = 0; at < total; at += step) void gpu.copy(up(at / 4096, at / 4096, step / 4096));
    expect(writes.filter((bytes) => bytes >= 4096)).not.toEqual([]);
    await expectInVram(0, total / 4096, words.slice(0, total / 4));
  });

  test("long lists of one stream count together, until a readback tells that the GPU has caught up", async () => {
    await boot(pinWays({}, defaultTable(true)));
    const step = () => {
      const before = writes.length;
      void gpu.copy(up(0, 0, 512));
      return writes.slice(before).filter((bytes) => bytes >= 4096);
    };
    // 2 MiB alone are written, the next two, of 4 and 6 MiB in all, are staged.
    expect([step(), step(), step()]).toEqual([[2 * MIB], [], []]);
    await gpu.readVram(0, 4);
    expect([step(), step()]).toEqual([[2 * MIB], []]);
    // Who asks for room announces that more will follow.
    await gpu.readVram(0, 4);
    await gpu.uploadReady(2 * MIB);
    expect(step()).toEqual([]);
    await gpu.readVram(0, 4);
    expect(step()).toEqual([2 * MIB]);
  });

  test("who waits for the ring more than it holds waits for all of it", async () => {
    await boot();
    const everything = 1024 * MIB;
    expect(gpu.uploadReady(everything)).toBeUndefined();
    void gpu.copy(up(0, 0, 1024));
    await gpu.uploadReady(everything);
    expect(gpu.uploadReady(everything)).toBeUndefined();
  });

  test("a loss ends the wait", async () => {
    const own = await testDevice();
    await boot(RING, own);
    for (let i = 0; i < 8; i++) void gpu.copy(up(0, 0, 512));
    const ready = gpu.uploadReady(2 * MIB);
    expect(ready).toBeDefined();
    own.device.destroy();
    await ready;
    expect(gpu.isLost).toBe(true);
    expect(gpu.uploadReady(2 * MIB)).toBeUndefined();
  });
});

describe("readbacks", () => {
  test("a slot that is full goes at once, with the lists of one turn in it; what is left goes together", async () => {
    await boot();
    const { submissions, readbacks } = gpu.counters;
    const arrivals = Array.from({ length: 9 }, (_, i) => {
      const list = new PageList();
      list.push(AP_VRAM, HEAP + i * 256, AP_HOST, i * 256, 256);
      return gpu.copy(list);
    });
    // 9 MiB, in slots of 4 MiB.
    expect(gpu.counters.submissions - submissions).toBe(2);
    await Promise.all(arrivals);
    expect(gpu.counters.submissions - submissions).toBe(3);
    expect(gpu.counters.readbacks - readbacks).toBe(3);
  });

  test.each([
    ["one submission", "copy per run + map", 1],
    ["a submission for each slot", "ring: copy + map", 3],
  ] as const)("a list takes %s: %s", async (_name, readback, count) => {
    await boot(pinWays({ readback }));
    fillPages(words, 0, 2560, 1);
    const wanted = words.slice(0, 2560 * 1024);
    void gpu.copy(up(0, 0, 2560));
    gpu.flush();
    words.fill(0);
    const { submissions } = gpu.counters;
    const list = new PageList();
    list.push(AP_VRAM, HEAP, AP_HOST, 0, 2560);
    await gpu.copy(list);
    expect(gpu.counters.submissions - submissions).toBe(count);
    expect(words.findIndex((word, i) => word !== (wanted[i] ?? 0))).toBe(-1);
  });
});

describe("copies within one buffer", () => {
  test.each(["copyBuffer per run", "compute, p/inv", "compute, p/wg"] as const)(
    "%s: more than the bounce buffer holds, and lists that come after",
    async (inside) => {
      await boot(pinWays({ inside }), acquired, 28 * MIB);
      fillPages(words, 0, 3000, 11);
      void gpu.copy(up(0, 0, 3000));
      const list = new PageList();
      for (let i = 0; i < 1500; i++) list.push(AP_VRAM, HEAP + i, AP_VRAM, HEAP + 4500 - i, 1);
      list.push(AP_VRAM, HEAP + 1500, AP_VRAM, HEAP + 5000, 1500);
      void gpu.copy(list);
      const back = new PageList();
      back.push(AP_VRAM, HEAP + 4500, AP_VRAM, HEAP + 7, 1);
      void gpu.copy(back);
      back.clear();
      back.push(AP_VRAM, HEAP + 7, AP_VRAM, HEAP + 9, 1);
      void gpu.copy(back);
      const page = (i: number) => words.slice(i * 1024, (i + 1) * 1024);
      await expectInVram(4500, 1, page(0));
      await expectInVram(3001, 1, page(1499));
      await expectInVram(5000, 1500, words.slice(1500 * 1024, 3000 * 1024));
      await expectInVram(7, 1, page(0));
      await expectInVram(9, 1, page(0));
      expect(copies.includes("copy bounce")).toBe(inside === "copyBuffer per run");
    },
  );
});

describe("fills", () => {
  test.each([
    ["nothing is recorded: zeros are written", false],
    ["something is recorded: the GPU clears, behind it", true],
  ])("of zeros by writeBuffer, where %s", async (_name, recorded) => {
    await boot(pinWays({ fill: "writeBuffer of zeros" }));
    fillPages(words, 0, 8, 13);
    void gpu.copy(up(0, 0, 8));
    gpu.flush();
    writes = [];
    if (recorded) copyInside(8, 9);
    const list = new PageList();
    list.pushClear(AP_VRAM, HEAP + 2, 3);
    void gpu.copy(list);
    gpu.flush();
    expect(writes.includes(3 * 4096)).toBe(!recorded);
    const wanted = words.slice(0, 8 * 1024).fill(0, 2 * 1024, 5 * 1024);
    await expectInVram(0, 8, wanted);
  });
});
