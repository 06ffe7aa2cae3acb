import { describe, expect, it } from "vitest";
import { ConfigError } from "../../src/base/errors.ts";
import {
  checkTable,
  chooseWay,
  defaultTable,
  pinWays,
  SHAPES,
  shapeOf,
  WAY_DIRECTIONS,
  WAYS,
} from "../../src/device/path-choice.ts";
import type { PathTable } from "../../src/device/path-choice.ts";
import { CALIBRATED_BYTES, candidates, fitTable } from "../../src/device/path-fit.ts";
import type { Measurement } from "../../src/device/path-fit.ts";
import { ENGINE_PATHS } from "../../src/device/paths/auto.ts";

const KIB = 1024;
const MIB = 1024 * KIB;
const SOFTWARE = defaultTable(true);
const HARDWARE = defaultTable(false);

describe("the choice of a way", () => {
  it.each([
    [1, 1, "contiguous"],
    [16, 1, "contiguous"],
    [16, 2, "scattered"],
    [31, 2, "scattered"],
    [32, 2, "contiguous"],
    [512, 512, "scattered"],
    [512, 33, "scattered"],
    [512, 32, "contiguous"],
  ] as const)("%i pages in %i runs are %s", (pages, runs, shape) => expect(shapeOf(pages, runs)).toBe(shape));

  it.each([
    ["upload", 63, 1, "writeBuffer per run", "writeBuffer per run"],
    ["upload", 64, 1, "writeBuffer per run", "ring + copy per run"],
    ["upload", 1023, 1, "writeBuffer per run", "ring + copy per run"],
    ["upload", 1024, 1, "ring + copy per run", "ring + copy per run"],
    ["upload", 63, 63, "writeBuffer per run", "writeBuffer per run"],
    ["upload", 64, 64, "writeBuffer per run", "ring + scatter"],
    ["upload", 256, 256, "ring + copy per run", "ring + scatter"],
    ["readback", 64, 64, "copy per run + map", "gather + map, p/wg"],
    ["readback", 65536, 1, "copy per run + map", "copy per run + map"],
    ["readback", 8191, 8191, "copy per run + map", "gather + map, p/wg"],
    ["readback", 8192, 8192, "ring: copy + map", "ring: gather + map"],
    ["device", 1, 1, "copyBuffer per run", "compute, p/wg"],
    ["inside", 512, 1, "copyBuffer per run", "compute, p/wg"],
    ["fill", 31, 31, "writeBuffer of zeros", "clearBuffer per run"],
    ["fill", 32, 32, "writeBuffer of zeros", "compute fill"],
    ["fill", 127, 1, "writeBuffer of zeros", "clearBuffer per run"],
    ["fill", 128, 1, "clearBuffer per run", "clearBuffer per run"],
    ["fill", 4096, 1, "clearBuffer per run", "clearBuffer per run"],
  ] as const)(
    "%s of %i pages in %i runs by default: %s in software, %s on hardware",
    (direction, pages, runs, soft, hard) => {
      expect(chooseWay(SOFTWARE, direction, pages, runs)).toBe(soft);
      expect(chooseWay(HARDWARE, direction, pages, runs)).toBe(hard);
    },
  );

  it("is the pinned way for all lists, and leaves the other directions alone", () => {
    const table = pinWays({ upload: "ring + scatter" });
    for (const pages of [1, 512, 65536]) {
      expect(chooseWay(table, "upload", pages, 1)).toBe("ring + scatter");
      expect(chooseWay(table, "upload", pages, pages)).toBe("ring + scatter");
      expect(chooseWay(table, "device", pages, 1)).toBe("copyBuffer per run");
    }
  });

  it("names paths of the benchmark, each of which is there", () => {
    for (const direction of WAY_DIRECTIONS) {
      const paths = ENGINE_PATHS.filter((path) => path.direction === (direction === "inside" ? "device" : direction));
      expect(paths.map(({ name }) => name).sort()).toEqual([...WAYS[direction]].sort());
    }
  });
});

