import type { Scenario } from "../verbs.ts";

export const meta = {
  title: "HMM double_map: six read-only pages read through two devices, then moved to one of them",
  tags: ["multi", "migrate", "fault"],
};

export default async function (s: Scenario): Promise<void> {
  const bytes = s.pages(6);
  const [first, second] = [s.device(), s.device()];
  const p = s.proc();
  const [m0, m1] = [first.vm(p), second.vm(p)];
  const a = await p.mmap(bytes);
  const words = Uint32Array.from({ length: bytes / 4 }, (_, i) => i * 7 + 1);
  await p.write(a, words);
  await p.mprotect(a, bytes, "R");

  s.must(s.same(await m0.gread(a, bytes), words), "device 0 reads equal");
  s.must(s.same(await m1.gread(a, bytes), words), "device 1 reads equal");
  await m1.toVram(a, bytes);
  s.must(
    s.where(p, a, bytes).every((place) => place === second),
    "the pages are on device 1",
  );
  s.must(s.same(await m0.gread(a, bytes), words), "device 0 reads equal again");
  s.must(s.same(await m1.gread(a, bytes), words), "so does device 1");
  s.must(s.same(await p.read(a, bytes), words), "and the CPU");
}
