/** A run as a Perfetto trace: read back field by field, as the format's schema has them. */
import { beforeAll, describe, expect, test } from "vitest";
import { EVENT_KINDS, TRACE_STRIDE } from "../../src/base/trace.ts";
import type { EventKind } from "../../src/base/trace.ts";
import { REFERENCE_ENGINE } from "../../src/machine/engine.ts";
import { Machine } from "../../src/machine/machine.ts";
import { perfettoTrace } from "../../src/trace/perfetto.ts";
import { ProtoWriter } from "../../src/trace/proto-writer.ts";

const MIB = 1 << 20;
const CHUNK = 2 * MIB;

/** A message as its fields, in order: numbers, or bytes. */
type Fields = { field: number; value: bigint | Uint8Array }[];

/** Reads one message; throws where the bytes are no message. */
function read(bytes: Uint8Array): Fields {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = 0;
  const varint = (): bigint => {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const byte = view.getUint8(at++);
      value |= BigInt(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
      if (shift > 63n) throw new Error("a varint of more than ten bytes");
    }
  };
  const fields: Fields = [];
  while (at < bytes.length) {
    const tag = Number(varint());
    const field = Math.floor(tag / 8);
    if (tag % 8 === 0) fields.push({ field, value: varint() });
    else if (tag % 8 === 1) {
      fields.push({ field, value: view.getBigUint64(at, true) });
      at += 8;
    } else if (tag % 8 === 2) {
      const length = Number(varint());
      if (at + length > bytes.length) throw new Error("a message longer than what holds it");
      fields.push({ field, value: bytes.subarray(at, at + length) });
      at += length;
    } else throw new Error(`wire type ${tag % 8}`);
  }
  return fields;
}

const all = (fields: Fields, field: number): (bigint | Uint8Array)[] =>
  fields.filter((f) => f.field === field).map((f) => f.value);
const numberOf = (fields: Fields, field: number): number => Number(all(fields, field)[0] ?? -1);
const message = (value: bigint | Uint8Array): Fields => read(value as Uint8Array);
const text = (value: bigint | Uint8Array | undefined): string =>
  value === undefined ? "" : new TextDecoder().decode(value as Uint8Array);

interface Track {
  name: string;
  parent: number;
  isCounter: boolean;
  isProcess: boolean;
}
interface Event {
  time: number;
  type: number;
  track: number;
  name: string;
  category: string;
  annotations: Record<string, number>;
  flows: number[];
  lastFlows: number[];
  value: number;
}

function decode(bytes: Uint8Array): { tracks: Map<number, Track>; events: Event[] } {
  const tracks = new Map<number, Track>();
  const events: Event[] = [];
  const interned = [new Map<number, string>(), new Map<number, string>(), new Map<number, string>()];
  const nameOf = (table: number, iid: number): string => {
    if (iid < 0) return "";
    const name = interned[table]!.get(iid);
    if (name === undefined) throw new Error(`interned name ${iid} of table ${table} is used before it is said`);
    return name;
  };
  read(bytes).forEach((top, i) => {
    expect(top.field).toBe(1);
    const packet = message(top.value);
    expect(numberOf(packet, 10)).toBe(1);
    expect(numberOf(packet, 13)).toBe(i === 0 ? 3 : 2);
    for (const data of all(packet, 12)) {
      for (const { field, value } of message(data)) {
        interned[field - 1]!.set(numberOf(message(value), 1), text(all(message(value), 2)[0]));
      }
    }
    for (const descriptor of all(packet, 60)) {
      const fields = message(descriptor);
      const uuid = numberOf(fields, 1);
      expect(tracks.has(uuid)).toBe(false);
      const parent = numberOf(fields, 5);
      if (parent >= 0) expect(tracks.has(parent)).toBe(true);
      const [isCounter, isProcess] = [all(fields, 8).length > 0, all(fields, 3).length > 0];
      tracks.set(uuid, { name: text(all(fields, 2)[0]), parent, isCounter, isProcess });
    }
    for (const data of all(packet, 11)) {
      const fields = message(data);
      const annotations: Record<string, number> = {};
      for (const note of all(fields, 4).map(message)) {
        const value = all(note, 4)[0] ?? all(note, 7)[0];
        annotations[nameOf(2, numberOf(note, 1))] = Number(BigInt.asIntN(64, value as bigint));
      }
      events.push({
        time: numberOf(packet, 8),
        type: numberOf(fields, 9),
        track: numberOf(fields, 11),
        name: nameOf(1, numberOf(fields, 10)),
        category: nameOf(0, numberOf(fields, 3)),
        annotations,
        flows: all(fields, 47).map(Number),
        lastFlows: all(fields, 48).map(Number),
        value: numberOf(fields, 30),
      });
    }
  });
  return { tracks, events };
}

const BEGIN = 1;
const END = 2;
const INSTANT = 3;
const COUNTER = 4;

