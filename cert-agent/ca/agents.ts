// The agents that hold a stream to the CA: each gets every change of bundle and deny list at once, and acknowledges
// what its sidecars use. A client needs a valid SVID; what it acknowledges counts for its own stream only.

import { z } from 'zod';
import { every } from '../base/background.ts';
import type { Clock } from '../base/clock.ts';
import { SallyportError } from '../base/errors.ts';
import type { Live } from '../base/live.ts';
import { type DenyList, deniedBy } from '../identity/denied.ts';
import type { BundleAnswer } from './bundle-answer.ts';

/** A client's end of a stream: lines of JSON, each with its newline. */
export interface Sink {
  /** Never waits and never throws. What the client does not take is pending. */
  write(line: string): void;
  /** Bytes that the client has not taken. */
  pending(): number;
  /** Ends it; `abruptly` without what is pending. */
  end(abruptly?: boolean): void;
}

/** The CA's end. */
export interface Receiver {
  /** A line from the client. @throws SallyportError when it is not valid: the stream is then ended. */
  line(text: string): void;
  /** The client is gone. */
  gone(): void;
}

/** What an agent's sidecars use. */
export interface Acknowledgement {
  /** Sequences. */
  readonly bundle: number;
  readonly denied: number;
  /** SHA-256 of the roots, lower-case hex. */
  readonly roots: readonly string[];
  /** How many sidecars have confirmed it; the agent's own process counts as one. */
  readonly sidecars: number;
  /** The agent's clock, milliseconds since 1970. */
  readonly clock?: number | undefined;
}

/** An agent with an open stream. */
export interface ConnectedAgent {
  readonly id: string;
  /** Of the SVID that opened the stream. */
  readonly serial: string;
  /** Milliseconds since 1970. */
  readonly since: number;
  readonly acknowledged: (Omit<Acknowledgement, 'clock'> & { readonly at: number }) | undefined;
  /** How far the agent's clock was ahead of ours when it last acknowledged something, milliseconds. */
  readonly clockAheadMs?: number;
}

/** `answer` is sent to every agent when it changes. */
export interface AgentsParts {
  readonly answer: Live<BundleAnswer>;
  readonly clock: Clock;
  /** How long a client that ended its stream is expected to return; default 4 s. */
  readonly returnMs?: number;
  /** The list that `answer` has. */
  denied(): DenyList;
}

/** Streams of one identity. Its replicas have one each; a thief of one key must not take all connections. */
const perIdentity = 64;

/** An agent that hears nothing for three of these tries another connection. */
const heartbeatMs = 5000;

/** A document up to this size is sent with the change; for a larger one, each agent asks when it has the time. */
const sentBytes = 65_536;

/** A client that has not taken this many bytes does not read. */
const mostPending = 1_048_576;

/** An agent that renews, or whose connection broke, opens another stream within this time: see againMs of the agent. */
const usualReturnMs = 4000;

/** Renewals that we ask for are spread, so that they do not come in one second. */
const spreadForEachMs = 100;
const longestSpreadMs = 60_000;

/** Acknowledgements of one agent between two heartbeats: as many as its sidecars and changes can cause. */
const mostLines = 100;

/** The line that only shows that the CA is there. */
const heartbeat = '{}\n';

interface Stream {
  readonly sink: Sink;
  readonly id: string;
  readonly serial: string;
  readonly since: number;
  /** Of that SVID, milliseconds since 1970. */
  readonly issuedAt: number;
  /** When the SVID behind it expires. */
  readonly until: number;
  acknowledged: ConnectedAgent['acknowledged'];
  clockAheadMs: number | undefined;
  /** The heartbeat before this one was not taken. */
  isSlow: boolean;
  /** Since the last heartbeat. */
  lines: number;
}

/** A client that ended its stream a moment ago, and may open another one. */
interface Departed extends Pick<Stream, 'id' | 'serial'> {
  readonly timer: NodeJS.Timeout;
}

/** Of one CA. It sends and beats by itself until `close`. */
export class Agents {
  readonly #answer: Live<BundleAnswer>;
  readonly #clock: Clock;
  readonly #returnMs: number;
  readonly #denied: () => DenyList;
  readonly #streams = new Set<Stream>();
  readonly #departed = new Set<Departed>();
  readonly #watchers = new Set<() => void>();
  #renewBefore: number | undefined = undefined;
  readonly #stop: () => void;

