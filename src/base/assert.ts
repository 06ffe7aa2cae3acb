/** A broken invariant: a bug in this project. Thrown, never caught inside the stack. */
export class InvariantError extends Error {
  override readonly name = "InvariantError";
}

/** For what must hold whatever the caller did. The message may be lazy where building it costs. */
export function assert(condition: unknown, message: string | (() => string)): asserts condition {
  if (!condition) throw new InvariantError(typeof message === "string" ? message : message());
}
