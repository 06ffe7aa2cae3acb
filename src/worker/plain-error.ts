import type { PlainError } from "./protocol.ts";

/** An error with all its fields, in a form that crosses the worker boundary. */
export function toPlainError(error: unknown): PlainError {
  if (!(error instanceof Error)) return { name: "Error", code: "Error", message: String(error), detail: {} };
  const detail: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(error)) {
    if (key !== "name" && key !== "code" && cloneable(value)) detail[key] = value;
  }
  const code = "code" in error && typeof error.code === "string" ? error.code : error.name;
  return { name: error.name, code, message: error.message, detail };
}

function cloneable(value: unknown): boolean {
  if (value === null || ["string", "number", "boolean"].includes(typeof value)) return true;
  if (typeof value !== "object") return false;
  return Object.values(value).every(cloneable);
}
