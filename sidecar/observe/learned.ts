// Learn mode: who called what, by identity, method and the path's template, with first and last time and count.
// Bounded, on disk, and not enforced: a person reviews what `policy propose` makes of it.

import { readFileSync } from 'node:fs';
import { every } from '../../cert-agent/base/background.ts';
import { formatTime } from '../../cert-agent/base/clock.ts';
import { errnoOf, reasonOf } from '../../cert-agent/base/errors.ts';
import type { Log } from '../../cert-agent/base/log.ts';
import { writeFileDurably } from '../../cert-agent/base/write.ts';
import { parseSpiffeId } from '../../cert-agent/identity/spiffe-id.ts';
import { generalize, inferTemplate } from '../policy/infer.ts';

/** One kind of call; plain data. */
export interface Edge {
  /** The caller's SPIFFE ID; empty for one without identity. */
  readonly from: string;
  readonly protocol: 'http' | 'tcp';
  readonly method: string;
  /** Empty for TCP. */
  readonly path: string;
  readonly port: number;
  readonly allowed: number;
  readonly denied: number;
  /** RFC 3339. */
  readonly firstSeen: string;
  readonly lastSeen: string;
}

interface LiveEdge {
  readonly from: string;
  readonly protocol: 'http' | 'tcp';
  readonly method: string;
  readonly path: string;
  readonly port: number;
  allowed: number;
  denied: number;
  first: number;
  last: number;
}

/** `learn` of sidecar.yaml. The file is JSON, and is read back at start. */
export interface LearnSettings {
  readonly file: string;
  /** How many kinds of calls are kept. */
  readonly edges: number;
  /** Those not seen for this long are dropped, milliseconds. */
  readonly keepMs: number;
}

/** A call to note. */
export type Call = Pick<LiveEdge, 'from' | 'protocol' | 'method' | 'path' | 'port'>;

/** With more siblings than this under one path the last segment is treated as a variable. */
const maxSiblings = 30;
const writeMs = 5000;

/** What one process has seen, in memory and in its file. It writes by itself, and in `close`. */
export class Learned {
  readonly #settings: LearnSettings;
  readonly #log: Log;
  readonly #edges = new Map<string, LiveEdge>();
  /** Literal children by their parent; and parents whose children became a variable. */
  readonly #siblings = new Map<string, Set<string>>();
  readonly #stop: () => void;
  #changed = false;
  #problem: string | undefined = undefined;
  /** Edges that were dropped to make room for others. */
  forgotten = 0;

  /** Continues from the file; an unreadable one is logged and replaced, since it decides nothing. */
  constructor(settings: LearnSettings, log: Log) {
    this.#settings = settings;
    this.#log = log;
    this.#read();
    this.#stop = every('learned', writeMs, () => this.write());
  }

