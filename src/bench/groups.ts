import { copyPaths } from "./copy-paths.ts";
import type { BenchGroup } from "./group.ts";
import { kernels } from "./kernels.ts";
import { mmLoops } from "./mm-loops.ts";
import { svmCosts } from "./svm.ts";
import { waits } from "./waits.ts";
import { systemWindow } from "./window.ts";

/** The benchmarks that run in a page, in the order of the report. */
export const GROUPS: readonly BenchGroup[] = [copyPaths, waits, svmCosts, systemWindow, kernels, mmLoops];
