import type { Scenario } from "../verbs.ts";

export const meta = {
  title:
    "Xe system allocator, madvise-preffered-loc-sram-migrate-pages: advice brings memory home with the next access",
  tags: ["madvise", "migrate"],
};

export default async function (s: Scenario): Promise<void> {
  const bytes = 64 << 10;
  const d = s.device();
  const p = s.proc();
  const m = d.vm(p);
  const a = await p.mmap(bytes, { align: bytes });
  const words = Uint32Array.from({ length: bytes / 4 }, (_, i) => i * 3 + 1);
  await p.write(a, words);
  await m.toVram(a, bytes);
  const isAt = (place: unknown) => s.where(p, a, bytes).every((here) => here === place);
  s.must(isAt(d), "the 16 pages are on the device");

  await m.attr(a, bytes, { loc: "SYS" });
  await m.gst(a + 152, 0xabcd);
  words[152 / 4] = 0xabcd;
  s.must(isAt("SYS"), "after the advice and a GPU store they are in system memory");
  s.must(s.same(await p.read(a, bytes), words), "with the data that was there and the store");
  s.must(s.same(await m.gread(a, bytes), words), "the GPU reads the same");
  s.must(isAt("SYS"), "and leaves them where they are");
  s.must(
    m.attrs(a, bytes).every(({ loc }) => loc === "SYS"),
    "the advice stands",
  );
}
