import { PAGE_SIZE, SZ_2M, SZ_64K, type Va } from "../base/addr.ts";
import { InvariantError } from "../base/assert.ts";
import { isErr } from "../base/errno.ts";
import { PRESETS } from "../driver/policy/presets.ts";
import type { SvmVm } from "../driver/vm.ts";
import type { MemFile } from "../mm/file.ts";
import { Mm } from "../mm/mm.ts";
import { makeFile, mappingOf } from "./area.ts";
import { memoryOf } from "./memory.ts";
import { Oracle } from "./oracle.ts";
import type { Program } from "./program.ts";
import type { Rig } from "./rig.ts";

/** The 2 MiB in which, or at the end of which, the area of a program lies. */
const HOME = 0x40000000;
/** Where `mremap` takes a page, as seen from where it was: beyond every area, and at the same place in its 2 MiB or not. */
const AWAY_PAGES = 64;
const AWAY_PAGES_HUGE = 1024;
/** Scheduling steps after which a schedule goes nowhere: the longest that end take a tenth of them (I36). */
const MAX_STEPS = 20_000;

/** Something that must not be, and after how many scheduling steps. */
export class Violation extends Error {
  override readonly name = "Violation";
  readonly step: number;

  constructor(message: string, step: number, options?: ErrorOptions) {
    super(message, options);
    this.step = step;
  }
}

export interface ExploredVm {
  readonly svm: SvmVm;
  /** It has begun to close: what it is asked for may fail. */
  closing: boolean;
}

export interface ExploredProcess {
  readonly mm: Mm;
  readonly oracle: Oracle;
  /** Operations by its CPU that are under way; none begins once it is exiting. */
  busy: number;
  exiting: boolean;
}

/** What one schedule runs in: process 0 with its GPU address spaces, and room for a child. */
export class World {
  readonly program: Program;
  readonly rig: Rig;
  readonly processes: ExploredProcess[] = [];
  readonly vms: ExploredVm[] = [];
  /** First page of the area. */
  readonly base: Va;
  /** From a page to where `mremap` takes it. */
  readonly awayPages: number;
  /** What the area maps, where that is a file. */
  file: MemFile | null = null;
  /** Nothing but the end of a time slice, or an eviction for room, takes a page out of device memory. */
  readonly isStrict: boolean;
  /** Pages are neither discarded nor shared: what is pinned must stay in its place. */
  readonly keepsPages: boolean;
  /** Rejects at the first violation; nothing goes on after it. */
  readonly failed: Promise<never>;
  #fail: (violation: Violation) => void = () => undefined;
  #hasFailed = false;
  #steps = 0;
  #values = 0;

  /** `check` is called after every scheduling step, and throws what must not be. */
  constructor(program: Program, rig: Rig, check: (world: World) => void) {
    this.program = program;
    this.rig = rig;
    this.base = HOME + program.inHuge * PAGE_SIZE;
    this.awayPages = program.huge === true ? AWAY_PAGES_HUGE : AWAY_PAGES;
    const ops = [...program.setup, ...program.activities.flat()];
    // Another device, or tile, takes over what it needs.
    this.isStrict = (program.cards ?? "one") === "one" && ops.every(({ op }) => STRICT.has(op));
    this.keepsPages = ops.every(({ op }) => STRICT.has(op) || KEEPING.has(op));
    this.failed = new Promise((_, reject) => {
      this.#fail = reject;
    });
    this.failed.catch(() => undefined);
    rig.onStep = () => this.#stepped(check);
    rig.failCopies(program.failures);
    for (const { hardware } of rig.devices) hardware.lookAt(this.base, this.awayPages + program.pages);
    this.addProcess(new Mm({ phys: rig.phys }), new Oracle(program.pages, program));
    for (let i = 0; i < program.vms; i++) this.#addVm(program.vmDevices?.[i] ?? 0);
  }

  /** False when this is the end: what waits is garbage. */
  #stepped(check: (world: World) => void): boolean {
    if (this.#hasFailed) return false;
    this.#steps += 1;
    try {
      if (this.#steps > MAX_STEPS) throw new InvariantError(`no end after ${MAX_STEPS} steps (I36)`);
      check(this);
      return true;
    } catch (error) {
      this.fail(error);
      return false;
    }
  }

  /** Makes the area. */
  async map(): Promise<void> {
    const { pages, huge = false, tail } = this.program;
    this.file = await makeFile(this.rig.phys, this.program, pages);
    await this.#mapPart(0, tail?.from ?? pages);
    if (tail !== undefined) await this.#mapPart(tail.from, pages);
    if (huge) await this.processes[0]!.mm.madvise(this.base, pages * PAGE_SIZE, "hugepage");
  }

  async #mapPart(from: number, to: number): Promise<void> {
    const mapping = mappingOf(memoryOf(this.program, from), this.file, from);
    await this.processes[0]!.mm.mmap((to - from) * PAGE_SIZE, { ...mapping, at: this.base + from * PAGE_SIZE });
  }

  /** Buffers that have left VRAM so far. */
  get evictions(): number {
    return this.vms.reduce((sum, { svm }) => sum + svm.counters.evict, 0);
  }

  get steps(): number {
    return this.#steps;
  }

  /** The first counts. */
  fail(reason: unknown): void {
    if (this.#hasFailed) return;
    this.#hasFailed = true;
    const message = reason instanceof Error ? `${reason.name}: ${reason.message}` : String(reason);
    this.#fail(new Violation(message, this.#steps, { cause: reason }));
  }

  addProcess(mm: Mm, oracle: Oracle): void {
    this.processes.push({ mm, oracle, busy: 0, exiting: false });
  }

  #addVm(device: number): void {
    const svm = this.rig.devices[device]!.device.createVm(this.processes[0]!.mm, {
      chunkSizes: this.program.huge === true ? [SZ_2M, SZ_64K, PAGE_SIZE] : [SZ_64K, PAGE_SIZE],
      notifierSize: SZ_2M,
      checkPagesThreshold: SZ_64K,
      leafSizes: [PAGE_SIZE, SZ_64K, SZ_2M],
      migrate: this.program.migrate,
      policies: { ...PRESETS.default, ...this.program.policies },
      window: [0, 2 ** 47],
    });
    if (isErr(svm)) throw new InvariantError("no address space");
    this.vms.push({ svm, closing: false });
  }

  /** A word that nobody has stored before. */
  newValue(): number {
    this.#values += 1;
    return this.#values;
  }

  /** Where page `page` of the area lies in process `who`. */
  addressOf(who: number, page: number): Va {
    const away = this.processes[who]!.oracle.isAway(page) ? this.awayPages : 0;
    return this.base + (page + away) * PAGE_SIZE;
  }
}

const STRICT: ReadonlySet<string> = new Set(["migrate", "read", "write", "gread", "gwrite", "fill", "pause"]);
const KEEPING: ReadonlySet<string> = new Set(["pin", "prefetch", "toVram", "toSys", "evict", "compact", "close"]);
