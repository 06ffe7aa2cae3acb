import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { PAGE_SIZE, SZ_1G, hi32, lo32 } from "../../src/base/addr.ts";
import { PTE_AE, PTE_DM, PTE_NULL, PTE_W } from "../../src/abi/pte.ts";
import { INFO_AE, INFO_W, REQUEST_NO_RECORD } from "../../src/abi/tables.ts";
import { REQUEST_WORDS, RESULT_WORDS } from "../../src/hal/gpu.ts";
import { createReferenceGpu } from "../../src/reference/reference-gpu.ts";
import { ALL_SIZES, ASID, DETAIL, FlatModel, PT_BYTES, TableSpace, anyOp, applyOp } from "../node/page-tables-model.ts";
import { MIB, bootGpu } from "./support.ts";
import type { TestGpu } from "./support.ts";

/** Page tables made by the driver on WebGPU: the batch translator says of every page what the reference and a flat map say. */
const VRAM = 16 * MIB;
const SYSW = MIB;

let t: TestGpu;
beforeAll(async () => {
  t = await bootGpu({ ptBytes: PT_BYTES, vramBytes: VRAM, syswBytes: SYSW });
});
afterAll(() => t.gpu.destroy());

/** Every page of the detail, and one of each 2 MiB around it. */
const PAGES = [
  ...Array.from({ length: DETAIL.pages }, (_, i) => DETAIL.first + i),
  ...Array.from({ length: 1024 }, (_, i) => i * 512 + ((i * 37) % 512)),
];

function requestsFor(model: FlatModel, access: number): Uint32Array {
  const words = new Uint32Array(PAGES.length * REQUEST_WORDS);
  PAGES.forEach((page, i) => {
    const va = model.va(page) + (page % 1024) * 4;
    words.set([ASID, lo32(va), hi32(va), access | REQUEST_NO_RECORD, 4, i], i * REQUEST_WORDS);
  });
  return words;
}

/** Status and PA of a read of the page, and its permissions; a page behind the end of its memory is a fatal fault. */
interface Read {
  readonly what: string;
  readonly permissions: number;
}

const ABSENT: Read = { what: "absent", permissions: 0 };
const OUTSIDE: Read = { what: "outside", permissions: 0 };

function expected(model: FlatModel, page: number, scratch: boolean): Read {
  const flags = model.flags[page]!;
  const pa = model.pas[page]! + (page % 1024) * 4;
  const permissions = ((flags & PTE_W) !== 0 ? INFO_W : 0) | ((flags & PTE_AE) !== 0 ? INFO_AE : 0);
  if (model.pas[page] === -1) return scratch ? { what: "2 0", permissions: INFO_W } : ABSENT;
  if ((flags & PTE_NULL) !== 0) return { what: "2 0", permissions };
  if (pa >= ((flags & PTE_DM) !== 0 ? VRAM : SYSW)) return OUTSIDE;
  return { what: `${(flags & PTE_DM) !== 0 ? 0 : 1} ${pa}`, permissions };
}

function found(words: Uint32Array, i: number): Read {
  const [status, lo, hi, info] = words.subarray(i * RESULT_WORDS, (i + 1) * RESULT_WORDS);
  if (status === 3) return (info! & 15) === 0 ? ABSENT : OUTSIDE;
  return { what: `${status} ${hi! * 2 ** 32 + lo!}`, permissions: info! & (INFO_W | INFO_AE) };
}

function expectPages(
  words: Uint32Array,
  model: FlatModel,
  scratch: boolean,
  isPermitted: (want: number, got: number) => boolean,
): void {
  PAGES.forEach((page, k) => {
    const want = expected(model, page, scratch);
    const got = found(words, k);
    if (got.what !== want.what || !isPermitted(want.permissions, got.permissions)) {
      expect.fail(`page ${page}: ${JSON.stringify(got)} instead of ${JSON.stringify(want)}`);
    }
  });
}

