/**
 * Finds a Chrome or Chromium that can run WebGPU, and the flags to start it with.
 *
 * Overview. `findBrowser()` answers `{ executablePath, args, adapter }` for Playwright's `chromium.launch`. It looks at
 * CHROME_PATH, then at the usual places of an installed browser; where there is none it installs one: Debian's
 * `chromium` when it runs there as root, else Playwright's own download. What it found is left in the environment, so
 * that child processes (test workers) need not search again.
 *
 * Adapter. A machine with a GPU runs on it when its browser offers a WebGPU adapter there; every other machine runs on
 * SwiftShader, the software adapter inside Chromium. SVM_ADAPTER=hardware or =software overrides the choice.
 */
import { execFile, spawnSync } from "node:child_process";
import { accessSync, constants, existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { delimiter, join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const ROOT = fileURLToPath(new URL("..", import.meta.url));

/** Flags that every run takes: WebGPU on, and no traffic or dialog of the browser's own. */
const COMMON_ARGS = [
  "--enable-unsafe-webgpu",
  "--enable-features=Vulkan",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--no-first-run",
  // A container's /dev/shm is often 64 MiB, and the tab dies when it is full; /tmp serves as well.
  ...(process.platform === "linux" ? ["--disable-dev-shm-usage"] : []),
  // Chromium refuses to start its sandbox as root.
  ...(process.getuid?.() === 0 ? ["--no-sandbox"] : []),
];

/**
 * Flags for the software adapter. Dawn and the compositor must both run on Vulkan-SwiftShader: with less than this set
 * the first frame of a WebGPU canvas kills the GPU process.
 */
export const GPU_ARGS = [...COMMON_ARGS, "--use-vulkan=swiftshader", "--use-angle=swiftshader"];

/** Flags for a real adapter without a display; Vulkan is what Dawn and ANGLE share on Linux. */
export const HARDWARE_ARGS =
  process.platform === "linux" ? [...COMMON_ARGS, "--use-angle=vulkan", "--disable-vulkan-surface"] : COMMON_ARGS;

const HOW_TO_GET_ONE =
  "Install Google Chrome or Chromium (Debian: apt-get install chromium), or set CHROME_PATH to its executable.";

/** No usable browser; the message is one sentence on what to do. */
export class NoBrowserError extends Error {
  name = "NoBrowserError";
}

/**
 * @param {{ adapter?: "auto" | "hardware" | "software", install?: boolean }} [options] `install` false: only look.
 * @returns {Promise<{ executablePath: string, args: string[], adapter: "hardware" | "software" }>}
 * @throws {NoBrowserError}
 */
export async function findBrowser(options = {}) {
  const executablePath =
    fromEnvironment() ??
    (await installed()) ??
    (await downloaded()) ??
    (options.install === false ? null : await install());
  if (executablePath === null) throw new NoBrowserError(`no Chrome or Chromium found. ${HOW_TO_GET_ONE}`);
  const adapter = await chooseAdapter(executablePath, options.adapter ?? process.env.SVM_ADAPTER ?? "auto");
  process.env.CHROME_PATH = executablePath;
  process.env.SVM_ADAPTER = adapter;
  return { executablePath, args: adapter === "hardware" ? HARDWARE_ARGS : GPU_ARGS, adapter };
}

function fromEnvironment() {
  const path = process.env.CHROME_PATH;
  if (path === undefined || path === "") return null;
  if (!isExecutable(path)) throw new NoBrowserError(`CHROME_PATH is ${path}, which is not an executable file.`);
  return path;
}

/** The first installed browser that starts. */
async function installed() {
  for (const path of candidates()) if (isExecutable(path) && (await starts(path))) return path;
  return null;
}

function candidates() {
  if (process.platform === "darwin") {
    const apps = ["Google Chrome", "Chromium", "Google Chrome Canary", "Microsoft Edge"];
    const roots = ["/Applications", join(process.env.HOME ?? "", "Applications")];
    return roots.flatMap((root) => apps.map((app) => join(root, `${app}.app`, "Contents", "MacOS", app)));
  }
  if (process.platform === "win32") {
    const roots = [process.env.PROGRAMFILES, process.env["PROGRAMFILES(X86)"], process.env.LOCALAPPDATA];
    const tails = [
      "Google\\Chrome\\Application\\chrome.exe",
      "Chromium\\Application\\chrome.exe",
      "Microsoft\\Edge\\Application\\msedge.exe",
    ];
    return roots.filter((root) => root !== undefined).flatMap((root) => tails.map((tail) => join(root, tail)));
  }
  const names = ["google-chrome", "google-chrome-stable", "chromium", "chromium-browser"];
  const folders = [
    ...(process.env.PATH ?? "").split(delimiter).filter((dir) => dir !== ""),
    "/usr/bin",
    "/opt/google/chrome",
    "/snap/bin",
  ];
  return [...new Set(names.flatMap((name) => folders.map((dir) => join(dir, name))))];
}

/** Chromium that an earlier `playwright install chromium` left in Playwright's cache. */
async function downloaded() {
  const { chromium } = await import("playwright");
  const path = chromium.executablePath();
  return isExecutable(path) ? path : null;
}

function isExecutable(path) {
  try {
    accessSync(path, constants.X_OK);
    return statSync(path).isFile();
  } catch {
    return false;
  }
}

/** Ubuntu's `chromium-browser` outside snap is a script that only says to install the snap: ask before trusting. */
async function starts(path) {
  if (process.platform !== "linux") return true;
  // The caller has other things to do meanwhile.
  const { stdout } = await promisify(execFile)(path, ["--version"], { timeout: 20000 }).catch(() => ({ stdout: "" }));
  return /chrom/i.test(stdout);
}

async function install() {
  if (isDebianRoot()) {
    say("no browser found: installing Debian's chromium");
    const env = { ...process.env, DEBIAN_FRONTEND: "noninteractive" };
    // stdout belongs to the command that needs the browser, so apt's goes to stderr.
    const apt = (...args) => spawnSync("apt-get", args, { env, stdio: ["ignore", 2, 2] }).status === 0;
    apt("update");
    if (apt("install", "-y", "--no-install-recommends", "chromium")) {
      const path = await installed();
      if (path !== null) return path;
    }
  }
  say("no browser found: downloading Playwright's Chromium");
  // Libraries that the browser needs come with it where the package manager may be asked.
  const deps = process.platform === "linux" && process.getuid?.() === 0 ? ["--with-deps"] : [];
  const cli = join("node_modules", "playwright", "cli.js");
  const run = (args) =>
    spawnSync(process.execPath, [cli, "install", ...args, "--no-shell", "chromium"], {
      stdio: ["ignore", 2, 2],
      cwd: ROOT,
    });
  if (run(deps).status !== 0 && deps.length > 0) run([]);
  return downloaded();
}

function isDebianRoot() {
  if (process.platform !== "linux" || process.getuid?.() !== 0 || !existsSync("/etc/os-release")) return false;
  return (
    /^ID(_LIKE)?=.*(debian|ubuntu)/m.test(readFileSync("/etc/os-release", "utf8")) && existsSync("/usr/bin/apt-get")
  );
}

function say(text) {
  process.stderr.write(`${text}\n`);
}

async function chooseAdapter(executablePath, wanted) {
  if (wanted === "hardware" || wanted === "software") return wanted;
  if (wanted !== "auto") throw new NoBrowserError(`SVM_ADAPTER is ${wanted}; it may be auto, hardware or software.`);
  if (!mayHaveGpu()) return "software";
  return (await offersHardware(executablePath)) ? "hardware" : "software";
}

function mayHaveGpu() {
  if (process.platform !== "linux") return true;
  const nodes = existsSync("/dev/dri") ? readdirSync("/dev/dri") : [];
  return nodes.some((name) => name.startsWith("renderD")) || existsSync("/dev/nvidia0") || existsSync("/dev/dxg");
}

/** Starts the browser once and asks for an adapter that is not a fallback. */
async function offersHardware(executablePath) {
  const { chromium } = await import("playwright");
  let browser;
  try {
    browser = await chromium.launch({ executablePath, headless: true, args: HARDWARE_ARGS, timeout: 20000 });
    const page = await browser.newPage();
    // WebGPU exists in secure contexts only; localhost is one, about:blank is not.
    await page.route("http://localhost/", (route) =>
      route.fulfill({ contentType: "text/html", body: "<!doctype html>" }),
    );
    await page.goto("http://localhost/");
    const answer = page.evaluate(async () => {
      const adapter = await navigator.gpu?.requestAdapter();
      return adapter ? adapter.info.isFallbackAdapter !== true : false;
    });
    const late = new Promise((resolve) => setTimeout(resolve, 10000, false).unref());
    return await Promise.race([answer, late]);
  } catch {
    return false;
  } finally {
    await browser?.close();
  }
}
