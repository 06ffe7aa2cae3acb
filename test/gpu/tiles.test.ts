import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { hi32, lo32 } from "../../src/base/addr.ts";
import { DeviceLostError } from "../../src/base/errors.ts";
import { Random } from "../../src/base/random.ts";
import { PTE_AE, PTE_DM, PTE_NULL, PTE_P, PTE_PS, PTE_W } from "../../src/abi/pte.ts";
import { tileBase } from "../../src/abi/tiles.ts";
import { E_CANCELED, JobBatch } from "../../src/hal/copy-job.ts";
import { AP_HOST, AP_VRAM, ASID_FAULT_MODE, ASID_VALID, PageList } from "../../src/hal/gpu.ts";
import type { Gpu, KernelSource } from "../../src/hal/gpu.ts";
import { createReferenceGpu } from "../../src/reference/reference-gpu.ts";
import { TILES_CONFIG, TILES_RAM, tileBehaviour } from "../tile-behaviour.ts";
import { tileTablesBehaviour } from "../tile-tables-behaviour.ts";
import { MIB, TestTables, bootGpu, requestWords } from "./support.ts";
import type { TestGpu } from "./support.ts";

/** As many buffers as WebGPU's default limits let a kernel bind, at most. */
const LAYOUTS = [
  { name: "a segment per tile", options: { minSegments: 1, maxSegBytes: 16 * MIB } },
  { name: "five segments", options: { minSegments: 1, maxSegBytes: 4 * MIB } },
  { name: "a window of its own", options: { minSegments: 1, maxSegBytes: 16 * MIB, separateWindow: true } },
];

describe.each(LAYOUTS)("three tiles with $name", ({ options }) => {
  const hostMemory = new Uint8Array(new SharedArrayBuffer(TILES_RAM));
  tileBehaviour(() => bootGpu({ ...TILES_CONFIG, hostMemory }, options));
});

describe("an address space over three tiles", () => {
  const hostMemory = new Uint8Array(new SharedArrayBuffer(TILES_RAM));
  tileTablesBehaviour(() => bootGpu({ ...TILES_CONFIG, hostMemory }, LAYOUTS[0]!.options));
});

describe("random tables on a tile, against the model", () => {
  const INDICES = [0, 1, 255, 511];
  const TABLES = 3;
  let t: TestGpu;
  let reference: Gpu;
  const met = new Set<number>();
  beforeAll(async () => {
    const hostMemory = new Uint8Array(new SharedArrayBuffer(TILES_RAM));
    t = await bootGpu({ ...TILES_CONFIG, hostMemory }, LAYOUTS[1]!.options);
    reference = createReferenceGpu({ ...TILES_CONFIG, hostMemory: new Uint8Array(4096) });
  });
  afterAll(() => t.gpu.destroy());

  const tablePa = (tile: number, level: number, i: number) => tileBase(tile) + (2 + level * TABLES + i) * 4096;

  /** Mostly sound; now and then a hole, another tile's table, memory of any tile and of none. */
  function randomEntry(random: Random, tile: number, level: number): [number, number] {
    if (random.below(10) === 0) return [random.below(8) << 1, 0];
    const isLeaf = level === 0 || (level <= 2 && random.below(4) === 0);
    if (!isLeaf) {
      const pa = tablePa(random.below(12) === 0 ? random.below(4) : tile, level - 1, random.below(TABLES));
      return [(lo32(pa) | PTE_P) >>> 0, hi32(pa)];
    }
    let lo = PTE_P | (level > 0 ? PTE_PS : 0);
    for (const bit of [PTE_W, PTE_AE, PTE_DM, PTE_DM]) if (random.below(3) !== 0) lo |= bit;
    if (random.below(12) === 0) lo |= PTE_NULL;
    const pages = [random.below(2300) * 4096, random.below(5) * 2 * MIB, 0][level]!;
    // In the window, mostly.
    if ((lo & PTE_DM) === 0 && random.below(5) > 0) return [(lo | (level > 0 ? 0 : random.below(300) * 4096)) >>> 0, 0];
    return [(lo | pages) >>> 0, (random.below(4) << 4) | (random.below(20) === 0 ? 1 : 0)];
  }

  test.each([0, 1, 2])("tile %i: batch translator, lean form and model agree", async (tile) => {
    const random = new Random(100 + tile);
    for (let level = 0; level < 4; level++) {
      for (let i = 0; i < TABLES; i++) {
        const words = new Uint32Array(1024);
        for (const index of INDICES) words.set(randomEntry(random, tile, level), index * 2);
        for (const gpu of [t.gpu, reference]) gpu.ptWrite(tablePa(tile, level, i), words);
      }
    }
    const asid = 3;
    for (const gpu of [t.gpu, reference]) {
      gpu.asidSet(asid, tablePa(tile, 3, 0), ASID_VALID | ASID_FAULT_MODE, tile);
      gpu.tlbInvalidateAsid(asid, tile);
    }
    const count = 4000;
    const input = new Uint32Array(count * 3);
    const requests = requestWords(
      Array.from({ length: count }, (_, i) => {
        let va = random.below(1024) * 4;
        for (let level = 0; level < 4; level++) va += INDICES[random.below(4)]! * 2 ** (12 + 9 * level);
        const access = random.below(3);
        input.set([lo32(va), hi32(va), access], i * 3);
        return { asid, va, access, flags: 1 << 5 };
      }),
    );
    const expected = await reference.translate(requests, tile);
    for (const pass of ["cold", "warm"]) {
      const got = await t.gpu.translate(requests, tile);
      const wrong = got.findIndex((word, i) => word !== expected[i]);
      expect(wrong, `${pass}: request ${Math.floor(wrong / 4)}`).toBe(-1);
    }
    const kernel = await t.gpu.compile({ name: "probe", wgsl: PROBE });
    const launch = t.gpu.launch(kernel, { asid, tile, items: count, input, outWords: count });
    await launch.round();
    const done = await launch.readOut();
    launch.end();
    const differ = done.findIndex((word, i) => (word === 1) !== expected[i * 4]! < 3);
    expect(differ).toBe(-1);
    for (let i = 0; i < count; i++) met.add(expected[i * 4]!);
  });

  test("they met every outcome", () => expect([...met].toSorted()).toEqual([0, 1, 2, 3]));
});

