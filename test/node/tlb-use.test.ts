import { describe, expect, test } from "vitest";
import { TlbUse } from "../../src/device/tlb-use.ts";

const BIG = 4096;

/** Batches of which `missing` say how much they miss; true for those that looked. */
function batches(use: TlbUse, missing: readonly number[], requests = BIG): boolean[] {
  return missing.map((share) => {
    const looks = use.next(requests);
    if (looks) use.note(requests, Math.round(share * requests));
    return looks;
  });
}

describe("auto", () => {
  test("looks as long as fewer than a quarter miss", () => {
    const use = new TlbUse("auto");
    expect(batches(use, new Array<number>(20).fill(0.249)).every(Boolean)).toBe(true);
  });

  test("one batch that misses is forgiven, two in a row are not", () => {
    expect(batches(new TlbUse("auto"), [1, 0, 1, 0, 1, 0])).toEqual([true, true, true, true, true, true]);
    expect(batches(new TlbUse("auto"), [0, 0.25, 0.25, 0])).toEqual([true, true, true, false]);
  });

  test("walks eight batches, then twice as many each time up to 128; a batch that hits ends that", () => {
    const use = new TlbUse("auto");
    const pause = () => {
      batches(use, [1, 1]);
      let n = 0;
      while (!use.next(BIG)) n += 1;
      return n;
    };
    expect([pause(), pause(), pause(), pause(), pause(), pause()]).toEqual([8, 16, 32, 64, 128, 128]);
    use.note(BIG, 0);
    expect(pause()).toBe(8);
  });

  test("small batches look and are not counted", () => {
    const use = new TlbUse("auto");
    expect(batches(use, [1, 1, 1, 1], 1023).every(Boolean)).toBe(true);
    expect(batches(use, [0, 1, 1])).toEqual([true, true, true]);
    expect(use.next(1023)).toBe(true);
    expect(use.next(BIG)).toBe(false);
  });
});

test.each([
  ["on", true],
  ["off", false],
] as const)("%s stays so", (setting, looks) => {
  expect(batches(new TlbUse(setting), [1, 1, 1, 1, 0])).toEqual(new Array<boolean>(5).fill(looks));
});
