import type { Scenario } from "../verbs.ts";

export const meta = {
  title: "HMM anon_write_child_shared: a child's GPU writes shared memory, and the parent reads it",
  tags: ["fork", "mm"],
};

/** Word i becomes -i, a page per item. */
const NEGATE = /* wgsl */ `
fn kernel(item: u32) {
  let at = svm_write(addr_add(arg64(0u), item * 4096u));
  if (svm_missed()) { return; }
  for (var i = 0u; i < 1024u; i++) { svm_store(at + i, 0u - svm_load(at + i)); }
}`;

export default async function (s: Scenario): Promise<void> {
  const bytes = 4 << 20;
  const d = s.device();
  const parent = s.proc();
  const a = await parent.mmap(bytes, { align: 2 << 20, kind: "shanon" });
  const words = Uint32Array.from({ length: bytes / 4 }, (_, i) => i);
  await parent.write(a, words);

  const child = await parent.fork();
  const m = d.vm(child);
  await m.kernel(NEGATE, {
    items: bytes / 4096,
    args: [a % 2 ** 32, Math.floor(a / 2 ** 32)],
    reference(item, ctx) {
      const at = ctx.translate(a + item * 4096, 1);
      if (ctx.missed) return;
      for (let i = 0; i < 1024; i++) ctx.store(at + i, -ctx.load(at + i) >>> 0);
    },
  });
  const negated = words.map((word) => -word);
  s.must(s.same(await parent.read(a, bytes), negated), "the parent's CPU reads -i in every word i");
  await child.exit();
  s.must(s.same(await parent.read(a, bytes), negated), "also when the child has gone");
}
