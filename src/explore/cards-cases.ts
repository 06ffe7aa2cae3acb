import type { Random } from "../base/random.ts";
import type { Cards } from "./cards.ts";
import { type Case, DEFAULTS, FILL, dontneed, fillOf, munmap, pageout, pause, read, write } from "./case.ts";
import type { Op, Program } from "./program.ts";
import { randomPolicies, randomProgram } from "./random-program.ts";

/**
 * Races of two places where a GPU works on the same pages of one process: two devices, with a link or without, or two tiles
 * of one. Each race is one case for each kind of machine, named after both.
 */
type Pair = Exclude<Cards, "one">;

const PAIRS: readonly { readonly cards: Pair; readonly about: string }[] = [
  { cards: "apart", about: "two devices without a link" },
  { cards: "linked", about: "two linked devices" },
  { cards: "tiles", about: "two tiles of a device" },
];

/** The operations of one place of a pair. */
class Place {
  readonly vm: number;
  readonly device: number;
  readonly tile: number;

  constructor(cards: Pair, number: number) {
    this.vm = cards === "tiles" ? 0 : number;
    this.device = this.vm;
    this.tile = cards === "tiles" ? number : 0;
  }

  gread(page: number, pages: number): Op {
    return { op: "gread", vm: this.vm, tile: this.tile, page, pages, word: 2 };
  }
  gwrite(page: number, pages: number): Op {
    return { op: "gwrite", vm: this.vm, tile: this.tile, page, pages, word: 1 };
  }
  streamed(op: "gread" | "gwrite", pages: number): Op {
    return { op, vm: this.vm, tile: this.tile, page: 0, pages, word: 1, streamed: true };
  }
  move(op: "prefetch" | "prefetchAdvised" | "toVram", page: number, pages: number): Op {
    return { op, vm: this.vm, tile: this.tile, page, pages };
  }
  migrate(page: number, pages: number): Op {
    return { op: "migrate", vm: this.vm, tile: this.tile, page, pages, slice: 0 };
  }
  toSys(page: number, pages: number): Op {
    return { op: "toSys", vm: this.vm, page, pages };
  }
  evict(pages = 32): Op {
    return { op: "evict", device: this.device, tile: this.tile, pages };
  }
  /** What it uses of the pages had best lie in the memory of `where`. */
  prefer(where: Place, page: number, pages: number): Op {
    return { op: "prefer", vm: this.vm, loc: where.device, tile: where.tile, page, pages };
  }
  preferSystem(page: number, pages: number): Op {
    return { op: "prefer", vm: this.vm, loc: "system", page, pages };
  }
}

/** A race of places `a` and `b`; the program for `defaults` of their machine. */
interface Race {
  readonly name: string;
  readonly about: string;
  readonly every?: number;
  readonly program: (r: Random, a: Place, b: Place, defaults: PairDefaults) => Program;
}

type PairDefaults = ReturnType<typeof defaultsOf>;

function defaultsOf(cards: Pair) {
  return cards === "tiles" ? { ...DEFAULTS, cards } : { ...DEFAULTS, cards, vms: 2, vmDevices: [0, 1] };
}

function one<T>(r: Random, ...of: readonly T[]): T {
  return of[r.below(of.length)]!;
}

/** What the process does with its mapping under both. */
function changeOf(r: Random): Op {
  const page = r.below(12);
  const pages = 1 + r.below(8);
  switch (r.below(6)) {
    case 0:
      return munmap(page, pages);
    case 1:
      return { op: "mprotect", who: 0, page, pages, prot: one(r, "R", "NONE", "RW") };
    case 2:
      return { op: "mremap", who: 0, page, pages };
    case 3:
      return { op: "fork" };
    case 4:
      return { op: "remap", who: 0, page, pages };
    default:
      return dontneed(page, pages);
  }
}

