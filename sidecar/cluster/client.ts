// Requests to the API server whose objects we watch: bounded answers, streams line by line, no redirects. Token and roots
// are read again for each request, as the kubelet replaces both. No text of an answer gets into an error: it may be a
// Secret's.

import { readFileSync } from 'node:fs';
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Agent } from 'undici';
import type { ApiServer } from '../../cert-agent/base/api-server.ts';
import { reasonOf, SallyportError } from '../../cert-agent/base/errors.ts';
import { collectEarly, readBytes } from '../../cert-agent/base/heap.ts';
import { readRoots } from '../../cert-agent/base/roots.ts';
import type { CutEvent } from './cut-event.ts';

/** How long things take at most, milliseconds. */
export interface ClientTimes {
  /** Until the head of an answer, and until the whole of one that is no stream. */
  readonly answerMs: number;
  /** Between two events of a watch. */
  readonly silenceMs: number;
}

/** What the API server answered. */
export interface Answer {
  readonly status: number;
  /** The parsed JSON. What is no JSON: the text if it is short, such as the page of an error, else undefined. */
  readonly value: unknown;
  readonly bytes: number;
  /** From `Retry-After`, milliseconds. */
  readonly retryAfterMs: number | undefined;
}

/** A page of an error, in characters. */
const shortText = 100;

/** A watch: its lines, or why there are none. */
export type Stream = Answer | { readonly lines: AsyncIterable<string | CutEvent> };

export interface Change {
  readonly body: unknown;
  readonly type: string;
}

/** More than any object has: 1.5 MB in etcd, of which JSON may escape each character. */
export const maxAnswerBytes = 16 * 1024 * 1024;

/** Pages wait for pages of the same lane: data that does not come must not hold up documents. */
export type Lane = 'documents' | 'data';

/** How many pages are under way at once in each lane. */
const maxPages: Readonly<Record<Lane, number>> = { documents: 2, data: 1 };

/** An object in etcd has 1.5 MB at most, and JSON escapes some of it. Of a longer line only so much is kept. */
export const maxLineBytes = 4 * 1024 * 1024;

/** The answer exceeded its bound. */
export class TooLarge extends Error {}

/** One API server. Close it when no request is under way. */
export class ApiClient {
  readonly #server: ApiServer;
  readonly #times: ClientTimes;
  readonly #pages: Record<Lane, number> = { documents: 0, data: 0 };
  readonly #waiting: Readonly<Record<Lane, (() => void)[]>> = { documents: [], data: [] };
  /** Questions that are not sent yet. */
  readonly #shared = new Map<string, Promise<Answer>>();
  /** Nothing is served yet: memory is worth more than time. */
  isEarly = true;
  /** The connections, and the roots that they were made with. */
  #agent: { readonly ca: string | undefined; readonly agent: Agent } | undefined = undefined;

  constructor(server: ApiServer, times: ClientTimes) {
    this.#server = server;
    this.#times = times;
  }

