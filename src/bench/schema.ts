import { assert } from "../base/assert.ts";

/**
 * The part of JSON Schema 2020-12 that docs/bench-result.schema.json uses. A keyword that is not known here is a broken
 * invariant, not a constraint that is silently left out.
 */
export interface Schema {
  readonly [keyword: string]: unknown;
}

const ANNOTATIONS = ["$schema", "$defs", "title", "description"];

/** Null, or where `value` breaks the schema, and what is wanted there: `"rows[3].ms.median: a number is wanted"`. */
export function schemaProblem(schema: Schema, value: unknown, root: Schema = schema, at = ""): string | null {
  for (const keyword of Object.keys(schema)) {
    if (ANNOTATIONS.includes(keyword)) continue;
    const check = CHECKS[keyword];
    assert(check !== undefined, () => `the schema keyword ${keyword} is not known`);
    const problem = check(schema[keyword], value, { schema, root, at });
    if (problem !== null) return problem;
  }
  return null;
}

interface Place {
  readonly schema: Schema;
  readonly root: Schema;
  readonly at: string;
}

type Check = (wanted: unknown, value: unknown, place: Place) => string | null;

const CHECKS: Readonly<Record<string, Check>> = {
  type(wanted, value, { at }) {
    const types = Array.isArray(wanted) ? (wanted as string[]) : [wanted as string];
    return types.some((type) => isOfType(type, value)) ? null : wrong(at, types.join(" or "));
  },
  const: (wanted, value, { at }) => (value === wanted ? null : wrong(at, JSON.stringify(wanted))),
  enum: (wanted, value, { at }) =>
    (wanted as unknown[]).includes(value) ? null : wrong(at, `one of ${(wanted as unknown[]).join(", ")}`),
  minimum: (wanted, value, { at }) =>
    typeof value !== "number" || value >= (wanted as number) ? null : wrong(at, `at least ${wanted as number}`),
  pattern: (wanted, value, { at }) =>
    typeof value !== "string" || new RegExp(wanted as string, "u").test(value)
      ? null
      : wrong(at, `${wanted as string}`),
  required(wanted, value, { at }) {
    if (!isObject(value)) return null;
    const missing = (wanted as string[]).find((name) => !Object.hasOwn(value, name));
    return missing === undefined ? null : `${at === "" ? "the result" : at} has no ${missing}`;
  },
  properties(wanted, value, { root, at }) {
    if (!isObject(value)) return null;
    return first(Object.entries(wanted as Record<string, Schema>), ([name, schema]) =>
      Object.hasOwn(value, name) ? schemaProblem(schema, value[name], root, at === "" ? name : `${at}.${name}`) : null,
    );
  },
  additionalProperties(wanted, value, { schema, root, at }) {
    if (!isObject(value)) return null;
    const known = Object.keys((schema["properties"] as object | undefined) ?? {});
    return first(Object.keys(value), (name) => {
      if (known.includes(name)) return null;
      if (wanted === false) return `${at}.${name} is not known`;
      return schemaProblem(wanted as Schema, value[name], root, `${at}.${name}`);
    });
  },
  items(wanted, value, { root, at }) {
    if (!Array.isArray(value)) return null;
    return first([...value.entries()], ([i, item]) => schemaProblem(wanted as Schema, item, root, `${at}[${i}]`));
  },
  anyOf(wanted, value, { root, at }) {
    const problems = (wanted as Schema[]).map((schema) => schemaProblem(schema, value, root, at));
    // The last alternative is the one with the most to say.
    return problems.includes(null) ? null : problems.at(-1)!;
  },
  $ref(wanted, value, { root, at }) {
    const name = (wanted as string).replace("#/$defs/", "");
    const target = (root["$defs"] as Record<string, Schema>)[name];
    assert(target !== undefined, () => `the schema has no ${wanted as string}`);
    return schemaProblem(target, value, root, at);
  },
};

function isOfType(type: string, value: unknown): boolean {
  if (type === "null") return value === null;
  if (type === "array") return Array.isArray(value);
  if (type === "object") return isObject(value);
  if (type === "integer") return Number.isInteger(value);
  return typeof value === type;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function wrong(at: string, wanted: string): string {
  return `${at === "" ? "the result" : at}: ${wanted} is wanted`;
}

function first<T>(items: readonly T[], problem: (item: T) => string | null): string | null {
  for (const item of items) {
    const found = problem(item);
    if (found !== null) return found;
  }
  return null;
}
