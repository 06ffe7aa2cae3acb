import { EAGAIN, EBUSY, ENOMEM, ENOSPC, isErr } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import { type Steps, run, wait } from "../base/steps.ts";
import { GpuVmExec } from "../gpuvm/exec.ts";
import { entriesOf, writeEntries } from "./bind-entries.ts";
import type { BindVa } from "./bind-va.ts";
import type { LaunchOutcome } from "./launch.ts";
import type { PinnedBuffer } from "./round-pins.ts";
import type { SvmVm } from "./vm.ts";
import type { VmBinds } from "./vm-binds.ts";

/**
 * Launches of an address space without fault mode (spec/gpuvm.md 4.11): before the kernel runs, everything that is mapped is
 * made resident and bound, and stays so until it has ended. Process memory alone may still be taken away between two rounds;
 * then the fault handler does the same again.
 */

/** Times that process memory may change under the look-up. */
const MAX_TRIES = 64;

/** Objects, and memory of the process, that a launch needs where they are. */
export class ExecPins {
  readonly #pinned = new Set<PinnedBuffer>();

  pin(bo: PinnedBuffer): void {
    if (this.#pinned.has(bo)) return;
    bo.pin();
    this.#pinned.add(bo);
  }

  clear(): void {
    for (const bo of this.#pinned) bo.unpin();
    this.#pinned.clear();
  }
}

/** Runs a launch on an address space without fault mode; one that cannot be made resident has the fault of its outcome. */
export async function launchResident(vm: SvmVm, launch: () => Promise<LaunchOutcome>): Promise<LaunchOutcome> {
  const pins = new ExecPins();
  try {
    const bound = await run(lockAndBind(vm, pins));
    return isErr(bound) ? refused(bound) : await launch();
  } finally {
    pins.clear();
  }
}

function* lockAndBind(vm: SvmVm, pins: ExecPins): Steps<number | Errno> {
  const guard = yield* wait(vm.lock.write());
  try {
    return yield* makeResident(vm.binds, pins);
  } finally {
    guard.release();
  }
}

/**
 * Brings back what was evicted and binds what has no entries; the number of mappings bound. -ENOMEM: it does not fit
 * together. -EFAULT, -EPERM: process memory is gone. The VM's lock is held for write.
 * @kernel xe_vm_rebind, preempt_rebind_work_func
 */
export function* makeResident(binds: VmBinds, pins: ExecPins): Steps<number | Errno> {
  const bound = new Set<BindVa>();
  for (let tries = 0; tries < MAX_TRIES; tries++) {
    const vas = binds.vas(0, binds.gpuvm.mmEnd);
    // All of them before the first is looked up: none of them may make room for another.
    for (const { userptr } of vas) if (userptr !== null) pins.pin(userptr);
    const pinned = yield* binds.pinUserptrs(vas);
    if (pinned !== 0) return pinned === ENOSPC ? ENOMEM : pinned;
    const ret = yield* validateAndBind(binds, pins, bound);
    if (ret !== EAGAIN) return ret === 0 ? bound.size : ret;
  }
  return EBUSY;
}

function* validateAndBind(binds: VmBinds, pins: ExecPins, bound: Set<BindVa>): Steps<0 | Errno> {
  const { vm, gpuvm } = binds;
  const exec = new GpuVmExec(gpuvm, 0);
  const locked = yield* wait(exec.lock());
  if (locked !== 0) return locked;
  try {
    const vas = binds.vas(0, gpuvm.mmEnd);
    // Before the first of them moves: none of them may make room for another.
    for (const { bo } of vas) if (bo !== null) pins.pin(bo);
    const valid = yield* wait(exec.validate());
    if (valid !== 0) return valid;
    const held = yield* wait(vm.gpusvm.notifierLock.read());
    try {
      return bindAll(vas, bound);
    } finally {
      vm.flushTables();
      held.release();
    }
  } finally {
    exec.unlock();
  }
}

/** -EAGAIN: process memory has changed since it was looked up. */
function bindAll(vas: readonly BindVa[], bound: Set<BindVa>): 0 | Errno {
  for (const va of vas) {
    if (va.isValid || va.isMirror) continue;
    const entries = entriesOf(va);
    if (entries === null) return EAGAIN;
    const written = writeEntries(va, entries);
    if (written !== 0) return written;
    bound.add(va);
  }
  return 0;
}

function refused(errno: Errno): LaunchOutcome {
  const reason = "what is mapped could not all be made resident";
  const fault = { errno, addr: 0, access: "read", item: 0, reason } as const;
  return { rounds: 0, fault, out: new Uint32Array(0) };
}
