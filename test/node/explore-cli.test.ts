import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));

function explore(...args: string[]) {
  const { status, stdout, stderr } = spawnSync(process.execPath, ["scripts/explore.mjs", ...args], {
    cwd: ROOT,
    encoding: "utf8",
  });
  return { status, stderr, lines: stdout.trim().split("\n") };
}

describe("npm run explore", { timeout: 60000 }, () => {
  test("runs seeds of a case in threads, and its last line counts them", () => {
    const { status, lines } = explore("--case", "R5", "--seeds", "6", "--workers", "2");
    expect(lines.at(-1)).toBe("6 schedules, 0 violations");
    expect(status).toBe(0);
  });

  test("says how a fault shows itself, and which seed gives it again", () => {
    const { status, lines } = explore("--mutation", "zap-skipped");
    expect(lines.at(-1)).toBe("1 faults, 1 found");
    expect(status).toBe(0);
    const [, of, seed] = /^zap-skipped +(\S+) +(\d+) /.exec(lines[1]!)!;
    const again = explore("--case", of!, "--seed", seed!, "--mutation", "zap-skipped");
    expect(again.status).toBe(1);
    expect(again.lines[0]).toContain(`${of} seed ${seed}: step`);
    expect(again.lines.at(-1)).toContain("in this order of steps");
  });

  test.each([
    { args: ["--case", "R99"], says: /^error: --case is "R99", it must be one of R1, .*\.$/ },
    { args: ["--mutation", "none"], says: /^error: --mutation is "none", it must be one of .*\.$/ },
    { args: ["--seeds", "some"], says: /^error: --seeds is "some", it must be a whole number from 1 .*\.$/ },
    { args: ["--seed", "1"], says: /^error: --seed wants a --case\.$/ },
    { args: ["--workers", "0"], says: /^error: --workers is "0", it must be a whole number from 1 to 64\.$/ },
  ])("refuses $args in one sentence", ({ args, says }) => {
    const { status, stderr, lines } = explore(...args);
    expect(stderr.trim().split("\n").at(-1)).toMatch(says);
    expect(status).toBe(1);
    expect(lines).toEqual([""]);
  });
});
