import { runBench } from "../bench/index.ts";
import type { BenchRow } from "../bench/index.ts";
import { ConfigError } from "../base/errors.ts";
import { SZ_2M } from "../base/addr.ts";
import { prepareEngine } from "../machine/engine.ts";
import type { Engine } from "../machine/machine.ts";
import { BUILTIN_SCENARIOS } from "../scenario/builtin.ts";
import { runScenarioModule } from "../scenario/run.ts";
import { runFileJob } from "./file-job.ts";
import { MachineProbe } from "./machine-probe.ts";
import type { AdapterInfo, Check, CopyPathTable, RunRequest, ScenarioInfo } from "./protocol.ts";
import type { JobContext, Jobs } from "./workbench.ts";

/** Scenarios, the main job and the benchmark, on WebGPU. */
export class MachineJobs implements Jobs {
  #engine: Promise<Engine> | null = null;

  /** One engine serves all runs; a failed attempt may be repeated. */
  #prepare(): Promise<Engine> {
    if (this.#engine !== null) return this.#engine;
    const engine = prepareEngine("webgpu", { copyPaths: "calibrate" });
    engine.catch(() => (this.#engine = null));
    this.#engine = engine;
    return engine;
  }

  async probe(): Promise<AdapterInfo> {
    const engine = await this.#prepare();
    // A GPU of the least size, for what it tells of its adapter.
    const gpu = engine.createGpu({
      vramBytes: 2 * SZ_2M,
      ptBytes: SZ_2M / 2,
      syswBytes: 0,
      faultQueueCapacity: 64,
      hostMemory: new Uint8Array(SZ_2M),
    });
    const { adapter, limits, features, engine: name } = gpu.info;
    gpu.destroy();
    return {
      engine: name,
      name:
        [adapter.vendor, adapter.architecture].filter((part) => part !== "").join(" ") ||
        adapter.description ||
        "unnamed",
      description: adapter.description,
      software: adapter.fallback || /swiftshader|llvmpipe/i.test(`${adapter.architecture} ${adapter.description}`),
      maxBufferBytes: limits["maxBufferSize"] ?? 0,
      maxBindingBytes: limits["maxStorageBufferBindingSize"] ?? 0,
      copyPaths: choiceText(engine.copyPaths),
      features,
    };
  }

  scenarios(): readonly ScenarioInfo[] {
    return BUILTIN_SCENARIOS.map(({ id, title, description }) => ({ id, title, description }));
  }

  async run(request: RunRequest, context: JobContext): Promise<boolean> {
    const engine = await this.#prepare();
    const { job, vramBytes } = request;
    if (job.kind === "file") return runFileJob(engine, job.file, vramBytes, context);
    return this.#runScenario(engine, job.id, request, context);
  }

  async #runScenario(engine: Engine, id: string, request: RunRequest, context: JobContext): Promise<boolean> {
    const scenario = BUILTIN_SCENARIOS.find((candidate) => candidate.id === id);
    if (scenario === undefined) throw new ConfigError("scenario", `there is none called "${id}"`);
    context.tell({ title: scenario.title });
    let checks: readonly Check[] = [];
    const result = await runScenarioModule(
      {
        ...scenario.module,
        default: async (s) => {
          try {
            await scenario.module.default(s);
            await s.settle();
          } finally {
            context.freeze();
          }
        },
      },
      {
        engine,
        seed: request.seed,
        ...(request.vramBytes === null ? {} : { vram: request.vramBytes }),
        onCheck: ({ kind, ok, text }) => {
          checks = [...checks, { kind, ok, text }];
          context.tell({ checks });
        },
        onMachine: (machine) => {
          machine.sched.gate = context.gate.pass;
          context.machine(new MachineProbe(machine));
        },
      },
    );
    if (result.error !== null) throw result.error;
    return result.passed;
  }

  async copyPaths(onProgress: (done: number, text: string) => void): Promise<CopyPathTable> {
    const result = await runBench({ quick: true, filter: "paths/" }, ({ done, text }) => onProgress(done, text));
    return tableOf(result.rows);
  }
}

/** One row per path and direction, a column per size; the bounds that were measured beside them come last. */
function tableOf(rows: readonly BenchRow[]): CopyPathTable {
  const sizes = [...new Set(rows.map(({ bytes }) => bytes))].sort((a, b) => a - b);
  const paths = new Map<string, { path: string; direction: string; rates: (number | null)[] }>();
  for (const row of rows) {
    const key = `${row.kind}/${row.name}`;
    const path = paths.get(key) ?? { path: row.name, direction: row.kind, rates: sizes.map(() => null) };
    if (row.ms !== null && row.error === null && row.ms.median > 0) {
      path.rates[sizes.indexOf(row.bytes)] = (row.bytes * 1000) / row.ms.median;
    }
    paths.set(key, path);
  }
  return {
    sizes,
    rows: [...paths.values()].sort((a, b) => Number(a.direction === "bound") - Number(b.direction === "bound")),
  };
}

function choiceText(paths: Engine["copyPaths"]): string {
  if (paths === undefined) return "no choice";
  if (paths.source === "cached") return "as calibrated before";
  if (paths.source !== "calibrated") return `${paths.source} choice`;
  return `calibrated in ${((paths.calibrationMs ?? 0) / 1000).toFixed(1)} s`;
}
