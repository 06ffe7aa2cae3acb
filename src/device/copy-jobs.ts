import { PAGE_SIZE } from "../base/addr.ts";
import { TILE_STRIDE } from "../abi/tiles.ts";
import { GpuError } from "../base/errors.ts";
import {
  E_CANCELED,
  E_DEVICE,
  JOB_FLAG_CHECK_ONLY,
  JOB_OK,
  JOB_PENDING,
  JOB_WORD,
  JOB_WORDS,
  reportJobs,
} from "../hal/copy-job.ts";
import type { JobBatch, JobResult } from "../hal/copy-job.ts";
import { AP_HOST, AP_VRAM, AP_WINDOW, PageList } from "../hal/gpu.ts";
import { CopyBanks } from "./copy-banks.ts";
import { checkJob } from "./copy-check.ts";
import type { CopyBounds } from "./copy-check.ts";
import type { CopyContext } from "./copy-context.ts";
import { PageMarks } from "./copy-marks.ts";
import { CopyOutcome } from "./copy-outcome.ts";
import { CopyParts } from "./copy-parts.ts";
import { createCopyPipelines } from "./copy-pipelines.ts";
import { AP_SLOT, RUN, RUN_FILL, RUN_PT_WRITE, RUN_STRIDE, RUN_VA, Runs } from "./copy-runs.ts";
import type { RunFields } from "./copy-runs.ts";
import { HostShadow } from "./copy-shadow.ts";
import { planStages } from "./copy-stages.ts";
import type { Stages } from "./copy-stages.ts";
import { CopyVa } from "./copy-va.ts";
import type { PageLists } from "./page-lists.ts";
import { chooseWay } from "./path-choice.ts";
import type { Tile } from "./tile.ts";
import type { CopyWays } from "./ways/copy-ways.ts";

/** From here on the GPU's own copy and clear commands are faster than a dispatch, bytes. */
const LONG = 65536;

/** A batch on its way. */
interface Plan {
  readonly batch: JobBatch;
  readonly tile: Tile;
  readonly runs: Runs;
  readonly stages: Stages;
  readonly shadow: HostShadow | null;
  /** Status after the checks, and what each job does, bytes. */
  readonly checked: Uint32Array;
  readonly bytes: Float64Array;
}

/**
 * Batches of copy jobs (hal/copy-job.ts). The host checks, cuts jobs into runs and runs into stages; a stage is some
 * dispatches and buffer copies in one submission, or in a few where uploads lie between.
 */
export class CopyJobs {
  readonly #c: CopyContext;
  readonly #ways: CopyWays;
  readonly #lists: PageLists;
  readonly #banks: CopyBanks;
  readonly #outcome: CopyOutcome;
  readonly #parts: CopyParts;
  readonly #va: CopyVa;
  readonly #bounds: CopyBounds;
  readonly #marks: PageMarks;
  readonly #written: PageMarks;
  readonly #read: PageMarks;

