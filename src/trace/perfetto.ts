import { EVENT_KINDS, TRACE_STRIDE } from "../base/trace.ts";
import type { EventKind } from "../base/trace.ts";
import { flowsOf } from "./flows.ts";
import { Spans } from "./spans.ts";
import { SLICE_END, TrackEventWriter, UNIT_BYTES, UNIT_COUNT } from "./track-event.ts";
import type { AnnotationValue } from "./track-event.ts";

/**
 * A recorded run as a Perfetto trace (TrackEvent): ui.perfetto.dev and trace_processor open it.
 *
 * Overview. Each address space is a group of tracks: its kernels (a lane per launch that runs beside others) with their
 * dispatches and services, its GPU faults with what the service of each did, and one track each for what moves, what
 * leaves, and what the CPU changes. Each process has a track of its own. Launches, dispatches, services and faults are
 * slices, everything else an instant. Flows follow causes: launch to round, round to fault, and from a fault through
 * look-up, decision, copy, bind and retry (flows.ts). Counters: VRAM held, bytes moved each way, faults.
 *
 * Time. Nanoseconds from the first event. The ring's clock ticks in microseconds at best, and stands still while a race
 * runs, so events get at least STEP ns each, in the order in which they happened.
 */
export const STEP = 8;

/** One event of the ring, unpacked. */
export interface Row {
  readonly seq: number;
  readonly kind: EventKind;
  readonly cause: number;
  readonly subject: number;
  readonly start: number;
  readonly end: number;
  readonly detail: number;
  /** ns in the trace; strictly ascending. */
  readonly time: number;
}

/** Track of an address space that events of a kind stand on; "process": the event is of a process. */
const TRACK_OF: Readonly<Record<EventKind, TrackName | "process">> = {
  launch: "kernels",
  "launch-end": "kernels",
  round: "kernels",
  "stream-pass": "kernels",
  vram: "kernels",
  "gpu-fault": "GPU faults",
  "notifier-create": "GPU faults",
  "range-create": "GPU faults",
  "migrate-decide": "GPU faults",
  "get-pages": "GPU faults",
  bind: "GPU faults",
  retry: "GPU faults",
  "fault-error": "GPU faults",
  "migrate-to-devmem": "to device",
  prefetch: "to device",
  evict: "to system",
  "migrate-to-ram": "to system",
  "write-back": "to system",
  "window-reclaim": "invalidation",
  "table-reclaim": "invalidation",
  invalidate: "invalidation",
  "tlb-invalidate": "invalidation",
  collect: "invalidation",
  advise: "requests",
  "vm-close": "requests",
  "cpu-fault": "process",
  mmap: "process",
  munmap: "process",
  mprotect: "process",
  madvise: "process",
  mremap: "process",
  fork: "process",
  exit: "process",
};
const TRACKS = ["kernels", "GPU faults", "to device", "to system", "invalidation", "requests"] as const;
type TrackName = (typeof TRACKS)[number];
const COUNTERS = ["VRAM", "bytes to device", "bytes to system", "faults"] as const;
type CounterName = (typeof COUNTERS)[number];

const PAGE = 4096;
/** Unique numbers of tracks: those of an address space, and those of a process, from here on. */
const MACHINE = 1;
const VM_BASE = 1000;
const PROCESS_BASE = 2 ** 32;
const PER_SUBJECT = 1000;
/** Lanes for launches that run side by side, behind the tracks and counters of their address space. */
const LANES = 100;

/** The bytes of a trace file of these events, packed as in the ring (base/trace.ts); ascending. */
export function perfettoTrace(events: Float64Array): Uint8Array<ArrayBuffer> {
  const rows = unpack(events);
  const out = new TrackEventWriter();
  const spans = new Spans(rows);
  declareTracks(out, rows, spans);
  const flows = flowsOf(rows);
  const totals = new Map<number, number>();
  for (const action of spans.inOrder()) {
    const { row } = action;
    const track = action.lane === null ? trackOf(row) : laneUuid(row.subject, action.lane);
    if (action.type === SLICE_END) {
      out.event({ type: SLICE_END, time: action.time, track });
      continue;
    }
    if (row.kind === "vram") {
      out.counter(action.time, counterUuid(row.subject, "VRAM"), row.detail);
      continue;
    }
    out.event({
      type: action.type,
      time: action.time,
      track,
      name: action.name ?? row.kind,
      category: TRACK_OF[row.kind],
      // A dispatch comes before the event that says how it went.
      ...(action.name === "dispatch" ? {} : { annotations: annotationsOf(row), ...flows.of(row.seq) }),
    });
    count(out, row, action.time, totals);
  }
  return out.finish();
}

