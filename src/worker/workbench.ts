import { FramePort } from "./frame-port.ts";
import { RoundGate, StoppedError } from "./gate.ts";
import type { MachineView } from "./machine-view.ts";
import { toPlainError } from "./plain-error.ts";
import type {
  AdapterInfo,
  CopyPathTable,
  Result,
  RunRequest,
  RunState,
  ScenarioInfo,
  WorkbenchApi,
} from "./protocol.ts";
import { Sampler } from "./sampler.ts";

/** What a job tells while it runs. */
export interface JobContext {
  readonly gate: RoundGate;
  /** The machine exists: from here on it is watched. */
  machine(view: MachineView): void;
  /** The machine is about to be closed: from here on its last state is shown. */
  freeze(): void;
  /** Changes what the page shows of the run. */
  tell(change: Partial<Pick<RunState, "title" | "note" | "progress" | "checks" | "report">>): void;
}

/** The work behind the workbench: what there is to run, and the adapter it runs on. */
export interface Jobs {
  probe(): Promise<AdapterInfo>;
  scenarios(): readonly ScenarioInfo[];
  /** Runs to the end. True when everything checked was right. */
  run(request: RunRequest, context: JobContext): Promise<boolean>;
  copyPaths(onProgress: (done: number, text: string) => void): Promise<CopyPathTable>;
}

/** How often the machine is looked at when no round ends, and frames put off are sent, ms. */
const SAMPLE_MS = 50;

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

/** The worker's end of the workbench: one run at a time, watched through frames. */
export class Workbench implements WorkbenchApi {
  readonly #jobs: Jobs;
  readonly #port = new FramePort((recycled) => this.#sampler.frame(this.#state, recycled), now);
  #sampler = new Sampler(null, now);
  #state = IDLE;
  #gate: RoundGate | null = null;
  #began = 0;
  #running: Promise<void> | null = null;

  constructor(jobs: Jobs) {
    this.#jobs = jobs;
    setInterval(() => {
      // A run that waits for the user would never find out: it goes on, to its error.
      if (this.#sampler.isLost) this.resume();
      if (this.#sampler.hasNews) this.#port.changed();
      else this.#port.tick();
    }, SAMPLE_MS);
  }

  connect(port: MessagePort): void {
    this.#port.connect(port);
  }

  probe(): Promise<Result<AdapterInfo>> {
    return asResult(() => this.#jobs.probe());
  }

  scenarios(): readonly ScenarioInfo[] {
    return this.#jobs.scenarios();
  }

  start(request: RunRequest): Promise<Result<null>> {
    return asResult(async () => {
      await this.#end();
      this.#sampler = new Sampler(null, now);
      this.#began = now();
      this.#state = { ...IDLE, phase: "starting", run: this.#state.run + 1 };
      this.#gate = new RoundGate({
        paused: request.paused,
        pace: request.pace,
        onRound: () => this.#round(),
        turn,
        now,
      });
      this.#running = this.#run(request, this.#gate);
      this.#port.changed();
      return null;
    });
  }

  async #run(request: RunRequest, gate: RoundGate): Promise<void> {
    const context: JobContext = {
      gate,
      machine: (view) => {
        this.#sampler = new Sampler(view, now);
        this.#change({ phase: gate.paused ? "paused" : "running" });
      },
      freeze: () => this.#sampler.freeze(),
      tell: (change) => this.#change(change),
    };
    try {
      const passed = await this.#jobs.run(request, context);
      this.#sampler.round();
      this.#change({ phase: passed ? "passed" : "failed" });
    } catch (error) {
      this.#sampler.round();
      if (error instanceof StoppedError) this.#change({ phase: "stopped", note: "stopped" });
      else this.#change({ phase: "failed", error: toPlainError(error) });
    } finally {
      this.#gate = null;
    }
  }

  #round(): void {
    this.#sampler.round();
    this.#change({});
  }

  #change(change: Partial<RunState>): void {
    this.#state = { ...this.#state, ...change, elapsedMs: now() - this.#began };
    this.#port.changed();
  }

  pause(): void {
    this.#gate?.pause();
    if (this.#state.phase === "running") this.#change({ phase: "paused" });
  }

  resume(): void {
    this.#gate?.resume();
    if (this.#state.phase === "paused") this.#change({ phase: "running" });
  }

  step(): void {
    this.#gate?.step();
    if (this.#state.phase === "running") this.#change({ phase: "paused" });
  }

  setPace(ms: number): void {
    this.#gate?.setPace(ms);
  }

  stop(): Promise<Result<null>> {
    return asResult(async () => {
      await this.#end();
      return null;
    });
  }

  async #end(): Promise<void> {
    this.#gate?.stop();
    await this.#running;
  }

  measureCopyPaths(onProgress: (done: number, text: string) => void): Promise<Result<CopyPathTable>> {
    return asResult(async () => {
      await this.#end();
      return this.#jobs.copyPaths(onProgress);
    });
  }
}

function now(): number {
  return performance.now();
}

/** A later turn of the event loop, when the messages that wait now have been handled. */
function turn(): Promise<void> {
  return new Promise((resume) => {
    const channel = new MessageChannel();
    channel.port1.onmessage = () => {
      channel.port1.close();
      resume();
    };
    channel.port2.postMessage(null);
  });
}

async function asResult<T>(work: () => Promise<T>): Promise<Result<T>> {
  try {
    return { ok: true, value: await work() };
  } catch (error) {
    return { ok: false, error: toPlainError(error) };
  }
}
