import { PAGE_SIZE, alignDown } from "../../base/addr.ts";
import { KernelError } from "../../base/errors.ts";
import { newActivity } from "../../base/lock-order.ts";
import type { Process } from "../../machine/process.ts";
import type { Vm } from "../../machine/vm.ts";
import type { Scenario } from "../verbs.ts";
import { COPIES, Buffers, bufferBytes, pagesOf } from "./buffers.ts";
import type { Buffer } from "./buffers.ts";
import type { Template } from "./cases.ts";
import { exec } from "./exec.ts";
import type { Findings } from "./findings.ts";
import type { Heap } from "./heap.ts";
import { FENCE_WORDS, RECORD_BYTES, RECORD_DATA, RECORD_EXPECTED, RECORD_FENCE, batchOf } from "./record.ts";
import type { Flag } from "./sections.ts";

const FILL = 0x05;
/** Looks at a fence until it counts as lost; stands for the original's five seconds. */
const POLLS = 100_000;

/** What an activity runs on; several may share a process, its heap, and an address space. */
export interface Workplace {
  readonly s: Scenario;
  readonly p: Process;
  readonly m: Vm;
  readonly heap: Heap;
  /** Fences of this activity's queues, 8 bytes each, outside of the memory under test. */
  readonly fences: number;
  /** Nobody else works on the process or the address space: what the probes tell is about this activity. */
  readonly alone: boolean;
}

/** One exec, as the CPU has prepared it. */
interface Exec {
  readonly i: number;
  /** Bytes of its record into the buffer. */
  readonly offset: number;
  readonly value: number;
}

/**
 * The loop of the original: write a batch into the buffer, have the GPU execute it there, wait for the fence, do to the memory
 * what the section says, compare. What is wrong is counted in `findings`.
 */
export class Activity {
  readonly #place: Workplace;
  readonly #template: Template;
  readonly #flags: ReadonlySet<Flag>;
  readonly #findings: Findings;
  readonly #buffers: Buffers;
  /** Bytes from one copy of the records to the next, and all of them. */
  readonly #copyBytes: number;
  readonly #copies: number;
  readonly #kept: Buffer[] = [];
  #buffer!: Buffer;
  /** With EVERY_OTHER_CHECK, the exec that was prepared together with the one before. */
  #second: Exec | null = null;
  /** Where the buffer moves next, if that is settled already. */
  #next: number | null = null;
  /** Of the address space, when it was prepared. */
  #cpuFaults = 0;

  constructor(place: Workplace, template: Template, flags: ReadonlySet<Flag>, findings: Findings) {
    this.#place = place;
    this.#template = template;
    this.#flags = flags;
    this.#findings = findings;
    this.#copyBytes = bufferBytes(template);
    this.#copies = flags.has("MULTI_FAULT") ? COPIES : 1;
    this.#buffers = new Buffers(place, flags, this.#copies * this.#copyBytes);
  }

