import { KernelError } from "../../base/errors.ts";
import type { Scenario } from "../verbs.ts";

export const meta = {
  title: "HMM migrate_shared: shared anonymous memory stays in system memory, and the GPU reaches it there",
  tags: ["migrate", "err", "mm"],
};

export default async function (s: Scenario): Promise<void> {
  const bytes = 4 << 20;
  const d = s.device();
  const p = s.proc();
  const m = d.vm(p);
  const a = await p.mmap(bytes, { align: 2 << 20, kind: "shanon" });
  const words = Uint32Array.from({ length: bytes / 4 }, (_, i) => i);
  await p.write(a, words);

  const moved = await m.toVram(a, bytes).catch((error: unknown) => error);
  const isRefused = moved instanceof KernelError && moved.code === "EINVAL";
  s.must(isRefused || moved === 0, `the migration is refused or moves nothing (${String(moved)})`);
  const isInPlace = () => s.where(p, a, bytes).every((place) => place === "SYS");
  s.must(isInPlace(), "every page is in system memory");
  s.must(s.same(await p.read(a, bytes), words), "with its data");

  s.must(s.same(await m.gread(a, bytes), words), "the GPU reads it there");
  await m.gst(a + 4096, 99);
  words[1024] = 99;
  s.must(s.same(await p.read(a, bytes), words), "and stores to it");
  s.must(isInPlace() && s.vram(d) === 0, "nothing has moved to VRAM");
}
