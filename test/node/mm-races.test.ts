import { describe, expect, test } from "vitest";
import { Random } from "../../src/base/random.ts";
import { compact } from "../../src/mm/compaction.ts";
import { MemFile } from "../../src/mm/file.ts";
import { checkQuiescent } from "../../src/mm/invariants.ts";
import { Mm } from "../../src/mm/mm.ts";
import { FakeDevice, MB, PAGE, RecordingNotifier, testPhys } from "./mm-fake-device.ts";

const BASE = 0x7f0000000000;
const TO = BASE + 8 * MB;
const PAGES = 12;
const BYTES = PAGES * PAGE;
const RAM = 1600;

/** What page `i` holds in its first word as long as nobody stores to it. */
function tag(i: number): number {
  return 0x1000 + i;
}

/** Private and shared memory side by side, tagged, watched by callbacks that wait, and a device. */
async function setUp() {
  const phys = testPhys(RAM);
  const mm = new Mm({ phys });
  const device = new FakeDevice(phys, 64);
  const file = new MemFile(phys, { size: BYTES });
  await mm.mmap(BYTES, { at: BASE });
  await mm.mmap(BYTES, { at: BASE + BYTES, file, shared: true });
  for (let i = 0; i < 2 * PAGES; i++) await mm.store32(BASE + i * PAGE, tag(i));
  const watcher = new RecordingNotifier(mm, BASE, BASE + 16 * MB);
  watcher.check = async () => void (await phys.sched.point("callback"));
  await mm.intervalNotifierInsert(watcher);
  return { phys, mm, device, file };
}

type World = Awaited<ReturnType<typeof setUp>>;

/** Every word that can be read is the tag of its page; where the memory has moved to, the same. */
async function readAll(mm: Mm): Promise<void> {
  for (let i = 0; i < 2 * PAGES; i++) {
    for (const at of [BASE, TO]) {
      const value = await mm.load32(at + i * PAGE);
      if (typeof value === "number") expect(value).toBe(tag(i));
      else expect(value.code).toBe("SEGV");
    }
  }
}

const ACTIVITIES: Readonly<Record<string, (w: World) => Promise<unknown>>> = {
  move: async ({ mm }) => {
    await mm.mremap(BASE, BYTES, BYTES, { to: TO });
    await mm.mremap(TO, BYTES, BYTES, { to: BASE });
  },
  moveShared: async ({ mm }) => {
    await mm.mremap(BASE + BYTES, BYTES, BYTES, { to: TO + BYTES });
    await mm.mremap(TO + BYTES, BYTES, BYTES, { to: BASE + BYTES });
  },
  fork: async ({ mm }) => {
    const child = (await mm.fork()) as Mm;
    await readAll(child);
    for (const at of [BASE, TO]) await child.store32(at + 3 * PAGE, 7);
    await child.exit();
  },
  forkTwice: async ({ mm }) => {
    const child = (await mm.fork()) as Mm;
    const grandchild = (await child.fork()) as Mm;
    await child.exit();
    await readAll(grandchild);
    await grandchild.exit();
  },
  read: ({ mm }) => readAll(mm),
  pageout: async ({ mm }) => mm.madvise(BASE, BYTES, "pageout"),
  compact: async ({ phys }) => compact(phys, { maxPages: 32 }),
  migrate: ({ mm, device }) => device.migrate(mm, BASE, BASE + BYTES),
  evict: ({ mm, device }) => {
    const views = Array.from({ length: PAGES }, (_, i) => mm.pageAt(BASE + i * PAGE));
    return device.evict(views.filter((v) => v.kind === "device-private").map((v) => v.pfn));
  },
  collapse: async ({ mm }) => {
    await mm.mmap(2 * MB, { at: BASE + 4 * MB });
    await mm.store32(BASE + 4 * MB, 1);
    await mm.madvise(BASE + 4 * MB, 2 * MB, "collapse");
    await mm.munmap(BASE + 4 * MB, 2 * MB);
  },
  protect: async ({ mm }) => {
    await mm.mprotect(BASE, 2 * BYTES, "R");
    await mm.mprotect(BASE, 2 * BYTES, "RW");
  },
  softDirty: async ({ mm }) => mm.clearSoftDirty(),
  dropShared: async ({ mm }) => mm.dontneed(BASE + BYTES, BYTES),
  pin: async ({ mm }) => {
    const pin = await mm.pin(BASE, 2 * PAGE, { write: true });
    if (typeof pin !== "number") pin.release();
  },
};

describe("system calls, migration, swap and compaction at once", () => {
  const names = Object.keys(ACTIVITIES);

  test("lose no byte, no frame and no reference, in any order of any five of them (200 seeds)", async () => {
    for (let seed = 1; seed <= 200; seed++) {
      const world = await setUp();
      const { phys, mm, device, file } = world;
      const random = new Random(seed);
      const chosen = Array.from({ length: 5 }, () => names[random.below(names.length)]!);
      const what = `seed ${seed}: ${chosen.join(", ")}`;
      try {
        await phys.sched.race<unknown>(
          seed,
          chosen.map((name) => () => ACTIVITIES[name]!(world)),
        );
        checkQuiescent(phys);
        await readAll(mm);
        await mm.exit();
        file.close();
        expect([phys.freePages, device.freePages, phys.swap.used]).toEqual([RAM - 2, 64, 0]);
      } catch (error) {
        throw new Error(what, { cause: error });
      }
    }
  }, 60_000);
});
