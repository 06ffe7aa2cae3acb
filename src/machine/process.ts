import { hex, hexRange } from "../base/addr.ts";
import { errnoName, isErr } from "../base/errno.ts";
import { KernelError } from "../base/errors.ts";
import { AccessFault } from "../mm/access.ts";
import { Mm } from "../mm/mm.ts";
import type { Machine } from "./machine.ts";
import type { Vm } from "./vm.ts";

export type Prot = "NONE" | "R" | "RW";

export interface MmapOptions {
  /** Fixed address; replaces what is mapped there. */
  at?: number;
  /** Power of two, at least a page. */
  align?: number;
  prot?: Prot;
  kind?: "anon";
  populate?: boolean;
}

/**
 * An emulated process: an address space and its CPU. Accesses to resident memory do not wait; an access that fails
 * rejects with `KernelError` code `"SEGV"`, `"BUS"` or `"ENOMEM"`; a system call that fails carries its errno name.
 */
export class Process {
  readonly machine: Machine;
  readonly pid: number;
  readonly mm: Mm;
  readonly #vms = new Set<Vm>();
  #exited = false;

  constructor(machine: Machine, pid: number) {
    this.machine = machine;
    this.pid = pid;
    this.mm = new Mm({ phys: machine.phys, trace: machine.trace });
  }

  /** Maps private anonymous memory of `len` bytes, rounded up to pages; the address. */
  async mmap(len: number, o: MmapOptions = {}): Promise<number> {
    if (o.kind !== undefined && o.kind !== "anon") {
      throw new KernelError(
        "EOPNOTSUPP",
        `mmap: kind ${JSON.stringify(o.kind)} is not available in this version; "anon" is`,
      );
    }
    await this.#enter();
    const { kind: _, ...options } = o;
    const address = await this.mm.mmap(len, options);
    if (isErr(address))
      throw KernelError.fromErrno(address, `mmap of ${len} bytes${o.at === undefined ? "" : ` at ${hex(o.at)}`}`);
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
  async dontneed(a: number, l: number): Promise<void> {
    await this.#enter();
    this.#check(await this.mm.dontneed(checked(a, l, "dontneed"), l), "dontneed", a, l);
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

  /** Unmaps everything and closes the address spaces that mirror it. */
  async exit(_code = 0): Promise<void> {
    if (this.#exited) throw new KernelError("EINVAL", `process ${this.pid} has exited already`);
    await this.#enter();
    this.#exited = true;
    for (const vm of [...this.#vms]) await vm.close();
    await this.mm.exit();
  }

  /** The areas that intersect `[lo, hi)`, ascending. A probe. */
  vmas(lo: number, hi: number): { start: number; end: number; prot: Prot; kind: "anon" }[] {
    const areas = [];
    for (const vma of this.mm.vmas.within(lo, hi)) {
      areas.push({ start: vma.start, end: vma.end, prot: vma.prot, kind: "anon" as const });
    }
    return areas;
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
