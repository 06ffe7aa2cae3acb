import { expect } from "vitest";
import { PAGE_SIZE, hi32, lo32 } from "../src/base/addr.ts";
import type { ReferenceKernelContext } from "../src/hal/gpu.ts";
import { Machine } from "../src/machine/machine.ts";
import type { DeviceOptions, Engine, VmConfig } from "../src/machine/machine.ts";
import type { Process } from "../src/machine/process.ts";
import type { KernelBuffer, KernelOptions, Vm } from "../src/machine/vm.ts";
import { checkInvariants } from "../src/mm/invariants.ts";

/** What tests of launches that are ahead of their faults work in: a machine, and a kernel from pages to pages. */
const MIB = 1 << 20;
export const CHUNK = 2 * MIB;
export const FACTOR = 3;
/** The first page of a system window is never given out. */
export const windowOf = (bytes: number): number => bytes + PAGE_SIZE;

export interface StreamWorld {
  readonly machine: Machine;
  readonly process: Process;
  readonly vm: Vm;
}

export interface WorldShape {
  readonly config?: Partial<VmConfig>;
  readonly device?: DeviceOptions;
  readonly tile?: number;
  readonly ram?: number;
}

export function makeStreamWorld(engine: Engine, shape: WorldShape = {}): StreamWorld {
  const { config = {}, device = {}, tile = 0, ram = 64 * MIB } = shape;
  const machine = new Machine({ engine, ram, config });
  const gpu = machine.createDevice({ vram: 4 * MIB, window: windowOf(4 * MIB), ...device });
  const process = machine.createProcess();
  return { machine, process, vm: gpu.vm(process).onTile(tile) };
}

/** Everything back where it came from: nothing is held, no page is locked, and the memory manager is in order. */
export async function closeWorld({ machine, process, vm }: StreamWorld): Promise<void> {
  await machine.settle();
  checkInvariants(machine.phys);
  await process.exit();
  await machine.settle();
  expect(vm.device.driver.vramUsed).toBe(0);
  checkInvariants(machine.phys);
  await machine.close();
}

/** Words of `x`, of which no two pages have the same. */
export function pattern(words: number): Uint32Array {
  return Uint32Array.from({ length: words }, (_, i) => Math.imul(i + 1, 2654435761));
}

/** Index of the first word that differs, -1: none does. `toEqual` of so many words takes seconds. */
export function firstDifference(bytes: Uint8Array, words: ArrayLike<number>): number {
  const found = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
  return found.length === words.length ? found.findIndex((word, i) => word !== words[i]) : -2;
}

/** Item i: words `[i * per, (i + 1) * per)` of y, of those below `words`, become three times those of x, plus i. */
export interface Triple {
  readonly x: number;
  readonly y: number;
  readonly words: number;
  readonly per: number;
  /** From the last item to the first. */
  readonly isBackwards?: boolean;
}

/** Arguments: x, y, words of an item, all words, words between a page and x, which is as many for y, last item or 0. */
const TRIPLE = `
  fn after_page(w: u32) -> u32 { return ((arg(6u) + w) / 1024u + 1u) * 1024u - arg(6u); }
  fn kernel(item: u32) {
    let i = select(item, arg(7u) - item, arg(7u) != 0u);
    let first = i * arg(4u);
    let end = min(first + arg(4u), arg(5u));
    for (var w = first; w < end; w = after_page(w)) {
      _ = svm_read(addr_add(arg64(0u), w * 4u));
      _ = svm_write(addr_add(arg64(1u), w * 4u));
    }
    if (svm_missed()) { return; }
    for (var w = first; w < end; w = after_page(w)) {
      let source = svm_read(addr_add(arg64(0u), w * 4u));
      let to = svm_write(addr_add(arg64(1u), w * 4u));
      let n = min(after_page(w), end) - w;
      for (var k = 0u; k < n; k++) { svm_store(to + k, svm_load(source + k) * ${FACTOR}u + i); }
    }
  }`;

export const addressOf = (c: ReferenceKernelContext, i: number): number =>
  c.args[2 * i + 1]! * 2 ** 32 + c.args[2 * i]!;

function tripleReference(item: number, c: ReferenceKernelContext): void {
  const [per, words, offset, last] = c.args.subarray(4, 8) as unknown as [number, number, number, number];
  const i = last === 0 ? item : last - item;
  const first = i * per;
  const end = Math.min(first + per, words);
  const [x, y] = [addressOf(c, 0), addressOf(c, 1)];
  const afterPage = (w: number) => (Math.floor((offset + w) / 1024) + 1) * 1024 - offset;
  for (let w = first; w < end; w = afterPage(w)) {
    c.translate(x + w * 4, 0);
    c.translate(y + w * 4, 1);
  }
  if (c.missed) return;
  for (let w = first; w < end; w = afterPage(w)) {
    const from = c.translate(x + w * 4, 0);
    const to = c.translate(y + w * 4, 1);
    const n = Math.min(afterPage(w), end) - w;
    for (let k = 0; k < n; k++) c.store(to + k, Math.imul(c.load(from + k), FACTOR) + i);
  }
}

/** The launch of it, over `items` items. */
export function runTriple(
  vm: Vm,
  { x, y, words, per, isBackwards = false }: Triple,
  items: number,
  options: Partial<KernelOptions> = {},
): Promise<Uint32Array> {
  const offset = (x % PAGE_SIZE) / 4;
  return vm.kernel(TRIPLE, {
    items,
    args: [lo32(x), hi32(x), lo32(y), hi32(y), per, words, offset, isBackwards ? items - 1 : 0],
    reference: tripleReference,
    ...options,
  });
}

/** What y must be afterwards. */
export function tripled(source: Uint32Array, per: number): Uint32Array {
  return source.map((word, w) => Math.imul(word, FACTOR) + Math.floor(w / per));
}

export const streamsOf = ({ x, y, words }: Triple): KernelBuffer[] => [
  { at: x, bytes: words * 4, access: "read" },
  { at: y, bytes: words * 4, access: "write" },
];

interface Delta {
  readonly rounds: number;
  readonly passes: number;
}

/** Rounds and passes that `work` took. */
export async function spent(vm: Vm, work: () => Promise<unknown>): Promise<Delta> {
  const passes = () => vm.stats.get("wgsvm_stream_pass_count");
  const before = { rounds: vm.counters.rounds, passes: passes() };
  await work();
  return { rounds: vm.counters.rounds - before.rounds, passes: passes() - before.passes };
}

/** An area of pages with a pattern, and one for the results, of ones. */
export async function makeTriple(process: Process, bytes: number): Promise<Triple & { source: Uint32Array }> {
  const [x, y] = [await process.mmap(bytes, { align: CHUNK }), await process.mmap(bytes, { align: CHUNK })];
  const source = pattern(bytes / 4);
  await process.write(x, source);
  await process.fill(y, bytes, 1);
  return { x, y, words: bytes / 4, per: PAGE_SIZE / 4, source };
}
