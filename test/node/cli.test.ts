import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, it } from "vitest";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const dir = mkdtempSync(join(tmpdir(), "cli-"));
afterAll(() => rmSync(dir, { recursive: true }));
writeFileSync(join(dir, "empty"), "");
writeFileSync(join(dir, "file"), "content");
mkdirSync(join(dir, "folder"));
const here = (name: string) => join(dir, name);

function run(script: string, args: string[], env: Record<string, string> = {}) {
  const options = { cwd: ROOT, encoding: "utf8" as const, timeout: 60000, env: { ...process.env, ...env } };
  return spawnSync(process.execPath, [`scripts/${script}.mjs`, ...args], options);
}

const BAD_INPUT: [script: string, args: string[], says: RegExp][] = [
  ["demo", [here("missing")], /there is no file .*missing/],
  ["demo", [here("empty")], /is empty/],
  ["demo", [here("folder")], /is not a file/],
  ["demo", [here("file"), here("empty")], /one file at a time/],
  ["demo", [here("file"), "--vram", "2"], /needs at least 4 MiB/],
  ["demo", [here("file"), "--vram", "7"], /multiple of 2 MiB/],
  ["demo", [here("file"), "--trace", here("missing/out")], /missing.out cannot be written/],
  ["demo", [here("file"), "--vram", "lots"], /--vram is "lots"/],
  ["demo", [here("file"), "--device", "cuda"], /must be webgpu or reference/],
  ["demo", ["--fast"], /Unknown option '--fast' \(options: --vram, --device, --trace\)/],
  ["scenario", [], /no scenario given/],
  ["scenario", ["no-such-scenario"], /no scenario no-such-scenario: .*p04/],
  ["scenario", [here("folder")], /is a folder/],
  ["scenario", ["p04", "--device", "cuda"], /must be webgpu or reference/],
  ["scenario", ["p04", "--seed", "-1"], /--seed/],
  ["scenario", ["p04", "--timeout", "0"], /--timeout is "0"/],
  ["bench", ["--json", here("nowhere/result.json")], /the folder of .* does not exist/],
  ["bench", ["--seed", "x"], /--seed is "x"/],
  ["bench", ["extra"], /extra/],
  ["start", ["--port", "70000"], /--port is "70000"/],
];

describe("bad input gives one sentence and exit status 1", { timeout: 60000 }, () => {
  it.each(BAD_INPUT)("%s %j", (script, args, says) => {
    const { status, stderr, stdout } = run(script, args);
    expect(stderr).toMatch(says);
    expect(stderr.trim().split("\n")).toHaveLength(1);
    expect(stderr).toMatch(/^error: .*[.!?]\n$/);
    expect(stdout).toBe("");
    expect(status).toBe(1);
  });

  it("a CHROME_PATH that is no browser", () => {
    const { status, stderr } = run("bench", ["--quick", "--filter", "paths"], { CHROME_PATH: here("file") });
    expect(stderr).toMatch(/CHROME_PATH is .*file, which is not an executable file\.\n$/);
    expect(status).toBe(1);
  });

  it("a browser that does not start", () => {
    const { status, stderr } = run("bench", ["--quick", "--filter", "paths"], { CHROME_PATH: process.execPath });
    expect(stderr).toMatch(/^error: the browser .* did not start: .*\n$/m);
    expect(status).toBe(1);
  });
});
