import { useSignal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { adapter, busy, job, start } from "./session.ts";

/** Takes a file dropped anywhere on the page and runs the main job over it. */
export function DropTarget(props: { children: ComponentChildren }) {
  const over = useSignal(false);
  const carriesFile = (event: DragEvent) => event.dataTransfer?.types.includes("Files") ?? false;
  return (
    <div
      class="page"
      onDragOver={(event) => {
        if (!carriesFile(event)) return;
        event.preventDefault();
        over.value = true;
      }}
      onDragLeave={(event) => {
        if (!(event.relatedTarget instanceof Node)) over.value = false;
      }}
      onDrop={(event) => {
        event.preventDefault();
        over.value = false;
        const file = event.dataTransfer?.files[0];
        if (file === undefined) return;
        job.value = { kind: "file", file };
        if (adapter.peek() !== null && !busy.peek()) void start();
      }}
    >
      {props.children}
      {over.value && (
        <div class="drop-overlay">
          <p>
            Drop the file to run the main job over it
            <small>
              byte histogram, CRC-32 per block and an XOR transform, through shared virtual memory, verified
            </small>
          </p>
        </div>
      )}
    </div>
  );
}
