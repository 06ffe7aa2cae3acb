import { CTL_MAGIC, CTL_SYSTEM_ATOMICS, CTL_TLB_ENABLED, CTL_VERSION, Ctl, CtlHeader } from "../abi/tables.ts";
import type { GpuCounters } from "../hal/gpu.ts";
import { firstSegment } from "./banks.ts";
import type { Commands } from "./commands.ts";
import { FaultQueue } from "./fault-queue.ts";
import type { Geometry } from "./geometry.ts";
import type { Memory } from "./memory.ts";
import type { Pipelines } from "./pipelines.ts";
import { PtWriter } from "./pt-writer.ts";
import type { Readback } from "./readback.ts";
import { Tlb } from "./tlb.ts";
import { TlbUse } from "./tlb-use.ts";
import type { TlbSetting } from "./tlb-use.ts";
import { Translator } from "./translator.ts";

/** What the tiles of a device share. */
export interface TileContext {
  readonly commands: Commands;
  readonly memory: Memory;
  readonly pipelines: Pipelines;
  readonly readback: Readback;
  readonly counters: GpuCounters;
}

/** How the tables of a tile begin. */
export interface TileOptions {
  /** Whether batches of translations look into the TLB first. Default "auto". */
  readonly tlb?: TlbSetting;
  /** Atomics on the system window are allowed. Default off. */
  readonly systemAtomics?: boolean;
  /** For tests: where the free-running counters of the fault queue begin each round. Default 0. */
  readonly faultQueueStart?: number;
}

/**
 * One tile (spec/device.md 1.1): what a card has once per tile besides memory. A dispatch runs on one tile: it binds that
 * tile's tables, and may touch the memory of all.
 */
export class Tile {
  readonly index: number;
  readonly ctl: GPUBuffer;
  readonly faultQueue: FaultQueue;
  readonly ptWriter: PtWriter;
  readonly tlb: Tlb;
  readonly translator: Translator;
  /** Groups 0 of the table engines and of kernels. */
  readonly tables: GPUBindGroup;
  readonly kernelMemory: GPUBindGroup;

  /** Out of memory is reported in the scopes of the caller. */
  constructor(context: TileContext, index: number, options: TileOptions) {
    const { commands, memory, pipelines, readback, counters } = context;
    const { device } = commands;
    const { geometry } = memory;
    this.index = index;
    this.ctl = createCtl(device, geometry, index, options);
    this.faultQueue = new FaultQueue(commands, readback, geometry.shape, options.faultQueueStart);
    const queue = this.faultQueue.buffer;
    const segment = memory.banks[firstSegment(geometry, index)]!;
    this.tables = group(device, pipelines.tables, [segment, this.ctl, queue]);
    this.kernelMemory = group(device, pipelines.kernelMemory, [...memory.banks, this.ctl, queue]);
    this.ptWriter = new PtWriter(commands, memory, pipelines, counters, index);
    this.tlb = new Tlb(commands, pipelines, counters, this.ctl, this.tables);
    const use = new TlbUse(options.tlb ?? "auto");
    this.translator = new Translator({ ...context, tile: this, use });
  }

  /** Records what walks must see. Entries first: an invalidation must not be followed by the entry it is for. */
  settle(): void {
    this.ptWriter.emit();
    this.tlb.emit();
  }

  destroy(): void {
    this.translator.destroy();
    this.faultQueue.destroy();
    this.tlb.destroy();
  }
}

function createCtl(device: GPUDevice, { shape }: Geometry, tile: number, options: TileOptions): GPUBuffer {
  const ctl = device.createBuffer({
    label: "ctl",
    size: Ctl.size,
    usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST,
  });
  const header = new Uint32Array(CtlHeader.size / 4);
  const { word } = CtlHeader;
  header[word.magic] = CTL_MAGIC;
  header[word.version] = CTL_VERSION;
  header[word.nseg] = shape.nseg;
  header[word.seg_shift] = shape.segShift;
  header[word.pt_bytes] = shape.ptBytes;
  header[word.sysw_bytes] = shape.syswBytes;
  header[word.tile] = tile;
  header[word.flags] =
    (options.tlb === "off" ? 0 : CTL_TLB_ENABLED) | (options.systemAtomics === true ? CTL_SYSTEM_ATOMICS : 0);
  header[word.tile_bytes_lo] = shape.tileBytes[tile]! >>> 0;
  header[word.tile_bytes_hi] = Math.floor(shape.tileBytes[tile]! / 2 ** 32);
  device.queue.writeBuffer(ctl, 0, header);
  return ctl;
}

function group(device: GPUDevice, layout: GPUBindGroupLayout, buffers: readonly GPUBuffer[]): GPUBindGroup {
  return device.createBindGroup({
    layout,
    entries: buffers.map((buffer, binding) => ({ binding, resource: { buffer } })),
  });
}
