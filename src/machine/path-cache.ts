import type { PathCache } from "../device/index.ts";

/** The part of the browser's cache storage that is used: pages and workers have it, in secure contexts. */
interface Host {
  readonly caches?: {
    open(name: string): Promise<{
      match(url: string): Promise<{ text(): Promise<string> } | undefined>;
      put(url: string, response: unknown): Promise<void>;
    }>;
  };
  readonly Response: new (text: string) => unknown;
}
const host = globalThis as unknown as Host;

const NAME = "webgpu-svm";
/** For browsers and contexts without. */
const memory = new Map<string, string>();

/** Calibrations by adapter and browser, kept in the browser. */
export const pathCache: PathCache = {
  async get(key) {
    const kept = memory.get(key);
    if (kept !== undefined || host.caches === undefined) return kept ?? null;
    const response = await (await host.caches.open(NAME)).match(urlOf(key));
    return response === undefined ? null : response.text();
  },
  async put(key, text) {
    memory.set(key, text);
    if (host.caches === undefined) return;
    await (await host.caches.open(NAME)).put(urlOf(key), new host.Response(text));
  },
};

/** The storage's keys are addresses; this one is never asked for. */
function urlOf(key: string): string {
  return `https://webgpu-svm.invalid/copy-paths?${encodeURIComponent(key)}`;
}
