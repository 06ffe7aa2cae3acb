import { PAGE_SIZE } from "../base/addr.ts";
import { EBUSY, EIO, ENODEV, ENOLINK, ENOMEM, isErr } from "../base/errno.ts";
import { InvariantError } from "../base/assert.ts";
import { AccessFault } from "../mm/access.ts";
import { compact } from "../mm/compaction.ts";
import { makeDeviceExclusive } from "../mm/exclusive.ts";
import type { Advice } from "../mm/madvise.ts";
import { Zdd } from "../pagemap/zdd.ts";
import { mappingOf } from "./area.ts";
import { copyOfFile, cutFile, fileRead, fileWrite } from "./file-actors.ts";
import { check, list, mayFail } from "./judge.ts";
import { type GpuAccess, launch } from "./kernel.ts";
import { type Memory, isShared } from "./memory.ts";
import type { Access, Fill, Oracle, Watch } from "./oracle.ts";
import type { Op, OpOf } from "./program.ts";
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
    case "pread":
      return fileRead(world, op);
    case "pwrite":
      return fileWrite(world, op);
    case "punch":
    case "truncate":
      return cutFile(world, op);
    case "copy":
      return copyOfFile(world, op);
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
    case "prefetchAdvised":
    case "toVram":
    case "toSys":
      return place(world, op);
    case "prefer":
      return prefer(world, op);
    case "migrate":
      return migrate(world, op);
    case "evict":
      await world.rig.devices[op.device ?? 0]!.device.evict(op.pages * PAGE_SIZE, op.tile);
      return;
    case "compact":
      await compact(world.rig.phys);
      return;
    case "close":
      return close(world, op.vm);
    case "unbind":
      return unbind(world, op);
    case "pause":
      for (let i = 0; i < op.points; i++) await world.rig.sched.point("pause");
  }
}

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

async function cpuAccess(world: World, { mm, oracle }: ExploredProcess, op: OpOf<"read" | "write">): Promise<void> {
  const { who, page, word } = op;
  const addr = world.addressOf(who, page) + 4 * word;
  const isStore = op.op === "write";
  const watch = oracle.watch(page);
  const cell = oracle.word(page, word);
  const until = world.isStrict ? sliceOf(world, who, page) : -Infinity;
  const { evictions } = world;
  if (isStore) {
    const change = cell.begin(world.newValue());
    const fault = await mm.store32(addr, change.value);
    if (fault === undefined) cell.end(change);
    else cell.endUnsure(change);
    judgeCpu(world, op, fault ?? null, watch);
  } else {
    const seen = cell.observe();
    const value = await mm.load32(addr);
    judgeCpu(world, op, value instanceof AccessFault ? value : null, watch);
    if (!(value instanceof AccessFault) && !seen.has(value)) {
      throw new InvariantError(
        `the CPU read ${value} at page ${page} word ${word} of process ${who}, not ${list(seen)}`,
      );
    }
    cell.unobserve(seen);
  }
  watch.end();
  if (until > world.rig.sched.now() && evictions === world.evictions)
    throw new InvariantError(`a CPU access ended inside the time slice of page ${page} (I29)`);
}

