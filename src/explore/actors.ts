import { PAGE_SIZE } from "../base/addr.ts";
import { EBUSY, EIO, ENOMEM, errnoName, isErr } from "../base/errno.ts";
import { InvariantError } from "../base/assert.ts";
import { AccessFault } from "../mm/access.ts";
import { compact } from "../mm/compaction.ts";
import { makeDeviceExclusive } from "../mm/exclusive.ts";
import { Zdd } from "../pagemap/zdd.ts";
import { type GpuAccess, launch } from "./kernel.ts";
import type { Access, Oracle } from "./oracle.ts";
import type { Op } from "./program.ts";
import type { Change, Uncertain } from "./uncertain.ts";
import type { ExploredProcess, World } from "./world.ts";

/**
 * The operations of programs, each judged by what the oracle says could have been meanwhile. Whatever an operation finds
 * that cannot be is thrown as an `InvariantError`; an operation that makes no sense any more does nothing.
 */
export async function perform(world: World, op: Op): Promise<void> {
  switch (op.op) {
    case "read":
    case "write":
      return ofProcess(world, op.who, (p) => cpuAccess(world, p, op));
    case "gread":
    case "gwrite":
      return gpuAccess(world, op);
    case "munmap":
    case "remap":
    case "mremap":
    case "mprotect":
      return ofProcess(world, op.who, (p) => changeMapping(world, p, op));
    case "fill":
      return ofProcess(world, op.who, (p) => fill(world, p, op));
    case "madvise":
      return ofProcess(world, op.who, (p) => advise(world, p, op));
    case "fork":
      return ofProcess(world, 0, (p) => fork(world, p));
    case "exit":
      return exit(world, op.who);
    case "pin":
      return ofProcess(world, op.who, (p) => pin(world, p, op));
    case "exclusive":
      return ofProcess(world, op.who, (p) => exclusive(world, p, op));
    case "prefetch":
    case "toVram":
    case "toSys":
      return place(world, op);
    case "migrate":
      return migrate(world, op);
    case "evict":
      await world.rig.device.evict(op.pages * PAGE_SIZE);
      return;
    case "compact":
      await compact(world.rig.phys);
      return;
    case "close":
      return close(world, op.vm);
    case "unbind":
      return unbind(world);
    case "pause":
      for (let i = 0; i < op.points; i++) await world.rig.sched.point("pause");
  }
}

type OpOf<K extends Op["op"]> = Extract<Op, { readonly op: K }>;

async function ofProcess(world: World, who: number, f: (p: ExploredProcess) => Promise<void>): Promise<void> {
  const process = world.processes[who];
  if (process === undefined || process.exiting) return;
  process.busy += 1;
  try {
    await f(process);
  } finally {
    process.busy -= 1;
  }
}

/** The world makes copies fail, which the CPU and the GPU may come to feel. */
function mayFail({ program }: World): boolean {
  return program.failures.toDevice.length + program.failures.toRam.length > 0;
}

const MAY_READ: readonly Access[] = ["RW", "R"];
const MAY_WRITE: readonly Access[] = ["RW"];

/** Whether an access could have been allowed, and whether it could have been refused. */
function verdict(seen: ReadonlySet<Access>, isStore: boolean): { mayPass: boolean; mayFail: boolean } {
  const allowing = isStore ? MAY_WRITE : MAY_READ;
  let mayPass = false;
  let mayBeRefused = false;
  for (const access of seen) {
    if (allowing.includes(access)) mayPass = true;
    else mayBeRefused = true;
  }
  return { mayPass, mayFail: mayBeRefused };
}

function list(values: Iterable<unknown>): string {
  return [...values].join(" or ");
}