/** What any place may be asked for besides accesses. */
function moveOf(r: Random, place: Place): Op {
  const page = r.below(12);
  const pages = 1 + r.below(16 - page);
  switch (r.below(5)) {
    case 0:
      return place.move("prefetch", page, pages);
    case 1:
      return place.move("toVram", page, pages);
    case 2:
      return place.migrate(0, 16);
    case 3:
      return place.toSys(page, pages);
    default:
      return place.evict(pages);
  }
}

const RACES: readonly Race[] = [
  {
    name: "share",
    about: "write and read the same pages, which the CPU uses too",
    program: (r, a, b, defaults) => ({
      ...defaults,
      setup: r.below(2) === 0 ? [FILL] : [FILL, one(r, a, b).gwrite(0, 16)],
      activities: [
        [a.gwrite(0, 16), a.gread(r.below(8), 8)],
        [pause(r, 8), b.gwrite(r.below(8), 8), b.gread(0, 16)],
        [pause(r), read(r.below(16)), write(r.below(16)), read(r.below(16))],
      ],
    }),
  },
  {
    name: "change",
    about: "use pages that are unmapped, protected, moved, replaced, discarded and shared",
    program: (r, a, b, defaults) => ({
      ...defaults,
      migrate: r.below(4) > 0,
      setup: [FILL, one(r, a, b).gwrite(0, 16)],
      activities: [
        [a.gwrite(0, 16), a.gread(0, 16)],
        [pause(r), b.gread(0, 16), b.gwrite(r.below(8), 8)],
        [pause(r), changeOf(r), pause(r), changeOf(r)],
        [pause(r), write(r.below(16)), read(r.below(16)), write(r.below(16), 1, r.below(2))],
      ],
    }),
  },
  {
    name: "evict",
    about: "use pages while memory of either is evicted",
    program: (r, a, b, defaults) => ({
      ...defaults,
      setup: [FILL, a.gwrite(0, 16)],
      activities: [
        [b.gread(0, 16), b.gwrite(0, 8)],
        [pause(r), a.gwrite(r.below(8), 8), a.gread(0, 16)],
        [pause(r, 48), a.evict(), b.evict()],
        [pause(r, 48), one(r, a, b).evict(), write(r.below(16)), one(r, a, b).evict()],
      ],
    }),
  },
  {
    name: "moves",
    about: "move the same pages to and fro on request",
    program: (r, a, b, defaults) => ({
      ...defaults,
      migrate: r.below(4) > 0,
      setup: [FILL, a.gwrite(0, r.below(16) + 1)],
      activities: [
        [moveOf(r, a), a.gwrite(r.below(8), 8), moveOf(r, a)],
        [pause(r, 12), moveOf(r, b), b.gread(0, 16), moveOf(r, b)],
        [pause(r), write(r.below(16)), dontneed(r.below(12), 4), read(r.below(16))],
      ],
    }),
  },
  {
    name: "advice",
    about: "are told to keep pages in the memory of the other, or in RAM",
    program: (r, a, b, defaults) => ({
      ...defaults,
      setup: [FILL, a.prefer(one(r, a, b), 0, 16), b.prefer(a, 0, 16)],
      activities: [
        [b.gwrite(0, 16), b.move("prefetchAdvised", 0, 16), b.gread(r.below(8), 8)],
        [pause(r), a.gwrite(r.below(8), 8), a.gread(0, 16), one(r, a, b).evict()],
        [pause(r), b.prefer(one(r, a, b), r.below(12), 1 + r.below(4)), a.preferSystem(r.below(12), 4)],
        [pause(r), write(r.below(16)), changeOf(r), read(r.below(16))],
      ],
    }),
  },
  {
    name: "pressure",
    about: "use more pages than the memory of each holds",
    program: (r, a, b, defaults) => ({
      ...defaults,
      pages: 24,
      vram: 16,
      setup: [FILL],
      activities: [
        [a.gwrite(0, 20), a.gread(r.below(16), 4)],
        [pause(r), b.gwrite(r.below(16), 8), b.gread(4, 20)],
        [pause(r), write(r.below(24)), read(r.below(24)), dontneed(r.below(16), 8)],
      ],
    }),
  },
  {
    name: "in-place",
    about: "reach the same system memory where it lies",
    program: (r, a, b, defaults) => ({
      ...defaults,
      migrate: false,
      setup: [FILL, a.gwrite(0, 16), b.gwrite(0, 16)],
      activities: [
        [a.gwrite(0, 4), a.gwrite(4, 8), a.gread(0, 16)],
        [b.gwrite(2, 4), b.gread(0, 8), b.gwrite(8, 8)],
        [read(r.below(16)), write(r.below(8)), read(8), write(2), changeOf(r)],
        [pause(r), { op: "compact" }, pageout(r.below(12), 4), moveOf(r, one(r, a, b))],
      ],
    }),
  },
  {
    name: "close",
    about: "use pages while an address space that maps them, or the process, comes to its end",
    program: (r, a, b, defaults) => ({
      ...defaults,
      migrate: r.below(3) > 0,
      // On tiles the first two address spaces are on the same device.
      vms: 2,
      setup: [FILL, a.gwrite(0, 8), b.gwrite(8, 8)],
      activities: [
        [pause(r, 48), r.below(3) === 0 ? { op: "exit", who: 0 } : { op: "close", vm: r.below(2) }],
        [a.gwrite(0, 16), a.gread(0, 16), a.evict()],
        [pause(r), b.gread(0, 16), b.gwrite(r.below(8), 8)],
        [pause(r), read(r.below(16)), changeOf(r), write(r.below(16))],
      ],
    }),
  },
  {
    name: "unbind",
    about: "use pages while a device goes",
    program: (r, a, b, defaults) => ({
      ...defaults,
      migrate: r.below(3) > 0,
      setup: r.below(2) === 0 ? [FILL, a.gwrite(0, 16)] : [FILL, a.gwrite(0, 8), b.gwrite(8, 8), { op: "fork" }],
      activities: [
        [pause(r, 48), { op: "unbind", device: one(r, a, b).device }],
        [a.gwrite(0, 16), a.gread(0, 16), moveOf(r, a)],
        [pause(r), b.gread(0, 16), b.prefer(a, 0, 16), b.gwrite(0, 16)],
        [pause(r), read(r.below(16), r.below(2)), write(r.below(16)), changeOf(r)],
      ],
    }),
  },
  {
    name: "failures",
    about: "move pages between them while copies fail",
    program: (r, a, b, defaults) => ({
      ...defaults,
      failures: { toDevice: [1 + r.below(3), 4 + r.below(3)], toRam: [1 + r.below(3), 4] },
      setup: [FILL, { op: "toVram", vm: 0, page: 0, pages: 16 }],
      activities: [
        [b.gwrite(0, 16), b.gread(0, 16)],
        [pause(r), moveOf(r, a), a.gwrite(r.below(8), 8)],
        [pause(r), read(r.below(16)), write(r.below(16)), one(r, a, b).evict()],
      ],
    }),
  },
  {
    name: "pinned",
    about: "want pages that somebody holds, swaps out, or takes for a device alone",
    program: (r, a, b, defaults) => ({
      ...defaults,
      migrate: r.below(4) > 0,
      setup: [FILL, a.gwrite(0, 16)],
      activities: [
        [b.gwrite(0, 16), moveOf(r, b)],
        [pause(r), a.gread(0, 16), a.gwrite(r.below(8), 8)],
        [pause(r), { op: "pin", who: 0, page: r.below(14), pages: 2, points: r.below(60) }, { op: "compact" }],
        [pause(r), pageout(r.below(8), 8), { op: "exclusive", who: 0, page: r.below(16) }, read(r.below(16))],
      ],
    }),
  },
  {
    name: "streamed",
    about: "walk through the same memory ahead of their faults",
    every: 6,
    program: (r, a, b, defaults) => ({
      ...defaults,
      pages: 48,
      migrate: r.below(4) > 0,
      setup: [fillOf(48)],
      activities: [
        [a.streamed("gwrite", 48), a.streamed("gread", 48)],
        [pause(r), b.streamed("gread", 48), b.streamed("gwrite", 48)],
        [pause(r), write(r.below(48)), changeOf(r), one(r, a, b).evict(), read(r.below(48))],
      ],
    }),
  },
  {
    name: "random",
    about: "do anything",
    program: (r, a, b, defaults) => {
      const program = randomProgram(r, one(r, "any", "map", "move", "move"));
      const vmDevices = Array.from({ length: program.vms }, (_, vm) => (vm === 0 ? 0 : b.device));
      const { cards } = defaults;
      const placed = (op: Op): Op => placedOp(r, op, a, b);
      return {
        ...program,
        cards,
        vmDevices,
        setup: program.setup.map(placed),
        activities: program.activities.map((ops) => ops.map(placed)),
      };
    },
  },
  {
    name: "policies",
    about: "move pages, or leave them for reading, as their policies say",
    program: (r, a, b, defaults) => ({
      ...defaults,
      policies: randomPolicies(r),
      vram: one(r, 16, 32),
      setup: [FILL, one(r, a, b).move("toVram", 0, 16)],
      activities: [
        [a.gread(0, 16), moveOf(r, b), a.gwrite(r.below(8), 8), a.gread(0, 16)],
        [pause(r), b.gread(0, 16), moveOf(r, a), b.gwrite(r.below(8), 8)],
        [pause(r), read(r.below(16)), { op: "pin", who: 0, page: r.below(14), pages: 2, points: r.below(60) }],
        [pause(r), write(r.below(16)), changeOf(r), read(r.below(16))],
      ],
    }),
  },
  {
    name: "huge",
    about: "write, split, discard, share and move 2 MiB pages",
    every: 24,
    program: (r, a, b, defaults) => ({
      ...defaults,
      pages: 512,
      vram: 1024,
      huge: true,
      setup: [fillOf(512), a.gwrite(r.below(500), 4)],
      activities: [
        [b.gwrite(r.below(500), 8), b.gread(r.below(500), 4)],
        [pause(r), a.gwrite(r.below(500), 8), one(r, a, b).evict(512)],
        [pause(r), hugeChangeOf(r), write(r.below(512)), read(r.below(512))],
      ],
    }),
  },
];

