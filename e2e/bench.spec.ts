import { readFile } from "node:fs/promises";
import type { Download, Page } from "@playwright/test";
import { expect, test } from "./workbench.ts";

/** Two paths, two sizes: a few seconds. */
const SELECTION =
  "#bench?kind=upload&path=writeBuffer%20per%20run,mappedAtCreation&size=4KiB,64KiB&layout=contiguous&mode=warm";

/** Share of a canvas's pixels that are drawn in a colour of their own, neither grey nor empty. */
function colored(page: Page, testId: string): Promise<number> {
  return page
    .locator(`[data-testid="${testId}"] canvas, canvas[data-testid="${testId}"]`)
    .evaluate((canvas: HTMLCanvasElement) => {
      const { data } = canvas.getContext("2d")!.getImageData(0, 0, canvas.width, canvas.height);
      let found = 0;
      for (let at = 0; at < data.length; at += 4) {
        const [r, g, b] = data.subarray(at, at + 3);
        if (data[at + 3]! > 40 && Math.max(r!, g!, b!) - Math.min(r!, g!, b!) > 30) found += 1;
      }
      return found / (data.length / 4);
    });
}

async function textOf(download: Promise<Download>): Promise<string> {
  return readFile(await (await download).path(), "utf8");
}

async function measure(page: Page): Promise<void> {
  await page.getByRole("button", { name: "Measure", exact: true }).click();
  await expect(page.getByTestId("bench-conditions")).toHaveText(/8 cases, every byte right/, { timeout: 60_000 });
}

test("a selection from a link is measured, drawn, exported and compared", async ({ page }) => {
  await page.goto(`/${SELECTION}`);
  await expect(page.getByTestId("bench-progress")).toHaveText(/^4 cases/);
  await measure(page);

  await expect.poll(() => colored(page, "bench-bandwidth")).toBeGreaterThan(0.001);
  await expect.poll(() => colored(page, "bench-latency")).toBeGreaterThan(0.005);
  await expect.poll(() => colored(page, "bench-heat")).toBeGreaterThan(0.01);
  await expect(page.getByTestId("bench-heat")).toHaveAttribute("aria-label", /^Best at 64K: upload: \w.*[MG]B\/s$/);

  const save = (name: string) => {
    const download = page.waitForEvent("download");
    return Promise.all([textOf(download), page.getByRole("button", { name, exact: true }).click()]).then(
      ([text]) => text,
    );
  };
  const json = await save("JSON");
  const result = JSON.parse(json);
  expect(result).toMatchObject({ format: "webgpu-svm-bench", version: 1, options: { limits: "adapter" } });
  expect(result.rows).toHaveLength(8);
  expect(await save("CSV")).toMatch(
    /^group,kind,name,bytes,.*\r\npaths,upload,writeBuffer per run,4096,contiguous,warm,\d+,/,
  );
  expect(await save("bandwidth SVG")).toMatch(/^<svg [\s\S]*writeBuffer per run[\s\S]*<\/svg>\n$/);
  expect(await save("times SVG")).toMatch(/^<svg /);

  // Against itself nothing has changed.
  const fileOf = (name: string, text: string) => ({ name, mimeType: "application/json", buffer: Buffer.from(text) });
  const compare = page.getByTestId("bench-compare");
  await compare.setInputFiles(fileOf("same.json", json));
  await page.getByRole("tab", { name: /^Changes/ }).click();
  await expect(page.getByTestId("bench-changes")).toContainText("Against same.json: 0 of 8 changed");

  // The same with times of its own, loaded; against itself at a tenth of the time, everything has changed.
  const at = (ms: number) => {
    const samples = Array.from({ length: 15 }, (_, i) => ms * (1 + i / 1000));
    const summary = { n: 15, median: ms * 1.007, low: ms * 1.003, high: ms * 1.011, min: ms, p95: ms * 1.014 };
    const rows = result.rows.map((row: object) => ({ ...row, ms: summary, samples }));
    return JSON.stringify({ ...result, rows });
  };
  await page.getByTestId("bench-load").setInputFiles(fileOf("slow.json", at(5)));
  await expect(page.getByTestId("bench-conditions")).toContainText("slow.json");
  await compare.setInputFiles(fileOf("fast.json", at(0.5)));
  await expect(page.getByTestId("bench-changes")).toContainText("Against fast.json: 8 of 8 changed");
  await expect(page.getByTestId("bench-changes").locator("tr.slower")).toHaveCount(8);
});

test("a run is cancelled at once, and another can begin", async ({ page }) => {
  await page.goto("/#bench?size=2MiB,16MiB&layout=contiguous&mode=warm");
  await page.getByRole("button", { name: "Measure", exact: true }).click();
  await expect(page.getByTestId("bench-progress")).toHaveText(/^\d+ % · (checking|measuring)/);
  await page.getByRole("button", { name: "Cancel", exact: true }).click();
  await expect(page.getByTestId("bench-progress")).toHaveText(/cases, about/, { timeout: 1000 });
  await page.getByRole("button", { name: "Measure", exact: true }).click();
  await expect(page.getByTestId("bench-progress")).toHaveText(/^\d+ % · (checking|measuring)/);
});

test("the choice is in the address, and a file that is no result is refused", async ({ workbench, page }) => {
  await workbench.open();
  await page.getByRole("link", { name: "Copy paths" }).first().click();
  await expect(page.getByRole("heading", { name: "Copy paths" })).toBeVisible();
  for (const kind of ["fill", "access", "device"]) await page.getByRole("button", { name: kind, exact: true }).click();
  await page.getByRole("button", { name: "random", exact: true }).click();
  await expect.poll(() => page.url()).toMatch(/#bench\?kind=upload,readback&.*layout=contiguous,random/);
  await page.reload();
  await expect(page.getByRole("button", { name: "fill", exact: true })).toHaveAttribute("aria-pressed", "false");
  await expect(page.getByRole("button", { name: "random", exact: true })).toHaveAttribute("aria-pressed", "true");

  const load = page.getByTestId("bench-load");
  await load.setInputFiles({ name: "x.json", mimeType: "application/json", buffer: Buffer.from('{"format":"other"}') });
  await expect(page.getByRole("alert")).toContainText(/x\.json.*is no benchmark result/);
  await page.getByRole("link", { name: "Workbench" }).click();
  await expect(workbench.button("Run")).toBeVisible();
});