async function cpuAccess(world: World, { mm, oracle }: ExploredProcess, op: OpOf<"read" | "write">): Promise<void> {
  const { who, page, word } = op;
  const addr = world.addressOf(who, page) + 4 * word;
  const isStore = op.op === "write";
  const access = oracle.access(page).observe();
  const cell = oracle.word(page, word);
  const until = world.isStrict ? sliceOf(world, who, page) : -Infinity;
  if (isStore) {
    const change = cell.begin(world.newValue());
    const fault = await mm.store32(addr, change.value);
    if (fault === undefined) cell.end(change);
    else cell.endUnsure(change);
    judgeCpu(world, op, fault ?? null, access);
  } else {
    const seen = cell.observe();
    const value = await mm.load32(addr);
    judgeCpu(world, op, value instanceof AccessFault ? value : null, access);
    if (!(value instanceof AccessFault) && !seen.has(value)) {
      throw new InvariantError(
        `the CPU read ${value} at page ${page} word ${word} of process ${who}, not ${list(seen)}`,
      );
    }
    cell.unobserve(seen);
  }
  oracle.access(page).unobserve(access);
  if (until > world.rig.sched.now())
    throw new InvariantError(`a CPU access ended inside the time slice of page ${page} (I29)`);
}

function judgeCpu(
  world: World,
  { op, who, page }: OpOf<"read" | "write">,
  fault: AccessFault | null,
  seen: ReadonlySet<Access>,
): void {
  const expected = verdict(seen, op === "write");
  if (fault === null) {
    if (!expected.mayPass)
      throw new InvariantError(`a CPU ${op} of page ${page} of process ${who} passed: ${list(seen)}`);
  } else if (fault.code === "SEGV" ? !expected.mayFail : !mayFail(world)) {
    throw new InvariantError(`a CPU ${op} of page ${page} of process ${who} failed with ${fault.code}: ${list(seen)}`);
  }
}

async function gpuAccess(world: World, op: OpOf<"gread" | "gwrite">): Promise<void> {
  const vm = world.vms[op.vm];
  const process = world.processes[0]!;
  if (vm === undefined || vm.closing) return;
  const { oracle } = process;
  const isStore = op.op === "gwrite";
  const items: Item[] = [];
  for (let page = op.page; page < Math.min(op.page + op.pages, oracle.pages); page++) {
    const cell = oracle.word(page, op.word);
    const store = isStore ? cell.begin(world.newValue()) : null;
    const addr = world.addressOf(0, page) + 4 * op.word;
    const seen = isStore ? null : cell.observe();
    items.push({ page, cell, store, seen, access: oracle.access(page).observe(), addr });
  }
  const accesses: GpuAccess[] = items.map(({ addr, store }) => ({ addr, store: store?.value ?? null }));
  const streams =
    op.streamed === true ? [{ at: items[0]!.addr, bytes: op.pages * PAGE_SIZE, access: Number(isStore) }] : [];
  const result = await launch(world, op.vm, accesses, streams);
  for (const item of items) {
    item.cell.unobserve(item.seen ?? NOTHING);
    oracle.access(item.page).unobserve(item.access);
    if (item.store === null) continue;
    if (typeof result === "string") item.cell.endUnsure(item.store);
    else item.cell.end(item.store);
  }
  const mayBeRefused =
    vm.closing || process.exiting || mayFail(world) || items.some(({ access }) => verdict(access, isStore).mayFail);
  if (typeof result === "string") {
    if (!mayBeRefused) throw new InvariantError(`a kernel of vm ${op.vm} failed: ${result}`);
    return;
  }
  items.forEach(({ page, seen, access }, i) => {
    if (!verdict(access, isStore).mayPass) {
      throw new InvariantError(`a GPU ${isStore ? "store to" : "load of"} page ${page} passed: ${list(access)}`);
    }
    if (seen !== null && !seen.has(result[i]!)) {
      throw new InvariantError(`the GPU read ${result[i]} at page ${page} word ${op.word}, not ${list(seen)}`);
    }
  });
}

interface Item {
  readonly page: number;
  readonly addr: number;
  readonly cell: Uncertain<number>;
  readonly store: Change<number> | null;
  readonly seen: Set<number> | null;
  readonly access: Set<Access>;
}

