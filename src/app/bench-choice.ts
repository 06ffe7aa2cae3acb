import { computed, effect, signal } from "@preact/signals";
import { PATH_KINDS, PATH_LAYOUTS, PATH_MODES, PATH_SIZES, PATHS, planCells } from "../bench/cells.ts";
import type { Selection } from "../bench/result.ts";
import { selectionFromQuery, selectionToQuery, selects, WARM } from "../bench/selection.ts";
import { hash, onBenchPage, queryOfHash, replaceQuery } from "./bench-route.ts";
import { adapter } from "./session.ts";

const MIB = 2 ** 20;

/** The lists from which the user chooses; a key of the choice is a key of Selection. */
export const OPTIONS = {
  kinds: PATH_KINDS as readonly string[],
  sizes: PATH_SIZES as readonly number[],
  layouts: PATH_LAYOUTS as readonly string[],
  modes: PATH_MODES as readonly string[],
  names: [...new Set(PATHS.map(({ name }) => name))] as readonly string[],
} as const;
export type OptionName = keyof typeof OPTIONS;

/** What one sees first: every path, in half a minute. */
const DEFAULTS: Required<Selection> = {
  kinds: OPTIONS.kinds,
  sizes: OPTIONS.sizes.filter((bytes) => bytes <= 2 * MIB),
  layouts: ["contiguous"],
  modes: [WARM],
  names: OPTIONS.names,
};

export const choice = signal<Required<Selection>>(DEFAULTS);
export const thorough = signal(false);
export const limits = signal<"adapter" | "default">("adapter");

/** What a run is asked for: a list that is complete is left out, so that a link stays short and later paths join. */
export const selection = computed<Selection>(() => {
  const part: Record<string, unknown> = {};
  for (const key of Object.keys(OPTIONS) as OptionName[]) {
    if (choice.value[key].length < OPTIONS[key].length) part[key] = choice.value[key];
  }
  return part as Selection;
});

/** The cells of the choice; the adapter's own limit is known to the run only. */
export const cells = computed(() => {
  const chosen = selection.value;
  const largest = limits.value === "default" ? 128 * MIB : (adapter.value?.maxBindingBytes ?? 2 ** 30);
  return planCells({ quick: false, chosen: true, selected: (row) => selects(chosen, row) }, largest);
});

/** About how long the run takes, seconds: small cells end with their samples, large ones with the time box. */
export const estimate = computed(() => {
  const seconds = (bytes: number, paths: number) => {
    const once = paths * (0.003 + (bytes / MIB) * 0.003);
    const checks = paths * 0.04 + once * 8;
    return (
      checks +
      (thorough.value ? Math.min(once * 63, Math.max(10, once * 6)) : Math.min(once * 18, Math.max(1, once * 6)))
    );
  };
  return cells.value.reduce((sum, cell) => sum + seconds(cell.bytes, cell.paths.length), 0);
});

/** Puts a value into a list of the choice or takes it out; the order stays that of the options. */
export function toggle(key: OptionName, value: string | number): void {
  const list = choice.value[key] as readonly (string | number)[];
  const next = list.includes(value) ? list.filter((other) => other !== value) : [...list, value];
  const ordered = (OPTIONS[key] as readonly (string | number)[]).filter((option) => next.includes(option));
  choice.value = { ...choice.value, [key]: ordered };
}

export function choose(key: OptionName, values: readonly (string | number)[]): void {
  choice.value = { ...choice.value, [key]: values };
}

/** From then on the address carries the choice, and a link that is followed changes it. */
export function followAddress(): () => void {
  const read = effect(() => {
    const query = onBenchPage.value ? (hash.value, queryOfHash()) : "";
    if (query === "" || query === currentQuery()) return;
    const wanted = selectionFromQuery(query);
    const known = <T>(options: readonly T[], values: readonly T[] | undefined) =>
      values === undefined ? options : options.filter((option) => values.includes(option));
    choice.value = {
      kinds: known(OPTIONS.kinds, wanted.kinds),
      sizes: known(OPTIONS.sizes, wanted.sizes),
      layouts: known(OPTIONS.layouts, wanted.layouts),
      modes: known(OPTIONS.modes, wanted.modes),
      names: known(OPTIONS.names, wanted.names),
    };
    thorough.value = /(^|&)effort=thorough(&|$)/.test(query);
    limits.value = /(^|&)limits=default(&|$)/.test(query) ? "default" : "adapter";
  });
  const write = effect(() => {
    const query = queryOf(choice.value, thorough.value, limits.value);
    if (onBenchPage.peek() && query !== queryOfHash()) replaceQuery(query);
  });
  return () => {
    read();
    write();
  };
}

function currentQuery(): string {
  return queryOf(choice.peek(), thorough.peek(), limits.peek());
}

function queryOf(_: unknown, isThorough: boolean, whichLimits: "adapter" | "default"): string {
  return [
    selectionToQuery(selection.peek()),
    isThorough ? "effort=thorough" : "",
    whichLimits === "default" ? "limits=default" : "",
  ]
    .filter((part) => part !== "")
    .join("&");
}
