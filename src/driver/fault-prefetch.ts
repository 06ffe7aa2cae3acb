import { PAGE_SIZE, SZ_2M, alignDown } from "../base/addr.ts";
import type { Va } from "../base/addr.ts";
import { type Steps, wait } from "../base/steps.ts";
import { prefetchFree } from "./placement.ts";
import type { Interval, PrefetchView } from "./policy/policy.ts";
import type { SvmVm } from "./vm.ts";

/**
 * After a batch of faults has brought `moved` to the device: brings what the prefetch policy expects to be wanted next, as
 * far as it may go there and VRAM has room. Nobody is put out for it. The VM's lock is held for write.
 */
export function* prefetchAfterBatch(vm: SvmVm, moved: readonly Interval[], tile: number): Steps<void> {
  const { prefetch } = vm.policies;
  if (prefetch.name === "none" || moved.length === 0) return;
  for (const { start, end } of prefetch.afterBatch(moved, new DeviceView(vm))) {
    for (const piece of vm.attributes.pieces(start, end)) {
      if (piece.loc !== "device" && piece.loc !== vm.device) continue;
      const brought = yield* prefetchFree(vm, piece.start, piece.end, piece.tile ?? tile);
      vm.stats.add("wgsvm_prefetched_pages", brought);
    }
  }
  // Bringing may have waited: what was mapped may have been taken away, which the next fault finds out.
  yield* wait(vm.sched.point("driver:prefetch"));
}

class DeviceView implements PrefetchView {
  readonly #vm: SvmVm;

  constructor(vm: SvmVm) {
    this.#vm = vm;
  }

  blockAt(addr: Va): Interval | null {
    const { mm, binds } = this.#vm;
    const mirror = binds.at(addr);
    const vma = mm.vmaLookup(addr);
    if (mirror?.isMirror !== true || vma === null || !vma.anonymous || !vma.readable) return null;
    const block = alignDown(addr, SZ_2M);
    return {
      start: Math.max(block, vma.start, mirror.addr),
      end: Math.min(block + SZ_2M, vma.end, mirror.end),
    };
  }

  resident(start: Va, end: Va): Uint8Array {
    const { device, mm } = this.#vm;
    const pages = new Uint8Array((end - start) / PAGE_SIZE);
    for (let i = 0; i < pages.length; i++) {
      const at = start + i * PAGE_SIZE;
      if (device.isResident(mm, at, at + PAGE_SIZE)) pages[i] = 1;
    }
    return pages;
  }
}
