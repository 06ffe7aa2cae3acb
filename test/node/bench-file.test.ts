import { describe, expect, it } from "vitest";
import { ConfigError } from "../../src/base/errors.ts";
import { toCsv } from "../../src/bench/csv.ts";
import { bandwidthPlot, heatPlot, latencyPlot } from "../../src/bench/plot.ts";
import { parseResult, RESULT_SCHEMA } from "../../src/bench/result-file.ts";
import type { BenchResult } from "../../src/bench/result.ts";
import { type Schema, schemaProblem } from "../../src/bench/schema.ts";
import { bandwidthOf, facetsOf, latenciesOf, sharesOf } from "../../src/bench/series.ts";
import { resultOf, row } from "./bench-result.ts";

const MIB = 1 << 20;
const result = resultOf([
  row("a", 1, { bytes: 4096 }),
  row("a", 1, { bytes: MIB }),
  row("b", 2, { bytes: 4096 }),
  row("b", 0.5, { bytes: MIB, gpu: row("b", 0.1).ms! }),
  row("wrong", 0.1, { bytes: MIB, error: "the word at 0 is wrong" }),
  row("never", 1, { bytes: MIB, ms: null, error: "out of memory" }),
  row("JavaScript memory copy", 0.01, { kind: "bound", bytes: 4096 }),
  row("JavaScript memory copy", 0.1, { kind: "bound", bytes: MIB }),
  row("submit + mapAsync", 0.3, { kind: "bound", bytes: MIB }),
  row("a", 3, { bytes: MIB, layout: "random", mode: "8 in flight" }),
]);
const facet = facetsOf(result.rows)[0]!;

/** A copy in which one place has another value, or is gone. */
function changed(whole: unknown, [key, ...rest]: readonly string[], value: unknown): unknown {
  if (key === undefined) return value;
  const copy: Record<string, unknown> = Array.isArray(whole) ? ([...whole] as never) : { ...(whole as object) };
  copy[key] = changed(copy[key], rest, value);
  return copy;
}

describe("a result file", () => {
  it("that was written is read again", () => {
    expect(parseResult(JSON.stringify(result), "x.json")).toEqual(result);
  });

  it.each([
    { what: "of a later version", place: "version", value: 2, says: /version: 1 is wanted/ },
    { what: "of another program", place: "format", value: "x", says: /format: "webgpu-svm-bench" is wanted/ },
    { what: "without rows", place: "rows", says: /the result has no rows/ },
    { what: "with a date of another form", place: "date", value: "yesterday", says: /date: / },
    { what: "with a row without a name", place: "rows.2.name", says: /rows\[2\] has no name/ },
    { what: "with bytes that are text", place: "rows.1.bytes", value: "1", says: /rows\[1\]\.bytes: integer is/ },
    { what: "with a negative size", place: "rows.1.bytes", value: -1, says: /rows\[1\]\.bytes: at least 0 is/ },
    { what: "without a median", place: "rows.0.ms.median", says: /rows\[0\]\.ms has no median/ },
    { what: "with an unknown mode", place: "rows.0.mode", value: "hot", says: /rows\[0\]\.mode: one of first touch/ },
    { what: "with a void sample", place: "rows.0.samples.3", value: null, says: /rows\[0\]\.samples\[3\]: number/ },
    { what: "with a limit of text", place: "environment.gpu.limits.x", value: "1", says: /gpu\.limits\.x: number/ },
    { what: "with an unknown selection", place: "options.selection", value: { kind: [] }, says: /\.kind is not/ },
  ])("$what is refused, and the place is named", ({ place, value, says }) => {
    const text = JSON.stringify(changed(result, place.split("."), value));
    expect(() => parseResult(text, "x.json")).toThrow(says);
    expect(() => parseResult(text, "x.json")).toThrow(ConfigError);
  });

  it("that is no JSON is refused", () => {
    expect(() => parseResult("{", "x.json")).toThrow(/x\.json.*is no JSON file/);
  });
});

