import { KernelError } from "../../base/errors.ts";
import type { Scenario } from "../verbs.ts";

export const meta = {
  title: "HMM anon_teardown: the upper half is unmapped while the GPU reads",
  tags: ["conc", "fault", "gc"],
};

const BYTES = 4 << 20;
const HALF = BYTES / 2;
const ROUNDS = 10;
const DELAYS = 32;

export default function (s: Scenario): Promise<void> {
  return teardown(s, ROUNDS);
}

/** A round is 32 reads, each beside an munmap with another delay and another seed. */
export async function teardown(s: Scenario, rounds: number): Promise<void> {
  const d = s.device();
  const p = s.proc();
  const m = d.vm(p);
  const words = Uint32Array.from({ length: BYTES / 4 }, (_, i) => i);
  const lower = words.subarray(0, HALF / 4);
  const wrong = { data: 0, address: 0, lower: 0, range: 0, leaf: 0 };
  let failed = 0;
  for (let round = 0; round < rounds; round++) {
    for (let delay = 0; delay < DELAYS; delay++) {
      const a = await p.mmap(BYTES, { align: HALF });
      await p.write(a, words);
      const [read] = await s.race(
        s.seed * ROUNDS * DELAYS + round * DELAYS + delay,
        () => m.gread(a, BYTES).catch((error: unknown) => error),
        async () => {
          for (let i = 0; i < delay; i++) await s.yield();
          await p.munmap(a + HALF, HALF);
        },
      );
      if (read instanceof Uint8Array) {
        if (!s.same(read, words)) wrong.data += 1;
      } else if (read instanceof KernelError && read.code === "GPUFAULT") {
        failed += 1;
        const addr = read.fault?.addr ?? 0;
        if (addr < a + HALF || addr >= a + BYTES) wrong.address += 1;
      } else {
        throw read;
      }
      await s.settle();
      if (!s.same(await m.gread(a, HALF), lower)) wrong.lower += 1;
      if (s.ranges(m, a + HALF, a + BYTES).length > 0) wrong.range += 1;
      if ((await s.leafs(m, a + HALF, a + BYTES)).length > 0) wrong.leaf += 1;
      await p.munmap(a, HALF);
    }
  }
  s.note(`${failed} of ${rounds * DELAYS} reads met the hole`);
  s.must(wrong.data === 0, `a read that succeeds has every word right (${wrong.data} have not)`);
  s.must(wrong.address === 0, `one that fails names an address in the upper half (${wrong.address} do not)`);
  s.must(wrong.lower === 0, `the lower half still reads right (${wrong.lower} times not)`);
  s.must(wrong.range === 0, `no range covers the upper half (${wrong.range} times one does)`);
  s.must(wrong.leaf === 0, `no GPU entry covers the upper half (${wrong.leaf} times one does)`);
}
