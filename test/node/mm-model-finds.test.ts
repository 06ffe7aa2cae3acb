import { expect, test } from "vitest";
import { REFERENCE_ENGINE } from "../../src/machine/engine.ts";
import { HUGE, type MapKind, type Op, SMALL, type World } from "../mm-model/programs.ts";
import { ProgramRun } from "../mm-model/runner.ts";

const who = 0;
const mmap = (page: number, pages: number, kind: MapKind, rest: Partial<Extract<Op, { op: "mmap" }>> = {}): Op => {
  return { op: "mmap", who, page, pages, prot: "RW", kind, file: 1, index: 7, populate: false, ...rest };
};

/** Short programs that the memory manager once got wrong; the random ones found them. */
const FINDS: readonly [rule: string, world: World, program: readonly Op[]][] = [
  [
    "a page that one process has locked is not swapped out by another that shares it",
    SMALL,
    [
      mmap(21, 3, "anon"),
      { op: "mlock", who, page: 21, pages: 3 },
      { op: "fork", who },
      { op: "madvise", who: 1, page: 21, pages: 3, advice: "pageout" },
    ],
  ],
  [
    "a hole over a page border that covers no whole page zeroes the two pieces and nothing else",
    SMALL,
    [
      { op: "fwrite", file: 1, at: 16384, length: 5451, byte: 73 },
      { op: "fwrite", file: 1, at: 40960, length: 4208, byte: 134 },
      { op: "punch", file: 1, at: 21962, length: 2899, byte: 0 },
    ],
  ],
  [
    "a shared mapping is not mapped a second time over itself",
    SMALL,
    [
      mmap(4, 4, "file-shared", { populate: true }),
      { op: "mremap", who, page: 4, pages: 0, newPages: 2, to: 4, dontunmap: false },
    ],
  ],
  [
    "pinning a page of a huge page that was shared makes all of it the process's own, or none",
    HUGE,
    [
      mmap(640, 1, "huge2m"),
      { op: "write", who, at: 2621440, length: 3401, byte: 112 },
      { op: "fork", who },
      { op: "gadd", who, at: 4099448, by: 1 },
      { op: "pin", who: 1, page: 640, pages: 1, write: false },
      { op: "add", who: 1, at: 2764984, by: 5 },
    ],
  ],
  [
    "what is left of a large folio in VRAM comes home when a part of it was unmapped",
    HUGE,
    [
      { op: "spawn", who },
      mmap(128, 512, "anon", { prot: "R" }),
      { op: "toVram", who, page: 128, pages: 512 },
      { op: "mremap", who, page: 128, pages: 128, newPages: 7, to: null, dontunmap: false },
      { op: "exit", who },
    ],
  ],
];

test.each(FINDS)("%s", async (_, world, program) => {
  await expect(new ProgramRun(REFERENCE_ENGINE, world).run(program)).resolves.toBeUndefined();
});
