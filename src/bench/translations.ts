import { PAGE_SIZE, fromHiLo, hi32, lo32 } from "../base/addr.ts";
import { Random } from "../base/random.ts";
import { REQUEST_NO_RECORD, Request, Result, STATUS_VRAM } from "../abi/tables.ts";
import { requestGpuDevice } from "../device/index.ts";
import { WebGpu } from "../device/gpu.ts";
import type { TlbSetting } from "../device/tlb-use.ts";
import { makePlainKernel } from "../device/plain.ts";
import { REQUEST_WORDS, RESULT_WORDS } from "../hal/gpu.ts";
import type { Gpu } from "../hal/gpu.ts";
import type { BenchContext } from "./group.ts";
import { measure } from "./harness.ts";
import type { Case } from "./harness.ts";
import { KERNEL_ASID, KERNEL_BASE, KERNEL_ROOT, mapScattered } from "./kernel-space.ts";
import type { BenchRow } from "./result.ts";

/**
 * How fast the batch translator is: the translation of random addresses, against a kernel on plain bindings that loads the
 * same four entries of the same tables, each for the address of the next, and checks nothing. Both get the requests from
 * the host and give the results back to it.
 *
 * The translator is measured as it comes, which walks or looks into the TLB as its hits advise (device/tlb-use.ts), and with
 * the TLB off and on. `hits`: all requests are for as many pages as the TLB holds at once; else for twelve times as many.
 */
const KIND = "translate";
const REQUESTS = 1 << 18;
const QUICK_REQUESTS = 1 << 16;
const CHAIN_NAME = "dependent loads";
const TRANSLATORS: readonly { name: string; tlb: TlbSetting; hits: boolean }[] = [
  { name: "batch translator", tlb: "auto", hits: false },
  { name: "batch translator, hits", tlb: "auto", hits: true },
  { name: "TLB off", tlb: "off", hits: false },
  { name: "TLB on", tlb: "on", hits: false },
  { name: "TLB on, hits", tlb: "on", hits: true },
];
const NAMES = [CHAIN_NAME, ...TRANSLATORS.map(({ name }) => name)];
const MIB = 1 << 20;
/** Pages that are mapped, of 4 KiB. */
const PAGES = 12288;
/** Of them, those of the requests that hit: half as many as the TLB has entries. */
const HOT_PAGES = 512;

const CHAIN = `
${Request.wgsl}
${Result.wgsl}
@group(0) @binding(0) var<storage, read_write> tables: array<u32>;
@group(0) @binding(1) var<storage, read_write> requests: array<Request>;
@group(0) @binding(2) var<storage, read_write> results: array<Result>;
fn entry(table: u32, twice: u32) -> vec2u {
  let at = ((table & 0xfffff000u) >> 2u) + twice;
  return vec2u(tables[at], tables[at + 1u]);
}
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let lo = requests[id.x].va_lo;
  let hi = requests[id.x].va_hi;
  let e3 = entry(${KERNEL_ROOT}u, (hi >> 6u) & 0x3feu);
  let e2 = entry(e3.x, ((hi << 3u) & 0x3f8u) | ((lo >> 29u) & 6u));
  let e1 = entry(e2.x, (lo >> 20u) & 0x3feu);
  let e0 = entry(e1.x, (lo >> 11u) & 0x3feu);
  results[id.x] = Result(0u, (e0.x & 0xfffff000u) | (lo & 0xfffu), e0.y, 0u);
}`;

