/**
 * Runs functions of the project's page modules in headless Chrome, from Node.
 *
 * Overview. `withPage(body, options)` serves the project's modules on 127.0.0.1, bundled when they are asked for
 * (page-modules.mjs), opens one empty, cross-origin isolated page, hands a `HeadlessPage` to `body`, and closes
 * everything again however `body` ends. Any TypeScript module of the project can be run: nothing is built before.
 *
 * Example.
 *   import { withPage } from "./headless.mjs";
 *   const answer = await withPage(
 *     async (page) => {
 *       // imports /src/x/page.ts in the page and calls its export `run(args..., report)`.
 *       return page.call("src/x/page.ts", "run", [1, "two"], {
 *         onProgress: (value) => console.error(value), // what the page function passed to report(value)
 *         timeoutMs: 600000,                           // for the whole call
 *         stallMs: 120000,                             // longest time without a report
 *       });
 *     },
 *     { modules: ["src/x/page.ts"] },
 *   );
 *
 * The page function gets the arguments and, as the last one, `report(value): void`. Arguments, reports and the result
 * are JSON-like (typed arrays do not pass). Bulk bytes go over HTTP: `options.routes` adds handlers to the server
 * (`{ "/__demo/file": (request, response, url) => ... }`, the longest matching prefix wins) and the page fetches them.
 * `page.fileUrl(path)` is the URL from which the page may `import()` a module file. `options.modules` names the files that
 * will be called and imported: they are bundled while the browser starts, and together, so that they share what they
 * import. `page.reopen()` goes on in a fresh tab after a time-out or a crash.
 *
 * Errors. An error thrown in the page arrives as a `PageError` with the `name`, `message` and `code` it had there, and
 * its stack in terms of the sources. A call that takes too long, a crashed tab, a browser that died: `HeadlessError` with
 * one sentence. Nothing waits for ever. The page's console goes to stderr (`options.console` takes the lines instead).
 */
import { createServer } from "node:http";
import { resolve } from "node:path";
import { findBrowser } from "./browser.mjs";
import { ROOT } from "./bundle.mjs";
import { PageModules } from "./page-modules.mjs";

/** Cross-origin isolation: SharedArrayBuffer, and `performance.now()` in steps of 5 microseconds instead of 100. */
export const ISOLATION_HEADERS = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Cross-Origin-Resource-Policy": "same-origin",
};

/** The run as such failed: time-out, crash, no server. */
export class HeadlessError extends Error {
  name = "HeadlessError";
}

/** An error of the page function, with the fields it had in the page. */
export class PageError extends Error {
  constructor(fields) {
    super(fields.message);
    this.name = fields.name;
    if (fields.code !== undefined) this.code = fields.code;
    this.pageStack = fields.stack;
  }
}

/**
 * @template T
 * @param {(page: HeadlessPage) => Promise<T>} body
 * @param {{
 *   modules?: string[],
 *   routes?: Record<string, (request, response, url: URL) => unknown>,
 *   console?: (type: string, text: string) => void,
 *   keepsOnInterrupt?: boolean,
 * }} [options] `modules`: paths, relative to the project's root or absolute. `keepsOnInterrupt`: the caller ends the run
 *   on SIGINT and SIGTERM itself, and the browser outlives them
 * @returns {Promise<T>}
 */
export async function withPage(body, options = {}) {
  // Rolldown works in threads of its own, while this one loads Playwright, which takes 0.3 s, and the browser starts.
  const modules = new PageModules((options.modules ?? []).map((file) => resolve(ROOT, file)));
  const server = await serve(modules, options.routes);
  let browser;
  try {
    const [found, { chromium }] = await Promise.all([findBrowser(), import("playwright")]);
    const handles = options.keepsOnInterrupt !== true;
    const { executablePath, args } = found;
    browser = await chromium
      .launch({ executablePath, args, headless: true, timeout: 60000, handleSIGINT: handles, handleSIGTERM: handles })
      .catch((error) => {
        throw new HeadlessError(`the browser ${found.executablePath} did not start: ${firstLine(error)}`);
      });
    const page = await HeadlessPage.open(browser, { origin: server.origin, modules, found, print: options.console });
    return await body(page);
  } finally {
    // A browser whose GPU process hangs may not answer a close either; it dies with this process then.
    if (browser) await Promise.race([browser.close().catch(() => {}), sleep(10000)]);
    await server.close();
  }
}

const PAGE = "<!doctype html><meta charset=utf-8><link rel=icon href=data:,><title>headless</title>";

async function serve(modules, routes = {}) {
  const prefixes = Object.keys(routes).sort((a, b) => b.length - a.length);
  const answer = async (request, response) => {
    const url = new URL(request.url ?? "/", "http://127.0.0.1");
    const prefix = prefixes.find((p) => url.pathname === p || url.pathname.startsWith(`${p}/`));
    if (prefix !== undefined) return routes[prefix](request, response, url);
    const isPage = url.pathname === "/__headless";
    const text = isPage ? PAGE : await modules.codeAt(url.pathname);
    response.statusCode = text === null ? 404 : 200;
    response.setHeader("Content-Type", isPage ? "text/html" : "text/javascript");
    response.end(text);
  };
  const http = createServer((request, response) => {
    for (const [name, value] of Object.entries(ISOLATION_HEADERS)) response.setHeader(name, value);
    answer(request, response).catch((error) => {
      if (!response.headersSent) response.statusCode = 500;
      response.end(firstLine(error));
    });
  });
  await new Promise((done, failed) => http.once("error", failed).listen(0, "127.0.0.1", done));
  return {
    origin: `http://127.0.0.1:${http.address().port}`,
    async close() {
      http.closeAllConnections();
      await new Promise((done) => http.close(done));
    },
  };
}