const PROBE = `
fn kernel(item: u32) {
  let va = vec2u(svm_in(3u * item), svm_in(3u * item + 1u));
  switch (svm_in(3u * item + 2u)) {
    case 0u: { _ = svm_read(va); }
    case 1u: { _ = svm_write(va); }
    default: { _ = svm_atomic(va); }
  }
  svm_out(item, select(1u, 0u, svm_missed()));
}`;

describe("every form of a kernel on tile 1 of two", () => {
  let t: TestGpu;
  let tables: TestTables;
  const VA = 0x7f12_3450_0000;
  /** In tile 1, tile 0, tile 1 again; page 3 is tile 0's last table. */
  const PAS = [tileBase(1) + 2 * MIB, tileBase(0) + 7 * MIB, tileBase(1) + 3 * MIB, MIB - 4096];
  beforeAll(async () => {
    const hostMemory = new Uint8Array(new SharedArrayBuffer(TILES_RAM));
    // A loop over two pages is compiled for each pair of banks.
    t = await bootGpu({ ...TILES_CONFIG, moreTiles: [4 * MIB], hostMemory }, LAYOUTS[0]!.options);
    tables = new TestTables(t.gpu, 2, 2, 4, 1);
    for (const [i, pa] of PAS.entries()) tables.map(VA + i * 4096, pa, PTE_W | PTE_AE | PTE_DM);
  });
  afterAll(() => t.gpu.destroy());

  const STREAMS = `
fn map_word(value: u32, index: u32) -> u32 { return value + index; }
fn zip_words(a: u32, b: u32, index: u32) -> u32 { return a * 2u + b; }
fn fold_word(value: u32, index: u32) { sum += value; }
var<private> sum: u32;`;
  const locate = (form: string) => [0, 1, 2, 3].map((i) => `let p${i} = ${form.replaceAll("#", `${i}u`)};`).join("\n");
  const loops = `
    svm_map(p0, p1, 1024u, 1u);
    svm_zip(p0, p2, 1024u, 0u);
    svm_map(p0, p3, 1024u, 9u);
    svm_store4(p1 + 4u, vec4u(9u));
    svm_fold(p1, 1024u, 0u);
    svm_out(0u, sum);`;
  const walks = locate("svm_write(addr_add(arg64(0u), 4096u * #))");
  const FORMS: readonly KernelSource[] = [
    { name: "items", wgsl: `${STREAMS} fn kernel(item: u32) { ${walks} if (svm_missed()) { return; } ${loops} }` },
    {
      name: "workgroups",
      design: "workgroup",
      wgsl: `${STREAMS} fn workgroup_kernel(group: u32, lane: u32) {
        ${walks} if (svm_vote()) { return; } if (lane == 0u) { ${loops} } }`,
    },
    {
      name: "buffers",
      design: "prefault",
      atomics: true,
      wgsl: `${STREAMS} fn kernel(item: u32) { ${locate("svm_at(#, 0u)")} ${loops} svm_atomic_add(p3, 1u); }`,
    },
  ];

  test.each(FORMS)("$name: loops, words and wide stores, and page tables of no tile written", async (source) => {
    t.hostWords.fill(5, 0, 1024);
    t.hostWords.fill(0, 1024, 2048);
    const list = new PageList();
    list.push(AP_HOST, 0, AP_VRAM, PAS[0]! / 4096, 1);
    list.push(AP_HOST, 1, AP_VRAM, PAS[2]! / 4096, 1);
    void t.gpu.copy(list);
    const buffers = PAS.map((_, i) => ({ at: VA + i * 4096, bytes: 4096, access: 1 }));
    const kernel = await t.gpu.compile(source);
    const args = [lo32(VA), hi32(VA)];
    const options = { asid: 2, tile: 1, items: 1, args, outWords: 1 };
    const launch = t.gpu.launch(kernel, source.name === "buffers" ? { ...options, buffers } : options);
    expect(await launch.round()).toMatchObject({ remaining: 0, count: 0 });
    // Word i of page 1 is 5 + i + 1, but for four.
    const sum = 6 * 1024 + (1023 * 1024) / 2 - (10 + 11 + 12 + 13) + 4 * 9;
    expect([...(await launch.readOut())]).toEqual([sum]);
    launch.end();
    const at2 = new Uint32Array((await t.gpu.readVram(PAS[2]!, 4096)).slice().buffer);
    expect(at2.every((word) => word === 10)).toBe(true);
    expect((await t.gpu.readVram(PAS[3]!, 4096)).every((byte) => byte === 0)).toBe(true);
  });
});

