import { PAGE_SIZE, SZ_2M, alignDown, alignUp, hex, hexRange } from "../base/addr.ts";
import { errnoName, isErr } from "../base/errno.ts";
import { KernelError } from "../base/errors.ts";
import { AccessFault } from "../mm/access.ts";
import type { Advice } from "../mm/madvise.ts";
import { Mm } from "../mm/mm.ts";
import type { MmapOptions as MmMmapOptions } from "../mm/mmap.ts";
import type { Pin } from "../mm/pin.ts";
import type { Vma } from "../mm/vma.ts";
import { File } from "./file.ts";
import type { Machine } from "./machine.ts";
import type { Vm } from "./vm.ts";

export type Prot = "NONE" | "R" | "RW";

/** Private anonymous memory, shared anonymous memory, whole 2 MiB pages, or a file from byte `off` on. */
export type Kind = "anon" | "shanon" | "huge2m" | { file: File; shared?: boolean; off?: number };

export interface MmapOptions {
  /** Fixed address; replaces what is mapped there. */
  at?: number;
  /** Power of two, at least a page. */
  align?: number;
  prot?: Prot;
  /** Default `"anon"`. */
  kind?: Kind;
  /** Transparent 2 MiB pages: wanted, or not wanted. Without it the machine's policy holds. */
  thp?: boolean;
  /** Make the pages present now. */
  populate?: boolean;
  /** And keep them in RAM or VRAM. */
  lock?: boolean;
}

/**
 * An emulated process: an address space and its CPU. Accesses to resident memory do not wait; an access that fails
 * rejects with `KernelError` code `"SEGV"`, `"BUS"` or `"ENOMEM"`; a system call that fails carries its errno name.
 */
export class Process {
  readonly machine: Machine;
  readonly pid: number;
  #mm: Mm;
  readonly #vms = new Set<Vm>();
  #exited = false;

  /** `mm`: that of a forked child; a new one without it. */
  constructor(machine: Machine, pid: number, mm = new Mm({ phys: machine.phys, trace: machine.trace })) {
    this.machine = machine;
    this.pid = pid;
    this.#mm = mm;
  }

  /** The address space; another one after `exec`. */
  get mm(): Mm {
    return this.#mm;
  }

  /** Maps memory of `len` bytes, rounded up to pages; the address. */
  async mmap(len: number, o: MmapOptions = {}): Promise<number> {
    const options = mmOptions(o);
    await this.#enter();
    const address = await this.mm.mmap(len, options);
    if (isErr(address))
      throw KernelError.fromErrno(address, `mmap of ${len} bytes${o.at === undefined ? "" : ` at ${hex(o.at)}`}`);
    const bytes = alignUp(len, PAGE_SIZE);
    if (o.thp !== undefined) {
      this.#check(await this.mm.madvise(address, bytes, o.thp ? "hugepage" : "nohugepage"), "mmap", address, bytes);
    }
    if (o.lock === true) this.#check(await this.mm.mlock(address, bytes), "mmap with a lock", address, bytes);
    return address;
  }

