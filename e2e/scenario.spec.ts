import { readFileSync } from "node:fs";
import { expect, test } from "./workbench.ts";

test.beforeEach(async ({ workbench }) => {
  await workbench.open();
});

test("a scenario runs to the end and shows its checks", async ({ workbench, page }) => {
  await workbench.choose(/P04|migrate_fault/i);
  await workbench.button("Run").click();
  await workbench.expectPhase("Passed");
  await expect(page.getByTestId("checks")).toHaveText(/^[1-9]\d* passed$/);
  await workbench.expectCounter("bytesIn", (n) => n >= 4 << 20);
  await workbench.expectCounter("cpuFaults", (n) => n > 0);
  await expect(page.getByTestId("event-count")).toHaveText(/^[\d,]+$/);
});

test("step lets exactly one round pass, and resume goes on to the end", async ({ workbench }) => {
  await workbench.choose(/P32|stream/i);
  await workbench.button("Step").click();
  await workbench.expectPhase("Paused");
  for (const rounds of [1, 2]) {
    await workbench.button("Step").click();
    await workbench.expectCounter("rounds", (n) => n === rounds);
  }
  // Still: a paused machine does nothing, however long one waits.
  await workbench.page.waitForTimeout(300);
  expect(await workbench.counter("rounds")).toBe(2);
  await workbench.button("Resume").click();
  await workbench.expectPhase("Passed");
});

test("VRAM fills, and gives way when it runs short", async ({ workbench }) => {
  await workbench.choose(/P32|stream/i);
  await workbench.button("Step").click();
  await workbench.expectPhase("Paused");
  await expect.poll(() => workbench.vramInUse()).toBeLessThan(0.1);
  for (let rounds = 1; (await workbench.counter("evictions")) === 0; rounds++) {
    expect(rounds, "VRAM runs short within so many rounds").toBeLessThan(30);
    await workbench.button("Step").click();
    await workbench.expectCounter("rounds", (n) => n === rounds);
  }
  // Full, and something has already left.
  await expect.poll(() => workbench.vramInUse()).toBeGreaterThan(0.5);
  await workbench.expectCounter("bytesOut", (n) => n > 0);
  await workbench.button("Resume").click();
  await workbench.expectPhase("Passed");
});

test("a run can be stopped, and the next one starts clean", async ({ workbench, page }) => {
  await workbench.choose(/P32|stream/i);
  await workbench.button("Step").click();
  await workbench.expectPhase("Paused");
  await workbench.button("Stop").click();
  await workbench.expectPhase("Stopped");
  await workbench.choose(/P04|migrate_fault/i);
  await workbench.button("Run").click();
  await workbench.expectPhase("Passed");
  await expect(page.getByTestId("checks")).toHaveText(/^[1-9]\d* passed$/);
});

test("an event shows what led to it, and the filter leaves kinds out", async ({ workbench, page }) => {
  await workbench.choose(/P32|stream/i);
  await workbench.button("Run").click();
  await workbench.expectPhase("Passed");
  const list = page.getByTestId("events");
  await page.getByRole("button", { name: /^migrate-to-devmem/ }).dblclick();
  await expect(list.locator(".event-kind").first()).toHaveText("migrate-to-devmem");
  await expect(list.locator(".event-kind", { hasText: "gpu-fault" })).toHaveCount(0);
  await list.locator(".event").first().click();
  const chain = page.getByTestId("chain");
  await expect(chain.locator("li.current")).toContainText("migrate-to-devmem");
  await expect(chain.locator("li").filter({ hasText: "gpu-fault" })).not.toHaveCount(0);
  // By keyboard: to the cause and back out.
  await list.press("ArrowLeft");
  await expect(chain.locator("li.current")).not.toContainText("migrate-to-devmem");
  await list.press("Escape");
  await expect(chain).toHaveCount(0);
});

test("the copy paths of the adapter are measured on demand", async ({ workbench, page }) => {
  await page.getByRole("tab", { name: "Copy paths" }).click();
  await workbench.button("Measure").click();
  const table = page.getByTestId("copy-paths");
  await expect(table.locator("tbody tr")).not.toHaveCount(0, { timeout: 90_000 });
  await expect(table.locator("td").filter({ hasText: /[MG]B\/s/ })).not.toHaveCount(0);
});

test("light and dark follow the system and can be chosen", async ({ workbench, page }) => {
  const root = page.locator("html");
  await page.emulateMedia({ colorScheme: "dark" });
  await expect(root).toHaveAttribute("data-theme", "dark");
  await page.getByRole("button", { name: /^Theme/ }).click();
  await expect(root).toHaveAttribute("data-theme", "light");
  await workbench.open();
  await expect(root).toHaveAttribute("data-theme", "light");
});

test("the events of a run can be saved as a Perfetto trace", async ({ workbench, page }) => {
  await expect(workbench.button("Save trace")).toBeDisabled();
  await workbench.choose(/ping-pong/i);
  await workbench.button("Run").click();
  await workbench.expectPhase("Passed");
  const download = page.waitForEvent("download");
  await workbench.button("Save trace").click();
  const saved = await download;
  expect(saved.suggestedFilename()).toBe("webgpu-svm.pftrace");
  const bytes = readFileSync(await saved.path());
  // Field 1, a packet: the first of a trace.
  expect(bytes[0]).toBe(0x0a);
  expect(bytes.includes("gpu-fault")).toBe(true);
  expect(bytes.includes("GPU address space 2")).toBe(true);
});
