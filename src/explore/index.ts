export { MUTATIONS, mutate } from "../base/mutation.ts";
export { CASES, programOf } from "./cases.ts";
export { describeProgram } from "./program.ts";
export { Explorer } from "./schedule.ts";
export { caseByName, explore, findMutation, runSeed } from "./search.ts";
export { shrink } from "./shrink.ts";
export { FAULTS } from "./faults.ts";