/** Every slice is closed by its own end, on its own track. */
function checkNesting(events: readonly Event[]): { name: string; from: number; to: number; depth: number }[] {
  const slices = [];
  const open = new Map<number, Event[]>();
  let last = 0;
  for (const event of events) {
    expect(event.time).toBeGreaterThanOrEqual(last);
    last = event.time;
    const stack = open.get(event.track) ?? [];
    open.set(event.track, stack);
    if (event.type === BEGIN) stack.push(event);
    if (event.type !== END) continue;
    const begun = stack.pop();
    expect(begun, "an end without a beginning").toBeDefined();
    expect(event.time).toBeGreaterThan(begun!.time);
    slices.push({ name: begun!.name, from: begun!.time, to: event.time, depth: stack.length });
  }
  for (const stack of open.values()) expect(stack).toEqual([]);
  return slices;
}

async function aRun(): Promise<Machine> {
  const machine = new Machine({ engine: REFERENCE_ENGINE, ram: 64 * MIB });
  const process = machine.createProcess();
  const vm = machine.createDevice({ vram: 2 * CHUNK }).vm(process);
  const a = await process.mmap(4 * CHUNK, { align: CHUNK });
  await process.fill(a, 4 * CHUNK, 1);
  await vm.gfill(a, 4 * CHUNK, 2);
  await process.ld(a + 3 * CHUNK);
  await vm.gst(a, 3);
  await vm.gst(16, 1).catch(() => undefined);
  await process.munmap(a, CHUNK);
  await machine.settle();
  return machine;
}

