import { describe, expect, test } from "vitest";
import { TRACE_STRIDE, TraceRing } from "../../src/base/trace.ts";
import { FramePort } from "../../src/worker/frame-port.ts";
import type { MachineView } from "../../src/worker/machine-view.ts";
import { toPlainError } from "../../src/worker/plain-error.ts";
import { COUNTER, COUNTERS, ROUND_STRIDE } from "../../src/worker/protocol.ts";
import type { DeviceSize, Frame, RunState } from "../../src/worker/protocol.ts";
import { Sampler } from "../../src/worker/sampler.ts";
import { DeviceLostError, KernelError, UnsupportedError } from "../../src/base/errors.ts";

const RUN: RunState = {
  phase: "running",
  run: 1,
  title: "",
  note: "",
  progress: null,
  elapsedMs: 0,
  checks: [],
  report: [],
  error: null,
};

class Machine implements MachineView {
  readonly events = new TraceRing(64, () => 0);
  readonly totals = new Float64Array(COUNTERS.length);
  readonly vramPages = 16;
  readonly isLost = false;
  page = 0;

  counters(out: Float64Array): void {
    out.set(this.totals);
  }
  vmas(): Float64Array {
    return Float64Array.of(1, 0x1000, 0x2000, 7);
  }
  ranges(): Float64Array {
    return new Float64Array(0);
  }
  blocks(): Float64Array {
    return new Float64Array(0);
  }
  devices(): DeviceSize[] {
    return [{ name: "gpu0", pages: this.vramPages }];
  }
  vram(out: Uint8Array): void {
    out.fill(this.page);
  }
}

describe("frames", () => {
  test("carry every event once, also those that were recorded while no frame was asked for", () => {
    const machine = new Machine();
    const sampler = new Sampler(machine, () => 0);
    machine.events.record("mmap", 1, 0x1000, 0x2000, 0);
    machine.events.record("launch", 1, 0, 0, 1);
    expect(sampler.hasNews).toBe(true);
    expect(sampler.frame(RUN, null).events.length).toBe(2 * TRACE_STRIDE);
    expect(sampler.hasNews).toBe(false);
    machine.events.record("round", 1, 0, 0, 0);
    expect(sampler.frame(RUN, null).events[0]).toBe(3);
  });

  test("carry what each round added, not the totals", () => {
    const machine = new Machine();
    const sampler = new Sampler(machine, () => 0);
    machine.totals[COUNTER.bytesIn] = 100;
    sampler.round();
    sampler.round();
    machine.totals[COUNTER.bytesIn] = 130;
    sampler.round();
    const { rounds } = sampler.frame(RUN, null);
    expect(rounds.length).toBe(2 * ROUND_STRIDE);
    expect([rounds[1 + COUNTER.bytesIn], rounds[ROUND_STRIDE + 1 + COUNTER.bytesIn]]).toEqual([100, 30]);
  });

  test("show the last state of a machine that is gone, again and again", () => {
    const machine = new Machine();
    machine.page = 3;
    const sampler = new Sampler(machine, () => 0);
    sampler.freeze();
    machine.page = 0;
    machine.events.record("munmap", 1, 0x1000, 0x2000, 0);
    for (let i = 0; i < 2; i++) {
      const { vram, vmas, events } = sampler.frame(RUN, null);
      expect([vram[0], vmas[1], events.length]).toEqual([3, 0x1000, 0]);
    }
  });

  test("reuse the buffer that comes back when it fits", () => {
    const sampler = new Sampler(new Machine(), () => 0);
    const buffer = new ArrayBuffer(16);
    expect(sampler.frame(RUN, buffer).vram.buffer).toBe(buffer);
    expect(sampler.frame(RUN, new ArrayBuffer(8)).vram.length).toBe(16);
  });
});

describe("the frame port", () => {
  /** A port on a clock of its own; `cost` is what one frame takes, ms. */
  function rig(cost: number) {
    let clock = 0;
    const sampler = new Sampler(new Machine(), () => 0);
    const port = new FramePort(
      (recycled) => {
        clock += cost;
        return sampler.frame(RUN, recycled);
      },
      () => clock,
    );
    const channel = new MessageChannel();
    const frames: Frame[] = [];
    channel.port2.onmessage = (event: MessageEvent<Frame>) => frames.push(event.data);
    port.connect(channel.port1);
    const settle = () => new Promise<void>((resolve) => setTimeout(resolve, 20));
    return {
      port,
      frames,
      settle,
      advance: (ms: number) => (clock += ms),
      pull: () => channel.port2.postMessage({ recycle: null }),
      close: () => channel.port1.close(),
    };
  }

  test("answers a pull only when something has changed", async () => {
    const r = rig(0);
    r.pull();
    await r.settle();
    expect(r.frames.length).toBe(1);
    r.pull();
    await r.settle();
    expect(r.frames.length).toBe(1);
    r.port.changed();
    r.port.changed();
    await r.settle();
    expect(r.frames.length).toBe(2);
    r.close();
  });

  test("puts costly frames off, and sends them with a later tick", async () => {
    const r = rig(10);
    r.pull();
    await r.settle();
    r.pull();
    await r.settle();
    r.port.changed();
    await r.settle();
    expect(r.frames.length).toBe(1);
    r.advance(100);
    r.port.tick();
    await r.settle();
    expect(r.frames.length).toBe(2);
    r.close();
  });
});

test("errors keep their fields across the boundary", () => {
  const lost = toPlainError(new DeviceLostError("unknown", "gone"));
  expect([lost.name, lost.code, lost.detail["reason"]]).toEqual(["DeviceLostError", "EIO", "unknown"]);
  const missing = toPlainError(new UnsupportedError(["a WebGPU adapter"], "use Chrome"));
  expect(missing.detail["missing"]).toEqual(["a WebGPU adapter"]);
  const fault = { kind: "NOENT", addr: 4096, access: "read" } as const;
  expect(structuredClone(toPlainError(new KernelError("GPUFAULT", "no", { fault }))).detail["fault"]).toEqual(fault);
  expect(toPlainError("text").message).toBe("text");
});
