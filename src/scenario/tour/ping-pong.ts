import type { Scenario } from "../verbs.ts";

export const meta = {
  title: "Ping-pong: CPU and GPU count in one word",
  tags: ["fault", "migrate"],
};

export default async function (s: Scenario): Promise<void> {
  const turns = 12;
  const d = s.device({ vram: 16 << 20 });
  const p = s.proc();
  const m = d.vm(p);
  const a = await p.mmap(2 << 20, { align: 2 << 20 });
  await p.fill(a, 2 << 20, 0);
  for (let turn = 0; turn < turns; turn++) {
    s.must((await m.ginc(a)) === 2 * turn, `turn ${turn}: the GPU finds ${2 * turn}`);
    s.must((await p.inc(a)) === 2 * turn + 1, `turn ${turn}: the CPU finds ${2 * turn + 1}`);
  }
  s.cfg(s.cnt(m).toDevBytes === turns * (2 << 20), "2 MiB crossed to the device for every turn");
}
