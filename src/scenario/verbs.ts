import { PAGE_SIZE, alignDown } from "../base/addr.ts";
import { InvariantError } from "../base/assert.ts";
import { KernelError } from "../base/errors.ts";
import type { Fault } from "../base/errors.ts";
import { Random } from "../base/random.ts";
import { addCounters, subtractCounters, zeroCounters } from "../driver/counters.ts";
import type { SvmCounters } from "../driver/counters.ts";
import { type Num, checkedAddress, checkedLength, toNumber } from "../machine/args.ts";
import { NULL, UserPtr, type Va, vasOf } from "../machine/bind.ts";
import { Bo, type BoOptions } from "../machine/bo.ts";
import type { Device } from "../machine/device.ts";
import type { File } from "../machine/file.ts";
import type { Machine, VmConfig } from "../machine/machine.ts";
import { leavesOf, snapPages } from "../machine/page-probes.ts";
import type { PageSnapshot } from "../machine/page-probes.ts";
import type { Kind, Process, Prot } from "../machine/process.ts";
import type { Vm } from "../machine/vm.ts";
import { FailPoints } from "./fail-points.ts";
import type { Failure } from "./fail-points.ts";
import { Buddy, Tree } from "./structures.ts";

/** One check of a scenario: `must` fails the scenario, `cfg` is counted separately. */
export interface Check {
  readonly kind: "must" | "cfg" | "note";
  readonly ok: boolean;
  readonly text: string;
}

export type Place = "SYS" | "NONE" | Device;

/** What a verb failed with: `KernelError`, or another error that carries an errno name. */
export type VerbError = Error & { readonly code: string; readonly addr?: number; readonly fault?: Fault };

export interface ScenarioConfig extends VmConfig {
  /** Bytes of VRAM for data per device. */
  vram: number;
  p2p: boolean;
  seed: number;
}

/** Behind every address that probes know. */
const VA_END = 2 ** 53 - PAGE_SIZE;

/**
 * The machine `s` that carries the verbs with no other subject; processes, devices and address spaces carry theirs.
 * Everything that may block or fault returns a promise; probes are synchronous and change nothing.
 */
export class Scenario {
  readonly machine: Machine;
  readonly seed: number;
  readonly config: Readonly<ScenarioConfig>;
  readonly checks: Check[] = [];
  /** What `bind` takes for memory that reads 0 and forgets what is written. */
  readonly NULL: typeof NULL = NULL;
  readonly #onCheck: (check: Check) => void;
  readonly #random: Random;
  readonly #marks = new Map<SvmCounters, SvmCounters>();
  readonly #failPoints: FailPoints;

  constructor(machine: Machine, config: ScenarioConfig, onCheck: (check: Check) => void) {
    this.machine = machine;
    this.config = config;
    this.seed = config.seed;
    this.#onCheck = onCheck;
    this.#random = new Random(config.seed);
    this.#failPoints = new FailPoints(machine.phys);
  }

  /** A new process. */
  proc(): Process {
    return this.machine.createProcess();
  }

  /** A new device with `vram` bytes of room for data. `p2p`: it and others with it reach each other's memory in place; `tiles`: so much on each of them. */
  device(o: { vram?: number; p2p?: boolean; tiles?: number } = {}): Device {
    const { vram = this.config.vram, p2p = this.config.p2p, tiles = 1 } = o;
    return this.machine.createDevice({ vram, p2p, tiles });
  }

  /** A random 32-bit word from the scenario's seed. */
  random(): number {
    return this.#random.u32();
  }

  /** A file in RAM: `init` is a length, of zeros, or the content. */
  file(init: number | Uint8Array): File {
    return this.machine.createFile(init);
  }

  /** A buffer object of `d`, full of zeros; rejects with EINVAL or ENOSPC. */
  bo(d: Device, len: Num, where: "VRAM" | "SYS", o: BoOptions = {}): Promise<Bo> {
    return Bo.create(d, len, where, o);
  }

  /** Memory of `p` from `a` on, a page's address, for `bind`. Throws KernelError EINVAL. */
  userptr(p: Process, a: Num): UserPtr {
    return new UserPtr(p, a);
  }

