import { AsyncLocalStorage } from "node:async_hooks";
import { type LockContext, trackActivities } from "../../src/base/lock-order.ts";

/**
 * Every test in Node is a debug build: Node knows which activity goes on after an `await`, so every lock of the stack is
 * checked against the order of spec section 6.1.
 */
const running = new AsyncLocalStorage<LockContext>();

trackActivities({
  current: () => running.getStore() ?? null,
  run: (context, f) => running.run(context, f),
});
