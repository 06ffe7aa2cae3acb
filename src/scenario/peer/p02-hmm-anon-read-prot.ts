import type { Scenario } from "../verbs.ts";

export const meta = {
  title: "HMM anon_read_prot: the GPU reads 4 MiB without access, and again when the CPU gives it",
  tags: ["fault", "err", "mm"],
};

export default async function (s: Scenario): Promise<void> {
  const bytes = 4 << 20;
  const d = s.device();
  const p = s.proc();
  const m = d.vm(p);
  const a = await p.mmap(bytes, { align: 2 << 20, prot: "NONE" });
  const to = await p.mmap(s.pages(1));
  await p.fill(to, s.pages(1), 0x5a);

  for (const offset of [0, 4, s.pages(1), (2 << 20) - 4, 2 << 20, bytes - 4]) {
    const error = await s.fails(m.gld(a + offset), "GPUFAULT", `a read at ${offset} fails`);
    s.must(
      error?.fault?.addr === a + offset && error.fault.access === "read",
      "the fault names the word and the access",
    );
  }
  await s.fails(m.gcpy(to, a, s.pages(1)), "GPUFAULT", "so does a copy from there");
  s.must(
    (await p.read(to, s.pages(1))).every((byte) => byte === 0x5a),
    "whose destination is untouched",
  );

  await p.mprotect(a, bytes, "RW");
  s.must(
    (await m.gread(a, bytes)).every((byte) => byte === 0),
    "after mprotect every word reads 0",
  );
}
