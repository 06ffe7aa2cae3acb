import { defineConfig } from "@playwright/test";
import { findBrowser } from "./scripts/browser.mjs";

const browser = await findBrowser();

/** End-to-end tests drive the built page, as a visitor gets it. */
const port = Number((process.env.SVM_E2E_PORT ??= String(20000 + Math.floor(Math.random() * 20000))));

export default defineConfig({
  testDir: "e2e",
  timeout: 120_000,
  expect: { timeout: 30_000 },
  // One page at a time: the software adapter keeps every core busy.
  workers: 1,
  forbidOnly: process.env.CI !== undefined,
  reporter: "list",
  use: {
    baseURL: `http://127.0.0.1:${port}`,
    viewport: { width: 1280, height: 800 },
    launchOptions: { executablePath: browser.executablePath, args: browser.args },
  },
  webServer: {
    command: `npx vite build --logLevel warn && npx vite preview --host 127.0.0.1 --port ${port} --strictPort`,
    url: `http://127.0.0.1:${port}`,
    timeout: 120_000,
  },
});
