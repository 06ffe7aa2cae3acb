import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { collectSymbols, renderSymbols } from "../../scripts/symbols.mjs";

const here = new URL("../..", import.meta.url);

test("docs/symbols.md says what the @kernel tags say", () => {
  expect(readFileSync(new URL("docs/symbols.md", here), "utf8")).toBe(renderSymbols());
});

const checklist = readFileSync(new URL("test/data/gpuvm-symbols.txt", here), "utf8").trim().split("\n");

test.each(checklist)("the GPU VA manager has %s", (symbol) => {
  expect(collectSymbols().map((s) => s.symbol)).toContain(symbol);
});
