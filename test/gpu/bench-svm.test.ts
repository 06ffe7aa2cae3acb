import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Random } from "../../src/base/random.ts";
import type { BenchContext } from "../../src/bench/group.ts";
import { rowId } from "../../src/bench/result.ts";
import { measureMigration } from "../../src/bench/svm-migrate.ts";
import { SvmRig } from "../../src/bench/svm-rig.ts";
import { measureScattered } from "../../src/bench/svm-scatter.ts";
import { openPathLab } from "../../src/device/paths/index.ts";
import { openStreamLoop } from "../../src/device/stream-loop.ts";

const PAGE = 4096;
const MIB = 1 << 20;

function randomWords(bytes: number, seed: number): Uint32Array {
  const random = new Random(seed);
  return Uint32Array.from({ length: bytes / 4 }, () => random.u32());
}

function sumsOf(words: Uint32Array): Uint32Array {
  const sums = new Uint32Array((words.length * 4) / PAGE);
  for (let i = 0; i < words.length; i++) sums[Math.floor((i * 4) / PAGE)]! += words[i]!;
  return sums;
}

describe("the streaming loop by hand", () => {
  const PIECE = MIB / 4;
  it.each([
    { what: "one page", bytes: PAGE },
    { what: "one piece", bytes: PIECE },
    { what: "more pieces than staging buffers, the last one short", bytes: 6 * PIECE + 3 * PAGE },
  ])("sums every page: $what, again with other data", async ({ bytes }) => {
    const loop = await openStreamLoop({ bytes: 7 * PIECE, pieceBytes: PIECE });
    for (const seed of [1, 2, 3]) {
      const words = randomWords(bytes, seed);
      expect(await loop.run(new Uint8Array(words.buffer))).toEqual(sumsOf(words));
    }
    loop.close();
  });
});

describe("the rig", () => {
  let rig: SvmRig;
  beforeAll(async () => {
    rig = await SvmRig.open({ bytes: 2 * MIB, vram: 8 * MIB, seed: 5 });
  });
  afterAll(() => rig.close());

  it("takes right sums and right data for right", async () => {
    await rig.clearSums();
    await rig.sum();
    expect(await rig.checkSums()).toBeNull();
    expect(await rig.checkData()).toBeNull();
  });

  it("sees a sum that no kernel wrote", async () => {
    await rig.sum();
    await rig.clearSums();
    expect(await rig.checkSums()).toMatch(/^the sum of page 0 is 0/);
  });

  it("sees data that changed", async () => {
    await rig.process.st(rig.data + MIB, 1);
    expect(await rig.checkData()).toMatch(/word \d+ is/);
    await rig.fill(6);
    expect(await rig.checkData()).toBeNull();
  });

  it("sees a way home that copies nothing, because free memory holds something else", async () => {
    const { gpu } = rig.vm.device;
    await rig.vm.prefetch(rig.data, rig.bytes, "DEV");
    await rig.poisonFreeRam();
    const copy = gpu.copy.bind(gpu);
    gpu.copy = () => Promise.resolve();
    await rig.vm.prefetch(rig.data, rig.bytes, "SYS");
    gpu.copy = copy;
    expect(await rig.checkData()).toMatch(/is 2779096485/);
    await rig.fill(7);
  });
});

describe("rows", () => {
  const context: BenchContext = {
    quick: true,
    chosen: false,
    limits: "adapter",
    seed: 1,
    random: new Random(1),
    now: () => performance.now(),
    selected: () => true,
    progress: () => undefined,
    found: () => undefined,
    gpu: () => undefined,
  };

  it("of a migration stand beside the raw copies that bound them, and say how close they come", async () => {
    const lab = await openPathLab({ maxBytes: 2 * MIB, seed: 1 });
    const rig = await SvmRig.open({ bytes: 2 * MIB, vram: 8 * MIB, seed: 1 });
    const rows = await measureMigration(rig, lab, 2 * MIB, context);
    await rig.close();
    lab.close();
    expect(rows.map(rowId)).toEqual([
      "svm/migrate/prefetch to VRAM/2MiB",
      "svm/migrate/best raw upload/2MiB",
      "svm/migrate/evict to RAM/2MiB",
      "svm/migrate/best raw readback/2MiB",
    ]);
    expect(rows.map(({ error }) => error)).toEqual([null, null, null, null]);
    for (const row of [rows[0]!, rows[2]!]) expect(row.note).toMatch(/^2MiB: \d+\.\d\d of the bandwidth of the best/);
  });

  it("of scattered faults are of one round with a fault per page", async () => {
    const lab = await openPathLab({ maxBytes: MIB, seed: 1 });
    const rows = await measureScattered(lab, context);
    lab.close();
    expect(rows.map(({ error }) => error)).toEqual(new Array(6).fill(null));
    expect(rows.map(rowId)).toContain("svm/fault/scattered, service/1MiB/random");
  });
});
