import { REFERENCE_ENGINE } from "../machine/engine.ts";
import { Machine } from "../machine/machine.ts";
import { mainJobRam, runMainJob } from "./main-job.ts";
import * as zlib from "node:zlib";
export async function main() {
  const size = 10_000_003; const bytes = new Uint8Array(size); for (let i=0;i<size;i++) bytes[i] = (Math.imul(i, 2654435761) >>> 13) & 255;
  const machine = new Machine({ engine: REFERENCE_ENGINE, ram: mainJobRam(size) });
  const d = machine.createDevice({ vram: 4 << 20 }); const p = machine.createProcess(); const vm = d.vm(p);
  const out = new Uint8Array(size);
  const r = await runMainJob(p, vm, { size, read: async (o, n) => bytes.subarray(o, o + n) }, { onTransformed(o, b) { out.set(b, o); } });
  for (const ph of r.phases) console.log(ph.name, ph.seconds, JSON.stringify(ph.counters));
  let bad = 0; for (let b = 0; b < r.crc32.length; b++) if ((zlib as any).crc32(bytes.subarray(b*4096, b*4096+4096)) !== r.crc32[b]) bad++;
  const h = new Uint32Array(256); for (const b of bytes) h[b]++;
  console.log("crc bad", bad, "hist", h.every((v,i)=>v===r.histogram[i]));
}
import { EVENT_KINDS, TRACE_STRIDE } from "../base/trace.ts";
export async function main2() {
  const size = 10_000_003; const bytes = new Uint8Array(size);
  const machine = new Machine({ engine: REFERENCE_ENGINE, ram: mainJobRam(size) });
  const d = machine.createDevice({ vram: 4 << 20 }); const p = machine.createProcess(); const vm = d.vm(p);
  await runMainJob(p, vm, { size, read: async (o, n) => bytes.subarray(o, o + n) }, { onTransformed() {} });
  const ev = machine.trace.since(1);
  let n = 0;
  for (let i = 0; i < ev.length && n < 160; i += TRACE_STRIDE) { const k = EVENT_KINDS[ev[i+1]][0]; if (["round","gpu-fault","migrate-to-devmem","evict","launch","launch-end","retry","fault-error"].includes(k)) { n++; console.log(k, ev[i+5].toString(16), ev[i+6].toString(16), ev[i+7]); } }
}
