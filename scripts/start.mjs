/**
 * npm start [-- --port N] [--no-open]
 *
 * Builds the page when a source is newer than the last build, serves it, prints the URL, and opens a browser where
 * there is a display. Ctrl-C ends it.
 */
import { spawn } from "node:child_process";
import { existsSync, readdirSync, statSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { findBrowser, GPU_ARGS, HARDWARE_ARGS } from "./browser.mjs";
import { ROOT } from "./bundle.mjs";
import { integer, main, parse, print, UsageError } from "./cli.mjs";

const PAGE = join(ROOT, "dist", "page");
/** What the page is made of. */
const SOURCES = ["src", "shaders", "index.html", "package.json", "vite.config.ts"];
const DEFAULT_PORT = 5173;

await main(async () => {
  const { values: options } = parse({
    options: { port: { type: "string" }, "no-open": { type: "boolean", default: false } },
  });
  const port = options.port === undefined ? DEFAULT_PORT : integer("--port", options.port, { min: 1, max: 65535 });
  const { build, preview } = await import("vite");
  if (isStale()) {
    print("building the page");
    await build({ root: ROOT, logLevel: "warn" });
  }
  const server = await preview({
    root: ROOT,
    logLevel: "warn",
    preview: { host: "127.0.0.1", port, strictPort: options.port !== undefined },
  }).catch((error) => {
    throw new UsageError(`the page cannot be served: ${error.message}.`);
  });
  const url = server.resolvedUrls.local[0];
  print(`the workbench is at ${url}  (Ctrl-C stops)`);
  const browser = options["no-open"] ? null : await openBrowser(url);
  await stopSignal();
  browser?.kill();
  await server.close();
  process.exit(0);
});

function isStale() {
  const built = newest(PAGE);
  return built === 0 || SOURCES.some((source) => newest(join(ROOT, source)) > built);
}

/** The latest modification time below `path`, 0 when there is nothing. */
function newest(path) {
  if (!existsSync(path)) return 0;
  const stat = statSync(path);
  if (!stat.isDirectory()) return stat.mtimeMs;
  return Math.max(0, ...readdirSync(path).map((name) => newest(join(path, name))));
}

/** A window of its own profile, with WebGPU switched on where it is not by default. Null where there is no display. */
async function openBrowser(url) {
  const hasDisplay = process.platform !== "linux" || process.env.DISPLAY || process.env.WAYLAND_DISPLAY;
  if (!hasDisplay) return null;
  const found = await findBrowser({ install: false }).catch(() => null);
  if (found === null) {
    print(
      "no Chrome or Chromium found here: open the URL in one (on Linux with --enable-unsafe-webgpu --enable-features=Vulkan)",
    );
    return null;
  }
  // Flags count only for a browser that is not running yet, hence the profile.
  const profile = await mkdtemp(join(tmpdir(), "webgpu-svm-"));
  const args = (found.adapter === "hardware" ? HARDWARE_ARGS : GPU_ARGS).filter(
    (arg) => arg !== "--disable-vulkan-surface",
  );
  const child = spawn(found.executablePath, [...args, `--user-data-dir=${profile}`, url], { stdio: "ignore" });
  child.on("error", () => print("the browser did not start: open the URL by hand"));
  child.on("exit", () => void rm(profile, { recursive: true, force: true }));
  return child;
}

function stopSignal() {
  return new Promise((stop) => {
    process.once("SIGINT", stop);
    process.once("SIGTERM", stop);
  });
}
