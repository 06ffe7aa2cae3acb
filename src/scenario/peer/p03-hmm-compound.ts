import type { Scenario } from "../verbs.ts";

export const meta = {
  title: "HMM compound: a page of 2 MiB as the device sees it, writable and read-only",
  tags: ["mm", "fault"],
};

export default async function (s: Scenario): Promise<void> {
  const bytes = 2 << 20;
  const d = s.device();
  const p = s.proc();
  const m = d.vm(p);
  const a = await p.mmap(bytes, { kind: "huge2m" });
  const words = Uint32Array.from({ length: bytes / 4 }, (_, i) => i);
  await p.write(a, words);

  const writable = await s.snap(m, a, bytes);
  s.must(writable.length === 512, "512 pages");
  s.must(
    writable.every((page) => page.read && page.write && page.large && !page.error && !page.none),
    "all readable and writable, and part of one 2 MiB mapping",
  );

  await p.mprotect(a, bytes, "R");
  const readOnly = await s.snap(m, a, bytes);
  s.must(
    readOnly.every((page) => page.read && !page.write && page.large),
    "after mprotect all readable, none writable, still one 2 MiB mapping",
  );
  s.must(s.same(await m.gread(a, bytes), words), "the GPU reads what the CPU wrote");
  const error = await s.fails(m.gst(a + 4096, 1), "GPUFAULT", "a GPU store fails");
  s.must(error?.fault?.kind === "PERM", "for want of permission");
  s.must(s.same(await p.read(a, bytes), words), "and stores nothing");
}
