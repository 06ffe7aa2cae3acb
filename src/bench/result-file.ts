import { ConfigError } from "../base/errors.ts";
import schemaText from "../../docs/bench-result.schema.json?raw";
import type { BenchResult } from "./result.ts";
import { type Schema, schemaProblem } from "./schema.ts";

/** The published schema. */
export const RESULT_SCHEMA = JSON.parse(schemaText) as Schema;

/** The result in a file's text. @throws ConfigError that says where `name` is no result. */
export function parseResult(text: string, name: string): BenchResult {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new ConfigError(name, "is no JSON file");
  }
  const problem = schemaProblem(RESULT_SCHEMA, value);
  if (problem !== null) throw new ConfigError(name, `is no benchmark result of version 1: ${problem}`);
  return value as BenchResult;
}
