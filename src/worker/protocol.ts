/**
 * What passes between the page and the emulator's worker: plain data, no behaviour.
 *
 * Overview. Control calls go through comlink (`WorkbenchApi`). State leaves the worker as frames on a port of its own:
 * the page asks for one per animation frame (`FramePull`), the worker answers as soon as something has changed, so an
 * idle machine costs nothing and a busy one never floods the page. The numbers of a frame are packed typed arrays whose
 * buffers are transferred; the strides below are their record sizes in numbers.
 */

/** Process, start, end, flags (VMA_*). Addresses in bytes, end exclusive. */
export const VMA_STRIDE = 4;
export const VMA_READ = 1;
export const VMA_WRITE = 2;
export const VMA_ANONYMOUS = 4;

/** Process, VM (ASID), start, end, place (RANGE_*). */
export const RANGE_STRIDE = 5;
/** Not mapped for the GPU: invalidated, or its memory is gone. */
export const RANGE_INVALID = 0;
export const RANGE_IN_VRAM = 1;
export const RANGE_IN_SYSTEM = 2;

/** First VRAM page, counted over all devices, pages, start of the virtual addresses it holds (-1 none), process (0 none). */
export const BLOCK_STRIDE = 4;

/** Class of a VRAM page, one byte per page. */
export const PAGE_FREE = 0;
export const PAGE_ZEROED = 1;
/** Set aside for page tables. */
export const PAGE_TABLE = 2;
export const PAGE_RANGE = 3;
export const PAGE_OBJECT = 4;
/** Holds data that the present round moved in or found there, and that must stay until its kernel has run. */
export const PAGE_FRESH = 5;
/** Set aside for a range or object, but holds nothing now. */
export const PAGE_RESERVED = 6;

/** Counters of a machine, in the order in which they stand in `Frame.counters` and in a round record. */
export const COUNTERS = [
  "faults",
  "rounds",
  "bytesIn",
  "bytesOut",
  "evictions",
  "tlbInvalidations",
  "invalidations",
  "cpuFaults",
] as const;
export type CounterName = (typeof COUNTERS)[number];
export const COUNTER = Object.fromEntries(COUNTERS.map((name, i) => [name, i])) as Record<CounterName, number>;

/** Time in ms since the run began, then the increase of every counter during the round. */
export const ROUND_STRIDE = 1 + COUNTERS.length;

/** An error as plain data: comlink alone would drop every field but the message. */
export interface PlainError {
  readonly name: string;
  /** `"EINVAL"`, `"GPUFAULT"`…, or the name where the error has no code. */
  readonly code: string;
  readonly message: string;
  /** What is missing, where it happened, how to get it: fields of the error as they are. */
  readonly detail: Readonly<Record<string, unknown>>;
}

export type Result<T> = { readonly ok: true; readonly value: T } | { readonly ok: false; readonly error: PlainError };

export interface AdapterInfo {
  readonly engine: string;
  /** `"google swiftshader"`: as far as the adapter tells. */
  readonly name: string;
  readonly description: string;
  readonly software: boolean;
  readonly maxBufferBytes: number;
  readonly maxBindingBytes: number;
  /** How the copy engine came by its choice of ways: `"calibrated in 0.7 s"`. */
  readonly copyPaths: string;
  readonly features: readonly string[];
}

export interface ScenarioInfo {
  readonly id: string;
  readonly title: string;
  readonly description: string;
}

export interface RunRequest {
  /** A built-in scenario, or the main job over a file. */
  readonly job: { readonly kind: "scenario"; readonly id: string } | { readonly kind: "file"; readonly file: File };
  /** VRAM for data, bytes. Null leaves the choice to the scenario. */
  readonly vramBytes: number | null;
  readonly seed: number;
  /** Stop before the first round. */
  readonly paused: boolean;
  /** Least time from round to round, ms, so that one can watch; 0: full speed. */
  readonly pace: number;
}

export type Phase = "idle" | "starting" | "running" | "paused" | "passed" | "failed" | "stopped";

export interface Check {
  readonly ok: boolean;
  /** `cfg` holds only for the stated configuration; a failed one fails nothing. */
  readonly kind: "must" | "cfg" | "note";
  readonly text: string;
}

export interface RunState {
  readonly phase: Phase;
  /** Number of the run; state of an older run is void. */
  readonly run: number;
  readonly title: string;
  /** What the job is doing now, one short sentence. */
  readonly note: string;
  /** 0 to 1, or null where the job cannot tell. */
  readonly progress: number | null;
  readonly elapsedMs: number;
  readonly checks: readonly Check[];
  /** Label and value lines of a finished main job. */
  readonly report: readonly (readonly [label: string, value: string])[];
  readonly error: PlainError | null;
}

/** A device of the machine and its VRAM, in pages. */
export interface DeviceSize {
  readonly name: string;
  readonly pages: number;
}

export interface Frame {
  readonly run: RunState;
  readonly counters: Float64Array;
  /** Rounds that ended since the last frame, ROUND_STRIDE numbers each. */
  readonly rounds: Float64Array;
  /** Events since the last frame, TRACE_STRIDE numbers each. */
  readonly events: Float64Array;
  readonly vmas: Float64Array;
  readonly ranges: Float64Array;
  readonly devices: readonly DeviceSize[];
  /** Class of every VRAM page, device behind device. */
  readonly vram: Uint8Array;
  readonly blocks: Float64Array;
}

/** The page asks for the next frame and gives back the largest buffer of the last one. */
export interface FramePull {
  readonly recycle: ArrayBuffer | null;
}

/** One way to move bytes, measured. */
export interface CopyPathRow {
  readonly path: string;
  readonly direction: string;
  /** Bytes per second, in the order of `CopyPathTable.sizes`; null where it was not measured. */
  readonly rates: readonly (number | null)[];
}

export interface CopyPathTable {
  readonly sizes: readonly number[];
  readonly rows: readonly CopyPathRow[];
}

/** The calls that the page makes. None of them throws: errors come back as values. */
export interface WorkbenchApi {
  /** Frames leave through `port`. */
  connect(port: MessagePort): void;
  probe(): Promise<Result<AdapterInfo>>;
  scenarios(): readonly ScenarioInfo[];
  /** Begins a run and returns at once; a run under way is stopped first. */
  start(request: RunRequest): Promise<Result<null>>;
  pause(): void;
  resume(): void;
  /** Lets one round pass and pauses again. */
  step(): void;
  /** Changes `RunRequest.pace` of the run under way. */
  setPace(ms: number): void;
  /** Ends the run at its next round. */
  stop(): Promise<Result<null>>;
  /** Measures the copy paths of this adapter, quickly. `done` goes from 0 to 1. */
  measureCopyPaths(onProgress: (done: number, text: string) => void): Promise<Result<CopyPathTable>>;
}
