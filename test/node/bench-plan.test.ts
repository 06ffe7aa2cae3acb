import { describe, expect, it } from "vitest";
import { keyOf, PATH_SIZES, PATHS, planCells } from "../../src/bench/cells.ts";
import { rowId } from "../../src/bench/result.ts";
import { parseBytes, selectionFromQuery, selectionToQuery, selects } from "../../src/bench/selection.ts";

const MIB = 1 << 20;
const all = { quick: false, chosen: false, selected: () => true };
const idsOf = (cells: ReturnType<typeof planCells>) =>
  cells.flatMap((cell) => cell.paths.map((path) => rowId(keyOf(path.direction, path.name, cell))));

describe("the plan of the copy paths", () => {
  it("has at least 20 paths, each with a name of its own and a sentence on how the bytes go", () => {
    expect(PATHS.length).toBeGreaterThanOrEqual(20);
    expect(new Set(PATHS.map(({ name }) => name)).size).toBe(PATHS.length);
    for (const { name, how } of PATHS) {
      // Tables of 80 columns have 24 for the name.
      expect(name.length).toBeLessThan(24);
      expect(how.length).toBeGreaterThan(20);
    }
  });

  it("goes from 4 KiB to 256 MiB, over three shapes and three modes, and names no row twice", () => {
    const cells = planCells(all, Infinity);
    const ids = idsOf(cells);
    expect(new Set(ids).size).toBe(ids.length);
    expect(Math.min(...cells.map(({ bytes }) => bytes))).toBe(4096);
    expect(Math.max(...cells.map(({ bytes }) => bytes))).toBe(256 * MIB);
    expect(new Set(cells.map(({ layout }) => layout))).toEqual(new Set(["contiguous", "strided", "random"]));
    expect(new Set(cells.map(({ mode }) => mode))).toEqual(new Set([undefined, "first touch", "8 in flight"]));
  });

  it.each([
    { largest: 256 * MIB, contiguous: 256, scattered: 64 },
    { largest: 256 * MIB - 1, contiguous: 64, scattered: 64 },
    { largest: 128 * MIB, contiguous: 64, scattered: 64 },
    { largest: 128 * MIB - 1, contiguous: 64, scattered: 16 },
  ])("stays inside bindings of $largest bytes", ({ largest, contiguous, scattered }) => {
    const cells = planCells(all, largest);
    const most = (layout: string) =>
      Math.max(...cells.filter((cell) => cell.layout === layout).map(({ bytes }) => bytes)) / MIB;
    expect(most("contiguous")).toBe(contiguous);
    expect(most("random")).toBe(scattered);
  });

  it("is short when it must be quick, but for sizes and shapes that were chosen", () => {
    const quick = planCells({ ...all, quick: true }, Infinity);
    expect(quick).toHaveLength(3);
    expect(quick.every(({ layout, mode }) => layout === "contiguous" && mode === undefined)).toBe(true);
    const selected = (row: { layout: string }) => row.layout === "random";
    const chosen = planCells({ quick: true, chosen: true, selected }, Infinity);
    expect(chosen.length).toBeGreaterThan(3);
    expect(chosen.every(({ layout }) => layout === "random")).toBe(true);
  });

  it("leaves out what has no meaning: fills of fresh memory, uses that would overlap", () => {
    const ids = idsOf(planCells(all, Infinity));
    expect(ids.filter((id) => /\/fill\/.*first touch/.test(id))).toEqual([]);
    expect(ids.filter((id) => /\/access\/.*(in flight|first touch)/.test(id))).toEqual([]);
  });
});

describe("a selection", () => {
  const row = keyOf("upload", "writeBuffer per run", { bytes: 65536, layout: "random", mode: "8 in flight" });
  it.each([
    [{}, true],
    [{ kinds: ["upload"], sizes: [65536], layouts: ["random"], modes: ["8 in flight"] }, true],
    [{ names: ["writeBuffer per run"] }, true],
    [{ kinds: ["readback"] }, false],
    [{ names: ["writeBuffer per page"] }, false],
    [{ sizes: [4096] }, false],
    [{ layouts: ["contiguous"] }, false],
    [{ modes: ["warm"] }, false],
    [{ names: [] }, false],
  ])("%j: %s", (selection, wanted) => expect(selects(selection, row)).toBe(wanted));

  it("keeps the bounds, whatever directions and paths it names", () => {
    const bound = keyOf("bound", "JavaScript memory copy", { bytes: 65536, layout: "random", mode: undefined });
    expect(selects({ kinds: ["upload"], names: [] }, bound)).toBe(true);
    expect(selects({ sizes: [4096] }, bound)).toBe(false);
  });

  it.each([
    [{}, ""],
    [{ kinds: ["upload", "fill"], sizes: [4096, 256 * MIB] }, "kind=upload,fill&size=4KiB,256MiB"],
    [
      { names: ["ring + copy per run", "gather + map, p/wg"] },
      "path=ring%20%2B%20copy%20per%20run,gather%20%2B%20map%2C%20p%2Fwg",
    ],
    [{ modes: ["first touch"], layouts: [] }, "layout=&mode=first%20touch"],
  ])("%j travels in a link", (selection, query) => {
    expect(selectionToQuery(selection)).toBe(query);
    expect(selectionFromQuery(query)).toEqual(selection);
  });

  it("is read as far as it can be from a link that is broken", () => {
    expect(selectionFromQuery("kind&size=4KiB,big,-1&path=%zz&other=1")).toEqual({ sizes: [4096], names: ["%zz"] });
  });

  it("names every size so that it is read again", () => {
    for (const bytes of PATH_SIZES)
      expect(selectionFromQuery(selectionToQuery({ sizes: [bytes] })).sizes).toEqual([bytes]);
    expect(parseBytes("1.5KiB")).toBe(1536);
    expect(parseBytes("12")).toBeNull();
  });
});
