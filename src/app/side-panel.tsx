import { useSignal } from "@preact/signals";
import { CopyPaths } from "./copy-paths.tsx";
import { RunPanel } from "./run-panel.tsx";

const TABS = [
  { id: "run", label: "Run", view: RunPanel },
  { id: "copy", label: "Copy paths", view: CopyPaths },
] as const;

/** The run with its checks and results, or the copy paths of this adapter. */
export function SidePanel() {
  const open = useSignal<(typeof TABS)[number]["id"]>("run");
  const View = TABS.find(({ id }) => id === open.value)!.view;
  const onKey = (event: KeyboardEvent) => {
    const by = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? -1 : 0;
    if (by === 0) return;
    const at = TABS.findIndex(({ id }) => id === open.value);
    open.value = TABS[(at + by + TABS.length) % TABS.length]!.id;
    document.getElementById(`tab-${open.value}`)!.focus();
  };
  return (
    <section class={`panel side-panel ${open.value}`}>
      <div class="panel-head tabs" role="tablist" aria-label="Run and copy paths" onKeyDown={onKey}>
        {TABS.map(({ id, label }) => (
          <button
            key={id}
            id={`tab-${id}`}
            type="button"
            role="tab"
            aria-selected={open.value === id}
            aria-controls="side-view"
            tabIndex={open.value === id ? 0 : -1}
            onClick={() => (open.value = id)}
          >
            {label}
          </button>
        ))}
      </div>
      <div id="side-view" class="panel-body" role="tabpanel" aria-labelledby={`tab-${open.value}`}>
        <View />
      </div>
    </section>
  );
}
