import { expect, test as base } from "@playwright/test";
import type { Page } from "@playwright/test";

/** The page as its user works it. */
export class Workbench {
  readonly page: Page;

  constructor(page: Page) {
    this.page = page;
  }

  async open(): Promise<void> {
    await this.page.goto("/");
    await expect(this.page.getByTestId("adapter")).toBeVisible();
  }

  /** Chooses the first scenario whose title matches. */
  async choose(title: RegExp): Promise<void> {
    const chooser = this.page.getByLabel("Scenario");
    const titles = await chooser.locator("option").allTextContents();
    const found = titles.find((text) => title.test(text));
    expect(found, `a scenario like ${title} among ${titles.join(" | ")}`).toBeDefined();
    await chooser.selectOption({ label: found! });
  }

  button(name: string) {
    return this.page.getByRole("button", { name, exact: true });
  }

  async expectPhase(phase: string, options: { timeout?: number } = {}): Promise<void> {
    await expect(this.page.getByTestId("phase")).toHaveText(phase, options);
  }

  /** The value behind a counter, as a number. */
  async counter(name: string): Promise<number> {
    return Number(await this.page.getByTestId(`counter-${name}`).getAttribute("data-value"));
  }

  async expectCounter(name: string, matches: (value: number) => boolean): Promise<void> {
    await expect.poll(async () => matches(await this.counter(name)), { message: `counter ${name}` }).toBe(true);
  }

  /** Share of the VRAM map's pixels that show a page in use: everything that is neither background nor a free page. */
  vramInUse(): Promise<number> {
    return this.page.getByTestId("vram").evaluate((canvas: HTMLCanvasElement) => {
      const { data } = canvas.getContext("2d")!.getImageData(0, 0, canvas.width, canvas.height);
      let drawn = 0;
      let inUse = 0;
      for (let at = 0; at < data.length; at += 4) {
        if (data[at + 3]! < 255) continue;
        drawn += 1;
        const [r, g, b] = data.subarray(at, at + 3);
        if (Math.max(r!, g!, b!) - Math.min(r!, g!, b!) > 40) inUse += 1;
      }
      return drawn === 0 ? 0 : inUse / drawn;
    });
  }

  /** Drops a file of the given content on the page. */
  async drop(name: string, content: Uint8Array): Promise<void> {
    const bytes = Buffer.from(content).toString("base64");
    const transfer = await this.page.evaluateHandle(
      ({ name, bytes }) => {
        const transfer = new DataTransfer();
        const content = Uint8Array.from(atob(bytes), (c) => c.charCodeAt(0));
        transfer.items.add(new File([content], name));
        return transfer;
      },
      { name, bytes },
    );
    const page = this.page.locator(".page");
    await page.dispatchEvent("dragover", { dataTransfer: transfer });
    await page.dispatchEvent("drop", { dataTransfer: transfer });
  }
}

/** A page whose console stays clean: an error or an exception that no test expects fails the test. */
export const test = base.extend<{ workbench: Workbench }>({
  workbench: async ({ page }, use) => {
    const complaints: string[] = [];
    page.on("console", (message) => {
      if (message.type() === "error") complaints.push(message.text());
    });
    page.on("pageerror", (error) => complaints.push(error.message));
    await use(new Workbench(page));
    expect(complaints).toEqual([]);
  },
});
export { expect };

/** Bytes that no compressor or zero page would make easy, the same every time. */
export function noise(length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  let state = 0x9e3779b9;
  for (let i = 0; i < length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    bytes[i] = state >>> 24;
  }
  return bytes;
}
