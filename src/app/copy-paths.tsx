import type { CopyPathTable } from "../worker/protocol.ts";
import { BENCH_LINK } from "./bench-route.ts";
import { chunk, rate } from "./format.ts";
import { adapter, busy, copyPaths, copyPathsState, measureCopyPaths } from "./session.ts";

/** How fast each way to move bytes is on this adapter, measured on demand. */
export function CopyPaths() {
  const state = copyPathsState.value;
  const measuring = state !== null && "text" in state;
  return (
    <div class="copy-paths">
      <div class="copy-head">
        <p class="muted">
          Each way to move bytes between JavaScript, staging and VRAM, measured quickly on this adapter.{" "}
          <a href={BENCH_LINK}>The benchmark</a> has all sizes and shapes, charts, and comparison.
        </p>
        <button
          type="button"
          disabled={measuring || busy.value || adapter.value === null}
          title={busy.value ? "Not while a run is under way: they would disturb each other" : ""}
          onClick={() => void measureCopyPaths()}
        >
          {measuring ? `${Math.round(state.done * 100)} %` : copyPaths.value === null ? "Measure" : "Measure again"}
        </button>
      </div>
      {measuring && <p class="muted mono">{state.text}</p>}
      {state !== null && "code" in state && (
        <div class="failure" role="alert">
          <b>{state.code}</b> {state.message}
        </div>
      )}
      <Table />
    </div>
  );
}

/** By direction, so that each figure is read against its peers: the bar is its share of the best of them. */
function Table() {
  const table = copyPaths.value;
  if (table === null) return null;
  const directions = [...new Set(table.rows.map(({ direction }) => direction))];
  return (
    <table data-testid="copy-paths">
      <thead>
        <tr>
          <th scope="col">Path</th>
          {table.sizes.map((size) => (
            <th key={size} scope="col">
              {chunk(size)}
            </th>
          ))}
        </tr>
      </thead>
      {directions.map((direction) => (
        <Group key={direction} direction={direction} table={table} />
      ))}
    </table>
  );
}

function Group({ direction, table }: { direction: string; table: CopyPathTable }) {
  const rows = table.rows.filter((row) => row.direction === direction);
  const best = table.sizes.map((_, column) => Math.max(...rows.map(({ rates }) => rates[column] ?? 0)));
  return (
    <tbody>
      <tr class="group">
        <th scope="rowgroup" colSpan={table.sizes.length + 1}>
          {direction === "bound" ? "for comparison" : direction}
        </th>
      </tr>
      {rows.map(({ path, rates }) => (
        <tr key={path}>
          <th scope="row">{path}</th>
          {rates.map((value, column) => (
            <td key={column} style={{ "--share": value === null ? 0 : value / best[column]! }}>
              {value === null ? "–" : rate(value)}
            </td>
          ))}
        </tr>
      ))}
    </tbody>
  );
}
