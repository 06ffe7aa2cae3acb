import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { PAGE_SIZE, SZ_1G, SZ_2M, SZ_64K, hi32, lo32 } from "../src/base/addr.ts";
import { ENOMEM, isErr } from "../src/base/errno.ts";
import type { Errno } from "../src/base/errno.ts";
import { PTE_AE, PTE_DM, PTE_W } from "../src/abi/pte.ts";
import { AP_VA, JOB_OK, JobBatch } from "../src/hal/copy-job.ts";
import { AP_HOST, AP_VRAM, ASID_FAULT_MODE, ASID_SCRATCH, ASID_VALID, PageList } from "../src/hal/gpu.ts";
import type { Gpu, KernelSource, LaunchOptions, ReferenceKernelContext } from "../src/hal/gpu.ts";
import { GpuPageTables } from "../src/driver/page-tables.ts";
import { requestWords } from "./gpu/support.ts";

/** Address spaces in which nothing faults (spec/device.md 2.2), on any engine: by translation, by jobs, by every design. */
const MIB = 1 << 20;
const ASID = 7;
const SIZES = [PAGE_SIZE, SZ_64K, SZ_2M, SZ_1G];
const VA = 0x7f12_3456_7000;
const FAR = 0x1234_5678_9000;
/** A page of VRAM that is mapped at VA, filled with SEVEN. */
const HOME = 2 * MIB;
const SEVEN = 7;
const NULL_STATUS = 2;

class Aperture {
  readonly used = new Set<number>();
  left = Infinity;
  #next = 2;
  alloc(): number | Errno {
    if (this.left === 0) return ENOMEM;
    this.left -= 1;
    const pa = this.#next++ * PAGE_SIZE;
    this.used.add(pa);
    return pa;
  }
  free(pa: number): void {
    expect(this.used.delete(pa)).toBe(true);
  }
}

const vaOf = (m: ReferenceKernelContext, i: number): number => m.args[2 * i + 1]! * 2 ** 32 + m.args[2 * i]!;

/** out 0: what stands where nothing is mapped, before and behind a store and an atomic there; out 1: the mapped page. */
const BODY = `
  let stray = svm_read(arg64(1u));
  let hole = svm_write(arg64(1u));
  let home = svm_write(arg64(0u));`;
const COMMIT = `
  svm_store(hole, 0x55u);
  svm_store(home + 1u, svm_load(home) + svm_load(hole));
  svm_out(0u, svm_load(stray) | svm_load(hole));
  svm_out(1u, svm_load(home));`;
function body(_item: number, m: ReferenceKernelContext): void {
  const stray = m.translate(vaOf(m, 1), 0);
  const hole = m.translate(vaOf(m, 1), 1);
  const home = m.translate(vaOf(m, 0), 1);
  m.store(hole, 0x55);
  m.store(home + 1, m.load(home) + m.load(hole));
  m.out[0] = m.load(stray) | m.load(hole);
  m.out[1] = m.load(home);
}

const KERNELS: readonly KernelSource[] = [
  {
    name: "items",
    wgsl: `fn kernel(item: u32) { ${BODY} if (svm_missed()) { return; } ${COMMIT} }`,
    reference: body,
  },
  {
    name: "items with atomics",
    atomics: true,
    wgsl: `fn kernel(item: u32) { ${BODY} let a = svm_atomic(arg64(1u)); if (svm_missed()) { return; } ${COMMIT}
      svm_out(0u, svm_atomic_add(a, 3u) | svm_atomic_max(a, 4u) | svm_load(a) | svm_load(stray)); }`,
    reference: (item, m) => {
      body(item, m);
      m.out[0] = m.load(m.translate(vaOf(m, 1), 2));
    },
  },
  {
    name: "workgroups",
    design: "workgroup",
    wgsl: `fn workgroup_kernel(group: u32, lane: u32) { ${BODY} if (svm_vote()) { return; } if (lane == 0u) { ${COMMIT} } }`,
    reference: body,
  },
  {
    name: "idempotent",
    design: "idempotent",
    wgsl: `fn kernel(item: u32) { ${BODY} ${COMMIT} }`,
    reference: body,
  },
  {
    name: "prefault",
    design: "prefault",
    wgsl: `fn prefault(item: u32) { svm_touch(arg64(1u), 4096u, ACCESS_WRITE); }
      fn kernel(item: u32) { ${BODY} ${COMMIT} }`,
    reference: body,
    referencePrefault: (_item, m) => void m.translate(vaOf(m, 1), 1),
  },
  {
    name: "buffers",
    wgsl: `fn kernel(item: u32) {
      let stray = svm_at(0u, 0u); let hole = svm_at(1u, 64u); let home = svm_at(2u, 0u);
      if (svm_missed()) { return; } ${COMMIT} }`,
    reference: (_item, m) => {
      const [stray, hole, home] = [m.at(0, 0), m.at(1, 64), m.at(2, 0)];
      m.store(hole, 0x55);
      m.store(home + 1, m.load(home) + m.load(hole));
      m.out[0] = m.load(stray) | m.load(hole);
      m.out[1] = m.load(home);
    },
  },
];