  constructor(context: CopyContext, ways: CopyWays, lists: PageLists) {
    this.#c = context;
    this.#ways = ways;
    this.#lists = lists;
    const { commands, memory, hostMemory } = context;
    const { shape } = memory.geometry;
    const pipelines = createCopyPipelines(
      commands.device,
      memory.geometry,
      context.pipelines,
      context.pagePerWorkgroup,
    );
    this.#banks = new CopyBanks(commands, memory, context.maxBindingBytes);
    this.#outcome = new CopyOutcome(context, pipelines);
    this.#parts = new CopyParts(context, this.#banks, this.#outcome, pipelines);
    this.#va = new CopyVa(context, this.#banks, this.#outcome, pipelines);
    const { vram } = memory;
    this.#bounds = { vram, syswBytes: shape.syswBytes, hostBytes: hostMemory.byteLength, ptBytes: shape.ptBytes };
    const pages = [vram.end, shape.syswBytes, hostMemory.byteLength].map((bytes) => () => Math.ceil(bytes / PAGE_SIZE));
    const memories = [...pages, () => 0, () => Math.ceil(this.#banks.slots.size / PAGE_SIZE)];
    this.#marks = new PageMarks(memories);
    this.#written = new PageMarks(memories);
    this.#read = new PageMarks(memories);
  }

  /** See `Gpu.submitJobs`. */
  submit(batch: JobBatch, tile: Tile): Promise<JobResult[]> {
    if (batch.count === 0) return Promise.resolve([]);
    if (this.#c.health.error !== null) return Promise.resolve(this.#undone(batch, batch.count));
    const plan = this.#plan(batch, tile);
    this.#outcome.begin(batch.count);
    const arrivals: Promise<unknown>[] = [];
    if (plan.shadow !== null) {
      // writeBuffer takes effect at once, so earlier work on the slots has to be in the queue.
      const { commands, hostMemory } = this.#c;
      commands.submit();
      const content = plan.shadow.capture(hostMemory);
      commands.inDoubt(() => commands.device.queue.writeBuffer(this.#banks.slots, 0, content));
    }
    for (let stage = 0; stage + 1 < plan.stages.starts.length; stage++) this.#record(plan, stage, arrivals);
    const outcome = this.#finish(plan);
    this.#ways.downloads.flushSoon();
    const { count } = batch;
    return Promise.all([outcome, ...arrivals]).then(
      ([status]) => reportJobs(batch, status, plan.bytes),
      () => this.#undone(batch, count),
    );
  }

  destroy(): void {
    this.#parts.destroy();
    this.#va.destroy();
    this.#outcome.destroy();
    this.#banks.destroy();
  }

  /** Loss cancels; what WebGPU found wrong is the device's failure. */
  #undone(batch: JobBatch, count: number): JobResult[] {
    const status = new Uint32Array(count).fill(this.#c.health.error instanceof GpuError ? E_DEVICE : E_CANCELED);
    return reportJobs(batch, status, status);
  }

  #plan(batch: JobBatch, tile: Tile): Plan {
    const checked = new Uint32Array(batch.count);
    const bytes = new Float64Array(batch.count);
    let runs = new Runs();
    for (let i = 0; i < batch.count; i++) {
      checked[i] = checkJob(batch, i, this.#bounds, this.#marks);
      if (checked[i] !== JOB_PENDING) continue;
      const first = runs.count;
      bytes[i] = runs.addJob(batch, i, this.#c.memory.vram);
      if (!isCheckOnly(batch, i)) continue;
      bytes[i] = 0;
      // A VA job is not checked before it is translated.
      if (runs.count > first && runs.fields[first * RUN_STRIDE + RUN.kind] === RUN_VA) continue;
      runs.count = first;
      checked[i] = JOB_OK;
    }
    let stages = planStages(runs, this.#written, this.#read);
    let shadow: HostShadow | null = null;
    if (stages.shadowed.length > 0) {
      shadow = new HostShadow(stages.shadowed);
      this.#banks.reserveSlots(shadow.bytes);
      runs = shadow.redirect(runs);
      stages = planStages(runs, this.#written, this.#read);
    }
    return { batch, tile, runs, stages, shadow, checked, bytes };
  }

  /** Records one stage; the order inside it is free. */
  #record(plan: Plan, stage: number, arrivals: Promise<unknown>[]): void {
    const { batch, tile, runs, stages, shadow } = plan;
    const { ptWrite, settle } = this.#c;
    const up = new PageList();
    const down = new PageList();
    const uploads: (() => void)[] = [];
    for (let k = stages.starts[stage]!; k < stages.starts[stage + 1]!; k++) {
      const at = stages.order[k]! * RUN_STRIDE;
      const fields = runs.fields.subarray(at, at + RUN_STRIDE);
      const [kind, from, source, to, target, bytes, value, job] = fields as unknown as RunFields;
      if (kind === RUN_VA || (kind !== RUN_PT_WRITE && to === AP_VRAM && this.#isInTables(target)))
        this.#c.writesTables();
      const pages = source % PAGE_SIZE === 0 && target % PAGE_SIZE === 0 && bytes % PAGE_SIZE === 0;
      if (kind === RUN_VA) {
        this.#va.record(this.#vaJob(batch, fields), shadow, tile);
      } else if (kind === RUN_PT_WRITE) {
        ptWrite(this.#c.memory.vram.pa(target), batch.payload.subarray(value, value + bytes / 4));
      } else if (kind === RUN_FILL) {
        this.#c.counters.fillBytes += bytes;
        if (to === AP_HOST) this.#storeToHost(target, filled(bytes, value), arrivals);
        else this.#fill(to, target, bytes, value, job);
      } else if (from === AP_HOST && to === AP_HOST) {
        this.#count(from, to, bytes);
        this.#storeToHost(target, this.#c.hostMemory.slice(source, source + bytes), arrivals);
      } else if (from === AP_HOST) {
        if (pages && to <= AP_WINDOW) up.push(from, source / PAGE_SIZE, to, target / PAGE_SIZE, bytes / PAGE_SIZE);
        else uploads.push(() => this.#upload(source, to, target, bytes));
      } else if (to === AP_HOST) {
        if (pages && from <= AP_WINDOW) down.push(from, source / PAGE_SIZE, to, target / PAGE_SIZE, bytes / PAGE_SIZE);
        else this.#download(from, source, target, bytes, arrivals);
      } else {
        this.#count(from, to, bytes);
        this.#move(from, source, to, target, bytes, job);
      }
    }
    this.#parts.flush();
    settle();
    const arrival = this.#lists.record(down.words, down.count);
    if (arrival !== null) arrivals.push(arrival);
    void this.#lists.record(up.words, up.count);
    // Last, because they submit what was recorded.
    for (const upload of uploads) upload();
  }

  /** Whether page tables lie at a linear address of VRAM. */
  #isInTables(linear: number): boolean {
    const { vram, geometry } = this.#c.memory;
    return vram.pa(linear) % TILE_STRIDE < geometry.shape.ptBytes;
  }

  #vaJob(batch: JobBatch, fields: Float64Array) {
    const job = fields[RUN.job]!;
    return {
      job,
      asid: batch.words[job * JOB_WORDS + JOB_WORD.asid]!,
      tag: batch.words[job * JOB_WORDS + JOB_WORD.tag]!,
      checkOnly: isCheckOnly(batch, job),
      from: fields[RUN.from]!,
      source: fields[RUN.source]!,
      to: fields[RUN.to]!,
      target: fields[RUN.target]!,
      bytes: fields[RUN.bytes]!,
      pattern: fields[RUN.value]!,
    };
  }

  #fill(to: number, target: number, bytes: number, pattern: number, job: number): void {
    if (pattern !== 0 || bytes < LONG) {
      this.#parts.fill(to, target, bytes, pattern, job);
      return;
    }
    const banks = this.#banks;
    for (let at = target; at < target + bytes;) {
      const n = Math.min(target + bytes - at, banks.runFrom(to, at));
      this.#c.commands.encoder().clearBuffer(banks.buffer(banks.bankOf(to, at)), banks.offsetOf(to, at), n);
      at += n;
    }
  }

  #move(from: number, source: number, to: number, target: number, bytes: number, job: number): void {
    const banks = this.#banks;
    for (let done = 0; done < bytes;) {
      const n = Math.min(bytes - done, banks.runFrom(from, source + done), banks.runFrom(to, target + done));
      const [a, b] = [banks.bankOf(from, source + done), banks.bankOf(to, target + done)];
      if (a === b || n < LONG) {
        this.#parts.copy(from, source + done, to, target + done, n, job);
      } else {
        const [at, into] = [banks.offsetOf(from, source + done), banks.offsetOf(to, target + done)];
        this.#c.commands.encoder().copyBufferToBuffer(banks.buffer(a), at, banks.buffer(b), into, n);
      }
      done += n;
    }
  }

  #upload(source: number, to: number, target: number, bytes: number): void {
    const banks = this.#banks;
    const { health, hostMemory, paths } = this.#c;
    this.#count(AP_HOST, to, bytes);
    if (health.isLost) return;
    const stager = this.#ways.stager(chooseWay(paths, "upload", bytes / PAGE_SIZE, 1), bytes);
    for (let done = 0; done < bytes;) {
      const n = Math.min(bytes - done, banks.runFrom(to, target + done));
      const bank = banks.buffer(banks.bankOf(to, target + done));
      stager.put(hostMemory, source + done, n, bank, banks.offsetOf(to, target + done));
      done += n;
    }
    stager.flush();
  }

  #download(from: number, source: number, target: number, bytes: number, arrivals: Promise<unknown>[]): void {
    const banks = this.#banks;
    const { commands, hostMemory, readback } = this.#c;
    this.#count(from, AP_HOST, bytes);
    for (let done = 0; done < bytes;) {
      const n = Math.min(bytes - done, banks.runFrom(from, source + done));
      const hostAt = target + done;
      const arrival = new Promise<void>((resolve, reject) => {
        const deliver = (data: Uint8Array) => {
          hostMemory.set(data.subarray(0, n), hostAt);
          resolve();
        };
        const place = readback.reserve(Math.ceil(n / 8) * 8, deliver, reject);
        const bank = banks.buffer(banks.bankOf(from, source + done));
        commands.encoder().copyBufferToBuffer(bank, banks.offsetOf(from, source + done), place.buffer, place.offset, n);
      });
      arrivals.push(this.#c.health.guard(arrival));
      done += n;
    }
  }

  /** Stores `data` when everything downloaded before has arrived: host memory changes in the order of the jobs. */
  #storeToHost(at: number, data: Uint8Array, arrivals: Promise<unknown>[]): void {
    const { health, hostMemory, readback } = this.#c;
    const arrival = new Promise<void>((resolve, reject) => {
      const deliver = () => {
        hostMemory.set(data, at);
        resolve();
      };
      // A place in the line; nothing is copied to it.
      readback.reserve(8, deliver, reject);
    });
    arrivals.push(health.guard(arrival));
  }

  /** Records the end. What lies in slots reaches host memory together with the states, and only for jobs that are ok. */
  #finish({ batch, tile, runs, checked, shadow }: Plan): Promise<Uint32Array> {
    let slots: Uint8Array | null = null;
    if (shadow !== null && shadow.deliveries.length > 0) {
      const keep = (data: Uint8Array) => (slots = data.slice());
      const place = this.#c.readback.reserve(shadow.bytes, keep, () => undefined);
      this.#c.commands.encoder().copyBufferToBuffer(this.#banks.slots, 0, place.buffer, place.offset, shadow.bytes);
    }
    return this.#outcome.finish(batch, tile, checked, (status) => {
      this.#countVa(batch, runs, status);
      if (slots === null) return;
      for (const { slotAt, hostAt, bytes, job } of shadow!.deliveries) {
        if (status[job] === JOB_OK && !isCheckOnly(batch, job)) {
          this.#c.hostMemory.set(slots.subarray(slotAt, slotAt + bytes), hostAt);
        }
      }
    });
  }

  #count(from: number, to: number, bytes: number): void {
    const { counters } = this.#c;
    if (to === AP_HOST || to === AP_SLOT) counters.downloadBytes += bytes;
    else if (from === AP_HOST || from === AP_SLOT) counters.uploadBytes += bytes;
  }

  /** Only now is known which VA jobs did something. */
  #countVa(batch: JobBatch, runs: Runs, status: Uint32Array): void {
    for (let at = 0; at < runs.count * RUN_STRIDE; at += RUN_STRIDE) {
      const job = runs.fields[at + RUN.job]!;
      if (runs.fields[at + RUN.kind] !== RUN_VA || status[job] !== JOB_OK || isCheckOnly(batch, job)) continue;
      const bytes = runs.fields[at + RUN.bytes]!;
      if (runs.fields[at + RUN.from]! < 0) this.#c.counters.fillBytes += bytes;
      else this.#count(runs.fields[at + RUN.from]!, runs.fields[at + RUN.to]!, bytes);
    }
  }
}

function isCheckOnly(batch: JobBatch, job: number): boolean {
  return ((batch.words[job * JOB_WORDS + JOB_WORD.control]! >>> 16) & JOB_FLAG_CHECK_ONLY) !== 0;
}

function filled(bytes: number, pattern: number): Uint8Array {
  return new Uint8Array(new Uint32Array(bytes / 4).fill(pattern).buffer);
}
