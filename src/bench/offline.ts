/** What may be done with results where nothing is measured: for the Node program, which loads this without a browser. */
export { compareResults } from "./compare.ts";
export { toCsv } from "./csv.ts";
export { bandwidthPlot, heatPlot, latencyPlot } from "./plot.ts";
export { parseResult } from "./result-file.ts";
export { facetsOf } from "./series.ts";
export { selectionFromQuery } from "./selection.ts";
