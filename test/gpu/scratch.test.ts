import { describe } from "vitest";
import { scratchBehaviour } from "../scratch-behaviour.ts";
import { LAYOUTS, bootGpu } from "./support.ts";

const USED = LAYOUTS.filter(({ name }) => name === "one bank" || name.startsWith("three segments"));

describe.each(USED)("scratch on $name", ({ config, options }) => {
  scratchBehaviour(() => bootGpu(config, options));
});
