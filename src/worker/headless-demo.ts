import { prepareEngine } from "../machine/engine.ts";
import { Machine } from "../machine/machine.ts";
import { mainJobRam, runMainJob } from "../scenario/main-job.ts";
import type { PhaseReport } from "../scenario/main-job.ts";
import { FileOverHttp, TransformedPieces } from "./demo-transfer.ts";
import { post } from "./post.ts";

export interface DemoOptions {
  readonly device: "webgpu" | "reference";
  readonly size: number;
  readonly vramBytes: number;
  /** Gives the whole file. */
  readonly fileUrl: string;
  /** Takes the block checksums, one little-endian word each. */
  readonly crcUrl: string;
  /**
   * Told of each piece of the transformed file `?offset=`, `&bytes=` and `&sha256=`; takes the piece itself, posted to
   * `?offset=`, where it answers that the digest is another.
   */
  readonly transformedUrl: string;
  /** Takes the Perfetto trace of the run; null: none is made. */
  readonly traceUrl: string | null;
}

/** Events of a run that its trace keeps: those of 8 GiB through VRAM, and more. */
const TRACE_EVENTS = 1 << 19;

export interface DemoResult {
  readonly adapter: { vendor: string; architecture: string; description: string; fallback: boolean };
  readonly histogram: readonly number[];
  readonly phases: readonly PhaseReport[];
}

/** The main job over a file that the server holds; all results go back to it, to be checked. scripts/demo.mjs calls it. */
export async function runDemo(
  options: DemoOptions,
  report: (progress: { done: number; text: string }) => void,
): Promise<DemoResult> {
  const { size } = options;
  // The file is on its way while the engine is made ready.
  const file = new FileOverHttp(options.fileUrl, size);
  const machine = new Machine({
    engine: await prepareEngine(options.device),
    ram: mainJobRam(size),
    ...(options.traceUrl === null ? {} : { traceEvents: TRACE_EVENTS }),
  });
  try {
    const device = machine.createDevice({ vram: options.vramBytes });
    const process = machine.createProcess();
    const results = new TransformedPieces(options.transformedUrl);
    const { histogram, crc32, phases } = await runMainJob(process, device.vm(process), file, {
      onTransformed: (offset, bytes) => results.send(offset, bytes),
      onProgress: (phase, done) => report({ done, text: phase }),
    });
    await results.sent();
    await post(options.crcUrl, Uint32Array.from(crc32));
    if (options.traceUrl !== null) await post(options.traceUrl, machine.perfettoTrace());
    return { adapter: device.gpu.info.adapter, histogram: Array.from(histogram), phases };
  } finally {
    await machine.close();
  }
}