  /** All execs. What has been kept stays until `release`. */
  async run(): Promise<void> {
    const { p } = this.#place;
    await this.#begin(0);
    if (this.#flags.has("BO_UNMAP")) await this.#bindObjectOver();
    if (this.#flags.has("LOCK")) await p.mlock(...pagesOf(this.#buffer));
    let previous: Exec | null = null;
    for (let i = 0; i < this.#template.execs; i++) {
      const now: Exec = previous !== null && this.#isSecond(i) ? this.#second! : await this.#prepare(i);
      await this.#advise(i);
      await this.#execute(now);
      if (i === 0 && this.#flags.has("LOCK")) await p.munlock(...pagesOf(this.#buffer));
      if (this.#flags.has("MREMAP")) await this.#move();
      await this.#checkAfter(now, previous);
      if (this.#flags.has("NEW")) await this.#renew(i);
      previous = now;
    }
  }

  /** Compares what is left in the buffers and gives them back. */
  async release(): Promise<void> {
    for (const buffer of [...this.#kept.splice(0), this.#buffer]) await this.#end(buffer);
  }

  #isSecond(i: number): boolean {
    return this.#flags.has("EVERY_OTHER_CHECK") && i % 2 === 1;
  }

  async #begin(i: number): Promise<void> {
    const { s, p } = this.#place;
    const buffer = await this.#buffers.obtain(i);
    this.#buffer = buffer;
    if (buffer.reused) {
      this.#findings.check(
        "freed memory is as it was left",
        s.same(await p.read(buffer.at, buffer.bytes), buffer.content.bytes(0, buffer.bytes)),
      );
    }
    if (this.#flags.has("SKIP_MEMSET")) return;
    await p.fill(buffer.at, buffer.bytes, FILL);
    buffer.content.fill(FILL);
  }

  /** An object takes the place of the mirror, and the mirror that of the object. */
  async #bindObjectOver(): Promise<void> {
    const { s, m } = this.#place;
    const [at, bytes] = pagesOf(this.#buffer);
    const bo = await s.bo(m.device, bytes, "VRAM");
    await m.bind(at, bytes, bo);
    await m.mirrorBind(at, bytes);
    await bo.close();
  }

  /** Writes the records of exec `i`, and with EVERY_OTHER_CHECK of the one behind it, which will run after a move. */
  async #prepare(i: number): Promise<Exec> {
    const first = await this.#writeRecord(i, this.#buffer.at);
    if (!this.#flags.has("EVERY_OTHER_CHECK")) return first;
    this.#next = await this.#buffers.reserve(this.#buffer.owned);
    this.#second = await this.#writeRecord(i + 1, this.#next);
    this.#cpuFaults = this.#place.m.counters.cpuFault;
    return first;
  }

  /** The record of exec `i`, for a buffer that will then lie at `at`. */
  async #writeRecord(i: number, at: number): Promise<Exec> {
    const { s, p } = this.#place;
    const offset = i * this.#template.stride * RECORD_BYTES;
    const value = s.random();
    const targets = this.#dataOffsets(offset).map((data) => at + data);
    const batch = batchOf(targets, value);
    const { content, at: here } = this.#buffer;
    await p.write(here + offset, batch);
    await p.st(here + offset + RECORD_EXPECTED, value);
    content.words(offset, batch);
    content.words(offset + RECORD_EXPECTED, [value]);
    return { i, offset, value };
  }

  /** Where the data word of the record at `offset` lies, in each copy. */
  #dataOffsets(offset: number): number[] {
    return Array.from({ length: this.#copies }, (_, copy) => offset + RECORD_DATA + copy * this.#copyBytes);
  }

  async #advise(i: number): Promise<void> {
    const { m } = this.#place;
    if (this.#flags.has("PREFETCH")) {
      const toSystem = this.#flags.has("RACE") || !this.#buffer.migrates || this.#flags.has("LOCK");
      try {
        await m.prefetch(...pagesOf(this.#buffer), toSystem ? "SYS" : "DEV");
      } catch (error) {
        // A prefetch is advice: it gives up where others use the same pages at that moment.
        if (this.#place.alone || !(error instanceof KernelError) || error.code !== "EBUSY") throw error;
      }
    }
    if (this.#flags.has("MADVISE_SWIZZLE")) {
      await m.attr(...pagesOf(this.#buffer), { loc: i % 2 === 0 ? "SYS" : m.device });
    }
  }

  async #execute({ i, offset, value }: Exec): Promise<void> {
    const { s, p, m, fences, alone } = this.#place;
    const { at, content, migrates, bo } = this.#buffer;
    const isRace = this.#flags.has("RACE");
    const fence = isRace ? at + offset + RECORD_FENCE : fences + (i % this.#template.queues) * 8;
    const submit = () => exec(m, at + offset, fence);
    if (isRace) {
      const [, seen] = await this.#together(submit, () => this.#poll(fence));
      this.#findings.check("every fence is seen", seen === true);
      content.words(offset + RECORD_FENCE, FENCE_WORDS);
    } else {
      await submit();
      const signalled = (await p.ld(fence)) === FENCE_WORDS[0] && (await p.ld(fence + 4)) === FENCE_WORDS[1];
      this.#findings.check("every fence is seen", signalled);
      await p.st(fence, 0);
      await p.st(fence + 4, 0);
    }
    for (const data of this.#dataOffsets(offset)) content.words(data, [value]);
    const where = s.where(p, at + offset + RECORD_DATA);
    if (bo !== null) {
      const inObject = (await bo.ld(offset + RECORD_DATA)) === value;
      return this.#findings.check("what is stored while an object is bound is in the object", inObject);
    }
    if (!migrates) this.#findings.check("memory that does not migrate is served where it lies", where === "SYS");
    else if (alone && !isRace) {
      const home = this.#flags.has("MADVISE_SWIZZLE") && i % 2 === 0 ? "SYS" : m.device;
      this.#findings.expect("migratable memory lies where it is wanted after the exec", where === home);
    }
  }

  /** Until the fence is signalled: the CPU reads the very page that the GPU faults on. False: it never is. */
  async #poll(fence: number): Promise<boolean> {
    const { s, p } = this.#place;
    for (let n = 0; n < POLLS; n++) {
      if ((await p.ld(fence)) === FENCE_WORDS[0]) return true;
      await s.yield();
    }
    return false;
  }

  async #move(): Promise<void> {
    const { p } = this.#place;
    const { at: from, owned } = this.#buffer;
    const to = this.#next ?? (await this.#buffers.reserve(owned));
    this.#next = null;
    const isReadOnly = this.#flags.has("READ_ONLY_REMAP");
    const dontunmap = this.#flags.has("DONTUNMAP");
    if (isReadOnly) await p.mprotect(from, owned, "R");
    this.#buffer.at = await p.mremap(from, owned, to, { dontunmap });
    if (dontunmap) await p.munmap(from, owned);
    if (isReadOnly) await p.mprotect(to, owned, "RW");
  }

  async #checkAfter(now: Exec, previous: Exec | null): Promise<void> {
    const isSecond = this.#isSecond(now.i);
    if (this.#flags.has("EVERY_OTHER_CHECK") && !isSecond) return;
    if (isSecond && this.#place.alone) {
      const faults = this.#place.m.counters.cpuFault - this.#cpuFaults;
      this.#findings.check("data moves from exec to exec without a fault of the CPU", faults === 0);
    }
    if (this.#flags.has("FORK_READ")) await this.#compareForked(now);
    else await this.#compare(this.#place.p, now);
    if (isSecond && previous !== null) await this.#compare(this.#place.p, previous);
  }

  async #compareForked(now: Exec): Promise<void> {
    const { p } = this.#place;
    const child = await p.fork();
    if (this.#flags.has("FORK_READ_AFTER")) {
      await this.#compare(child, now);
      await child.exit();
      await this.#compare(p, now);
      return;
    }
    await this.#together(
      () => this.#compare(p, now),
      () => this.#compare(child, now),
    );
    await child.exit();
  }

  /** The data word against the expected value, both as `process` sees them. */
  async #compare(process: Process, { offset, value }: Exec): Promise<void> {
    const { at } = this.#buffer;
    const expected = await process.ld(at + offset + RECORD_EXPECTED);
    let isRight = expected === value;
    for (const data of this.#dataOffsets(offset)) isRight = (await process.ld(at + data)) === expected && isRight;
    this.#findings.check("every store of the GPU is what the CPU expects", isRight);
  }

  /** A fresh buffer for the exec behind number `i`. */
  async #renew(i: number): Promise<void> {
    const old = this.#buffer;
    if (this.#flags.has("FREE") || old.bo !== null) await this.#end(old);
    else this.#kept.push(old);
    await this.#begin(i + 1);
  }

  async #end(buffer: Buffer): Promise<void> {
    await this.#checkContent(buffer);
    await this.#buffers.release(buffer);
  }

  /** Every byte, or of large buffers that come and go, the pages around what was written. */
  async #checkContent(buffer: Buffer): Promise<void> {
    const { s, p, m } = this.#place;
    for (const [from, to] of this.#extents(buffer)) {
      const bytes = buffer.content.bytes(from, to);
      if (this.#flags.has("SKIP_MEMSET")) {
        const seen = await m.gread(buffer.at + from, to - from);
        this.#findings.check("what nobody has touched is zero to the GPU", s.same(seen, bytes));
      }
      this.#findings.check("every other byte is as it was", s.same(await p.read(buffer.at + from, to - from), bytes));
      if (buffer.file === null) continue;
      this.#findings.check("the file has what was stored", s.same(await buffer.file.read(from, to - from), bytes));
    }
  }

  *#extents({ bytes, content }: Buffer): Iterable<[from: number, to: number]> {
    if (!this.#flags.has("NEW") || bytes <= 64 * 1024) {
      yield [0, bytes];
      return;
    }
    const written = content.extent();
    if (written !== null) {
      yield [alignDown(written[0], PAGE_SIZE), Math.min(bytes, alignDown(written[1] + 2 * PAGE_SIZE, PAGE_SIZE))];
    }
  }

  /** Both interleaved; inside a race as activities of it. */
  async #together(f: () => Promise<unknown>, g: () => Promise<unknown>): Promise<unknown[]> {
    const { s } = this.#place;
    if (!s.machine.sched.racing) return s.race(s.random(), f, g);
    const ended = await Promise.allSettled([newActivity(f), newActivity(g)]);
    return ended.map((e) => {
      if (e.status === "rejected") throw e.reason;
      return e.value;
    });
  }
}
