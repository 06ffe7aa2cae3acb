import type { Scenario } from "../verbs.ts";

export const meta = {
  title: "Xe system allocator, twice-malloc-fork-read-after: children see the stores before the fork and none after it",
  tags: ["fork", "fault", "conc"],
};

const SEEDS = 64;

export default async function (s: Scenario): Promise<void> {
  const bytes = 64 << 10;
  const d = s.device();
  const p = s.proc();
  const m = d.vm(p);
  const a = await p.mmap(bytes);
  const expected = new Uint8Array(bytes);
  const words = new DataView(expected.buffer);
  const store = async (offset: number, value: number) => {
    await m.gst(a + offset, value);
    words.setUint32(offset, value, true);
  };

  for (const offset of [152, 312]) {
    await store(offset, s.random());
    const child = await p.fork();
    s.must(s.same(await child.read(a, bytes), expected), `store at ${offset}: the child reads equal`);
    await child.exit();
    s.must(s.same(await p.read(a, bytes), expected), `store at ${offset}: the parent reads equal`);
  }

  const child = await p.fork();
  const atFork = expected.slice();
  await store(152, s.random());
  s.must(s.same(await child.read(a, bytes), atFork), "the parent's next GPU store is not seen by a child still alive");
  s.must(s.same(await p.read(a, bytes), expected), "the parent sees it");
  await child.exit();

  // The same with the store, the fork's copies and the child's reads in any order.
  let right = 0;
  for (let seed = 0; seed < SEEDS; seed++) {
    const living = await p.fork();
    const before = expected.slice();
    const value = s.random();
    const [read] = await s.race(
      s.seed * SEEDS + seed,
      () => living.read(a, bytes),
      () => store(152 + 4 * seed, value),
      () => p.read(a, bytes),
    );
    const inChild = s.same(read as Uint8Array, before) && s.same(await living.read(a, bytes), before);
    if (inChild && s.same(await p.read(a, bytes), expected)) right += 1;
    await living.exit();
  }
  s.must(right === SEEDS, `in any order the child reads what was there at the fork (${right} of ${SEEDS} seeds)`);
}
