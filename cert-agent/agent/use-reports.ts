// What the sidecars use that read our files. Each connects to agent.sock in the agent's directory and reports the
// identity that it has adopted; the agent acknowledges to the CA what all of them use. Readers that report nothing
// (nginx, say) are not counted.

import { randomBytes } from 'node:crypto';
import { chmodSync, existsSync, lstatSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { z } from 'zod';
import type { Clock } from '../base/clock.ts';
import { errnoOf, reasonOf } from '../base/errors.ts';
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

/** A sidecar tries to connect once a second. */
const holdMs = 2000;

/** How often an overlap of two agents is said, and how often we try whether the other one is still there. */
const overlapSaidMs = 60_000;
const probeMs = 5000;

/** `outDir` is absolute; the socket is made in it. */
export interface UseReportsOptions {
  readonly outDir: string;
  readonly log: Log;
  readonly clock: Clock;
  /** What is in use has changed, or is known now. */
  onChange(): void;
}

/** The reports of one agent's sidecars. */
export class UseReports {
  readonly #options: UseReportsOptions;
  readonly #path: string;
  /** Exists once a sidecar has reported: the next run of the agent waits for it. */
  readonly #mark: string;
  readonly #sidecars = new Map<Socket, Report | undefined>();
  #server: Server | undefined;
  /** Of our socket in the directory; undefined until it is there. */
  #inode: bigint | undefined;
  #closed = false;
  #lastSaid: string | undefined;
  #overlapSaidAt = Number.NEGATIVE_INFINITY;
  #probedAt = Number.NEGATIVE_INFINITY;
  #isMarked: boolean;
  #isHolding: boolean;
  readonly #cancelHold: () => void;

  constructor(options: UseReportsOptions) {
    this.#options = options;
    this.#path = useSocketOf(options.outDir);
    this.#mark = join(options.outDir, 'sidecars-report');
    this.#isMarked = existsSync(this.#mark);
    this.#isHolding = this.#isMarked;
    this.#cancelHold = this.#isHolding ? options.clock.after(holdMs, () => this.#release()) : () => {};
  }

  /**
   * True just after a start in a directory where sidecars reported before: until they have connected again, nothing is
   * known of them.
   */
  get isHolding(): boolean {
    return this.#isHolding;
  }

  #release(): void {
    this.#isHolding = false;
    // They are gone: the next start need not wait for them.
    if (this.#sidecars.size === 0) this.#unmark();
    this.#options.onChange();
  }

  /**
   * Listens, if it does not yet, or if its socket is gone. Called every second: the directory may come later, the disk
   * be full, or an agent that ends take our socket with it.
   */
  tick(): void {
    if (this.#closed) return;
    if (this.#server === undefined) return this.#listen();
    // It is about to be there.
    if (this.#inode === undefined) return;
    const found = inodeOf(this.#path);
    if (found === this.#inode) return;
    if (found === undefined) {
      this.#options.log.warn({ code: 'listen_failed' }, `${this.#path} was removed; sidecars report on a new one`);
      return this.#listen();
    }
    this.#yield();
  }

  /** Another agent has put its socket there, which stays while that agent lives: the newest has it. */
  #yield(): void {
    const { clock, log, outDir } = this.#options;
    const now = clock.monotonic();
    if (now - this.#probedAt < probeMs) return;
    this.#probedAt = now;
    const probe = connect(this.#path, () => {
      probe.destroy();
      if (now - this.#overlapSaidAt < overlapSaidMs) return;
      this.#overlapSaidAt = now;
      log.warn(
        { code: 'agents_overlap' },
        `another agent writes to ${outDir}, and new sidecars report to it; stop one`,
      );
    });
    probe.unref();
    probe.on('error', (error) => {
      if (!this.#closed && errnoOf(error) === 'ECONNREFUSED') this.#listen();
    });
  }

  #listen(): void {
    if (Buffer.byteLength(this.#path) > longestPath) return this.#say(`its path is longer than ${longestPath} bytes`);
    // A name of the same length. Node removes what a server has listened on when it closes, whoever owns it by then.
    const first = join(this.#options.outDir, `.${randomBytes(4).toString('hex')}`);
    try {
      makeOutDir(this.#options.outDir);
    } catch (error) {
      return this.#say(reasonOf(error));
    }
    const before = this.#server;
    const server = createServer((socket) => this.#accept(socket));
    server.on('error', (error) => {
      if (this.#server !== server) return;
      this.#server = undefined;
      this.#say(reasonOf(error));
    });
    this.#inode = undefined;
    server.listen(first, () => {
      try {
        chmodSync(first, 0o600);
        const inode = inodeOf(first);
        // In place of one of an earlier run, or of an agent that we replace.
        renameSync(first, this.#path);
        this.#inode = inode;
        this.#lastSaid = undefined;
      } catch (error) {
        server.close();
        this.#server = undefined;
        this.#say(reasonOf(error));
      }
      // Its connections stay.
      before?.close();
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

  /** Removes our socket, and cuts the sidecars off: they go on with the files. */
  close(): void {
    this.#closed = true;
    this.#cancelHold();
    // Another agent's socket is not ours to remove.
    if (this.#inode !== undefined && inodeOf(this.#path) === this.#inode) rmSync(this.#path, { force: true });
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
      if (!this.#closed) this.#options.onChange();
    });
    readLines(socket, longestReport, (line) => {
      const read = report.safeParse(readJson(line));
      if (!read.success) return void socket.destroy();
      this.#sidecars.set(socket, read.data);
      this.#noteSidecar();
      this.#options.onChange();
    });
  }

  #noteSidecar(): void {
    if (this.#isMarked) return;
    try {
      writeFileSync(this.#mark, '');
      this.#isMarked = true;
    } catch {
      // The disk is full: then the next start does not wait.
    }
  }

  #unmark(): void {
    rmSync(this.#mark, { force: true });
    this.#isMarked = false;
  }

  #say(why: string): void {
    const text = `sidecars cannot report what they use on ${this.#path}: ${why}`;
    if (text !== this.#lastSaid) this.#options.log.warn({ code: 'listen_failed' }, text);
    this.#lastSaid = text;
  }
}

function inodeOf(path: string): bigint | undefined {
  return lstatSync(path, { bigint: true, throwIfNoEntry: false })?.ino;
}

function readJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
