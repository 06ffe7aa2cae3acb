import { perfettoTrace } from "../trace/perfetto.ts";
import { events } from "./session.ts";

/** Offers the events of the run that is shown as a Perfetto trace, for download. */
export function saveTrace(): void {
  const url = URL.createObjectURL(new Blob([perfettoTrace(events.packed())], { type: "application/x-protobuf" }));
  const link = document.createElement("a");
  link.href = url;
  link.download = "webgpu-svm.pftrace";
  link.click();
  // The download has begun with the click; the bytes may go.
  setTimeout(() => URL.revokeObjectURL(url), 0);
}
