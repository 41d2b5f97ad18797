// Anomaly detection in one process. Every worker counts its requests, and the first learns: one caller's requests reach
// several workers.

import { hash } from 'node:crypto';
import type { Log } from '../../../cert-agent/base/log.ts';
import type { Exchange } from '../../exchange/exchange.ts';
import { pathWithoutQuery } from '../../exchange/facts.ts';
import { printable } from '../../exchange/message.ts';
import { inferTemplate } from '../../policy/infer.ts';
import { callerParts } from '../caller.ts';
import type { FirstWorker } from '../capability.ts';
import { type Anomaly, Model, type ModelState, type Seen } from './model.ts';
import type { AnomalyPlan } from './schema.ts';

/** A worker's counts since its last report, by policy. */
type Report = readonly (readonly [policy: string, seen: readonly Seen[]])[];

/** An anomaly with its time and policy, for the page. */
export interface Recent extends Anomaly {
  /** RFC 3339. */
  readonly time: string;
  readonly policy: string;
}

/** Series that one report holds; more are reported at once. */
const maxCounted = 10_000;
/** Paths that one report holds for a series. */
const maxPathsCounted = 50;
/** Of each kind: many new callers do not hide the others. */
const maxRecent = 50;
/** Lines of the log in a minute, of each kind; the metric counts all. */
const maxLogged = 20;
const longestKey = 200;

/** The parts of the process that it uses. */
export interface DetectionTools {
  readonly log: Pick<Log, 'warn'>;
  readonly count: (policy: string, kind: Anomaly['kind']) => void;
  /** In a worker that is not the first. */
  readonly first: Pick<FirstWorker, 'tell'> | undefined;
  /** Milliseconds of a clock that does not jump. */
  readonly now: () => number;
  /** Milliseconds since 1970. */
  readonly date: () => number;
}

export class Detection {
  readonly #tools: DetectionTools;
  readonly #models = new Map<string, Model>();
  /** How many compiled policies use each model: a changed policy is compiled before the last one is dropped. */
  readonly #uses = new Map<string, number>();
  #counted = new Map<string, Map<string, Seen>>();
  #size = 0;
  readonly #recent = new Map<Anomaly['kind'], Recent[]>();
  #minute = 0;
  readonly #logged = new Map<Anomaly['kind'], number>();

  constructor(tools: DetectionTools) {
    this.#tools = tools;
  }

