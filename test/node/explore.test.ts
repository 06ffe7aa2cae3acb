/**
 * Schedule exploration, reduced to a few seconds: a few seeds of every case, each deliberate fault of the stack once, and
 * that the explorer itself can be trusted. `npm run explore` does the same at length.
 */
import { build } from "vite";
import { afterEach, describe, expect, test, vi } from "vitest";
import { MUTATIONS, mutate } from "../../src/base/mutation.ts";
import type * as Registry from "../../src/base/mutation.ts";
import { CASES, programOf } from "../../src/explore/cases.ts";
import { FAULTS } from "../../src/explore/faults.ts";
import { type Memory, contentOf } from "../../src/explore/memory.ts";
import { Oracle } from "../../src/explore/oracle.ts";
import type { Host } from "../../src/explore/rig.ts";
import { Explorer } from "../../src/explore/schedule.ts";
import { caseByName, explore, findMutation, runSeed } from "../../src/explore/search.ts";
import { shrink } from "../../src/explore/shrink.ts";
import { Uncertain } from "../../src/explore/uncertain.ts";
import libraryConfig from "../../vite.lib.config.ts";
import pageConfig from "../../vite.config.ts";

const host: Host = { tick: (f) => process.nextTick(f) };
const SEEDS = 5;

vi.setConfig({ testTimeout: 30000 });

afterEach(() => mutate(null));

function named(name: string) {
  const found = caseByName(name);
  if (found === null) throw new Error(`no case ${name}`);
  return found;
}

describe("no schedule breaks an invariant", () => {
  test("close-system, seeds that once freed a page whose bytes were on their way home", async () => {
    for (const seed of [26, 135]) expect((await runSeed(named("close-system"), seed, host)).violation).toBeNull();
  });

  test.each(CASES.map(({ name, about }) => [name, about]))("%s: %s", async (name) => {
    const { schedules, steps, findings } = await explore(
      { cases: [named(name)], from: 1, end: 1 + SEEDS, stride: 1, maxFindings: 1 },
      host,
    );
    expect(findings.map(({ seed, violation }) => `seed ${seed}: ${violation.message}`)).toEqual([]);
    expect(schedules).toBe(SEEDS);
    expect(steps).toBeGreaterThan(10 * SEEDS);
  });
});

describe("each deliberate fault is found", () => {
  test("the list of faults is that of the hooks", () => {
    expect(FAULTS.map(({ name }) => name).sort()).toEqual([...MUTATIONS].sort());
    expect(FAULTS.length).toBeGreaterThanOrEqual(20);
  });

  test.each(FAULTS.map((fault) => [fault.name, fault.breaks] as const))("%s: %s", async (name) => {
    const fault = FAULTS.find((each) => each.name === name)!;
    const finding = await findMutation(name, [named(fault.case)], fault.within, host);
    expect(finding, `not found in ${fault.within} seeds of ${fault.case}`).not.toBeNull();
  });

  test.each([
    { name: "time-slice-ignored", where: "turns-slice" },
    { name: "held-page-migrated", where: "turns-pin" },
    { name: "hole-overwritten", where: "ahead", within: 120 },
    { name: "zap-skipped", where: "on-write" },
    { name: "unmap-unawaited", where: "shared-change" },
    { name: "window-copy-in-skipped", where: "file-shared" },
    { name: "mremap-unannounced", where: "file-change" },
    { name: "stale-writes", where: "file-in-place", within: 120 },
  ] as const)("$name, in $where too", async ({ name, where, ...rest }) => {
    const finding = await findMutation(name, [named(where)], "within" in rest ? rest.within : 50, host);
    expect(finding).not.toBeNull();
  });

  test.each([
    { what: "a test", config: {}, isOn: true },
    { what: "the library", config: libraryConfig, isOn: false },
    { what: "the page", config: pageConfig, isOn: false },
  ])("can be switched on in $what: $isOn", async ({ config, isOn }) => {
    const built = await build({
      configFile: false,
      logLevel: "error",
      define: ("define" in config ? config.define : undefined) ?? {},
      build: { ssr: "src/base/mutation.ts", write: false, minify: false },
    });
    const [bundle] = [built].flat() as { output: { code: string }[] }[];
    const code = `data:text/javascript,${encodeURIComponent(bundle!.output[0]!.code)}`;
    const registry = (await import(/* @vite-ignore */ code)) as typeof Registry;
    registry.mutate("zap-skipped");
    expect(registry.mutated("zap-skipped")).toBe(isOn);
    expect(registry.mutated("tlb-skipped")).toBe(false);
  });
});

