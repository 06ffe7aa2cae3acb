/**
 * npm run scenario -- FILE... [--device webgpu|reference] [--seed N] [--timeout SECONDS] [--trace OUT.pftrace]
 *
 * Runs scenario modules in headless Chrome, each on a machine of its own: a line per check, and last a line
 * `N passed, N failed` that counts scenarios. A FILE is an ES module anywhere on disk (JavaScript or TypeScript), or
 *
 *     p15, 'p*'                the name of a built-in one, or a pattern of names
 *     'XE-SA-many-*-remap*'    cases of the system-allocator matrix: a line per case; those that do nothing in the
 *                              original are listed as skipped and count neither way
 *     matrix                   those of its cases, more than 400, that are run regularly; 'XE-SA-*' are all
 *
 * `--trace`, for one scenario that is no case of the matrix, writes what happened as a Perfetto trace, to be opened in
 * ui.perfetto.dev.
 *
 * Matrix cases on the plain engine run in Node. The exit status is 0 when all passed. The time limit is for one scenario.
 */
import { existsSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { bytes, duration, integer, main, parse, print, progress, UsageError } from "./cli.mjs";
import { ROOT } from "./bundle.mjs";
import { withPage } from "./headless.mjs";
import { bodyOf, checkWritable } from "./receive.mjs";
import { findMatrixCases, isMatrixName, MATRIX_MODULE, runMatrixCases } from "./scenario-matrix.mjs";

const TRACE_ROUTE = "/__scenario/trace";
const PAGE_MODULE = "src/worker/headless-scenario.ts";
const BUILT_IN = join(ROOT, "src", "scenario", "peer");

await main(async () => {
  const { values: options, positionals } = parse({
    allowPositionals: true,
    options: {
      device: { type: "string", default: "webgpu" },
      seed: { type: "string" },
      timeout: { type: "string", default: "300" },
      trace: { type: "string" },
    },
  });
  if (options.device !== "webgpu" && options.device !== "reference") {
    throw new UsageError(`--device is ${JSON.stringify(options.device)}, it must be webgpu or reference.`);
  }
  const seed = options.seed === undefined ? null : integer("--seed", options.seed, { max: 0xffffffff });
  const timeoutMs = integer("--timeout", options.timeout, { min: 1, max: 86400 }) * 1000;
  if (positionals.length === 0) throw new UsageError("no scenario given: npm run scenario -- FILE...");
  const files = positionals.filter((name) => !isMatrixName(name)).flatMap(findScenarios);
  const names = positionals.filter(isMatrixName);
  const cases = names.length === 0 ? [] : await findMatrixCases(names);

  if (options.trace !== undefined) {
    if (files.length !== 1 || names.length > 0)
      throw new UsageError("--trace is for one scenario module, and no case of the matrix.");
    checkWritable(options.trace);
  }

  const total = { passed: 0, failed: 0 };
  const runOptions = { device: options.device, seed, traceUrl: options.trace === undefined ? null : TRACE_ROUTE };
  const onTrace = async (request, response) => {
    const trace = await bodyOf(request);
    writeFileSync(options.trace, trace);
    print(`trace ${options.trace}, ${bytes(trace.length)}; opens in ui.perfetto.dev`);
    response.end();
  };
  const runMatrix = async (page) => {
    const { passed, failed } = await runMatrixCases(cases, page, runOptions, timeoutMs);
    total.passed += passed;
    total.failed += failed;
  };
  const inNode = options.device === "reference";
  if (files.length > 0 || (cases.length > 0 && !inNode)) {
    await withPage(
      async (page) => {
        for (const file of files) {
          total[(await runOne(page, file, runOptions, timeoutMs)) ? "passed" : "failed"]++;
        }
        if (!inNode) await runMatrix(page);
      },
      {
        modules: [...(files.length > 0 ? [PAGE_MODULE, ...files] : []), ...(cases.length > 0 ? [MATRIX_MODULE] : [])],
        routes: { [TRACE_ROUTE]: onTrace },
      },
    );
  }
  if (inNode) await runMatrix(null);
  print(`${total.passed} passed, ${total.failed} failed`);
  return total.failed === 0 ? 0 : 1;
});

/**
 * Files of a name or pattern.
 * @throws {UsageError}
 */
function findScenarios(name) {
  if (existsSync(name)) {
    if (statSync(name).isFile()) return [resolve(name)];
    throw new UsageError(`${name} is a folder, not a scenario module.`);
  }
  const builtIn = existsSync(BUILT_IN) ? readdirSync(BUILT_IN).sort() : [];
  const isPattern = name.includes("*");
  const matches = isPattern
    ? (file) => matchesGlob(file.replace(/\.ts$/, ""), name)
    : (file) => file === `${name}.ts` || file.startsWith(`${name}-`);
  const found = builtIn.filter(matches);
  if (found.length === 1 || (isPattern && found.length > 0)) return found.map((file) => join(BUILT_IN, file));
  const known = builtIn.map((file) => file.replace(/\.ts$/, "")).join(", ");
  throw new UsageError(`no scenario ${name}: there is no such file, and the built-in ones are ${known}.`);
}

/** `*` stands for anything. */
function matchesGlob(text, glob) {
  const parts = glob.split("*").map((part) => part.replace(/[.+?^${}()|[\]\\]/g, "\\$&"));
  return new RegExp(`^${parts.join(".*")}$`, "i").test(text);
}

/** True when the scenario passed. */
async function runOne(page, file, options, timeoutMs) {
  const label = basename(file).replace(/\.[cm]?[jt]s$/, "");
  const start = performance.now();
  progress(`${label}: running`);
  try {
    const outcome = await page.call(PAGE_MODULE, "runScenarioAt", [page.fileUrl(file), options], {
      onProgress: (check) => print(`  ${checkWord(check)} ${check.text}`),
      timeoutMs,
      stallMs: timeoutMs,
    });
    if (outcome.error !== null) {
      const stack = await page.sourceStack(outcome.error.stack);
      print(`  FAIL  threw ${outcome.error.text}\n${indent(stack)}`);
    }
    const { must, cfg } = outcome;
    const counts = `must ${must.passed}/${must.passed + must.failed}, cfg ${cfg.passed}/${cfg.passed + cfg.failed}`;
    const time = duration(performance.now() - start);
    print(`${outcome.passed ? "PASS" : "FAIL"} ${label}: ${outcome.title} (${counts}, ${time})`);
    return outcome.passed;
  } catch (error) {
    // A module that does not load, a hang, a crash: this scenario failed, the others still run, on a fresh page.
    print(`FAIL ${label}: ${error.message.split("\n", 1)[0]}`);
    await page.reopen();
    return false;
  }
}

function checkWord({ kind, ok }) {
  if (kind === "note") return "note ";
  if (ok) return "ok   ";
  return kind === "must" ? "FAIL " : "differs (cfg)";
}

function indent(stack) {
  const frames = stack.split("\n").filter((line) => /^\s+at /.test(line));
  return frames
    .slice(0, 6)
    .map((line) => `        ${line.trim()}`)
    .join("\n");
}
