import { DeviceLostError } from "../base/errors.ts";
import type { LaunchStream } from "../driver/stream-ahead.ts";
import type { Kernel, KernelSource } from "../hal/gpu.ts";
import type { World } from "./world.ts";

const READ = 0;
const WRITE = 1;
/** Words of input per item: store or load, address (low, high), value. */
const ITEM_WORDS = 4;

/** One load or store per item. */
const SOURCE: KernelSource = {
  name: "explore",
  wgsl: "",
  reference(item, c) {
    const at = item * ITEM_WORDS;
    const isStore = c.input[at] === WRITE;
    const place = c.translate(c.input[at + 1]! + c.input[at + 2]! * 2 ** 32, isStore ? WRITE : READ);
    if (c.missed) return;
    if (isStore) c.store(place, c.input[at + 3]!);
    else c.out[item] = c.load(place);
  },
};

export interface GpuAccess {
  readonly addr: number;
  /** Null: a load. */
  readonly store: number | null;
}

/** The words loaded, 0 for stores; or the reason why the launch failed. `streams`: what the items walk through, if they say so. */
export async function launch(
  world: World,
  vm: number,
  accesses: readonly GpuAccess[],
  streams: readonly LaunchStream[] = [],
  tile = 0,
): Promise<Uint32Array | string> {
  const input = new Uint32Array(accesses.length * ITEM_WORDS);
  accesses.forEach(({ addr, store }, i) => {
    const hi = Math.floor(addr / 2 ** 32);
    input.set([store === null ? READ : WRITE, addr - hi * 2 ** 32, hi, store ?? 0], i * ITEM_WORDS);
  });
  try {
    const { svm } = world.vms[vm]!;
    const kernel: Kernel = await svm.device.gpu.compile(SOURCE);
    const items = accesses.length;
    const { fault, out } = await svm.launch(kernel, { items, input, outWords: items, streams, tile });
    return fault === null ? out : fault.reason;
  } catch (error) {
    if (error instanceof DeviceLostError) return error.message;
    throw error;
  }
}
