import { describe, vi } from "vitest";
import { REFERENCE_ENGINE } from "../../src/machine/engine.ts";
import { machineTilesBehaviour } from "../machine-tiles-behaviour.ts";

vi.setConfig({ testTimeout: 30_000 });

describe("a device of two tiles on the reference engine", () => {
  machineTilesBehaviour(
    () => REFERENCE_ENGINE,
    Array.from({ length: 12 }, (_, i) => i + 1),
  );
});
