import type { PlainError } from "../worker/protocol.ts";
import { connect, trouble } from "./session.ts";

const FLAGS = "--enable-unsafe-webgpu --enable-features=Vulkan --use-vulkan=swiftshader --use-angle=swiftshader";

/** Says clearly that there is no usable device, and what helps. */
export function TroubleBanner() {
  const error = trouble.value;
  if (error === null) return null;
  const lost = error.name === "DeviceLostError";
  return (
    <div class="banner" role="alert" data-testid="banner">
      <div class="banner-text">
        <strong>{lost ? "The GPU device was lost." : "WebGPU is not available here."}</strong> {reason(error)}
        {lost ? (
          <p>What was only in VRAM is gone with it. A new device can be started in this page.</p>
        ) : (
          <p>
            Use a current Chrome, Edge or other browser with WebGPU, over https or localhost. On Linux, or without a
            supported GPU, open <code>chrome://flags/#enable-unsafe-webgpu</code>, or start Chrome on its software
            adapter with
            <code class="block">{FLAGS}</code>
          </p>
        )}
      </div>
      <button type="button" onClick={() => void connect()}>
        {lost ? "Start a new device" : "Try again"}
      </button>
    </div>
  );
}

/** What is missing, where the error says so; else its message as a sentence. */
function reason({ detail, message }: PlainError): string {
  const { missing } = detail;
  const text = Array.isArray(missing) ? `this page needs ${missing.join(", ")}` : message;
  const capital = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(capital) ? capital : `${capital}.`;
}
