import { causedBy, currentCause } from "../base/cause.ts";
import type { EventKind } from "../base/trace.ts";
import type { Mm } from "./mm.ts";
import { type Steps, run, wait } from "./steps.ts";

/** A system call that changes mappings: its event, and all that `body` leads to as its effects. */
export interface TracedCall {
  readonly kind: EventKind;
  readonly start: number;
  readonly end: number;
  /** See EVENT_KINDS. */
  readonly detail: number;
}

export function* traced<T>(mm: Mm, call: TracedCall, body: () => Steps<T>): Steps<T> {
  const { kind, start, end, detail } = call;
  const cause = mm.trace?.record(kind, mm.id, start, end, detail) ?? currentCause();
  return yield* wait(causedBy(cause, () => run(body())));
}
