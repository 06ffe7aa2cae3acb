import type { Va } from "../base/addr.ts";
import { EBUSY } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import { mutated } from "../base/mutation.ts";
import { type Steps, wait } from "../base/steps.ts";
import { populate } from "./populate.ts";
import type { PopulateOptions } from "./populate.ts";
import type { SvmVm } from "./vm.ts";

/** Times that one chunk is tried: others fault, move and copy beside it, and what they hold they let go soon. */
const MAX_TRIES = 16;
/** After so many, a try first lets other work run, as in the fault handler. */
const TRIES_BEFORE_SLEEP = 4;

/**
 * As `populate`, several times if pages cannot be collected because somebody holds them, or because they are swapped out:
 * those come in first. -EBUSY: a page stays where it is, as while it is pinned. Without waiting it is tried once.
 */
export function* placeChunk(vm: SvmVm, start: Va, end: Va, o: PopulateOptions): Steps<0 | Errno> {
  let result = yield* wait(populate(vm, start, end, o));
  for (let tries = 1; result === EBUSY && o.noWaitGpu !== true && tries < MAX_TRIES; tries++) {
    vm.stats.add("wgsvm_prefetch_retry_count");
    if (tries >= TRIES_BEFORE_SLEEP) yield* wait(vm.sched.sleep(1));
    const present = yield* wait(vm.mm.faultinPages(start, end, "read"));
    if (present !== 0) return present;
    result = yield* wait(populate(vm, start, end, o));
  }
  return result;
}

/**
 * What a fork has left common in `[start, end)`, private memory that may be written, becomes the process's own, as stores of
 * the CPU would make it; it comes home for it. A device page that is common may not be mapped for writing, and moving common
 * pages makes such pages: so memory is unshared before it moves. 0; -EFAULT: a page cannot be had; -ENOMEM.
 */
export function* unshare(vm: SvmVm, start: Va, end: Va): Steps<0 | Errno> {
  if (!vm.mm.mustUnshare(start, end) || mutated("write-shared-device-page")) return 0;
  return yield* wait(vm.mm.faultinPages(start, end, "write"));
}
