import type { Platform } from "../base/scheduler.ts";

/** The few things of the host that page, worker and Node share and that the language's own library does not declare. */
interface Host {
  readonly performance: { now(): number };
  setTimeout(f: () => void, ms: number): unknown;
  readonly setImmediate?: (f: () => void) => unknown;
  readonly MessageChannel?: new () => {
    readonly port1: { onmessage: (() => void) | null };
    readonly port2: { postMessage(message: unknown): void };
  };
}
const host = globalThis as unknown as Host;

/** Resolves in a later turn of the event loop; a message is not subject to the 4 ms clamp of timers. */
function makeTurn(): () => Promise<void> {
  const immediate = host.setImmediate;
  if (immediate !== undefined) return () => new Promise((resolve) => immediate(() => resolve()));
  if (host.MessageChannel === undefined) return () => new Promise((resolve) => void host.setTimeout(resolve, 0));
  const channel = new host.MessageChannel();
  const waiting: (() => void)[] = [];
  channel.port1.onmessage = () => waiting.shift()?.();
  return () =>
    new Promise((resolve) => {
      waiting.push(resolve);
      channel.port2.postMessage(null);
    });
}

/** The platform of the page, a worker or Node. */
export function hostPlatform(): Platform {
  return {
    turn: makeTurn(),
    now: () => host.performance.now(),
    sleep: (ms) => new Promise((resolve) => void host.setTimeout(resolve, ms)),
  };
}
