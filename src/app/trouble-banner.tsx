import type { ComponentChildren } from "preact";
import type { PlainError } from "../worker/protocol.ts";
import { connect, trouble } from "./session.ts";

const FLAGS = "--enable-unsafe-webgpu --enable-features=Vulkan --use-vulkan=swiftshader --use-angle=swiftshader";

/** Says clearly that there is no usable device, and what helps. */
export function TroubleBanner() {
  const error = trouble.value;
  if (error === null) return null;
  const { heading, help, action } = advice(error);
  return (
    <div class="banner" role="alert" data-testid="banner">
      <div class="banner-text">
        <strong>{heading}</strong>
        {help}
      </div>
      <button type="button" onClick={() => void connect()}>
        {action}
      </button>
    </div>
  );
}

function advice(error: PlainError): { heading: string; help: ComponentChildren; action: string } {
  if (error.name === "DeviceLostError") {
    return {
      heading: sentence(error.message),
      help: <p>What was only in VRAM is gone with it. A new device can be started in this page.</p>,
      action: "Start a new device",
    };
  }
  if (error.name !== "UnsupportedError") return { heading: sentence(error.message), help: null, action: "Start again" };
  const { missing } = error.detail;
  return {
    heading: "WebGPU is not available here.",
    help: (
      <>
        {" "}
        {Array.isArray(missing) ? `This page needs ${missing.join(", ")}.` : sentence(error.message)}
        <p>
          Use a current Chrome, Edge or other browser with WebGPU, over https or localhost. On Linux, or without a
          supported GPU, open <code>chrome://flags/#enable-unsafe-webgpu</code>, or start Chrome on its software adapter
          with
          <code class="block">{FLAGS}</code>
        </p>
      </>
    ),
    action: "Try again",
  };
}

function sentence(text: string): string {
  const capital = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(capital) ? capital : `${capital}.`;
}
