import { describe, expect, it } from "vitest";
import { Random } from "../../src/base/random.ts";
import { copyRuns, makeTransfer, packed, pagePairs, perPage, splitTransfer } from "../../src/device/paths/transfer.ts";
import type { Layout, Transfer } from "../../src/device/paths/transfer.ts";

const PAGES = 37;
const LAYOUTS: Layout[] = ["contiguous", "strided", "random"];
const make = (layout: Layout) => makeTransfer(layout, PAGES * 4096, new Random(5));
const pairs = (transfer: Transfer) => [...pagePairs(transfer)];

describe.each(LAYOUTS)("a %s transfer", (layout) => {
  it("names every page once on each side, inside its region", () => {
    const list = pairs(make(layout));
    const region = layout === "contiguous" ? PAGES : 2 * PAGES;
    for (const side of [0, 1]) {
      const pages = list.filter((_, i) => i % 2 === side);
      expect(new Set(pages).size).toBe(PAGES);
      expect(Math.max(...pages)).toBeLessThan(region);
    }
  });

  it.each([4096, 3 * 4096, 36 * 4096, 37 * 4096, 38 * 4096])(
    "cut into pieces of %i bytes is the same transfer",
    (pieceBytes) => {
      const transfer = make(layout);
      const pieces = splitTransfer(transfer, pieceBytes);
      expect(pieces.flatMap(pairs)).toEqual(pairs(transfer));
      expect(Math.max(...pieces.map((piece) => piece.bytes))).toBeLessThanOrEqual(pieceBytes);
      expect(pieces.length).toBe(Math.ceil((PAGES * 4096) / pieceBytes));
    },
  );

  it("page by page is the same transfer", () => {
    const transfer = perPage(make(layout));
    expect(pairs(transfer)).toEqual(pairs(make(layout)));
    expect(transfer.runs.length).toBe(PAGES * 3);
  });

  it("through packed staging arrives as when it is copied at once", () => {
    const transfer = make(layout);
    const bytes = transfer.regionPages * 4096;
    const source = Uint8Array.from({ length: bytes }, (_, i) => (i * 7 + (i >> 12)) & 255);
    const direct = new Uint8Array(bytes);
    const staged = new Uint8Array(bytes);
    const staging = new Uint8Array(transfer.bytes);
    copyRuns(transfer, source, direct);
    copyRuns(packed(transfer, "destination"), source, staging);
    copyRuns(packed(transfer, "source"), staging, staged);
    expect(Buffer.compare(staged, direct)).toBe(0);
  });
});