const NOTHING: Set<number> = new Set();

function check(result: unknown, what: string, ...allowed: readonly number[]): void {
  if (typeof result === "number" && isErr(result) && !allowed.includes(result)) {
    throw new InvariantError(`${what} failed with ${errnoName(result)}`);
  }
}

async function changeMapping(
  world: World,
  { mm, oracle }: ExploredProcess,
  op: OpOf<"munmap" | "remap" | "mremap" | "mprotect">,
): Promise<void> {
  const { page } = op;
  const pages = runFrom(oracle, page, op.pages);
  if (pages === 0 || !oracle.takeMapping(page, pages)) return;
  const start = world.addressOf(op.who, page);
  const bytes = pages * PAGE_SIZE;
  switch (op.op) {
    case "munmap": {
      const end = changeAccess(oracle, page, pages, "HOLE");
      check(await mm.munmap(start, bytes), "munmap");
      end("HOLE");
      break;
    }
    case "mprotect": {
      const end = changeAccess(oracle, page, pages, op.prot);
      check(await mm.mprotect(start, bytes, op.prot), "mprotect");
      end(op.prot);
      break;
    }
    case "remap": {
      const end = changeAccess(oracle, page, pages, "RW");
      const zeros = oracle.beginFill(page, pages, 0);
      check(await mm.mmap(bytes, { at: start }), "mmap");
      zeros.end(true);
      end("RW");
      break;
    }
    case "mremap": {
      const before = [...oracle.access(page).possible][0]!;
      const end = changeAccess(oracle, page, pages, "HOLE");
      oracle.move(page, pages);
      const to = world.addressOf(op.who, page);
      oracle.move(page, pages);
      check(await mm.mremap(start, bytes, bytes, { to }), "mremap");
      oracle.move(page, pages);
      end(before);
    }
  }
  oracle.giveMapping(page, pages);
}

/** How many pages from `page` on, at most `pages`, are in one place and there, with equal access. */
function runFrom(oracle: Oracle, page: number, pages: number): number {
  const first = [...oracle.access(page).possible];
  if (first.length !== 1 || first[0] === "HOLE") return 0;
  let count = 1;
  for (; count < pages && page + count < oracle.pages; count++) {
    const { possible } = oracle.access(page + count);
    if (oracle.isAway(page + count) !== oracle.isAway(page)) break;
    if (possible.size !== 1 || !possible.has(first[0]!)) break;
  }
  return count;
}

/** The access of some pages passes through `meanwhile`; the result ends the change. */
function changeAccess(oracle: Oracle, page: number, pages: number, meanwhile: Access): (after: Access) => void {
  const open = Array.from({ length: pages }, (_, i) => oracle.access(page + i).begin(meanwhile));
  return (after) => {
    open.forEach((change, i) => {
      const access = oracle.access(page + i);
      access.endUnsure(change);
      access.end(access.begin(after));
    });
  };
}

async function fill(world: World, { mm, oracle }: ExploredProcess, op: OpOf<"fill">): Promise<void> {
  const pages = runFrom(oracle, op.page, op.pages);
  if (pages === 0) return;
  const access = oracle.access(op.page).observe();
  const value = 0x01010101 * (1 + (world.newValue() % 250));
  const change = oracle.beginFill(op.page, pages, value);
  const fault = await mm.fill(world.addressOf(op.who, op.page), pages * PAGE_SIZE, value % 256);
  change.end(fault === undefined);
  oracle.access(op.page).unobserve(access);
  if (fault !== undefined && !verdict(access, true).mayFail) throw new InvariantError(`fill failed with ${fault.code}`);
}

async function advise(world: World, { mm, oracle }: ExploredProcess, op: OpOf<"madvise">): Promise<void> {
  const pages = runFrom(oracle, op.page, op.pages);
  if (pages === 0) return;
  const discards = op.advice === "dontneed" || op.advice === "free";
  const zeros = discards ? oracle.beginFill(op.page, pages, 0) : null;
  const result = await mm.madvise(world.addressOf(op.who, op.page), pages * PAGE_SIZE, op.advice);
  zeros?.end(result === 0);
}

