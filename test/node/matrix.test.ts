import { describe, expect, test, vi } from "vitest";
import { PTE_P } from "../../src/abi/pte.ts";
import { REFERENCE_ENGINE } from "../../src/machine/engine.ts";
import { DEFAULT_VM_CONFIG, DEFAULT_VRAM, Machine } from "../../src/machine/machine.ts";
import { findCases } from "../../src/scenario/matrix/cases.ts";
import { exec } from "../../src/scenario/matrix/exec.ts";
import { matrixScenario, runCase } from "../../src/scenario/matrix/matrix.ts";
import { BATCH_END, FENCE_WORDS, STORE_WORD, batchOf } from "../../src/scenario/matrix/record.ts";
import { runMatrix } from "../../src/scenario/matrix/run-matrix.ts";
import { runScenarioModule } from "../../src/scenario/run.ts";
import { Scenario } from "../../src/scenario/verbs.ts";

vi.setConfig({ testTimeout: 60_000 });

const cases = (...patterns: string[]) => patterns.flatMap(findCases);
const config = { ...DEFAULT_VM_CONFIG, vram: DEFAULT_VRAM, p2p: false, seed: 1 };

/** What is wrong, by case. */
async function wrongOf(tests: ReturnType<typeof cases>, seed = 1): Promise<Record<string, readonly string[]>> {
  const outcomes = await runMatrix(tests, { engine: REFERENCE_ENGINE, seed });
  expect(outcomes.length).toBe(tests.length);
  const failed = outcomes.filter(({ skip, passed }) => skip === null && !passed);
  return Object.fromEntries(failed.map(({ name, failures }) => [name, failures]));
}

describe("a sample of the matrix on the reference engine; the command runs all of it", () => {
  test.each(["malloc", "mmap", "free", "new"])("two execs, every section from %s", async (origin) => {
    const tests = cases(`XE-SA-twice-${origin}`, `XE-SA-twice-${origin}-*`);
    expect(tests.length).toBeGreaterThan(4);
    expect(await wrongOf(tests)).toEqual({});
  });

  test.each([
    "XE-SA-twice-large-malloc-multi-fault",
    "XE-SA-many-stride-mmap-shared-nomemset",
    "XE-SA-many-execqueues-new-bo-map",
    "XE-SA-once-large-mmap-huge-nomemset",
    "XE-SA-twice-large-mmap-remap-ro-dontunmap-eocheck",
    "XE-SA-many-mmap-shared-remap-dontunmap",
    "XE-SA-threads-many-mmap-race",
    "XE-SA-threads-many-malloc-prefetch",
    "XE-SA-threads-shared-vm-many-mmap-free",
    "XE-SA-process-many-mmap-file",
  ])("%s", async (name) => {
    expect(await wrongOf(cases(name))).toEqual({});
  });

  test("threads meet in another order for another seed, to the same end", async () => {
    expect(await wrongOf(cases("XE-SA-threads-shared-vm-many-malloc-busy"), 2)).toEqual({});
  });

  test("a case is a scenario like any other", async () => {
    const [one] = cases("XE-SA-twice-mmap-remap");
    const result = await runScenarioModule(matrixScenario(one!), { engine: REFERENCE_ENGINE });
    expect([result.error, result.passed, result.must.failed]).toEqual([null, true, 0]);
    expect(result.must.passed).toBeGreaterThan(3);
  });

  test("a case that the original skips is neither passed nor failed, and its scenario says why", async () => {
    const [skipped] = cases("XE-SA-once-mmap-remap-eocheck");
    const [outcome] = await runMatrix([skipped!], { engine: REFERENCE_ENGINE, seed: 1 });
    expect(outcome).toMatchObject({ skip: skipped!.skip, passed: false, must: { passed: 0, failed: 0 } });
    const result = await runScenarioModule(matrixScenario(skipped!), { engine: REFERENCE_ENGINE });
    expect(result.checks).toEqual([{ kind: "note", ok: true, text: expect.stringContaining(skipped!.skip!) }]);
  });
});

