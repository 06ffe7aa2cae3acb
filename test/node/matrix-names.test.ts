import { describe, expect, test } from "vitest";
import { MATRIX, TEMPLATES, findCases } from "../../src/scenario/matrix/cases.ts";
import { CORE } from "../../src/scenario/matrix/core.ts";
import { SECTIONS } from "../../src/scenario/matrix/sections.ts";

const names = (pattern: string) => findCases(pattern).map(({ name }) => name);

describe("the names of the matrix", () => {
  test("25 templates and 75 sections make 1,875 names, each once", () => {
    expect([TEMPLATES.length, SECTIONS.length]).toEqual([25, 75]);
    expect(new Set(MATRIX.map(({ name }) => name)).size).toBe(1875);
  });

  test.each([
    ["malloc", 12],
    ["mmap", 22],
    ["free", 3],
    ["new", 6],
    ["mmap-free", 4],
    ["mmap-new", 4],
  ])("%s has %i sections", (origin, count) => {
    const of = SECTIONS.filter(({ name }) => !name.endsWith("-nomemset")).filter(({ name }) => {
      const longer = ["mmap-free", "mmap-new"].some((other) => other !== origin && name.startsWith(other));
      return !longer && (name === origin || name.startsWith(`${origin}-`));
    });
    expect(of.length).toBe(count);
  });

  test("24 sections leave out the filling, and have a section that does not, with otherwise the same flags", () => {
    const bare = SECTIONS.filter(({ name }) => name.endsWith("-nomemset"));
    expect(bare.length).toBe(24);
    for (const { name, flags } of bare) {
      const filled = SECTIONS.find((section) => `${section.name}-nomemset` === name);
      expect([...filled!.flags, "SKIP_MEMSET"]).toEqual([...flags]);
    }
  });

  test.each([
    ["FILE_BACKED", 40, "threads"],
    ["FORK_READ", 30, "forks"],
    ["MULTI_FAULT", 14, "size"],
    ["EVERY_OTHER_CHECK", 12, "pairs"],
  ] as const)("what the original skips is skipped with the reason: %s in %i cases", (flag, count, word) => {
    const skipped = MATRIX.filter(({ skip, section }) => skip !== null && section.flags.has(flag));
    expect(skipped.length).toBe(count);
    for (const { skip } of skipped) expect(skip).toContain(word);
  });

  test("1,779 cases do something", () => {
    expect(MATRIX.filter(({ skip }) => skip === null).length).toBe(1779);
  });
});

describe("patterns", () => {
  test("a name finds one case, a star anything", () => {
    expect(names("XE-SA-once-malloc")).toEqual(["XE-SA-once-malloc"]);
    expect(names("XE-SA-twice-mmap-shared-remap*")).toEqual([
      "XE-SA-twice-mmap-shared-remap",
      "XE-SA-twice-mmap-shared-remap-dontunmap",
      "XE-SA-twice-mmap-shared-remap-eocheck",
      "XE-SA-twice-mmap-shared-remap-dontunmap-eocheck",
    ]);
    expect(names("xe-sa-*").length).toBe(1875);
    expect(names("XE-SA-threads-shared-vm-many-new-bo-map*").length).toBe(2);
  });

  test("nothing else stands for anything, and a part of a name is no name", () => {
    expect(names("XE.SA.once.malloc")).toEqual([]);
    expect(names("XE-SA-once")).toEqual([]);
    expect(names("XE-SA-(once|twice)-malloc")).toEqual([]);
  });
});

test("what is run regularly: more than 400 cases, none skipped, of every section and every template", () => {
  expect(CORE.length).toBeGreaterThanOrEqual(400);
  expect(CORE.filter(({ skip }) => skip !== null)).toEqual([]);
  expect(new Set(CORE.map(({ section }) => section)).size).toBe(75);
  expect(new Set(CORE.map(({ template }) => template)).size).toBe(25);
});
