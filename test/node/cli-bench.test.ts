import { spawn, spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, it } from "vitest";
import { parseResult } from "../../src/bench/result-file.ts";
import type { BenchResult } from "../../src/bench/result.ts";
import { resultOf, row } from "./bench-result.ts";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const dir = mkdtempSync(join(tmpdir(), "bench-"));
afterAll(() => rmSync(dir, { recursive: true }));

function file(name: string, result: BenchResult): string {
  writeFileSync(join(dir, name), JSON.stringify(result));
  return join(dir, name);
}

function bench(...args: string[]) {
  const options = { cwd: ROOT, encoding: "utf8" as const, timeout: 60000 };
  return spawnSync(process.execPath, ["scripts/bench.mjs", ...args], options);
}

const SIZES = [4096, 16384, 65536, 262144, 2 << 20, 16 << 20];
const good = file(
  "good.json",
  resultOf(SIZES.flatMap((bytes) => ["ring + copy per page", "writeBuffer"].map((name) => row(name, 123, { bytes })))),
);
const slower = file("slower.json", resultOf([row("writeBuffer", 200), row("ring + copy per page", 123)]));
const wrong = file("wrong.json", resultOf([row("writeBuffer", 123, { error: "the word at 0 is wrong" })]));

describe("npm run bench", { timeout: 60000 }, () => {
  it("--help says what there is", () => {
    const { stdout, status } = bench("--help");
    for (const option of ["--quick", "--filter", "--json", "--compare", "--limits", "--plot"]) {
      expect(stdout).toContain(option);
    }
    expect(Math.max(...stdout.split("\n").map((line) => line.length))).toBeLessThanOrEqual(100);
    expect(status).toBe(0);
  });

  it("--show prints tables that fit 80 columns, and draws and writes what it is asked for", () => {
    const { stdout, stderr, status } = bench(
      ...["--show", good, "--plot", join(dir, "plots"), "--csv", join(dir, "good.csv")],
    );
    expect(stderr).toBe("");
    const table = stdout.split("\n").filter((line) => !line.startsWith("written: "));
    expect(Math.max(...table.map((line) => line.length))).toBeLessThanOrEqual(80);
    expect(stdout).toContain("adapter: acme one; the adapter's limits");
    expect(stdout).toMatch(/^upload, contiguous +4 KiB +16 KiB +64 KiB +256 KiB$/m);
    expect(stdout).toMatch(/^upload, contiguous +2 MiB +16 MiB$/m);
    expect(stdout).toMatch(/self-check: 12 of 12 passed/);
    expect(readdirSync(join(dir, "plots")).sort()).toEqual([
      "bandwidth-upload-contiguous.svg",
      "heat-contiguous.svg",
      "times-upload-contiguous.svg",
    ]);
    expect(readFileSync(join(dir, "good.csv"), "utf8").split("\r\n")).toHaveLength(14);
    expect(status).toBe(0);
  });

  it("fails when a self-check failed, and says which", () => {
    const { stdout, status } = bench("--show", wrong);
    expect(stdout).toMatch(/^FAILED upload, writeBuffer, 64 KiB, contiguous: the word at 0 is wrong$/m);
    expect(stdout).toMatch(/self-check: 1 of 1 FAILED/);
    expect(status).toBe(1);
  });

  it("--show says how good the copy engine's choices were, and which were not", () => {
    const choice = (ratio: number) => ({
      way: "ring + copy per run",
      table: "calibrated" as const,
      best: "writeBuffer per run",
      ratio,
    });
    const chosen = [1, 1.1, 1.101].map((ratio, i) =>
      row("auto: upload", 123, { bytes: SIZES[i]!, choice: choice(ratio) }),
    );
    const inFlight = row("auto: upload", 123, { mode: "8 in flight", choice: choice(9) });
    const { stdout, status } = bench("--show", file("auto.json", resultOf([...chosen, inFlight])));
    expect(stdout).toMatch(/^auto within 10 % of the best in 2 of 3 cells \(67 %\), table: calibrated$/m);
    expect(stdout).toMatch(
      /^ {2}1\.10 {2}upload, 64 KiB, contiguous: ring \+ copy per run\n {8}best: writeBuffer per run$/m,
    );
    expect(stdout).not.toContain("9.00");
    expect(Math.max(...stdout.split("\n").map((line) => line.length))).toBeLessThanOrEqual(80);
    expect(status).toBe(0);
  });

  it("--show fails for a result that is incomplete, and says why", () => {
    const cut = file("cut.json", resultOf([row("writeBuffer", 123)], { incomplete: "ended by SIGINT" }));
    const { stdout, status } = bench("--show", cut);
    expect(stdout).toMatch(/^INCOMPLETE: ended by SIGINT; these are the rows that were measured until then$/m);
    expect(status).toBe(1);
  });

  it("writes what was measured when it is interrupted, marked as incomplete", async () => {
    const json = join(dir, "interrupted.json");
    const select = "kind=upload&size=4KiB,2MiB,16MiB&layout=contiguous&mode=warm";
    const child = spawn(process.execPath, ["scripts/bench.mjs", "--select", select, "--json", json], { cwd: ROOT });
    let told = "";
    child.stderr.on("data", (chunk: Buffer) => {
      told += chunk.toString();
      // The first of three cells, less than a fifth of the work, is done.
      if (/^[2-9]\d %/m.test(told)) child.kill("SIGINT");
    });
    let printed = "";
    child.stdout.on("data", (chunk: Buffer) => (printed += chunk.toString()));
    const status = await new Promise((resolve) => child.on("exit", resolve));
    expect(status).toBe(130);
    expect(printed).toMatch(/^INCOMPLETE: ended by SIGINT/m);
    const { incomplete, rows, environment } = parseResult(readFileSync(json, "utf8"), json);
    expect(incomplete).toBe("ended by SIGINT");
    expect(environment?.gpu).not.toBeNull();
    expect(rows.map(({ name, bytes }) => [name, bytes])).toContainEqual(["writeBuffer per run", 4096]);
    expect(rows.some(({ bytes }) => bytes === 16 << 20)).toBe(false);
  });

  it("--compare says what changed beyond the noise", () => {
    const { stdout, status } = bench("--compare", good, slower);
    expect(stdout).toMatch(/^slower +before +after +time +interval$/m);
    expect(stdout).toMatch(/^paths\/upload\/writeBuffer\/64KiB\/\S+ +123 ms +200 ms +\+63% +\+6\d%…\+6\d%$/m);
    expect(stdout).not.toMatch(/ring \+ copy per page\/64KiB/);
    expect(stdout).toMatch(/2 rows in both: 1 slower, 0 faster, 0 broken, 0 mended, 1 same, 0 unclear/);
    expect(stdout).toMatch(/only in the first: 10; only in the second: 0/);
    expect(status).toBe(0);
  });

  it("--compare fails when a self-check failed in the later result", () => {
    const { stdout, status } = bench("--compare", good, wrong);
    expect(stdout).toMatch(/^BROKEN paths\/upload\/writeBuffer\/64KiB\/contiguous: the word at 0 is wrong$/m);
    expect(status).toBe(1);
  });

  it.each([
    [["--compare", good], /--compare wants two files/],
    [["--compare", good, join(dir, "missing.json")], /there is no file .*missing\.json/],
    [["--show", join(ROOT, "package.json")], /package\.json.*is no benchmark result.*no format/],
    [["--limits", "lots"], /--limits is "lots", it must be adapter or default/],
    [["--csv", join(dir, "nowhere", "x.csv"), "--show", good], /--csv: the folder of .* does not exist/],
  ])("%j is answered with one sentence", (args, says) => {
    const { stderr, status } = bench(...args);
    expect(stderr).toMatch(says);
    expect(stderr.trim().split("\n")).toHaveLength(1);
    expect(status).toBe(1);
  });
});
