import { describe, expect, test } from "vitest";
import { createReferenceGpu } from "../../src/reference/reference-gpu.ts";
import { TILES_CONFIG, TILES_RAM, tileBehaviour } from "../tile-behaviour.ts";
import { tileTablesBehaviour } from "../tile-tables-behaviour.ts";

describe("three tiles on the reference engine", () => {
  tileBehaviour(async () => {
    const host = new Uint8Array(TILES_RAM);
    return { gpu: createReferenceGpu({ ...TILES_CONFIG, hostMemory: host }), host };
  });
});

const MIB = 1 << 20;

test.each([
  ["moreTiles", { moreTiles: [2 * MIB, 2 * MIB, 2 * MIB, 2 * MIB] }],
  ["moreTiles", { moreTiles: [3 * MIB] }],
  ["moreTiles", { moreTiles: [0] }],
  ["ptBytes", { moreTiles: [2 * MIB] }],
])("%s of the reference engine: %o is refused", (path, overrides) => {
  const config = { ...TILES_CONFIG, hostMemory: new Uint8Array(0), ...overrides };
  expect(() => createReferenceGpu(config)).toThrow(expect.objectContaining({ name: "ConfigError", path }));
});

describe("an address space over three tiles on the reference engine", () => {
  tileTablesBehaviour(async () => {
    const host = new Uint8Array(TILES_RAM);
    return { gpu: createReferenceGpu({ ...TILES_CONFIG, hostMemory: host }), host };
  });
});
