/**
 * Device-exclusive access: for a while one device alone may use a system page, so that its atomic operations are atomic
 * for everybody. The CPU's entry says so; a CPU access takes the page back.
 *
 *     makeDeviceExclusive   EXCLUSIVE(owner) told -> entry is device-exclusive -> page locked and referenced: the driver
 *                           maps it, unlocks it, puts it
 *     CPU access            (exclusive-entry.ts) page locked -> CLEAR told: the driver unmaps -> entry is present again
 */
import { PAGE_SIZE, SZ_2M, type Pfn, type Va, isAligned } from "../base/addr.ts";
import { EBUSY, EFAULT, EINVAL, ENOMEM, EOPNOTSUPP, type Errno } from "../base/errno.ts";
import { type MaybePromise, isPromise } from "../base/maybe-promise.ts";
import { announce } from "./announce.ts";
import { handleMmFault } from "./fault.ts";
import { PG_ANON } from "./frame-table.ts";
import { splitHuge } from "./huge.ts";
import type { Mm } from "./mm.ts";
import { PTE_DEVICE_EXCLUSIVE, PTE_KIND, PTE_NOACCESS, PTE_PRESENT, PTE_WRITE, ptePfn } from "./page-table.ts";
import { type Steps, run, wait } from "./steps.ts";
import { MMU_NOTIFY_EXCLUSIVE, VM_FAULT_OOM } from "./types.ts";

/**
 * Makes the page at `addr` `owner`'s alone. It comes back locked and with a reference: the caller maps it for its device,
 * then calls `unlockPage` and `putPage`. -EINVAL: not the address of a page. -EFAULT: no writable area. -EOPNOTSUPP: not
 * anonymous, or hugetlb. -EBUSY: it changed meanwhile. -ENOMEM. Takes the mmap lock for read, which in the kernel the
 * caller holds. @kernel make_device_exclusive
 */
export function makeDeviceExclusive(mm: Mm, addr: Va, owner: unknown): MaybePromise<Pfn | Errno> {
  return run(withMmapLock(mm, addr, owner));
}

function* withMmapLock(mm: Mm, addr: Va, owner: unknown): Steps<Pfn | Errno> {
  if (!Number.isSafeInteger(addr) || addr < 0 || !isAligned(addr, PAGE_SIZE)) return EINVAL;
  yield* wait(mm.sched.point("mm:exclusive"));
  const guard = yield* wait(mm.mmapLock.read());
  const result = yield* makeExclusive(mm, addr, owner);
  guard.release();
  return result;
}

function* makeExclusive(mm: Mm, addr: Va, owner: unknown): Steps<Pfn | Errno> {
  const { phys, tables } = mm;
  const vpn = addr / PAGE_SIZE;
  const word = yield* faultInWritable(mm, addr);
  if (word < 0) return word;
  const pfn = ptePfn(word);
  if ((phys.frames.flags[pfn]! & PG_ANON) === 0 || phys.isZoneDevice(pfn)) return EOPNOTSUPP;
  phys.getPage(pfn);
  yield* wait(phys.lockPage(pfn));
  yield* announce(mm, addr, addr + PAGE_SIZE, MMU_NOTIFY_EXCLUSIVE, owner);
  const isStill = tables.read(vpn) === word && !tables.isHuge(Math.floor(addr / SZ_2M));
  if (isStill) tables.write(vpn, (word & ~PTE_KIND) | PTE_DEVICE_EXCLUSIVE);
  mm.notifiers.end();
  if (isStill) return pfn;
  phys.unlockPage(pfn);
  phys.putPage(pfn);
  return EBUSY;
}

/** The entry at `addr`, present and writable and not part of a huge one, or why there is none. */
function* faultInWritable(mm: Mm, addr: Va): Steps<number> {
  for (;;) {
    const vma = mm.vmas.lookup(addr);
    if (vma === null || !vma.writable) return EFAULT;
    if (vma.hugetlb || vma.shared) return EOPNOTSUPP;
    if (mm.tables.isHuge(Math.floor(addr / SZ_2M))) yield* splitHuge(mm, Math.floor(addr / SZ_2M));
    const word = mm.tables.read(addr / PAGE_SIZE);
    const isReady = (word & (PTE_KIND | PTE_WRITE | PTE_NOACCESS)) === (PTE_PRESENT | PTE_WRITE);
    if (isReady && !mm.tables.isHuge(Math.floor(addr / SZ_2M))) return word;
    const result = handleMmFault(mm, vma, addr, true);
    const code = isPromise(result) ? yield* wait(result) : result;
    if (code !== 0) return code === VM_FAULT_OOM ? ENOMEM : EFAULT;
  }
}
