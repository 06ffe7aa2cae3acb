/** A kernel over four times the system window, in place, on WebGPU. */
import { afterAll, beforeAll, expect, test } from "vitest";
import { hi32, lo32 } from "../../src/base/addr.ts";
import { Machine } from "../../src/machine/machine.ts";
import type { Engine } from "../../src/machine/machine.ts";
import { testEngine } from "./support.ts";

let engine: Engine;
beforeAll(async () => {
  engine = await testEngine();
});
afterAll(() => engine.destroy());

const KIB = 1 << 10;
const MIB = 1 << 20;
const PAGES = MIB / 4096;

/** Item i adds i to a word of page i and stores the word before it into the word after it. */
const KERNEL = `
fn kernel(item: u32) {
  let at = svm_write(addr_add(arg64(0u), item * 4096u + 16u));
  if (svm_missed()) { return; }
  svm_store(at + 1u, svm_load(at - 1u));
  svm_store(at, svm_load(at) + item);
}`;

test("every byte is right, in two passes with stores of the CPU between them, and nothing moves", async () => {
  const machine = new Machine({
    engine,
    ram: 16 * MIB,
    config: { migrate: false, chunks: [64 * KIB, 4096], checkPages: 0 },
  });
  try {
    const gpu = machine.createDevice({ vram: 4 * MIB, window: 256 * KIB + 4096 });
    const process = machine.createProcess();
    const vm = gpu.vm(process);
    const a = await process.mmap(MIB, { align: 64 * KIB });
    const words = Uint32Array.from({ length: MIB / 4 }, (_, i) => Math.imul(i, 2654435761));
    await process.write(a, words);
    for (let pass = 0; pass < 2; pass++) {
      await vm.kernel(KERNEL, { items: PAGES, args: [lo32(a), hi32(a)] });
      for (let item = 0; item < PAGES; item++) {
        words[item * 1024 + 5] = words[item * 1024 + 3]!;
        words[item * 1024 + 4]! += item;
      }
      for (let item = pass; item < PAGES; item += 7) {
        words[item * 1024 + 3] = item;
        await process.st(a + item * 4096 + 12, item);
      }
    }
    const bytes = await process.read(a, MIB);
    const wanted = new Uint8Array(words.buffer);
    expect(bytes.findIndex((byte, i) => byte !== wanted[i])).toBe(-1);
    expect(vm.counters.toDevBytes).toBe(0);
    expect(vm.stats.get("wgsvm_window_reclaim_count")).toBeGreaterThan(PAGES / 16);
  } finally {
    await machine.close();
  }
});
