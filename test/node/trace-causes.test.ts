/** Every event says what caused it, however many activities run side by side. */
import { describe, expect, test } from "vitest";
import { causedBy, currentCause } from "../../src/base/cause.ts";
import { run, wait } from "../../src/base/steps.ts";
import type { Steps } from "../../src/base/steps.ts";
import { EVENT_KINDS, TRACE_STRIDE } from "../../src/base/trace.ts";
import type { EventKind } from "../../src/base/trace.ts";
import { REFERENCE_ENGINE } from "../../src/machine/engine.ts";
import { Machine } from "../../src/machine/machine.ts";
import type { Process } from "../../src/machine/process.ts";

const MIB = 1 << 20;
const CHUNK = 2 * MIB;

interface Row {
  readonly seq: number;
  readonly kind: EventKind;
  readonly cause: number;
  readonly subject: number;
  readonly start: number;
}

function rowsOf(machine: Machine, from = 1): Row[] {
  const events = machine.trace.since(from);
  return Array.from({ length: events.length / TRACE_STRIDE }, (_, i) => {
    const [seq, kind, cause, , subject, start] = events.subarray(i * TRACE_STRIDE) as unknown as number[];
    return { seq: seq!, kind: EVENT_KINDS[kind!]![0], cause: cause!, subject: subject!, start: start! };
  });
}

/** The kinds from an event to what it goes back to. */
function chain(rows: readonly Row[], row: Row): Row[] {
  const list = [row];
  for (let at: Row | undefined = row; at !== undefined && at.cause !== 0;) {
    const { cause }: Row = at;
    at = rows.find((r) => r.seq === cause);
    if (at !== undefined) list.push(at);
  }
  return list;
}

function kindsOf(rows: readonly Row[], kind: EventKind): string[] {
  const row = rows.find((r) => r.kind === kind);
  if (row === undefined) throw new Error(`no event ${kind}`);
  return chain(rows, row).map((r) => r.kind);
}

function setUp(vram = 4 * CHUNK) {
  const machine = new Machine({ engine: REFERENCE_ENGINE, ram: 64 * MIB });
  const gpu = machine.createDevice({ vram });
  const process = machine.createProcess();
  return { machine, gpu, process, vm: gpu.vm(process) };
}

describe("a cause", () => {
  function* twoSteps(pause: Promise<void>, seen: number[]): Steps<number> {
    seen.push(currentCause());
    yield* wait(pause);
    seen.push(currentCause());
    yield* wait(Promise.reject(new Error("no")).catch(() => undefined));
    seen.push(currentCause());
    return currentCause();
  }

  test("holds across the waits of an activity, and for nobody beside it", async () => {
    const seen: number[][] = [[], []];
    const works = [11, 22].map((cause, i) => causedBy(cause, () => run(twoSteps(Promise.resolve(), seen[i]!))));
    expect(currentCause()).toBe(0);
    expect(await Promise.all(works)).toEqual([11, 22]);
    expect(seen).toEqual([
      [11, 11, 11],
      [22, 22, 22],
    ]);
    expect(currentCause()).toBe(0);
  });

  test("is put back when the function throws, or an activity fails", async () => {
    expect(() =>
      causedBy(5, () => {
        throw new Error("no");
      }),
    ).toThrow("no");
    expect(currentCause()).toBe(0);
    function* failing(): Steps<void> {
      yield* wait(Promise.resolve());
      throw new Error("later");
    }
    await expect(causedBy(6, () => run(failing()))).rejects.toThrow("later");
    expect(currentCause()).toBe(0);
  });

  test("within a cause goes before it", () => {
    expect(causedBy(1, () => [causedBy(2, currentCause), currentCause()])).toEqual([2, 1]);
  });
});

