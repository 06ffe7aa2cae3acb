import { playwright } from "@vitest/browser-playwright";
import { defineConfig } from "vitest/config";
import { findBrowser } from "./scripts/browser.mjs";

/** Cross-origin isolation, as on the built page: SharedArrayBuffer for the machine's RAM. */
const headers = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
};

/** Two projects: "node", pure logic and shader validation; "gpu", the device on real WebGPU in one page of Chromium. */
export default defineConfig(async () => {
  const browser = await findBrowser();
  const { executablePath, args } = browser;
  return {
    test: {
      projects: [
        { test: { name: "node", environment: "node" as const, include: ["test/node/**/*.test.ts"] } },
        {
          server: { headers },
          test: {
            name: "gpu",
            include: ["test/gpu/**/*.test.ts"],
            // One page and one module graph for all files: a browser start and a device per file would cost more than
            // the tests.
            isolate: false,
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
