/**
 * The modules that a headless page imports: bundles, because a browser takes a second to fetch the project's 340 modules
 * one by one, and 0.1 s for all of them in one file.
 *
 * Modules named together share what they import, as modules do in a page. One that is asked for later gets a bundle of
 * its own, with copies of what it imports.
 */
import { SourceMap } from "node:module";
import { basename, resolve } from "node:path";
import { bundle, ROOT, shortPath } from "./bundle.mjs";

const ROUTE = "/__modules/";

export class PageModules {
  /** Path of the URL of each known file. */
  #paths = new Map();
  /** Promises of the bundles: code and source maps by path, and why files are not there. Position: the number in the path. */
  #bundles = [];

  /** @param {string[]} files absolute paths of modules; their bundle is begun at once */
  constructor(files) {
    if (files.length > 0) this.#begin([...new Set(files)]);
  }

  /** Path of the URL of the module in `file`. A URL stays the same, so that a module is one in a page. */
  pathOf(file) {
    if (!this.#paths.has(file)) this.#begin([file]);
    return this.#paths.get(file);
  }

  /** The code at a path; null when it is no path of ours. A module that cannot be had is one that throws why. */
  async codeAt(path) {
    if (!path.startsWith(ROUTE)) return null;
    const [number, name] = path.slice(ROUTE.length).split("/");
    const loaded = await this.#bundles[number];
    const error = loaded?.errors.get(path);
    if (error !== undefined) return throwing(error);
    return loaded?.chunks.get(name)?.code ?? null;
  }

  /** `text`, a stack perhaps, with positions in sources in place of those in what was served. */
  async toSource(text) {
    const all = (await Promise.all(this.#bundles)).map(({ chunks }) => chunks);
    return text.replace(
      /http:\/\/[\d.:]+\/__modules\/(\d+)\/([^:\s]+):(\d+):(\d+)/g,
      (url, number, name, line, column) => {
        const chunk = all[number]?.get(name);
        const place = chunk && new SourceMap(chunk.map).findEntry(Number(line) - 1, Number(column) - 1);
        if (place?.originalSource === undefined) return url;
        return `${shortPath(resolve(ROOT, place.originalSource))}:${place.originalLine + 1}:${place.originalColumn + 1}`;
      },
    );
  }

  #begin(files) {
    const number = this.#bundles.length;
    const names = new Map(files.map((file, i) => [file, `${i}-${basename(file).replace(/\W+/g, "-")}`]));
    for (const [file, name] of names) this.#paths.set(file, `${ROUTE}${number}/${name}.js`);
    this.#bundles.push(this.#load(names));
  }

  async #load(names) {
    const { chunks, errors } = await bundleOrReasons(names);
    return {
      chunks: new Map(chunks.map((chunk) => [chunk.fileName, chunk])),
      errors: new Map([...errors].map(([file, error]) => [this.#paths.get(file), error])),
    };
  }
}

/** The chunks of the files in `names`, and why those that are not among them are not: one that is wrong leaves the others. */
async function bundleOrReasons(names) {
  try {
    const entries = Object.fromEntries([...names].map(([file, name]) => [name, file]));
    // No deliberate faults (src/base/mutation.ts).
    const define = { SVM_MUTATIONS: "false" };
    return { chunks: await bundle(entries, { platform: "browser", define }), errors: new Map() };
  } catch (error) {
    const errors = new Map();
    if (names.size > 1) for (const one of names) addAll(errors, (await bundleOrReasons(new Map([one]))).errors);
    // One alone, or each good by itself but not together.
    if (errors.size === 0) return { chunks: [], errors: new Map([...names.keys()].map((file) => [file, error])) };
    const good = new Map([...names].filter(([file]) => !errors.has(file)));
    if (good.size === 0) return { chunks: [], errors };
    const rest = await bundleOrReasons(good);
    return { chunks: rest.chunks, errors: addAll(errors, rest.errors) };
  }
}

function addAll(map, more) {
  for (const [key, value] of more) map.set(key, value);
  return map;
}

function throwing({ name, message }) {
  return `throw Object.assign(new Error(${JSON.stringify(message)}), { name: ${JSON.stringify(name)} });`;
}