describe("the cases notice", () => {
  /** What a case says of a machine in which something is wrong. */
  async function saysOf(name: string, spoil: (machine: Machine) => void): Promise<string[]> {
    const machine = new Machine({ engine: REFERENCE_ENGINE });
    const s = new Scenario(machine, config, () => undefined);
    const device = machine.createDevice();
    spoil(machine);
    let thrown: string[] = [];
    try {
      await runCase(s, device, findCases(name)[0]!);
    } catch (error) {
      thrown = [(error as Error).message];
    }
    return [...s.checks.filter(({ ok, kind }) => !ok && kind === "must").map(({ text }) => text), ...thrown];
  }

  test("nothing in a machine in which all is well", async () => {
    expect(await saysOf("XE-SA-many-malloc", () => undefined)).toEqual([]);
  });

  test.each(["XE-SA-many-malloc", "XE-SA-many-mmap-remap", "XE-SA-many-mmap-free", "XE-SA-many-new-bo-map"])(
    "entries of the page tables that do not go: %s",
    async (name) => {
      const says = await saysOf(name, ({ devices }) => {
        const { gpu } = devices[0]!;
        const write = gpu.ptWrite.bind(gpu);
        gpu.ptWrite = (pa, words) => {
          if (words.some((word, i) => i % 2 === 0 && (word & PTE_P) !== 0)) write(pa, words);
        };
      });
      expect(says.length).toBeGreaterThan(0);
    },
  );

  test("bytes that do not survive the way home", async () => {
    const says = await saysOf("XE-SA-many-mmap", ({ devices, phys }) => {
      const { gpu } = devices[0]!;
      const submit = gpu.submitJobs.bind(gpu);
      gpu.submitJobs = async (...batch) => {
        const results = await submit(...batch);
        for (let at = 200; at < phys.ram.length; at += 4096) if (phys.ram[at] === 5) phys.ram[at] = 6;
        return results;
      };
      const copy = gpu.copy.bind(gpu);
      gpu.copy = (list) => {
        const done = copy(list);
        for (let at = 200; at < phys.ram.length; at += 4096) if (phys.ram[at] === 5) phys.ram[at] = 6;
        return done;
      };
    });
    expect(says).toContainEqual(expect.stringContaining("every other byte is as it was"));
  });
});

describe("the command streamer", () => {
  const open = async () => {
    const machine = new Machine({ engine: REFERENCE_ENGINE });
    const p = machine.createProcess();
    const m = machine.createDevice().vm(p);
    const a = await p.mmap(8 * 4096);
    const fence = async () => [await p.ld(a + 8), await p.ld(a + 12)];
    return { p, m, a, fence };
  };

  test("a batch that crosses a page, and stores to four others, signals the fence once all is done", async () => {
    const { p, m, a, fence } = await open();
    const targets = [2, 3, 4, 5].map((page) => a + page * 4096 + 4 * page);
    const batch = a + 4096 - 16;
    await p.write(batch, batchOf(targets, 7));
    await exec(m, batch, a + 8);
    expect(await Promise.all(targets.map((target) => p.ld(target)))).toEqual([7, 7, 7, 7]);
    expect(await fence()).toEqual([...FENCE_WORDS]);
  });

  test.each([
    ["nothing but zeros", []],
    ["a batch without an end", [STORE_WORD, 0x3000, 1, 7, 0]],
    [
      "more stores than a batch may have",
      [...Array.from({ length: 5 }, () => [STORE_WORD, 0x3000, 1, 7]).flat(), BATCH_END],
    ],
  ])("%s is not executed and signals nothing", async (_, words) => {
    const { p, m, a, fence } = await open();
    expect(a).toBe(0x100000000);
    await p.write(a + 4096, Uint32Array.from([...words, 0]));
    await exec(m, a + 4096, a + 8);
    expect(await fence()).toEqual([0, 0]);
    expect(await p.ld(a + 0x3000)).toBe(0);
  });

  test("a fence or a batch at an address without memory ends the exec, and stores nothing", async () => {
    const { p, m, a } = await open();
    await p.write(a, batchOf([a + 4096], 7));
    for (const [batch, fence] of [
      [a, 0x1000],
      [0x1000, a + 8],
    ] as const) {
      await expect(exec(m, batch, fence)).rejects.toMatchObject({ code: "GPUFAULT", fault: { addr: 0x1000 } });
    }
    expect(await p.ld(a + 4096)).toBe(0);
  });
});
