/** The cases of the system-allocator matrix, by name or pattern, for scripts/scenario.mjs. */
import { duration, print, progress, UsageError } from "./cli.mjs";
import { HeadlessError } from "./headless.mjs";

/** What the page is asked for. */
export const MATRIX_MODULE = "src/scenario/matrix/headless.ts";

/** Whether a name on the command line means cases of the matrix: `matrix`, or what begins like one of its names. */
export function isMatrixName(name) {
  return name === "matrix" || /^xe-sa-/i.test(name) || /^xe-sa\*/i.test(name);
}

/** The module in Node. It takes a second to build, so it is built when it is needed. */
async function load() {
  const { loadTs } = await import("./load-ts.mjs");
  return loadTs(MATRIX_MODULE);
}

/**
 * `{ name, skip }` of the cases that are meant, each once.
 * @throws {UsageError} where a name finds nothing
 */
export async function findMatrixCases(names) {
  const { namesOf } = await load();
  const found = new Map();
  for (const name of names) {
    const cases = namesOf(name);
    if (cases.length === 0) throw new UsageError(`no case of the matrix has such a name: ${name}.`);
    for (const test of cases) found.set(test.name, test);
  }
  return [...found.values()];
}

/**
 * Runs the cases that are not skipped: in the page, or, where there is none, in Node on the plain engine.
 * @returns {Promise<{ passed: number, failed: number }>}
 */
export async function runMatrixCases(cases, page, options, timeoutMs) {
  const counts = { passed: 0, failed: 0 };
  for (const { name, skip } of cases) if (skip !== null) print(`SKIP ${name}: ${skip}`);
  let left = cases.filter(({ skip }) => skip === null).map(({ name }) => name);
  while (left.length > 0) {
    const onCase = (outcome) => {
      left = left.slice(1);
      counts[outcome.passed ? "passed" : "failed"]++;
      printOutcome(outcome);
      progress(`${left.length} cases left`);
    };
    try {
      if (page === null) await inNode(left, options, onCase, timeoutMs);
      else {
        const limits = { timeoutMs: timeoutMs * left.length, stallMs: timeoutMs };
        await page.call(MATRIX_MODULE, "runNamed", [left, options], { onProgress: onCase, ...limits });
      }
      return counts;
    } catch (error) {
      // A hang or a crash: the case that was running failed, the others still run, on a fresh page.
      print(`FAIL ${left[0]}: ${error.message.split("\n", 1)[0]}`);
      left = left.slice(1);
      counts.failed++;
      await page?.reopen();
    }
  }
  return counts;
}

async function inNode(names, options, onCase, timeoutMs) {
  const { runNamed } = await load();
  let timer;
  const stalled = new Promise((_, reject) => {
    const fail = () => reject(new HeadlessError(`gave no sign of life for ${duration(timeoutMs)}.`));
    timer = setTimeout(fail, timeoutMs);
  });
  try {
    const report = (outcome) => {
      timer.refresh();
      onCase(outcome);
    };
    await Promise.race([runNamed(names, options, report), stalled]);
  } finally {
    clearTimeout(timer);
  }
}

function printOutcome({ name, passed, must, cfg, failures, time }) {
  for (const text of failures) print(`  ${text.startsWith("(cfg)") ? "differs" : "FAIL "} ${text}`);
  const counts = `must ${must.passed}/${must.passed + must.failed}, cfg ${cfg.passed}/${cfg.passed + cfg.failed}`;
  print(`${passed ? "PASS" : "FAIL"} ${name} (${counts}, ${duration(time)})`);
}
