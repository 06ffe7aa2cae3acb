import type { Va } from "../base/addr.ts";
import { isPromise } from "../base/maybe-promise.ts";
import type { Mm } from "./mm.ts";
import { type Steps, wait } from "./steps.ts";
import { MMU_NOTIFY_CLEAR } from "./types.ts";

/**
 * Tells everybody who mirrors `[start, end)` that it is about to change. When it is through, no device reaches the pages
 * through this mm; the caller looks at the entries again, changes them and calls `mm.notifiers.end()`.
 */
export function* announce(mm: Mm, start: Va, end: Va, event = MMU_NOTIFY_CLEAR, owner: unknown = null): Steps<void> {
  const started = mm.notifiers.start({ start, end, event, blockable: true, owner });
  if (isPromise(started)) yield* wait(started);
  const point = mm.sched.point("mm:announced");
  if (point !== undefined) yield* wait(point);
}
