import { bytes } from "./format.ts";
import { job, run, scenarios } from "./session.ts";

/** What the chosen job does, and what became of it. */
export function RunPanel() {
  const state = run.value;
  const failures = state.checks.filter((check) => !check.ok && check.kind === "must").length;
  const passes = state.checks.filter((check) => check.ok && check.kind !== "note").length;
  return (
    <div class="run-panel" tabIndex={0} data-testid="run-panel">
      <Description />
      {state.error !== null && (
        <div class="failure" role="alert" data-testid="run-error">
          <b>{state.error.code}</b> {state.error.message}
        </div>
      )}
      {state.checks.length > 0 && (
        <>
          <h3>
            Checks
            <span class="muted" data-testid="checks">
              {passes} passed{failures > 0 ? `, ${failures} failed` : ""}
            </span>
          </h3>
          <ul class="checks">
            {state.checks.map((check, i) => (
              <li
                key={i}
                class={check.kind === "note" ? "note" : check.ok ? "ok" : check.kind === "must" ? "bad" : "odd"}
              >
                {check.text}
              </li>
            ))}
          </ul>
        </>
      )}
      {state.report.length > 0 && (
        <dl class="report" data-testid="report">
          {state.report.map(([label, value]) => (
            <div key={label}>
              <dt>{label}</dt>
              <dd>{value}</dd>
            </div>
          ))}
        </dl>
      )}
    </div>
  );
}

function Description() {
  const choice = job.value;
  if (choice === null) return null;
  if (choice.kind === "file") {
    return (
      <p>
        <b>{choice.file.name}</b>, {bytes(choice.file.size)}. Three kernels go over the file through virtual addresses:
        a byte histogram, a CRC-32 per 4 KiB block, and an XOR transform that the CPU reads back. Every result is
        checked against one computed outside the emulator.
      </p>
    );
  }
  const scenario = scenarios.value.find(({ id }) => id === choice.id);
  return scenario === undefined ? null : <p>{scenario.description}</p>;
}
