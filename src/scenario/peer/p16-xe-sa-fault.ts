import type { Scenario } from "../verbs.ts";

export const meta = {
  title:
    "Xe system allocator, fault, and Xe fault mode, invalid-va: what is mapped nowhere is reported, and the VM lives on",
  tags: ["err", "fault"],
};

export default async function (s: Scenario): Promise<void> {
  const d = s.device();
  const p = s.proc();
  const m = d.vm(p);
  const a = await p.mmap(s.pages(4));
  await m.gst(a, 1);
  for (const wrong of [2 * a, 0x1fffffffffff000]) {
    const name = `0x${wrong.toString(16)}`;
    for (const access of ["read", "write", "atomic"] as const) {
      const call = access === "read" ? m.gld(wrong) : access === "write" ? m.gst(wrong, 5) : m.ginc(wrong);
      const error = await s.fails(call, "GPUFAULT", `${access} at ${name} fails`);
      s.must(
        error?.fault?.addr === wrong && error.fault.access === access,
        "the fault names the address and the access",
      );
    }
    await m.gst(a + s.pages(1), wrong % 65536);
    s.must((await p.ld(a + s.pages(1))) === wrong % 65536, "a following store to a valid buffer lands");
  }
  s.must((await m.gld(a)) === 1, "what was stored before is there");
}