describe("random updates, translated by the device", () => {
  test.each([
    ["4 levels", 4 as const, 0x7f00_0000_0000, false],
    ["5 levels", 5 as const, 3 * 2 ** 48 + SZ_1G, false],
    ["4 levels and scratch", 4 as const, 0x7f00_0000_0000, true],
    ["5 levels and scratch", 5 as const, 3 * 2 ** 48 + SZ_1G, true],
  ])("%s", async (_name, levels, base, scratch) => {
    const steps = anyOp.filter((op) => op.kind !== "map" || op.pages < 262144 || /1G|2M|null/.test(op.style));
    await fc.assert(
      fc.asyncProperty(fc.array(steps, { minLength: 6, maxLength: 12, size: "max" }), async (ops) => {
        const hostMemory = new Uint8Array(PAGE_SIZE);
        const reference = createReferenceGpu({
          vramBytes: VRAM,
          ptBytes: PT_BYTES,
          syswBytes: SYSW,
          faultQueueCapacity: 64,
          hostMemory,
        });
        const space = new TableSpace(ALL_SIZES, { levels, scratch }, reference, t.gpu);
        t.gpu.tlbInvalidateAsid(ASID);
        const model = new FlatModel(base);
        const flush = (): void =>
          space.tables.flush((start, end) => {
            t.gpu.tlbInvalidate(ASID, start, end - 1);
            reference.tlbInvalidate(ASID, start, end - 1);
          });
        for (const [i, op] of ops.entries()) {
          expect(applyOp(space.tables, model, op, 2 * VRAM)).toBe(0);
          // Both with their TLBs on: what an update leaves stale without a flush would show.
          flush();
          const requests = requestsFor(model, i % 3);
          const mine = await t.gpu.translate(requests);
          const theirs = await reference.translate(requests);
          for (let k = 0; k < mine.length; k++) {
            if (mine[k] !== theirs[k])
              expect.fail(`page ${PAGES[Math.floor(k / 4)]}: ${mine[k]} instead of ${theirs[k]}`);
          }
          // A leaf that only gained a permission is not flushed: until the TLB forgets it, a read may not be told of the gain.
          if (i % 3 === 0) expectPages(mine, model, scratch, (want, got) => (want & got) === got);
        }
        t.gpu.tlbInvalidateAsid(ASID);
        expectPages(await t.gpu.translate(requestsFor(model, 0)), model, scratch, (want, got) => want === got);
      }),
      { numRuns: 12, interruptAfterTimeLimit: 25_000, markInterruptAsFailure: true },
    );
  });

  test("an update that is not flushed is still seen through the TLB: the flush is needed", async () => {
    const space = new TableSpace(ALL_SIZES, {}, t.gpu);
    t.gpu.tlbInvalidateAsid(ASID);
    const va = 0x7f00_0020_0000;
    const pages = (pa: number): Float64Array => Float64Array.from({ length: 512 }, (_, i) => pa + i * PAGE_SIZE);
    const flags = new Uint32Array(512).fill(PTE_W | PTE_DM);
    const at = async (): Promise<number[]> => [
      ...(await t.gpu.translate(new Uint32Array([ASID, lo32(va), hi32(va), REQUEST_NO_RECORD, 4, 0, 0, 0]))).subarray(
        0,
        2,
      ),
    ];
    space.tables.map(va, 512, pages(2 * MIB), flags);
    expect(await at()).toEqual([0, 2 * MIB]);
    space.tables.split(va + PAGE_SIZE, va + 2 * PAGE_SIZE);
    space.tables.map(va, 1, pages(8 * MIB), flags);
    expect(await at()).toEqual([0, 2 * MIB]);
    space.tables.flush((start, end) => void t.gpu.tlbInvalidate(ASID, start, end - 1));
    expect(await at()).toEqual([0, 8 * MIB]);
  });
});
