import { describe, expect, test } from "vitest";
import { compact } from "../../src/mm/compaction.ts";
import { makeDeviceExclusive } from "../../src/mm/exclusive.ts";
import { MemFile } from "../../src/mm/file.ts";
import { checkQuiescent } from "../../src/mm/invariants.ts";
import { Mm } from "../../src/mm/mm.ts";
import {
  MMU_NOTIFY_CLEAR,
  MMU_NOTIFY_EXCLUSIVE,
  MMU_NOTIFY_MIGRATE,
  MMU_NOTIFY_PROTECTION_PAGE,
  MMU_NOTIFY_PROTECTION_VMA,
  MMU_NOTIFY_RELEASE,
  MMU_NOTIFY_SOFT_DIRTY,
  MMU_NOTIFY_UNMAP,
} from "../../src/mm/types.ts";
import { FakeDevice, MB, PAGE, RecordingNotifier, pattern, testPhys } from "./mm-fake-device.ts";

const BASE = 0x7f0000200000;
const HUGE = 2 * MB;
/** What the notifier covers: the 2 MiB of the cases, and 2 MiB on either side. */
const [LOW, HIGH] = [BASE - HUGE, BASE + 2 * HUGE];

/** Everything that an event may be about: 8 pages of private memory with content at BASE. */
async function world(prepare: (w: World) => unknown) {
  const phys = testPhys(4096);
  const mm = new Mm({ phys });
  const w = { phys, mm, device: new FakeDevice(phys, 64), file: new MemFile(phys, { size: 8 * PAGE }), owner: {} };
  await mm.mmap(8 * PAGE, { at: BASE });
  await mm.write(BASE, pattern(8 * PAGE));
  await prepare(w);
  return w;
}
interface World {
  readonly phys: ReturnType<typeof testPhys>;
  readonly mm: Mm;
  readonly device: FakeDevice;
  readonly file: MemFile;
  readonly owner: object;
}

/** Announced: type, first and end page counted from BASE (null: all addresses). */
type Announced = [event: number, first: number | null, end: number | null];

interface Case {
  readonly name: string;
  readonly prepare?: (w: World) => unknown;
  readonly act: (w: World) => unknown;
  readonly events: readonly Announced[];
  /** Of MIGRATE and EXCLUSIVE; nobody for the others. */
  readonly owner?: (w: World) => unknown;
}

const at = (page: number) => BASE + page * PAGE;
const mapFile = ({ mm, file }: World, shared: boolean) => mm.mmap(8 * PAGE, { at: BASE, file, shared, populate: true });

