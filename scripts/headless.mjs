/**
 * Runs functions of the project's page modules in headless Chrome, from Node.
 *
 * Overview. `withPage(body, options)` serves the project on 127.0.0.1 (a Vite dev server without file watching, so that
 * a run does not change under way), opens one empty, cross-origin isolated page, hands a `HeadlessPage` to `body`, and
 * closes everything again however `body` ends. Any TypeScript module of the project can be run: nothing is built.
 *
 * Example.
 *   import { withPage } from "./headless.mjs";
 *   const answer = await withPage(async (page) => {
 *     // imports /src/x/page.ts in the page and calls its export `run(args..., report)`.
 *     return page.call("src/x/page.ts", "run", [1, "two"], {
 *       onProgress: (value) => console.error(value), // what the page function passed to report(value)
 *       timeoutMs: 600000,                           // for the whole call
 *       stallMs: 120000,                             // longest time without a report
 *     });
 *   });
 *
 * The page function gets the arguments and, as the last one, `report(value): void`. Arguments, reports and the result
 * are JSON-like (typed arrays do not pass). Bulk bytes go over HTTP: `options.routes` adds handlers to the server
 * (`{ "/__demo/file": (request, response, url) => ... }`, the longest matching prefix wins) and the page fetches them.
 * `page.fileUrl(path)` is the URL from which the page may `import()` a module file; `options.files` lists the files
 * outside the project that the server may serve. `page.reopen()` goes on in a fresh tab after a time-out or a crash.
 *
 * Errors. An error thrown in the page arrives as a `PageError` with the `name`, `message`, `code` and stack it had
 * there. A call that takes too long, a crashed tab, a browser that died: `HeadlessError` with one sentence. Nothing
 * waits for ever. The page's console goes to stderr (`options.console` takes the lines instead).
 */
import { createServer as createHttpServer } from "node:http";
import { dirname, resolve, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { findBrowser } from "./browser.mjs";

export const ROOT = fileURLToPath(new URL("..", import.meta.url));

/** Cross-origin isolation: SharedArrayBuffer, and `performance.now()` in steps of 5 microseconds instead of 100. */
export const ISOLATION_HEADERS = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Cross-Origin-Resource-Policy": "same-origin",
};

/**
 * In place of Vite's client, which would open a web socket and reload the page under a run: the few functions of it
 * that served modules call.
 */
const CLIENT = `
export const injectQuery = (url) => url;
export const createHotContext = () => ({ accept() {}, dispose() {}, prune() {}, data: {} });
export const updateStyle = () => {};
export const removeStyle = () => {};
`;

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
 *   routes?: Record<string, (request, response, url: URL) => unknown>,
 *   files?: string[],
 *   console?: (type: string, text: string) => void,
 *   keepsOnInterrupt?: boolean,
 * }} [options] `keepsOnInterrupt`: the caller ends the run on SIGINT and SIGTERM itself, and the browser outlives them
 * @returns {Promise<T>}
 */
export async function withPage(body, options = {}) {
  const found = await findBrowser();
  const { chromium } = await import("playwright");
  const server = await serve(options);
  let browser;
  try {
    const handles = options.keepsOnInterrupt !== true;
    const { executablePath, args } = found;
    browser = await chromium
      .launch({ executablePath, args, headless: true, timeout: 60000, handleSIGINT: handles, handleSIGTERM: handles })
      .catch((error) => {
        throw new HeadlessError(`the browser ${found.executablePath} did not start: ${firstLine(error)}`);
      });
    const page = await HeadlessPage.open(browser, server, found, options);
    return await body(page);
  } finally {
    // A browser whose GPU process hangs may not answer a close either; it dies with this process then.
    if (browser) await Promise.race([browser.close().catch(() => {}), sleep(10000)]);
    await server.close();
  }
}

// Vite and Playwright take a second to load, so they are loaded when they are needed: a wrong option is answered at once.

