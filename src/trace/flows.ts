import type { EventKind } from "../base/trace.ts";
import type { Row } from "./perfetto.ts";

/** Events with many effects that do not follow from each other: each effect has a flow of its own. */
const HUBS: ReadonlySet<EventKind> = new Set<EventKind>(["launch", "round"]);

export interface Flows {
  /** Of the event: the flows that pass through it, and those that end with it. */
  of(seq: number): { flows?: readonly number[]; lastFlows?: readonly number[] };
}

/**
 * The flows of a trace. A flow has the number of an event, begins at it, and goes on through its effects in the order of
 * time; so that of a fault reads fault, look-up, decision, copy, bind, retry. The flow of an effect of a hub begins one
 * step earlier, at the hub.
 */
export function flowsOf(rows: readonly Row[]): Flows {
  const bySeq = new Map(rows.map((row) => [row.seq, row]));
  const hasEffects = new Set<number>();
  const members = new Map<number, number[]>();
  const join = (flow: number, seq: number): void => {
    const list = members.get(flow);
    if (list === undefined) members.set(flow, [seq]);
    else list.push(seq);
  };
  for (const row of rows) if (isShown(row)) hasEffects.add(row.cause);
  for (const row of rows) {
    const cause = bySeq.get(row.cause);
    if (!isShown(row)) continue;
    if (cause !== undefined && HUBS.has(cause.kind)) {
      join(row.seq, cause.seq);
      join(row.seq, row.seq);
    } else {
      if (cause !== undefined) join(cause.seq, row.seq);
      if (hasEffects.has(row.seq) && !HUBS.has(row.kind)) join(row.seq, row.seq);
    }
  }
  const flows = new Map<number, number[]>();
  const lastFlows = new Map<number, number[]>();
  for (const [flow, seqs] of members) {
    // An effect that was recorded before what it goes back to is none that time can show.
    if (seqs.length < 2) continue;
    seqs.sort((a, b) => a - b);
    const last = seqs.at(-1)!;
    for (const seq of seqs) {
      const table = seq === last ? lastFlows : flows;
      const list = table.get(seq);
      if (list === undefined) table.set(seq, [flow]);
      else list.push(flow);
    }
  }
  return {
    of(seq) {
      const through = flows.get(seq);
      const last = lastFlows.get(seq);
      return {
        ...(through === undefined ? {} : { flows: through }),
        ...(last === undefined ? {} : { lastFlows: last }),
      };
    },
  };
}

/** Counters and the ends of launches are no events of their own in a trace. */
function isShown({ kind }: Row): boolean {
  return kind !== "vram" && kind !== "launch-end";
}
