/** The demo's ways over HTTP: the file to the page, its results back. The other end is src/worker/demo-transfer.ts. */
import { pipeline } from "node:stream/promises";
import { bodyOf } from "./receive.mjs";

const ROUTE = "/__demo";
/** The digest is another: the bytes are wanted. */
const CONFLICT = 409;

/**
 * Handlers for the server of the page, the URLs that it is to know, and what came back.
 * @param {import("./demo-check.mjs").FileOracle} oracle
 */
export function demoRoutes(oracle) {
  const received = { crcs: Buffer.alloc(0), trace: Buffer.alloc(0) };
  const keep = (name) => async (request, response) => {
    received[name] = await bodyOf(request);
    response.end();
  };
  const routes = {
    [`${ROUTE}/file`]: async (_, response) => {
      response.writeHead(200, { "Content-Type": "application/octet-stream", "Content-Length": oracle.size });
      await pipeline(oracle.pieces(), response);
    },
    [`${ROUTE}/crc`]: keep("crcs"),
    [`${ROUTE}/trace`]: keep("trace"),
    [`${ROUTE}/transformed`]: async (request, response, url) => {
      const { offset, bytes, sha256 } = Object.fromEntries(url.searchParams);
      if (request.method === "POST") await oracle.receiveTransformed(Number(offset), await bodyOf(request));
      else if (!(await oracle.receiveDigest(Number(offset), Number(bytes), sha256))) response.statusCode = CONFLICT;
      response.end();
    },
  };
  const urls = {
    fileUrl: `${ROUTE}/file`,
    crcUrl: `${ROUTE}/crc`,
    transformedUrl: `${ROUTE}/transformed`,
    traceUrl: `${ROUTE}/trace`,
  };
  return { routes, urls, received };
}
