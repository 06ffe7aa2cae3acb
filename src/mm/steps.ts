/** Lives in base, where device memory needs it too. */
export { type Steps, run, wait } from "../base/steps.ts";
