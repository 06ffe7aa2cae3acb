import { useEffect, useRef } from "preact/hooks";
import { BENCH_LINK } from "./bench-route.ts";
import { ThemeButton } from "./bench-theme.tsx";
import { bytes } from "./format.ts";
import {
  adapter,
  busy,
  job,
  pace,
  pauseOrResume,
  run,
  scenarios,
  seed,
  setPace,
  start,
  step,
  stop,
  vramBytes,
} from "./session.ts";

const MIB = 2 ** 20;
const VRAM_CHOICES = [4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 512, 1024];
const FILE = "\0file";
/** Milliseconds from round to round. */
const PACES = [
  [0, "full speed"],
  [250, "4 rounds/s"],
  [1000, "1 round/s"],
] as const;

/** What to run, on how much VRAM, and the controls of the run. */
export function Toolbar() {
  useShortcuts();
  return (
    <header class="toolbar">
      <div class="brand">
        <svg viewBox="0 0 16 16" aria-hidden="true">
          <rect class="mark-in" x="1" y="1" width="6" height="6" rx="1" />
          <rect class="mark-out" x="9" y="1" width="6" height="6" rx="1" />
          <rect class="mark-gpu" x="1" y="9" width="6" height="6" rx="1" />
          <rect class="mark-in" x="9" y="9" width="6" height="6" rx="1" />
        </svg>
        <h1>webgpu-svm</h1>
      </div>
      <JobChooser />
      <label class="field">
        <span>VRAM</span>
        <select
          aria-label="VRAM"
          value={String(vramBytes.value)}
          onChange={(event) =>
            (vramBytes.value = event.currentTarget.value === "null" ? null : Number(event.currentTarget.value))
          }
        >
          <option value="null">default</option>
          {VRAM_CHOICES.map((mib) => (
            <option key={mib} value={String(mib * MIB)}>
              {bytes(mib * MIB)}
            </option>
          ))}
        </select>
      </label>
      <label class="field">
        <span>Seed</span>
        <input
          class="seed"
          type="number"
          min="0"
          max="4294967295"
          step="1"
          value={seed.value}
          onChange={(event) =>
            (seed.value = Math.min(2 ** 32 - 1, Math.max(0, Math.trunc(event.currentTarget.valueAsNumber) || 0)))
          }
        />
      </label>
      <label class="field">
        <span>Pace</span>
        <select
          aria-label="Pace"
          class="pace"
          value={String(pace.value)}
          onChange={(event) => setPace(Number(event.currentTarget.value))}
        >
          {PACES.map(([ms, label]) => (
            <option key={ms} value={String(ms)}>
              {label}
            </option>
          ))}
        </select>
      </label>
      <RunControls />
      <span class="grow" />
      <a href={BENCH_LINK} class="bench-link" title="Measure every way to move bytes on this adapter">
        Copy paths
      </a>
      <ThemeButton />
    </header>
  );
}

function JobChooser() {
  const input = useRef<HTMLInputElement>(null);
  const choice = job.value;
  const choose = (id: string) => {
    if (id !== FILE) job.value = { kind: "scenario", id };
  };
  return (
    <div class="field job">
      <label>
        <span>Run</span>
        <select
          aria-label="Scenario"
          value={choice === null ? "" : choice.kind === "file" ? FILE : choice.id}
          onChange={(event) => choose(event.currentTarget.value)}
        >
          {choice?.kind === "file" && (
            <option value={FILE}>
              {choice.file.name} ({bytes(choice.file.size)})
            </option>
          )}
          {scenarios.value.map(({ id, title }) => (
            <option key={id} value={id}>
              {title}
            </option>
          ))}
        </select>
      </label>
      <button
        type="button"
        title="Run histogram, CRC-32 and a transform over a file of yours, through shared virtual memory. You can also drop the file anywhere on the page."
        onClick={() => input.current!.click()}
      >
        File…
      </button>
      <input
        ref={input}
        type="file"
        hidden
        data-testid="file"
        onChange={(event) => {
          const file = event.currentTarget.files?.[0];
          if (file !== undefined) job.value = { kind: "file", file };
          event.currentTarget.value = "";
        }}
      />
    </div>
  );
}

function RunControls() {
  const { phase } = run.value;
  const ready = adapter.value !== null && job.value !== null;
  return (
    <div class="run-controls" role="group" aria-label="Run">
      {busy.value && phase !== "starting" ? (
        <button type="button" class="primary" title="Pause or go on (P)" onClick={pauseOrResume}>
          {phase === "paused" ? (
            <>
              <Icon path="M4 2.5v11l9-5.5z" /> Resume
            </>
          ) : (
            <>
              <Icon path="M4 3h3v10H4zM9 3h3v10H9z" /> Pause
            </>
          )}
        </button>
      ) : (
        <button
          type="button"
          class="primary"
          title="Run (R)"
          disabled={!ready || busy.value}
          onClick={() => void start()}
        >
          <Icon path="M4 2.5v11l9-5.5z" /> Run
        </button>
      )}
      <button
        type="button"
        title="Let one round of faults pass, then pause (S)"
        disabled={!ready || phase === "starting"}
        onClick={step}
      >
        <Icon path="M3 2.5v11L10 8zM11 3h2.5v10H11z" /> Step
      </button>
      <button type="button" title="Stop (X)" disabled={!busy.value} onClick={() => void stop()}>
        <Icon path="M3.5 3.5h9v9h-9z" /> Stop
      </button>
    </div>
  );
}

function Icon(props: { path: string }) {
  return (
    <svg viewBox="0 0 16 16" aria-hidden="true">
      <path d={props.path} />
    </svg>
  );
}

/** R runs, P pauses or goes on, S steps, X stops; not while the user types or chooses. */
function useShortcuts(): void {
  useEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
      if (event.target instanceof HTMLElement && event.target.matches("input, select, textarea")) return;
      const key = event.key.toLowerCase();
      if (key === "r" && !busy.peek() && adapter.peek() !== null) void start();
      else if (key === "p" && busy.peek()) pauseOrResume();
      else if (key === "s" && adapter.peek() !== null && run.peek().phase !== "starting") step();
      else if (key === "x" && busy.peek()) void stop();
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, []);
}
