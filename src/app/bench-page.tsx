import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { adapterOf, browserOf } from "../bench/compare.ts";
import { BenchBandwidth } from "./bench-bandwidth.tsx";
import { BenchChanges } from "./bench-changes.tsx";
import { followAddress } from "./bench-choice.ts";
import { BenchControls } from "./bench-controls.tsx";
import { BenchHeat } from "./bench-heat.tsx";
import { BenchLatency } from "./bench-latency.tsx";
import {
  baseline,
  changes,
  EXPORTS,
  facet,
  facets,
  failure,
  load,
  origin,
  progress,
  rows,
  save,
  show,
  shown,
} from "./bench-session.ts";
import { ThemeButton } from "./bench-theme.tsx";

/** The benchmark of the copy paths: choose, measure, look, compare, take away. */
export function BenchPage() {
  useEffect(followAddress, []);
  return (
    <div class="page bench">
      <header class="toolbar">
        <div class="brand">
          <h1>Copy paths</h1>
        </div>
        <a href="#" class="bench-back">
          Workbench
        </a>
        <span class="grow" />
        <Files />
        <ThemeButton />
      </header>
      {failure.value !== null && (
        <div class="failure bench-failure" role="alert">
          <b>{failure.value.code}</b> {failure.value.message}
        </div>
      )}
      <main class="bench-board">
        <BenchControls />
        {rows.value.length === 0 ? <Welcome /> : <Results />}
      </main>
    </div>
  );
}

/** Take results away, bring one, compare with one. */
function Files() {
  const none = rows.value.length === 0;
  return (
    <div class="bench-files">
      <FileButton
        label="Load…"
        title="Show a result file"
        onFile={(file) => void load(file, "shown")}
        id="bench-load"
      />
      <FileButton
        label="Compare with…"
        title="A result file to compare what is shown with"
        onFile={(file) => void load(file, "baseline")}
        id="bench-compare"
      />
      <span class="muted bench-save">Save</span>
      {(Object.keys(EXPORTS) as (keyof typeof EXPORTS)[]).map((ending) => (
        <button key={ending} type="button" disabled={none || facet.value === null} onClick={() => save(ending)}>
          {ending.endsWith(".svg") ? ending.replace(".svg", " SVG") : ending.toUpperCase()}
        </button>
      ))}
    </div>
  );
}

function FileButton(props: { label: string; title: string; id: string; onFile: (file: File) => void }) {
  const input = useRef<HTMLInputElement>(null);
  return (
    <>
      <button type="button" title={props.title} onClick={() => input.current!.click()}>
        {props.label}
      </button>
      <input
        ref={input}
        type="file"
        accept=".json,application/json"
        hidden
        data-testid={props.id}
        onChange={(event) => {
          const file = event.currentTarget.files?.[0];
          if (file !== undefined) props.onFile(file);
          event.currentTarget.value = "";
        }}
      />
    </>
  );
}

function Welcome() {
  return (
    <section class="panel bench-welcome">
      <h2>How do bytes best reach this adapter, and come back?</h2>
      <p>
        Every way that WebGPU offers between JavaScript, staging buffers and device memory, measured side by side: in
        random order, so that a slow second hits all of them alike; with the interval that the median lies in; beside
        the memory copy of JavaScript, which no path can beat, and the least wait of a readback. Before and after, every
        word of every destination is checked.
      </p>
      <p class="muted">
        {progress.value === null
          ? "Choose at the side and press Measure, or load a result."
          : "The first results appear when all paths have moved the smallest size."}
      </p>
    </section>
  );
}

function Results() {
  const tab = useSignal<"map" | "changes">("map");
  const onChanges = tab.value === "changes" && baseline.value !== null;
  return (
    <div class="bench-results">
      <Conditions />
      <FacetBar />
      <div class="bench-charts">
        <BenchBandwidth />
        <BenchLatency />
      </div>
      <section class="panel bench-below">
        <div class="panel-head tabs" role="tablist" aria-label="Map and changes">
          <button type="button" role="tab" aria-selected={!onChanges} onClick={() => (tab.value = "map")}>
            Every path by size
          </button>
          {baseline.value !== null && (
            <button type="button" role="tab" aria-selected={onChanges} onClick={() => (tab.value = "changes")}>
              Changes <span class="tag">{changes.value.length}</span>
            </button>
          )}
          {!onChanges && (
            <span class="actions muted">shade: share of the best of its direction and size; click to choose</span>
          )}
        </div>
        <div class="panel-body">{onChanges ? <BenchChanges /> : <BenchHeat />}</div>
      </section>
    </div>
  );
}

/** Where the figures come from, and whether every byte was right. */
function Conditions() {
  const result = shown.value!;
  const wrong = rows.value.filter(({ error }) => error !== null);
  const { options, date } = result;
  const limits = options.limits === "default" ? "WebGPU's default limits" : "the adapter's limits";
  const browser = browserOf(result);
  return (
    <p class="bench-conditions" data-testid="bench-conditions">
      <span
        class={`pill ${wrong.length > 0 ? "phase-failed" : progress.value !== null ? "phase-running" : "phase-passed"}`}
      >
        {wrong.length > 0
          ? `${wrong.length} of ${rows.value.length} wrong`
          : progress.value !== null
            ? "Measuring"
            : `${rows.value.length} cases, every byte right`}
      </span>
      <span class="muted">
        {[
          origin.value,
          adapterOf(result),
          limits,
          browser === "" ? "" : `browser ${browser}`,
          `${date.slice(0, 16).replace("T", " ")} UTC`,
        ]
          .filter(Boolean)
          .join(" · ")}
      </span>
      {wrong.slice(0, 3).map(({ name, kind, error }) => (
        <span key={`${kind}${name}`} class="wrong">
          {kind}, {name}: {error}
        </span>
      ))}
    </p>
  );
}

/** Which direction, pages and mode the charts show; only what was measured can be chosen. */
function FacetBar() {
  const chosen = facet.value;
  if (chosen === null) return null;
  const kinds = [...new Set(facets.value.map(({ kind }) => kind))];
  const layouts = [...new Set(facets.value.map(({ layout }) => layout))];
  const modes = [...new Set(facets.value.map(({ mode }) => mode))];
  return (
    <div class="bench-facets" role="group" aria-label="What the charts show">
      {kinds.map((kind) => (
        <button
          key={kind}
          type="button"
          class="toggle"
          aria-pressed={kind === chosen.kind}
          onClick={() => show({ kind })}
        >
          {kind}
        </button>
      ))}
      {layouts.length > 1 && <span class="bar" />}
      {layouts.length > 1 &&
        layouts.map((layout) => (
          <button
            key={layout}
            type="button"
            class="toggle"
            aria-pressed={layout === chosen.layout}
            onClick={() => show({ layout })}
          >
            {layout}
          </button>
        ))}
      {modes.length > 1 && <span class="bar" />}
      {modes.length > 1 &&
        modes.map((mode) => (
          <button
            key={mode ?? ""}
            type="button"
            class="toggle"
            aria-pressed={mode === chosen.mode}
            onClick={() => show({ mode })}
          >
            {mode ?? "again and again"}
          </button>
        ))}
    </div>
  );
}
