import { chromium, expect, test } from "@playwright/test";
import type { Browser } from "@playwright/test";
import { findBrowser } from "../scripts/browser.mjs";
import { Workbench } from "./workbench.ts";

/** These tests break the browser's GPU, so each has a browser of its own. */
async function launch(
  keep: (arg: string) => boolean,
  baseURL: string,
): Promise<{ browser: Browser; workbench: Workbench }> {
  const { executablePath, args } = await findBrowser();
  const browser = await chromium.launch({ executablePath, args: args.filter(keep) });
  const page = await browser.newPage({ baseURL, viewport: { width: 1280, height: 800 } });
  return { browser, workbench: new Workbench(page) };
}

test("without WebGPU a banner says what is missing and what helps", async ({ baseURL }) => {
  const { browser, workbench } = await launch((arg) => !/webgpu|vulkan|swiftshader|angle/i.test(arg), baseURL!);
  try {
    await workbench.page.goto("/");
    const banner = workbench.page.getByTestId("banner");
    await expect(banner).toContainText("WebGPU is not available here");
    await expect(banner).toContainText("--enable-unsafe-webgpu");
    await expect(workbench.button("Run")).toBeDisabled();
  } finally {
    await browser.close();
  }
});

test("a lost device is announced, and a new one can be started", async ({ baseURL }) => {
  const { browser, workbench } = await launch(() => true, baseURL!);
  try {
    await workbench.open();
    await workbench.choose(/P32|stream/i);
    await workbench.button("Step").click();
    await workbench.expectPhase("Paused");
    const cdp = await browser.newBrowserCDPSession();
    // The command's own answer is lost with the process it ends.
    void cdp.send("Browser.crashGpuProcess").catch(() => {});
    const banner = workbench.page.getByTestId("banner");
    await expect(banner).toContainText("The GPU device was lost");
    await workbench.expectPhase("Failed");
    // By event: the browser draws no frames for a while, and a click would wait for one that never comes.
    await workbench.button("Start a new device").dispatchEvent("click");
    await expect(banner).toHaveCount(0);
    await expect(workbench.page.getByTestId("adapter")).toBeVisible();
    await workbench.choose(/P04|migrate_fault/i);
    await workbench.button("Run").dispatchEvent("click");
    await workbench.expectPhase("Passed");
  } finally {
    await browser.close();
  }
});
