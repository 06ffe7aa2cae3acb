import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));

function scenario(...names: string[]) {
  const args = ["scripts/scenario.mjs", ...names, "--device", "reference"];
  const { stdout, status, stderr } = spawnSync(process.execPath, args, { cwd: ROOT, encoding: "utf8", timeout: 90000 });
  return { lines: stdout.trimEnd().split("\n"), status, stderr };
}

it(
  "cases of the matrix by pattern: a line per case, what is skipped with its reason, the count last",
  { timeout: 100000 },
  () => {
    const { lines, status } = scenario("XE-SA-twice-mmap-remap-ro*", "xe-sa-once-mmap-remap*eocheck");
    const line = (start: string) => lines.filter((text) => text.startsWith(start));
    expect(line("PASS XE-SA-twice-mmap-remap-ro (must ")).toHaveLength(1);
    expect(line("PASS ")).toHaveLength(4);
    expect(line("SKIP XE-SA-once-mmap-remap-eocheck: a check after every other exec")).toHaveLength(1);
    expect(line("SKIP ")).toHaveLength(4);
    expect(lines.at(-1)).toBe("4 passed, 0 failed");
    expect(status).toBe(0);
  },
);

it("a pattern that finds no case is wrong use, whatever stands beside it", { timeout: 100000 }, () => {
  const { lines, stderr, status } = scenario("XE-SA-once-malloc", "XE-SA-thrice-*");
  expect(stderr).toMatch(/^error: no case of the matrix has such a name: XE-SA-thrice-\*\.\n$/m);
  expect(lines).toEqual([""]);
  expect(status).toBe(1);
});
