/**
 * Misses that no evict policy can avoid: those of Belady's rule, which puts out what is wanted again last. `references`
 * are the chunks in the order of their use, `capacity` how many fit; a chunk that is used must be there.
 */
export function optimalMisses(references: readonly number[], capacity: number): number {
  /** By position: where the same chunk is used next. */
  const next = new Array<number>(references.length).fill(Infinity);
  const seen = new Map<number, number>();
  for (let i = references.length - 1; i >= 0; i--) {
    next[i] = seen.get(references[i]!) ?? Infinity;
    seen.set(references[i]!, i);
  }
  const resident = new Map<number, number>();
  let misses = 0;
  references.forEach((chunk, i) => {
    if (!resident.has(chunk)) {
      misses += 1;
      if (resident.size === capacity) {
        const [victim] = [...resident].reduce((last, candidate) => (candidate[1] > last[1] ? candidate : last));
        resident.delete(victim);
      }
    }
    resident.set(chunk, next[i]!);
  });
  return misses;
}
