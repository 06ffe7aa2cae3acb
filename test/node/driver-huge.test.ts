import { describe, expect, test } from "vitest";
import { assert } from "../../src/base/assert.ts";
import { REFERENCE_ENGINE } from "../../src/machine/engine.ts";
import { Machine } from "../../src/machine/machine.ts";
import type { VmConfig } from "../../src/machine/machine.ts";
import { compact } from "../../src/mm/compaction.ts";
import { checkInvariants } from "../../src/mm/invariants.ts";

const MIB = 1 << 20;
const PAGE = 4096;

/** A process with `mib` MiB that ask for huge pages, whose word `i` is `i`. */
async function setUp(config: Partial<VmConfig>, mib = 4) {
  const machine = new Machine({ engine: REFERENCE_ENGINE, ram: 64 * MIB, config });
  const gpu = machine.createDevice({ vram: 8 * MIB });
  const process = machine.createProcess();
  const vm = gpu.vm(process);
  const a = await process.mmap(mib * MIB, { align: 2 * MIB });
  assert((await process.mm.madvise(a, mib * MIB, "hugepage")) === 0, "madvise failed");
  const words = Uint32Array.from({ length: (mib * MIB) / 4 }, (_, i) => i);
  await process.write(a, words);
  expect(process.mm.tables.hugeCount).toBe(mib / 2);
  return { machine, process, vm, a, words };
}

function expectWords(bytes: Uint8Array, words: Uint32Array): void {
  expect(Buffer.compare(bytes, new Uint8Array(words.buffer, words.byteOffset, words.byteLength))).toBe(0);
}

async function finish({ machine, process }: Awaited<ReturnType<typeof setUp>>): Promise<void> {
  await machine.settle();
  checkInvariants(machine.phys);
  await process.exit();
  await machine.settle();
  checkInvariants(machine.phys);
  expect([machine.phys.freePages, machine.phys.swap.used]).toEqual([machine.phys.ramPages - 2, 0]);
  await machine.close();
}

describe.each([{ migrate: true }, { migrate: false }])("with $migrate migration", (config) => {
  test("the GPU reads and writes huge pages, and the CPU sees it", async () => {
    const m = await setUp(config);
    expectWords(await m.vm.gread(m.a, 4 * MIB), m.words);
    expect(m.process.mm.tables.hugeCount).toBe(2);
    for (const at of [4, 2 * MIB - 4, 3 * MIB]) {
      await m.vm.gst(m.a + at, 7);
      m.words[at / 4] = 7;
    }
    expectWords(await m.process.read(m.a, 4 * MIB), m.words);
    await finish(m);
  });

  test.each(Array.from({ length: 16 }, (_, i) => i + 1))(
    "GPU and CPU stores beside split, collapse, swap and compaction: every store counts (seed %i)",
    async (seed) => {
      const m = await setUp(config, 2);
      const { mm } = m.process;
      await m.machine.sched.race(seed, [
        async () => {
          for (let i = 0; i < 4; i++) await m.vm.ginc(m.a + i * 100 * PAGE);
        },
        async () => {
          for (let i = 0; i < 4; i++) await m.process.inc(m.a + i * 100 * PAGE);
        },
        async () => void (await mm.madvise(m.a + 100 * PAGE, 150 * PAGE, "pageout")),
        async () => void (await mm.madvise(m.a, 2 * MIB, "collapse")),
        async () => void (await compact(m.machine.phys, { maxPages: 40 })),
      ]);
      for (let i = 0; i < 4; i++) m.words[(i * 100 * PAGE) / 4]! += 2;
      expectWords(await m.process.read(m.a, 2 * MIB), m.words);
      await finish(m);
    },
  );
});
