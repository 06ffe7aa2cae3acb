import { describe, expect, test } from "vitest";
import { RoundGate, StoppedError } from "../../src/worker/gate.ts";

/** A gate on a clock that the test moves, and rounds that come as fast as the gate lets them. */
function rig(options: { paused: boolean; pace?: number }) {
  let clock = 1000;
  const passed: number[] = [];
  let turns = 0;
  const gate = new RoundGate({
    paused: options.paused,
    pace: options.pace ?? 0,
    onRound: () => {},
    turn: () => {
      turns += 1;
      return Promise.resolve();
    },
    now: () => clock,
  });
  let error: unknown = null;
  const rounds = async (count: number) => {
    try {
      for (let i = 0; i < count; i++) {
        await gate.pass("round");
        passed.push(clock);
      }
    } catch (thrown) {
      error = thrown;
    }
  };
  return {
    gate,
    rounds,
    passed,
    turns: () => turns,
    error: () => error,
    advance: (ms: number) => (clock += ms),
    /** Lets everything happen that can. */
    settle: () => new Promise<void>((resolve) => setTimeout(resolve, 5)),
  };
}

describe("the gate before every round", () => {
  test("lets rounds pass while nothing holds it", async () => {
    const r = rig({ paused: false });
    await r.rounds(5);
    expect(r.passed.length).toBe(5);
  });

  test("has nothing to do with other points", () => {
    const { gate } = rig({ paused: true });
    expect(gate.pass("verb")).toBeUndefined();
  });

  test("a step lets exactly one round pass", async () => {
    const r = rig({ paused: true });
    void r.rounds(5);
    await r.settle();
    expect(r.passed.length).toBe(0);
    r.gate.step();
    await r.settle();
    expect(r.passed.length).toBe(1);
    r.gate.step();
    r.gate.step();
    await r.settle();
    expect(r.passed.length).toBe(3);
    r.gate.resume();
    await r.settle();
    expect(r.passed.length).toBe(5);
  });

  test("pausing forgets steps that were not taken", async () => {
    const r = rig({ paused: false });
    r.gate.step();
    r.gate.pause();
    void r.rounds(3);
    await r.settle();
    expect(r.passed.length).toBe(0);
  });

  test("stopping ends a run that is paused, and one that runs", async () => {
    for (const paused of [true, false]) {
      const r = rig({ paused });
      const done = r.rounds(1);
      await r.settle();
      r.gate.stop();
      await done;
      await r.rounds(1);
      expect(r.error()).toBeInstanceOf(StoppedError);
    }
  });

  test("slow motion keeps rounds apart, and a change of pace takes effect at once", async () => {
    const r = rig({ paused: false, pace: 60_000 });
    const done = r.rounds(2);
    await r.settle();
    expect(r.passed.length).toBe(1);
    r.gate.setPace(0);
    await done;
    expect(r.passed.length).toBe(2);
  });

  test("a long run of rounds gives the event loop its turn", async () => {
    const r = rig({ paused: false });
    await r.rounds(3);
    const before = r.turns();
    r.advance(100);
    await r.rounds(1);
    expect(r.turns()).toBe(before + 1);
  });
});
