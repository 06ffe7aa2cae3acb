import { assert } from "../base/assert.ts";
import { EAGAIN, type Errno } from "../base/errno.ts";
import { inActivity } from "../base/lock-order.ts";
import type { Guard } from "../base/locks.ts";
import type { Address } from "./arithmetic.ts";
import type { DmaResv } from "./dma-resv.ts";
import type { GemObject } from "./gem-object.ts";

/** A reservation that is already in the set is no error: several objects may share one. @kernel DRM_EXEC_IGNORE_DUPLICATES */
export const EXEC_IGNORE_DUPLICATES = 2;

/** The object's reservation is already in the set. @kernel EALREADY */
export const EALREADY = -114 as Errno;

/**
 * A growing set of reservations, with back-off instead of deadlock.
 *
 * `untilAllLocked` runs a body that locks what it needs. A reservation that somebody else holds ends the body with
 * -EAGAIN, which it has to pass on; then everything is dropped, the contended one and those that the body had are waited
 * for, and the body runs again from its start. The kernel waits for the contended one alone and lets the age of the
 * contexts decide who backs off; here they are taken in the order of their creation, without which two that want the
 * same two in opposite order could back off before each other for ever.
 *
 * @kernel drm_exec, drm_exec_until_all_locked, drm_exec_retry_on_contention
 */
export class DrmExec<A extends Address = number> {
  readonly flags: number;
  readonly #guards = new Map<DmaResv, Guard>();
  readonly #objects: GemObject<A>[] = [];
  #contended: DmaResv | null = null;
  #restarts = 0;

  constructor(flags = 0) {
    this.flags = flags;
  }

  /** Objects locked, in order. @kernel drm_exec_for_each_locked_object */
  get objects(): readonly GemObject<A>[] {
    return this.#objects;
  }

  /** How often the body had to begin again. */
  get restarts(): number {
    return this.#restarts;
  }

  holds(resv: DmaResv): boolean {
    return this.#guards.has(resv);
  }

  /** Runs `body` until it has met no contention; its result. An error leaves locked what is locked: call `fini`. */
  untilAllLocked(body: () => Promise<0 | Errno>): Promise<0 | Errno> {
    return inActivity(() => this.#untilAllLocked(body));
  }

  async #untilAllLocked(body: () => Promise<0 | Errno>): Promise<0 | Errno> {
    for (;;) {
      const ret = await body();
      const contended = this.#contended;
      if (contended === null) return ret;
      const known = [...this.#guards.keys(), contended].sort((a, b) => a.order - b.order);
      this.fini();
      this.#restarts += 1;
      for (const resv of known) this.#guards.set(resv, await resv.lock());
    }
  }

  /** -EAGAIN: contended, end the body. -EALREADY: in the set already (unless duplicates are ignored). @kernel drm_exec_lock_obj */
  lockObj(obj: GemObject<A>): 0 | Errno {
    assert(this.#contended === null, "the body went on after contention");
    if (this.#objects.includes(obj)) return this.#duplicate();
    const { resv } = obj;
    if (this.#guards.has(resv)) {
      // Held for another object, or slept for before this round.
      const isFirstOfResv = !this.#objects.some((o) => o.resv === resv);
      this.#objects.push(obj);
      return isFirstOfResv ? 0 : this.#duplicate();
    }
    const guard = resv.tryLock();
    if (guard === null) {
      this.#contended = resv;
      return EAGAIN;
    }
    this.#guards.set(resv, guard);
    this.#objects.push(obj);
    return 0;
  }

  /** Locks the object and reserves room for `numFences` fences. @kernel drm_exec_prepare_obj */
  prepareObj(obj: GemObject<A>, numFences: number): 0 | Errno {
    return this.lockObj(obj) || (numFences > 0 ? obj.resv.reserveFences(numFences) : 0);
  }

  /** Drops everything. @kernel drm_exec_fini */
  fini(): void {
    for (const guard of this.#guards.values()) guard.release();
    this.#guards.clear();
    this.#objects.length = 0;
    this.#contended = null;
  }

  #duplicate(): 0 | Errno {
    return (this.flags & EXEC_IGNORE_DUPLICATES) !== 0 ? 0 : EALREADY;
  }
}
