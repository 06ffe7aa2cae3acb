import { optimalMisses } from "../../driver/policy/optimum.ts";
import { EVICT_POLICIES } from "../../driver/policy/policy.ts";
import type { EvictName } from "../../driver/policy/policy.ts";
import type { Scenario } from "../verbs.ts";

const CHUNK = 256 << 10;

export const meta = {
  title: "Evict policies: 125 % of VRAM, over and over",
  tags: ["evict"],
  config: { chunks: [CHUNK, 4096], vram: 16 * CHUNK },
};

/** 20 chunks, of which 16 fit. */
const CHUNKS = 20;
const PASSES = 3;

/**
 * Touches chunks one launch after the other under every evict policy, and prints how often each had to bring one, beside
 * the optimum: what Belady's rule, which knows the future, needs. In a cycle that does not fit, putting out the least
 * recently used one puts out just what comes next, every time.
 */
export default async function (s: Scenario): Promise<void> {
  const cycle = Array.from({ length: PASSES * CHUNKS }, (_, i) => i % CHUNKS);
  // Every other use is of one of 8 chunks, in turn; the rest goes round the other 12.
  const hotAndCold = cycle.map((_, i) => (i % 2 === 0 ? (i / 2) % 8 : 8 + (((i - 1) / 2) % 12)));
  for (const [name, references] of Object.entries({ cycle, "hot and cold": hotAndCold })) {
    const optimum = optimalMisses(references, 16);
    const misses: Record<string, number> = {};
    for (const evict of EVICT_POLICIES) misses[evict] = await missesOf(s, evict, references);
    s.note(
      `${name}: ${EVICT_POLICIES.map((evict) => `${evict} ${misses[evict]}`).join(", ")}, optimum ${optimum} misses`,
    );
    s.must(
      EVICT_POLICIES.every((evict) => misses[evict]! >= optimum),
      `${name}: no policy beats the optimum of ${optimum}`,
    );
    if (references !== cycle) continue;
    s.cfg(misses["lru"] === cycle.length && misses["fifo"] === cycle.length, "cycle: lru and fifo miss every time");
    s.cfg(misses["random"]! < cycle.length, `cycle: random hits sometimes (${misses["random"]} misses)`);
  }
}

async function missesOf(s: Scenario, evict: EvictName, references: readonly number[]): Promise<number> {
  const device = s.machine.createDevice({ vram: s.config.vram, window: 1 << 20, evict });
  const p = s.proc();
  const m = device.vm(p);
  const a = await p.mmap(CHUNKS * CHUNK, { align: 2 << 20 });
  const words = new Array<number>(CHUNKS).fill(0);
  for (const chunk of references) {
    await m.gst(a + chunk * CHUNK, (words[chunk]! += 1));
  }
  const { toDevBytes } = m.counters;
  for (let chunk = 0; chunk < CHUNKS; chunk++) {
    if ((await p.ld(a + chunk * CHUNK)) !== words[chunk])
      s.must(false, `${evict}: chunk ${chunk} holds what was stored last`);
  }
  s.must(true, `${evict}: every chunk holds what was stored last`);
  await m.close();
  await p.exit();
  return toDevBytes / CHUNK;
}
