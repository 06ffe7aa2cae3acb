import { formatTime } from "../bench/series.ts";
import { baseline, changes, comparison } from "./bench-session.ts";

const SHOWN = 200;

/** What changed against the loaded result beyond the noise, largest first. */
export function BenchChanges() {
  const found = comparison.value;
  if (found === null || baseline.value === null) return null;
  const countOf = (wanted: string) => found.changes.filter(({ verdict }) => verdict === wanted).length;
  const unclear = countOf("unclear");
  return (
    <div class="bench-changes" data-testid="bench-changes">
      <p>
        Against <b>{baseline.value.name}</b>: {changes.value.length} of {found.changes.length} changed beyond the noise,{" "}
        {countOf("same")} did not
        {unclear > 0 && `, ${unclear} may have, but have too few samples`}.{" "}
        {found.bound !== null && (
          <span class="muted">The bounds, which depend on no path, changed by {percent(found.bound)}. </span>
        )}
        <span class="muted">
          A change counts from 5 % on, where the 99 % interval of the ratio of the medians leaves out 1.
        </span>
      </p>
      {found.conditions.map((condition) => (
        <p key={condition} class="odd">
          Not the same {condition}
        </p>
      ))}
      {changes.value.length > 0 && (
        <table>
          <thead>
            <tr>
              <th scope="col">Case</th>
              <th scope="col">Before</th>
              <th scope="col">Now</th>
              <th scope="col">Time</th>
              <th scope="col">99 % interval</th>
            </tr>
          </thead>
          <tbody>
            {changes.value.slice(0, SHOWN).map(({ id, before, after, verdict, ratio }) => (
              <tr key={id} class={verdict}>
                <th scope="row">{id.replace(/^paths\//, "").replaceAll("/", " · ")}</th>
                <td>{before.ms === null ? "–" : formatTime(before.ms.median)}</td>
                <td>{after.ms === null ? "–" : formatTime(after.ms.median)}</td>
                <td class="verdict">{ratio === null ? verdict : percent(ratio.value)}</td>
                <td>{ratio === null ? "" : `${percent(ratio.low)} to ${percent(ratio.high)}`}</td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
    </div>
  );
}

/** `"+12 %"` of a ratio 1.12. */
function percent(ratio: number): string {
  const value = Math.round((ratio - 1) * 100);
  return `${value > 0 ? "+" : value < 0 ? "−" : ""}${Math.abs(value)} %`;
}