describe("a table from outside", () => {
  const withSteps = (steps: unknown) => ({ ...SOFTWARE, device: { ...SOFTWARE.device, scattered: steps } });

  it.each([SOFTWARE, HARDWARE])("is taken as it is, also from JSON", (table) => {
    expect(checkTable(JSON.parse(JSON.stringify(table)))).toEqual(table);
  });

  it.each([
    [null, "copyPaths.upload.contiguous"],
    [{}, "copyPaths.upload.contiguous"],
    [withSteps([]), "copyPaths.device.scattered"],
    [withSteps("compute, p/wg"), "copyPaths.device.scattered"],
    [withSteps([{ from: 0, way: "ring + scatter" }]), "copyPaths.device.scattered"],
    [withSteps([{ from: 4096, way: "compute, p/wg" }]), "copyPaths.device.scattered"],
    [
      withSteps([
        { from: 0, way: "compute, p/wg" },
        { from: 0, way: "compute, p/inv" },
      ]),
      "copyPaths.device.scattered",
    ],
    [withSteps([{ from: NaN, way: "compute, p/wg" }]), "copyPaths.device.scattered"],
  ])("is refused with the place of what is wrong: %j", (value, path) => {
    const refused = () => checkTable(value);
    expect(refused).toThrow(ConfigError);
    expect(refused).toThrow(path);
  });
});

/** Every candidate of a software adapter at every size, `ms` each. */
function measured(ms: (way: string, bytes: number) => number): Measurement[] {
  return SHAPES.flatMap((shape) =>
    CALIBRATED_BYTES.flatMap((bytes) =>
      candidates(shape, true).map(({ direction, way }) => {
        // Delays must not count.
        const samples = [7 * ms(way, bytes), ms(way, bytes), 2 * ms(way, bytes)];
        return { direction, way, shape, bytes, samples };
      }),
    ),
  );
}

describe("a table that is fitted to measurements", () => {
  it("changes the way where the lines cross, between the sizes that were measured", () => {
    // 0.2 ms + 1 ms/MiB against 1.3 ms + 0.2 ms/MiB: the second is quicker from 1.375 MiB on.
    const table = fitTable(
      measured((way, bytes) => (way.startsWith("writeBuffer") ? 0.2 + bytes / MIB : 1.3 + (0.2 * bytes) / MIB)),
      SOFTWARE,
    );
    expect(table.upload.contiguous).toEqual([
      { from: 0, way: "writeBuffer per run" },
      { from: 2 * MIB, way: "ring + copy per run" },
    ]);
    expect(table.fill.contiguous).toEqual([
      { from: 0, way: "writeBuffer of zeros" },
      { from: 2 * MIB, way: "clearBuffer per run" },
    ]);
  });

  it("leaves the default beyond the sizes that were measured only where the largest of them says so clearly", () => {
    const steps = (rate: number) =>
      fitTable(
        measured((way, bytes) => (way.startsWith("ring") ? bytes / MIB : (rate * bytes) / MIB)),
        pinWays({ upload: "writeBuffer per run" }),
      ).upload.contiguous.map(({ from, way }) => [from / MIB, way]);
    expect(steps(2.1)).toEqual([[0, "ring + copy per run"]]);
    expect(steps(1.9)).toEqual([
      [0, "ring + copy per run"],
      [8, "writeBuffer per run"],
    ]);
  });

  it("keeps the default where another way is hardly quicker", () => {
    const hardly = measured(
      (way, bytes) => (way.startsWith("copyBuffer") || way.startsWith("clear") ? 1.14 : 1) * bytes,
    );
    expect(fitTable(hardly, SOFTWARE).device).toEqual(SOFTWARE.device);
    const clearly = measured((way, bytes) => (way.startsWith("copyBuffer") ? 2.1 : 1) * bytes);
    expect(fitTable(clearly, SOFTWARE).device.scattered).toEqual([{ from: 0, way: "compute, p/inv" }]);
  });

  it("counts a copy within one buffer twice", () => {
    const table = fitTable(
      measured((way, bytes) => (way.startsWith("compute") ? 1.7 : 1) * bytes),
      SOFTWARE,
    );
    expect(table.device).toEqual(SOFTWARE.device);
    expect(table.inside.contiguous[0]!.way).toBe("compute, p/inv");
  });

  it("sends large readbacks of scattered pages through the ring, whichever way fetches them", () => {
    const table = (standard: PathTable) =>
      fitTable(
        measured((way, bytes) => (way.startsWith("gather") ? 1 : 3) * bytes).map((m) =>
          m.way === "gather + map, p/inv" ? { ...m, way: "gather + map, p/wg" } : m,
        ),
        standard,
      ).readback;
    expect(table(SOFTWARE).scattered).toEqual([
      { from: 0, way: "gather + map, p/wg" },
      { from: 32 * MIB, way: "ring: gather + map" },
    ]);
    expect(table(SOFTWARE).contiguous).toEqual(SOFTWARE.readback.contiguous);
  });

  it("is the default where nothing was measured", () => expect(fitTable([], HARDWARE)).toEqual(HARDWARE));

  it("can always be pinned", () => {
    const table = fitTable(
      measured((way, bytes) => way.length * bytes),
      HARDWARE,
    );
    expect(checkTable(table)).toBe(table);
  });
});
