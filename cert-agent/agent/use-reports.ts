// What the sidecars use that read our files. Each connects to agent.sock in the agent's directory and reports the
// identity that it has adopted; the agent acknowledges to the CA what all of them use. Readers that report nothing
// (nginx, say) are not counted.

import { chmodSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { z } from 'zod';
import { reasonOf } from '../base/errors.ts';
import { readLines } from '../base/lines.ts';
import type { Log } from '../base/log.ts';
import { makeOutDir } from '../identity/generation.ts';
import { useSocketOf } from '../identity/report-use.ts';
import type { InUse } from './watch.ts';

const count = z.int().nonnegative();
const report = z.strictObject({
  bundle: count,
  denied: count,
  roots: z.array(z.string().regex(/^[0-9a-f]{64}$/)).max(16),
});

type Report = z.output<typeof report>;

/** Sidecars of one directory: the workers of one service, and a few to spare. */
const mostSidecars = 64;
const longestReport = 4096;

/** Linux allows 107 bytes for the path of a socket. */
const longestPath = 107;

/** The reports of one agent's sidecars. */
export class UseReports {
  readonly #path: string;
  readonly #outDir: string;
  readonly #log: Log;
  readonly #onChange: () => void;
  readonly #sidecars = new Map<Socket, Report | undefined>();
  #server: Server | undefined;
  #closed = false;
  #lastSaid: string | undefined;

  constructor(outDir: string, log: Log, onChange: () => void) {
    this.#outDir = outDir;
    this.#path = useSocketOf(outDir);
    this.#log = log;
    this.#onChange = onChange;
  }

  /** Listens, if it does not yet. Called every second: the directory may come later, or the disk be full. */
  tick(): void {
    if (this.#server !== undefined || this.#closed) return;
    if (Buffer.byteLength(this.#path) > longestPath) return this.#say(`its path is longer than ${longestPath} bytes`);
    try {
      makeOutDir(this.#outDir);
      // One of an earlier run. The directory has one agent.
      rmSync(this.#path, { force: true });
    } catch (error) {
      return this.#say(reasonOf(error));
    }
    const server = createServer((socket) => this.#accept(socket));
    server.on('error', (error) => {
      this.#server = undefined;
      this.#say(reasonOf(error));
    });
    server.listen(this.#path, () => {
      try {
        chmodSync(this.#path, 0o600);
        this.#lastSaid = undefined;
      } catch (error) {
        this.#say(reasonOf(error));
      }
    });
    server.unref();
    this.#server = server;
  }

  /** What all connected sidecars use; undefined without any. A sidecar that has not reported uses nothing yet. */
  inUse(): InUse | undefined {
    const all = [...this.#sidecars.values()];
    if (all.length === 0) return undefined;
    const known = all.map((one) => one ?? { bundle: 0, denied: 0, roots: [] });
    return {
      sidecars: all.length,
      bundle: Math.min(...known.map(({ bundle }) => bundle)),
      denied: Math.min(...known.map(({ denied }) => denied)),
      roots: known[0]!.roots.filter((root) => known.every(({ roots }) => roots.includes(root))),
    };
  }

  close(): void {
    this.#closed = true;
    this.#server?.close();
    for (const socket of this.#sidecars.keys()) socket.destroy();
    this.#sidecars.clear();
  }

  #accept(socket: Socket): void {
    if (this.#sidecars.size >= mostSidecars) return void socket.destroy();
    socket.unref();
    this.#sidecars.set(socket, undefined);
    socket.once('close', () => {
      this.#sidecars.delete(socket);
      if (!this.#closed) this.#onChange();
    });
    readLines(socket, longestReport, (line) => {
      const read = report.safeParse(readJson(line));
      if (!read.success) return void socket.destroy();
      this.#sidecars.set(socket, read.data);
      this.#onChange();
    });
  }

  #say(why: string): void {
    const text = `sidecars cannot report what they use on ${this.#path}: ${why}`;
    if (text !== this.#lastSaid) this.#log.warn({ code: 'listen_failed' }, text);
    this.#lastSaid = text;
  }
}

function readJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
