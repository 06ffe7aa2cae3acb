import { afterEach, describe, expect, it } from "vitest";
import { PAGE_SIZE, SZ_2M, hi32, lo32 } from "../../src/base/addr.ts";
import { pinWays } from "../../src/device/path-choice.ts";
import { Machine } from "../../src/machine/machine.ts";
import type { Process } from "../../src/machine/process.ts";
import type { Vm } from "../../src/machine/vm.ts";
import pageSumWgsl from "../../shaders/kernels/page_sum.wgsl?raw";
import { MIB, testEngine } from "./support.ts";

/**
 * A chunk that moves in by itself is a list like any other: where lists of its size are written best, nothing is staged for
 * it, and nothing is submitted for it and its one entry. Chunks of one request are a stream, and staged.
 */
const CHUNKS = 3;
const WORDS = (CHUNKS * SZ_2M) / 4;

const TABLE = pinWays({});
const BEST_WRITTEN = {
  ...TABLE,
  upload: {
    ...TABLE.upload,
    contiguous: [
      { from: 0, way: "writeBuffer per run" },
      { from: 4 * MIB, way: "ring + copy per run" },
    ],
  },
} as typeof TABLE;

const words = new Uint32Array(WORDS);

let machine: Machine;
let process: Process;
let vm: Vm;
let data: number;
let sums: number;
afterEach(async () => {
  await machine.close();
  machine.engine.destroy();
});

async function boot(): Promise<void> {
  machine = new Machine({ engine: await testEngine({ copyPaths: BEST_WRITTEN }), ram: 64 * MIB });
  process = machine.createProcess();
  vm = machine.createDevice({ vram: 16 * MIB }).vm(process);
  data = await process.mmap(WORDS * 4, { align: SZ_2M });
  sums = await process.mmap(PAGE_SIZE * 2);
  for (let i = 0; i < WORDS; i++) words[i] = Math.imul(i, 2654435761);
  await process.write(data, words);
  await vm.device.gpu.idle();
}

/** Submissions for moving the first chunks in, until the GPU has done it. */
async function submissionsFor(chunks: number): Promise<number> {
  const { gpu } = vm.device;
  const before = gpu.counters.submissions;
  expect(await vm.prefetch(data, chunks * SZ_2M, "DEV")).toBe((chunks * SZ_2M) / PAGE_SIZE);
  await gpu.idle();
  return gpu.counters.submissions - before;
}

/** Sums the pages of the first chunks on the GPU, and says whether they were there and are right. */
async function expectSums(chunks: number): Promise<void> {
  const pages = (chunks * SZ_2M) / PAGE_SIZE;
  const { toDevBytes } = vm.counters;
  const args = [lo32(data), hi32(data), lo32(sums), hi32(sums)];
  await vm.run({ name: "page-sum", wgsl: pageSumWgsl }, { items: pages, args });
  const expected = new Uint32Array(pages);
  for (let i = 0; i < pages * 1024; i++) expected[i >>> 10]! += words[i]!;
  const got = await process.read(sums, pages * 4);
  expect(new Uint32Array(got.buffer, got.byteOffset, pages)).toEqual(expected);
  // No more than the pages of the sums.
  expect(vm.counters.toDevBytes - toDevBytes).toBeLessThan(SZ_2M);
}

describe("a chunk that moves in", () => {
  it("alone needs no submission, and arrives whole", async () => {
    await boot();
    expect(await submissionsFor(1)).toBe(0);
    await expectSums(1);
  });

  it("alone again, after it went home, reads as the CPU has left it", async () => {
    await boot();
    await submissionsFor(1);
    await vm.prefetch(data, SZ_2M, "SYS");
    words.fill(7, 1000, 3000);
    await process.write(data, words.subarray(0, 4000));
    expect(await submissionsFor(1)).toBe(0);
    await expectSums(1);
  });

  it("with others is staged with them, the first one too: each fills a slot, which goes off by itself", async () => {
    await boot();
    expect(await submissionsFor(CHUNKS)).toBe(CHUNKS);
    await expectSums(CHUNKS);
  });
});
