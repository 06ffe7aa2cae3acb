import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { collectSymbols, renderSymbols } from "../../scripts/symbols.mjs";

const here = new URL("../..", import.meta.url);

test("docs/symbols.md says what the @kernel tags say", () => {
  expect(readFileSync(new URL("docs/symbols.md", here), "utf8")).toBe(renderSymbols());
});

const symbols = new Set(collectSymbols().map((s: { symbol: string }) => s.symbol));

/** The checklists of the kernel's symbols: functions, structures, fields, flags. */
describe.each([
  ["the GPU VA manager", "gpuvm-symbols.txt"],
  ["GPU SVM, the page map and what they need of the mm", "gpusvm-symbols.txt"],
])("%s has", (_name, file) => {
  const checklist = readFileSync(new URL(`test/data/${file}`, here), "utf8")
    .trim()
    .split("\n");

  test.each(checklist)("%s", (symbol) => {
    expect(symbols).toContain(symbol);
  });
});