  /** The `n`-th next call at `site` fails once; with `size`, only calls for that many bytes count. */
  fail(site: string, n = 1, o: { size?: Num } = {}): Failure {
    return this.#failPoints.arm(site, n, o.size === undefined ? null : toNumber(o.size));
  }
  /** The names that `fail` accepts. */
  failSites(): string[] {
    return this.#failPoints.sites();
  }

  /** Resolves when no deferred work is left: collector, frees. */
  settle(): Promise<void> {
    return this.machine.settle();
  }

  async yield(): Promise<void> {
    await this.machine.sched.point("yield");
  }

  /** Scheduler steps since the start. */
  steps(): number {
    return this.machine.sched.steps;
  }

  /** Runs the activities interleaved at every yield point in an order drawn from `seed`; their results in order. */
  async race(seed: Num, ...activities: (() => Promise<unknown>)[]): Promise<unknown[]> {
    const { sched } = this.machine;
    const isGood = Number.isSafeInteger(toNumber(seed)) && activities.every((f) => typeof f === "function");
    if (!isGood || sched.racing)
      throw new KernelError("EINVAL", "race: a seed, activities, and no race around it are wanted");
    try {
      return await sched.race(toNumber(seed), activities);
    } catch (error) {
      this.note(`race failed with seed ${seed}`);
      throw error;
    }
  }

  /** `f` runs at every yield point until the function returned is called. It may use probes only. */
  watch(f: () => void | Promise<void>): () => void {
    return this.machine.sched.watch(f);
  }

  /** Records a check that must hold in any correct implementation. */
  must(condition: unknown, text: string): boolean {
    return this.#check("must", condition === true || (condition !== false && Boolean(condition)), text);
  }
  /** Records a check that holds for the stated configuration. */
  cfg(condition: unknown, text: string): boolean {
    return this.#check("cfg", Boolean(condition), text);
  }
  /** A printed line, no check. */
  note(text: string): void {
    this.#check("note", true, text);
  }

  /** Records one must: `x` fails, with `code` where given. The error, or null if it did not fail so. */
  async fails(
    x: Promise<unknown> | (() => unknown),
    code?: string | readonly string[],
    text?: string,
  ): Promise<VerbError | null> {
    const wanted = code === undefined ? null : typeof code === "string" ? [code] : code;
    const what = text ?? `fails${wanted === null ? "" : ` with ${wanted.join(" or ")}`}`;
    try {
      await (typeof x === "function" ? x() : x);
    } catch (error) {
      if (error instanceof InvariantError || !(error instanceof Error)) throw error;
      if (isVerbError(error) && (wanted === null || wanted.includes(error.code))) {
        this.must(true, what);
        return error;
      }
      this.must(false, `${what}, not with ${error.message}`);
      return null;
    }
    this.must(false, `${what}, but it succeeded`);
    return null;
  }

