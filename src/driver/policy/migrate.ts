import { ACCESS_READ } from "../../abi/fault.ts";
import type { MigrateName, MigratePolicy } from "./policy.ts";

/** On the first fault. */
const FAULT: MigratePolicy = { name: "fault", onFault: () => "move" };

/** Reads map in place, without the right to write; the first write, which therefore faults, moves. */
const WRITE: MigratePolicy = {
  name: "write",
  onFault: ({ access }) => (access === ACCESS_READ ? "stay-read-only" : "move"),
};

/** Only on request. */
const NEVER: MigratePolicy = { name: "never", onFault: () => "stay" };

/** None of them remembers anything. */
export function migratePolicy(name: MigrateName): MigratePolicy {
  return name === "fault" ? FAULT : name === "write" ? WRITE : NEVER;
}
