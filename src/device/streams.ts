import { selectBank, wordAccess } from "./banks.ts";
import type { BankLayout } from "./banks.ts";

/**
 * Loops over the words of a page that choose their memory bank once, in front of the loop: what a kernel that streams
 * wants where VRAM is several buffers, because a choice inside the loop is paid per word (spec/device.md 3.8: 4.5 times the
 * plain kernel with four banks, 1.3 so). WGSL has no function values, so the body is a function of a fixed name that the
 * kernel defines:
 *
 *     svm_fold(source, words, index)       fn fold_word(value: u32, index: u32)                  for every word
 *     svm_map(source, to, words, index)    fn map_word(value: u32, index: u32) -> u32            to = map(source)
 *     svm_zip(source, to, words, index)    fn zip_words(a: u32, b: u32, index: u32) -> u32       to = zip(source, to)
 *
 * `source` and `to` are locations, `index` counts up from the value given. A loop ends with the page of either. The text is
 * generated for the streams that a kernel calls: one loop per bank, or per pair of banks.
 */
export function streamsWgsl(layout: BankLayout, atomics: boolean, kernel: string): string {
  const { load, store } = wordAccess(atomics);
  const uses = (name: string) => new RegExp(`\\b${name}\\b`).test(kernel);
  const loop = (body: string) => `for (var i = 0u; i < n; i++) { ${body} }`;
  const pair = (value: (a: string, b: string) => string) =>
    selectBank(layout, "source", (a) =>
      selectBank(layout, "target_at", (b) => loop(store(b("i"), value(load(a("i")), load(b("i")))))).replaceAll(
        "\n",
        " ",
      ),
    );
  // One check for the whole stretch: it ends with the page, and what may be written is whole pages.
  const target = "let target_at = svm_reach(to, 1u, SVM_SINK);";
  const both = "let n = min(words, min(1024u - (source & 1023u), 1024u - (target_at & 1023u)));";
  const parts: string[] = [];
  if (uses("svm_fold")) {
    parts.push(
      "fn svm_fold(source: u32, words: u32, index: u32) {",
      "  let n = min(words, 1024u - (source & 1023u));",
      `${selectBank(layout, "source", (place) => loop(`fold_word(${load(place("i"))}, index + i);`))}}`,
    );
  }
  if (uses("svm_map")) {
    parts.push(
      `fn svm_map(source: u32, to: u32, words: u32, index: u32) {\n  ${target}\n  ${both}`,
      `${pair((a) => `map_word(${a}, index + i)`)}}`,
    );
  }
  if (uses("svm_zip")) {
    parts.push(
      `fn svm_zip(source: u32, to: u32, words: u32, index: u32) {\n  ${target}\n  ${both}`,
      // What stands in the sink is not what was stored there: NULL pages read as zero.
      "  let kept = select(0xffffffffu, 0u, target_at == SVM_SINK);",
      `${pair((a, b) => `zip_words(${a}, ${b} & kept, index + i)`)}}`,
    );
  }
  return parts.length === 0 ? "" : `${parts.join("\n")}\n`;
}
