import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { DeviceLostError, GpuError } from "../../src/base/errors.ts";
import { Random } from "../../src/base/random.ts";
import { COPY_PATHS, makeTransfer, openPathLab } from "../../src/device/paths/index.ts";
import type { CopyPath, Layout, PathLab } from "../../src/device/paths/index.ts";
import { testDevice } from "./support.ts";

const MAX_BYTES = 6 << 20;
/** One page; a few; more than one slot of the staging rings, and no multiple of it. */
const SIZES = { one: 4096, few: 5 * 4096, many: (2 << 20) + 3 * 4096 };
const SHAPES: [layout: Layout, sizes: number[]][] = [
  ["contiguous", [SIZES.one, SIZES.few, SIZES.many]],
  ["strided", [SIZES.few]],
  ["random", [SIZES.few, SIZES.many]],
];

let lab: PathLab;
beforeAll(async () => {
  lab = await openPathLab({ maxBytes: MAX_BYTES, seed: 7, acquired: await testDevice() });
});
afterAll(() => lab.close());

describe.each(COPY_PATHS.map((path) => ({ path, name: path.name })))("$name", ({ path }) => {
  it.each(SHAPES)("moves the right bytes and no others, %s pages, again and again", async (layout, sizes) => {
    for (const bytes of sizes) {
      const copy = await lab.prepare(path, makeTransfer(layout, bytes, new Random(bytes)));
      expect(await copy.verify()).toBeNull();
      for (let i = 0; i < 4; i++) await copy.run();
      expect(await copy.verify()).toBeNull();
      await copy.renew();
      await copy.run();
      expect(await copy.verify()).toBeNull();
      copy.dispose();
    }
  });
});

describe("the self-check of a kernel in place", () => {
  it.each(["window: in, use, out", "migrate: in, use, out"])("%s: sees bytes that were not used", async (name) => {
    const path = COPY_PATHS.find((candidate) => candidate.name === name)!;
    const plain = COPY_PATHS.find((candidate) => candidate.name === "copy per run + map")!;
    // Brings the bytes there and back, but leaves them as they were.
    const idle: CopyPath = {
      ...path,
      prepare: (memory, transfer) => plain.prepare(memory, transfer),
    };
    const copy = await lab.prepare(idle, makeTransfer("strided", 8 * 4096, new Random(1)));
    expect(await copy.verify()).toMatch(/the word at 0 of the destination/);
    copy.dispose();
  });
});

describe("the self-check", () => {
  const transfer = makeTransfer("random", 16 * 4096, new Random(3));
  const upload = COPY_PATHS.find((path) => path.direction === "upload")!;
  const check = async (path: CopyPath) => {
    const copy = await lab.prepare(path, transfer);
    const wrong = await copy.verify();
    copy.dispose();
    return wrong;
  };

  it.each(["upload", "readback", "device", "fill", "access"] as const)(
    "sees a path of direction %s that moves nothing",
    async (direction) => {
      const prepare = async () => ({ run: async () => {}, dispose() {} });
      const lazy: CopyPath = { name: "lazy", direction, how: "not at all", prepare };
      expect(await check(lazy)).toMatch(/the word at \d+ of the destination is 0xdeadbeef/);
    },
  );

  it("sees a page that is missing", async () => {
    const forgetful: CopyPath = {
      ...upload,
      prepare: (memory, t) => upload.prepare(memory, { ...t, runs: t.runs.subarray(0, t.runs.length - 3) }),
    };
    expect(await check(forgetful)).toMatch(/is 0xdeadbeef, not 0x/);
  });

  it("sees a byte written where nothing belongs", async () => {
    const sloppy: CopyPath = {
      ...upload,
      async prepare(memory, t) {
        const runner = await upload.prepare(memory, t);
        const free = Array.from({ length: t.regionPages }, (_, i) => i).find(
          (page) => !destinations(t.runs).has(page),
        )!;
        const run = () => {
          memory.device.queue.writeBuffer(memory.vram, free * 4096 + 4092, new Uint32Array(1));
          return runner.run();
        };
        return { ...runner, run };
      },
    };
    expect(await check(sloppy)).toMatch(/is 0x0, not 0xdeadbeef/);
  });

  it("names the path whose commands WebGPU refuses", async () => {
    const invalid: CopyPath = {
      ...upload,
      name: "beyond the end",
      prepare: (memory, t) =>
        upload.prepare({ ...memory, vram: memory.device.createBuffer({ size: 16, usage: 8 }) }, t),
    };
    const error = await check(invalid).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(GpuError);
    expect(error).toMatchObject({ kind: "validation", label: "beyond the end" });
  });
});

function destinations(runs: Uint32Array): Set<number> {
  return new Set(Array.from({ length: runs.length / 3 }, (_, i) => runs[i * 3 + 1]!));
}

describe("the GPU's own clock", () => {
  const timeOf = async (name: string, bytes: number) => {
    const path = COPY_PATHS.find((candidate) => candidate.name === name)!;
    const copy = await lab.prepare(path, makeTransfer("contiguous", bytes, new Random(2)));
    await copy.run();
    const times = [await copy.gpuTime(), await copy.gpuTime(), await copy.gpuTime()];
    copy.dispose();
    return times.includes(null) ? null : Math.min(...(times as number[]));
  };

  it.each(["compute, p/wg", "copyBuffer per run", "ring + copy per run"])(
    "counts the command buffers of %s, and grows with the bytes",
    async (name) => {
      const small = await timeOf(name, 4096);
      const large = await timeOf(name, MAX_BYTES);
      if (!lab.features.includes("timestamp-query")) {
        expect([small, large]).toEqual([null, null]);
        return;
      }
      expect(small).toBeGreaterThanOrEqual(0);
      expect(large).toBeGreaterThan(small!);
    },
  );

  it("has nothing to say of a path that sends no command buffer", async () => {
    expect(await timeOf("writeBuffer per run", 65536)).toBeNull();
  });
});

describe("a lost device", () => {
  it.each(COPY_PATHS.map((path) => ({ path, name: path.name })))(
    "ends $name with DeviceLostError",
    async ({ path }) => {
      const own = await openPathLab({ maxBytes: 65536, seed: 1 });
      const copy = await own.prepare(path, makeTransfer("contiguous", 65536, new Random(1)));
      await copy.run();
      own.close();
      // Two runs: a slot of a ring may still be mapped at the first.
      await expect(copy.run().then(() => copy.run())).rejects.toBeInstanceOf(DeviceLostError);
    },
  );
});