test("a fault that needs room: eviction and what follows go back to the round, the rest to the fault", async () => {
  const { machine, process, vm } = setUp();
  const a = await process.mmap(5 * CHUNK, { align: CHUNK });
  await vm.gfill(a, 4 * CHUNK, 1);
  const from = machine.trace.next;
  await vm.gst(a + 4 * CHUNK, 1);
  await machine.settle();
  const rows = rowsOf(machine, from);
  expect(kindsOf(rows, "bind")).toEqual(["bind", "gpu-fault", "round", "launch"]);
  expect(kindsOf(rows, "migrate-to-devmem")).toEqual(["migrate-to-devmem", "gpu-fault", "round", "launch"]);
  expect(kindsOf(rows, "evict")).toEqual(["evict", "round", "launch"]);
  for (const kind of ["migrate-to-ram", "invalidate", "tlb-invalidate"] as const) {
    expect(kindsOf(rows, kind)).toEqual([kind, "evict", "round", "launch"]);
  }
});

test("eviction on request goes back to the request", async () => {
  const { machine, process, vm } = setUp();
  const a = await process.mmap(CHUNK, { align: CHUNK });
  await vm.gst(a, 1);
  let from = machine.trace.next;
  await vm.toSys(a, CHUNK);
  expect(kindsOf(rowsOf(machine, from), "migrate-to-ram")).toEqual(["migrate-to-ram", "evict", "prefetch"]);
  expect(kindsOf(rowsOf(machine, from), "invalidate")).toEqual(["invalidate", "evict", "prefetch"]);
  from = machine.trace.next;
  await vm.prefetch(a, CHUNK, "DEV");
  expect(kindsOf(rowsOf(machine, from), "bind")).toEqual(["bind", "prefetch"]);
  from = machine.trace.next;
  await vm.close();
  expect(kindsOf(rowsOf(machine, from), "migrate-to-ram")).toEqual(["migrate-to-ram", "evict", "vm-close"]);
});

test("what a CPU fault leads to goes back to it", async () => {
  const { machine, process, vm } = setUp();
  const a = await process.mmap(CHUNK, { align: CHUNK });
  await vm.gst(a, 1);
  const from = machine.trace.next;
  expect(await process.ld(a)).toBe(1);
  const rows = rowsOf(machine, from);
  for (const kind of ["migrate-to-ram", "invalidate", "tlb-invalidate"] as const) {
    expect(kindsOf(rows, kind)).toEqual([kind, "cpu-fault"]);
  }
});

test("what munmap leads to goes back to it, the collector's late work too", async () => {
  const { machine, process, vm } = setUp();
  const a = await process.mmap(CHUNK, { align: CHUNK });
  await vm.gst(a, 1);
  const from = machine.trace.next;
  await process.munmap(a, CHUNK);
  await machine.settle();
  const rows = rowsOf(machine, from);
  expect(kindsOf(rows, "tlb-invalidate")).toEqual(["tlb-invalidate", "munmap"]);
  expect(kindsOf(rows, "collect")).toEqual(["collect", "invalidate", "munmap"]);
});

