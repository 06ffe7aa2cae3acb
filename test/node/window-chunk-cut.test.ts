/** Chunks that stay in RAM and are larger than what the system window can give: smaller ones take their place. */
import { describe, expect, test } from "vitest";
import { KernelError } from "../../src/base/errors.ts";
import type { ReferenceKernelContext } from "../../src/hal/gpu.ts";
import { REFERENCE_ENGINE } from "../../src/machine/engine.ts";
import type { VmConfig } from "../../src/machine/index.ts";
import { Machine } from "../../src/machine/machine.ts";
import { checkInvariants } from "../../src/mm/invariants.ts";

const PAGE = 4096;
const MIB = 1 << 20;
const CHUNK = 2 * MIB;

function setUp(window: number, config: Partial<VmConfig> = {}) {
  const machine = new Machine({ engine: REFERENCE_ENGINE, ram: 64 * MIB, config });
  const process = machine.createProcess();
  return { machine, process, vm: machine.createDevice({ vram: 16 * MIB, window }).vm(process) };
}
type World = ReturnType<typeof setUp>;

/** Memory of each kind that does not leave RAM for a load of the GPU's. */
const KINDS = {
  "a shared file": {},
  "what is advised to stay in RAM": {},
  "what the policy leaves in RAM": { policy: { migrate: "write" } },
  "all memory": { migrate: false },
} as const satisfies Record<string, Partial<VmConfig>>;
type Kind = keyof typeof KINDS;
const kinds = Object.keys(KINDS) as Kind[];

/** `chunks` of memory of the kind; word 0 of chunk k is k + 1. */
async function keptInRam({ machine, process, vm }: World, kind: Kind, chunks: number): Promise<number> {
  const bytes = chunks * CHUNK;
  const file = kind === "a shared file" ? machine.createFile(bytes) : null;
  const a = await process.mmap(bytes, { align: CHUNK, ...(file === null ? {} : { kind: { file, shared: true } }) });
  await process.fill(a, bytes, 0);
  for (let k = 0; k < chunks; k++) await process.st(a + k * CHUNK, k + 1);
  if (kind === "what is advised to stay in RAM") await vm.attr(a, bytes, { loc: "SYS" });
  return a;
}

/** A chunk of VRAM for each item, except where nothing goes there: then it needs one page of the window. */
async function inVram({ process }: World, kind: Kind, items: number): Promise<{ to: number; step: number }> {
  const step = kind === "all memory" ? PAGE : CHUNK;
  return { to: await process.mmap(items * step, { align: step }), step };
}

/** Each item has its own word first, and then, one after the other, `per` chunks of `a`: it adds up their first words. */
async function addUp(w: World, kind: Kind, a: number, items: number, per: number): Promise<void> {
  const { to, step } = await inVram(w, kind, items);
  await w.vm.kernel("", {
    items,
    reference(item, c) {
      const own = c.translate(to + item * step, 1);
      let sum = 0;
      for (let k = 0; k < per && !c.missed; k++) {
        const at = c.translate(a + (item * per + k) * CHUNK, 0);
        if (!c.missed) sum += c.load(at);
      }
      if (!c.missed) c.store(own, sum);
    },
  });
  for (let item = 0; item < items; item++) {
    const first = item * per + 1;
    expect(await w.process.ld(to + item * step)).toBe((per * (2 * first + per - 1)) / 2);
  }
}

const sizesIn = ({ vm }: World, a: number, chunks: number): number[] =>
  vm.svm.ranges(a, a + chunks * CHUNK).map(({ start, end }) => end - start);

async function close({ machine, process }: World): Promise<void> {
  await machine.settle();
  checkInvariants(machine.phys);
  await process.exit();
  await machine.settle();
  checkInvariants(machine.phys);
  await machine.close();
}

async function refusal(work: Promise<unknown>): Promise<KernelError> {
  const error: unknown = await work.then(
    () => null,
    (e: unknown) => e,
  );
  expect(error).toBeInstanceOf(KernelError);
  return error as KernelError;
}

describe.each(kinds)("%s, beside memory that the launch holds elsewhere", (kind) => {
  test.each([1, 4])("a window smaller than a chunk, %i items: in pieces, and nothing of it moves", async (items) => {
    const w = setUp(MIB, KINDS[kind]);
    const chunks = 2 * items;
    const a = await keptInRam(w, kind, chunks);
    await addUp(w, kind, a, items, 2);
    for (let k = 0; k < chunks; k++) expect(w.machine.where(w.process, a + k * CHUNK) === "SYS").toBe(true);
    expect(Math.max(...sizesIn(w, a, chunks))).toBe(64 * 1024);
    await close(w);
  });

  test.each([1, 4])("room for one chunk where an item needs two, %i items: it is done", async (items) => {
    const w = setUp(1.5 * CHUNK, KINDS[kind]);
    const a = await keptInRam(w, kind, 2 * items);
    await addUp(w, kind, a, items, 2);
    await close(w);
  });
});

