import { describe, vi } from "vitest";
import { REFERENCE_ENGINE } from "../../src/machine/engine.ts";
import { devicesBehaviour } from "../devices-behaviour.ts";

vi.setConfig({ testTimeout: 30_000 });

describe("two devices on the reference engine", () => {
  devicesBehaviour(
    () => REFERENCE_ENGINE,
    Array.from({ length: 6 }, (_, i) => i + 1),
  );
});