describe("the published schema", () => {
  it("uses only keywords that are checked, everywhere", () => {
    const visit = (schema: Schema): void => {
      // A value of no type meets every keyword at least once.
      for (const value of [null, true, 1, "x", [], {}]) schemaProblem(schema, value, RESULT_SCHEMA);
      for (const key of ["properties", "$defs"]) {
        for (const child of Object.values((schema[key] as Record<string, Schema> | undefined) ?? {})) visit(child);
      }
      for (const child of (schema["anyOf"] as Schema[] | undefined) ?? []) visit(child);
      if (schema["items"] !== undefined) visit(schema["items"] as Schema);
    };
    expect(() => visit(RESULT_SCHEMA)).not.toThrow();
    expect(() => visit({ maxItems: 3 })).toThrow(/maxItems is not known/);
  });

  it("names every field that a row has", () => {
    const fields = Object.keys((RESULT_SCHEMA["$defs"] as Record<string, Schema>)["row"]!["properties"] as object);
    for (const one of result.rows) for (const field of Object.keys(one)) expect(fields).toContain(field);
  });
});

describe("series of a result", () => {
  it("are one per direction, layout and mode that was measured", () => {
    expect(facetsOf(result.rows)).toEqual([
      { kind: "upload", layout: "contiguous", mode: undefined },
      { kind: "upload", layout: "random", mode: "8 in flight" },
    ]);
  });

  it("give bytes per second by size, and nothing where the bytes were wrong", () => {
    const { sizes, lines, bound } = bandwidthOf(result.rows, facet);
    expect(sizes).toEqual([4096, MIB]);
    expect(lines.map(({ name }) => name)).toEqual(["a", "b", "wrong", "never"]);
    expect(lines[0]!.rates[1]).toBeCloseTo(MIB * 1000, -3);
    expect(lines[2]!.rates).toEqual([null, null]);
    expect(bound!.rates[0]).toBeCloseTo(4096 / 1e-5, -6);
  });

  it("have no memory copy as a bound where no byte passes JavaScript", () => {
    const device = result.rows.map((r) => (r.kind === "upload" ? { ...r, kind: "device" } : r));
    expect(bandwidthOf(device, { ...facet, kind: "device" }).bound).toBeNull();
  });

  it("share the best of each size", () => {
    const shares = sharesOf(bandwidthOf(result.rows, facet));
    expect(shares[0]![0]).toBe(1);
    expect(shares[1]![0]).toBeCloseTo(0.5);
    expect(shares[0]![1]).toBeCloseTo(0.5);
    expect(shares[1]![1]).toBe(1);
  });

  it("stand quickest first where times are shown", () => {
    expect(latenciesOf(result.rows, facet, MIB).map(({ name }) => name)).toEqual(["wrong", "b", "a"]);
  });
});

describe("CSV", () => {
  it("has a line per row, quoted where it must be", () => {
    const lines = toCsv(resultOf([row('a, "b"', 1), row("c", 1, { ms: null, error: "no" })])).split("\r\n");
    expect(lines).toHaveLength(4);
    expect(lines[0]).toMatch(/^group,kind,name,bytes,layout,mode,n,median_ms,/);
    expect(lines[1]).toMatch(/^paths,upload,"a, ""b""",65536,contiguous,warm,30,1,/);
    expect(lines[2]).toBe("paths,upload,c,65536,contiguous,warm,,,,,,,,,no");
  });
});

describe("pictures", () => {
  const attack: BenchResult = resultOf([row('<script>"&', 1), row('<script>"&', 1, { bytes: MIB })]);
  it.each([
    ["bandwidth by size", bandwidthPlot(result, facet), ["a", "b", "JavaScript memory copy", "1MiB", "1 GB/s"]],
    ["path by size", heatPlot(result, [facet]), ["a", "b", "upload", "4KiB", "2.10 GB/s"]],
    ["times of one size", latencyPlot(result, facet, MIB), ["a", "b", "500 µs", "1 ms"]],
  ])("%s: say what they show, and where it was measured", (_, svg, texts) => {
    expect(svg).toMatch(/^<svg xmlns="http:\/\/www\.w3\.org\/2000\/svg"/);
    for (const text of texts) expect(svg).toContain(`>${text}</text>`);
    expect(svg).toContain("acme one; browser 156.0; the adapter's limits; 2026-01-02");
    expect(svg).not.toMatch(/NaN|Infinity|undefined/);
  });

  it("show nothing of what was wrong", () => {
    expect(heatPlot(result, [facet])).not.toContain("10.5 GB/s");
  });

  it("keep names from being markup", () => {
    for (const svg of [
      bandwidthPlot(attack, facetsOf(attack.rows)[0]!),
      heatPlot(attack, facetsOf(attack.rows)),
      latencyPlot(attack, facetsOf(attack.rows)[0]!, MIB),
    ]) {
      expect(svg).toContain("&lt;script>&quot;&amp;".replace(">", "&gt;"));
      expect(svg).not.toContain("<script>");
    }
  });
});