describe("the explorer", () => {
  test("runs a seed the same way every time", async () => {
    const once = await runSeed(named("random"), 3, host);
    const again = await runSeed(named("random"), 3, host);
    expect(once.steps).toBeGreaterThan(20);
    expect(again.steps).toBe(once.steps);
  });

  test("finds the same violation again from its seed, and a shorter program that has it", async () => {
    mutate("zap-skipped");
    const of = named("pressure");
    const first = await runSeed(of, 1, host);
    const second = await runSeed(of, 1, host);
    expect(first.violation).not.toBeNull();
    expect([second.violation!.message, second.violation!.step]).toEqual([
      first.violation!.message,
      first.violation!.step,
    ]);
    const program = programOf(of, 1);
    const shrunk = await shrink(program, 1, first.violation!, host);
    const sizeOf = (p: typeof program) => p.setup.length + p.activities.flat().length;
    expect(sizeOf(shrunk.program)).toBeLessThanOrEqual(3);
    const { violation } = await new Explorer(host).run(shrunk.program, shrunk.seed, "fresh");
    expect(violation?.message).toBe(shrunk.violation.message);
  });

  test("a schedule without end is a violation, not a test that hangs", async () => {
    mutate("unlock-wakeup-lost");
    const { violation } = await runSeed(named("R1"), 1, host);
    expect(violation?.message).toContain("DeadlockError");
  });
});

describe("what the oracle knows of each kind of memory", () => {
  const valuesOf = (oracle: Oracle, page: number) => [...oracle.word(page, 1).possible];
  const discarded = (memory: Memory) => {
    const oracle = new Oracle(4, { memory });
    oracle.beginFill(0, 4, 7).end(true);
    oracle.beginDiscard(0, 4).end(true);
    return valuesOf(oracle, 0);
  };

  test("discarded private memory is zeros, or the file again; shared memory stays", () => {
    expect(discarded("private")).toEqual([0]);
    expect(discarded("private-file")).toEqual([contentOf("private-file", 0, 1)]);
    expect(discarded("shared")).toEqual([7]);
    expect(discarded("shared-file")).toEqual([7]);
  });

  test.each([
    { memory: "private", common: false },
    { memory: "shared", common: true },
    { memory: "private-file", common: false },
    { memory: "shared-file", common: true },
  ] as const)("parent and child have $memory memory in common: $common", ({ memory, common }) => {
    const parent = new Oracle(4, { memory });
    const child = parent.beginFork()();
    parent.beginFill(0, 1, 7).end(true);
    expect(valuesOf(child, 0)).toEqual([common ? 7 : contentOf(memory, 0, 1)]);
    expect(valuesOf(parent, 0)).toEqual([7]);
  });

  test("from some page on the area may be of another kind", () => {
    const oracle = new Oracle(8, { tail: { from: 4, memory: "shared-file" } });
    expect(valuesOf(oracle, 3)).toEqual([0]);
    expect(valuesOf(oracle, 4)).toEqual([contentOf("shared-file", 4, 1)]);
    expect([oracle.memoryOf(3), oracle.memoryOf(4)]).toEqual(["private", "shared-file"]);
  });

  test("a page behind the end of the file can be accessed until the file is cut, and after that cannot", () => {
    const oracle = new Oracle(4, { memory: "shared-file" });
    const during = oracle.watch(2);
    const end = oracle.beginResize(2);
    end();
    const after = oracle.watch(2);
    const before = oracle.watch(1);
    expect([during.mayPass(true), during.mayBeBeyond]).toEqual([true, true]);
    expect([after.mayPass(true), after.mayBeBeyond]).toEqual([false, true]);
    expect([before.mayPass(true), before.mayBeBeyond]).toEqual([true, false]);
  });
});

describe("a value that several change at once", () => {
  test("is one of those that overlapped, when all have ended", () => {
    const value = new Uncertain(1);
    const a = value.begin(2);
    const b = value.begin(3);
    expect([...value.possible].sort()).toEqual([1, 2, 3]);
    value.end(a);
    value.end(b);
    expect([...value.possible].sort()).toEqual([2, 3]);
    value.end(value.begin(4));
    expect([...value.possible]).toEqual([4]);
  });

  test("may be what it was when a change is unsure", () => {
    const value = new Uncertain(1);
    value.endUnsure(value.begin(2));
    expect([...value.possible].sort()).toEqual([1, 2]);
  });

  test("shows an onlooker all that it may have been meanwhile, and nothing else", () => {
    const value = new Uncertain(1);
    const seen = value.observe();
    value.end(value.begin(2));
    value.unobserve(seen);
    value.end(value.begin(3));
    expect([...seen].sort()).toEqual([1, 2]);
  });
});
