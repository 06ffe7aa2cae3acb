import { computed, signal } from "@preact/signals";

/** What stands behind `#` in the address. */
export const hash = signal(location.hash.slice(1));
addEventListener("hashchange", () => (hash.value = location.hash.slice(1)));

/** The benchmark's page is `#bench`, with a selection behind a question mark: `#bench?kind=upload&size=2MiB`. */
export const onBenchPage = computed(() => /^bench(\?|$)/.test(hash.value));
export const BENCH_LINK = "#bench";

/** The selection's part of the address; empty when there is none. */
export function queryOfHash(): string {
  return hash.peek().split("?", 2)[1] ?? "";
}

/** Changes the address without a step in the history. */
export function replaceQuery(query: string): void {
  history.replaceState(null, "", query === "" ? BENCH_LINK : `${BENCH_LINK}?${query}`);
  hash.value = location.hash.slice(1);
}