export function scratchBehaviour(boot: () => Promise<{ gpu: Gpu; host: Uint8Array }>): void {
  let gpu: Gpu;
  let host: Uint32Array;
  beforeAll(async () => {
    const made = await boot();
    gpu = made.gpu;
    host = new Uint32Array(made.host.buffer);
  });
  afterAll(() => gpu.destroy());

  interface Space {
    readonly tables: GpuPageTables;
    readonly aperture: Aperture;
    readonly flush: () => void;
  }

  async function open(levels: 4 | 5 = 4): Promise<Space> {
    const aperture = new Aperture();
    const tables = GpuPageTables.create(gpu, aperture, SIZES, { levels, scratch: true });
    if (isErr(tables)) throw new Error("no tables");
    gpu.asidSet(ASID, tables.root, ASID_VALID | ASID_SCRATCH | (levels << 4));
    gpu.tlbInvalidateAsid(ASID);
    host.fill(SEVEN, 0, 1024);
    const list = new PageList();
    list.push(AP_HOST, 0, AP_VRAM, HOME / PAGE_SIZE, 1);
    void gpu.copy(list);
    await gpu.drainFaults();
    return { tables, aperture, flush: () => tables.flush((start, end) => gpu.tlbInvalidate(ASID, start, end - 1)) };
  }

  function mapHome(space: Space, va = VA): void {
    const flags = new Uint32Array([PTE_W | PTE_AE | PTE_DM]);
    expect(space.tables.map(va, 1, new Float64Array([HOME]), flags)).toBe(0);
    space.flush();
  }

  async function look(vas: readonly number[], access = 0): Promise<(readonly [status: number, info: number])[]> {
    const out = await gpu.translate(requestWords(vas.map((va) => ({ asid: ASID, va, access }))));
    return vas.map((_, i) => [out[4 * i]!, out[4 * i + 3]!] as const);
  }

  describe.each([4, 5] as const)("%i levels", (levels) => {
    test("an empty space translates everywhere, for every access, and records nothing", async () => {
      await open(levels);
      const vas = [0, VA, FAR, 2 ** (levels === 4 ? 48 : 52) - PAGE_SIZE];
      for (const access of [0, 1, 2, 0]) {
        // The largest NULL leaves, W and no AE.
        expect(await look(vas, access)).toEqual(vas.map(() => [NULL_STATUS, 3 | (1 << 2)]));
      }
      expect((await gpu.drainFaults()).count).toBe(0);
    });

    test("beyond the last address it faults all the same", async () => {
      await open(levels);
      const [[status, info]] = (await look([2 ** (levels === 4 ? 48 : 57)])) as [readonly [number, number]];
      expect([status, info & 0xff]).toEqual([3, 3 | (2 << 4)]);
    });

    test("around a mapped page the holes are as large as their entries", async () => {
      const space = await open(levels);
      mapHome(space);
      const near = [VA, VA + PAGE_SIZE, VA + SZ_2M, VA + SZ_1G, VA - 600 * SZ_1G];
      const classes = (await look(near)).map(([status, info]) => [status, info & 3]);
      expect(classes).toEqual([
        [0, 0],
        [NULL_STATUS, 0],
        [NULL_STATUS, 2],
        [NULL_STATUS, 3],
        [NULL_STATUS, 3],
      ]);
    });
  });

  test("a hole that is cached gives way to the page that is mapped, if the update is flushed", async () => {
    const space = await open();
    expect((await look([VA]))[0]![0]).toBe(NULL_STATUS);
    gpu.dropTlbInvalidations = true;
    mapHome(space);
    expect((await look([VA]))[0]![0]).toBe(NULL_STATUS);
    gpu.dropTlbInvalidations = false;
    gpu.tlbInvalidate(ASID, VA, VA + PAGE_SIZE - 1);
    expect((await look([VA]))[0]![0]).toBe(0);
    mapHome(space, VA + PAGE_SIZE);
    expect((await look([VA + PAGE_SIZE]))[0]![0]).toBe(0);
  });

  test.each(["unmap", "zap"] as const)("%s leaves a hole, not the page that was there", async (how) => {
    const space = await open();
    mapHome(space);
    expect((await look([VA]))[0]![0]).toBe(0);
    if (how === "unmap") space.tables.unmap(VA, VA + PAGE_SIZE);
    else space.tables.zap(VA, VA + PAGE_SIZE, 2);
    space.flush();
    expect((await look([VA]))[0]).toEqual([NULL_STATUS, (how === "unmap" ? 3 : 0) | (1 << 2)]);
    mapHome(space);
    expect((await look([VA]))[0]![0]).toBe(0);
  });

  test.each([4, 5] as const)("scratch tables of %i levels are counted, and go with the space", async (levels) => {
    const space = await open(levels);
    expect(space.tables.bytes).toBe((levels - 2) * PAGE_SIZE);
    mapHome(space);
    expect(space.tables.bytes).toBe(space.aperture.used.size * PAGE_SIZE);
    gpu.asidSet(ASID, 0, 0);
    space.tables.destroy();
    expect(space.aperture.used.size).toBe(0);
  });

  test.each([0, 1, 2])("no page for table %i of an empty space: ENOMEM, and nothing is kept", (left) => {
    const aperture = new Aperture();
    aperture.left = left;
    expect(GpuPageTables.create(gpu, aperture, SIZES, { levels: 5, scratch: true })).toBe(ENOMEM);
    expect(aperture.used.size).toBe(0);
  });

  test("scratch and faults exclude each other", () => {
    expect(() => gpu.asidSet(ASID, 2 * PAGE_SIZE, ASID_VALID | ASID_SCRATCH | ASID_FAULT_MODE)).toThrow("scratch");
  });

  test.each(KERNELS)("a kernel of $name meets no fault: strays read zero, stray stores go nowhere", async (source) => {
    const space = await open();
    mapHome(space);
    const kernel = await gpu.compile(source);
    for (const stray of [VA + PAGE_SIZE, FAR]) {
      const buffers: LaunchOptions["buffers"] = [
        { at: stray, bytes: SZ_64K, access: 0 },
        { at: stray, bytes: SZ_64K, access: 1 },
        { at: VA, bytes: PAGE_SIZE, access: 1 },
      ];
      const options = { asid: ASID, items: 1, args: [VA, stray].flatMap((va) => [lo32(va), hi32(va)]), outWords: 2 };
      const launch = gpu.launch(kernel, source.name === "buffers" ? { ...options, buffers } : options);
      expect(await launch.round()).toMatchObject({ remaining: 0, count: 0, fatal: 0, dropped: 0 });
      expect([...(await launch.readOut())]).toEqual([0, SEVEN]);
      launch.end();
    }
    const home = new Uint32Array((await gpu.readVram(HOME, 12)).slice().buffer);
    expect([...home]).toEqual([SEVEN, SEVEN, SEVEN]);
  });

  test("copy jobs read zero from holes and drop what they write there", async () => {
    const space = await open();
    mapHome(space);
    const batch = new JobBatch();
    batch.copy({ from: AP_VA, source: FAR, to: AP_VA, target: VA, bytes: 8, asid: ASID });
    batch.fill({ to: AP_VA, at: VA + PAGE_SIZE - 8, bytes: 16, pattern: 9, asid: ASID });
    expect((await gpu.submitJobs(batch)).map((r) => r.status)).toEqual([JOB_OK, JOB_OK]);
    const page = new Uint32Array((await gpu.readVram(HOME, PAGE_SIZE)).slice().buffer);
    expect([page[0], page[1], page[2], page[1021], page[1022], page[1023]]).toEqual([0, 0, 7, 7, 9, 9]);
    expect((await gpu.drainFaults()).count).toBe(0);
  });
}
