import { readdirSync, readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";
import { describe, expect, test } from "vitest";
import { recognises, replay } from "../vectors/gpuvm.ts";

const folder = new URL("../data/vectors/gpuvm/", import.meta.url);
type Line = Record<string, unknown>;

function linesOf(name: string): Line[] {
  const text = gunzipSync(readFileSync(new URL(name, folder))).toString("utf8");
  return text
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as Line);
}

describe("recorded behaviour of the kernel's GPU VA manager", () => {
  test.each(readdirSync(folder))("%s", (name) => {
    const lines = linesOf(name);
    expect(recognises(lines)).toBe(true);
    expect(replay(name, lines)).toEqual({ passed: lines.length, failed: 0, failures: [] });
  });

  /** One line of every file and kind, with one recorded value changed: the replay must notice. */
  const falsified = readdirSync(folder).flatMap((name) => {
    const kinds = new Map<string, Line[]>();
    for (const line of linesOf(name)) {
      if ("w" in line) break;
      for (const key of [
        "ret",
        "ops",
        "post",
        "valid",
        "map",
        "unmap",
        "find_first",
        "find",
        "empty",
        "find_prev",
        "find_next",
        "prefetch",
      ]) {
        const id = `${String(line["k"] ?? "edge")} ${key}`;
        if (key in line && !kinds.has(id)) kinds.set(id, [{ ...line, [key]: ["0x1"] }]);
      }
    }
    return Array.from(kinds, ([kind, lines]) => [name, kind, lines] as const);
  });
  test.each(falsified)("%s: a wrong %s is noticed", (name, _kind, lines) => {
    expect(replay(name, lines)).toMatchObject({ passed: 0, failed: 1 });
  });

  const walk = linesOf("walks.jsonl.gz").slice(0, 251);
  const keys = ["ret", "ops", "res", "n", "maps"];
  test.each(keys)("walks: a wrong %s is noticed, in its step alone", (key) => {
    const at = walk.findIndex((line) => key in line);
    const wrong = walk.map((line, i) => (i === at ? { ...line, [key]: "0x1" } : line));
    const { failed, failures } = replay("walks", key === "ret" ? wrong.slice(0, at + 1) : wrong);
    expect(failures[0]).toContain(`s ${String(walk[at]!["s"])}`);
    expect(failed).toBe(1);
  });

  test("lines of other components are not taken for this one's", () => {
    expect(recognises([{ v: "6.18", seq: 0, init: { class: "a", size: "0x1000", chunk: "0x1000" } }])).toBe(false);
    expect(recognises([{ v: "*", id: 3, chunks: [], notifier_size: "0x1", vma: [], pre: [], ret: 0 }])).toBe(false);
    expect(recognises([])).toBe(false);
  });
});