const CASES: readonly Case[] = [
  { name: "munmap of a piece", act: ({ mm }) => mm.munmap(at(2), 3 * PAGE), events: [[MMU_NOTIFY_UNMAP, 2, 5]] },
  {
    name: "munmap over a hole: one event per run of areas",
    prepare: ({ mm }) => mm.munmap(at(3), PAGE),
    act: ({ mm }) => mm.munmap(at(0), 8 * PAGE),
    events: [
      [MMU_NOTIFY_UNMAP, 0, 3],
      [MMU_NOTIFY_UNMAP, 4, 8],
    ],
  },
  {
    name: "mmap over what is mapped: the part that is replaced",
    act: ({ mm }) => mm.mmap(8 * PAGE, { at: at(6) }),
    events: [[MMU_NOTIFY_UNMAP, 6, 8]],
  },
  {
    name: "mremap that moves: the old interval alone",
    act: ({ mm }) => mm.mremap(at(1), 4 * PAGE, 4 * PAGE, { to: at(20) }),
    events: [[MMU_NOTIFY_UNMAP, 1, 5]],
  },
  {
    name: "mremap that moves over something: that first",
    prepare: ({ mm }) => mm.mmap(4 * PAGE, { at: at(20), populate: true }),
    act: ({ mm }) => mm.mremap(at(1), 4 * PAGE, 4 * PAGE, { to: at(18), dontunmap: true }),
    events: [
      [MMU_NOTIFY_UNMAP, 20, 22],
      [MMU_NOTIFY_UNMAP, 1, 5],
    ],
  },
  {
    name: "mremap that shrinks: the tail",
    act: ({ mm }) => mm.mremap(BASE, 8 * PAGE, 3 * PAGE),
    events: [[MMU_NOTIFY_UNMAP, 3, 8]],
  },
  {
    name: "exit: RELEASE of everything, then UNMAP",
    act: ({ mm }) => mm.exit(),
    events: [
      [MMU_NOTIFY_RELEASE, null, null],
      [MMU_NOTIFY_UNMAP, 0, 8],
    ],
  },
  {
    name: "madvise dontneed",
    act: ({ mm }) => mm.madvise(at(1), 2 * PAGE, "dontneed"),
    events: [[MMU_NOTIFY_CLEAR, 1, 3]],
  },
  {
    name: "madvise free",
    act: ({ mm }) => mm.madvise(at(1), 2 * PAGE, "free"),
    events: [[MMU_NOTIFY_CLEAR, 1, 3]],
  },
  {
    name: "truncation of a file: what it cuts off",
    prepare: (w) => mapFile(w, true),
    act: ({ file }) => file.truncate(3 * PAGE + 1),
    events: [[MMU_NOTIFY_CLEAR, 4, 8]],
  },
  {
    name: "a hole in a file: its whole pages",
    prepare: (w) => mapFile(w, true),
    act: ({ file }) => file.punchHole(PAGE + 1, 3 * PAGE),
    events: [[MMU_NOTIFY_CLEAR, 2, 4]],
  },
  {
    name: "a store to the zero page",
    prepare: async ({ mm }) => {
      await mm.madvise(BASE, 8 * PAGE, "dontneed");
      await mm.read(at(2), 1);
    },
    act: ({ mm }) => mm.store32(at(2), 1),
    events: [[MMU_NOTIFY_CLEAR, 2, 3]],
  },
  {
    name: "a store that breaks copy-on-write",
    prepare: ({ mm }) => mm.fork(),
    act: ({ mm }) => mm.store32(at(5), 1),
    events: [[MMU_NOTIFY_CLEAR, 5, 6]],
  },
  {
    name: "a store that copies a file's page",
    prepare: (w) => mapFileForReading(w),
    act: ({ mm }) => mm.store32(at(5), 1),
    events: [[MMU_NOTIFY_CLEAR, 5, 6]],
  },
  {
    name: "swapping out",
    act: ({ mm }) => mm.madvise(at(2), 2 * PAGE, "pageout"),
    events: [[MMU_NOTIFY_CLEAR, 2, 4]],
  },
  {
    name: "compaction",
    act: ({ phys }) => compact(phys, { maxPages: 2 }),
    events: [[MMU_NOTIFY_CLEAR, 0, 2]],
  },
  {
    name: "a huge page made of small ones",
    prepare: ({ mm }) => mm.mmap(HUGE, { at: BASE, populate: true }),
    act: ({ mm }) => mm.madvise(BASE, HUGE, "collapse"),
    events: [[MMU_NOTIFY_CLEAR, 0, 512]],
  },
  {
    name: "munmap of a part of a huge page: the whole is split first",
    prepare: hugePage,
    act: ({ mm }) => mm.munmap(at(8), PAGE),
    events: [
      [MMU_NOTIFY_CLEAR, 0, 512],
      [MMU_NOTIFY_UNMAP, 8, 9],
    ],
  },
  {
    name: "mprotect: the areas that change",
    prepare: ({ mm }) => mm.mprotect(at(3), PAGE, "R"),
    act: ({ mm }) => mm.mprotect(at(1), 5 * PAGE, "R"),
    events: [
      [MMU_NOTIFY_PROTECTION_VMA, 1, 3],
      [MMU_NOTIFY_PROTECTION_VMA, 4, 6],
    ],
  },
  {
    name: "fork: every private area of the parent",
    prepare: ({ mm }) => mm.mmap(4 * PAGE, { at: at(8), shared: true, populate: true }),
    act: ({ mm }) => mm.fork(),
    events: [[MMU_NOTIFY_PROTECTION_PAGE, 0, 8]],
  },
  {
    name: "clearing the soft-dirty state: everything",
    act: ({ mm }) => mm.clearSoftDirty(),
    events: [[MMU_NOTIFY_SOFT_DIRTY, null, null]],
  },
  {
    name: "migration to a device",
    act: ({ mm, device }) => device.migrate(mm, at(2), at(6)),
    events: [[MMU_NOTIFY_MIGRATE, 2, 6]],
    owner: ({ device }) => device,
  },
  {
    name: "migration of holes: the collection, and from the first hole that is filled",
    prepare: ({ mm }) => mm.madvise(at(3), 2 * PAGE, "dontneed"),
    act: ({ mm, device }) => device.migrate(mm, at(2), at(6)),
    events: [
      [MMU_NOTIFY_MIGRATE, 2, 6],
      [MMU_NOTIFY_MIGRATE, 3, 6],
    ],
    owner: ({ device }) => device,
  },
  {
    name: "a CPU access to device pages: they come home",
    prepare: ({ mm, device }) => device.migrate(mm, at(2), at(6)),
    act: ({ mm }) => mm.read(at(3), 1),
    events: [[MMU_NOTIFY_MIGRATE, 0, 8]],
    owner: ({ device }) => device,
  },
  {
    name: "exclusive access of a device",
    act: ({ mm, owner }) => makeDeviceExclusive(mm, at(4), owner),
    events: [[MMU_NOTIFY_EXCLUSIVE, 4, 5]],
    owner: ({ owner }) => owner,
  },
  {
    name: "a CPU access to a page that is a device's alone",
    prepare: async ({ mm, phys, owner }) => {
      const pfn = await makeDeviceExclusive(mm, at(4), owner);
      phys.unlockPage(pfn);
      phys.putPage(pfn);
    },
    act: ({ mm }) => mm.read(at(4), 1),
    events: [[MMU_NOTIFY_CLEAR, 4, 5]],
  },
];

