import { createReferenceGpu } from "../reference/reference-gpu.ts";
import type { Engine } from "./machine.ts";

/** The plain engine: the oracle of tests, and the fast one for exploring schedules. */
export const REFERENCE_ENGINE: Engine = { name: "reference", createGpu: createReferenceGpu };
