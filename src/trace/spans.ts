import type { EventKind } from "../base/trace.ts";
import type { Row } from "./perfetto.ts";
import { INSTANT, SLICE_BEGIN, SLICE_END } from "./track-event.ts";

/** One thing to write: the beginning or end of a slice, or an instant. */
export interface Action {
  readonly type: typeof SLICE_BEGIN | typeof SLICE_END | typeof INSTANT;
  readonly time: number;
  readonly row: Row;
  /** Of the kernels' track; null: the event's own track. */
  readonly lane: number | null;
  /** Where the name is not that of the event's kind. */
  readonly name?: string;
}

interface Launch {
  readonly row: Row;
  readonly lane: number;
  readonly rounds: Row[];
  end: number;
}

/** What the service of a fault does on the fault's own track. */
const STEPS_OF_A_FAULT: ReadonlySet<EventKind> = new Set<EventKind>([
  "range-create",
  "migrate-decide",
  "get-pages",
  "bind",
  "retry",
  "fault-error",
]);

/**
 * The slices of a trace, worked out from events that are points in time.
 *
 *     launch   [--------------------------------------------]
 *     within    [dispatch][service     ][dispatch][service][dispatch]
 *     faults               [fault][fault]          [fault]
 *
 * A round is recorded when its dispatch has come back: what lies before it, from the end of the service before, is the
 * dispatch; what it leads to, until the next dispatch, is the service. A fault lasts until the last step of its service.
 * Times between two events, which are STEP apart at least, keep ends before beginnings.
 */
export class Spans {
  readonly #rows: readonly Row[];
  readonly #launches = new Map<number, Launch>();
  /** By event: time of the last one that goes back to it. */
  readonly #lastEffect = new Map<number, number>();
  readonly #lanes = new Map<number, number>();

  constructor(rows: readonly Row[]) {
    this.#rows = rows;
    this.#findEffects();
    this.#findLaunches();
  }

  /** Launches of an address space that ran side by side, at most. */
  lanesOf(vm: number): number {
    return this.#lanes.get(vm) ?? 0;
  }

  /** All slices and instants, by time. */
  inOrder(): Action[] {
    const actions: Action[] = [];
    for (const launch of this.#launches.values()) actions.push(...actionsOf(launch, this.#lastEffect));
    this.#faults(actions);
    for (const row of this.#rows) {
      if (row.kind === "launch" || row.kind === "gpu-fault" || row.kind === "launch-end") continue;
      if (row.kind === "round" && this.#launches.has(row.cause)) continue;
      const isLone = row.kind === "round";
      actions.push({ type: INSTANT, time: row.time, row, lane: isLone ? 0 : null });
      if (isLone) this.#lanes.set(row.subject, Math.max(1, this.lanesOf(row.subject)));
    }
    return actions.sort((a, b) => a.time - b.time);
  }

  /** Backwards, so that each event has met all its effects before its cause is told. */
  #findEffects(): void {
    for (let i = this.#rows.length - 1; i >= 0; i--) {
      const { seq, cause, time } = this.#rows[i]!;
      const last = this.#lastEffect.get(seq) ?? time;
      this.#lastEffect.set(cause, Math.max(this.#lastEffect.get(cause) ?? 0, last));
    }
  }

  #findLaunches(): void {
    /** By address space: when each lane is free again. */
    const lanes = new Map<number, number[]>();
    const ends = new Map<number, number>();
    for (const row of this.#rows) if (row.kind === "launch-end") ends.set(row.cause, row.time);
    const traceEnd = this.#rows.at(-1)?.time ?? 0;
    for (const row of this.#rows) {
      if (row.kind === "round") this.#launches.get(row.cause)?.rounds.push(row);
      if (row.kind !== "launch") continue;
      const end = ends.get(row.seq) ?? traceEnd + 4;
      const free = lanes.get(row.subject) ?? [];
      const found = free.findIndex((from) => from <= row.time);
      const lane = found < 0 ? free.length : found;
      free[lane] = end + 4;
      lanes.set(row.subject, free);
      this.#lanes.set(row.subject, free.length);
      this.#launches.set(row.seq, { row, lane, rounds: [], end });
    }
  }

  #faults(actions: Action[]): void {
    const last = new Map<number, number>();
    for (const { kind, cause, time } of this.#rows) if (STEPS_OF_A_FAULT.has(kind)) last.set(cause, time);
    /** By address space: faults are served one after the other, so one ends before the next begins. */
    const open = new Map<number, Action>();
    const close = (action: Action, next: number): void => {
      const end = Math.min((last.get(action.row.seq) ?? action.time) + 1, next - 1);
      actions.push({ ...action, type: SLICE_END, time: end });
    };
    for (const row of this.#rows) {
      if (row.kind !== "gpu-fault") continue;
      const before = open.get(row.subject);
      if (before !== undefined) close(before, row.time);
      const action: Action = { type: SLICE_BEGIN, time: row.time, row, lane: null };
      actions.push(action);
      open.set(row.subject, action);
    }
    for (const action of open.values()) close(action, Infinity);
  }
}

function actionsOf(launch: Launch, lastEffect: ReadonlyMap<number, number>): Action[] {
  const { row, lane, rounds, end } = launch;
  const actions: Action[] = [{ type: SLICE_BEGIN, time: row.time, row, lane }];
  let from = row.time + 1;
  rounds.forEach((round, i) => {
    actions.push({ type: SLICE_BEGIN, time: from, row: round, lane, name: "dispatch" });
    actions.push({ type: SLICE_END, time: round.time - 1, row: round, lane });
    const limit = (rounds[i + 1]?.time ?? end) - 4;
    const serviceEnd = Math.max(round.time + 1, Math.min((lastEffect.get(round.seq) ?? 0) + 2, limit));
    actions.push({ type: SLICE_BEGIN, time: round.time, row: round, lane, name: "service" });
    actions.push({ type: SLICE_END, time: serviceEnd, row: round, lane });
    from = serviceEnd + 1;
  });
  actions.push({ type: SLICE_END, time: end + 3, row, lane });
  return actions;
}
