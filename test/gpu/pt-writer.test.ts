/** Writes of page-table entries by hundreds: what is written arrives, and what stands between it stays, whoever wrote that. */
import { afterAll, beforeEach, describe, expect, test } from "vitest";
import { Random } from "../../src/base/random.ts";
import { AP_HOST, AP_VRAM, PageList } from "../../src/hal/gpu.ts";
import { JobBatch } from "../../src/hal/copy-job.ts";
import { MIB, bootGpu } from "./support.ts";
import type { TestGpu } from "./support.ts";

const PAGE = 4096;
/** Tables begin behind two reserved pages. */
const FIRST = 2 * PAGE;
/** More than go out one by one. */
const MANY = 200;

let t: TestGpu;
/** The aperture as it must read. */
let wanted: Uint32Array;

beforeEach(async () => {
  t?.gpu.destroy();
  t = await bootGpu();
  wanted = new Uint32Array(MIB / 4);
});
afterAll(() => t.gpu.destroy());

function write(at: number, words: readonly number[]): void {
  t.gpu.ptWrite(at, Uint32Array.from(words));
  wanted.set(words, at / 4);
}

/** `MANY` entries somewhere in `tables` tables, each with numbers of its own. */
function scatter(seed: number, tables: number): void {
  const random = new Random(seed);
  for (let i = 0; i < MANY; i++) write(FIRST + random.below(tables * 512) * 8, [random.u32(), random.u32()]);
}

async function expectTables(): Promise<void> {
  const bytes = await t.gpu.readVram(0, MIB);
  const got = new Uint32Array(bytes.buffer, bytes.byteOffset, MIB / 4);
  const wrong = got.findIndex((word, i) => word !== wanted[i]);
  expect(wrong < 0 ? null : { at: wrong * 4, got: got[wrong], wanted: wanted[wrong] }).toBeNull();
}

describe("hundreds of entries", () => {
  test.each([1, 2, 3, 8, 60, 200])("in %i tables", async (tables) => {
    scatter(1, tables);
    await expectTables();
    scatter(2, tables);
    await expectTables();
  });

  test("in neighbouring tables, and in runs that go from one to the next", async () => {
    for (let i = 0; i < MANY; i++) write(FIRST + i * 24, [i + 1, 1]);
    for (let table = 1; table < 4; table++) write(FIRST + table * PAGE - 8, [7, 7, 8, 8]);
    await expectTables();
  });

  test("of which some are written twice before they go: the last counts", async () => {
    for (let i = 0; i < MANY; i++) write(FIRST + i * 16, [i, 1]);
    for (let i = 0; i < MANY; i += 3) write(FIRST + i * 16, [i, 2]);
    await expectTables();
  });

  test("with other commands before and behind them", async () => {
    const page = new PageList();
    page.push(AP_HOST, 1, AP_VRAM, MIB / PAGE, 1);
    t.host.fill(9, PAGE, 2 * PAGE);
    t.gpu.copy(page);
    scatter(3, 2);
    const back = new PageList();
    back.push(AP_VRAM, MIB / PAGE, AP_HOST, 5, 1);
    await t.gpu.copy(back);
    expect(t.host.subarray(5 * PAGE, 6 * PAGE).every((byte) => byte === 9)).toBe(true);
    await expectTables();
  });
});

describe("what somebody else has written between them stays", () => {
  test("by a job that fills", async () => {
    scatter(4, 2);
    const batch = new JobBatch();
    batch.fill({ to: AP_VRAM, at: FIRST + 64, bytes: PAGE, pattern: 0xabcd });
    const [result] = await t.gpu.submitJobs(batch);
    expect(result).toMatchObject({ status: 1 });
    wanted.fill(0xabcd, (FIRST + 64) / 4, (FIRST + 64 + PAGE) / 4);
    scatter(5, 2);
    await expectTables();
  });

  test("by a list of pages from the host", async () => {
    scatter(6, 2);
    t.host.fill(0x11, 3 * PAGE, 4 * PAGE);
    const list = new PageList();
    list.push(AP_HOST, 3, AP_VRAM, FIRST / PAGE, 1);
    t.gpu.copy(list);
    wanted.fill(0x11111111, FIRST / 4, (FIRST + PAGE) / 4);
    scatter(7, 2);
    await expectTables();
  });

  test("by a list that clears", async () => {
    scatter(8, 2);
    const list = new PageList();
    list.pushClear(AP_VRAM, FIRST / PAGE, 1);
    t.gpu.copy(list);
    wanted.fill(0, FIRST / 4, (FIRST + PAGE) / 4);
    scatter(9, 1);
    await expectTables();
  });
});
