/**
 * Runs a program on a machine and on the flat model side by side.
 *
 * After every operation its result is the model's, the areas are the model's, every change of an entry has been announced
 * before, and the pages that can be looked at without disturbing them (in RAM or in swap) have the model's bytes. At the end every byte is read by the GPU and by the
 * CPU, everybody exits, and all memory is free again.
 */
import type { Device } from "../../src/machine/device.ts";
import type { File } from "../../src/machine/file.ts";
import { type Engine, Machine, MIN_VRAM } from "../../src/machine/machine.ts";
import { hostPlatform } from "../../src/machine/platform.ts";
import type { Process } from "../../src/machine/process.ts";
import type { Vm } from "../../src/machine/vm.ts";
import { compact } from "../../src/mm/compaction.ts";
import { makeDeviceExclusive } from "../../src/mm/exclusive.ts";
import { PG_FILE } from "../../src/mm/frame-table.ts";
import { checkQuiescent } from "../../src/mm/invariants.ts";
import type { MmapOptions } from "../../src/mm/mmap.ts";
import { PTE_KIND, PTE_NONE, PTE_PRESENT, ptePfn } from "../../src/mm/page-table.ts";
import { Pin } from "../../src/mm/pin.ts";
import {
  ENOMEM,
  EINVAL,
  FlatFile,
  FlatProcess,
  HUGE_PAGES,
  PAGE,
  addFlat,
  adviceError,
  dataOf,
  mremapError,
} from "./flat-model.ts";
import { checkAreas, checkPages } from "./checks.ts";
import { Mismatch, expectBytes, expectEqual, expectFault, expectGpuFault, expectPlaced } from "./expect.ts";
import { EntryWatcher } from "./watcher.ts";
import { FILES, FILE_PAGES, MAX_PROCESSES, type Op, type World, isOwn } from "./programs.ts";

const WINDOW = 0x7f0000000000;

/** One process, its address space on the GPU, and what it should hold. */
interface Running {
  readonly process: Process;
  readonly vm: Vm;
  readonly flat: FlatProcess;
  readonly watcher: EntryWatcher;
}

export class ProgramRun {
  readonly machine: Machine;
  readonly #world: World;
  readonly #base: number;
  readonly #device: Device;
  readonly #running: Running[] = [];
  readonly #files: { readonly file: File; readonly flat: FlatFile }[] = [];
  readonly #pins: Pin[] = [];
  readonly #freeAtFirst: number;
  #steps = 0;

