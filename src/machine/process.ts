import { PAGE_SIZE, SZ_2M, alignDown, alignUp, hex, hexRange } from "../base/addr.ts";
import { errnoName, isErr } from "../base/errno.ts";
import { KernelError } from "../base/errors.ts";
import { BoMap } from "../driver/bo-map.ts";
import { AccessFault } from "../mm/access.ts";
import type { Advice } from "../mm/madvise.ts";
import { Mm } from "../mm/mm.ts";
import type { MmapOptions as MmMmapOptions } from "../mm/mmap.ts";
import type { Pin } from "../mm/pin.ts";
import type { Vma } from "../mm/vma.ts";
import { type Num, bytesOf, checkedAddress, checkedAlign, checkedLength, toWord } from "./args.ts";
import { type NumberArray, type NumberArrayType, SvmArray } from "./array.ts";
import { Bo } from "./bo.ts";
import { File } from "./file.ts";
import type { Machine } from "./machine.ts";
import type { Vm } from "./vm.ts";

export type Prot = "NONE" | "R" | "RW";

/** Private anonymous memory, shared anonymous memory, whole 2 MiB pages, a file from byte `off` on, or a buffer object. */
export type Kind = "anon" | "shanon" | "huge2m" | { file: File; shared?: boolean; off?: Num } | Bo;

export interface MmapOptions {
  /** Fixed address; replaces what is mapped there. */
  at?: Num;
  /** Power of two, at least a page. */
  align?: Num;
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
  async mmap(len: Num, o: MmapOptions = {}): Promise<number> {
    const length = checkedLength(0, len, "mmap");
    const options = mmOptions(o, length);
    await this.#enter();
    const address = await this.mm.mmap(length, options);
    if (isErr(address)) {
      const where = options.at === undefined ? "" : ` at ${hex(options.at)}`;
      throw KernelError.fromErrno(address, `mmap of ${length} bytes${where}`, options.at);
    }
    const bytes = alignUp(length, PAGE_SIZE);
    if (o.thp !== undefined) {
      this.#check(await this.mm.madvise(address, bytes, o.thp ? "hugepage" : "nohugepage"), "mmap", address, bytes);
    }
    if (o.lock === true) this.#check(await this.mm.mlock(address, bytes), "mmap with a lock", address, bytes);
    return address;
  }

  /** An array of `length` zeros: `alloc(Float32Array, 1 << 20)`. Errors as `mmap`. */
  alloc<T extends NumberArray>(type: NumberArrayType<T>, length: number): Promise<SvmArray<T>> {
    return SvmArray.create(this, type, length);
  }

  async munmap(a: Num, l: Num): Promise<void> {
    const [start, bytes] = checkedArea(a, l, "munmap");
    await this.#enter();
    this.#check(await this.mm.munmap(start, bytes), "munmap", start, bytes);
  }
  async mprotect(a: Num, l: Num, prot: Prot): Promise<void> {
    checkProt(prot, "mprotect");
    const [start, bytes] = checkedArea(a, l, "mprotect");
    await this.#enter();
    this.#check(await this.mm.mprotect(start, bytes, prot), "mprotect", start, bytes);
  }
  /** Moves `[a, a + l)` to the fixed address `to`, or anywhere; with `dontunmap` the old place stays, empty. The new address. */
  async mremap(a: Num, l: Num, to: Num | null, o: { dontunmap?: boolean } = {}): Promise<number> {
    const dontunmap = o.dontunmap === true;
    const [start, bytes] = checkedArea(a, l, "mremap");
    const fixed = to === null ? null : checkedAddress(to, "mremap");
    await this.#enter();
    const target = fixed ?? this.#freePlace(start, bytes);
    const address = await this.mm.mremap(start, bytes, bytes, { dontunmap, to: target });
    if (isErr(address)) throw KernelError.fromErrno(address, `mremap of ${hexRange(start, start + bytes)}`, start);
    return address;
  }
  async madvise(a: Num, l: Num, advice: Advice): Promise<void> {
    const [start, bytes] = checkedArea(a, l, "madvise");
    await this.#enter();
    this.#check(await this.mm.madvise(start, bytes, advice), `madvise ${advice}`, start, bytes);
  }
  async dontneed(a: Num, l: Num): Promise<void> {
    const [start, bytes] = checkedArea(a, l, "dontneed");
    await this.#enter();
    this.#check(await this.mm.madvise(start, bytes, "dontneed"), "dontneed", start, bytes);
  }
  /** Makes the pages present and keeps them from being swapped out. */
  async mlock(a: Num, l: Num): Promise<void> {
    const [start, bytes] = checkedArea(a, l, "mlock");
    await this.#enter();
    this.#check(await this.mm.mlock(start, bytes), "mlock", start, bytes);
  }
  async munlock(a: Num, l: Num): Promise<void> {
    const [start, bytes] = checkedArea(a, l, "munlock");
    await this.#enter();
    this.#check(await this.mm.munlock(start, bytes), "munlock", start, bytes);
  }
  /** Holds the pages of `[a, a + l)` in RAM, as I/O does, until the pin is released. */
  async pin(a: Num, l: Num, o: { write?: boolean } = {}): Promise<Pin> {
    const [start, bytes] = checkedArea(a, l, "pin");
    await this.#enter();
    const pin = await this.mm.pin(start, bytes, { write: o.write === true });
    if (isErr(pin)) throw KernelError.fromErrno(pin, `pin of ${hexRange(start, start + bytes)}`, start);
    return pin;
  }

