/** Benchmark results and comparisons as tables that fit a terminal. */
import { bytes, duration, print } from "./cli.mjs";

const NAME_WIDTH = 24;
const CELL_WIDTH = 14;
const RATE_WIDTH = 6;

/** @param {{ gpu: boolean }} options `gpu`: the GPU's own times in tables of their own */
export function printResult({ rows, loops = [], environment, options, incomplete }, { gpu }) {
  if (environment) {
    const { browser, cores } = environment;
    const limits = options.limits === "default" ? "WebGPU's default limits" : "the adapter's limits";
    print(`adapter: ${adapterOf(environment) || "none needed"}; ${limits}`);
    print(`browser: ${browser?.version ?? environment.userAgent}; ${cores} cores`);
  }
  for (const { title, members } of tablesOf(rows)) {
    printTable(title, members, (row) => row.ms);
    const timed = members.filter((row) => row.gpu !== undefined);
    if (gpu && timed.length > 0) printTable(`${title}: GPU`, timed, (row) => row.gpu);
  }
  for (const row of rows) if (row.note !== undefined) print(`${row.group}: ${row.name}: ${row.note}`);
  printChoices(rows);
  if (loops.length > 0) printLoops(loops);
  for (const row of rows.filter((row) => row.error !== null)) print(`FAILED ${describe(row)}: ${row.error}`);
  printVerdict(rows);
  if (incomplete !== undefined) print(`INCOMPLETE: ${incomplete}; these are the rows that were measured until then`);
}

/** Within so much of the best path's time a choice is a good one. */
const GOOD_CHOICE = 1.1;

/** How good the copy engine's choices were, over all sizes and shapes, and the worse ones. */
function printChoices(rows) {
  const chosen = rows.filter((row) => row.choice !== undefined && row.mode === undefined);
  if (chosen.length === 0) return;
  const good = chosen.filter(({ choice }) => choice.ratio <= GOOD_CHOICE).length;
  const share = Math.round((100 * good) / chosen.length);
  const { table } = chosen[0].choice;
  print(`\nauto within 10 % of the best in ${good} of ${chosen.length} cells (${share} %), table: ${table}`);
  print("the best path is picked in one half of the repetitions, compared in the other,");
  print("by the median of the ratios within each repetition, both ways round");
  const missed = chosen.filter(({ choice }) => choice.ratio > GOOD_CHOICE);
  for (const { kind, bytes: size, layout, choice } of missed.sort((a, b) => b.choice.ratio - a.choice.ratio)) {
    print(`  ${choice.ratio.toFixed(2)}  ${kind}, ${bytes(size)}, ${layout}: ${choice.way}`);
    print(`        best: ${choice.best}`);
  }
}

function adapterOf({ gpu }) {
  const { vendor, architecture, description, fallback } = gpu?.adapter ?? {};
  return [vendor, architecture, description, fallback ? "(software)" : ""].filter(Boolean).join(" ");
}

function describe({ kind, name, bytes: size, layout, mode }) {
  return [kind, name, size > 0 ? bytes(size) : "", layout, mode].filter(Boolean).join(", ");
}

function printVerdict(rows) {
  const measured = rows.filter((row) => row.ms !== null);
  if (measured.length > 0) {
    const spread = measured.map(({ ms }) => (ms.high - ms.low) / 2 / ms.median).sort((a, b) => a - b);
    const typical = Math.round(spread[spread.length >> 1] * 100);
    print(`\nmedian time and MB/s; * best of its column; typical 95 % interval: ±${typical} %`);
  }
  if (rows.length === 0) return;
  const wrong = rows.filter((row) => row.error !== null).length;
  print(
    wrong === 0
      ? `self-check: ${rows.length} of ${rows.length} passed`
      : `self-check: ${wrong} of ${rows.length} FAILED`,
  );
}

/** Rows that belong into one table: same group, kind, layout and mode. */
function tablesOf(rows) {
  const tables = new Map();
  for (const row of rows) {
    const parts = [row.group === "paths" ? "" : row.group, row.kind, row.layout, row.mode ?? ""];
    const key = parts.filter((part) => part !== "").join(", ");
    if (!tables.has(key)) tables.set(key, { title: key, members: [] });
    tables.get(key).members.push(row);
  }
  return tables.values();
}