/** One page of the served project. See the top of the file. */
class HeadlessPage {
  /** For what this class does not offer: Playwright's page. */
  page;
  origin;
  /** What findBrowser() found, and the browser's version: for reports. */
  browser;
  #browser;
  #modules;
  #print;
  /** Rejects when the tab or the browser dies. */
  #died;
  #reports = new Map();
  #nextCall = 1;

  static async open(browser, { origin, modules, found, print }) {
    const self = new HeadlessPage();
    self.#modules = modules;
    self.origin = origin;
    self.browser = { ...found, version: browser.version() };
    self.#browser = browser;
    self.#print = print ?? ((type, text) => process.stderr.write(`[page ${type}] ${text}\n`));
    await self.#newTab();
    return self;
  }

  /** Leaves the tab, whatever it is doing, and goes on in a fresh one. */
  async reopen() {
    const left = this.page;
    await this.#newTab();
    // A tab in an endless loop does not answer; it goes with the browser then.
    await Promise.race([left.close().catch(() => {}), sleep(3000)]);
  }

  async #newTab() {
    const page = await this.#browser.newPage();
    this.page = page;
    this.#died = new Promise((_, reject) => {
      page.on("crash", () => reject(new HeadlessError("the browser tab crashed (out of memory?).")));
      this.#browser.on("disconnected", () => reject(new HeadlessError("the browser ended unexpectedly.")));
    });
    this.#died.catch(() => {});
    page.on("console", (message) => this.#print(message.type(), message.text()));
    page.on("pageerror", (error) => {
      void this.sourceStack(error.stack ?? error.message).then((text) => this.#print("error", text));
    });
    await page.exposeFunction("__report", (call, value) => this.#reports.get(call)?.(value));
    await page.goto(`${this.origin}/__headless`);
  }

  /** URL under which the page can `import()` the module in `file`. */
  fileUrl(file) {
    return this.#modules.pathOf(resolve(file));
  }

  /** The stack of an error of the page, in terms of the sources. */
  sourceStack(stack) {
    return this.#modules.toSource(stack);
  }

  /**
   * Calls `exportName(...args, report)` of a project module (path relative to the project's root).
   * @throws {PageError} what the function threw; {HeadlessError} time-out or crash.
   */
  async call(modulePath, exportName, args = [], { onProgress, timeoutMs = 600000, stallMs = 120000 } = {}) {
    const id = this.#nextCall++;
    const watch = new Watch(`${exportName} in the page`, timeoutMs, stallMs);
    this.#reports.set(id, (value) => {
      watch.alive();
      onProgress?.(value);
    });
    try {
      const answer = await Promise.race([
        this.page.evaluate(runInPage, { url: this.fileUrl(resolve(ROOT, modulePath)), exportName, args, id }),
        this.#died,
        watch.expired,
      ]);
      if (answer.error) {
        const { stack = "", ...fields } = answer.error;
        throw new PageError({ ...fields, stack: await this.sourceStack(stack) });
      }
      return answer.value;
    } catch (error) {
      // Playwright's own errors (a page closed under the call) carry a call log that tells the user nothing.
      if (error instanceof PageError || error instanceof HeadlessError) throw error;
      throw new HeadlessError(firstLine(error));
    } finally {
      watch.stop();
      this.#reports.delete(id);
    }
  }
}

/** Serialised and run in the page. */
async function runInPage({ url, exportName, args, id }) {
  try {
    const module = await import(url);
    if (typeof module[exportName] !== "function") throw new TypeError(`${url} exports no function ${exportName}`);
    const value = await module[exportName](...args, (progress) => void globalThis.__report(id, progress));
    return { value };
  } catch (error) {
    if (!(error instanceof Error)) return { error: { name: "Error", message: String(error) } };
    return { error: { name: error.name, message: error.message, code: error.code, stack: error.stack } };
  }
}

/** Two time limits: for the whole call, and for the silence between two signs of life. */
class Watch {
  expired;
  #total;
  #stall;

  constructor(what, timeoutMs, stallMs) {
    this.expired = new Promise((_, reject) => {
      const fail = (text) => () => reject(new HeadlessError(text));
      this.#total = setTimeout(fail(`${what} took longer than ${seconds(timeoutMs)}.`), timeoutMs);
      this.#stall = setTimeout(fail(`${what} gave no sign of life for ${seconds(stallMs)}.`), stallMs);
    });
    this.expired.catch(() => {});
  }

  alive() {
    this.#stall.refresh();
  }

  stop() {
    clearTimeout(this.#total);
    clearTimeout(this.#stall);
  }
}

function seconds(ms) {
  return `${Math.round(ms / 1000)} s`;
}

function firstLine(error) {
  return String(error?.message ?? error).split("\n", 1)[0];
}

function sleep(ms) {
  return new Promise((done) => setTimeout(done, ms).unref());
}
