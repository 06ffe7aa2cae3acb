import { test } from "vitest";
import { PTE_AE, PTE_DM, PTE_W, encodeLeaf } from "../../src/abi/pte.ts";
import { decodeFault } from "../../src/abi/fault.ts";
import { AP_HOST, AP_VRAM, PageList } from "../../src/hal/gpu.ts";
import { MIB, TestTables, bootGpu, fillPages } from "./support.ts";
const RW = PTE_W | PTE_AE | PTE_DM;
const now = () => performance.now();
async function med(n: number, f: () => Promise<void>) { const t: number[] = []; for (let i = 0; i < n; i++) { const a = now(); await f(); t.push(now() - a); } t.sort((x, y) => x - y); return t[n >> 1]!.toFixed(2); }
const BASE = 0x7f00_0000_0000;
test("bench", async () => {
  const host = new Uint8Array(new SharedArrayBuffer(64 * MIB));
  const t = await bootGpu({ vramBytes: 128 * MIB, hostMemory: host, ptBytes: 4 * MIB, syswBytes: 0 });
  const H = 4 * 256;
  fillPages(t.hostWords, 0, 16384, 3);
  const log: string[] = [];
  const T = new TestTables(t.gpu, 1);
  const N = 16384;
  const args = [BASE % 2 ** 32, Math.floor(BASE / 2 ** 32)];
  const sum = await t.gpu.compile({ name: "sum", wgsl: `fn kernel(item: u32) {
  let at = svm_read(addr_add(arg64(0u), item * 4096u));
  if (svm_missed()) { return; }
  var sum = 0u;
  for (var w = 0u; w < 1024u; w++) { sum += svm_load(at + w); }
  svm_out(item, sum); }` });
  const word = await t.gpu.compile({ name: "gather", wgsl: `fn kernel(item: u32) {
  let at = svm_read(addr_add(arg64(0u), ((item * 2654435761u) & 0xffffffu) << 2u));
  if (svm_missed()) { return; }
  svm_out(item, svm_load(at)); }` });
  // cold: one round all misses
  const cold = async (items: number, k: any) => { const l = t.gpu.launch(k, { asid: 1, items, args, outWords: items }); const r = await l.round(); l.end(); return r; };
  T.map(BASE + 2 ** 36, H * 4096, RW);
  log.push(`cold round 16384 items all miss: ${await med(7, async () => { await cold(N, sum); })}`);
  log.push(`cold round 4096 items: ${await med(7, async () => { await cold(4096, sum); })}`);
  log.push(`cold round 64 items: ${await med(7, async () => { await cold(64, sum); })}`);
  log.push(`cold gather 1M items 16384 pages: ${await med(3, async () => { await cold(1 << 20, word); })}`);
  for (let i = 0; i < N; i++) T.map(BASE + i * 4096, (H + (i * 8191) % N) * 4096, RW);
  t.gpu.flush(); await t.gpu.idle();
  const warm = async (items: number, k: any) => { const l = t.gpu.launch(k, { asid: 1, items, args, outWords: items }); const r = await l.round(); if (r.remaining) throw new Error("miss " + r.remaining); l.end(); };
  log.push(`warm sum 64MiB: ${await med(7, async () => warm(N, sum))}`);
  log.push(`warm gather 1M: ${await med(5, async () => warm(1 << 20, word))}`);
  log.push(`warm 64 items: ${await med(9, async () => warm(64, sum))}`);
  // plain
  const { device } = await (await import("../../src/device/index.ts")).requestGpuDevice();
  const raw = device.createBuffer({ size: 128 * MIB, usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST | GPUBufferUsage.COPY_SRC });
  const out = device.createBuffer({ size: 4 * MIB, usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST | GPUBufferUsage.COPY_SRC });
  const pipe = (code: string) => device.createComputePipeline({ layout: "auto", compute: { module: device.createShaderModule({ code }) } });
  const head = `@group(0) @binding(0) var<storage, read_write> d: array<u32>; @group(0) @binding(1) var<storage, read_write> o: array<u32>;\n`;
  const p1 = pipe(head + `@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) { let item = id.x; var s = 0u; let at = item * 1024u; for (var w = 0u; w < 1024u; w++) { s += d[at + w]; } o[item] = s; }`);
  const p2 = pipe(head + `@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) { let item = id.x; o[item] = d[(item * 2654435761u) & 0xffffffu]; }`);
  for (const [name, p, n] of [["sum", p1, N], ["gather", p2, 1 << 20]] as const) {
    const g = device.createBindGroup({ layout: p.getBindGroupLayout(0), entries: [{ binding: 0, resource: { buffer: raw } }, { binding: 1, resource: { buffer: out } }] });
    log.push(`plain ${name}: ${await med(7, async () => { const e = device.createCommandEncoder(); const c = e.beginComputePass(); c.setPipeline(p); c.setBindGroup(0, g); c.dispatchWorkgroups(n / 64); c.end(); device.queue.submit([e.finish()]); await device.queue.onSubmittedWorkDone(); })}`);
  }
  console.log(log.join("\n"));
}, 120000);
