import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { createServer } from "node:http";
import type { IncomingMessage, Server, ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";

export interface HubServerOptions {
  /** Files of the one model. */
  folder: string;
  repo?: string;
  /** Who asks without it gets nothing. */
  token?: string;
  /** Called before a file is sent; `break`: after so many bytes the connection is cut. */
  onFile?: (request: FileRequest) => { break?: number; status?: number; stall?: boolean } | void;
  /** Sends files that are not those that the list tells of. */
  corrupt?: string;
}

export interface FileRequest {
  name: string;
  from: number;
  to: number;
  authorization: string | undefined;
}

const SHA = "0123456789abcdef0123456789abcdef01234567";

/**
 * A server with the few routes of a model hub that packing needs. Files come from another origin than the list, as large ones do
 * there: the hub redirects.
 */
export class HubServer {
  readonly repo: string;
  /** Every request for a file. */
  readonly requests: FileRequest[] = [];
  /** Bytes of files that were sent. */
  sentBytes = 0;
  readonly #options: HubServerOptions;
  readonly #hub: Server;
  readonly #files: Server;

  private constructor(options: HubServerOptions) {
    this.#options = options;
    this.repo = options.repo ?? "tests/tiny";
    this.#hub = createServer((request, response) => this.#answer(request, response));
    this.#files = createServer((request, response) => this.#sendFile(request, response));
  }

  static async start(options: HubServerOptions): Promise<HubServer> {
    const server = new HubServer(options);
    for (const each of [server.#hub, server.#files]) {
      await new Promise<void>((resolve) => each.listen(0, "127.0.0.1", resolve));
    }
    return server;
  }

  get endpoint(): string {
    return originOf(this.#hub);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const each of [this.#hub, this.#files]) {
      each.closeAllConnections();
      await new Promise((resolve) => each.close(resolve));
    }
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    const { token } = this.#options, url = new URL(request.url!, this.endpoint);
    if (token && request.headers.authorization !== `Bearer ${token}`) {
      return void response.writeHead(401).end();
    }
    if (url.pathname === `/api/models/${this.repo}/revision/main`) {
      return void response.writeHead(200, { "content-type": "application/json" })
        .end(JSON.stringify(this.#list()));
    }
    const prefix = `/${this.repo}/resolve/${SHA}/`;
    if (!url.pathname.startsWith(prefix)) return void response.writeHead(404).end();
    const name = url.pathname.slice(prefix.length);
    response.writeHead(302, { location: `${originOf(this.#files)}/blobs/${name}` }).end();
  }

  #list() {
    const { folder } = this.#options;
    const siblings = readdirSync(folder).map((rfilename) => {
      const bytes = readFileSync(join(folder, rfilename)), size = bytes.length;
      const blobId = createHash("sha1").update(`blob ${size}\0`).update(bytes).digest("hex");
      const sha256 = createHash("sha256").update(bytes).digest("hex");
      const isLarge = size > 20_000;
      return { rfilename, size, blobId, ...(isLarge ? { lfs: { sha256, size } } : {}) };
    });
    return { sha: SHA, siblings };
  }

  #sendFile(request: IncomingMessage, response: ServerResponse): void {
    const name = request.url!.slice("/blobs/".length), { folder, corrupt } = this.#options;
    let bytes = readFileSync(join(folder, name));
    if (name === corrupt) {
      bytes = bytes.slice();
      bytes[bytes.length - 1] ^= 1;
    }
    const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? "");
    const from = range ? Number(range[1]) : 0, to = range ? Number(range[2]) + 1 : bytes.length;
    const { authorization } = request.headers;
    const asked = { name, from, to, authorization };
    this.requests.push(asked);
    const fate = this.#options.onFile?.(asked) ?? {};
    if (fate.stall) return;
    if (fate.status) return void response.writeHead(fate.status).end();
    const headers = { "content-length": to - from };
    if (!range) response.writeHead(200, headers);
    else {
      const told = `bytes ${from}-${to - 1}/${bytes.length}`;
      response.writeHead(206, { ...headers, "content-range": told });
    }
    const end = Math.min(to, from + (fate.break ?? Infinity));
    this.sentBytes += end - from;
    if (end === to) return void response.end(bytes.subarray(from, to));
    // What was sent arrives before the connection is cut.
    response.write(bytes.subarray(from, end), () => setTimeout(() => response.destroy(), 50));
  }
}

function originOf(server: Server): string {
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}
