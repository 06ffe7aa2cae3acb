import { expect, noise, test } from "./workbench.ts";

test.beforeEach(async ({ workbench }) => {
  await workbench.open();
});

test("a dropped file larger than VRAM is run over and verified", async ({ workbench, page }) => {
  await page.getByLabel("VRAM", { exact: true }).selectOption({ label: "4 MiB" });
  await workbench.drop("noise.bin", noise((8 << 20) + 12345));
  await workbench.expectPhase("Passed");
  await expect(page.getByTestId("report")).toContainText("histogram, crc32, transform");
  await workbench.expectCounter("evictions", (n) => n > 0);
});

test("an empty file gives one clear sentence", async ({ workbench, page }) => {
  await workbench.drop("empty.bin", new Uint8Array(0));
  await workbench.expectPhase("Failed");
  await expect(page.getByTestId("run-error")).toContainText(/empty/i);
});