/** The rows of the kind "translate" that are selected. */
export async function measureTranslations(context: BenchContext, group: string): Promise<BenchRow[]> {
  const { quick, random, now } = context;
  const count = quick ? QUICK_REQUESTS : REQUESTS;
  const rows = NAMES.map((name) => ({ group, kind: KIND, name, bytes: count * Request.size, layout: "" }));
  if (!rows.some((row) => context.selected(row))) return [];
  const acquired = await requestGpuDevice();
  context.gpu(acquired);
  const gpus: Gpu[] = [];
  try {
    let places: Uint32Array = new Uint32Array(0);
    for (const { tlb } of TRANSLATORS) {
      // From the seed, so that all have the same tables.
      const hostMemory = new Uint8Array(PAGE_SIZE);
      const config = { vramBytes: 64 * MIB, ptBytes: MIB, syswBytes: 0, faultQueueCapacity: 1024, hostMemory };
      const gpu = WebGpu.createOn(acquired, config, { tlb });
      gpus.push(gpu);
      places = mapScattered(gpu, PAGES, MIB / PAGE_SIZE, new Random(context.seed));
    }
    const spread = randomRequests(random, count, places);
    const hot = randomRequests(random, count, places.subarray(0, HOT_PAGES));
    const { requests } = spread;
    const workOf = (i: number) => (i > 0 && TRANSLATORS[i - 1]!.hits ? hot : spread);
    const results = new Uint32Array(count * RESULT_WORDS);
    const tables = new Uint32Array((await gpus[0]!.readVram(0, MIB)).buffer);
    const chain = await makePlainKernel(acquired, {
      wgsl: CHAIN,
      buffers: [tables, requests, results],
      workgroups: count / 64,
      transfers: { upload: 1, download: 2 },
    });
    const last: (Uint32Array | null)[] = NAMES.map(() => null);
    const cases: Case[] = NAMES.map((name, i) => ({
      name,
      run: async () => {
        last[i] = i === 0 ? await chain.run() : await gpus[i - 1]!.translate(workOf(i).requests);
      },
    }));
    const outcomes = await measure(cases, {
      random,
      now,
      warmUps: 2,
      samples: quick ? 7 : 20,
      minSamples: 5,
      timeBoxMs: quick ? 4000 : 20000,
      onProgress: (done) => context.progress(done, KIND),
    });
    chain.dispose();
    const base = outcomes[0]!;
    return rows.map((row, i) => {
      const outcome = outcomes[i]!;
      if ("error" in outcome) return { ...row, ms: null, error: String(outcome.error) };
      const { median } = outcome.ms;
      const rate = `${(count / median / 1000).toFixed(1)} M translations/s`;
      const ratio = i === 0 || "error" in base ? "" : `, ${(base.ms.median / median).toFixed(2)} of dependent loads`;
      return { ...row, ms: outcome.ms, error: compare(last[i]!, workOf(i).wanted), note: rate + ratio };
    });
  } finally {
    for (const gpu of gpus) gpu.destroy();
    acquired.device.destroy();
  }
}

/** Reads of words of mapped pages, and the PA of each. */
function randomRequests(random: Random, count: number, places: Uint32Array) {
  const requests = new Uint32Array(count * REQUEST_WORDS);
  const wanted = new Float64Array(count);
  const { word } = Request;
  for (let i = 0; i < count; i++) {
    const page = random.below(places.length);
    const offset = 4 * random.below(PAGE_SIZE / 4);
    const va = KERNEL_BASE + page * PAGE_SIZE + offset;
    const at = i * REQUEST_WORDS;
    requests[at + word.asid] = KERNEL_ASID;
    requests[at + word.va_lo] = lo32(va);
    requests[at + word.va_hi] = hi32(va);
    requests[at + word.flags] = REQUEST_NO_RECORD;
    wanted[i] = places[page]! * PAGE_SIZE + offset;
  }
  return { requests, wanted };
}

/** Null when every request was translated to its PA in VRAM. */
function compare(results: Uint32Array, wanted: Float64Array): string | null {
  const { word } = Result;
  for (let i = 0; i < wanted.length; i++) {
    const at = i * RESULT_WORDS;
    const pa = fromHiLo(results[at + word.pa_hi]!, results[at + word.pa_lo]!);
    if (results[at + word.status] !== STATUS_VRAM || pa !== wanted[i])
      return `request ${i} was translated to ${pa}, it must be ${wanted[i]}`;
  }
  return null;
}