  constructor(engine: Engine, world: World) {
    this.#world = world;
    this.#base = WINDOW + world.inHuge * PAGE;
    const host = hostPlatform();
    // Whoever sleeps waits for other work, which is done in a turn of the event loop.
    const platform = { ...host, sleep: () => host.turn() };
    this.machine = new Machine({ engine, ram: world.ram, traceEvents: 64, poisonFreed: true, platform });
    this.#freeAtFirst = this.machine.phys.freePages;
    this.#device = this.machine.createDevice({
      vram: MIN_VRAM * (world.huge ? 4 : 1),
      window: world.window,
      faultQueue: 256,
    });
    for (let i = 0; i < FILES; i++) {
      const size = (FILE_PAGES - 4 * i) * PAGE - 100 * i;
      this.#files.push({ file: this.machine.createFile(size), flat: new FlatFile(size) });
    }
    this.#add(this.machine.createProcess(), FlatProcess.empty(world.pages));
  }

  /** Throws `Mismatch` or what the stack throws. */
  async run(program: readonly Op[]): Promise<void> {
    for (const [i, op] of program.entries()) {
      try {
        await this.#step(op);
        await this.machine.settle();
        this.#check();
      } catch (error) {
        throw new Mismatch(`step ${i}, ${JSON.stringify(op)}: ${String(error)}`, { cause: error });
      }
    }
    await this.#finish();
  }

  /**
   * Two processes that had one memory, each with a program of its own, interleaved by the seed at every await of the
   * stack. Throws as `run`.
   */
  async race(seed: number, programs: readonly [readonly Op[], readonly Op[]]): Promise<void> {
    const whole = { who: 0, page: 0, pages: this.#world.pages };
    const bytes = this.#world.pages * PAGE;
    await this.#step({ op: "mmap", ...whole, prot: "RW", kind: "anon", file: 0, index: 0, populate: false });
    await this.#step({ op: "write", who: 0, at: 0, length: bytes, byte: seed });
    await this.#step({ op: "toVram", ...whole, pages: Math.ceil(this.#world.pages / 2) });
    await this.#step({ op: "fork", who: 0 });
    const activity = (who: number) => async () => {
      for (const op of programs[who]!) if (isOwn(op)) await this.#step({ ...op, who });
    };
    await this.machine.sched.race(seed, [activity(0), activity(1)]);
    await this.machine.settle();
    this.#check();
    await this.#finish();
  }

  #add(process: Process, flat: FlatProcess): void {
    const watcher = new EntryWatcher(process.mm, this.#base, this.#world.pages);
    expectEqual(process.mm.intervalNotifierInsert(watcher), 0);
    this.#running.push({ process, vm: this.#device.vm(process), flat, watcher });
  }

  async #exit({ process, watcher }: Running): Promise<void> {
    await process.exit();
    const wrong = watcher.endStep();
    if (wrong !== null) throw new Mismatch(wrong);
    await process.mm.intervalNotifierRemove(watcher);
  }

  #va(page: number): number {
    return this.#base + page * PAGE;
  }

  #isHugeAligned = (page: number): boolean => (page + this.#world.inHuge) % HUGE_PAGES === 0;

  // Operations

  async #step(op: Op): Promise<void> {
    if ("file" in op && op.op !== "mmap") return this.#fileOp(op);
    const at = op.who % this.#running.length;
    const who = this.#running[at]!;
    switch (op.op) {
      case "mmap":
        return this.#mmap(who, op);
      case "munmap":
      case "mprotect":
      case "madvise":
      case "mlock":
      case "munlock":
        return this.#change(who, op);
      case "mremap":
        return this.#mremap(who, op);
      case "fork":
        if (this.#running.length >= MAX_PROCESSES) return;
        return this.#add(await who.process.fork(), who.flat.fork());
      case "spawn":
        if (this.#running.length >= MAX_PROCESSES) return;
        return this.#add(this.machine.createProcess(), FlatProcess.empty(this.#world.pages));
      case "exit":
        if (this.#running.length === 1) return;
        this.#running.splice(at, 1);
        return this.#exit(who);
      case "pin":
        return this.#pin(who, op);
      case "release":
        return this.#pins.shift()?.release();
      case "compact":
        await compact(this.machine.phys, { maxPages: 16 });
        return;
      case "exclusive":
        return this.#exclusive(who, op.page);
      case "read":
      case "write":
      case "fill":
        return this.#access(who, op);
      case "add":
        return this.#add32(who, op.at, op.by);
      case "gread":
      case "gwrite":
        return this.#gpuAccess(who, op);
      case "gadd":
        return this.#gpuAdd(who, op.at, op.by);
      case "toVram":
      case "toSys":
      case "prefetch":
        return this.#place(who, op);
    }
  }

  async #mmap({ process, flat }: Running, op: Extract<Op, { op: "mmap" }>): Promise<void> {
    const isHuge = op.kind === "huge2m";
    const pages = isHuge ? Math.ceil(op.pages / HUGE_PAGES) * HUGE_PAGES : op.pages;
    if (op.page + pages > this.#world.pages) return;
    const at = this.#va(op.page);
    const of = this.#files[op.file]!;
    const isFile = op.kind === "file-private" || op.kind === "file-shared";
    const shared = op.kind === "shanon" || op.kind === "file-shared";
    const options: MmapOptions = {
      at,
      prot: op.prot,
      populate: op.populate,
      shared,
      hugetlb: isHuge,
      ...(isFile ? { file: of.file.mem, offset: op.index * PAGE } : {}),
    };
    const isCut = this.#cuts(flat, op.page, pages) || (isHuge && !this.#isHugeAligned(op.page));
    expectEqual(await process.mm.mmap(op.pages * PAGE, options), isCut ? EINVAL : at);
    if (isCut) return;
    const file = isFile ? of.flat : shared ? new FlatFile(pages * PAGE) : null;
    const first = isFile ? op.index : 0;
    flat.set(op.page, pages, (i) => ({
      prot: op.prot,
      shared,
      file,
      index: first + i,
      huge: isHuge,
      locked: false,
      thp: "default",
      own: null,
    }));
  }

  #cuts(flat: FlatProcess, page: number, pages: number): boolean {
    return flat.cutsHuge(page, this.#isHugeAligned) || flat.cutsHuge(page + pages, this.#isHugeAligned);
  }

  async #change(
    { process: { mm }, flat }: Running,
    op: Extract<Op, { op: "munmap" | "mprotect" | "madvise" | "mlock" | "munlock" }>,
  ): Promise<void> {
    const { page, pages } = op;
    const at = this.#va(page);
    const length = pages * PAGE;
    const cut = this.#cuts(flat, page, pages) ? EINVAL : 0;
    if (op.op === "munmap") {
      expectEqual(await mm.munmap(at, length), cut);
      if (cut === 0) flat.set(page, pages, () => null);
      return;
    }
    const hole = flat.isMapped(page, pages) ? 0 : ENOMEM;
    if (op.op === "mprotect") {
      expectEqual(await mm.mprotect(at, length, op.prot), hole || cut);
      if ((hole || cut) === 0) flat.change(page, pages, { prot: op.prot });
    } else if (op.op === "mlock" || op.op === "munlock") {
      const expected = hole || (op.op === "mlock" ? flat.lockError(page, pages) : 0);
      expectEqual(await (op.op === "mlock" ? mm.mlock(at, length) : mm.munlock(at, length)), expected);
      if (expected === 0) flat.setLocked(page, pages, op.op === "mlock");
    } else {
      await this.#advise(mm.madvise(at, length, op.advice), flat, op, hole || (op.advice === "dontneed" ? cut : 0));
    }
  }

  async #advise(
    result: Promise<number> | number,
    flat: FlatProcess,
    op: Extract<Op, { op: "madvise" }>,
    refused: number,
  ): Promise<void> {
    const { page, pages, advice } = op;
    const mapped = refused === 0 ? flat.pages.slice(page, page + pages).map((p) => p!) : [];
    const expected = refused || (mapped.map((p) => adviceError(p, advice)).find((e) => e !== 0) ?? 0);
    const got = await result;
    // The populating ones may find a page that cannot be had, and collapse a 2 MiB that it cannot join.
    const mayFail = expected === 0 && (advice.startsWith("populate") || advice === "collapse");
    if (!mayFail) expectEqual(got, expected);
    if (expected !== 0) return;
    switch (advice) {
      case "dontneed":
      case "free":
        return flat.discard(page, pages);
      case "remove":
        for (const p of mapped) this.#punchFlat(p.file!, p.index * PAGE, PAGE);
        return;
      case "hugepage":
      case "nohugepage":
        return flat.change(page, pages, { thp: advice === "hugepage" ? "always" : "never" });
      default:
        return;
    }
  }

  async #mremap({ process: { mm }, flat }: Running, op: Extract<Op, { op: "mremap" }>): Promise<void> {
    const { page, pages, newPages, to, dontunmap } = op;
    const room = this.#world.pages;
    if ((to ?? page) + newPages > room) return;
    const grows = to === null && newPages > pages;
    const error = mremapError(flat, op, this.#isHugeAligned);
    const isFree = flat.pages.slice(page + pages, page + newPages).every((p) => p === null);
    const blocked =
      error === 0 && grows && (pages === 0 || flat.areaEnd(page) !== page + pages || !isFree) ? ENOMEM : 0;
    const result = await mm.mremap(this.#va(page), pages * PAGE, newPages * PAGE, {
      dontunmap,
      ...(to === null ? { mayMove: false } : { to: this.#va(to) }),
    });
    const expected = error || blocked || this.#va(to ?? page);
    expectEqual(result, expected);
    if (expected < 0) return;
    flat.remap(op);
  }

  async #pin({ process: { mm } }: Running, op: Extract<Op, { op: "pin" }>): Promise<void> {
    if (this.#pins.length >= 4) return;
    const pin = await mm.pin(this.#va(op.page), op.pages * PAGE, { write: op.write });
    if (pin instanceof Pin) this.#pins.push(pin);
  }

  async #exclusive({ process: { mm } }: Running, page: number): Promise<void> {
    const pfn = await makeDeviceExclusive(mm, this.#va(page), this);
    if (pfn < 0) return;
    mm.phys.unlockPage(pfn);
    mm.phys.putPage(pfn);
  }

  // Accesses

  async #access(
    { process: { mm }, flat }: Running,
    op: { op: "read" | "write" | "fill"; at: number; length: number; byte: number },
  ): Promise<void> {
    const { at, length, byte } = op;
    const va = this.#base + at;
    const { bytes, verdict } = flat.reach(at, length, op.op === "read" ? "read" : "write");
    if (op.op === "read") {
      const got = await mm.read(va, length);
      if (verdict === "OK") return expectBytes(got, flat.read(at, length), at);
      return expectFault(got, verdict, va + bytes);
    }
    const data = dataOf(length, byte, op.op === "fill" ? 0 : 1);
    this.#beforeStore(flat, at, bytes);
    const got = op.op === "fill" ? await mm.fill(va, length, byte) : await mm.write(va, data);
    flat.write(at, data.subarray(0, bytes));
    if (verdict === "OK") expectEqual(got, undefined);
    else expectFault(got, verdict, va + bytes);
  }

  async #add32({ process: { mm }, flat }: Running, at: number, by: number): Promise<void> {
    const { verdict } = flat.reach(at, 4, "write");
    this.#beforeStore(flat, at, verdict === "OK" ? 4 : 0);
    const got = await mm.atomicAdd32(this.#base + at, by);
    if (verdict !== "OK") return expectFault(got, verdict, this.#base + at);
    expectEqual(got, addFlat(flat, at, by));
  }

  /** As far as the access is permitted: where a bulk access of the GPU stops, and what it has done, is not ordered. */
  async #gpuAccess(
    { vm, flat }: Running,
    op: { op: "gread" | "gwrite"; at: number; length: number; byte: number },
  ): Promise<void> {
    const { at, length, byte } = op;
    const kind = op.op === "gread" ? "read" : "write";
    const { bytes, verdict } = flat.reach(at, length, kind);
    const va = this.#base + at;
    if (!this.#canMakeRange(flat, at, bytes)) return;
    if (bytes === 0) {
      const word = va - (va % 4);
      await expectGpuFault(op.op === "gread" ? vm.gld(word) : vm.gst(word, byte), verdict);
    } else if (op.op === "gread") {
      expectBytes(await vm.gread(va, bytes), flat.read(at, bytes), at);
    } else {
      const data = dataOf(bytes, byte, 1);
      this.#beforeStore(flat, at, bytes);
      await vm.gwrite(va, data);
      flat.write(at, data);
    }
  }

  /** A range of 2 MiB is made resident as a whole, which it cannot be where its file ends. */
  #canMakeRange(flat: FlatProcess, at: number, length: number): boolean {
    const { pages, inHuge } = this.#world;
    const first = Math.floor((Math.floor(at / PAGE) + inHuge) / HUGE_PAGES) * HUGE_PAGES - inHuge;
    for (let chunk = first; chunk * PAGE < at + length; chunk += HUGE_PAGES) {
      if (chunk < 0 || chunk + HUGE_PAGES > pages || flat.pages[chunk] === null) continue;
      if (flat.areaEnd(chunk) < chunk + HUGE_PAGES) continue;
      for (let i = chunk; i < chunk + HUGE_PAGES; i++) if (flat.verdict(i, "read") === "BUS") return false;
    }
    return true;
  }

  async #gpuAdd({ vm, flat }: Running, at: number, by: number): Promise<void> {
    if (!this.#canMakeRange(flat, at, 4)) return;
    const { verdict } = flat.reach(at, 4, "write");
    if (verdict !== "OK") return expectGpuFault(vm.ginc(this.#base + at, by), verdict);
    this.#beforeStore(flat, at, 4);
    expectEqual(await vm.ginc(this.#base + at, by), addFlat(flat, at, by));
  }

  /** Where pages go is the driver's affair; what they hold is not. */
  async #place({ vm }: Running, op: Extract<Op, { op: "toVram" | "toSys" | "prefetch" }>): Promise<void> {
    const at = this.#va(op.page);
    const length = op.pages * PAGE;
    if (op.op === "prefetch") await expectPlaced(vm.prefetch(at, length, "DEV"));
    else await expectPlaced(op.op === "toVram" ? vm.toVram(at, length) : vm.toSys(at, length));
  }

  // Files

  async #fileOp(op: Extract<Op, { op: "truncate" | "punch" | "fwrite" | "fread" }>): Promise<void> {
    const { file, flat } = this.#files[op.file]!;
    switch (op.op) {
      case "truncate":
        this.#snapshotCopies(flat, 0, Infinity);
        await file.truncate(op.size);
        flat.truncate(op.size);
        for (const { flat: process } of this.#running) {
          for (const p of process.pages) if (p?.file === flat && p.index * PAGE >= op.size) p.own = null;
        }
        return;
      case "punch":
        this.#snapshotCopies(flat, op.at, op.length);
        await file.punchHole(op.at, op.length);
        return this.#punchFlat(flat, op.at, op.length);
      case "fwrite": {
        this.#snapshotCopies(flat, op.at, op.length);
        const data = dataOf(op.length, op.byte, 1);
        await file.write(op.at, data);
        return flat.write(op.at, data);
      }
      case "fread": {
        const end = Math.max(op.at, Math.min(op.at + op.length, flat.size));
        return expectBytes(await file.read(op.at, op.length), flat.bytes.subarray(op.at, end), op.at);
      }
    }
  }

  #punchFlat(file: FlatFile, at: number, length: number): void {
    this.#snapshotCopies(file, at, length);
    file.bytes.fill(0, at, Math.min(at + length, file.bytes.length));
  }

  /** Private pages that a store through a shared mapping leaves behind. */
  #beforeStore(flat: FlatProcess, at: number, length: number): void {
    if (length === 0) return;
    for (let i = Math.floor(at / PAGE); i * PAGE < at + length; i++) {
      const p = flat.pages[i]!;
      if (p.shared) this.#snapshotCopies(p.file!, p.index * PAGE, PAGE);
    }
  }

  /**
   * The bytes `[at, at + length)` of a file are about to change. Whether a private page that nobody stored to sees that is
   * up to the system: it does not if it has been copied already, as when a device or `populate` faulted it for writing.
   */
  #snapshotCopies(file: FlatFile, at: number, length: number): void {
    const first = Math.floor(at / PAGE);
    const last = Math.ceil((at + length) / PAGE);
    for (const { process, flat } of this.#running) {
      for (const [i, p] of flat.pages.entries()) {
        if (p === null || p.file !== file || p.shared || p.own !== null || p.index < first || p.index >= last) continue;
        const word = process.mm.tables.read(this.#va(i) / PAGE);
        const kind = word & PTE_KIND;
        if (kind === PTE_NONE) continue;
        const isFilePage = kind === PTE_PRESENT && (process.mm.phys.frames.flags[ptePfn(word)]! & PG_FILE) !== 0;
        if (!isFilePage) p.own = file.page(p.index).slice();
      }
    }
  }

  // Checks

  #check(): void {
    this.#steps += 1;
    // Every byte now and then; between, another sample each time.
    const isWhole = this.#steps % (this.#world.huge ? 50 : 8) === 0;
    checkQuiescent(this.machine.phys);
    for (const { process, flat, watcher } of this.#running) {
      const wrong = watcher.endStep();
      if (wrong !== null) throw new Mismatch(wrong);
      checkAreas(process, flat, this.#base);
      checkPages(process, flat, this.#base, isWhole ? "all" : this.#steps);
    }
  }

  async #finish(): Promise<void> {
    for (const { process, vm, flat } of this.#running) {
      for (const [page, end] of flat.areas()) {
        const { bytes } = flat.reach(page * PAGE, (end - page) * PAGE, "read");
        if (bytes === 0) continue;
        const wanted = flat.read(page * PAGE, bytes);
        if (this.#canMakeRange(flat, page * PAGE, bytes)) {
          expectBytes(await vm.gread(this.#va(page), bytes), wanted, page * PAGE);
        }
        expectBytes(await process.mm.read(this.#va(page), bytes), wanted, page * PAGE);
      }
    }
    for (const { file, flat } of this.#files)
      expectBytes(await file.read(0, flat.size), flat.bytes.subarray(0, flat.size), 0);
    for (const pin of this.#pins.splice(0)) pin.release();
    for (const running of this.#running) await this.#exit(running);
    await this.machine.settle();
    for (const { file } of this.#files) file.mem.close();
    checkQuiescent(this.machine.phys);
    expectEqual(this.#device.driver.vramUsed, 0);
    expectEqual(this.machine.phys.freePages, this.#freeAtFirst);
    expectEqual(this.machine.phys.swap.used, 0);
    await this.machine.close();
  }
}
