import type { Scenario } from "../verbs.ts";

export const meta = {
  title: "Xe system allocator, partial-munmap-cpu-fault: half of a range that was on the device is unmapped",
  tags: ["gc", "range", "migrate", "fault"],
};

export default async function (s: Scenario): Promise<void> {
  const bytes = 2 << 20;
  const half = bytes / 2;
  const d = s.device();
  const p = s.proc();
  const m = d.vm(p);
  const a = await p.mmap(bytes, { align: bytes });
  await p.fill(a, bytes, 0x05);
  await m.gst(a + 152, 0x11111111);
  s.must((await p.ld(a + 152)) === 0x11111111, "the CPU reads the GPU's first store");

  await p.munmap(a, half);
  const second = a + half + 160 + 152;
  await m.gst(second, 0x22222222);
  s.must((await p.ld(second)) === 0x22222222, "and the second, in the half that is left");
  s.must(
    (await p.ld(second - 4)) === 0x05050505 && (await p.ld(second + 4)) === 0x05050505,
    "the bytes around it are as they were",
  );
  const rest = await p.read(a + half, half);
  new DataView(rest.buffer).setUint32(second - a - half, 0x05050505, true);
  s.must(
    rest.every((byte) => byte === 0x05),
    "and so are all others",
  );
  await s.fails(p.ld(a + 152), "SEGV", "the CPU reaches nothing in the hole");
  const error = await s.fails(m.gld(a + 152), "GPUFAULT", "nor does the GPU");
  s.must(error?.fault?.kind === "NOENT" && error.fault.addr === a + 152, "whose fault names the word");
  s.cfg(
    s.ranges(m, a, a + bytes).every((range) => range.end - range.start < bytes),
    "no range of 2 MiB remains",
  );
  s.must(s.ranges(m, a, a + half).length === 0, "no range is in the hole");
}