function unpack(events: Float64Array): Row[] {
  const rows: Row[] = [];
  let time = 0;
  const began = events[3] ?? 0;
  for (let at = 0; at < events.length; at += TRACE_STRIDE) {
    time = Math.max(time + STEP, Math.round((events[at + 3]! - began) * 1e6));
    rows.push({
      seq: events[at]!,
      kind: EVENT_KINDS[events[at + 1]!]![0],
      cause: events[at + 2]!,
      subject: events[at + 4]!,
      start: events[at + 5]!,
      end: events[at + 6]!,
      detail: events[at + 7]!,
      time,
    });
  }
  return rows;
}

function declareTracks(out: TrackEventWriter, rows: readonly Row[], spans: Spans): void {
  out.track({ uuid: MACHINE, name: "webgpu-svm", pid: 1 });
  const vms = new Set<number>();
  const processes = new Set<number>();
  for (const row of rows) (TRACK_OF[row.kind] === "process" ? processes : vms).add(row.subject);
  for (const vm of vms) {
    const parent = VM_BASE + vm * PER_SUBJECT;
    out.track({ uuid: parent, name: vm === 0 ? "device" : `GPU address space ${vm}`, parent: MACHINE, rank: vm });
    TRACKS.forEach((name, i) => {
      if (name !== "kernels") out.track({ uuid: parent + 1 + i, name, parent, rank: LANES + i });
    });
    for (let lane = 0; lane < spans.lanesOf(vm); lane++) {
      out.track({ uuid: laneUuid(vm, lane), name: "kernels", parent, rank: lane });
    }
    for (const name of COUNTERS) {
      const unit = name === "faults" ? UNIT_COUNT : UNIT_BYTES;
      out.track({ uuid: counterUuid(vm, name), name, parent, unit });
    }
  }
  for (const process of processes) {
    const name = `process memory ${process}`;
    out.track({ uuid: PROCESS_BASE + process, name, parent: MACHINE, rank: 1000 + process });
  }
}

function trackOf(row: Row): number {
  const track = TRACK_OF[row.kind];
  if (track === "process") return PROCESS_BASE + row.subject;
  return VM_BASE + row.subject * PER_SUBJECT + 1 + TRACKS.indexOf(track);
}

function counterUuid(vm: number, name: CounterName): number {
  return VM_BASE + vm * PER_SUBJECT + 1 + TRACKS.length + COUNTERS.indexOf(name);
}

function laneUuid(vm: number, lane: number): number {
  return VM_BASE + vm * PER_SUBJECT + LANES + lane;
}

function annotationsOf(row: Row): (readonly [string, AnnotationValue])[] {
  const list: (readonly [string, AnnotationValue])[] = [["event", row.seq]];
  if (row.cause > 0) list.push(["cause", row.cause]);
  if (row.end > row.start) list.push(["start", { pointer: row.start }], ["end", { pointer: row.end }]);
  const meaning = meaningOf(row.kind);
  if (meaning !== "") list.push([meaning, row.detail]);
  return list;
}

const MEANINGS = new Map<string, string>(EVENT_KINDS.map(([name, meaning]) => [name, meaning]));

/** What an event's detail number is, in one or two words; empty where it has none. */
function meaningOf(kind: EventKind): string {
  const words = MEANINGS.get(kind)!.split(/:| or |,/, 1)[0]!;
  return /^\d/.test(words) ? "detail" : words;
}

/** The counters that an event changes. */
function count(out: TrackEventWriter, row: Row, time: number, totals: Map<number, number>): void {
  const name = COUNTED[row.kind];
  if (name === undefined) return;
  const track = counterUuid(row.subject, name);
  const total = (totals.get(track) ?? 0) + (name === "faults" ? 1 : row.detail * PAGE);
  totals.set(track, total);
  out.counter(time, track, total);
}

const COUNTED: Partial<Record<EventKind, CounterName>> = {
  "gpu-fault": "faults",
  "migrate-to-devmem": "bytes to device",
  "migrate-to-ram": "bytes to system",
};