  /** Asks for a page of a list, of which few are held at once. @throws as `ask`. */
  page(path: string, signal: AbortSignal, lane: Lane, mostBytes: number): Promise<Answer> {
    return this.#inTurn(lane, async () => {
      const answer = await this.ask('GET', path, undefined, signal, mostBytes);
      if (this.isEarly) collectEarly(answer.bytes);
      return answer;
    });
  }

  /** As `page`; those who ask the same before it is sent get the same answer. No answer is older than the question. */
  shared(path: string, signal: AbortSignal): Promise<Answer> {
    const waiting = this.#shared.get(path);
    if (waiting !== undefined) return waiting;
    const asked = nextTurn().then(() =>
      this.#inTurn('documents', () => {
        this.#shared.delete(path);
        return this.ask('GET', path, undefined, signal);
      }),
    );
    this.#shared.set(path, asked);
    return asked;
  }

  async #inTurn<T>(lane: Lane, work: () => Promise<T>): Promise<T> {
    while (this.#pages[lane] >= maxPages[lane]) await new Promise<void>((resolve) => this.#waiting[lane].push(resolve));
    this.#pages[lane]++;
    try {
      return await work();
    } finally {
      this.#pages[lane]--;
      this.#waiting[lane].shift()?.();
    }
  }

  /** @throws SallyportError `kubernetes_unavailable` if there is no answer, TooLarge. */
  async ask(
    method: 'GET' | 'POST' | 'PUT' | 'PATCH',
    path: string,
    change?: Change,
    signal?: AbortSignal,
    mostBytes = maxAnswerBytes,
  ): Promise<Answer> {
    const limit = AbortSignal.timeout(this.#times.answerMs);
    const response = await this.#request(method, path, change, signal ? AbortSignal.any([signal, limit]) : limit);
    return this.#whole(response, path, mostBytes);
  }

  /** Opens a watch. Its lines end with the stream. @throws SallyportError as `ask`; `kubernetes_invalid` for a line without an end. */
  async stream(path: string, signal: AbortSignal): Promise<Stream> {
    const response = await this.#request('GET', path, undefined, signal);
    if (response.statusCode !== 200) return this.#whole(response, path);
    return { lines: linesOf(response.body, path) };
  }

  /** Requests under way fail. */
  async close(): Promise<void> {
    await this.#agent?.agent.destroy();
  }

  async #request(
    method: 'GET' | 'POST' | 'PUT' | 'PATCH',
    path: string,
    change: Change | undefined,
    signal: AbortSignal,
  ) {
    try {
      // First: between the choice of the connections and their use nothing may wait, or others could close them.
      const { Agent: Connections } = await import('undici');
      const agent = this.#connections(Connections);
      const { tokenFile, url } = this.#server;
      const token = tokenFile === undefined ? undefined : readFileSync(tokenFile, 'utf8').trim();
      return await agent.request({
        ...{ origin: url, method, path, signal },
        headers: {
          accept: 'application/json',
          'user-agent': 'sallyport',
          ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
          ...(change === undefined ? {} : { 'content-type': change.type }),
        },
        ...(change === undefined ? {} : { body: JSON.stringify(change.body) }),
        headersTimeout: this.#times.answerMs,
        bodyTimeout: this.#times.silenceMs,
      });
    } catch (error) {
      throw unanswered(error);
    }
  }

  async #whole(
    response: Awaited<ReturnType<Agent['request']>>,
    path: string,
    mostBytes = maxAnswerBytes,
  ): Promise<Answer> {
    const parts: Buffer[] = [];
    let bytes = 0;
    try {
      for await (const part of response.body as AsyncIterable<Buffer>) {
        bytes += part.length;
        if (bytes > mostBytes) throw new TooLarge(`the answer to ${path} has more than ${mostBytes} bytes`);
        parts.push(part);
        readBytes(part.length);
      }
    } catch (error) {
      throw error instanceof TooLarge ? error : unanswered(error);
    }
    const after = Number(response.headers['retry-after']);
    const text = Buffer.concat(parts).toString('utf8');
    return {
      status: response.statusCode,
      value: parsed(text) ?? (text.length < shortText ? text : undefined),
      bytes,
      retryAfterMs: Number.isFinite(after) && after > 0 ? after * 1000 : undefined,
    };
  }

  #connections(Connections: typeof Agent): Agent {
    // From here on without a pause: all requests of the start come here at once.
    const { caFile } = this.#server;
    const ca = caFile === undefined ? undefined : readRoots(caFile);
    if (this.#agent !== undefined && this.#agent.ca === ca) return this.#agent.agent;
    // Watches that are open keep the connections of the former roots until they end.
    void this.#agent?.agent.close();
    const connect = {
      timeout: 5000,
      keepAlive: true,
      keepAliveInitialDelay: 15_000,
      ...(ca === undefined ? {} : { ca }),
    };
    const agent = new Connections({ connect, allowH2: false, maxHeaderSize: 16_384 });
    this.#agent = { ca, agent };
    return agent;
  }
}

function unanswered(cause: unknown): SallyportError {
  if (cause instanceof SallyportError) return cause;
  const isLate = cause instanceof Error && (cause.name === 'TimeoutError' || /timeout/i.test(cause.name));
  const why = isLate ? 'it did not answer in time' : reasonOf(cause) || 'the connection failed';
  return new SallyportError('kubernetes_unavailable', `the API server cannot be asked: ${why}`, { cause });
}

/** After this time, milliseconds, a stream that always has a next line lets others have a turn. */
const turnMs = 5;

async function* linesOf(body: AsyncIterable<Buffer>, path: string): AsyncGenerator<string | CutEvent> {
  let held: Buffer[] = [];
  /** Of the line so far, with what of it is not held. */
  let lineBytes = 0;
  const hold = (part: Buffer): void => {
    if (lineBytes < maxLineBytes) held.push(part);
    lineBytes += part.length;
  };
  let turnFrom = performance.now();
  try {
    for await (const part of body) {
      readBytes(part.length);
      let from = 0;
      for (let end = part.indexOf(10); end !== -1; end = part.indexOf(10, from)) {
        hold(part.subarray(from, end));
        const text = Buffer.concat(held).toString('utf8');
        const line = lineBytes > maxLineBytes ? { head: text.slice(0, maxLineBytes) } : text;
        [held, lineBytes] = [[], 0];
        from = end + 1;
        if (line !== '') yield line;
        if (performance.now() - turnFrom < turnMs) continue;
        await nextTurn();
        turnFrom = performance.now();
      }
      if (from === part.length) continue;
      hold(Buffer.from(part.subarray(from)));
      if (lineBytes > maxAnswerBytes)
        throw new SallyportError('kubernetes_invalid', `an event of ${path} has more than ${maxAnswerBytes} bytes`);
    }
  } catch (error) {
    throw unanswered(error);
  }
  if (lineBytes > 0)
    throw new SallyportError('kubernetes_unavailable', `the watch of ${path} ended in the middle of an event`);
}

/** undefined if it is no JSON: the error of JSON.parse would quote it. */
export function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
