import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  CLASS_1G,
  CLASS_2M,
  CLASS_4K,
  CLASS_64K,
  PTE_AE,
  PTE_COMPACT,
  PTE_DM,
  PTE_NULL,
  PTE_P,
  PTE_PS,
  PTE_PS64,
  PTE_W,
  decodePte,
  encodeDirectory,
  encodeLeaf,
} from "../../src/abi/pte.ts";

/** The table of bits that must be zero in a present entry (spec/device.md 2.2), word for word. */
const KINDS: readonly [
  name: string,
  level: number,
  compact: boolean,
  kindBits: number,
  lo: number,
  sizeClass: number,
][] = [
  ["leaf, level 0, ordinary table", 0, false, PTE_NULL, 0x064, CLASS_4K],
  ["leaf, level 0, ordinary table, with the 64 KiB hint", 0, false, PTE_NULL | PTE_PS64, 0x064, CLASS_64K],
  ["leaf, level 0, compact table", 0, true, PTE_NULL, 0x164, CLASS_64K],
  ["leaf, level 1", 1, false, PTE_NULL | PTE_PS, 0x164, CLASS_2M],
  ["leaf, level 2", 2, false, PTE_NULL | PTE_PS, 0x164, CLASS_1G],
  ["directory, level 1", 1, false, 0, 0xf24, -1],
  ["directory, level 2", 2, false, 0, 0xf64, -1],
  ["directory, level 3", 3, false, 0, 0xfe4, -1],
  ["directory, level 4", 4, false, 0, 0xfe4, -1],
];
const MBZ_HI = 0x800fc000;
const VA = 0x7f12_3456_7abc;

const BITS = KINDS.flatMap(([name, level, compact, kindBits, mask]) =>
  Array.from({ length: 63 }, (_, i) => i + 1).map((bit) => {
    const lo = bit < 32 ? 2 ** bit : 0;
    const hi = bit < 32 ? 0 : 2 ** (bit - 32);
    const mustBeZero = (lo & mask) !== 0 || (hi & MBZ_HI) !== 0;
    return { name, level, compact, kindBits, bit, lo, hi, mustBeZero };
  }),
);

describe("every bit of every kind of present entry", () => {
  // The leaves are NULL, so that no address bit breaks an alignment; PS of a directory makes it a leaf.
  test.each(BITS.filter((b) => b.mustBeZero))(
    "$name: bit $bit is malformed",
    ({ level, compact, kindBits, lo, hi }) => {
      expect(decodePte((kindBits | PTE_P | lo) >>> 0, hi, level, compact, VA)).toEqual({ kind: "malformed" });
    },
  );

  test("all other bits are allowed", () => {
    const allowed = BITS.filter((b) => !b.mustBeZero && !(b.level > 0 && b.lo === PTE_PS && b.kindBits === 0));
    expect(allowed.length).toBeGreaterThan(400);
    for (const { name, bit, level, compact, kindBits, lo, hi } of allowed) {
      const { kind } = decodePte((kindBits | PTE_P | lo) >>> 0, hi, level, compact, VA);
      expect(`${name}, bit ${bit}: ${kind}`).toBe(
        `${name}, bit ${bit}: ${name.startsWith("leaf") ? "leaf" : "directory"}`,
      );
    }
  });

  test("an entry that is not present is never malformed, whatever else it holds", () => {
    fc.assert(
      fc.property(fc.nat(0x7fffffff), fc.nat(0xffffffff), fc.nat(4), fc.boolean(), (bits, hi, level, compact) => {
        expect(decodePte(bits * 2, hi, level, compact && level === 0, VA)).toEqual({
          kind: "not-present",
          reason: bits & 7,
        });
      }),
    );
  });
});

describe("leaves", () => {
  const SIZES = [2 ** 12, 2 ** 16, 2 ** 21, 2 ** 30];
  const leaves = KINDS.filter(([name]) => name.startsWith("leaf"));

  test.each(leaves)("%s decodes to what was encoded", (_name, level, compact, kindBits, _mask, sizeClass) => {
    const size = SIZES[sizeClass]!;
    const hint = kindBits & PTE_PS64;
    // A hinted entry carries the address of its own 4 KiB page.
    const inside = hint === 0 ? 0 : (VA % size) - (VA % 4096);
    fc.assert(
      fc.property(fc.nat(2 ** 46 / size - 1), fc.subarray([PTE_W, PTE_AE, PTE_DM, PTE_NULL]), (frame, list) => {
        const flags = list.reduce((all, bit) => all | bit, hint);
        const [lo, hi] = encodeLeaf(frame * size + inside, flags, level);
        const isNull = (flags & PTE_NULL) !== 0;
        expect(decodePte(lo!, hi!, level, compact, VA)).toEqual({
          kind: "leaf",
          sizeClass,
          pa: isNull ? 0 : frame * size,
          w: (flags & PTE_W) !== 0,
          ae: !isNull && (flags & PTE_AE) !== 0,
          vram: (flags & PTE_DM) !== 0,
          isNull,
        });
      }),
    );
  });

  test.each(leaves.filter(([, , , , , c]) => c !== CLASS_4K))(
    "%s of memory wants the alignment of its size, a NULL one does not",
    (_name, level, compact, kindBits, _mask, sizeClass) => {
      const hint = kindBits & PTE_PS64;
      const inside = hint === 0 ? 0 : (VA % 65536) - (VA % 4096);
      for (let bit = 12; 2 ** bit < SIZES[sizeClass]!; bit++) {
        const [lo, hi] = encodeLeaf(2 ** 40 + (inside ^ (2 ** bit)), PTE_W | hint, level);
        expect(decodePte(lo!, hi!, level, compact, VA)).toEqual({ kind: "malformed" });
        expect(decodePte((lo! | PTE_NULL) >>> 0, hi!, level, compact, VA)).toMatchObject({ kind: "leaf", pa: 0 });
      }
    },
  );
});

test.each([1, 2, 3, 4])("a directory of level %i decodes to its table", (level) => {
  const [lo, hi] = encodeDirectory(2 ** 36 + 0x5000);
  expect(decodePte(lo!, hi!, level, false, VA)).toEqual({ kind: "directory", table: 2 ** 36 + 0x5000, compact: false });
  const withBit = decodePte((lo! | PTE_COMPACT) >>> 0, hi!, level, false, VA);
  expect(withBit).toMatchObject(level === 1 ? { kind: "directory", compact: true } : { kind: "malformed" });
});
