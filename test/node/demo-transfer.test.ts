import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeEach, describe, expect, it } from "vitest";
import { FileOracle, keystreamXor } from "../../scripts/demo-check.mjs";
import { demoRoutes } from "../../scripts/demo-routes.mjs";
import { FileOverHttp, TransformedPieces } from "../../src/worker/demo-transfer.ts";

const dir = mkdtempSync(join(tmpdir(), "demo-transfer-"));
afterAll(() => rmSync(dir, { recursive: true }));
/** More than a piece as it is sent, and no multiple of anything. */
const CONTENT = Buffer.from(Array.from({ length: (1 << 20) + 77777 }, (_, i) => (i * 31 + (i >> 8)) & 255));
const FILE = join(dir, "content");
writeFileSync(FILE, CONTENT);

/** Both ends of the demo's transfers, with the requests that were made. */
async function ends() {
  const oracle = await FileOracle.open(FILE);
  const { routes, urls } = demoRoutes(oracle);
  const asked: string[] = [];
  const http = createServer((request, response) => {
    const url = new URL(request.url ?? "/", "http://127.0.0.1");
    asked.push(`${request.method} ${url.pathname}`);
    const route = routes[url.pathname as keyof typeof routes];
    route(request, response, url).catch(() => response.writeHead(500).end());
  });
  await new Promise<void>((done) => http.listen(0, "127.0.0.1", done));
  const origin = `http://127.0.0.1:${(http.address() as AddressInfo).port}`;
  const close = async () => {
    http.closeAllConnections();
    http.close();
    await oracle.close();
  };
  return { oracle, asked, file: origin + urls.fileUrl, transformed: origin + urls.transformedUrl, close };
}

let demo: Awaited<ReturnType<typeof ends>>;
beforeEach(async () => {
  demo = await ends();
});
afterEach(() => demo.close());

/** Sends the transformed file in pieces of `size`, after `change` has had it. */
async function sendAll(size: number, change: (bytes: Uint8Array) => void = () => undefined) {
  const bytes = new Uint8Array(keystreamXor(CONTENT, 0));
  change(bytes);
  const pieces = new TransformedPieces(demo.transformed);
  for (let at = 0; at < bytes.length; at += size) await pieces.send(at, bytes.subarray(at, at + size));
  await pieces.sent();
}

describe("the demo's file", () => {
  it.each([4096, 65537, 1 << 20, 2 << 20])("comes in pieces of %i bytes by one request", async (size) => {
    const source = new FileOverHttp(demo.file, CONTENT.length);
    const pieces: Uint8Array[] = [];
    for (let at = 0; at < CONTENT.length; at += size)
      pieces.push(await source.read(at, Math.min(size, CONTENT.length - at)));
    expect(Buffer.concat(pieces).equals(CONTENT)).toBe(true);
    expect(demo.asked).toEqual(["GET /__demo/file"]);
  });

  it("that is shorter than was said is an error", async () => {
    const source = new FileOverHttp(demo.file, CONTENT.length + 1);
    await source.read(0, CONTENT.length - 10);
    await expect(source.read(CONTENT.length - 10, 11)).rejects.toThrow(
      `the file ended at ${CONTENT.length} of ${CONTENT.length + 1} bytes`,
    );
  });

  it("that is not sent is an error", async () => {
    const source = new FileOverHttp(demo.transformed, CONTENT.length);
    await expect(source.read(0, 1)).rejects.toThrow("the file was not sent: status 500");
  });
});

describe("the transformed file", () => {
  it("goes as digests where it is right", async () => {
    await sendAll(300000);
    expect(demo.oracle.checkTransformed()).toBeNull();
    expect(demo.asked).toEqual(Array.from({ length: 4 }, () => "GET /__demo/transformed"));
  });

  it("goes whole where a bit is wrong, and the first wrong byte is named", async () => {
    await sendAll(300000, (bytes) => {
      bytes[700001]! ^= 8;
      bytes[800000]! ^= 8;
    });
    expect(demo.oracle.checkTransformed()).toContain("byte 700001 of");
    expect(demo.asked.filter((request) => request.startsWith("POST"))).toHaveLength(1);
  });

  it("is wrong where a piece is left out", async () => {
    const pieces = new TransformedPieces(demo.transformed);
    await pieces.send(0, keystreamXor(CONTENT.subarray(0, 4096), 0));
    await pieces.sent();
    expect(demo.oracle.checkTransformed()).toContain("only 4096 of");
  });

  it("that the server does not take is an error", async () => {
    const pieces = new TransformedPieces(demo.transformed.replace("transformed", "crc"));
    await demo.close();
    await pieces.send(0, new Uint8Array(4));
    await expect(pieces.sent()).rejects.toThrow(/fetch failed/);
    demo = await ends();
  });
});