/** As many columns as the terminal has room for, then the next ones below. */
function printTable(title, rows, pick) {
  const sizes = [...new Set(rows.map((row) => row.bytes))].sort((a, b) => a - b);
  const names = [...new Set(rows.map((row) => row.name))];
  const columns = Math.max(1, Math.floor(((process.stdout.columns ?? 80) - NAME_WIDTH) / CELL_WIDTH));
  for (let from = 0; from < sizes.length; from += columns) {
    const shown = sizes.slice(from, from + columns);
    const heads = shown.map((size) => (size > 0 ? bytes(size) : "").padStart(CELL_WIDTH));
    print(`\n${title.padEnd(NAME_WIDTH)}${heads.join("")}`);
    for (const name of names) {
      const cells = shown.map((size) => cellOf(rows, name, size, pick, names.length));
      if (cells.every((cell) => cell === "")) continue;
      print(`${name.padEnd(NAME_WIDTH)}${cells.map((cell) => cell.padStart(CELL_WIDTH)).join("")}`.trimEnd());
    }
  }
}

function cellOf(rows, name, size, pick, names) {
  const row = rows.find((candidate) => candidate.name === name && candidate.bytes === size);
  if (row === undefined) return "";
  const summary = pick(row);
  if (summary === null || summary === undefined) return row.error === null ? "" : "failed";
  const column = rows.filter((other) => other.bytes === size && pick(other));
  const best = Math.min(...column.map((other) => pick(other).median));
  const star = names > 1 && summary.median === best && row.kind !== "bound" ? "*" : "";
  const moves = row.bytes > 0 && !row.name.startsWith("submit") && summary.median > 0;
  const rate = moves ? rateText(row.bytes / summary.median / 1000) : "";
  return `${star}${duration(summary.median)}${rate.padStart(RATE_WIDTH)}`;
}

/** MB/s in five characters. */
function rateText(mb) {
  if (mb < 10) return mb.toFixed(1);
  return mb < 99999.5 ? String(Math.round(mb)) : `${Math.round(mb / 1000)}k`;
}

function printLoops(loops) {
  print(
    `\n${"loops in Node".padEnd(44)}${["M op/s", "C here*", "of C"].map((title) => title.padStart(9)).join("")}   B/item`,
  );
  for (const { group, name, opsPerSecond, ratio, bytesPerMapping } of loops) {
    const cells = [(opsPerSecond / 1e6).toFixed(2), (opsPerSecond / ratio / 1e6).toFixed(2), ratio.toFixed(2)];
    const memory = bytesPerMapping ? String(Math.round(bytesPerMapping)).padStart(9) : "";
    print(`${`${group}: ${name}`.padEnd(44)}${cells.map((cell) => cell.padStart(9)).join("")}${memory}`);
  }
  print("* the kernel's code in C on the reference machine, scaled by calibration loops that ran there and here");
}

/** What changed beyond the noise, worst first; then what could not be compared. */
export function printComparison({ changes, onlyBefore, onlyAfter, conditions, bound }) {
  for (const condition of conditions) print(`not the same ${condition}`);
  if (bound !== null) print(`the bounds, which depend on no path, changed by ${percent(bound)} (median)`);
  const of = (verdict) => changes.filter((change) => change.verdict === verdict);
  const byRatio = (a, b) => b.ratio.value - a.ratio.value;
  printChanges("slower", of("slower").sort(byRatio));
  printChanges(
    "faster",
    of("faster").sort((a, b) => byRatio(b, a)),
  );
  for (const { id, after } of of("broken")) print(`BROKEN ${id}: ${after.error}`);
  for (const { id } of of("mended")) print(`mended: ${id}`);
  const counts = ["slower", "faster", "broken", "mended", "same", "unclear"].map(
    (verdict) => `${of(verdict).length} ${verdict}`,
  );
  print(`\n${changes.length} rows in both: ${counts.join(", ")}`);
  if (onlyBefore.length + onlyAfter.length > 0) {
    print(`only in the first: ${onlyBefore.length}; only in the second: ${onlyAfter.length}`);
  }
  print("a change counts from 5 % on, where the 99 % interval of the ratio of the medians leaves out 1;");
  print("it is unclear where one of the results has fewer than 9 samples");
}

function printChanges(title, changes) {
  if (changes.length === 0) return;
  const width = Math.max(40, (process.stdout.columns ?? 80) - 40);
  print(`\n${title.padEnd(width)}${"before".padStart(9)}${"after".padStart(9)}${"time".padStart(7)}  interval`);
  for (const { id, before, after, ratio } of changes) {
    const times = [duration(before.ms.median), duration(after.ms.median)].map((text) => text.padStart(9)).join("");
    const name = id.length > width - 1 ? `${id.slice(0, width - 2)}…` : id;
    const interval = `${percent(ratio.low)}…${percent(ratio.high)}`;
    print(`${name.padEnd(width)}${times}${percent(ratio.value).padStart(7)}  ${interval}`);
  }
}

/** `"+12 %"` of a ratio 1.12. */
function percent(ratio) {
  const value = Math.round((ratio - 1) * 100);
  return `${value > 0 ? "+" : ""}${value}%`;
}
