/** Whose turn it is, without any memory: what launches hold is a number. */
import { expect, test } from "vitest";
import { LaunchTurns } from "../../src/driver/launch-turns.ts";
import type { TurnPins } from "../../src/driver/launch-turns.ts";

class Held implements TurnPins {
  count = 0;
  released = 0;
  get isEmpty(): boolean {
    return this.count === 0;
  }
  clear(): void {
    this.released += this.count;
    this.count = 0;
  }
}

function begin(turns: LaunchTurns) {
  const pins = new Held();
  return { pins, turn: turns.join(pins, false) };
}

/** What has come of it when nobody can go on: "waits", or the result. */
async function soon<T>(result: Promise<T>): Promise<T | "waits"> {
  const later = new Promise<"waits">((resolve) => {
    setImmediate(() => resolve("waits"));
  });
  return Promise.race([result, later]);
}

test("what somebody has let go to wait is a reason to try again for who has failed beside it", async () => {
  const turns = new LaunchTurns();
  const [a, b] = [begin(turns), begin(turns)];
  expect([a.turn.begin(), b.turn.begin()]).toEqual([undefined, undefined]);
  a.pins.count = 1;
  a.pins.clear();
  const first = a.turn.waitForRoom();
  expect(await soon(first)).toBe("waits");
  // Nobody holds anything now, but the other one did when this one was served.
  const second = b.turn.waitForRoom();
  expect(await soon(first)).toBe(true);
  expect(await soon(second)).toBe("waits");
  a.turn.keepAll();
  expect(await soon(second)).toBe(true);
});

test("what it has let go itself is none", async () => {
  const turns = new LaunchTurns();
  const [a, b] = [begin(turns), begin(turns)];
  void a.turn.begin();
  a.turn.keepAll();
  void b.turn.begin();
  b.pins.count = 1;
  b.pins.clear();
  const second = b.turn.waitForRoom();
  expect(await soon(second)).toBe("waits");
  a.turn.end();
  expect(await soon(second)).toBe(true);
  void b.turn.begin();
  expect(await b.turn.waitForRoom()).toBe(false);
});

test("one that has all it needs keeps it, and waits for nobody, until it says that it has nothing", async () => {
  const turns = new LaunchTurns();
  const [a, b] = [begin(turns), begin(turns)];
  void b.turn.begin();
  b.pins.count = 3;
  b.turn.keepAll();
  void a.turn.begin();
  a.pins.count = 1;
  const first = a.turn.waitForRoom();
  expect(await soon(first)).toBe("waits");
  expect(b.turn.begin()).toBeUndefined();
  expect(b.pins.count).toBe(3);
  expect(await b.turn.waitForRoom()).toBe(false);
  expect(await soon(first)).toBe("waits");
  b.pins.clear();
  b.turn.keepNothing();
  const second = b.turn.waitForRoom();
  expect(await soon(first)).toBe(true);
  expect(await soon(second)).toBe("waits");
  a.turn.end();
  expect(await soon(second)).toBe(true);
});