function hugeChangeOf(r: Random): Op {
  const page = r.below(500);
  return one(r, { op: "fork" } as const, munmap(page, 8), dontneed(page, 12), {
    op: "mprotect",
    who: 0,
    page,
    pages: 8,
    prot: "R",
  } as const);
}

/** The same on either device or tile. */
function placedOp(r: Random, op: Op, a: Place, b: Place): Op {
  const { device, tile } = one(r, a, b);
  switch (op.op) {
    case "gread":
    case "gwrite":
    case "prefetch":
    case "toVram":
    case "migrate":
      return { ...op, tile };
    case "evict":
      return { ...op, device, tile };
    case "unbind":
      return { ...op, device };
    case "compact":
      return { op: "prefer", vm: r.below(2), page: r.below(12), pages: 4, loc: device, tile };
    default:
      return op;
  }
}

export const CARDS_CASES: readonly Case[] = PAIRS.flatMap(({ cards, about }) =>
  RACES.map((race): Case => {
    const [a, b] = [new Place(cards, 0), new Place(cards, 1)];
    return {
      name: `${cards}-${race.name}`,
      about: `${about} ${race.about}`,
      program: (random) => race.program(random, a, b, defaultsOf(cards)),
      ...(race.every === undefined ? {} : { every: race.every }),
    };
  }),
);
