/**
 * npm run vectors -- DIR...
 *
 * Replays recorded kernel behaviour: every `.jsonl` and `.jsonl.gz` file in the directories and below. A line per file,
 * the first failures of each, last line `N passed, N failed`. Exit status 1 when a line failed or could not be read.
 */
import { readdirSync, readFileSync, statSync } from "node:fs";
import { join, relative } from "node:path";
import { gunzipSync } from "node:zlib";
import { integer, main, parse, print, progress, UsageError } from "./cli.mjs";
import { loadTs } from "./load-ts.mjs";

const OPTIONS = { failures: { type: "string", default: "10" } };

await main(async () => {
  const { values, positionals } = parse({ options: OPTIONS, allowPositionals: true });
  const shown = integer("--failures", values.failures);
  if (positionals.length === 0) throw new UsageError("no directory given: npm run vectors -- DIR...");
  const files = positionals.flatMap((path) => recordedFiles(path));
  progress("loading the replayers");
  const { componentOf, replayFile } = await loadTs("test/vectors/index.ts");
  let passed = 0;
  let failed = 0;
  for (const { path, name } of files) {
    progress(`${name}`);
    const { lines, unreadable } = readLines(path);
    const result = replayFile(name, lines);
    const failures = [...unreadable.map((message) => `${name}: ${message}`), ...(result?.failures ?? [])];
    if (result === null && lines.length > 0) failures.push(`${name}: its ${lines.length} lines are of no known form`);
    const failedHere = unreadable.length + (result === null ? lines.length : result.failed);
    passed += result?.passed ?? 0;
    failed += failedHere;
    print(`${name}: ${componentOf(lines) ?? "unknown"}, ${result?.passed ?? 0} passed, ${failedHere} failed`);
    for (const failure of failures.slice(0, shown)) print(`  FAIL ${failure}`);
    if (failures.length > shown) print(`  and ${failures.length - shown} more`);
  }
  print(`${passed} passed, ${failed} failed`);
  return failed === 0 ? 0 : 1;
});

/** Files to replay in a directory and below, in order of name; a file stands for itself. */
function recordedFiles(path) {
  let stat;
  try {
    stat = statSync(path);
  } catch {
    throw new UsageError(`${path} does not exist.`);
  }
  if (stat.isFile()) return [{ path, name: path }];
  const files = readdirSync(path, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && /\.jsonl(\.gz)?$/.test(entry.name))
    .map((entry) => join(entry.parentPath ?? entry.path, entry.name))
    .sort();
  if (files.length === 0) throw new UsageError(`${path} has no .jsonl or .jsonl.gz file.`);
  return files.map((file) => ({ path: file, name: relative(path, file) }));
}

/** The objects of a file, and a sentence for each line that holds none. */
function readLines(path) {
  const unreadable = [];
  const lines = [];
  let text;
  try {
    const bytes = readFileSync(path);
    text = (path.endsWith(".gz") ? gunzipSync(bytes) : bytes).toString("utf8");
  } catch (error) {
    return { lines, unreadable: [`cannot be read: ${error.message}`] };
  }
  text.split("\n").forEach((line, i) => {
    if (line.trim() === "") return;
    let value;
    try {
      value = JSON.parse(line);
    } catch {
      value = undefined;
    }
    if (typeof value === "object" && value !== null && !Array.isArray(value)) lines.push(value);
    else unreadable.push(`line ${i + 1} is not a JSON object`);
  });
  return { lines, unreadable };
}