  async munmap(a: number, l: number): Promise<void> {
    await this.#enter();
    this.#check(await this.mm.munmap(checked(a, l, "munmap"), l), "munmap", a, l);
  }
  async mprotect(a: number, l: number, prot: Prot): Promise<void> {
    if (prot !== "NONE" && prot !== "R" && prot !== "RW") {
      throw new KernelError("EINVAL", `mprotect: "NONE", "R" or "RW" is wanted, not ${String(prot)}`);
    }
    await this.#enter();
    this.#check(await this.mm.mprotect(checked(a, l, "mprotect"), l, prot), "mprotect", a, l);
  }
  /** Moves `[a, a + l)` to the fixed address `to`, or anywhere; with `dontunmap` the old place stays, empty. The new address. */
  async mremap(a: number, l: number, to: number | null, o: { dontunmap?: boolean } = {}): Promise<number> {
    await this.#enter();
    const dontunmap = o.dontunmap === true;
    checked(a, l, "mremap");
    const target = to ?? this.#freePlace(a, l);
    const address = await this.mm.mremap(a, l, l, { dontunmap, to: target });
    if (isErr(address)) throw KernelError.fromErrno(address, `mremap of ${hexRange(a, a + l)}`, a);
    return address;
  }
  async madvise(a: number, l: number, advice: Advice): Promise<void> {
    await this.#enter();
    this.#check(await this.mm.madvise(checked(a, l, "madvise"), l, advice), `madvise ${advice}`, a, l);
  }
  async dontneed(a: number, l: number): Promise<void> {
    await this.#enter();
    this.#check(await this.mm.madvise(checked(a, l, "dontneed"), l, "dontneed"), "dontneed", a, l);
  }
  /** Makes the pages present and keeps them from being swapped out. */
  async mlock(a: number, l: number): Promise<void> {
    await this.#enter();
    this.#check(await this.mm.mlock(checked(a, l, "mlock"), l), "mlock", a, l);
  }
  async munlock(a: number, l: number): Promise<void> {
    await this.#enter();
    this.#check(await this.mm.munlock(checked(a, l, "munlock"), l), "munlock", a, l);
  }
  /** Holds the pages of `[a, a + l)` in RAM, as I/O does, until the pin is released. */
  async pin(a: number, l: number, o: { write?: boolean } = {}): Promise<Pin> {
    await this.#enter();
    const pin = await this.mm.pin(checked(a, l, "pin"), l, { write: o.write === true });
    if (isErr(pin)) throw KernelError.fromErrno(pin, `pin of ${hexRange(a, a + l)}`, a);
    return pin;
  }

  /** The 32-bit word at `a`. */
  async ld(a: number): Promise<number> {
    await this.#enter();
    const value = await this.mm.load32(checked(a, 4, "ld"));
    if (value instanceof AccessFault) throw accessError(value, "load");
    return value;
  }
  /** Stores `v` modulo 2^32. */
  async st(a: number, v: number): Promise<void> {
    await this.#enter();
    this.#done(await this.mm.store32(checked(a, 4, "st"), v), "store");
  }
  /** Atomic add; the old value. */
  async inc(a: number, by = 1): Promise<number> {
    await this.#enter();
    const old = await this.mm.atomicAdd32(checked(a, 4, "inc"), by);
    if (old instanceof AccessFault) throw accessError(old, "atomic add");
    return old;
  }
  async fill(a: number, l: number, byte: number): Promise<void> {
    await this.#enter();
    this.#done(await this.mm.fill(checked(a, l, "fill"), l, byte & 255), "fill");
  }
  /** Stores the bytes of `data` at `a`. */
  async write(a: number, data: ArrayBufferView): Promise<void> {
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    await this.#enter();
    this.#done(await this.mm.write(checked(a, bytes.length, "write"), bytes), "write");
  }
  /** A copy of `l` bytes from `a`. */
  async read(a: number, l: number): Promise<Uint8Array> {
    await this.#enter();
    const bytes = await this.mm.read(checked(a, l, "read"), l);
    if (bytes instanceof AccessFault) throw accessError(bytes, "read");
    return bytes;
  }

  /** A child with a copy of the memory: private memory is copied when either stores to it, shared memory is common. */
  async fork(): Promise<Process> {
    await this.#enter();
    const mm = await this.mm.fork();
    if (isErr(mm)) throw KernelError.fromErrno(mm, `fork of process ${this.pid}`);
    return this.machine.adoptProcess(mm);
  }

