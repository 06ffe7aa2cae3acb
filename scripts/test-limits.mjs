import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";

/**
 * `npm run test:limits`: the machine, launches, translation, copies and isolation under WebGPU's default limits and with
 * VRAM in several small segments (`npm run test:gpu` is the run under the adapter's own limits).
 */
const FILES = ["machine", "launch", "translate", "conformance", "isolation", "copy"].map((name) => `test/gpu/${name}`);
const vitest = fileURLToPath(new URL("../node_modules/vitest/vitest.mjs", import.meta.url));

for (const limits of ["default", "small"]) {
  console.log(`\nSVM_LIMITS=${limits}`);
  const env = { ...process.env, SVM_LIMITS: limits };
  const run = spawnSync(process.execPath, [vitest, "run", "--project", "gpu", ...FILES], { env, stdio: "inherit" });
  if (run.status !== 0) process.exit(run.status ?? 1);
}
