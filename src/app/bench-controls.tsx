import { useSignal } from "@preact/signals";
import { PATHS } from "../bench/cells.ts";
import { WARM } from "../bench/selection.ts";
import { cells, choice, choose, estimate, limits, type OptionName, OPTIONS, thorough, toggle } from "./bench-choice.ts";
import { cancel, progress, runChosen } from "./bench-session.ts";
import { chunk } from "./format.ts";
import { adapter, busy } from "./session.ts";

const MODE_LABELS: Readonly<Record<string, string>> = {
  [WARM]: "again and again",
  "first touch": "first touch",
  "8 in flight": "8 in flight",
};

/** What to measure, and the button that does it. */
export function BenchControls() {
  return (
    <aside class="panel bench-controls" aria-label="What to measure">
      <div class="panel-body">
        <Chips key="kinds" title="Direction" option="kinds" label={String} />
        <Chips key="sizes" title="Size" option="sizes" label={(bytes) => chunk(Number(bytes))} />
        <Chips key="layouts" title="Pages" option="layouts" label={String} />
        <Chips key="modes" title="How" option="modes" label={(mode) => MODE_LABELS[String(mode)]!} />
        <PathList />
        <div class="bench-row">
          <label class="field">
            <span>Effort</span>
            <select
              aria-label="Effort"
              value={String(thorough.value)}
              onChange={(event) => (thorough.value = event.currentTarget.value === "true")}
            >
              <option value="false">quick, 15 samples</option>
              <option value="true">thorough, 60</option>
            </select>
          </label>
          <label class="field">
            <span>Limits</span>
            <select
              aria-label="Limits"
              value={limits.value}
              onChange={(event) => (limits.value = event.currentTarget.value as "adapter" | "default")}
            >
              <option value="adapter">the adapter's</option>
              <option value="default">WebGPU's defaults</option>
            </select>
          </label>
        </div>
      </div>
      <RunBox />
    </aside>
  );
}

function Chips(props: { title: string; option: OptionName; label: (value: string | number) => string }) {
  const chosen = choice.value[props.option] as readonly (string | number)[];
  return (
    <fieldset class="bench-chips">
      <legend>{props.title}</legend>
      {OPTIONS[props.option].map((value) => (
        <button
          key={value}
          type="button"
          class="toggle"
          aria-pressed={chosen.includes(value)}
          onClick={() => toggle(props.option, value)}
        >
          {props.label(value)}
        </button>
      ))}
    </fieldset>
  );
}

/** Single paths, for whoever wants one of them only. */
function PathList() {
  const chosen = choice.value.names;
  const all = chosen.length === OPTIONS.names.length;
  const kinds = choice.value.kinds;
  const count = PATHS.filter(({ name, kind }) => kinds.includes(kind) && chosen.includes(name)).length;
  return (
    <details class="bench-paths">
      <summary>
        Paths <span class="muted">{all ? `all ${count}` : `${count} of ${OPTIONS.names.length}`}</span>
      </summary>
      <div class="bench-row">
        <button type="button" class="toggle" disabled={all} onClick={() => choose("names", OPTIONS.names)}>
          All
        </button>
        <button type="button" class="toggle" disabled={chosen.length === 0} onClick={() => choose("names", [])}>
          None
        </button>
      </div>
      {OPTIONS.kinds
        .filter((kind) => kinds.includes(kind))
        .map((kind) => (
          <div key={kind} class="bench-path-group">
            <h3>{kind}</h3>
            {PATHS.filter((path) => path.kind === kind).map(({ name, how }) => (
              <label key={name} title={how}>
                <input type="checkbox" checked={chosen.includes(name)} onChange={() => toggle("names", name)} /> {name}
              </label>
            ))}
          </div>
        ))}
    </details>
  );
}

function RunBox() {
  const state = progress.value;
  const count = cells.value.reduce((sum, cell) => sum + cell.paths.length, 0);
  const blocked = busy.value ? "A run of the workbench is under way: they would disturb each other." : "";
  return (
    <div class="bench-run">
      {state === null ? (
        <button
          type="button"
          class="primary"
          title={blocked}
          disabled={count === 0 || blocked !== "" || adapter.value === null}
          onClick={() => void runChosen()}
        >
          Measure
        </button>
      ) : (
        <button type="button" onClick={cancel}>
          Cancel
        </button>
      )}
      <p class="muted" role="status" data-testid="bench-progress">
        {state === null
          ? count === 0
            ? "Nothing is chosen."
            : blocked || `${count} cases, about ${duration(estimate.value)}`
          : `${Math.round(state.done * 100)} % · ${state.text}`}
      </p>
      <CopyLink />
      <span
        class={`progress ${state === null ? "hidden" : ""}`}
        role="progressbar"
        aria-label="Progress of the benchmark"
        aria-valuenow={Math.round((state?.done ?? 0) * 100)}
        style={{ "--progress": state?.done ?? 0 }}
      />
    </div>
  );
}

function duration(seconds: number): string {
  if (seconds < 90) return `${Math.max(5, Math.round(seconds / 5) * 5)} s`;
  return `${Math.round(seconds / 60)} min`;
}

function CopyLink() {
  const copied = useSignal(false);
  return (
    <button
      type="button"
      class="icon wide"
      title="A link that opens this page with this choice"
      onClick={async () => {
        await navigator.clipboard.writeText(location.href);
        copied.value = true;
        setTimeout(() => (copied.value = false), 1500);
      }}
    >
      {copied.value ? "Copied" : "Copy link"}
    </button>
  );
}