test("a lost device with tiles: what waits on any of them is rejected, and a new one comes up", async () => {
  const hostMemory = new Uint8Array(new SharedArrayBuffer(TILES_RAM));
  const { gpu } = await bootGpu({ ...TILES_CONFIG, hostMemory }, LAYOUTS[0]!.options);
  const kernel = await gpu.compile({ name: "k", wgsl: "fn kernel(item: u32) { _ = svm_read(vec2u(0u, 0u)); }" });
  const batch = new JobBatch();
  batch.fill({ to: AP_VRAM, at: tileBase(2) + MIB, bytes: 4, pattern: 1 });
  const launch = gpu.launch(kernel, { asid: 1, tile: 2, items: 1 });
  const waiting = [
    launch.round(),
    gpu.translate(requestWords([{ asid: 1, va: 0 }]), 1),
    gpu.drainFaults(2),
    gpu.readVram(tileBase(1) + MIB, 4),
    gpu.readEngines(1),
  ];
  const jobs = gpu.submitJobs(batch, 1);
  gpu.destroy();
  for (const outcome of await Promise.allSettled(waiting)) {
    expect(outcome.status).toBe("rejected");
    expect((outcome as PromiseRejectedResult).reason).toBeInstanceOf(DeviceLostError);
  }
  expect((await jobs).map((r) => r.status)).toEqual([E_CANCELED]);
  gpu.ptWrite(tileBase(1) + 8192, new Uint32Array(2));
  gpu.asidSet(1, tileBase(1) + 8192, 1, 1);
  gpu.tlbInvalidateAsid(1, 2);
  gpu.flush();
  const next = await bootGpu({ ...TILES_CONFIG, hostMemory }, LAYOUTS[0]!.options);
  expect((await next.gpu.readVram(tileBase(2) + MIB, 4))[0]).toBe(0);
  next.gpu.destroy();
});
