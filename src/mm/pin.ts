import { PAGE_SIZE, SZ_2M, type Pfn, type Va, alignDown, alignUp } from "../base/addr.ts";
import { assert } from "../base/assert.ts";
import { EFAULT, EINVAL, ENOMEM, type Errno, isErr } from "../base/errno.ts";
import { isPromise } from "../base/maybe-promise.ts";
import { reuseIfSole } from "./anon.ts";
import { moveCoherentPage } from "./compaction.ts";
import { handleMmFault, unshare } from "./fault.ts";
import { headOf } from "./folio.ts";
import { HPAGE_PAGES, PG_ANON_EXCLUSIVE, PG_DEVICE_COHERENT, PG_KIND } from "./frame-table.ts";
import { wpHugePage } from "./huge.ts";
import type { Mm } from "./mm.ts";
import { PTE_KIND, PTE_NOACCESS, PTE_NONE, PTE_PRESENT, PTE_WRITE, ptePfn } from "./page-table.ts";
import type { PhysMemory } from "./phys-mem.ts";
import { type Steps, wait } from "./steps.ts";
import { VM_FAULT_OOM } from "./types.ts";
import { TASK_SIZE, type Vma } from "./vma.ts";

/** After so many attempts that got nowhere, others run between two more. */
const ATTEMPTS_BEFORE_SLEEP = 4;

/**
 * Frames that a long-term user holds, as I/O does: they neither move nor go to swap, and fork copies them. The bytes are
 * accessed through the mm as ever; the pin only says where they lie.
 */
export class Pin {
  /** One frame per page. */
  readonly pfns: Uint32Array;
  readonly #phys: PhysMemory;
  #held = true;

  /** Takes over the references that were taken for it. */
  constructor(phys: PhysMemory, pfns: Uint32Array) {
    this.#phys = phys;
    this.pfns = pfns;
  }

  /** Once. @kernel unpin_user_pages */
  release(): void {
    assert(this.#held, "a pin was released twice");
    this.#held = false;
    for (const pfn of this.pfns) unpinPage(this.#phys, pfn);
  }
}

function unpinPage(phys: PhysMemory, pfn: Pfn): void {
  phys.frames.pins[pfn]! -= 1;
  phys.putPage(pfn);
}

/**
 * Faults the pages of `[addr, addr + length)` into RAM and holds them there; copy-on-write is broken first, so that the
 * user and the process see the same bytes. -EINVAL: no interval. -EFAULT: a hole, or an area that forbids the access.
 * -ENOMEM. Nothing is held when it fails. Takes the mmap lock for read. @kernel pin_user_pages, FOLL_LONGTERM
 */
export function* pinPages(mm: Mm, addr: Va, length: number, access: { readonly write: boolean }): Steps<Pin | Errno> {
  if (!Number.isSafeInteger(addr) || !Number.isSafeInteger(length) || addr < 0 || length <= 0) return EINVAL;
  if (addr + length > TASK_SIZE) return EFAULT;
  const start = alignDown(addr, PAGE_SIZE);
  const pfns = new Uint32Array((alignUp(addr + length, PAGE_SIZE) - start) / PAGE_SIZE);
  yield* wait(mm.sched.point("mm:pin"));
  const guard = yield* wait(mm.mmapLock.read());
  for (let i = 0; i < pfns.length; i++) {
    const pfn = yield* pinPage(mm, start + i * PAGE_SIZE, access.write);
    if (isErr(pfn)) {
      for (let k = 0; k < i; k++) unpinPage(mm.phys, pfns[k]!);
      guard.release();
      return pfn;
    }
    pfns[i] = pfn;
  }
  guard.release();
  return new Pin(mm.phys, pfns);
}

function* pinPage(mm: Mm, at: Va, write: boolean): Steps<Pfn | Errno> {
  const { phys, tables } = mm;
  for (let attempts = 0; ; attempts++) {
    const vma = mm.vmas.lookup(at);
    if (vma === null || !(write ? vma.writable : vma.readable)) return EFAULT;
    const word = tables.read(at / PAGE_SIZE);
    const pfn = ptePfn(word);
    if (isPinnable(mm, vma, word, write)) {
      phys.getPage(pfn);
      phys.frames.pins[pfn]! += 1;
      return pfn;
    }
    if (attempts >= ATTEMPTS_BEFORE_SLEEP) yield* wait(mm.sched.sleep(0));
    const code = yield* makePinnable(mm, vma, at, word, write);
    if (code !== 0) return code === VM_FAULT_OOM ? ENOMEM : EFAULT;
  }
}

/** In RAM, accessible, and nobody else's where a write would copy it. @kernel gup_must_unshare */
function isPinnable(mm: Mm, vma: Vma, word: number, write: boolean): boolean {
  if ((word & (PTE_KIND | PTE_NOACCESS)) !== PTE_PRESENT || (write && (word & PTE_WRITE) === 0)) return false;
  const flags = mm.phys.frames.flags[ptePfn(word)]!;
  if ((flags & PG_KIND) === PG_DEVICE_COHERENT) return false;
  return vma.shared || (flags & PG_ANON_EXCLUSIVE) !== 0;
}

/** One step towards it: 0, or VM_FAULT_*. */
function* makePinnable(mm: Mm, vma: Vma, at: Va, word: number, write: boolean): Steps<number> {
  const isPresent = (word & PTE_KIND) === PTE_PRESENT;
  if (isPresent && mm.phys.isDeviceCoherent(ptePfn(word))) {
    return (yield* moveCoherentPage(mm.phys, ptePfn(word))) ? 0 : VM_FAULT_OOM;
  }
  if (isPresent && !write) {
    const index = Math.floor(at / SZ_2M);
    const isHuge = mm.tables.isHuge(index);
    // A huge entry is one process's own as a whole or not at all.
    if (isHuge ? reuseIfSole(mm.phys, headOf(ptePfn(word)), HPAGE_PAGES) : reuseIfSole(mm.phys, ptePfn(word), 1))
      return 0;
    return yield* isHuge ? wpHugePage(mm, vma, index) : unshare(mm, at / PAGE_SIZE, word);
  }
  // What would only be read now and copied by the first write is copied now.
  const asWrite = write || ((word & PTE_KIND) === PTE_NONE && !vma.shared && vma.writable);
  const result = handleMmFault(mm, vma, at, asWrite);
  return isPromise(result) ? yield* wait(result) : result;
}
