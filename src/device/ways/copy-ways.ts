import { PAGE_SIZE } from "../../base/addr.ts";
import { SHAPES, WAY_DIRECTIONS } from "../path-choice.ts";
import type { PathTable, WayName } from "../path-choice.ts";
import type { BankRuns } from "./bank-runs.ts";
import { CopyStaging } from "./copy-staging.ts";
import { ComputeCopy, CopyPerRun } from "./device-copies.ts";
import { Downloads } from "./download.ts";
import type { Submissions } from "./download.ts";
import { CopyFetch, GatherFetch } from "./fetch.ts";
import { ClearPerRun, ComputeFill, ZeroWrites } from "./fills.ts";
import { PageJobs } from "./page-jobs.ts";
import type { KernelShape, PagePipelines } from "./page-pipelines.ts";
import { Scatter } from "./scatter.ts";
import { StageStager } from "./stage-stager.ts";
import { RingStager, UploadRing } from "./upload-ring.ts";
import { UploadRuns } from "./upload-runs.ts";
import type { CopyWay, Fetch, Stager, WayContext } from "./way.ts";
import { WriteStager } from "./write-stager.ts";

/** The ways that lists are given, and the one that a short list takes behind recorded commands. */
type UploadName = WayName<"upload"> | "stage";
const STAGED_UP_TO = 256 << 10;

/** All ways over one set of buffers. Each is made when it is first taken, and so is what it needs. */
export class CopyWays {
  readonly ring: UploadRing;
  readonly downloads: Downloads;
  readonly staging: CopyStaging;
  readonly #c: WayContext;
  readonly #writes: Stager;
  readonly #stage: Stager;
  readonly #ringStager: Stager;
  readonly #kernels = new Map<KernelShape, PageJobs>();
  readonly #uploads = new Map<string, CopyWay>();
  readonly #fetches = new Map<string, Fetch>();
  readonly #copies = new Map<string, CopyWay>();
  readonly #fills = new Map<string, CopyWay>();

  constructor(context: WayContext) {
    this.#c = context;
    this.staging = new CopyStaging(context.commands);
    this.ring = new UploadRing(context);
    this.downloads = new Downloads(context);
    this.#writes = new WriteStager(context);
    this.#stage = new StageStager(context);
    this.#ringStager = new RingStager(this.ring, this.#writes);
  }

  /** Host to device. The call takes the bytes. */
  upload(name: WayName<"upload">, runs: BankRuns): void {
    const way = this.#behindRecorded(name, runs.pages * PAGE_SIZE);
    made(this.#uploads, way, () => this.#makeUpload(way)).record(runs);
  }

  /** Device to host: resolves when the bytes are there. */
  readback(name: WayName<"readback">, runs: BankRuns): Promise<void> {
    return this.downloads.record(runs, this.fetch(name), submissionsOf(name));
  }

  fetch(name: WayName<"readback">): Fetch {
    return made(this.#fetches, name, () => this.#makeFetch(name));
  }

  /** From one buffer to another, or within one. */
  copy(name: WayName<"device">, runs: BankRuns): void {
    made(this.#copies, name, () => this.#makeCopy(name)).record(runs);
  }

  fill(name: WayName<"fill">, runs: BankRuns): void {
    made(this.#fills, name, () => this.#makeFill(name)).record(runs);
  }

  /** How `bytes` that are no pages go up. */
  stager(name: WayName<"upload">, bytes: number): Stager {
    return this.#stagerOf(this.#behindRecorded(name, bytes));
  }

  /** A write would have to send off first what is recorded; the stage and the ring record their copies behind it. */
  #behindRecorded(name: WayName<"upload">, bytes: number): UploadName {
    if (name !== "writeBuffer per run" || this.#c.commands.isEmpty) return name;
    return bytes <= STAGED_UP_TO ? "stage" : "ring + copy per run";
  }

  #stagerOf(name: UploadName): Stager {
    if (name === "stage") return this.#stage;
    return name.startsWith("ring") ? this.#ringStager : this.#writes;
  }

  beforeSubmit(): void {
    this.ring.beforeSubmit();
  }
  afterSubmit(): void {
    this.ring.afterSubmit();
  }

  destroy(): void {
    this.ring.destroy();
    this.staging.destroy();
    for (const kernel of this.#kernels.values()) kernel.destroy();
  }

  #makeUpload(name: UploadName): CopyWay {
    const stager = this.#stagerOf(name);
    switch (name) {
      case "stage":
      case "writeBuffer per run":
      case "ring + copy per run":
        return new UploadRuns(this.#c, stager);
      case "ring + scatter":
      case "write + scatter, p/wg":
        return new Scatter(this.#c, stager, this.staging, this.#kernel("p/wg"));
      case "write + scatter, p/inv":
        return new Scatter(this.#c, stager, this.staging, this.#kernel("p/inv"));
    }
  }

  #makeFetch(name: WayName<"readback">): Fetch {
    switch (name) {
      case "copy per run + map":
      case "ring: copy + map":
        return new CopyFetch(this.#c);
      case "ring: gather + map":
      case "gather + map, p/wg":
        return new GatherFetch(this.#c, this.staging, this.#kernel("p/wg"));
      case "gather + map, p/inv":
        return new GatherFetch(this.#c, this.staging, this.#kernel("p/inv"));
    }
  }

  #makeCopy(name: WayName<"device">): CopyWay {
    if (name === "copyBuffer per run") return new CopyPerRun(this.#c, this.staging);
    return new ComputeCopy(this.#kernel(name === "compute, p/wg" ? "p/wg" : "p/inv"));
  }

  #makeFill(name: WayName<"fill">): CopyWay {
    switch (name) {
      case "clearBuffer per run":
        return new ClearPerRun(this.#c);
      case "writeBuffer of zeros":
        return new ZeroWrites(this.#c, new ClearPerRun(this.#c));
      case "compute fill":
        return new ComputeFill(this.#kernel("p/wg"));
      case "compute fill, p/inv":
        return new ComputeFill(this.#kernel("p/inv"));
    }
  }

  #kernel(shape: KernelShape): PageJobs {
    return made(this.#kernels, shape, () => new PageJobs(this.#c, this.staging, shape));
  }
}

/** Starts to compile the kernels that lists will want by this table. */
export function compileFor(table: PathTable, pipelines: PagePipelines): void {
  for (const direction of WAY_DIRECTIONS) {
    const steps = SHAPES.flatMap((shape): readonly { way: string }[] => table[direction][shape]);
    for (const { way } of steps) {
      if (!/scatter|gather|compute/.test(way)) continue;
      const shape = way.endsWith("p/inv") ? "p/inv" : "p/wg";
      if (direction === "fill") pipelines.fill(shape);
      else pipelines.copy(shape, direction === "inside");
    }
  }
}

/** A ring submits each slot by itself. */
export function submissionsOf(name: WayName<"readback">): Submissions {
  return name.startsWith("ring") ? "ring" : "one";
}

function made<K, V>(map: Map<K, V>, key: K, make: () => V): V {
  let value = map.get(key);
  if (value === undefined) {
    value = make();
    map.set(key, value);
  }
  return value;
}
