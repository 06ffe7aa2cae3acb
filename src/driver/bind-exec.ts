import { EAGAIN, EBUSY, ENOMEM, ENOSPC, isErr } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import { type Steps, run, wait } from "../base/steps.ts";
import { GpuVmExec } from "../gpuvm/exec.ts";
import { entriesOf, writeEntries } from "./bind-entries.ts";
import type { BindVa } from "./bind-va.ts";
import type { LaunchFault, LaunchOutcome } from "./launch.ts";
import { LaunchTurns } from "./launch-turns.ts";
import type { LaunchTurn, TurnPins } from "./launch-turns.ts";
import type { PinnedBuffer } from "./round-pins.ts";
import { withTableRoom } from "./table-room.ts";
import type { SvmVm } from "./vm.ts";
import type { VmBinds } from "./vm-binds.ts";

/**
 * Launches of an address space without fault mode (spec/gpuvm.md 4.11): before the kernel runs, everything that is mapped is
 * made resident and bound, and stays so until it has ended. Process memory alone may still be taken away between two rounds;
 * then the fault handler does the same again, or, where it finds no room, the launch lets go all of it and begins anew.
 *
 * Where other launches hold the room, it waits for them before it runs (launch-turns.ts). It does so with nothing held, for of
 * two launches that each have got half of what they need none would get the rest.
 */

/** Times that process memory may change under the look-up. */
const MAX_TRIES = 64;
const NOT_RESIDENT = "what is mapped could not all be made resident";

/** Objects, and memory of the process, that a launch needs where they are. */
export class ExecPins implements TurnPins {
  readonly #pinned = new Set<PinnedBuffer>();
  #released = 0;

  get isEmpty(): boolean {
    return this.#pinned.size === 0;
  }
  get released(): number {
    return this.#released;
  }

  pin(bo: PinnedBuffer): void {
    if (this.#pinned.has(bo)) return;
    bo.pin();
    this.#pinned.add(bo);
  }

  clear(): void {
    for (const bo of this.#pinned) bo.unpin();
    this.#released += this.#pinned.size;
    this.#pinned.clear();
  }
}

/** Runs a launch on an address space without fault mode; one that cannot be made resident has the fault of its outcome. */
export async function launchResident(
  vm: SvmVm,
  launch: (resident: ResidentLaunch) => Promise<LaunchOutcome>,
): Promise<LaunchOutcome> {
  const resident = new ResidentLaunch(vm);
  try {
    const bound = await resident.bind();
    return isErr(bound) ? refused(bound) : await launch(resident);
  } finally {
    resident.end();
  }
}

/** What a launch without fault mode holds, and its turn to get it. */
export class ResidentLaunch {
  readonly turn: LaunchTurn;
  readonly #vm: SvmVm;
  readonly #pins = new ExecPins();

  constructor(vm: SvmVm) {
    this.#vm = vm;
    this.turn = LaunchTurns.of(vm.device).join(this.#pins, false);
  }

  /** All of it, once others leave room for it if they are what stands in the way; on an error nothing is held. */
  async bind(): Promise<number | Errno> {
    const { turn } = this;
    for (;;) {
      const older = turn.begin();
      if (older !== undefined) {
        this.#vm.stats.add("wgsvm_turn_wait_count");
        await older;
      }
      const bound = await run(lockAndBind(this.#vm, this.#pins));
      if (!isErr(bound)) {
        turn.keepAll();
        return bound;
      }
      this.#pins.clear();
      if (bound !== ENOMEM || !(await turn.waitForRoom())) return bound;
      this.#vm.stats.add("wgsvm_turn_wait_count");
    }
  }

  /**
   * `failed`: between two rounds the process took memory away, and others have its room now. It lets go the rest too, and gets
   * all of it in its turn. Null: it has; or why not.
   */
  async bindAgain(failed: LaunchFault): Promise<LaunchFault | null> {
    const { turn } = this;
    this.#pins.clear();
    turn.keepNothing();
    if (!(await turn.waitForRoom())) return failed;
    this.#vm.stats.add("wgsvm_turn_wait_count");
    const bound = await this.bind();
    return isErr(bound) ? { ...failed, errno: bound, reason: NOT_RESIDENT } : null;
  }

  end(): void {
    this.#pins.clear();
    this.turn.end();
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
    const written = withTableRoom(va.binds.vm.device, () => writeEntries(va, entries));
    if (written !== 0) return written;
    bound.add(va);
  }
  return 0;
}

function refused(errno: Errno): LaunchOutcome {
  const fault = { errno, addr: 0, access: "read", item: 0, reason: NOT_RESIDENT } as const;
  return { rounds: 0, fault, out: new Uint32Array(0) };
}
