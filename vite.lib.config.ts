import { defineConfig } from "vite";

/** The library: one ES module without dependencies; its types come from `tsc -b`. */
export default defineConfig({
  // No deliberate faults in what is built (src/base/mutation.ts).
  define: { SVM_MUTATIONS: "false" },
  build: {
    outDir: "dist/lib",
    target: "es2023",
    sourcemap: true,
    minify: false,
    lib: { entry: "src/machine/index.ts", formats: ["es"], fileName: "webgpu-svm" },
  },
});