  /** Begins, or continues, to learn for a policy. */
  watch(policy: string, plan: AnomalyPlan): void {
    this.#uses.set(policy, (this.#uses.get(policy) ?? 0) + 1);
    const known = this.#models.get(policy);
    if (known === undefined)
      this.#models.set(policy, new Model(plan, this.#tools.now(), (anomaly) => this.#alert(policy, anomaly)));
    else known.update(plan, this.#tools.now());
  }

  /** Forgets what was learned for a policy with its last use. */
  drop(policy: string): void {
    const left = (this.#uses.get(policy) ?? 1) - 1;
    this.#uses.set(policy, left);
    if (left > 0) return;
    this.#uses.delete(policy);
    this.#models.delete(policy);
    this.#counted.delete(policy);
  }

  /** Counts an exchange that has ended. */
  see(policy: string, exchange: Exchange): void {
    const parts = callerParts(exchange, exchange.connection);
    const route = exchange.edge?.name ?? exchange.route?.name ?? '-';
    const key = keyOf(parts);
    const counted = this.#counted.get(policy) ?? new Map<string, Seen>();
    this.#counted.set(policy, counted);
    const of = `${route} ${key}`;
    let seen = counted.get(of);
    if (seen === undefined) {
      seen = {
        route,
        key,
        caller: nameOf(parts),
        requests: 0,
        errors: 0,
        largestRequest: 0,
        largestResponse: 0,
        paths: [],
      };
      counted.set(of, seen);
      this.#size++;
    }
    const { status, bytesReceived, bytesSent } = exchange;
    const isError = status === 0 || status >= 400;
    seen.requests++;
    if (isError) seen.errors++;
    seen.largestRequest = Math.max(seen.largestRequest, bytesReceived);
    seen.largestResponse = Math.max(seen.largestResponse, bytesSent);
    // Clients make up paths: only those that the app knows count.
    if (!isError && seen.paths.length < maxPathsCounted) {
      const path = `${exchange.method} ${inferTemplate(pathWithoutQuery(exchange.received?.path ?? exchange.path))}`;
      if (!seen.paths.includes(path)) seen.paths.push(path);
    }
    if (this.#size >= maxCounted) this.pass();
  }

  /** Passes the counts on to the models, and ends their windows. Runs every second. */
  pass(): void {
    const report: Report = [...this.#counted].map(([policy, seen]) => [policy, [...seen.values()]]);
    this.#counted = new Map();
    this.#size = 0;
    const { first } = this.#tools;
    if (first === undefined) {
      this.take(report);
      for (const model of this.#models.values()) model.tick(this.#tools.now());
    } else if (report.length > 0) first.tell(report);
  }

  /** In the first worker: adds the counts of another. */
  take(report: unknown): void {
    const now = this.#tools.now();
    for (const [policy, all] of report as Report) for (const seen of all) this.#models.get(policy)?.add(seen, now);
  }

  /** The learned values, by policy, and the newest anomalies, newest first. */
  get state(): { readonly policies: Readonly<Record<string, ModelState>>; readonly recent: readonly Recent[] } {
    const { now, date } = this.#tools;
    const shift = date() - now();
    return {
      policies: Object.fromEntries([...this.#models].map(([policy, model]) => [policy, model.state(shift)])),
      recent: [...this.#recent.values()].flat().sort((a, b) => (a.time < b.time ? 1 : a.time > b.time ? -1 : 0)),
    };
  }

  #alert(policy: string, anomaly: Anomaly): void {
    const { log, count, now, date } = this.#tools;
    const { kind } = anomaly;
    count(policy, kind);
    const recent = this.#recent.get(kind) ?? [];
    this.#recent.set(kind, recent);
    recent.unshift({ time: new Date(date()).toISOString(), policy, ...anomaly });
    if (recent.length > maxRecent) recent.pop();
    const minute = Math.floor(now() / 60_000);
    if (minute !== this.#minute) this.#logged.clear();
    this.#minute = minute;
    const logged = (this.#logged.get(kind) ?? 0) + 1;
    this.#logged.set(kind, logged);
    if (logged > maxLogged) return;
    log.warn({ code: 'anomaly', policy, ...anomaly }, sentenceOf(anomaly));
  }
}

function keyOf(parts: readonly (string | undefined)[]): string {
  const text = JSON.stringify(parts.map((one) => one ?? null));
  return text.length > longestKey ? hash('sha256', text) : text;
}

/** The name of a caller: its authentication method and all its names. */
function nameOf([method, ...names]: readonly (string | undefined)[]): string {
  const said = names.flatMap((one) =>
    one === undefined ? [] : [one.slice(0, longestKey).replace(/[^\x20-\x7e]/g, '.')],
  );
  if (said.length === 0) return 'anonymous';
  return method === undefined ? said.join(' ') : `${method} ${said.join(' ')}`;
}

const units: Readonly<Record<string, string>> = {
  rate: 'requests in a window',
  requestSize: 'bytes in one request',
  responseSize: 'bytes in one response',
  errors: 'errors in a window',
};

function sentenceOf({ kind, route, caller, seen, usual, path }: Anomaly): string {
  if (kind === 'newCaller') return `${caller} is new on ${route}`;
  if (kind === 'newPath') return `${caller} is new at ${printable(path!)} of ${route}`;
  return `${caller} on ${route}: ${seen} ${units[kind]}, up to ${usual} are usual`;
}
