/**
 * npm run scenario -- FILE... [--device webgpu|reference] [--seed N] [--timeout SECONDS]
 *
 * Runs scenario modules in headless Chrome, each on a machine of its own: a line per check, and last a line
 * `N passed, N failed` that counts scenarios. A FILE is an ES module anywhere on disk (JavaScript or TypeScript) or the
 * name of a built-in one (`p15`). The exit status is 0 when all passed.
 */
import { existsSync, readdirSync, statSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { duration, integer, main, parse, print, progress, UsageError } from "./cli.mjs";
import { ROOT, withPage } from "./headless.mjs";

const BUILT_IN = join(ROOT, "src", "scenario", "peer");

await main(async () => {
  const { values: options, positionals } = parse({
    allowPositionals: true,
    options: {
      device: { type: "string", default: "webgpu" },
      seed: { type: "string" },
      timeout: { type: "string", default: "300" },
    },
  });
  if (options.device !== "webgpu" && options.device !== "reference") {
    throw new UsageError(`--device is ${JSON.stringify(options.device)}, it must be webgpu or reference.`);
  }
  const seed = options.seed === undefined ? null : integer("--seed", options.seed, { max: 0xffffffff });
  const timeoutMs = integer("--timeout", options.timeout, { min: 1, max: 86400 }) * 1000;
  if (positionals.length === 0) throw new UsageError("no scenario given: npm run scenario -- FILE...");
  const files = positionals.map(findScenario);

  let failed = 0;
  await withPage(
    async (page) => {
      for (const file of files) {
        if (!(await runOne(page, file, { device: options.device, seed }, timeoutMs))) failed++;
      }
    },
    { files },
  );
  print(`${files.length - failed} passed, ${failed} failed`);
  return failed === 0 ? 0 : 1;
});

/** @throws {UsageError} */
function findScenario(name) {
  if (existsSync(name)) {
    if (statSync(name).isFile()) return resolve(name);
    throw new UsageError(`${name} is a folder, not a scenario module.`);
  }
  const builtIn = existsSync(BUILT_IN) ? readdirSync(BUILT_IN) : [];
  const found = builtIn.filter((file) => file === `${name}.ts` || file.startsWith(`${name}-`));
  if (found.length === 1) return join(BUILT_IN, found[0]);
  const known = builtIn.map((file) => file.replace(/\.ts$/, "")).join(", ");
  throw new UsageError(`no scenario ${name}: there is no such file, and the built-in ones are ${known}.`);
}

/** True when the scenario passed. */
async function runOne(page, file, options, timeoutMs) {
  const label = basename(file).replace(/\.[cm]?[jt]s$/, "");
  const start = performance.now();
  progress(`${label}: running`);
  try {
    const outcome = await page.call("src/worker/headless-scenario.ts", "runScenarioAt", [page.fileUrl(file), options], {
      onProgress: (check) => print(`  ${checkWord(check)} ${check.text}`),
      timeoutMs,
      stallMs: timeoutMs,
    });
    if (outcome.error !== null) print(`  FAIL  threw ${outcome.error.text}\n${indent(outcome.error.stack)}`);
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
