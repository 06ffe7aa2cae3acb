/** What an mm says of the pages beyond the end of a mapped file. */
import { expect, test } from "vitest";
import { MemFile } from "../../src/mm/file.ts";
import { Mm } from "../../src/mm/mm.ts";
import { PAGE, mmapOk, testPhys } from "./mm-fake-device.ts";

const BASE = 0x7f0000000000;

test("fileSizeBefore names the size for any byte of a page wholly beyond the end, as the file and the areas are now", async () => {
  const phys = testPhys();
  const file = new MemFile(phys, { size: PAGE + 1, name: "data" });
  const mm = new Mm({ phys });
  await mmapOk(mm, 4 * PAGE, { at: BASE, file });
  await mmapOk(mm, PAGE, { at: BASE + 4 * PAGE });
  const at = (page: number, byte: number): number | null => mm.fileSizeBefore(BASE + page * PAGE + byte);
  expect([at(0, 0), at(1, 0), at(1, PAGE - 1)]).toEqual([null, null, null]);
  expect([at(2, 0), at(2, PAGE - 1), at(3, 9)]).toEqual([PAGE + 1, PAGE + 1, PAGE + 1]);
  // Memory of no file, and nothing at all.
  expect([at(4, 0), at(5, 0)]).toEqual([null, null]);
  expect(await file.truncate(PAGE)).toBe(0);
  expect([at(0, PAGE - 1), at(1, 0)]).toEqual([null, PAGE]);
  expect(await file.truncate(4 * PAGE)).toBe(0);
  expect([at(1, 0), at(3, 0)]).toEqual([null, null]);
  expect(await file.truncate(0)).toBe(0);
  expect(at(0, 0)).toBe(0);
  await mm.munmap(BASE, PAGE);
  expect([at(0, 0), at(1, 0)]).toEqual([null, 0]);
  await mm.exit();
  expect(at(1, 0)).toBe(null);
});