  /** The 32-bit word at `a`. */
  async ld(a: Num): Promise<number> {
    const [at] = checkedArea(a, 4, "ld");
    await this.#enter();
    const value = await this.mm.load32(at);
    if (value instanceof AccessFault) throw accessError(value, "load");
    return value;
  }
  /** Stores `v` modulo 2^32. */
  async st(a: Num, v: Num): Promise<void> {
    const [at] = checkedArea(a, 4, "st");
    const word = toWord(v, "st");
    await this.#enter();
    this.#done(await this.mm.store32(at, word), "store");
  }
  /** Atomic add; the old value. */
  async inc(a: Num, by: Num = 1): Promise<number> {
    const [at] = checkedArea(a, 4, "inc");
    const word = toWord(by, "inc");
    await this.#enter();
    const old = await this.mm.atomicAdd32(at, word);
    if (old instanceof AccessFault) throw accessError(old, "atomic add");
    return old;
  }
  async fill(a: Num, l: Num, byte: Num): Promise<void> {
    const [start, bytes] = checkedArea(a, l, "fill");
    const value = toWord(byte, "fill") & 255;
    await this.#enter();
    this.#done(await this.mm.fill(start, bytes, value), "fill");
  }
  /** Stores the bytes of `data` at `a`. */
  async write(a: Num, data: ArrayBufferView): Promise<void> {
    const bytes = bytesOf(data, "write");
    const [start] = checkedArea(a, bytes.length, "write");
    await this.#enter();
    this.#done(await this.mm.write(start, bytes), "write");
  }
  /** A copy of `l` bytes from `a`. */
  async read(a: Num, l: Num): Promise<Uint8Array> {
    const [start, length] = checkedArea(a, l, "read");
    await this.#enter();
    const bytes = await this.mm.read(start, length);
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
    if (vma.device instanceof BoMap) return this.machine.boOf(vma.device.bo);
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

function mmOptions(o: MmapOptions, length: number): MmMmapOptions {
  const { kind = "anon", prot = "RW", populate = false } = o;
  checkProt(prot, "mmap");
  const at = o.at === undefined ? {} : { at: checkedAddress(o.at, "mmap") };
  const align = o.align === undefined ? {} : { align: checkedAlign(o.align, "mmap") };
  const options: MmMmapOptions = { prot, populate, ...at, ...align };
  if (kind === "anon") return options;
  if (kind === "shanon") return { ...options, shared: true };
  if (kind === "huge2m") return { ...options, hugetlb: true };
  if (kind instanceof Bo) return { ...options, device: kind.mapFor(length), shared: true };
  if (typeof kind !== "object" || kind === null || !(kind.file instanceof File)) {
    throw new KernelError("EINVAL", 'mmap: "anon", "shanon", "huge2m", { file } or a buffer object is wanted');
  }
  return {
    ...options,
    file: kind.file.mem,
    offset: checkedAddress(kind.off ?? 0, "mmap"),
    shared: kind.shared === true,
  };
}

/** Start and length, bytes. */
function checkedArea(a: Num, l: Num, verb: string): [start: number, bytes: number] {
  const start = checkedAddress(a, verb);
  return [start, checkedLength(start, l, verb)];
}

function checkProt(prot: Prot, verb: string): void {
  if (prot !== "NONE" && prot !== "R" && prot !== "RW") {
    throw new KernelError("EINVAL", `${verb}: "NONE", "R" or "RW" is wanted, not ${String(prot)}`);
  }
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
