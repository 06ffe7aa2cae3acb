import { readFileSync, readdirSync } from "node:fs";
import { gunzipSync } from "node:zlib";
import { describe, expect, test } from "vitest";
import { recognises, replay } from "../vectors/gpusvm.ts";

const folder = new URL("../data/vectors/gpusvm/", import.meta.url);
const files = readdirSync(folder).filter((name) => name.endsWith(".jsonl.gz"));

type Line = Record<string, unknown>;

function load(name: string): Line[] {
  const text = gunzipSync(readFileSync(new URL(name, folder))).toString("utf8");
  return text
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as Line);
}

describe("recorded behaviour of the kernel's GPU SVM, each version under its own compat", () => {
  test("the recordings are here", () => {
    expect(files).toHaveLength(6);
  });

  test.each(files)("%s is reproduced line by line", (name) => {
    const lines = load(name);
    expect(recognises(lines)).toBe(true);
    const result = replay(name, lines);
    expect(result.failures.slice(0, 5)).toEqual([]);
    expect(result.failed).toBe(0);
    expect(result.passed).toBe(lines.length);
  });

  test("a line whose result is altered is reported", () => {
    const lines = load("get-pages-6.18.jsonl.gz").slice(0, 3);
    const altered = lines.map((line, i) => (i === 1 ? { ...line, hmm_calls: 99 } : line));
    const result = replay("altered", altered);
    expect(result).toMatchObject({ passed: 2, failed: 1 });
    expect(result.failures[0]).toContain("hmm_calls");
  });
});
