import { TraceRing } from "../base/trace.ts";
import { StoppedError } from "./gate.ts";
import type { MachineView } from "./machine-view.ts";
import { COUNTERS, COUNTER, PAGE_FRESH, PAGE_RANGE, PAGE_TABLE, PAGE_FREE, PAGE_ZEROED } from "./protocol.ts";
import type { AdapterInfo, CopyPathTable, RunRequest, ScenarioInfo } from "./protocol.ts";
import type { JobContext, Jobs } from "./workbench.ts";

const M2 = 2 << 20;
class FakeView implements MachineView {
  events = new TraceRing(1 << 16, () => performance.now());
  c = new Float64Array(COUNTERS.length);
  vramPages: number;
  base = 0x7f1240000000;
  size = 96 << 20;
  heap = 0x55d0a0000000;
  place = new Map<number, { slot: number; place: number; size: number }>();
  slots: (number | null)[];
  fresh = new Set<number>();
  lru: number[] = [];
  constructor(vram: number) {
    this.vramPages = vram / 4096 + 512;
    this.slots = new Array(vram / M2).fill(null);
  }
  counters(out: Float64Array) {
    out.set(this.c);
  }
  vmas() {
    return Float64Array.from([
      1,
      this.heap,
      this.heap + (300 << 12),
      7,
      1,
      this.base,
      this.base + this.size,
      7,
      1,
      this.base + this.size + (1 << 30),
      this.base + this.size + (1 << 30) + M2,
      5,
    ]);
  }
  ranges() {
    const out: number[] = [];
    for (const [va, r] of [...this.place].sort((a, b) => a[0] - b[0])) out.push(1, 1, va, va + r.size, r.place);
    for (let i = 0; i < 6; i++) out.push(1, 1, this.heap + i * 0x20000, this.heap + i * 0x20000 + 65536, i % 3);
    for (let i = 0; i < 12; i++)
      out.push(1, 1, this.heap + 0x110000 + i * 4096, this.heap + 0x110000 + i * 4096 + 4096, 1 + (i % 2));
    return Float64Array.from(out);
  }
  blocks() {
    const out: number[] = [];
    this.slots.forEach((va, i) => {
      if (va !== null) out.push(512 + i * 512, 512, va, 1);
    });
    return Float64Array.from(out);
  }
  vram(out: Uint8Array) {
    out.fill(PAGE_FREE);
    out.fill(PAGE_TABLE, 0, 64);
    out.fill(PAGE_FREE, 64, 512);
    this.slots.forEach((va, i) => {
      const at = 512 + i * 512;
      out.fill(
        va === null ? (i % 5 === 4 ? PAGE_ZEROED : PAGE_FREE) : this.fresh.has(i) ? PAGE_FRESH : PAGE_RANGE,
        at,
        at + 512,
      );
    });
  }
  round(chunks: number[]) {
    const t = this.events,
      c = this.c;
    this.fresh.clear();
    const round = t.record("round", 1, 0, 0, 24000 - c[COUNTER.rounds]! * 500, 1);
    c[COUNTER.rounds]! += 1;
    for (const va of chunks) {
      const f = t.record("gpu-fault", 1, va, va + 4096, 0, round);
      c[COUNTER.faults]! += 1;
      const r = t.record("range-create", 1, va, va + M2, 0, f);
      const d = t.record("migrate-decide", 1, va, va + M2, 1, r);
      let slot = this.slots.indexOf(null);
      if (slot < 0) {
        const victim = this.lru.shift()!;
        slot = this.place.get(victim)!.slot;
        this.place.get(victim)!.place = 2;
        const e = t.record("evict", 1, victim, victim + M2, 512, d);
        const inv = t.record("invalidate", 1, victim, victim + M2, 6, e);
        t.record("tlb-invalidate", 1, victim, victim + M2, ++c[COUNTER.tlbInvalidations]!, inv);
        t.record("migrate-to-ram", 1, victim, victim + M2, 512, e);
        c[COUNTER.evictions]! += 1;
        c[COUNTER.bytesOut]! += M2;
        c[COUNTER.invalidations]! += 1;
      }
      this.slots[slot] = va;
      this.fresh.add(slot);
      this.lru.push(va);
      this.place.set(va, { slot, place: 1, size: M2 });
      const m = t.record("migrate-to-devmem", 1, va, va + M2, 512, d);
      const g = t.record("get-pages", 1, va, va + M2, 0, m);
      if (Math.random() < 0.1) t.record("retry", 1, va, va + M2, -11, g);
      t.record("bind", 1, va, va + M2, 1, g);
      c[COUNTER.bytesIn]! += M2;
    }
  }
}

