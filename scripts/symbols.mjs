/**
 * Writes docs/symbols.md from the `@kernel` tags of the doc comments: for every kernel symbol the place where this
 * project has it. `--check` compares instead of writing and exits with 1 when the file is stale.
 *
 * A tag lists symbols separated by commas; prose after a colon or a full stop is a remark on the last one.
 */
import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { LAYERS } from "./layers.mjs";

const ROOT = dirname(dirname(fileURLToPath(import.meta.url)));
const TARGET = join(ROOT, "docs", "symbols.md");

const TITLES = {
  base: "Foundations",
  abi: "Layouts shared with WGSL",
  hal: "Hardware interface",
  mm: "CPU memory manager",
  pagemap: "Device page maps (drm_pagemap)",
  gpusvm: "GPU SVM (drm_gpusvm)",
  gpuvm: "GPU VA manager (drm_gpuvm)",
  vram: "Device memory (drm_buddy, TTM)",
  driver: "Reference driver (modelled on Xe)",
};

/** Every tagged declaration: `{ layer, symbol, ours, file }`. */
export function collectSymbols(root = ROOT) {
  const found = [];
  for (const layer of Object.keys(LAYERS)) {
    for (const file of filesOf(join(root, "src", layer))) {
      found.push(...symbolsOf(readFileSync(file, "utf8")).map((s) => ({ layer, file: relative(root, file), ...s })));
    }
  }
  return found;
}

function filesOf(folder) {
  const entries = readdirSync(folder, { withFileTypes: true }).sort((a, b) => (a.name < b.name ? -1 : 1));
  return entries.flatMap((entry) => {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) return filesOf(path);
    return /\.tsx?$/.test(entry.name) ? [path] : [];
  });
}

function symbolsOf(text) {
  const found = [];
  for (const match of text.matchAll(/\/\*\*((?:(?!\*\/)[\s\S])*?@kernel(?:(?!\*\/)[\s\S])*)\*\//g)) {
    const ours = declarationAfter(text, match.index, match.index + match[0].length);
    // A blank line ends a tag: what follows it is prose.
    const comment = match[1]
      .replace(/^\s*\*[ \t]*$/gm, "@")
      .replace(/^\s*\*/gm, " ")
      .replace(/\s+/g, " ");
    for (const [, tag] of comment.matchAll(/@kernel ([^@]*)/g)) {
      for (const symbol of namesIn(tag)) found.push({ symbol, ours });
    }
  }
  return found;
}

/** `"mmgrab, mmdrop: the structure"` names two symbols; a name stops at the first thing that cannot be in one. */
function namesIn(tag) {
  const names = [];
  for (const part of tag.split(/[,;]\s*/)) {
    const name = /^(?:the constructor is |struct |__)?[A-Za-z_][\w>.-]*/.exec(part.trim())?.[0];
    if (name === undefined) break;
    names.push(name.replace(/^(?:the constructor is |struct )/, "").replace(/[.>-]+$/, ""));
    if (/[:.](?:\s|$)|…/.test(part.trim())) break;
  }
  return names;
}

/** `GpuSvm.rangeFind`: the declaration behind the comment and the class or interface around it. */
function declarationAfter(text, start, end) {
  const after = text.slice(end).trimStart();
  const line = after.split("\n", 1)[0];
  const top =
    /^(?:export )?(?:declare )?(?:async )?(?:abstract )?(?:class|interface|function\*?|const|let|type)\s+([\w$]+)/.exec(
      line,
    );
  if (top) return top[1];
  const member = /^(?:readonly |static |async |get |set |override |private |\*)*(#?[\w$]+)/.exec(line)?.[1];
  const owners = [...text.slice(0, start).matchAll(/^(?:export )?(?:abstract )?(?:class|interface)\s+([\w$]+)/gm)];
  const owner = owners.at(-1)?.[1];
  if (member === undefined || /^(import|export)$/.test(member)) return owner ?? "(file)";
  return owner === undefined ? member : `${owner}.${member === "constructor" ? "constructor" : member}`;
}

export function renderSymbols(symbols = collectSymbols()) {
  const lines = [
    "# Kernel symbols and where they are here",
    "",
    "Generated from the `@kernel` tags of the doc comments (`node scripts/symbols.mjs`); the comment at each place says how",
    "it differs, where it does.",
  ];
  for (const layer of Object.keys(LAYERS)) {
    const rows = symbols.filter((s) => s.layer === layer);
    if (rows.length === 0) continue;
    rows.sort((a, b) => (a.symbol < b.symbol ? -1 : a.symbol > b.symbol ? 1 : 0));
    lines.push("", `## ${TITLES[layer] ?? layer}`, "", "| kernel | here | file |", "| --- | --- | --- |");
    for (const { symbol, ours, file } of rows)
      lines.push(`| \`${symbol}\` | \`${ours}\` | ${file.replaceAll("\\", "/")} |`);
  }
  return lines.join("\n") + "\n";
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  const text = renderSymbols();
  if (process.argv.includes("--check")) {
    let written = "";
    try {
      written = readFileSync(TARGET, "utf8");
    } catch {
      // Reported as stale below.
    }
    if (written !== text) {
      process.stderr.write("docs/symbols.md is stale: run node scripts/symbols.mjs\n");
      process.exitCode = 1;
    }
  } else {
    writeFileSync(TARGET, text);
  }
}
