import { readFileSync, readdirSync } from "node:fs";
import { gunzipSync } from "node:zlib";
import { describe, expect, test } from "vitest";
import { recognises, replay } from "../vectors/buddy.ts";

const folder = new URL("../data/vectors/buddy/", import.meta.url);
const files = readdirSync(folder).filter((name) => name.endsWith(".jsonl.gz"));

describe("recorded behaviour of the kernel's buddy allocator", () => {
  test("the recordings are here", () => {
    expect(files).toHaveLength(5);
  });

  test.each(files)("%s is reproduced line by line", (name) => {
    const text = gunzipSync(readFileSync(new URL(name, folder))).toString("utf8");
    const lines = text
      .split("\n")
      .filter((line) => line !== "")
      .map((line) => JSON.parse(line) as Record<string, unknown>);
    expect(recognises(lines)).toBe(true);
    const result = replay(name, lines);
    expect(result.failures.slice(0, 5)).toEqual([]);
    expect(result.failed).toBe(0);
    expect(result.passed).toBe(lines.length);
  });
});