describe("a trace", () => {
  let machine: Machine;
  beforeAll(async () => {
    machine = await aRun();
  });

  test("has every event of the ring once, on a track that is declared, with its number, cause and addresses", async () => {
    const ring = machine.trace.since(1);
    const { tracks, events } = decode(machine.perfettoTrace());
    const bySeq = new Map(
      events.filter((e) => e.annotations["event"] !== undefined).map((e) => [e.annotations["event"], e]),
    );
    for (let at = 0; at < ring.length; at += TRACE_STRIDE) {
      const [seq, kind, cause, , , start, end, detail] = ring.subarray(at, at + TRACE_STRIDE);
      const [name, meaning] = EVENT_KINDS[kind!]!;
      if (name === "vram" || name === "launch-end") continue;
      const event = bySeq.get(seq!);
      expect(event, `${name} ${seq}`).toBeDefined();
      expect(event!.name).toBe(name === "round" ? "service" : name);
      expect(event!.annotations["cause"] ?? 0).toBe(cause);
      if (end! > start!) expect([event!.annotations["start"], event!.annotations["end"]]).toEqual([start, end]);
      if (meaning !== "") expect(Object.values(event!.annotations)).toContain(detail);
      if (name === "gpu-fault") expect(event!.annotations["access"]).toBe(detail);
      if (name === "migrate-decide") expect(event!.annotations["detail"]).toBe(detail);
    }
    for (const { track, type } of events) {
      expect(tracks.has(track)).toBe(true);
      expect(tracks.get(track)!.isCounter).toBe(type === COUNTER);
    }
    expect([...tracks.values()].filter((t) => t.isProcess).map((t) => t.name)).toEqual(["webgpu-svm"]);
    expect([...tracks.values()].map((t) => t.name)).toEqual(
      expect.arrayContaining(["GPU address space 2", "kernels", "GPU faults", "to device", "process memory 1", "VRAM"]),
    );
  });

  test("has slices that nest: launch, dispatch and service in turn, and faults within a service", async () => {
    const { events } = decode(machine.perfettoTrace());
    const slices = checkNesting(events);
    const of = (name: string) => slices.filter((s) => s.name === name);
    const count = (kind: EventKind): number => {
      let n = 0;
      const ring = machine.trace.since(1);
      for (let at = 1; at < ring.length; at += TRACE_STRIDE) if (EVENT_KINDS[ring[at]!]![0] === kind) n += 1;
      return n;
    };
    expect(of("launch")).toHaveLength(count("launch"));
    expect(of("dispatch")).toHaveLength(count("round"));
    expect(of("service")).toHaveLength(count("round"));
    expect(of("gpu-fault")).toHaveLength(count("gpu-fault"));
    for (const inner of [...of("dispatch"), ...of("service")]) {
      expect(inner.depth).toBe(1);
      expect(of("launch").some((l) => l.from < inner.from && inner.to < l.to)).toBe(true);
    }
    for (const fault of of("gpu-fault")) {
      expect(of("service").some((s) => s.from < fault.from && fault.to <= s.to)).toBe(true);
    }
  });

  test("has flows that follow causes: from a round through fault, look-up, decision, copy and bind", async () => {
    const { events } = decode(machine.perfettoTrace());
    const flows = new Map<number, Event[]>();
    for (const event of events) {
      expect(event.flows.filter((id) => event.lastFlows.includes(id))).toEqual([]);
      for (const id of [...event.flows, ...event.lastFlows]) flows.set(id, [...(flows.get(id) ?? []), event]);
    }
    for (const [id, list] of flows) {
      expect(list.length).toBeGreaterThan(1);
      expect(list.map((e) => e.lastFlows.includes(id))).toEqual(list.map((_, i) => i === list.length - 1));
      // All but the event of that number go back to it; before it stands what it goes back to itself.
      for (const event of list) {
        const own = list.find((e) => e.annotations["event"] === id)!;
        const isCause = event.annotations["event"] === own.annotations["cause"];
        expect(isCause || event === own || event.annotations["cause"] === id).toBe(true);
      }
    }
    const fault = events.find((e) => e.name === "gpu-fault")!;
    const names = flows.get(fault.annotations["event"]!)!.map((e) => e.name);
    expect(names.slice(0, 2)).toEqual(["service", "gpu-fault"]);
    expect(
      names.filter((n) => ["range-create", "migrate-decide", "migrate-to-devmem", "get-pages", "bind"].includes(n)),
    ).toEqual(["range-create", "migrate-decide", "migrate-to-devmem", "get-pages", "bind"]);
    const evicted = events.find((e) => e.name === "evict")!;
    expect(flows.get(evicted.annotations["event"]!)!.map((e) => e.name)).toContain("migrate-to-ram");
  });

  test("counts what the counters of the address space count", async () => {
    const { tracks, events } = decode(machine.perfettoTrace());
    const last = (name: string): number => {
      const track = [...tracks].find(([, t]) => t.name === name && t.isCounter)![0];
      return events.filter((e) => e.track === track).at(-1)!.value;
    };
    const { counters } = [...machine.devices[0]!.vms][0]!;
    expect(last("faults")).toBe(events.filter((e) => e.name === "gpu-fault").length);
    expect(last("bytes to device")).toBe(counters.toDevBytes);
    expect(last("bytes to system")).toBe(counters.toSysBytes);
    const vram = [...tracks].find(([, t]) => t.name === "VRAM")![0];
    const held = events.filter((e) => e.track === vram).map((e) => e.value);
    expect(Math.max(...held)).toBe(2 * CHUNK);
  });

  test("of nothing is a trace without events, and one that begins in the middle of a launch is whole", async () => {
    expect(decode(perfettoTrace(new Float64Array(0))).events).toEqual([]);
    for (const from of [2, 5, 9, 14, 30]) {
      const { events } = decode(perfettoTrace(machine.trace.since(from)));
      checkNesting(events);
      expect(events.filter((e) => e.type === INSTANT).length).toBeGreaterThan(0);
    }
  });

  test("nests also where two devices' spaces of one number serve faults side by side", () => {
    const kinds = EVENT_KINDS.map(([name]) => name);
    const rows = [
      { kind: "gpu-fault", cause: 0 },
      { kind: "gpu-fault", cause: 0 },
      { kind: "bind", cause: 1 },
      { kind: "bind", cause: 2 },
    ] as const;
    const events = new Float64Array(rows.length * TRACE_STRIDE);
    rows.forEach(({ kind, cause }, i) => {
      events.set([i + 1, kinds.indexOf(kind), cause, 5 + i, 2, 4096, 8192, 0], i * TRACE_STRIDE);
    });
    const slices = checkNesting(decode(perfettoTrace(events)).events);
    expect(slices.map(({ name, depth }) => [name, depth])).toEqual([
      ["gpu-fault", 0],
      ["gpu-fault", 0],
    ]);
  });

  test("gives launches that run side by side a lane each", async () => {
    const other = new Machine({ engine: REFERENCE_ENGINE, ram: 64 * MIB });
    const process = other.createProcess();
    const vm = other.createDevice({ vram: 4 * CHUNK }).vm(process);
    const a = await process.mmap(4 * CHUNK, { align: CHUNK });
    await other.sched.race(
      3,
      [0, 1, 2].map((i) => () => vm.gst(a + i * CHUNK, i)),
    );
    const { tracks, events } = decode(other.perfettoTrace());
    const slices = checkNesting(events);
    expect(slices.filter((s) => s.name === "launch" && s.depth === 0)).toHaveLength(3);
    expect([...tracks.values()].filter((t) => t.name === "kernels").length).toBeGreaterThan(1);
  });
});

describe("the writer", () => {
  test("writes numbers, texts and messages of any size as a reader finds them", () => {
    const out = new ProtoWriter();
    const numbers = [0, 1, 127, 128, 300, 2 ** 31, 2 ** 32 + 5, 2 ** 53 - 1];
    for (const n of numbers) out.uint(1, n);
    for (const n of [-1, -12, -(2 ** 40), 7]) out.int(2, n);
    out.fixed64(47, 2 ** 40 + 3);
    out.string(3, "aµ€😀");
    out.message(60, () => {
      for (let i = 0; i < 50000; i++) out.uint(1, i);
    });
    const fields = read(out.finish());
    expect(all(fields, 1).map(Number)).toEqual(numbers);
    expect(all(fields, 2).map((v) => BigInt.asIntN(64, v as bigint))).toEqual([-1n, -12n, -(2n ** 40n), 7n]);
    expect(numberOf(fields, 47)).toBe(2 ** 40 + 3);
    expect(text(all(fields, 3)[0])).toBe("aµ€😀");
    expect(message(all(fields, 60)[0]!).map((f) => Number(f.value))).toEqual(
      Array.from({ length: 50000 }, (_, i) => i),
    );
  });
});
