import { batch, computed, signal } from "@preact/signals";
import { proxy, transfer, wrap } from "comlink";
import type { Remote } from "comlink";
import { COUNTERS } from "../worker/protocol.ts";
import type {
  AdapterInfo,
  CopyPathTable,
  Frame,
  FramePull,
  PlainError,
  RunState,
  ScenarioInfo,
  WorkbenchApi,
} from "../worker/protocol.ts";
import { EventLog, hasPlace } from "./event-log.ts";
import { RoundLog } from "./round-log.ts";

/** What the user has chosen to run. */
export type JobChoice =
  | { readonly kind: "scenario"; readonly id: string }
  | { readonly kind: "file"; readonly file: File };

/** A run that does not stop at its next round within this time is ended with its worker, ms. */
const STOP_PATIENCE_MS = 3000;

const IDLE: RunState = {
  phase: "idle",
  run: 0,
  title: "",
  note: "",
  progress: null,
  elapsedMs: 0,
  checks: [],
  report: [],
  error: null,
};

export const adapter = signal<AdapterInfo | null>(null);
/** Why no adapter could be had, or why the device is gone. */
export const trouble = signal<PlainError | null>(null);
export const scenarios = signal<readonly ScenarioInfo[]>([]);
export const job = signal<JobChoice | null>(null);
/** Bytes; null leaves the choice to the scenario. */
export const vramBytes = signal<number | null>(null);
export const seed = signal(1);
/** Least time from round to round, ms. */
export const pace = signal(0);

/** The newest frame; every view of the machine is drawn from it. */
export const frame = signal<Frame | null>(null);
export const run = signal<RunState>(IDLE);
export const events = new EventLog();
export const rounds = new RoundLog();
export const counters = computed(() => frame.value?.counters ?? new Float64Array(COUNTERS.length));

export const busy = computed(() => ["starting", "running", "paused"].includes(run.value.phase));

/** Virtual addresses that the pointer or the selected event is about: shown in both maps. */
export const pointed = signal<{ readonly start: number; readonly end: number } | null>(null);
/** Number of the selected event, 0 none. */
export const selected = signal(0);
export const highlight = computed(() => {
  if (pointed.value !== null) return pointed.value;
  const event = selected.value === 0 ? null : events.get(selected.value);
  return event !== null && hasPlace(event) ? { start: event.start, end: event.end } : null;
});

let worker: Worker;
let api: Remote<WorkbenchApi>;
let port: MessagePort;

/** Starts the worker, or a new one in its place, and asks for the adapter. */
export async function connect(): Promise<void> {
  worker?.terminate();
  port?.close();
  worker = new Worker(new URL("../worker/worker.ts", import.meta.url), { type: "module", name: "webgpu-svm" });
  worker.addEventListener("error", ({ message }) => {
    trouble.value = {
      name: "WorkerError",
      code: "WorkerError",
      message: `the worker failed: ${message || "it did not load"}`,
      detail: {},
    };
  });
  api = wrap<WorkbenchApi>(worker);
  const channel = new MessageChannel();
  port = channel.port1;
  port.onmessage = (event: MessageEvent<Frame>) => receive(event.data);
  await api.connect(transfer(channel.port2, [channel.port2]));
  port.postMessage({ recycle: null } satisfies FramePull);
  scenarios.value = await api.scenarios();
  job.value ??= scenarios.value.length > 0 ? { kind: "scenario", id: scenarios.value[0]!.id } : null;
  const probed = await api.probe();
  batch(() => {
    adapter.value = probed.ok ? probed.value : null;
    trouble.value = probed.ok ? null : probed.error;
  });
}

function receive(next: Frame): void {
  const recycle = frame.peek()?.vram.buffer as ArrayBuffer | undefined;
  batch(() => {
    if (next.run.run !== run.peek().run) {
      events.clear();
      rounds.clear();
      selected.value = 0;
      pointed.value = null;
    }
    events.append(next.events);
    rounds.append(next.rounds);
    run.value = next.run;
    frame.value = next;
    if (next.run.error?.name === "DeviceLostError") trouble.value = next.run.error;
  });
  requestAnimationFrame(() => {
    // The frame before this one has been drawn for the last time: its buffer can carry the next.
    const pull: FramePull = { recycle: recycle ?? null };
    port.postMessage(pull, recycle === undefined ? [] : [recycle]);
  });
}

export async function start(options: { paused: boolean } = { paused: false }): Promise<void> {
  const choice = job.peek();
  if (choice === null) return;
  const started = await api.start({
    job: choice,
    vramBytes: vramBytes.peek(),
    seed: seed.peek(),
    pace: pace.peek(),
    paused: options.paused,
  });
  if (!started.ok) trouble.value = started.error;
}

export function setPace(ms: number): void {
  pace.value = ms;
  void api.setPace(ms);
}

export function pauseOrResume(): void {
  if (run.peek().phase === "paused") void api.resume();
  else void api.pause();
}

/** One round; starts a run that stands before its first round when none is under way. */
export function step(): void {
  if (busy.peek()) void api.step();
  else void start({ paused: true });
}

export async function stop(): Promise<void> {
  const patience = new Promise<"late">((resolve) => setTimeout(() => resolve("late"), STOP_PATIENCE_MS));
  if ((await Promise.race([api.stop(), patience])) !== "late") return;
  run.value = { ...run.peek(), phase: "stopped", note: "the worker did not answer and was replaced" };
  await connect();
}

export const copyPaths = signal<CopyPathTable | null>(null);
export const copyPathsState = signal<{ readonly done: number; readonly text: string } | PlainError | null>(null);

export async function measureCopyPaths(): Promise<void> {
  copyPathsState.value = { done: 0, text: "starting" };
  const onProgress = (done: number, text: string) => (copyPathsState.value = { done, text });
  const measured = await api.measureCopyPaths(proxy(onProgress));
  batch(() => {
    copyPathsState.value = measured.ok ? null : measured.error;
    if (measured.ok) copyPaths.value = measured.value;
  });
}
