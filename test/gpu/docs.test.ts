import { describe, expect, test } from "vitest";
import library from "../../docs/library.md?raw";
import readme from "../../README.md?raw";
import { createMachine } from "../../src/machine/index.ts";

/**
 * The examples of the documents, run as they stand: an expression statement followed by `// → value` has that value.
 */
type Example = (create: typeof createMachine, check: (value: unknown, shown: string) => void) => Promise<void>;

const IMPORT = 'import { createMachine } from "webgpu-svm";';
const RESULT = /^( *)(.+?); +\/\/ .*?→ (.+)$/gm;

function examplesOf(text: string): string[] {
  return [...text.matchAll(/```ts\n([\s\S]*?)```/g)].map((m) => m[1]!).filter((code) => code.includes(IMPORT));
}

function compile(code: string): Example {
  const body = code
    .replace(IMPORT, "")
    .replace(RESULT, (_, indent, expression, shown) => `${indent}check(${expression}, ${JSON.stringify(shown)});`);
  const AsyncFunction = (async () => undefined).constructor as new (...parameters: string[]) => Example;
  return new AsyncFunction("createMachine", "check", body);
}

function show(value: unknown): string {
  if (ArrayBuffer.isView(value)) return `${value.constructor.name} [${Array.from(value as Float32Array).join(", ")}]`;
  return Array.isArray(value) ? `[${value.join(", ")}]` : String(value);
}

describe.each([
  ["README.md", readme, 2],
  ["docs/library.md", library, 11],
])("%s", (_, text, results) => {
  let checked = 0;
  const examples = examplesOf(text);
  test.each(examples.map((code, i) => [i + 1, code] as const))("example %i", async (_number, code) => {
    await compile(code)(createMachine, (value, shown) => {
      expect(show(value)).toBe(shown);
      checked += 1;
    });
  });
  test("all of it was looked at", () => {
    expect(examples.length).toBeGreaterThan(0);
    expect(checked).toBeGreaterThanOrEqual(results);
  });
});