function judgeCpu(
  world: World,
  { op, who, page }: OpOf<"read" | "write">,
  fault: AccessFault | null,
  watch: Watch,
): void {
  const isStore = op === "write";
  const at = `a CPU ${op} of page ${page} of process ${who}`;
  if (fault === null) {
    if (!watch.mayPass(isStore)) throw new InvariantError(`${at} passed: ${list(watch.access)}`);
    return;
  }
  const isExpected = fault.code === "SEGV" ? watch.mayBeRefused(isStore) : watch.mayBeBeyond || mayFail(world);
  if (!isExpected) throw new InvariantError(`${at} failed with ${fault.code}: ${list(watch.access)}`);
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
    items.push({ page, cell, store, seen, watch: oracle.watch(page), addr });
  }
  const accesses: GpuAccess[] = items.map(({ addr, store }) => ({ addr, store: store?.value ?? null }));
  const streams =
    op.streamed === true ? [{ at: items[0]!.addr, bytes: op.pages * PAGE_SIZE, access: Number(isStore) }] : [];
  const result = await launch(world, op.vm, accesses, streams, op.tile);
  for (const item of items) {
    item.cell.unobserve(item.seen ?? NOTHING);
    item.watch.end();
    if (item.store === null) continue;
    if (typeof result === "string") item.cell.endUnsure(item.store);
    else item.cell.end(item.store);
  }
  const mayBeRefused =
    vm.closing ||
    process.exiting ||
    mayFail(world) ||
    items.some(({ watch }) => watch.mayBeRefused(isStore) || watch.mayBeBeyond);
  if (typeof result === "string") {
    if (!mayBeRefused) throw new InvariantError(`a kernel of vm ${op.vm} failed: ${result}`);
    return;
  }
  items.forEach(({ page, seen, watch }, i) => {
    if (!watch.mayPass(isStore)) {
      throw new InvariantError(`a GPU ${isStore ? "store to" : "load of"} page ${page} passed: ${list(watch.access)}`);
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
  readonly watch: Watch;
}

const NOTHING: Set<number> = new Set();

async function changeMapping(
  world: World,
  { mm, oracle }: ExploredProcess,
  op: OpOf<"munmap" | "remap" | "mremap" | "mprotect">,
): Promise<void> {
  const { page } = op;
  const run = runFrom(oracle, page, op.pages);
  const pages = op.op === "mremap" ? ofOneFile(oracle, page, run) : run;
  // Fresh memory that is no longer common to parent and child would take two oracles from then on.
  if (op.op === "remap" && oracle.memoryOf(page) === "shared" && world.processes.length > 1) return;
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
      const fresh = oracle.beginRemap(page, pages);
      check(await mm.mmap(bytes, { ...mappingOf(oracle.memoryOf(page), world.file, page), at: start }), "mmap");
      fresh.end(true);
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

/** How many pages from `page` on, at most `pages`, are in one place and there, of one kind and with equal access. */
function runFrom(oracle: Oracle, page: number, pages: number): number {
  const first = [...oracle.access(page).possible];
  if (first.length !== 1 || first[0] === "HOLE") return 0;
  let count = 1;
  for (; count < pages && page + count < oracle.pages; count++) {
    const { possible } = oracle.access(page + count);
    if (oracle.isAway(page + count) !== oracle.isAway(page)) break;
    if (oracle.memoryOf(page + count) !== oracle.memoryOf(page)) break;
    if (possible.size !== 1 || !possible.has(first[0]!)) break;
  }
  return count;
}

/** How many of them, from `page` on, one call has mapped: `mremap` takes no more. */
function ofOneFile(oracle: Oracle, page: number, pages: number): number {
  let count = 0;
  while (count < pages && oracle.areOfOneFile(page, page + count)) count += 1;
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
  const watches = Array.from({ length: pages }, (_, i) => oracle.watch(op.page + i));
  const value = 0x01010101 * (1 + (world.newValue() % 250));
  const change = oracle.beginFill(op.page, pages, value);
  const fault = await mm.fill(world.addressOf(op.who, op.page), pages * PAGE_SIZE, value % 256);
  change.end(fault === undefined);
  for (const watch of watches) watch.end();
  if (fault !== undefined && !watches.some((watch) => watch.mayBeRefused(true) || watch.mayBeBeyond)) {
    throw new InvariantError(`fill failed with ${fault.code}`);
  }
}

async function advise(world: World, { mm, oracle }: ExploredProcess, op: OpOf<"madvise">): Promise<void> {
  const pages = runFrom(oracle, op.page, op.pages);
  if (pages === 0) return;
  const discard = discardOf(oracle, op.advice, op.page, pages);
  const result = await mm.madvise(world.addressOf(op.who, op.page), pages * PAGE_SIZE, op.advice);
  discard?.end(result === 0);
  const memory = oracle.memoryOf(op.page);
  if (result === 0 && mustRefuse(memory, op.advice)) {
    throw new InvariantError(`${op.advice} of ${memory} memory was taken`);
  }
}

/** What the advice does to the content; null: nothing. */
function discardOf(oracle: Oracle, advice: Advice, page: number, pages: number): Fill | null {
  if (mustRefuse(oracle.memoryOf(page), advice)) return null;
  if (advice === "dontneed" || advice === "free") return oracle.beginDiscard(page, pages);
  return advice === "remove" ? oracle.beginFill(page, pages, 0) : null;
}

/** Advice for memory of another kind. */
function mustRefuse(memory: Memory, advice: Advice): boolean {
  return (advice === "free" && memory !== "private") || (advice === "remove" && !isShared(memory));
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

async function place(world: World, op: OpOf<"prefetch" | "prefetchAdvised" | "toVram" | "toSys">): Promise<void> {
  const vm = world.vms[op.vm];
  if (vm === undefined || vm.closing) return;
  const start = world.addressOf(0, op.page);
  const end = start + op.pages * PAGE_SIZE;
  const { svm } = vm;
  const result = await (op.op === "toSys"
    ? svm.toSys(start, end)
    : op.op === "prefetch"
      ? svm.prefetch(start, end, false, op.tile)
      : svm[op.op](start, end, op.tile));
  if (result === EIO && !mayFail(world)) throw new InvariantError(`${op.op} failed with EIO`);
}

async function prefer(world: World, op: OpOf<"prefer">): Promise<void> {
  const vm = world.vms[op.vm];
  if (vm === undefined || vm.closing) return;
  const start = world.addressOf(0, op.page);
  const loc = typeof op.loc === "number" ? world.rig.devices[op.loc]!.device : op.loc;
  const result = await vm.svm.advise(start, start + op.pages * PAGE_SIZE, { loc, tile: op.tile ?? null });
  // A device without a link to this one, and one that has gone.
  if (!vm.closing) check(result, "advice", ENOLINK, ENODEV);
}

async function migrate(world: World, op: OpOf<"migrate">): Promise<void> {
  const vm = world.vms[op.vm];
  const { mm } = world.processes[0]!;
  if (vm === undefined || vm.closing || !mm.mmget()) return;
  const start = world.addressOf(0, op.page);
  const end = start + op.pages * PAGE_SIZE;
  const guard = await mm.mmapLock.read();
  const result = await vm.svm.device.populateMm(vm.svm, start, end, op.slice, {}, op.tile);
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

/** A device goes, whatever is going on, and what is left in its memory is brought home. */
async function unbind(world: World, op: OpOf<"unbind">): Promise<void> {
  const { device } = world.rig.devices[op.device ?? 0]!;
  for (const vm of world.vms) if (vm.svm.device === device) vm.closing = true;
  world.rig.isSpent = true;
  check(await device.unbind(), "unbind", EBUSY);
}

/** Until when the page must stay in device memory, as far as the CPU is concerned; -Infinity: it need not. */
function sliceOf(world: World, who: number, page: number): number {
  const pfn = world.processes[who]!.mm.devicePfnAt(world.addressOf(who, page));
  const zdd = pfn < 0 ? null : world.rig.phys.zoneDeviceData(pfn);
  return zdd instanceof Zdd ? zdd.devmemAllocation.timesliceExpiration : -Infinity;
}