const sleep = (ms: number) => new Promise<void>((r) => setTimeout(r, ms));

export class FakeJobs implements Jobs {
  async probe(): Promise<AdapterInfo> {
    return {
      engine: "webgpu",
      name: "google swiftshader",
      description: "SwiftShader Device (LLVM 16)",
      software: true,
      maxBufferBytes: 2 ** 30,
      maxBindingBytes: 2 ** 30,
      features: ["timestamp-query", "shader-f16"],
    };
  }
  scenarios(): readonly ScenarioInfo[] {
    return [
      {
        id: "P32",
        title: "P32 · Twice the VRAM, two passes",
        description:
          "A kernel walks memory twice the size of VRAM, two times over. Every byte must survive the evictions, and the counters must show each chunk moving.",
      },
      {
        id: "P04",
        title: "P04 · Migrate, fault back, migrate again",
        description:
          "4 MiB moves to VRAM, the CPU faults half of it back, all of it moves again. GPU and CPU read the same words each time.",
      },
    ];
  }
  async run(request: RunRequest, ctx: JobContext): Promise<boolean> {
    const view = new FakeView(request.vramBytes ?? 48 << 20);
    ctx.tell({
      title:
        request.job.kind === "file"
          ? request.job.file.name
          : this.scenarios().find((s) => request.job.kind === "scenario" && s.id === request.job.id)!.title,
      note: "histogram, pass 1 of 3",
    });
    ctx.machine(view);
    view.events.record("mmap", 1, view.base, view.base + view.size, 0, 0);
    view.events.record("launch", 1, 0, 0, 24576, 0);
    for (let pass = 0; pass < 3; pass++) {
      for (let i = 0; i < 48; i += 4) {
        await ctx.gate.pass("round");
        await sleep(90);
        const n = 2 + Math.floor(Math.random() * 3);
        view.round(
          Array.from({ length: n }, (_, k) => view.base + Math.min(47, i + k) * M2).filter(
            (va) => view.place.get(va)?.place !== 1,
          ),
        );
        ctx.tell({
          note: `${["histogram", "crc32", "transform"][pass]}, pass ${pass + 1} of 3`,
          progress: (pass * 48 + i) / 144,
        });
      }
      ctx.tell({
        checks: [
          { ok: true, kind: "must", text: "every word reads back as it was written" },
          { ok: true, kind: "must", text: "each chunk moved in at least once" },
          { ok: true, kind: "cfg", text: "ranges are 2 MiB" },
        ].slice(0, pass + 1) as never,
      });
    }
    view.events.record("launch-end", 1, 0, 0, 36, 2);
    ctx.tell({
      progress: 1,
      note: "verified",
      report: [
        ["File", "node, 96.2 MiB"],
        ["Throughput", "412 MB/s"],
        ["Verified", "histogram, crc32, transform"],
      ],
    });
    void StoppedError;
    return true;
  }
  async copyPaths(onProgress: (d: number, n: string) => void): Promise<CopyPathTable> {
    const names = [
      ["writeBuffer", "up"],
      ["staging ring", "up"],
      ["copyBufferToBuffer", "device"],
      ["compute copy", "device"],
      ["gather + mapAsync", "down"],
    ];
    for (let i = 0; i < names.length; i++) {
      onProgress(i / names.length, names[i]![0]!);
      await sleep(300);
    }
    return {
      sizes: [4096, 65536, 2 << 20, 64 << 20],
      rows: names.map(([path, direction], i) => ({
        path: path!,
        direction: direction!,
        rates: [3e7 * (i + 1), 4e8 * (i + 1), 1.2e9 * (i + 1), i === 2 ? null : 2.1e9 * (i + 1)],
      })),
    };
  }
}
