import { describe, expect, it } from "vitest";
import { Random } from "../../src/base/random.ts";
import { measure } from "../../src/bench/harness.ts";
import { formatBytes, rowId } from "../../src/bench/result.ts";
import { summarize } from "../../src/bench/stats.ts";

/** A clock that moves only when told. */
function clock() {
  let time = 0;
  return { now: () => time, spend: (ms: number) => void (time += ms) };
}

const plan = { warmUps: 2, samples: 10, minSamples: 3, timeBoxMs: 1000 };

describe("measure", () => {
  it("runs every case once per repetition, in orders drawn from the seed", async () => {
    const orders = async (seed: number) => {
      const { now } = clock();
      let log = "";
      const cases = ["a", "b", "c"].map((name) => ({ name, run: () => void (log += name) }));
      await measure(cases, { ...plan, random: new Random(seed), now });
      return log.match(/.../g)!;
    };
    const first = await orders(1);
    expect(first).toHaveLength(12);
    for (const order of first) expect(order.split("").sort().join("")).toBe("abc");
    expect(new Set(first).size).toBeGreaterThan(2);
    expect(await orders(1)).toEqual(first);
    expect(await orders(2)).not.toEqual(first);
  });

  it("drops the warm-up and gives the time of one run", async () => {
    const { now, spend } = clock();
    let runs = 0;
    const slowAtFirst = { name: "x", run: () => spend(runs++ < 2 ? 500 : 4) };
    const repeated = { name: "y", repeat: 5, run: () => spend(2) };
    const [x, y] = await measure([slowAtFirst, repeated], { ...plan, random: new Random(1), now });
    expect(x).toMatchObject({ ms: { n: 10, median: 4, min: 4, p95: 4 } });
    expect(y).toMatchObject({ ms: { n: 10, median: 2 } });
  });

  it("waits for a promise before it stops the clock", async () => {
    const { now, spend } = clock();
    const waits = { name: "x", run: () => Promise.resolve().then(() => spend(7)) };
    expect(await measure([waits], { ...plan, random: new Random(1), now })).toMatchObject([{ ms: { median: 7 } }]);
  });

  it.each([
    { each: 100, n: 10 },
    { each: 200, n: 6 },
    { each: 5000, n: 3 },
  ])(
    "ends when the time box is full ($each ms a run), but not before the least number of samples",
    async ({ each, n }) => {
      const { now, spend } = clock();
      const outcome = await measure([{ name: "x", run: () => spend(each) }], { ...plan, random: new Random(1), now });
      expect(outcome).toMatchObject([{ ms: { n } }]);
    },
  );

  it("a case that throws is reported and not run again; the others go on", async () => {
    const { now, spend } = clock();
    let runs = 0;
    const bad = {
      name: "bad",
      run: () => {
        runs++;
        throw new Error("no");
      },
    };
    const outcome = await measure([bad, { name: "good", run: () => spend(1) }], {
      ...plan,
      random: new Random(1),
      now,
    });
    expect(outcome[0]).toMatchObject({ error: { message: "no" } });
    expect(outcome[1]).toMatchObject({ ms: { n: 10 } });
    expect(runs).toBe(1);
  });
});

describe("summarize", () => {
  it.each([
    { samples: [5], median: 5, low: 5, high: 5 },
    { samples: [3, 1, 2], median: 2, low: 1, high: 3 },
    { samples: [4, 1, 3, 2], median: 2.5, low: 1, high: 4 },
  ])("$samples", ({ samples, median, low, high }) => {
    expect(summarize(samples)).toMatchObject({ n: samples.length, median, low, high });
  });

  it("the interval holds the true median about 95 times in 100", () => {
    const random = new Random(11);
    let held = 0;
    for (let i = 0; i < 2000; i++) {
      const { low, high } = summarize(Array.from({ length: 40 }, () => random.below(1000001)));
      if (low <= 500000 && 500000 <= high) held++;
    }
    expect(held / 2000).toBeGreaterThan(0.93);
    expect(held / 2000).toBeLessThan(0.985);
  });
});

describe("row ids", () => {
  it.each([
    [0, ""],
    [512, "512B"],
    [4096, "4KiB"],
    [2 << 20, "2MiB"],
    [1536, "1.5KiB"],
  ])("%i bytes are %s", (bytes, text) => expect(formatBytes(bytes)).toBe(text));

  it("leave out what a row has not", () => {
    expect(rowId({ group: "svm", kind: "cold", name: "sum", bytes: 0, layout: "" })).toBe("svm/cold/sum");
  });
});
