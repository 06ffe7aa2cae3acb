import { bytes, count, seconds } from "./format.ts";
import { adapter, counters, run, trouble } from "./session.ts";
import { COUNTER } from "../worker/protocol.ts";

const PHASES = {
  idle: "Ready",
  starting: "Starting",
  running: "Running",
  paused: "Paused",
  passed: "Passed",
  failed: "Failed",
  stopped: "Stopped",
} as const;

/** One line on the run and one on the adapter it runs on. */
export function AdapterBar() {
  const state = run.value;
  return (
    <div class="adapter-bar">
      <span class={`pill phase-${state.phase}`} data-testid="phase" role="status">
        {adapter.value !== null ? PHASES[state.phase] : trouble.value === null ? "Connecting" : "No device"}
      </span>
      {state.title !== "" && <span class="run-title">{state.title}</span>}
      {state.note !== "" && <span class="muted">{state.note}</span>}
      {state.run > 0 && (
        <span class="muted mono">
          round {count(counters.value[COUNTER.rounds]!)} · {seconds(state.elapsedMs)}
        </span>
      )}
      <span class="grow" />
      <Adapter />
      <span
        class={`progress ${state.progress === null ? "hidden" : ""}`}
        role="progressbar"
        aria-label="Progress of the run"
        aria-valuenow={Math.round((state.progress ?? 0) * 100)}
        style={{ "--progress": state.progress ?? 0 }}
      />
    </div>
  );
}

function Adapter() {
  const info = adapter.value;
  if (info === null) return null;
  const limits =
    info.maxBufferBytes > 0
      ? `buffers up to ${bytes(info.maxBufferBytes)}, bindings up to ${bytes(info.maxBindingBytes)}`
      : "";
  return (
    <span
      class="adapter"
      data-testid="adapter"
      title={`${info.description}\n${limits}\nfeatures: ${info.features.join(", ") || "none"}\ncopy paths: ${info.copyPaths}`}
    >
      <span class="muted">Adapter</span> {info.name}
      {info.software && <span class="tag">software</span>}
      <span class="muted limits">{limits}</span>
    </span>
  );
}