  constructor({ answer, clock, denied, returnMs = usualReturnMs }: AgentsParts) {
    this.#answer = answer;
    this.#clock = clock;
    this.#returnMs = returnMs;
    this.#denied = denied;
    const stopAnswer = answer.onChange((now) => this.#publish(now));
    const stopBeat = every('agents', heartbeatMs, () => this.#beat());
    this.#stop = () => {
      stopAnswer();
      stopBeat();
    };
  }

  /**
   * Opens a stream for the holder of an SVID that expires at `until`. The client gets the current document at once,
   * unless it has it (`etag`).
   */
  open(client: Pick<Stream, 'id' | 'serial' | 'issuedAt' | 'until'>, sink: Sink, etag: string | undefined): Receiver {
    const same = [...this.#streams].filter(({ id }) => id === client.id);
    // The oldest is most likely one that its client has lost.
    if (same.length >= perIdentity) this.#close(same[0]!);
    const stream: Stream = {
      sink,
      ...client,
      since: this.#clock.now(),
      ...{ acknowledged: undefined, clockAheadMs: undefined },
      isSlow: false,
      lines: 0,
    };
    this.#streams.add(stream);
    this.#forget([...this.#departed].find(({ id }) => id === client.id));
    const now = this.#answer.current();
    sink.write(etag === now.etag ? heartbeat : lineOf(now));
    this.#askToRenew(stream);
    this.#changed();
    return {
      line: (text) => this.#acknowledge(stream, readAcknowledgement(text)),
      gone: () => {
        if (!this.#streams.delete(stream)) return;
        this.#remember(stream);
        this.#changed();
      },
    };
  }

  #remember({ id, serial }: Stream): void {
    const timer = setTimeout(() => {
      this.#forget(departed);
      this.#changed();
    }, this.#returnMs);
    const departed: Departed = { id, serial, timer: timer.unref() };
    this.#departed.add(departed);
  }

  #forget(departed: Departed | undefined): void {
    if (departed === undefined) return;
    clearTimeout(departed.timer);
    this.#departed.delete(departed);
  }

  #acknowledge(stream: Stream, { clock, ...what }: Acknowledgement): void {
    const { bundle, denied } = this.#answer.current().sequences;
    if (what.bundle > bundle || what.denied > denied)
      throw new SallyportError('acknowledgement_invalid', `${stream.id} acknowledged what the CA has not sent`);
    if (++stream.lines > mostLines)
      throw new SallyportError('acknowledgement_invalid', `${stream.id} acknowledges too often`);
    const at = this.#clock.now();
    stream.acknowledged = Object.freeze({ ...what, at });
    if (clock !== undefined) stream.clockAheadMs = clock - at;
    this.#changed();
  }

  /** In the order in which they connected. */
  connected(): readonly ConnectedAgent[] {
    return [...this.#streams].map(({ id, serial, since, acknowledged, clockAheadMs }) => ({
      ...{ id, serial, since, acknowledged },
      ...(clockAheadMs === undefined ? {} : { clockAheadMs }),
    }));
  }

  /** Those that ended their stream in the last seconds and have not opened another one. */
  departed(): readonly Pick<ConnectedAgent, 'id' | 'serial'>[] {
    return [...this.#departed];
  }

  /**
   * Asks agents for new SVIDs whose own are from before `time` (milliseconds since 1970), those that connect later too.
   * Undefined: no more.
   */
  renewThoseBefore(time: number | undefined): void {
    this.#renewBefore = time;
    for (const stream of this.#streams) this.#askToRenew(stream);
  }

  /** The more there are, the longer it may take. */
  #askToRenew(stream: Stream): void {
    if (this.#renewBefore === undefined || stream.issuedAt >= this.#renewBefore) return;
    const renewWithinMs = Math.min(longestSpreadMs, this.#streams.size * spreadForEachMs);
    this.#write(stream, `${JSON.stringify({ renewWithinMs })}\n`);
  }

  /** Resolves with true once `holds` is true, with false after `ms`. It is asked at each change. */
  async until(holds: () => boolean, ms: number): Promise<boolean> {
    if (holds()) return true;
    const { promise, resolve } = Promise.withResolvers<boolean>();
    const look = (): void => {
      if (holds()) resolve(true);
    };
    this.#watchers.add(look);
    const timer = setTimeout(() => resolve(false), ms);
    try {
      return await promise;
    } finally {
      clearTimeout(timer);
      this.#watchers.delete(look);
    }
  }

  /** Ends all streams; agents connect again. Waits in `until` go on to their end. */
  close(): void {
    this.#stop();
    for (const stream of this.#streams) stream.sink.end();
    this.#streams.clear();
    for (const departed of this.#departed) this.#forget(departed);
  }

  #publish(now: BundleAnswer): void {
    const line = lineOf(now);
    for (const stream of this.#streams) {
      this.#write(stream, line);
      // It has been told why.
      if (this.#isDenied(stream)) this.#close(stream);
    }
  }

  #isDenied({ id, serial }: Stream): boolean {
    return deniedBy(this.#denied(), { serial, id: { uri: id } }) !== undefined;
  }

  /** Ends what must not go on: the SVID behind it has expired or is denied, or its client does not read. */
  #beat(): void {
    const now = this.#clock.now();
    for (const stream of this.#streams) {
      if (now > stream.until || this.#isDenied(stream)) this.#close(stream);
      else if (stream.isSlow && stream.sink.pending() > 0) this.#close(stream, true);
      else {
        stream.lines = 0;
        stream.isSlow = stream.sink.pending() > 0;
        this.#write(stream, heartbeat);
      }
    }
  }

  #write(stream: Stream, line: string): void {
    if (stream.sink.pending() > mostPending) this.#close(stream, true);
    else stream.sink.write(line);
  }

  #close(stream: Stream, abruptly = false): void {
    if (!this.#streams.delete(stream)) return;
    stream.sink.end(abruptly);
    this.#changed();
  }

  #changed(): void {
    for (const look of this.#watchers) look();
  }
}

const count = z.int().nonnegative();
const acknowledgement = z.strictObject({
  bundle: count,
  denied: count,
  roots: z.array(z.string().regex(/^[0-9a-f]{64}$/)).max(16),
  sidecars: count.max(10_000),
  clock: count.optional(),
});

function readAcknowledgement(text: string): Acknowledgement {
  try {
    return acknowledgement.parse(JSON.parse(text));
  } catch {
    throw new SallyportError('acknowledgement_invalid', 'an acknowledgement that cannot be read');
  }
}

function lineOf({ body, etag }: BundleAnswer): string {
  // The body is JSON already.
  const document = body.length > sentBytes ? '' : `,"document":${body}`;
  return `{"etag":${JSON.stringify(etag)}${document}}\n`;
}
