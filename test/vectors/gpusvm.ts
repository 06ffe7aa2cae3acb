/** Replays recorded behaviour of the kernel's GPU SVM, of three versions, each under its own `compat`. */
import { EFAULT, isErr } from "../../src/base/errno.ts";
import {
  MMU_NOTIFY_CLEAR,
  MMU_NOTIFY_EXCLUSIVE,
  MMU_NOTIFY_MIGRATE,
  MMU_NOTIFY_PROTECTION_PAGE,
  MMU_NOTIFY_PROTECTION_VMA,
  MMU_NOTIFY_RELEASE,
  MMU_NOTIFY_SOFT_DIRTY,
  MMU_NOTIFY_UNMAP,
  type MmuNotifierRange,
} from "../../src/mm/types.ts";
import type { GpuSvmCompat } from "../../src/gpusvm/compat.ts";
import { type GpuSvmCtx, gpuSvmCtx } from "../../src/gpusvm/ctx.ts";
import { HAS_DMA_MAPPING } from "../../src/gpusvm/flags.ts";
import { GpuSvm } from "../../src/gpusvm/gpusvm.ts";
import type { GpuSvmNotifier } from "../../src/gpusvm/notifier.ts";
import type { GpuSvmRange } from "../../src/gpusvm/range.ts";
import {
  type AreaSpec,
  ModelProcess,
  OWN,
  type PageRun,
  address,
  bound,
  frameOf,
  hexOf,
  neverWaits,
  now,
} from "./gpusvm-process.ts";

type Line = Readonly<Record<string, unknown>>;
type Pair = readonly [string, string];
type CtxSpec = readonly [number, number, string, number, number];
/** `[n, event, start, end]` */
type InjectSpec = readonly [number, string, string, string];

export interface ReplayResult {
  passed: number;
  failed: number;
  failures: string[];
}

const EVENTS: Readonly<Record<string, number>> = {
  unmap: MMU_NOTIFY_UNMAP,
  clear: MMU_NOTIFY_CLEAR,
  protect: MMU_NOTIFY_PROTECTION_VMA,
  protect_page: MMU_NOTIFY_PROTECTION_PAGE,
  soft_dirty: MMU_NOTIFY_SOFT_DIRTY,
  release: MMU_NOTIFY_RELEASE,
  migrate: MMU_NOTIFY_MIGRATE,
  exclusive: MMU_NOTIFY_EXCLUSIVE,
};
const ULONG_MAX = "0xffffffffffffffff";

/** True for lines of the gpusvm files. */
export function recognises(lines: readonly Line[]): boolean {
  const first = lines[0];
  if (first === undefined || typeof first["v"] !== "string") return false;
  const init = (first["init"] ?? first) as Line;
  return "notifier_size" in init && "chunks" in init && "vma" in init;
}

/** A line counts once, under every version it was recorded from. */
export function replay(file: string, lines: readonly Line[]): ReplayResult {
  const result: ReplayResult = { passed: 0, failed: 0, failures: [] };
  let sequence: Recorded | null = null;
  lines.forEach((line, index) => {
    let failure: string | null;
    try {
      if ("init" in line) {
        const init = line["init"] as Line;
        sequence = new Recorded(versionOf(line), init, (init["pages"] ?? []) as PageRun[]);
        failure = null;
      } else if ("k" in line) failure = compare(sequence!.step(line), line, ["v", "seq", "s", "k"]);
      else failure = replaySingle(line);
    } catch (error) {
      failure = String(error);
    }
    if (failure === null) result.passed += 1;
    else {
      result.failed += 1;
      result.failures.push(`${file}:${index + 1}: ${failure}`);
    }
  });
  return result;
}

function versionOf(line: Line): GpuSvmCompat {
  return line["v"] as GpuSvmCompat;
}

/** `*`: all versions agree. A 6.18 line of the placement file also holds for 7.0. */
function replaySingle(line: Line): string | null {
  const v = line["v"] as string;
  const placement = "addr" in line;
  const versions = v === "*" ? ["6.15", "6.18", "7.0"] : v === "6.18" && placement ? ["6.18", "7.0"] : [v];
  for (const version of versions as GpuSvmCompat[]) {
    const recorded = new Recorded(version, line, line["pages"] as PageRun[]);
    const got = placement ? recorded.placement(line) : recorded.getPagesCase(line);
    const failure = compare(got, line, ["v", "id"]);
    if (failure !== null) return `${version}: ${failure}`;
  }
  return null;
}

