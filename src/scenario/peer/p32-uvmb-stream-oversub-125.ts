import type { Scenario } from "../verbs.ts";

export const meta = {
  title: "UVM bench stream, oversubscribed to 125 %: one GPU pass over 40 MiB under 32 MiB of VRAM",
  tags: ["evict", "fault"],
};

const INCREMENT = /* wgsl */ `
fn kernel(item: u32) {
  let at = svm_write(addr_add(arg64(0u), item * 4096u));
  if (svm_missed()) { return; }
  svm_store(at, svm_load(at) + 1u);
}`;

export default async function (s: Scenario): Promise<void> {
  const vram = 32 << 20;
  const bytes = 40 << 20;
  const chunk = 2 << 20;
  const d = s.device({ vram });
  const p = s.proc();
  const m = d.vm(p);
  const a = await p.mmap(bytes, { align: chunk });
  const words = new Uint32Array(bytes / 4);
  for (let page = 0; page < bytes / 4096; page++) words[page * 1024] = page * 3;
  await p.write(a, words);

  const arrivals = new Array<number>(bytes / chunk).fill(0);
  const inVram = new Array<boolean>(bytes / chunk).fill(false);
  const unwatch = s.watch(() => {
    for (let i = 0; i < arrivals.length; i++) {
      const now = s.where(p, a + i * chunk) === d;
      if (now && !inVram[i]) arrivals[i]! += 1;
      inVram[i] = now;
    }
  });
  s.mark();
  await m.kernel(INCREMENT, {
    items: bytes / 4096,
    args: [a % 2 ** 32, Math.floor(a / 2 ** 32)],
    reference(item, ctx) {
      const at = ctx.translate(a + item * 4096, 1);
      if (!ctx.missed) ctx.store(at, ctx.load(at) + 1);
    },
  });
  unwatch();
  const delta = s.delta(m);
  s.cfg(delta.toDevBytes === bytes, `to-device bytes are 40 MiB (${delta.toDevBytes / 1048576} MiB)`);
  s.cfg(delta.evict >= 4, `at least 4 evictions (${delta.evict})`);
  s.cfg(
    arrivals.every((n) => n === 1),
    "no chunk migrates in twice",
  );

  for (let page = 0; page < bytes / 4096; page++) words[page * 1024]! += 1;
  s.must(s.same(await p.read(a, bytes), words), "every page's first word is incremented once");
}
