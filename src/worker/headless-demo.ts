import { prepareEngine } from "../machine/engine.ts";
import { Machine } from "../machine/machine.ts";
import { mainJobRam, runMainJob } from "../scenario/main-job.ts";
import type { ByteSource, PhaseReport } from "../scenario/main-job.ts";
import { post } from "./post.ts";

export interface DemoOptions {
  readonly device: "webgpu" | "reference";
  readonly size: number;
  readonly vramBytes: number;
  /** Answers ranges of the file. */
  readonly fileUrl: string;
  /** Takes the block checksums, one little-endian word each. */
  readonly crcUrl: string;
  /** Takes pieces of the transformed file, with `?offset=` of each. */
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
  const machine = new Machine({
    engine: await prepareEngine(options.device),
    ram: mainJobRam(size),
    ...(options.traceUrl === null ? {} : { traceEvents: TRACE_EVENTS }),
  });
  try {
    const device = machine.createDevice({ vram: options.vramBytes });
    const process = machine.createProcess();
    let sent: Promise<void> = Promise.resolve();
    const { histogram, crc32, phases } = await runMainJob(process, device.vm(process), new FileOverHttp(options), {
      async onTransformed(offset, bytes) {
        const piece = bytes.slice();
        // The server checks one piece while the CPU of the machine reads the next.
        await sent;
        sent = post(`${options.transformedUrl}?offset=${offset}`, piece);
      },
      onProgress: (phase, done) => report({ done, text: phase }),
    });
    await sent;
    await post(options.crcUrl, Uint32Array.from(crc32));
    if (options.traceUrl !== null) await post(options.traceUrl, machine.perfettoTrace());
    return { adapter: device.gpu.info.adapter, histogram: Array.from(histogram), phases };
  } finally {
    await machine.close();
  }
}

/** Ranges of the file, each asked for while the one before it is in use. */
class FileOverHttp implements ByteSource {
  readonly size: number;
  readonly #url: string;
  #ahead: { readonly offset: number; readonly bytes: Promise<Uint8Array> } | null = null;

  constructor({ fileUrl, size }: DemoOptions) {
    this.#url = fileUrl;
    this.size = size;
  }

  async read(offset: number, length: number): Promise<Uint8Array> {
    const bytes = await (this.#ahead?.offset === offset ? this.#ahead.bytes : this.#fetch(offset, length));
    const next = offset + length;
    const left = Math.min(length, this.size - next);
    this.#ahead = left > 0 ? { offset: next, bytes: this.#fetch(next, left) } : null;
    // A failure is seen by the read that wants the bytes.
    this.#ahead?.bytes.catch(() => undefined);
    return bytes;
  }

  async #fetch(offset: number, length: number): Promise<Uint8Array> {
    const response = await fetch(this.#url, { headers: { Range: `bytes=${offset}-${offset + length - 1}` } });
    const bytes = new Uint8Array(await response.arrayBuffer());
    if (bytes.length !== length) throw new Error(`the file ended at ${offset + bytes.length} of ${this.size} bytes`);
    return bytes;
  }
}