async function mapFileForReading({ mm, file }: World): Promise<void> {
  await mm.mmap(8 * PAGE, { at: BASE, file });
  await mm.read(BASE, 8 * PAGE);
}

async function hugePage({ mm }: World): Promise<void> {
  await mm.mmap(HUGE, { at: BASE });
  await mm.madvise(BASE, HUGE, "hugepage");
  await mm.store32(BASE, 1);
  expect(mm.tables.isHuge(BASE / HUGE)).toBe(true);
}

/** The entries of `[start, end)` as far as the notifier reaches, and whether they stand for huge ones. */
function entries(mm: Mm, start: number, end: number): number[] {
  const words = [];
  for (let a = Math.max(start, LOW); a < Math.min(end, HIGH); a += PAGE) {
    words.push(mm.tables.read(a / PAGE) * 2 + (mm.tables.isHuge(Math.floor(a / HUGE)) ? 1 : 0));
  }
  return words;
}

const EVERYTHING = Number.MAX_SAFE_INTEGER;

describe.each(CASES)("$name", ({ prepare, act, events, owner }) => {
  test("is announced with its type, interval and owner, before anything in the interval changes", async () => {
    const w = await world(prepare ?? (() => undefined));
    const { mm } = w;
    const watcher = new RecordingNotifier(mm, LOW, HIGH);
    await mm.intervalNotifierInsert(watcher);
    const before = entries(mm, LOW, HIGH);
    /** Pages that an earlier event was about: those may have changed by now. */
    const announced = before.map(() => false);
    watcher.check = async (range) => {
      const now = entries(mm, LOW, HIGH);
      for (const i of pagesOf(range)) if (!announced[i]) expect(now[i]).toBe(before[i]);
      // Nor while the callback waits.
      await new Promise((turn) => setImmediate(turn));
      const after = entries(mm, LOW, HIGH);
      for (const i of pagesOf(range)) expect(after[i]).toBe(now[i]);
      if (range.event !== MMU_NOTIFY_RELEASE) for (const i of pagesOf(range)) announced[i] = true;
    };
    await act(w);
    await w.phys.sched.settle();
    const after = entries(mm, LOW, HIGH);
    const changed = after.flatMap((word, i) => (word === before[i] ? [] : [i]));
    expect(changed.some((i) => announced[i])).toBe(true);
    // What was not announced has been filled at most: nobody maps a hole.
    for (const i of changed) if (!announced[i]) expect(before[i]).toBe(0);

    const wanted = events.map(([event, first, end]) => [
      event,
      first === null ? 0 : at(first),
      end === null ? EVERYTHING : at(end),
    ]);
    expect(watcher.events.map((e) => [e.event, e.start, e.end])).toEqual(wanted);
    for (const event of watcher.events) {
      expect(event.blockable).toBe(true);
      expect(event.owner).toBe(owner === undefined ? null : owner(w));
    }
  });

  test("leaves every count right", async () => {
    const w = await world(prepare ?? (() => undefined));
    const result: unknown = await act(w);
    if (typeof result === "number" && w.phys.isLockedPage(result)) {
      w.phys.unlockPage(result);
      w.phys.putPage(result);
    }
    await w.phys.sched.settle();
    checkQuiescent(w.phys);
  });
});

/** Places in `entries(mm, LOW, HIGH)` of the pages of an interval. */
function pagesOf({ start, end }: { start: number; end: number }): number[] {
  const first = (Math.max(start, LOW) - LOW) / PAGE;
  const count = (Math.min(end, HIGH) - Math.max(start, LOW)) / PAGE;
  return Array.from({ length: count }, (_, i) => first + i);
}

test("the types of all events have a case", () => {
  const types = new Set(CASES.flatMap((c) => c.events.map(([event]) => event)));
  expect([...types].sort((a, b) => a - b)).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
});