async function fork(world: World, parent: ExploredProcess): Promise<void> {
  const { mm, oracle } = parent;
  if (world.processes.length > 1 || !oracle.takeMapping(0, oracle.pages)) return;
  const finish = oracle.beginFork();
  const child = await mm.fork();
  const itsOracle = finish();
  oracle.giveMapping(0, oracle.pages);
  if (isErr(child)) check(child, "fork");
  else world.addProcess(child, itsOracle);
}

async function exit(world: World, who: number): Promise<void> {
  const process = world.processes[who];
  if (process === undefined || process.exiting) return;
  process.exiting = true;
  while (process.busy > 0) await world.rig.sched.sleep(0);
  await process.mm.exit();
}

async function pin(world: World, { mm, oracle }: ExploredProcess, op: OpOf<"pin">): Promise<void> {
  const pages = runFrom(oracle, op.page, op.pages);
  if (pages === 0) return;
  const held = await mm.pin(world.addressOf(op.who, op.page), pages * PAGE_SIZE, { write: true });
  if (isErr(held)) return;
  for (let i = 0; i < op.points; i++) await world.rig.sched.point("pinned");
  for (const [i, pfn] of held.pfns.entries()) {
    const page = mm.pageAt(world.addressOf(op.who, op.page + i));
    if (world.keepsPages && page.pfn !== pfn) throw new InvariantError(`page ${op.page + i} moved while pinned (R10)`);
  }
  held.release();
}

async function exclusive(world: World, { mm }: ExploredProcess, op: OpOf<"exclusive">): Promise<void> {
  const pfn = await makeDeviceExclusive(mm, world.addressOf(op.who, op.page), world);
  if (isErr(pfn)) return;
  await world.rig.sched.point("exclusive");
  world.rig.phys.unlockPage(pfn);
  world.rig.phys.putPage(pfn);
}

async function place(world: World, op: OpOf<"prefetch" | "toVram" | "toSys">): Promise<void> {
  const vm = world.vms[op.vm];
  if (vm === undefined || vm.closing) return;
  const start = world.addressOf(0, op.page);
  const end = start + op.pages * PAGE_SIZE;
  const result = await vm.svm[op.op](start, end);
  if (result === EIO && !mayFail(world)) throw new InvariantError(`${op.op} failed with EIO`);
}

async function migrate(world: World, op: OpOf<"migrate">): Promise<void> {
  const vm = world.vms[op.vm];
  const { mm } = world.processes[0]!;
  if (vm === undefined || vm.closing || !mm.mmget()) return;
  const start = world.addressOf(0, op.page);
  const end = start + op.pages * PAGE_SIZE;
  const guard = await mm.mmapLock.read();
  const result = await world.rig.device.populateMm(vm.svm, start, end, op.slice);
  guard.release();
  mm.mmput();
  if (result === ENOMEM) throw new InvariantError("a migration ran out of RAM");
}

async function close(world: World, index: number): Promise<void> {
  const vm = world.vms[index];
  if (vm === undefined || vm.closing) return;
  vm.closing = true;
  await vm.svm.close();
}

/** The device goes, whatever is going on, and what is left in its memory is brought home. */
async function unbind(world: World): Promise<void> {
  for (const vm of world.vms) vm.closing = true;
  world.rig.isSpent = true;
  check(await world.rig.device.unbind(), "unbind", EBUSY);
}

/** Until when the page must stay in device memory, as far as the CPU is concerned; -Infinity: it need not. */
function sliceOf(world: World, who: number, page: number): number {
  const pfn = world.processes[who]!.mm.devicePfnAt(world.addressOf(who, page));
  const zdd = pfn < 0 ? null : world.rig.phys.zoneDeviceData(pfn);
  return zdd instanceof Zdd ? zdd.devmemAllocation.timesliceExpiration : -Infinity;
}