async function serve({ routes = {}, files = [] }) {
  const { createLogger, createServer: createViteServer } = await import("vite");
  /** Why the last module could not be served. */
  let moduleError = null;
  const customLogger = createLogger("silent");
  customLogger.error = (message) => {
    moduleError = moduleErrorOf(message) ?? moduleError;
  };
  const vite = await createViteServer({
    root: ROOT,
    configFile: resolve(ROOT, "vite.config.ts"),
    appType: "custom",
    customLogger,
    // Discovering a dependency late would reload the page in the middle of a run; those used are ES modules anyway.
    optimizeDeps: { noDiscovery: true, include: [] },
    server: {
      middlewareMode: true,
      hmr: false,
      ws: false,
      watch: null,
      fs: { allow: [ROOT, ...files.map((file) => dirname(resolve(file)))] },
    },
  });
  const prefixes = Object.keys(routes).sort((a, b) => b.length - a.length);
  const http = createHttpServer((request, response) => {
    for (const [name, value] of Object.entries(ISOLATION_HEADERS)) response.setHeader(name, value);
    const url = new URL(request.url ?? "/", "http://127.0.0.1");
    if (url.pathname === "/__headless") {
      response.setHeader("Content-Type", "text/html");
      response.end("<!doctype html><meta charset=utf-8><link rel=icon href=data:,><title>headless</title>");
      return;
    }
    if (url.pathname === "/@vite/client") {
      response.setHeader("Content-Type", "text/javascript");
      response.end(CLIENT);
      return;
    }
    const prefix = prefixes.find((p) => url.pathname === p || url.pathname.startsWith(`${p}/`));
    if (prefix === undefined) {
      vite.middlewares(request, response);
      return;
    }
    Promise.resolve()
      .then(() => routes[prefix](request, response, url))
      .catch((error) => {
        if (!response.headersSent) response.statusCode = 500;
        response.end(firstLine(error));
      });
  });
  await new Promise((done, failed) => http.once("error", failed).listen(0, "127.0.0.1", done));
  return {
    origin: `http://127.0.0.1:${http.address().port}`,
    takeModuleError() {
      const error = moduleError;
      moduleError = null;
      return error;
    },
    async close() {
      http.closeAllConnections();
      await new Promise((done) => http.close(done));
      await vite.close();
    },
  };
}

/** `"src/x.ts:3:7: Failed to parse ..."` out of what Vite logs about a module; null for anything else. */
function moduleErrorOf(message) {
  // oxlint-disable-next-line no-control-regex -- colours
  const text = message.replace(/\x1b\[\d+m/g, "");
  const reason = /(?:Internal server error|Pre-transform error): (.*)/.exec(text)?.[1];
  if (reason === undefined) return null;
  const file = /File: (\S.*)/.exec(text)?.[1];
  return file === undefined ? reason : `${file.replace(ROOT, "")}: ${reason}`;
}

/** One page of the served project. See the top of the file. */
class HeadlessPage {
  /** For what this class does not offer: Playwright's page. */
  page;
  origin;
  /** What findBrowser() found, and the browser's version: for reports. */
  browser;
  #browser;
  #server;
  #print;
  /** Rejects when the tab or the browser dies. */
  #died;
  #reports = new Map();
  #nextCall = 1;

  static async open(browser, server, found, options) {
    const self = new HeadlessPage();
    self.#server = server;
    self.origin = server.origin;
    self.browser = { ...found, version: browser.version() };
    self.#browser = browser;
    self.#print = options.console ?? ((type, text) => process.stderr.write(`[page ${type}] ${text}\n`));
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
    page.on("pageerror", (error) => this.#print("error", error.stack ?? error.message));
    await page.exposeFunction("__report", (call, value) => this.#reports.get(call)?.(value));
    await page.goto(`${this.origin}/__headless`);
  }

  /** URL under which the page can `import()` the module in `file`. */
  fileUrl(file) {
    const path = resolve(file);
    const inside = path.startsWith(ROOT);
    const parts = (inside ? path.slice(ROOT.length) : path).split(sep).filter((part) => part !== "");
    return `${inside ? "/" : "/@fs/"}${parts.map(encodeURIComponent).join("/")}`;
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
      if (answer.error) throw this.#errorOf(answer.error);
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

  /** The browser does not tell why a module did not load; the server may know. */
  #errorOf(fields) {
    const known = this.#server.takeModuleError();
    const unloaded = known !== null && /module/.test(fields.message);
    return unloaded ? new HeadlessError(known) : new PageError(fields);
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