describe("the border of a window that holds the chunk", () => {
  // The window's first page is never given out.
  test.each([
    ["just", CHUNK + PAGE, CHUNK],
    ["by a page not", CHUNK, 64 * 1024],
    ["with pieces of 64 KiB just", 17 * PAGE, 64 * 1024],
    ["with pieces of 64 KiB by a page not", 16 * PAGE, PAGE],
  ])("%s", async (_name, window, size) => {
    const w = setUp(window);
    const a = await keptInRam(w, "a shared file", 2);
    // Something else has all of the window, and gives way.
    expect(await w.vm.gld(a + CHUNK)).toBe(2);
    await addUp(w, "a shared file", a, 1, 1);
    expect(sizesIn(w, a, 1)).toEqual([size]);
    await close(w);
  });

  test("chunks that fit one by one stay whole: items take turns", async () => {
    const w = setUp(1.5 * CHUNK);
    const a = await keptInRam(w, "a shared file", 4);
    await addUp(w, "a shared file", a, 4, 1);
    expect(sizesIn(w, a, 4)).toEqual([CHUNK, CHUNK, CHUNK, CHUNK]);
    await close(w);
  });
});

test("beside what others hold, a launch that holds nothing gets pieces", async () => {
  const w = setUp(1.5 * CHUNK);
  const a = await keptInRam(w, "a shared file", 2);
  await w.vm.gst(a, 1);
  const held = w.vm.svm.rangeAt(a)!;
  held.pin();
  expect(await w.vm.gld(a + CHUNK)).toBe(2);
  expect(sizesIn(w, a, 2)).toEqual([CHUNK, 64 * 1024]);
  held.unpin();
  await close(w);
});

test.each(["prefault", "idempotent", "workgroup"] as const)(
  "a kernel of design %s, whose two chunks are wanted at once, gets the second in pieces",
  async (design) => {
    const w = setUp(1.5 * CHUNK);
    const a = await keptInRam(w, "a shared file", 2);
    const { to } = await inVram(w, "a shared file", 1);
    const reach = (c: ReferenceKernelContext): readonly [own: number, ...rest: number[]] => [
      c.translate(to, 1),
      c.translate(a, 0),
      c.translate(a + CHUNK, 0),
    ];
    const source = {
      name: "sum",
      wgsl: "",
      design,
      reference(_item: number, c: ReferenceKernelContext) {
        const [own, ...words] = reach(c);
        if (!c.missed)
          c.store(
            own,
            words.reduce((sum, at) => sum + c.load(at), 0),
          );
      },
      referencePrefault: (_item: number, c: ReferenceKernelContext) => void reach(c),
    };
    await w.vm.run(source, { items: 1 });
    expect(await w.process.ld(to)).toBe(3);
    expect(sizesIn(w, a, 2)).toEqual([CHUNK, 64 * 1024]);
    await close(w);
  },
);

test("what the kernel stores through the pieces is in the file", async () => {
  const w = setUp(MIB);
  const file = w.machine.createFile(CHUNK);
  const a = await w.process.mmap(CHUNK, { align: CHUNK, kind: { file, shared: true } });
  const { to } = await inVram(w, "a shared file", 1);
  await w.vm.kernel("", {
    items: CHUNK / PAGE,
    reference(item, c) {
      const from = c.translate(to + item * PAGE, 0);
      const at = c.translate(a + item * PAGE + 8, 1);
      if (!c.missed) c.store(at, c.load(from) + item + 1);
    },
  });
  const words = new Uint32Array((await file.read(0, CHUNK)).buffer);
  for (let item = 0; item < CHUNK / PAGE; item++) expect(words[item * (PAGE / 4) + 2]).toBe(item + 1);
  await close(w);
});

test("an item that needs more pages than the window has is refused with the reason, and all is usable after", async () => {
  const w = setUp(3 * PAGE);
  const a = await keptInRam(w, "a shared file", 3);
  const error = await refusal(addUp(w, "a shared file", a, 1, 3));
  expect(error.message).toContain("its working set does not fit into the system window");
  expect(error.message).toContain("ENOSPC");
  await addUp(w, "a shared file", a, 1, 2);
  await close(w);
});
