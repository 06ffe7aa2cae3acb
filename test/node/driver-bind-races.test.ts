import { describe, expect, test } from "vitest";
import { PAGE_SIZE } from "../../src/base/addr.ts";
import { mapBo, mapUserptr, prefetch, unmap } from "../../src/driver/bind-ops.ts";
import { REGION_SYSTEM, REGION_VRAM } from "../../src/driver/vm-binds.ts";
import { VM_BIND_IMMEDIATE } from "../../src/gpuvm/bind-args.ts";
import { REFERENCE_ENGINE } from "../../src/machine/engine.ts";
import { checkInvariants } from "../../src/mm/invariants.ts";
import { BindSpace, wordOf } from "./bind-space.ts";

const MIB = 1 << 20;
const K = PAGE_SIZE;
const SEEDS = Array.from({ length: 12 }, (_, i) => i + 1);

/** The machine is as a fresh one when all is closed. */
async function settleAndCheck(space: BindSpace): Promise<void> {
  await space.machine.settle();
  space.checkQuiet();
  checkInvariants(space.machine.phys);
  const { device } = space;
  await space.svm.close();
  for (const bo of space.objects.splice(0)) bo.close();
  await space.machine.settle();
  expect(device.driver.vramUsed).toBe(0);
  await space.process.exit();
  await space.close();
}

describe("under any order of what may interleave", () => {
  test.each(SEEDS)(
    "increments of process memory through a userptr and by the CPU all count (seed %i)",
    async (seed) => {
      const s = new BindSpace(REFERENCE_ENGINE, { base: 2 ** 40, pages: 16, vram: 4 * MIB, window: 16 * K });
      await s.withUserMemory(32);
      await s.svm.binds.bind([mapUserptr(s.va(0), 8 * K, s.user)]);
      const each = 4;
      await s.machine.sched
        .race(seed, [
          async () => {
            for (let i = 0; i < each; i++) await s.vm.ginc(s.va(1) + 4);
          },
          async () => {
            for (let i = 0; i < each; i++) await s.process.inc(s.user + K + 4);
          },
          async () => {
            // Takes the pages away and brings them back, mapping by mapping.
            await s.process.mprotect(s.user, 8 * K, "R");
            await s.process.mprotect(s.user, 8 * K, "RW");
            await s.svm.binds.bind([unmap(s.va(4), 2 * K)]);
            await s.process.dontneed(s.user + 3 * K, K);
            await s.svm.binds.bind([mapUserptr(s.va(0), 8 * K, s.user, VM_BIND_IMMEDIATE)]);
          },
        ])
        .catch((error: unknown) => {
          // A store while the area is read-only is refused, to either side.
          expect(String(error)).toMatch(/SEGV|GPUFAULT|may not/);
        });
      const before = await s.process.ld(s.user + K + 4);
      await s.vm.ginc(s.va(1) + 4);
      expect(await s.process.ld(s.user + K + 4)).toBe(before + 1);
      await settleAndCheck(s);
    },
  );

  test.each(SEEDS)(
    "objects keep their bytes while they are evicted, prefetched, remapped and used (seed %i)",
    async (seed) => {
      const s = new BindSpace(REFERENCE_ENGINE, { base: 2 ** 40, pages: 1024, vram: 4 * MIB, window: MIB });
      const bos = [
        await s.bo({ size: 2 * MIB, placement: "both" }),
        await s.bo({ size: MIB }),
        await s.bo({ size: 2 * MIB, vm: s.svm }),
      ];
      const other = s.createVm();
      const at = [0, 512, 768];
      await s.svm.binds.bind(bos.map((bo, i) => mapBo(s.va(at[i]!), 256 * K, bo)));
      await s.machine.sched.race(seed, [
        async () => {
          for (let i = 0; i < 9; i++) {
            const page = (i * 37) % 200;
            expect(await s.vm.gld(s.va(at[i % 3]! + page))).toBe(wordOf(bos[i % 3]!, page));
            await s.vm.gst(s.va(at[i % 3]! + page) + 4, seed + i);
          }
        },
        async () => {
          for (let i = 0; i < 4; i++) await s.device.driver.evictBuffers([bos[i % 3]!]);
        },
        async () => {
          for (let i = 0; i < 3; i++) {
            // Elsewhere: never what the first activity looks at.
            const ret = await s.svm.binds.bind([
              mapBo(s.va(256 + 16 * i), 8 * K, bos[1]!, 0, VM_BIND_IMMEDIATE),
              unmap(s.va(256), 4 * K),
              prefetch(s.va(0), K, i % 2 === 0 ? REGION_SYSTEM : REGION_VRAM),
            ]);
            expect([0, -12]).toContain(ret);
            await other.binds.bind([mapBo(s.va(0), 64 * K, bos[0]!, 0, VM_BIND_IMMEDIATE)]);
          }
        },
      ]);
      for (let i = 0; i < 9; i++) {
        const page = (i * 37) % 200;
        expect(await s.vm.gld(s.va(at[i % 3]! + page))).toBe(wordOf(bos[i % 3]!, page));
        expect(await s.vm.gld(s.va(at[i % 3]! + page) + 4)).toBe(seed + i);
      }
      await other.close();
      await settleAndCheck(s);
    },
  );

  test.each(SEEDS.slice(0, 8))(
    "closing an address space beside its binds and kernels loses nothing (seed %i)",
    async (seed) => {
      const s = new BindSpace(REFERENCE_ENGINE, { base: 2 ** 40, pages: 64, vram: 4 * MIB });
      const a = await s.bo({ size: MIB });
      await s.withUserMemory(32);
      await s.svm.binds.bind([mapBo(s.va(0), 16 * K, a), mapUserptr(s.va(32), 8 * K, s.user)]);
      await s.machine.sched.race(seed, [
        async () => {
          await s.vm.ginc(s.va(33) + 8).catch(() => 0);
        },
        async () => {
          await s.svm.binds.bind([mapUserptr(s.va(48), 4 * K, s.user, VM_BIND_IMMEDIATE), mapBo(s.va(8), K, a)]);
        },
        async () => {
          await s.svm.close();
        },
        async () => {
          await s.process.munmap(s.user, 4 * K);
        },
      ]);
      expect(a.bound.size).toBe(0);
      expect(a.vmBos.size).toBe(0);
      await settleAndCheck(s);
    },
  );
});
