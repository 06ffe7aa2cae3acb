import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, expect, it } from "vitest";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const dir = mkdtempSync(join(tmpdir(), "scenarios of a user "));
afterAll(() => rmSync(dir, { recursive: true }));

const FILES: Record<string, string> = {
  "good.mjs": `export const meta = { title: "a good one" };
    export default async (s) => { s.must(true, "holds"); s.cfg(false, "is otherwise here"); s.note("by the way"); };`,
  "typed.ts": `import { value } from "./shared.ts";
    export default async function (s: { must(c: boolean, t: string): boolean }): Promise<void> { s.must(value === 7, "imports a neighbour"); }`,
  "shared.ts": `export const value: number = 7;`,
  "wrong.mjs": `export default async (s) => { s.must(1 === 2, "one is two"); };`,
  "throws.mjs": `export default async () => { throw new TypeError("thrown on purpose"); };`,
  "loop.mjs": `export default async () => { for (;;); };`,
  "syntax.mjs": `export default ;;;(`,
  "traced.mjs": `export default async (s) => {
      const d = s.device(), p = s.proc(), m = d.vm(p), a = await p.mmap(1 << 21);
      await m.gst(a, 1); await p.mprotect(a, 4096, "R");
      s.must(1 === 2, "fails after that"); };`,
  "shares.ts": `import { KernelError } from ${JSON.stringify(join(ROOT, "src/base/errors.ts"))};
    export default async function (s: any): Promise<void> {
      const error = await s.proc().mmap(1, { at: 5 }).catch((e: unknown) => e);
      s.must(error instanceof KernelError, "is the project's own KernelError"); }`,
  "nothing.mjs": `export const x = 1;`,
};
for (const [name, text] of Object.entries(FILES)) writeFileSync(join(dir, name), text);

function scenario(...names: string[]) {
  const files = names.map((name) => join(dir, name));
  const args = ["scripts/scenario.mjs", ...files, "--device", "reference", "--timeout", "10"];
  const { stdout, status, stderr } = spawnSync(process.execPath, args, { cwd: ROOT, encoding: "utf8", timeout: 90000 });
  return { lines: stdout.trimEnd().split("\n"), status, stderr };
}

it("scenarios that pass: a line per check, the count last, status 0", { timeout: 100000 }, () => {
  const { lines, status } = scenario("good.mjs", "typed.ts", "shares.ts");
  expect(lines).toContain("  ok    holds");
  expect(lines).toContain("  differs (cfg) is otherwise here");
  expect(lines).toContain("  note  by the way");
  expect(lines).toContain("  ok    imports a neighbour");
  expect(lines.find((line) => line.startsWith("PASS good: a good one (must 1/1, cfg 0/1"))).toBeDefined();
  expect(lines).toContain("  ok    is the project's own KernelError");
  expect(lines.at(-1)).toBe("3 passed, 0 failed");
  expect(status).toBe(0);
});

it("each scenario that fails says why in one line and does not keep the next from running", { timeout: 100000 }, () => {
  const { lines, status } = scenario("wrong.mjs", "throws.mjs", "loop.mjs", "syntax.mjs", "nothing.mjs", "good.mjs");
  expect(lines).toContain("  FAIL  one is two");
  expect(lines).toContain("  FAIL  threw TypeError: thrown on purpose");
  expect(lines).toContainEqual(expect.stringMatching(/^ +at .*throws\.mjs:1:36\)?$/));
  expect(lines).toContainEqual(expect.stringMatching(/^ +at .*\(src\/scenario\/run\.ts:\d+:\d+\)$/));
  expect(lines).toContainEqual(expect.stringMatching(/^FAIL loop: .* took longer than 10 s\.$/));
  expect(lines).toContainEqual(expect.stringMatching(/^FAIL syntax: .*syntax\.mjs:1:16: /));
  expect(lines).toContainEqual(expect.stringMatching(/^FAIL nothing: .*default export/));
  expect(lines.at(-1)).toBe("1 passed, 5 failed");
  expect(status).toBe(1);
});

it("--trace writes what one scenario did, also of one that fails, and is for one alone", { timeout: 100000 }, () => {
  const trace = join(dir, "out.pftrace");
  const run = (...args: string[]) =>
    spawnSync(process.execPath, ["scripts/scenario.mjs", ...args, "--device", "reference", "--trace", trace], {
      ...{ cwd: ROOT, encoding: "utf8", timeout: 90000 },
    });
  const { stdout, status } = run(join(dir, "traced.mjs"));
  expect(stdout).toContain(`trace ${trace}, `);
  expect(status).toBe(1);
  const bytes = readFileSync(trace).toString("latin1");
  for (const name of ["range-create", "migrate-to-devmem", "mprotect", "GPU faults"]) expect(bytes).toContain(name);
  const two = run(join(dir, "good.mjs"), join(dir, "typed.ts"));
  expect([two.status, two.stderr]).toEqual([1, expect.stringMatching(/^error: --trace is for one scenario module/)]);
});
