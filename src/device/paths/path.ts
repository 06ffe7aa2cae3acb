import type { CommandClock } from "../commands.ts";
import type { PathTable } from "../path-choice.ts";
import type { Transfer } from "./transfer.ts";

/**
 * Overview. A copy path is one way to move pages between JavaScript's memory ("host"), staging and device memory. Each
 * has this one interface; `index.ts` lists them. Those that the copy engine takes are its own ways (ways/way.ts), driven by
 * way-path.ts; the rest is here only to be compared. `PathLab` (lab.ts) owns the memory they work on,
 * measures nothing itself but the GPU's own time, and checks that the right bytes arrived.
 *
 * Example.
 *   const lab = await openPathLab({ maxBytes: 2 << 20, seed: 1 });
 *   const copy = await lab.prepare(COPY_PATHS[0], makeTransfer("contiguous", 65536, random));
 *   await copy.run();              // time this
 *   await copy.verify();           // null, or what was wrong
 *   copy.dispose();
 *   lab.close();
 *
 * Where the bytes come from, where they go, and what they are there:
 *   upload    host -> vram
 *   readback  vram -> hostOut
 *   device    vram -> vramOut
 *   fill      vramOut becomes zero
 *   access    host -> where a kernel inverts every word -> hostOut: what the GPU's use of system memory costs
 */
export type Direction = "upload" | "readback" | "device" | "fill" | "access";

export interface CopyPath {
  /** Short and stable: results of different runs are compared by it. */
  readonly name: string;
  readonly direction: Direction;
  /** One sentence for people: how the bytes go. */
  readonly how: string;
  /** A feature without which the path cannot run. */
  readonly needs?: "subgroups";
  /** The name of a path that does exactly the same for this transfer, if there is one. */
  sameAs?(transfer: Transfer): string | null;
  /** Of a path that is another for every size and shape: the name of that one. */
  chosen?(memory: Pick<PathMemory, "paths">, transfer: Transfer): string;
  /** Does everything that is done once per transfer shape: buffers, pipelines, page lists. */
  prepare(memory: PathMemory, transfer: Transfer): Promise<Runner>;
}

/** A path ready to run. Runs of one runner must not overlap. */
export interface Runner {
  /** Moves the bytes once; resolves when they are there. */
  run(): Promise<void>;
  /** Frees what `prepare` made. No run may be under way. */
  dispose(): void;
}

/** The memory that all paths of a lab share. Every area has room for the largest transfer's region. */
export interface PathMemory {
  readonly device: GPUDevice;
  /** Source of uploads. A SharedArrayBuffer where there is one, as the emulated machine's RAM is. */
  readonly host: Uint8Array;
  /** Destination of readbacks. */
  readonly hostOut: Uint8Array;
  /** Destination of uploads; source of readbacks and device copies. */
  readonly vram: GPUBuffer;
  /** Destination of device copies and fills. */
  readonly vramOut: GPUBuffer;
  /** What the copy engine chooses by. */
  readonly paths: PathTable;
  /** Told of the command buffers that do not come from `encoder`. */
  readonly clock: CommandClock | null;
  /** A command encoder; `submit` follows before the next one is asked for. */
  encoder(label: string): GPUCommandEncoder;
  /** Sends the encoder's commands off. */
  submit(encoder: GPUCommandEncoder): void;
  /** Resolves when all submitted work is done. @throws DeviceLostError */
  settled(): Promise<void>;
  /** `promise`, unless the device is lost first. @throws DeviceLostError */
  orLost<T>(promise: Promise<T>): Promise<T>;
}
