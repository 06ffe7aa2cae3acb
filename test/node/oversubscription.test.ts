/** More data than VRAM: what a pass moves, and what evict policies miss beside the optimum. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { optimalMisses } from "../../src/driver/policy/optimum.ts";
import { REFERENCE_ENGINE } from "../../src/machine/engine.ts";
import { Machine } from "../../src/machine/machine.ts";
import { runScenarioModule } from "../../src/scenario/run.ts";
import * as evictPolicies from "../../src/scenario/tour/evict-policies.ts";

const MIB = 1 << 20;
const PAGE = 4096;

describe("a pass over four times the VRAM", () => {
  test.each([
    { evict: "lru", prefetch: "none", chunks: [2 * MIB, 65536, PAGE] },
    { evict: "fifo", prefetch: "none", chunks: [2 * MIB, 65536, PAGE] },
    { evict: "random", prefetch: "none", chunks: [2 * MIB, 65536, PAGE] },
    { evict: "frequency", prefetch: "none", chunks: [2 * MIB, 65536, PAGE] },
    { evict: "lru", prefetch: "sequential", chunks: [2 * MIB, 65536, PAGE] },
    { evict: "lru", prefetch: "density", chunks: [65536, PAGE] },
  ] as const)(
    "moves each byte in once and out at most once: evict $evict, prefetch $prefetch",
    async (policy) => {
      const bytes = 16 * MIB;
      const config = { policy: { evict: policy.evict, prefetch: policy.prefetch }, chunks: [...policy.chunks] };
      const machine = new Machine({ engine: REFERENCE_ENGINE, ram: 32 * MIB, config });
      const gpu = machine.createDevice({ vram: bytes / 4 });
      const process = machine.createProcess();
      const vm = gpu.vm(process);
      const a = await process.mmap(bytes, { align: 2 * MIB });
      await process.fill(a, bytes, 3);
      /** Times that each chunk of 64 KiB came to the device, and left it. */
      const arrivals = new Uint8Array(bytes / 65536);
      const departures = new Uint8Array(bytes / 65536);
      const isThere = new Uint8Array(bytes / 65536);
      const look = (): void => {
        for (let i = 0; i < isThere.length; i++) {
          const now = Number(machine.where(process, a + i * 65536) === gpu);
          if (now > isThere[i]!) arrivals[i]! += 1;
          if (now < isThere[i]!) departures[i]! += 1;
          isThere[i] = now;
        }
      };
      const step = MIB / 2;
      for (let at = 0; at < bytes; at += step) {
        await vm.gfill(a + at, step, 7);
        look();
        expect(gpu.driver.vramUsed).toBeLessThanOrEqual(bytes / 4);
      }
      expect(vm.counters.toDevBytes).toBe(bytes);
      expect(vm.counters.toSysBytes).toBeLessThanOrEqual(bytes);
      expect([Math.min(...arrivals), Math.max(...arrivals), Math.max(...departures)]).toEqual([1, 1, 1]);
      expect(Buffer.compare(await process.read(a, bytes), Buffer.alloc(bytes, 7))).toBe(0);
    },
    20_000,
  );
});

describe("the optimum", () => {
  test.each([
    { references: [], capacity: 2, misses: 0 },
    { references: [1, 1, 1], capacity: 1, misses: 1 },
    { references: [1, 2, 1, 2], capacity: 1, misses: 4 },
    // Belady's own example.
    { references: [7, 0, 1, 2, 0, 3, 0, 4, 2, 3, 0, 3, 2, 1, 2, 0, 1, 7, 0, 1], capacity: 3, misses: 9 },
  ])("of $references with room for $capacity is $misses", ({ references, capacity, misses }) => {
    expect(optimalMisses(references, capacity)).toBe(misses);
  });

  test("is what trying every choice finds", () => {
    const best = (
      references: readonly number[],
      capacity: number,
      at = 0,
      resident: readonly number[] = [],
    ): number => {
      const chunk = references[at];
      if (chunk === undefined) return 0;
      if (resident.includes(chunk)) return best(references, capacity, at + 1, resident);
      if (resident.length < capacity) return 1 + best(references, capacity, at + 1, [...resident, chunk]);
      const rest = resident.map((_, i) => best(references, capacity, at + 1, resident.with(i, chunk)));
      return 1 + Math.min(...rest);
    };
    fc.assert(
      fc.property(fc.array(fc.nat(5), { maxLength: 12 }), fc.integer({ min: 1, max: 3 }), (references, capacity) => {
        expect(optimalMisses(references, capacity)).toBe(best(references, capacity));
      }),
      { numRuns: 100 },
    );
  });
});

test("the tour prints the misses of every policy beside the optimum, and none beats it", async () => {
  const result = await runScenarioModule(evictPolicies, { engine: REFERENCE_ENGINE });
  expect(result.error).toBeNull();
  expect([result.must.failed, result.cfg.failed]).toEqual([0, 0]);
  const notes = result.checks.filter((check) => check.kind === "note").map((check) => check.text);
  expect(notes).toHaveLength(2);
  expect(notes[0]).toMatch(/^cycle: lru 60, fifo 60, random \d+, frequency \d+, optimum \d+ misses$/);
  expect(notes[1]).toMatch(/^hot and cold: lru \d+, fifo \d+, random \d+, frequency \d+, optimum \d+ misses$/);
}, 20_000);
