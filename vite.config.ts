import preact from "@preact/preset-vite";
import { defineConfig } from "vite";

/** Cross-origin isolation: SharedArrayBuffer for the machine's RAM, and a clock in steps of 5 microseconds. */
const headers = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
};

/** The workbench. The library has a configuration of its own, vite.lib.config.ts. */
export default defineConfig({
  // Relative, so that the built page works in any folder of any server.
  base: "./",
  plugins: [preact()],
  worker: { format: "es" },
  // No deliberate faults in what is built (src/base/mutation.ts).
  define: { SVM_MUTATIONS: "false" },
  build: { outDir: "dist/page", target: "es2023", sourcemap: true },
  server: { headers },
  preview: { headers },
});
