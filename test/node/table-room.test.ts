/** More page tables than their aperture holds: those of memory that the GPU has lost give way. */
import { expect, test } from "vitest";
import { REFERENCE_ENGINE } from "../../src/machine/engine.ts";
import { Machine } from "../../src/machine/machine.ts";
import type { JobOp } from "../../src/machine/vm.ts";

const MIB = 1 << 20;
const PAGE = 4096;
/** The aperture of a small device has 512 pages, of which two are never handed out. */
const AREAS = 600;
const BATCH = 30;

test.each([
  ["in VRAM, from which the CPU takes it back", true],
  ["in place, from where the CPU discards it", false],
])("one page in each 2 MiB of a large address space, %s", async (_name, migrate) => {
  const machine = new Machine({ engine: REFERENCE_ENGINE, ram: 16 * MIB, config: { migrate } });
  const process = machine.createProcess();
  const vm = machine.createDevice({ vram: 4 * MIB }).vm(process);
  const start = 2 ** 40;
  const at = (i: number): number => start + i * 2 * MIB;
  for (let i = 0; i < AREAS; i++) await process.mmap(PAGE, { at: at(i) });
  for (let first = 0; first < AREAS; first += BATCH) {
    const batch = Array.from({ length: BATCH }, (_, k) => first + k);
    await vm.job(
      batch.map((i): JobOp => ["st", at(i), i]),
      { parallel: true },
    );
    for (const i of batch) expect(await process.ld(at(i))).toBe(i);
    if (!migrate) for (const i of batch) await process.dontneed(at(i), PAGE);
  }
  // What has lost its tables is served again.
  for (const i of [0, 1, 250, AREAS - 1]) expect(await vm.gld(at(i))).toBe(migrate ? i : 0);
  await process.exit();
  await machine.close();
});

test("without any that lead nowhere the access is refused, and what is mapped stays", async () => {
  const machine = new Machine({ engine: REFERENCE_ENGINE, ram: 16 * MIB, config: { migrate: false } });
  const process = machine.createProcess();
  const vm = machine.createDevice({ vram: 4 * MIB }).vm(process);
  const at = (i: number): number => 2 ** 40 + i * 2 * MIB;
  let refused = -1;
  for (let i = 0; i < AREAS; i++) await process.mmap(PAGE, { at: at(i) });
  await vm.job(
    Array.from({ length: 480 }, (_, i): JobOp => ["st", at(i), i]),
    { parallel: true },
  );
  for (let i = 480; refused < 0; i++) await vm.gst(at(i), i).catch(() => (refused = i));
  expect(refused).toBeLessThan(AREAS);
  for (const i of [0, 1, refused - 1]) expect(await vm.gld(at(i))).toBe(i);
  await process.munmap(at(0), PAGE);
  await machine.settle();
  await vm.gst(at(refused), 7);
  expect(await process.ld(at(refused))).toBe(7);
  await process.exit();
  await machine.close();
});
