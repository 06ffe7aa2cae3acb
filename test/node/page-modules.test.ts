import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { PageModules } from "../../scripts/page-modules.mjs";

const dir = mkdtempSync(join(tmpdir(), "page modules "));
afterAll(() => rmSync(dir, { recursive: true }));
const file = (name: string, text: string) => {
  writeFileSync(join(dir, name), text);
  return join(dir, name);
};

file("shared.ts", `export const one: object = {};`);
const A = file("a.ts", `import { one } from "./shared.ts";\nexport const a = () => one;`);
const B = file(
  "b.ts",
  `import text from "./b.wgsl?raw";\nimport { one } from "./shared.ts";\nexport const b = () => [one, text];`,
);
file("b.wgsl", "fn f() {}\n");
const THROWS = file(
  "throws.ts",
  `interface Gone { x: number }\n\nexport const f = (x: Gone) => { throw new Error(String(x)); };`,
);
const SYNTAX = file("syntax.ts", `export const x = 1;\nexport const y: = 2;`);
const LOST = file("lost.ts", `import "a-package-that-is-not-there";`);

/** The paths that a chunk imports. */
const imports = (code: string) => [...code.matchAll(/from\s*"\.\/([^"]+)"/g)].map(([, name]) => name);

describe("modules for a headless page", () => {
  it("that are named together share what they import", async () => {
    const modules = new PageModules([A, B]);
    const [a, b] = [await modules.codeAt(modules.pathOf(A)), await modules.codeAt(modules.pathOf(B))];
    expect(imports(a!)).toEqual(imports(b!));
    expect(imports(a!)).toHaveLength(1);
    expect(b).toContain(String.raw`"fn f() {}\n"`);
  });

  it("keep their URL, and one that is named later gets a bundle of its own", async () => {
    const modules = new PageModules([A]);
    expect(modules.pathOf(A)).toBe(modules.pathOf(A));
    expect(imports((await modules.codeAt(modules.pathOf(B)))!)).toEqual([]);
    expect(modules.pathOf(B)).not.toBe(modules.pathOf(A));
  });

  it.each([
    ["does not parse", SYNTAX, "syntax.ts:2:17: "],
    ["imports a package that is not there", LOST, "lost.ts:1:8: Could not resolve 'a-package-that-is-not-there'"],
    ["is not there", join(dir, "missing.ts"), "missing.ts"],
  ])("throw why where one %s, and leave the others", async (_, wrong, says) => {
    const modules = new PageModules([A, wrong, B]);
    const code = await modules.codeAt(modules.pathOf(wrong));
    await expect(import(`data:text/javascript,${encodeURIComponent(code!)}`)).rejects.toMatchObject({
      name: "BundleError",
      message: expect.stringContaining(says) as string,
    });
    expect(imports((await modules.codeAt(modules.pathOf(A)))!)).toEqual(
      imports((await modules.codeAt(modules.pathOf(B)))!),
    );
  });

  it("know nothing of other paths", async () => {
    const modules = new PageModules([A]);
    for (const path of ["/", "/etc/passwd", "/__modules/", "/__modules/0/other.js", "/__modules/7/0-a-ts.js"])
      expect(await modules.codeAt(path)).toBeNull();
  });

  it("have stacks in terms of their sources", async () => {
    const modules = new PageModules([THROWS]);
    const path = modules.pathOf(THROWS);
    const lines = (await modules.codeAt(path))!.split("\n");
    const line = lines.findIndex((text: string) => text.includes("throw new"));
    const column = lines[line]!.indexOf("new Error");
    const frame = (where: string) => `Error: x\n    at f (${where})\n    at http://127.0.0.1:80/else.js:1:1`;
    expect(await modules.toSource(frame(`http://127.0.0.1:4567${path}:${line + 1}:${column + 1}`))).toBe(
      frame(`${THROWS}:3:39`),
    );
  });
});
