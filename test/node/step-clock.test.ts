import { describe, expect, test } from "vitest";
import { Scheduler } from "../../src/base/scheduler.ts";
import { StepClock } from "../../src/driver/step-clock.ts";

/** A host whose clock stands still until it is moved; `looks` counts who looks. */
function host() {
  const state = { ms: 0, looks: 0 };
  const sched = new Scheduler({
    turn: () => new Promise((resolve) => setImmediate(resolve)),
    now: () => {
      state.looks += 1;
      return state.ms;
    },
    sleep: () => Promise.resolve(),
  });
  return { state, sched, steps: new StepClock(sched) };
}

describe("the last look at the clock", () => {
  test("is good until something is waited for", async () => {
    const { state, sched } = host();
    expect(sched.now()).toBe(0);
    state.ms = 5;
    expect(sched.lately()).toBe(0);
    expect(sched.now()).toBe(5);
    state.ms = 7;
    expect(sched.lately()).toBe(5);
    const before = sched.stretch;
    await Promise.resolve();
    expect(sched.stretch).not.toBe(before);
    expect(sched.lately()).toBe(7);
  });

  test("is one where nobody has looked", () => {
    const { state, sched } = host();
    state.ms = 3;
    expect(sched.lately()).toBe(3);
    expect(state.looks).toBe(1);
  });
});

/** One fault of 10 us, 4 of them in a step. What the step counts. */
function serve({ state, steps }: ReturnType<typeof host>, index: number): number {
  steps.beginFault(index);
  state.ms += 0.006;
  const since = steps.start();
  state.ms += 0.004;
  return Math.round(steps.microsecondsSince(since));
}

describe("the times of steps", () => {
  test("outside of a batch: all are measured", () => {
    const { state, steps } = host();
    const since = steps.start();
    state.ms += 2;
    expect(steps.microsecondsSince(since)).toBeCloseTo(2000);
  });

  test("a long batch of short faults: the first each, then every eighth for eight, so that the sum is right", () => {
    const h = host();
    const counted = Array.from({ length: 64 }, (_, i) => serve(h, i));
    expect(counted.slice(0, 8)).toEqual(new Array(8).fill(4));
    expect(counted.slice(8, 24)).toEqual([32, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0, 0, 0, 0, 0, 0]);
    expect(counted.reduce((a, b) => a + b)).toBe(64 * 4);
    // Three for each that is measured.
    expect(h.state.looks).toBe(3 * (8 + 7));
  });

  test("short faults that become long: all of them, from the next look on", () => {
    const h = host();
    for (let i = 0; i < 18; i++) serve(h, i);
    const counted = Array.from({ length: 22 }, (_, i) => {
      h.state.ms += 0.3;
      return serve(h, 18 + i);
    });
    expect(counted).toEqual([...new Array<number>(6).fill(0), ...new Array<number>(16).fill(4)]);
  });

  test("behind it: all again", () => {
    const h = host();
    for (let i = 0; i < 18; i++) serve(h, i);
    h.steps.endFaults();
    const since = h.steps.start();
    h.state.ms += 1;
    expect(h.steps.microsecondsSince(since)).toBeCloseTo(1000);
  });

  test("long faults: all of them", () => {
    const h = host();
    const counted = Array.from({ length: 32 }, (_, i) => {
      h.state.ms += 0.3;
      return serve(h, i);
    });
    expect(counted).toEqual(new Array(32).fill(4));
  });

  test.each([17, 20])("a fault that has to wait counts for itself, fault %i", async (last) => {
    const h = host();
    for (let i = 0; i < last; i++) serve(h, i);
    h.steps.beginFault(last);
    const since = h.steps.start();
    await Promise.resolve();
    h.state.ms += 20;
    // From the last look on: when the step of fault 16 was over.
    expect(h.steps.microsecondsSince(since)).toBeCloseTo(20_000 + 10 * (last - 17));
    const next = h.steps.start();
    h.state.ms += 1;
    expect(h.steps.microsecondsSince(next)).toBeCloseTo(1000);
  });

  test("in a race, whose time is virtual: all of them", async () => {
    const h = host();
    const counted: number[] = [];
    await h.sched.race(1, [
      async () => {
        for (let i = 0; i < 24; i++) {
          h.steps.beginFault(i);
          const since = h.steps.start();
          await h.sched.sleep(2);
          counted.push(h.steps.microsecondsSince(since));
        }
      },
    ]);
    expect(counted).toEqual(new Array(24).fill(2000));
  });
});
