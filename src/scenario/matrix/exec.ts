import type { KernelSource } from "../../hal/gpu.ts";
import { hi32, lo32 } from "../../base/addr.ts";
import type { Vm } from "../../machine/vm.ts";
import { BATCH_END, FENCE_WORDS, MAX_STORES, STORE_WORD } from "./record.ts";

/**
 * A command streamer as a kernel: it fetches a batch through the address space, executes the stores in it, and signals a
 * fence, so that fetch, store and fence each fault on their own. A batch that is no batch signals nothing.
 *
 * Arguments: 0, 1 batch; 2, 3 fence, a multiple of 8; 4, 5 the fence's value.
 */
const COMMAND_STREAMER: KernelSource = {
  name: "exec",
  wgsl: /* wgsl */ `
const STORE_WORD = ${STORE_WORD}u;
const BATCH_END = ${BATCH_END}u;
const MAX_STORES = ${MAX_STORES}u;

var<private> exec_head: u32;
var<private> exec_tail: u32;
var<private> exec_left: u32;

fn fetch(word: u32) -> u32 {
  if (word < exec_left) { return svm_load(exec_head + word); }
  return svm_load(exec_tail + word - exec_left);
}

fn kernel(item: u32) {
  let batch = arg64(0u);
  let left = 4096u - (batch.x & 4095u);
  exec_left = left / 4u;
  exec_head = svm_read(batch);
  exec_tail = exec_head;
  if (left < 128u) { exec_tail = svm_read(addr_add(batch, left)); }
  if (svm_missed()) { return; }
  var targets: array<u32, MAX_STORES>;
  var values: array<u32, MAX_STORES>;
  var stores = 0u;
  while (stores < MAX_STORES && fetch(4u * stores) == STORE_WORD) {
    targets[stores] = svm_write(vec2u(fetch(4u * stores + 1u), fetch(4u * stores + 2u)));
    values[stores] = fetch(4u * stores + 3u);
    stores++;
  }
  if (svm_missed()) { return; }
  if (fetch(4u * stores) != BATCH_END) { return; }
  let fence = svm_write(arg64(1u));
  if (svm_missed()) { return; }
  for (var i = 0u; i < stores; i++) { svm_store(targets[i], values[i]); }
  svm_store(fence, arg(4u));
  svm_store(fence + 1u, arg(5u));
}`,
  reference(_item, c) {
    const batch = c.args[0]! + c.args[1]! * 2 ** 32;
    const left = 4096 - (batch % 4096);
    const head = c.translate(batch, READ);
    const tail = left < 128 ? c.translate(batch + left, READ) : head;
    if (c.missed) return;
    const fetch = (word: number): number => c.load(word < left / 4 ? head + word : tail + word - left / 4);
    const stores: { at: number; value: number }[] = [];
    while (stores.length < MAX_STORES && fetch(4 * stores.length) === STORE_WORD) {
      const [lo, hi, value] = [1, 2, 3].map((i) => fetch(4 * stores.length + i)) as [number, number, number];
      stores.push({ at: c.translate(lo + hi * 2 ** 32, WRITE), value });
    }
    if (c.missed || fetch(4 * stores.length) !== BATCH_END) return;
    const fence = c.translate(c.args[2]! + c.args[3]! * 2 ** 32, WRITE);
    if (c.missed) return;
    for (const { at, value } of stores) c.store(at, value);
    c.store(fence, c.args[4]!);
    c.store(fence + 1, c.args[5]!);
  },
};

const READ = 0;
const WRITE = 1;

/** Submits the batch at `batch`; resolves when the GPU is done with it. */
export async function exec(m: Vm, batch: number, fence: number): Promise<void> {
  const args = [lo32(batch), hi32(batch), lo32(fence), hi32(fence), ...FENCE_WORDS];
  await m.run(COMMAND_STREAMER, { items: 1, args });
}
