import { EACCES, EAGAIN, EINVAL, ENOMEM, ENOSPC } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import { type Steps, wait } from "../base/steps.ts";
import { ACCESS_READ, FAULT_ATOMIC_VIOLATION } from "../abi/fault.ts";
import { PL_TT, PL_VRAM } from "../vram/place.ts";
import { entriesOf, writeEntries } from "./bind-entries.ts";
import type { BindVa } from "./bind-va.ts";
import type { Bo } from "./bo.ts";
import type { MergedFault } from "./fault-record.ts";
import type { RoundPins } from "./round-pins.ts";
import type { Userptr } from "./userptr.ts";

/** The round that a fault is served in. */
export interface FaultRound {
  readonly pins: RoundPins;
  /** Nothing has been served yet: what earlier rounds hold may go, because somebody must get on. */
  readonly isFirst: boolean;
}

/**
 * Serves a fault at a mapping that is no mirror (spec/device.md 5.5 steps 3 to 5). -EINVAL: it is none of the tile that
 * faulted. -EACCES: the mapping does not allow the access, or its memory no atomics. -EAGAIN: the CPU side changed meanwhile. -EFAULT, -EPERM: the process memory behind it
 * is gone. -ENOSPC: no room. "postponed": this round's own memory fills VRAM. The VM's lock is held for write.
 * @kernel handle_vma_pagefault
 */
export function* serveMapping(va: BindVa, fault: MergedFault, round: FaultRound): Steps<0 | Errno | "postponed"> {
  if ((va.tileMask & (1 << fault.tile)) === 0) return EINVAL;
  if (fault.access !== ACCESS_READ && va.isReadOnly) return EACCES;
  if (va.bo !== null) return yield* serveBo(va, va.bo, fault, round);
  // The hardware does no atomics on system memory, and this cannot go elsewhere.
  if (va.userptr !== null && fault.type === FAULT_ATOMIC_VIOLATION) return EACCES;
  if (va.isValid) return 0;
  return va.userptr === null ? yield* write(va) : yield* serveUserptr(va, va.userptr, fault, round);
}

function* serveBo(va: BindVa, bo: Bo, fault: MergedFault, round: FaultRound): Steps<0 | Errno | "postponed"> {
  const wantsVram = fault.type === FAULT_ATOMIC_VIOLATION && bo.memType === PL_TT;
  const places = wantsVram ? bo.placement.filter((place) => place.memType === PL_VRAM) : bo.placement;
  if (places.length === 0) return EACCES;
  const guard = yield* wait(bo.resv.lock());
  try {
    let ret = yield* wait(bo.validate(places));
    if (ret === ENOMEM && round.isFirst && yieldFor(bo, round.pins) > 0) ret = yield* wait(bo.validate(places));
    if (ret === ENOMEM) return round.pins.bytes > 0 ? "postponed" : ENOSPC;
    if (ret === 0 && !va.isValid) ret = yield* write(va);
    if (ret === 0) round.pins.pin(bo, fault.item);
    return ret;
  } finally {
    guard.release();
  }
}

function* serveUserptr(
  va: BindVa,
  userptr: Userptr,
  fault: MergedFault,
  round: FaultRound,
): Steps<0 | Errno | "postponed"> {
  let ret = yield* wait(userptr.pinPages());
  if (ret === ENOSPC && round.isFirst && round.pins.yieldEarlier(userptr.size, "window") > 0)
    ret = yield* wait(userptr.pinPages());
  if (ret === ENOSPC) return round.pins.bytes > 0 ? "postponed" : ENOSPC;
  if (ret === 0) ret = yield* write(va);
  if (ret === 0) round.pins.pin(userptr, fault.item);
  return ret;
}

/** What earlier rounds hold where the object may be; bytes. */
function yieldFor(bo: Bo, pins: RoundPins): number {
  return pins.yieldEarlier(bo.size) + (bo.mayBeInWindow ? pins.yieldEarlier(bo.size, "window") : 0);
}

/** Binds the mapping. The reservation of its object is held, if it has one. */
function* write(va: BindVa): Steps<0 | Errno> {
  const { vm } = va.binds;
  const held = yield* wait(vm.gpusvm.notifierLock.read());
  try {
    const entries = entriesOf(va);
    if (entries === null) return EAGAIN;
    const written = writeEntries(va, entries);
    vm.flushTables();
    return written;
  } finally {
    held.release();
  }
}