describe("what a system call leads to goes back to it", () => {
  const invalidates = async (call: (p: Process, a: number) => unknown): Promise<Row[]> => {
    const { machine, process, vm } = setUp();
    const a = await process.mmap(CHUNK, { align: CHUNK });
    await process.fill(a, CHUNK, 1);
    await vm.gst(a, 1);
    const from = machine.trace.next;
    await call(process, a);
    await machine.settle();
    return rowsOf(machine, from);
  };

  test("mprotect", async () => {
    const rows = await invalidates((p, a) => p.mprotect(a, MIB, "R"));
    expect(kindsOf(rows, "invalidate")).toEqual(["invalidate", "mprotect"]);
    expect(kindsOf(rows, "tlb-invalidate")).toEqual(["tlb-invalidate", "mprotect"]);
  });

  test("madvise", async () => {
    const rows = await invalidates((p, a) => p.dontneed(a, CHUNK));
    expect(kindsOf(rows, "invalidate")).toEqual(["invalidate", "madvise"]);
    const home = await invalidates((p, a) => p.mm.madvise(a, MIB, "populate-read"));
    expect(kindsOf(home, "migrate-to-ram")).toEqual(["migrate-to-ram", "cpu-fault", "madvise"]);
  });

  test("a hole punched into shared memory", async () => {
    const { machine, process, vm } = setUp();
    const a = await process.mmap(MIB, { kind: "shanon" });
    await vm.gst(a, 1);
    const from = machine.trace.next;
    expect(await process.mm.madvise(a, MIB, "remove")).toBe(0);
    expect(kindsOf(rowsOf(machine, from), "invalidate")).toEqual(["invalidate", "madvise"]);
  });

  test("mremap, the collector's late work too", async () => {
    const rows = await invalidates((p, a) => p.mm.mremap(a, CHUNK, CHUNK, { to: a + 16 * MIB }));
    expect(kindsOf(rows, "invalidate")).toEqual(["invalidate", "mremap"]);
    expect(kindsOf(rows, "collect")).toEqual(["collect", "invalidate", "mremap"]);
    expect(kindsOf(rows, "mmap")).toEqual(["mmap", "mremap"]);
  });

  test("fork, and the end of the process", async () => {
    const rows = await invalidates((p) => p.fork());
    expect(kindsOf(rows, "invalidate")).toEqual(["invalidate", "fork"]);
    const { machine, process, vm } = setUp();
    await vm.gst(await process.mmap(CHUNK, { align: CHUNK }), 1);
    const from = machine.trace.next;
    await process.mm.exit();
    await machine.settle();
    expect(kindsOf(rowsOf(machine, from), "invalidate")).toEqual(["invalidate", "exit"]);
  });

  test("one that is refused leaves no event", async () => {
    const rows = await invalidates(async (p, a) => {
      await p.mm.mprotect(a + 64 * MIB, CHUNK, "R");
      await p.mm.madvise(a + 64 * MIB, CHUNK, "dontneed");
      await p.mm.mremap(a + 64 * MIB, CHUNK, CHUNK, { to: a });
    });
    expect(rows).toEqual([]);
  });
});

const ROOTS: readonly EventKind[] = [
  ...(["launch", "mmap", "munmap", "mprotect", "madvise", "mremap", "fork"] as const),
  ...(["cpu-fault", "prefetch", "vm-close"] as const),
];
const OF_A_LAUNCH: readonly EventKind[] = [
  "round",
  "gpu-fault",
  "range-create",
  "migrate-decide",
  "migrate-to-devmem",
  "get-pages",
  "bind",
  "retry",
  "launch-end",
];

test.each(Array.from({ length: 12 }, (_, i) => i + 1))(
  "concurrent launches, CPU accesses and evictions do not cross (seed %i)",
  async (seed) => {
    const { machine, gpu, process, vm } = setUp(2 * CHUNK);
    const other = gpu.vm(process);
    const third = gpu.vm(process);
    const a = await process.mmap(4 * CHUNK, { align: CHUNK });
    await process.fill(a, 4 * CHUNK, 1);
    const work = (space: typeof vm) => async () => {
      for (let k = 0; k < 4; k++) await space.ginc(a + ((k + seed) % 4) * CHUNK);
    };
    await machine.sched.race(seed, [
      work(vm),
      work(other),
      async () => {
        for (let k = 0; k < 3; k++) await process.inc(a + k * CHUNK + 8);
        await process.munmap(a + 3 * CHUNK + CHUNK / 2, 4096);
        await process.dontneed(a + CHUNK / 2, 4096);
        await process.mprotect(a + CHUNK / 2, 4096, "R");
        await process.mm.mremap(a + 2 * CHUNK + CHUNK / 2, 4096, 4096, { mayMove: true, dontunmap: true });
      },
      // The hole that munmap makes may be there first.
      async () => void (await third.toSys(a, 3 * CHUNK)),
    ]);
    await machine.settle();
    const rows = rowsOf(machine);
    const bySeq = new Map(rows.map((row) => [row.seq, row]));
    for (const row of rows) {
      let root = row;
      while (root.cause !== 0) {
        expect(root.cause).toBeLessThan(root.seq);
        root = bySeq.get(root.cause)!;
      }
      expect(ROOTS, `${row.kind} ${row.seq}`).toContain(root.kind);
      if (!OF_A_LAUNCH.includes(row.kind)) continue;
      expect([row.kind, root.kind, root.subject]).toEqual([row.kind, "launch", row.subject]);
    }
    expect(rows.filter((row) => row.kind === "evict").length).toBeGreaterThan(0);
  },
);