  /** Begins a bracket of counters; `delta` gives the change since. */
  mark(): void {
    this.#marks.clear();
    for (const counters of this.#counted()) this.#marks.set(counters, { ...counters });
  }

  /** Change of `m`'s counters since the last mark; without `m` the sum over all address spaces, closed ones too. */
  delta(m?: Vm): SvmCounters {
    const sum = zeroCounters();
    for (const counters of m === undefined ? this.#counted() : [m.counters]) {
      addCounters(sum, subtractCounters(counters, this.#marks.get(counters) ?? zeroCounters()));
    }
    return sum;
  }

  /** `n` times the page size. */
  pages(n: Num): number {
    return toNumber(n) * PAGE_SIZE;
  }

  /** True when both hold the same bytes. */
  same(a: ArrayBufferView, b: ArrayBufferView): boolean {
    if (a.byteLength !== b.byteLength) return false;
    // Word by word where both begin at one: this is most of what a scenario of many megabytes does.
    const words = a.byteOffset % 4 === 0 && b.byteOffset % 4 === 0 ? Math.floor(a.byteLength / 4) : 0;
    if (!isSame(new Uint32Array(a.buffer, a.byteOffset, words), new Uint32Array(b.buffer, b.byteOffset, words)))
      return false;
    const rest = a.byteLength - 4 * words;
    const [atA, atB] = [a.byteOffset + 4 * words, b.byteOffset + 4 * words];
    return isSame(new Uint8Array(a.buffer, atA, rest), new Uint8Array(b.buffer, atB, rest));
  }

  /** Where the page at `a` lies; with `l`, one answer per page of `[a, a + l)`. */
  where(p: Process, a: Num): Place;
  where(p: Process, a: Num, l: Num): Place[];
  where(p: Process, a: Num, l?: Num): Place | Place[] {
    const start = checkedAddress(a, "where");
    if (l === undefined) return this.machine.where(p, start);
    const end = start + checkedLength(start, l, "where");
    const places: Place[] = [];
    for (let at = alignDown(start, PAGE_SIZE); at < end; at += PAGE_SIZE) places.push(this.machine.where(p, at));
    return places;
  }

  /** The SVM ranges of `m` that intersect `[lo, hi)`, ascending. */
  ranges(m: Vm, lo: Num = 0, hi: Num = VA_END): { start: number; end: number; place: Place; unmapped: boolean }[] {
    return m.svm.ranges(toNumber(lo), toNumber(hi)).map((r) => ({
      start: r.start,
      end: r.end,
      place: r.inVram ? m.device : r.mapped ? "SYS" : "NONE",
      unmapped: r.unmapped,
    }));
  }
  notifiers(m: Vm): { start: number; end: number; ranges: number }[] {
    return m.svm.notifiers();
  }
  /** The mappings of `m` that intersect `[lo, hi)`, whole, ascending: the mirror's pieces too. */
  vas(m: Vm, lo: Num = 0, hi: Num = VA_END): Va[] {
    return vasOf(m, toNumber(lo), toNumber(hi));
  }
  vmas(p: Process, lo: Num = 0, hi: Num = VA_END): { start: number; end: number; prot: Prot; kind: Kind }[] {
    return p.vmas(toNumber(lo), toNumber(hi));
  }
  /** The valid leaf entries of `m`'s page tables that touch `[lo, hi)`, ascending. */
  async leafs(
    m: Vm,
    lo: Num = 0,
    hi: Num = VA_END,
  ): Promise<{ va: number; size: number; place: Place | "NULL"; write: boolean; pa: number }[]> {
    return leavesOf(m, toNumber(lo), toNumber(hi)).map(({ va, size, place, write, pa }) => ({
      ...{ va, size, write, pa },
      place: place === "VRAM" ? this.machine.deviceAt(m.device, pa) : place,
    }));
  }
  /** How `m`'s device sees the CPU pages of `[a, a + l)` without faulting; one answer per page. */
  async snap(m: Vm, a: Num, l: Num): Promise<PageSnapshot[]> {
    const start = checkedAddress(a, "snap");
    return snapPages(m, start, checkedLength(start, l, "snap"));
  }

  /** The VRAM allocator alone: blocks of `min` (default 4096) bytes up to `min << maxOrder`. Throws KernelError. */
  buddy(size: Num, o: { min?: Num; maxOrder?: number } = {}): Buddy {
    return new Buddy(size, o);
  }
  /** An interval container alone; `disjoint`: of such that do not overlap. */
  itree(o: { disjoint?: boolean } = {}): Tree {
    return new Tree(o);
  }

  /** Bytes of VRAM held by data. */
  vram(d: Device): number {
    return d.driver.vramUsed;
  }
  /** Bytes of `m`'s page tables. */
  tables(m: Vm): number {
    return m.svm.tableBytes;
  }
  cnt(m: Vm): SvmCounters {
    return { ...m.counters };
  }

  #counted(): SvmCounters[] {
    return this.machine.devices.flatMap((d) => d.counted);
  }

  #check(kind: Check["kind"], ok: boolean, text: string): boolean {
    const check: Check = { kind, ok, text };
    this.checks.push(check);
    this.#onCheck(check);
    return ok;
  }
}

function isVerbError(error: Error): error is VerbError {
  return "code" in error && typeof error.code === "string";
}

function isSame(a: Uint32Array | Uint8Array, b: Uint32Array | Uint8Array): boolean {
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}
