/**
 * Checks source files against the table of layers: which file imports across an arrow that does not exist, names a
 * WebGPU object outside `device`, or brings a clock or a random source below `machine`.
 *
 * The compiler sees most of this already (project references, libs); this names the edge, and sees what the compiler
 * cannot: workers made from a URL, `Date.now` (part of the language), packages.
 */
import { readdirSync, readFileSync } from "node:fs";
import { join, posix, relative, sep } from "node:path";
import { parseSync } from "vite";
import { DETERMINISTIC_LAYERS, GPU_LAYER, LAYERS } from "./layers.mjs";

/** Packages from the registry that a layer may import; the core needs none. */
export const PACKAGES = {
  worker: ["comlink"],
  app: [
    "comlink",
    "preact",
    "preact/hooks",
    "preact/jsx-runtime",
    "@preact/signals",
    "uplot",
    "uplot/dist/uPlot.min.css",
  ],
};

/** `GPU`, `GPUDevice`, `GPUBufferUsage`; not the kernel's constants `GPUVA_OP_MAP`, `GPUVM_IMMEDIATE_MODE`. */
const WEBGPU_NAME = /^GPU([A-Z][a-z]\w*)?$/;

/** Clocks and random sources, as `object.property`. */
const UNREPEATABLE = ["Date.now", "Math.random", "performance.now", "crypto.getRandomValues", "crypto.randomUUID"];

/** Every TypeScript file below `root`/src, as `{ path: "src/mm/vma.ts", text }`. */
export function sourceFiles(root) {
  return readdirSync(join(root, "src"), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && /\.tsx?$/.test(entry.name))
    .map((entry) => join(entry.parentPath, entry.name))
    .map((file) => ({ path: relative(root, file).split(sep).join("/"), text: readFileSync(file, "utf8") }));
}

/**
 * One line per violation, `src/mm/vma.ts:12: ...`; empty when the file keeps the rules.
 * @param {{ path: string, text: string }} file
 * @returns {string[]}
 */
export function violations({ path, text }) {
  const [, layer, file] = path.split("/");
  if (file === undefined || !(layer in LAYERS)) return [`${path}: is in no layer of scripts/layers.mjs`];
  const parsed = parseSync(path, text);
  if (parsed.errors.length > 0) return [`${path}: ${parsed.errors[0].message}`];
  const found = [];
  const report = (node, what) => found.push(`${path}:${text.slice(0, node.start).split("\n").length}: ${what}`);
  visit(parsed.program, (node) => {
    const specifier = importedBy(node);
    if (specifier !== null) {
      const problem = edgeProblem(path, layer, specifier);
      if (problem !== null) report(node, problem);
    }
    if (node.type === "Identifier" && WEBGPU_NAME.test(node.name) && layer !== GPU_LAYER) {
      report(node, `${node.name} is named outside src/${GPU_LAYER}`);
    }
    if (DETERMINISTIC_LAYERS.includes(layer)) {
      const source = unrepeatable(node);
      if (source !== null) report(node, `${source} in ${layer}, which must give the same events every time`);
    }
  });
  return found;
}

/** The module that a node brings in: an import, a re-export, `import()`, an import type, `new URL(x, import.meta.url)`. */
function importedBy(node) {
  switch (node.type) {
    case "ImportDeclaration":
    case "ExportAllDeclaration":
    case "ExportNamedDeclaration":
    case "ImportExpression":
    case "TSImportType":
      return typeof node.source?.value === "string" ? node.source.value : null;
    case "NewExpression":
      return node.callee.name === "URL" && node.arguments[1]?.object?.type === "MetaProperty"
        ? (node.arguments[0].value ?? null)
        : null;
    default:
      return null;
  }
}

function edgeProblem(path, layer, specifier) {
  const bare = specifier.replace(/\?.*$/, "");
  if (!bare.startsWith(".")) {
    return (PACKAGES[layer] ?? []).includes(bare) ? null : `${layer} imports the package ${bare}`;
  }
  const target = posix.join(posix.dirname(path), bare);
  // Shader text has no layer; what the text may do is checked where it is compiled. Nor has a published schema.
  if (target.startsWith("shaders/") || target.endsWith(".schema.json")) return null;
  const [top, other, rest] = target.split("/");
  if (top !== "src" || rest === undefined) return `${layer} imports ${target}, which is in no layer`;
  return other === layer || LAYERS[layer].includes(other) ? null : `${layer} imports ${other} (${target})`;
}

function unrepeatable(node) {
  if (node.type === "MemberExpression") {
    const name = `${node.object.name ?? node.object.property?.name}.${node.property.name ?? node.property.value}`;
    return UNREPEATABLE.includes(name) ? name : null;
  }
  return node.type === "NewExpression" && node.callee.name === "Date" && node.arguments.length === 0
    ? "new Date()"
    : null;
}

function visit(node, see) {
  if (Array.isArray(node)) {
    for (const item of node) visit(item, see);
  } else if (node !== null && typeof node === "object") {
    if (typeof node.type === "string") see(node);
    for (const key in node) {
      if (typeof node[key] === "object") visit(node[key], see);
    }
  }
}