/** Every result that the line records must be there and equal; what only names the input is skipped by not being given. */
function compare(got: Line, line: Line, skip: readonly string[]): string | null {
  for (const [key, want] of Object.entries(line)) {
    if (skip.includes(key) || INPUTS.has(key)) continue;
    const have = got[key];
    if (JSON.stringify(have) === JSON.stringify(want)) continue;
    const id = line["id"] ?? `seq ${String(line["seq"])} s ${String(line["s"])}`;
    return `${String(id)}: ${key} is ${JSON.stringify(have)}, recorded ${JSON.stringify(want)}`;
  }
  for (const key of Object.keys(got)) {
    if (!(key in line) && got[key] !== undefined) return `${key} is ${JSON.stringify(got[key])}, nothing recorded`;
  }
  return null;
}

const INPUTS = new Set([
  ...["chunks", "notifier_size", "mm", "vma", "pages", "pre", "addr", "gpuva", "ctx", "mm_dead", "busy", "fail_map"],
  ...["inject", "pre_unmap", "start", "end", "event", "blockable", "write", "page"],
]);

/** One recorded context: the process, its gpusvm and the driver of the recording. */
class Recorded {
  readonly #process: ModelProcess;
  readonly #svm: GpuSvm;
  readonly #version: GpuSvmCompat;
  /** Ranges that an unmap has hit, in that order. */
  readonly #garbage: GpuSvmRange[] = [];
  /** The notifiers told of the event under way, with the ranges hit. */
  #hits: { n: Pair; r: [string, string, number][] }[] = [];