  /** Goes on as another program: its memory ends as by `exit`, with what mirrors it, and an empty one begins. */
  async exec(): Promise<void> {
    this.#checkAlive();
    await this.#enter();
    for (const vm of [...this.#vms]) await vm.close();
    const old = this.#mm;
    this.#mm = new Mm({ phys: this.machine.phys, trace: this.machine.trace });
    await old.exec();
  }

  /** Unmaps everything and closes the address spaces that mirror it. */
  async exit(_code = 0): Promise<void> {
    this.#checkAlive();
    await this.#enter();
    this.#exited = true;
    for (const vm of [...this.#vms]) await vm.close();
    await this.mm.exit();
  }

  #checkAlive(): void {
    if (this.#exited) throw new KernelError("EINVAL", `process ${this.pid} has exited already`);
  }

  /** The areas that intersect `[lo, hi)`, ascending. A probe. */
  vmas(lo: number, hi: number): { start: number; end: number; prot: Prot; kind: Kind }[] {
    const areas = [];
    for (const vma of this.mm.vmas.within(lo, hi)) {
      areas.push({ start: vma.start, end: vma.end, prot: vma.prot, kind: this.#kindOf(vma) });
    }
    return areas;
  }

  #kindOf(vma: Vma): Kind {
    if (vma.hugetlb) return "huge2m";
    if (vma.file === null) return "anon";
    const file = this.machine.fileOf(vma.file);
    return file === null ? "shanon" : { file, shared: vma.shared, off: vma.offset };
  }

  /** An address for `l` bytes with the same place in 2 MiB as `a`, so that huge pages move whole. */
  #freePlace(a: number, l: number): number {
    const inHuge = a - alignDown(a, SZ_2M);
    const gap = this.mm.vmas.findGap(inHuge + alignUp(l, PAGE_SIZE), SZ_2M);
    if (gap < 0) throw new KernelError("ENOMEM", `no room for ${l} bytes`);
    return gap + inHuge;
  }

  /** The frame mapped at `a`, or -1. A page under migration counts with the frame it leaves. A probe. */
  pfnAt(a: number): number {
    const page = this.mm.pageAt(a);
    return page.kind === "none" ? -1 : page.pfn;
  }

  attach(vm: Vm): void {
    this.#vms.add(vm);
  }
  detach(vm: Vm): void {
    this.#vms.delete(vm);
  }

  #enter(): Promise<void> | undefined {
    return this.machine.sched.point("verb");
  }

  #check(result: number, call: string, a: number, l: number): void {
    if (isErr(result))
      throw KernelError.fromErrno(result, `${call} of ${hexRange(a, a + l)} (${errnoName(result)})`, a);
  }

  #done(fault: AccessFault | undefined, what: string): void {
    if (fault !== undefined) throw accessError(fault, what);
  }
}

function mmOptions(o: MmapOptions): MmMmapOptions {
  const { kind = "anon", thp: _, lock: __, ...options } = o;
  if (kind === "anon") return options;
  if (kind === "shanon") return { ...options, shared: true };
  if (kind === "huge2m") return { ...options, hugetlb: true };
  if (!(kind.file instanceof File)) {
    throw new KernelError(
      "EINVAL",
      `mmap: "anon", "shanon", "huge2m" or { file } is wanted, not ${JSON.stringify(kind)}`,
    );
  }
  return { ...options, file: kind.file.mem, offset: kind.off ?? 0, shared: kind.shared === true };
}

function checked(a: number, l: number, verb: string): number {
  if (!Number.isSafeInteger(a) || a < 0 || !Number.isSafeInteger(a + l)) {
    throw new KernelError("EINVAL", `${verb}: ${String(a)} is no address`);
  }
  if (!Number.isSafeInteger(l) || l <= 0)
    throw new KernelError("EINVAL", `${verb}: a length above 0 is wanted, not ${String(l)}`);
  return a;
}

function accessError(fault: AccessFault, what: string): KernelError {
  const why =
    fault.code === "SEGV"
      ? "nothing is mapped there, or not so"
      : fault.code === "BUS"
        ? "the page cannot be had"
        : "out of RAM";
  return new KernelError(fault.code, `${what} at ${hex(fault.addr)}: ${why}`, { addr: fault.addr });
}
