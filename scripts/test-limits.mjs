import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";

/**
 * `npm run test:limits -- [ARGUMENTS]`: all GPU tests three ways: under the adapter's own limits (as `npm run test:gpu`),
 * under WebGPU's defaults, and with VRAM in several small segments (SVM_LIMITS, see vitest.config.ts). What is behind `--`
 * goes to Vitest, for example the name of a file.
 */
const WAYS = ["adapter", "default", "small"];
const vitest = fileURLToPath(new URL("../node_modules/vitest/vitest.mjs", import.meta.url));

const failed = WAYS.filter((limits) => {
  console.log(`\nSVM_LIMITS=${limits}`);
  const env = { ...process.env, SVM_LIMITS: limits };
  const args = [vitest, "run", "--project", "gpu", ...process.argv.slice(2)];
  return spawnSync(process.execPath, args, { env, stdio: "inherit" }).status !== 0;
});
console.log(
  `\nlimits: ${WAYS.map((limits) => `${limits} ${failed.includes(limits) ? "FAILED" : "passed"}`).join(", ")}`,
);
process.exitCode = failed.length === 0 ? 0 : 1;
