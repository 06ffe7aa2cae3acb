import type { Scenario } from "../verbs.ts";

export const meta = {
  title:
    "Xe kernel tests, migrate_sanity: the copy engine clears and copies, small and large, and through its own entries",
  tags: ["copy"],
};

const SMALL = 8 << 10;
const LARGE = 4 << 20;

export default async function (s: Scenario): Promise<void> {
  const d = s.device();
  for (const [size, pattern] of [
    [SMALL, 0x22],
    [LARGE, 0x11],
  ] as const) {
    const name = size === SMALL ? "8 KiB" : "4 MiB";
    const vram = await s.bo(d, size, "VRAM");
    const sys = await s.bo(d, size, "SYS");
    const holds = async (b: typeof sys, byte: number): Promise<boolean> => {
      const bytes = await b.read(0, size);
      return s.same(bytes, new Uint8Array(size).fill(byte));
    };
    await vram.fill(0, size, pattern);
    s.must(await holds(vram, pattern), `${name} filled with 0x${pattern.toString(16)}`);
    await vram.fill(0, size, 0);
    s.must(await holds(vram, 0), `${name} cleared to 0`);

    await sys.fill(0, size, 0xc0);
    await vram.copy(0, sys, 0, size);
    s.must(await holds(vram, 0xc0), `${name} of 0xc0 copied to VRAM`);
    await vram.fill(0, size, 0xd0);
    await sys.copy(0, vram, 0, size);
    s.must(await holds(sys, 0xd0), `${name} of 0xd0 copied back`);

    const m = d.vm(s.proc(), { mirror: false });
    const [to, from] = [1 << 30, 2 ** 31];
    await sys.fill(0, size, 0xee);
    await m.bind(to, size, vram, 0, { by: "gpu" });
    await m.bind(from, size, sys, 0, { by: "gpu" });
    await m.gcpy(to, from, size);
    s.must(await holds(vram, 0xee), `${name} copied through entries that the GPU wrote`);
    await m.close();
    await vram.close();
    await sys.close();
  }
}