  /**
   * Counts a call, by its kind. A full table drops its oldest kinds for a new one. `now` is milliseconds since 1970.
   */
  note(call: Call, allowed: boolean, now: number): void {
    // Clients can invent methods.
    if (call.method.length > 32) return;
    const path = call.protocol === 'tcp' ? '' : this.#templateOf(call);
    const key = keyOf({ ...call, path });
    let edge = this.#edges.get(key);
    if (edge === undefined) {
      if (this.#edges.size >= this.#settings.edges) this.#makeRoom();
      edge = { ...call, path, allowed: 0, denied: 0, first: now, last: now };
      this.#edges.set(key, edge);
    }
    if (allowed) edge.allowed++;
    else edge.denied++;
    edge.last = now;
    this.#changed = true;
  }

  /** A copy, for the file and the admin port. Times are RFC 3339. */
  list(): Edge[] {
    return [...this.#edges.values()].map(({ first, last, ...rest }) => ({
      ...rest,
      firstSeen: formatTime(first),
      lastSeen: formatTime(last),
    }));
  }

  /** Writes what has changed. A kill loses the last seconds, never the file. */
  write(): void {
    if (!this.#changed) return;
    this.#dropOld();
    try {
      writeFileDurably(this.#settings.file, `${JSON.stringify({ edges: this.list() })}\n`);
      this.#changed = false;
      this.#problem = undefined;
    } catch (error) {
      const problem = reasonOf(error);
      if (problem !== this.#problem)
        this.#log.error({ code: 'config_unreadable' }, `cannot write the file of learned traffic: ${problem}`);
      this.#problem = problem;
    }
  }

  /** Writes what is left, before it returns. */
  close(): void {
    this.#stop();
    this.write();
  }

  #templateOf(call: Call): string {
    const template = inferTemplate(call.path);
    const parent = template.slice(0, template.lastIndexOf('/') + 1);
    const group = `${call.from}\n${call.method}\n${call.port}\n${parent}`;
    const child = template.slice(parent.length);
    if (child === '{*}' || child === '{**}' || child === '') return template;
    const known = this.#siblings.get(group) ?? new Set();
    this.#siblings.set(group, known);
    if (known.size >= maxSiblings) return generalize(template);
    if (known.has(child)) return template;
    known.add(child);
    if (known.size < maxSiblings) return template;
    this.#merge(call, parent, known);
    return generalize(template);
  }

  /** Treats the last segment as a variable: edges counted one by one are merged. */
  #merge({ from, protocol, method, port }: Call, parent: string, children: ReadonlySet<string>): void {
    const path = `${parent}{*}`;
    for (const child of children) {
      const key = keyOf({ from, protocol, method, port, path: parent + child });
      const edge = this.#edges.get(key);
      if (edge === undefined) continue;
      this.#edges.delete(key);
      const whole = this.#edges.get(keyOf({ ...edge, path }));
      if (whole === undefined) this.#edges.set(keyOf({ ...edge, path }), { ...edge, path });
      else {
        whole.allowed += edge.allowed;
        whole.denied += edge.denied;
        whole.first = Math.min(whole.first, edge.first);
        whole.last = Math.max(whole.last, edge.last);
      }
    }
  }

  /** Drops the tenth of the edges that was not seen for longest. */
  #makeRoom(): void {
    const oldest = [...this.#edges].toSorted(([, a], [, b]) => a.last - b.last);
    const gone = oldest.slice(0, Math.max(1, Math.floor(oldest.length / 10)));
    for (const [key] of gone) this.#edges.delete(key);
    this.#siblings.clear();
    this.forgotten += gone.length;
  }

  #dropOld(): void {
    const oldest = Date.now() - this.#settings.keepMs;
    for (const [key, { last }] of this.#edges) if (last < oldest) this.#edges.delete(key);
  }

  #read(): void {
    const { file } = this.#settings;
    try {
      for (const edge of readLearned(readFileSync(file, 'utf8'))) {
        const { firstSeen, lastSeen, ...rest } = edge;
        this.#edges.set(keyOf(rest), { ...rest, first: Date.parse(firstSeen), last: Date.parse(lastSeen) });
      }
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') return;
      this.#log.warn({ code: 'config_unreadable' }, `cannot read the learned traffic from ${file}: ${reasonOf(error)}`);
    }
  }
}

function keyOf({ from, protocol, method, path, port }: Call): string {
  return `${from}\n${protocol}\n${method}\n${path}\n${port}`;
}

/** The edges of a file that we wrote. @throws TypeError or SyntaxError for anything else. */
export function readLearned(text: string): Edge[] {
  const value = JSON.parse(text) as { edges?: unknown };
  if (!Array.isArray(value.edges)) throw new TypeError("it has no list 'edges'");
  return value.edges.map((one: Edge) => {
    const good =
      typeof one.from === 'string' &&
      (one.from === '' || parseSpiffeId(one.from).uri === one.from) &&
      (one.protocol === 'http' || one.protocol === 'tcp') &&
      // They end up in a policy's text.
      /^[!#$%&'*+\-.^_`|~0-9A-Za-z]*$/.test(one.method) &&
      /^[\x21-\x7e]*$/.test(one.path) &&
      [one.port, one.allowed, one.denied].every(Number.isInteger) &&
      [one.firstSeen, one.lastSeen].every((time) => Number.isFinite(Date.parse(time)));
    if (!good) throw new TypeError(`${JSON.stringify(one).slice(0, 100)} is not an edge`);
    return one;
  });
}
