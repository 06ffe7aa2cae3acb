/** Files that a page sends to the command that opened it. */
import { writeFileSync } from "node:fs";
import { UsageError } from "./cli.mjs";

/**
 * Before a long run: the file can be written. It is empty until there is something to write.
 * @throws {UsageError}
 */
export function checkWritable(path) {
  try {
    writeFileSync(path, "");
  } catch (error) {
    throw new UsageError(`${path} cannot be written: ${error.message}`);
  }
}

/** What a request carries. */
export async function bodyOf(request) {
  const pieces = [];
  for await (const piece of request) pieces.push(piece);
  return Buffer.concat(pieces);
}