  constructor(version: GpuSvmCompat, init: Line, pages: readonly PageRun[]) {
    this.#version = version;
    this.#process = new ModelProcess(init["vma"] as AreaSpec[], pages);
    const { calls } = this.#process;
    const [mmStart, mmRange] = (init["mm"] as Pair).map(address);
    this.#svm = new GpuSvm({
      name: "recorded",
      drm: {
        dmaMapPage: (pfn) => {
          calls.dmaMap += 1;
          return calls.failsNow ? EFAULT : frameOf(pfn) * 4096;
        },
        dmaUnmapPage: () => {
          calls.dmaUnmap += 1;
        },
      },
      mm: this.#process,
      mmStart,
      mmRange,
      notifierSize: address(init["notifier_size"] as string),
      chunkSizes: (init["chunks"] as string[]).map(address),
      ops: { invalidate: (_svm, notifier, range) => this.#invalidate(notifier, range) },
      scheduler: neverWaits,
      compat: version,
    });
  }

  // The driver of the recording.

  #invalidate(notifier: GpuSvmNotifier, mmuRange: MmuNotifierRange): void {
    const inNotifier = gpuSvmCtx({ inNotifier: true });
    const r: [string, string, number][] = [];
    for (const range of notifier.forEachRange(mmuRange.start, mmuRange.end)) {
      now(this.#svm.rangeUnmapPages(range, inNotifier));
      if (mmuRange.event === MMU_NOTIFY_UNMAP) {
        this.#svm.rangeSetUnmapped(range, mmuRange);
        if (!this.#garbage.includes(range)) this.#garbage.push(range);
      }
      r.push([hexOf(range.start), hexOf(range.end), range.allFlags]);
    }
    this.#hits.push({ n: [hexOf(notifier.start), hexOf(notifier.end)], r });
  }

  #deliver(event: string, start: number, end: number, blockable = true): { hit: Line[]; refused: number } {
    this.#hits = [];
    const { refused } = this.#process.invalidate({ start, end, event: EVENTS[event], blockable, owner: null });
    return { hit: this.#hits as unknown as Line[], refused };
  }

  #remove(range: GpuSvmRange): boolean {
    const before = this.#svm.notifierCount;
    now(this.#svm.rangeRemove(range));
    return this.#svm.notifierCount < before;
  }

  // Single cases.

  placement(line: Line): Line {
    for (const [addr, start, end] of line["pre"] as [string, string, string][]) {
      const range = now(this.#svm.rangeFindOrInsert(address(addr), address(start), bound(end), gpuSvmCtx()));
      if (isErr(range)) throw new Error(`preparing fault at ${addr} failed with ${range}`);
    }
    if (line["mm_dead"] === true) this.#process.alive = false;
    return this.#fault(line);
  }

  getPagesCase(line: Line): Line {
    const [start, end] = (line["range"] as Pair).map(address);
    const created = now(this.#svm.rangeFindOrInsert(start, start, end, gpuSvmCtx({ readOnly: true })));
    if (isErr(created)) throw new Error(`making the range failed with ${created}`);
    if (line["pre_unmap"] !== undefined) {
      const [from, to] = (line["pre_unmap"] as Pair).map(address);
      this.#deliver("unmap", from, to);
    }
    const first = this.#getPages(created, line);
    const again = this.#getPages(created, { ctx: line["ctx"] });
    this.#process.calls.reset();
    this.#remove(created);
    return {
      range: [hexOf(created.start), hexOf(created.end)],
      ...first,
      again,
      remove: { dma_calls: this.#process.calls.list },
    };
  }

  // Steps of a sequence.

  step(line: Line): Line {
    this.#process.calls.reset();
    const result = this.#perform(line);
    const { notifierCount: nn } = this.#svm;
    const ranges = this.#state();
    const nr = ranges.reduce((sum, notifier) => sum + notifier.r.length, 0);
    return { ...result, nn, nr, ...("state" in line ? { state: ranges } : {}) };
  }

  #perform(line: Line): Line {
    const { calls } = this.#process;
    switch (line["k"]) {
      case "fault":
        return this.#fault(line);
      case "get_pages":
        return { range: line["range"], ...this.#getPages(this.#rangeOf(line), line) };
      case "munmap": {
        const [start, end] = interval(line);
        this.#process.unmap(start, end);
        const { hit } = this.#deliver("unmap", start, end);
        return { hit, dma_calls: calls.list };
      }
      case "inv": {
        const [start, end] = interval(line);
        const blockable = line["blockable"] as boolean;
        if (blockable && line["event"] === "clear") this.#process.drop(start, end);
        const { hit, refused } = this.#deliver(line["event"] as string, start, end, blockable);
        return { hit, refused, dma_calls: calls.list };
      }
      case "mprotect": {
        const [start, end] = interval(line);
        this.#process.protect(start, end, line["write"] as boolean);
        const { hit } = this.#deliver("protect", start, end);
        return { hit, dma_calls: calls.list };
      }
      case "populate": {
        const page = line["page"] as PageRun;
        const { hit } = this.#deliver("migrate", address(page[0]), address(page[1]));
        this.#process.populate(page);
        return { hit, dma_calls: calls.list };
      }
      case "mmap":
        this.#process.mmap(line["vma"] as AreaSpec);
        return {};
      case "mm_exit":
        this.#process.alive = false;
        return {};
      case "nop":
        return {};
      case "gc": {
        const removed = this.#garbage.splice(0).map((range) => {
          const names = [hexOf(range.start), hexOf(range.end)];
          return [...names, this.#remove(range) ? 1 : 0];
        });
        return { removed, dma_calls: calls.list };
      }
      case "remove": {
        const range = this.#rangeOf(line);
        const queued = this.#garbage.indexOf(range);
        if (queued >= 0) this.#garbage.splice(queued, 1);
        const gone = this.#remove(range);
        return { range: line["range"], notifier_removed: gone ? 1 : 0, dma_calls: calls.list };
      }
      case "unmap_pages": {
        const range = this.#rangeOf(line);
        now(this.#svm.rangeUnmapPages(range, gpuSvmCtx()));
        return { range: line["range"], flags: range.allFlags, dma_calls: calls.list };
      }
      case "has_mapping": {
        const [start, end] = interval(line);
        const res = this.#svm.hasMapping(start, end);
        if (this.#version === "6.15") return { res };
        const vma = now(this.#svm.findVmaStart(start, end));
        return { res, vma_start: vma === null ? ULONG_MAX : hexOf(vma) };
      }
      default:
        throw new Error(`unknown step ${String(line["k"])}`);
    }
  }

  #fault(line: Line): Line {
    const [gpuvaStart, gpuvaEnd] = line["gpuva"] as Pair;
    const before = this.#count();
    this.#process.checked = [];
    const ctx = ctxOf(line["ctx"] as CtxSpec);
    const range = now(
      this.#svm.rangeFindOrInsert(address(line["addr"] as string), address(gpuvaStart), bound(gpuvaEnd), ctx),
    );
    const checked = this.#process.checked.length > 0 ? { checked: this.#process.checked } : {};
    const after = this.#count();
    if (isErr(range)) {
      if (after.ranges !== before.ranges || after.notifiers !== before.notifiers)
        throw new Error("a failed fault left something");
      if (this.#process.notifierCount !== after.notifiers)
        throw new Error("a failed fault left an interval registered");
      return { ret: range, ...checked };
    }
    const notifier = range.notifier!;
    return {
      ret: 0,
      range: [hexOf(range.start), hexOf(range.end)],
      notifier: [hexOf(notifier.start), hexOf(notifier.end)],
      new: [after.ranges - before.ranges, after.notifiers - before.notifiers],
      flags: range.allFlags,
      ...checked,
    };
  }

  #getPages(range: GpuSvmRange, line: Line): Line {
    const process = this.#process;
    process.calls.reset((line["fail_map"] as number | undefined) ?? 0);
    process.faultLookups = 0;
    process.busy = (line["busy"] as number | undefined) ?? 0;
    const inject = line["inject"] as InjectSpec | undefined;
    let hit: Line[] | undefined;
    process.afterLookup = (n) => {
      if (inject === undefined || n !== inject[0]) return;
      const [, event, start, end] = inject;
      if (event === "unmap") process.unmap(address(start), address(end));
      hit = this.#deliver(event, address(start), address(end)).hit;
    };
    const ret = now(this.#svm.rangeGetPages(range, ctxOf(line["ctx"] as CtxSpec)));
    process.afterLookup = null;
    process.busy = 0;
    return {
      ret,
      flags: range.allFlags,
      hmm_calls: process.faultLookups,
      dma_calls: process.calls.list,
      dma: dmaRuns(range),
      ...(hit === undefined ? {} : { hit }),
    };
  }

  #rangeOf(line: Line): GpuSvmRange {
    const [start, end] = (line["range"] as Pair).map(address);
    const range = this.#svm.notifierFind(start, end)?.rangeFind(start, end) ?? null;
    if (range === null || range.start !== start || range.end !== end)
      throw new Error(`there is no range ${hexOf(start)}`);
    return range;
  }

  #state(): { n: Pair; r: [string, string, number][] }[] {
    return [...this.#svm.forEachNotifier(0, Number.MAX_SAFE_INTEGER)].map((notifier) => ({
      n: [hexOf(notifier.start), hexOf(notifier.end)],
      r: [...notifier.forEachRange(0, Number.MAX_SAFE_INTEGER)].map((range) => [
        hexOf(range.start),
        hexOf(range.end),
        range.allFlags,
      ]),
    }));
  }

  #count(): { ranges: number; notifiers: number } {
    let ranges = 0;
    for (const notifier of this.#svm.forEachNotifier(0, Number.MAX_SAFE_INTEGER)) ranges += notifier.rangeCount;
    return { ranges, notifiers: this.#svm.notifierCount };
  }
}

function interval(line: Line): [number, number] {
  return [address(line["start"] as string), address(line["end"] as string)];
}

function ctxOf([readOnly, devmemPossible, threshold, devmemOnly, allowMixed]: CtxSpec): GpuSvmCtx {
  return gpuSvmCtx({
    readOnly: readOnly === 1,
    devmemPossible: devmemPossible === 1,
    checkPagesThreshold: address(threshold),
    devmemOnly: devmemOnly === 1,
    allowMixed: allowMixed === 1,
    devicePrivatePageOwner: OWN,
  });
}

/** `[count, order, protocol, first address, direction]`; null without mapping. */
function dmaRuns(range: GpuSvmRange): unknown {
  if ((range.allFlags & HAS_DMA_MAPPING) === 0) return null;
  const addrs = range.pages.dmaAddr!;
  const runs: [number, number, number, string, number][] = [];
  let next = -1;
  for (let j = 0; j < addrs.count; j++) {
    const addr = addrs.addr[j];
    const [order, proto, dir] = [addrs.order(j), addrs.proto(j), addrs.dir(j)];
    const run = runs.at(-1);
    if (run !== undefined && run[1] === order && run[2] === proto && run[4] === dir && addr === next) run[0] += 1;
    else runs.push([1, order, proto, hexOf(addr), dir]);
    next = addr + 4096 * 2 ** order;
  }
  return runs;
}
