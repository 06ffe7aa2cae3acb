import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { PATHS } from "../../src/bench/cells.ts";

const DOCS = fileURLToPath(new URL("../../docs", import.meta.url));
const text = readFileSync(`${DOCS}/copy-paths.md`, "utf8");

describe("docs/copy-paths.md", () => {
  it.each(PATHS)("says how the bytes go: $name", ({ name, how }) => {
    expect(text).toContain(`| ${name} | ${how} |`);
  });

  it("shows only pictures that are there, and every one of them", () => {
    const shown = [...text.matchAll(/\]\((bench\/[^)]+)\)/g)].map(([, path]) => path!.slice("bench/".length));
    expect(shown.length).toBeGreaterThan(3);
    expect([...new Set(shown)].sort()).toEqual(readdirSync(`${DOCS}/bench`).sort());
  });
});
