import { playwright } from "@vitest/browser-playwright";
import { defineConfig } from "vitest/config";
import { findBrowser } from "./scripts/browser.mjs";

/** Cross-origin isolation, as on the built page: SharedArrayBuffer for the machine's RAM. */
const headers = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
};

/** What the tests in the page may be told: which limits to run under (test/gpu/support.ts), and how long to fuzz. */
const LIMITS = ["adapter", "default", "small"];
const env = {
  SVM_LIMITS: process.env["SVM_LIMITS"] ?? "adapter",
  SVM_FUZZ: process.env["SVM_FUZZ"] ?? "15000",
};
if (!LIMITS.includes(env.SVM_LIMITS)) throw new Error(`SVM_LIMITS: one of ${LIMITS.join(", ")} is wanted`);

/** Two projects: "node", pure logic and shader validation; "gpu", the device on real WebGPU in one page of Chromium. */
export default defineConfig(async () => {
  const browser = await findBrowser();
  const { executablePath, args } = browser;
  return {
    test: {
      projects: [
        {
          test: {
            name: "node",
            environment: "node" as const,
            include: ["test/node/**/*.test.ts"],
            setupFiles: ["test/node/lock-order-setup.ts"],
          },
        },
        {
          server: { headers },
          test: {
            name: "gpu",
            include: ["test/gpu/**/*.test.ts"],
            // One page and one module graph for all files: a browser start and a device per file would cost more than
            // the tests.
            isolate: false,
            env,
            fileParallelism: false,
            testTimeout: 30000,
            hookTimeout: 60000,
            browser: {
              enabled: true,
              headless: true,
              screenshotFailures: false,
              provider: playwright({ launchOptions: { executablePath, args } }),
              instances: [{ browser: "chromium" as const }],
            },
          },
        },
      ],
    },
  };
});
