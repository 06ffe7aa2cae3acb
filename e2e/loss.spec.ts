import { chromium, expect, test } from "@playwright/test";
import { createServer } from "vite";
import { findBrowser } from "../scripts/browser.mjs";
import type * as Library from "../src/machine/index.ts";

/** The GPU process dies under the library: the real thing behind test/gpu/loss-states.test.ts. A browser of its own. */
test("the GPU process dies in the middle of a launch: the machine survives it and gets a new device", async () => {
  const server = await createServer({
    configFile: false,
    appType: "custom",
    server: { port: 0, host: "localhost" },
    optimizeDeps: { noDiscovery: true },
    plugins: [
      {
        name: "blank-page",
        configureServer: ({ middlewares }) => {
          middlewares.use("/blank", (_request, response) => {
            response.setHeader("Content-Type", "text/html").end("<!doctype html>");
          });
        },
      },
    ],
    logLevel: "error",
  });
  await server.listen();
  const { executablePath, args } = await findBrowser();
  const browser = await chromium.launch({ executablePath, args });
  try {
    const page = await browser.newPage({ baseURL: server.resolvedUrls!.local[0]! });
    await page.goto("blank");
    await page.evaluate(async () => {
      const path = "/src/machine/index.ts";
      const { Machine, prepareEngine } = (await import(/* @vite-ignore */ path)) as typeof Library;
      const machine = new Machine({ engine: await prepareEngine("webgpu"), ram: 64 << 20 });
      const process = machine.createProcess();
      const vm = machine.createDevice({ vram: 4 << 20 }).vm(process);
      const moved = await process.mmap(1 << 20, { align: 2 << 20 });
      const stays = await process.mmap(1 << 20, { align: 2 << 20 });
      await process.fill(moved, 1 << 20, 1);
      await process.fill(stays, 1 << 20, 2);
      await vm.ginc(moved);
      let launches = 0;
      const ended = (async () => {
        for (;;) {
          await vm.ginc(moved);
          launches += 1;
        }
      })().catch((error: Error) => error.name);
      Object.assign(globalThis, {
        launches: () => launches,
        aftermath: async () => {
          const launch = await ended;
          const lost = await process.ld(moved).catch((error: { code: string }) => error.code);
          const kept = await process.ld(stays);
          const next = (await machine.openDevice({ vram: 4 << 20 })).vm(process);
          const old = await next.ginc(stays, 5);
          return { launch, lost, kept, old, now: await process.ld(stays) };
        },
      });
    });
    await page.waitForFunction(() => (globalThis as unknown as { launches(): number }).launches() > 3);
    const cdp = await browser.newBrowserCDPSession();
    // The command's own answer is lost with the process it ends.
    void cdp.send("Browser.crashGpuProcess").catch(() => {});
    const word = 0x02020202;
    const aftermath = await page.evaluate(() =>
      (globalThis as unknown as { aftermath(): Promise<unknown> }).aftermath(),
    );
    expect(aftermath).toEqual({ launch: "DeviceLostError", lost: "BUS", kept: word, old: word, now: word + 5 });
  } finally {
    await browser.close();
    await server.close();
  }
});
