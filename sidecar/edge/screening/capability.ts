// Looks for attacks in requests, and reports or refuses them.

import { SallyportError } from '../../../cert-agent/base/errors.ts';
import { deny } from '../../exchange/decision.ts';
import { type Exchange, Slot } from '../../exchange/exchange.ts';
import { headerOf } from '../../exchange/facts.ts';
import { bodyTooLarge } from '../../protocol/body-limit.ts';
import type { Guarding } from '../capability.ts';
import { decodeBody, isPlain } from '../content.ts';
import { gatherBody, waitsForBody, wholeBodyOf } from '../gather-body.ts';
import type { DetectorName } from './finding.ts';
import type { Outcome, ScreeningCounts } from './metrics.ts';
import type { ScreeningPlan } from './schema.ts';
import {
  type BodyResult,
  compileRules,
  describeHits,
  endOf,
  type Hit,
  isUnread,
  Screening,
  scoreOfHits,
} from './screen.ts';
import { ScreeningThread } from './thread.ts';
import { takeBody, takeCookies, takeTarget } from './values.ts';

/** Longer bodies are screened in the thread. */
const maxOnLoop = 16 * 1024;

/** What all policies of one process share. */
export interface ScreeningShared {
  readonly counts: ScreeningCounts | undefined;
  readonly thread: ScreeningThread;
}

export const screening: Guarding<ScreeningPlan, ScreeningShared | undefined> = {
  name: 'screening',
  guards: 'requests',
  perPolicy: true,
  inboundOnly: true,
  fields: [
    {
      ...{ kind: 'sallyport.dev/RequestScreening', name: 'RequestScreening' },
      schema: async () => (await import('./schema.ts')).requestScreening,
    },
    {
      ...{ kind: 'sidecar.yaml', name: 'requestScreening' },
      schema: async () => (await import('./schema.ts')).requestScreening,
    },
  ],
  ownHeaders: () => [],
  secretParams: () => [],
  async share({ registry, onClose }) {
    const { registerScreeningMetrics } = await import('./metrics.ts');
    const thread = new ScreeningThread();
    onClose(() => thread.close());
    return { counts: registerScreeningMetrics(registry), thread };
  },
  shareDry: () => undefined,
  compile([planned], { name, shared, warn }) {
    if (planned === undefined) return undefined;
    const { plan } = planned;
    const { mode, bodyLimit, threshold, exclusions } = plan;
    const now = Date.now();
    for (const one of exclusions)
      if (now > endOf(one)) warn(`the exclusion '${one.reason}' ended on ${one.until}: it has no effect`);
    const blocks = mode === 'Block';
    const { bodyLimit: _limit, mode: _mode, ...rules } = plan;
    const compiled = compileRules(rules);

    /** Records the result. @throws SallyportError in mode Block. */
    const conclude = (exchange: Exchange, { hits, spent, isRead }: BodyResult): void => {
      const score = scoreOfHits(hits);
      const isAttack = score >= threshold;
      const outcome: Outcome = isAttack ? 'attack' : spent !== undefined || !isRead ? 'unscreened' : 'clean';
      shared?.counts?.request(mode, outcome);
      if (hits.length > 0) note(exchange, `${score} ${describeHits(hits)}`);
      if (isAttack) for (const detector of detectorsAbove(hits, threshold)) shared?.counts?.detected(mode, detector);
      if (!blocks) return;
      if (isAttack)
        throw deny(exchange, new SallyportError('attack_detected', `${name}: score ${score}: ${describeHits(hits)}`));
      if (spent !== undefined)
        throw deny(
          exchange,
          new SallyportError(
            'screening_too_costly',
            `${name}: the request has too many ${spent === 'time' ? 'bytes to screen in time' : 'values'}`,
          ),
        );
      passed.set(exchange, true);
    };

    const headOf = (exchange: Exchange): Screening => {
      const target = exchange.target.startsWith('/') ? exchange.target : exchange.path;
      const screened = new Screening(compiled, pathOf(exchange.path));
      takeTarget(target, screened.take);
      const { names, values } = exchange.fields;
      for (const [i, { lower }] of names.entries()) {
        if (lower === 'cookie') takeCookies(values[i]!, screened.take);
        else if (!isUnread(lower)) screened.take('header', lower, values[i]!);
      }
      return screened;
    };

    const screenBody = (exchange: Exchange, head: Screening, body: Buffer): undefined | Promise<void> => {
      const contentType = headerOf(exchange, 'content-type');
      if (body.length > maxOnLoop && shared !== undefined)
        return shared.thread
          .screen(body, contentType, head.path, rules)
          .then(({ hits, spent, isRead }) =>
            conclude(exchange, { hits: [...head.hits, ...hits], spent: head.spent ?? spent, isRead }),
          );
      const isRead = takeBody(body, contentType, head.take);
      conclude(exchange, { hits: head.hits, spent: head.spent, isRead });
      return undefined;
    };

    /** The body cannot be read as it is. Mode Block refuses what it cannot decode. */
    const leave = (
      exchange: Exchange,
      head: Screening,
      code?: 'body_too_large' | 'content_encoding_unsupported' | 'content_encoding_invalid',
    ): void => {
      conclude(exchange, { hits: head.hits, spent: head.spent, isRead: false });
      if (blocks && code !== undefined)
        throw deny(exchange, new SallyportError(code, `${name}: the body cannot be screened`));
    };

    const inspectBody = (exchange: Exchange, head: Screening): undefined | Promise<void> => {
      const body = wholeBodyOf(exchange) ?? (exchange.framing === 0 ? none : undefined);
      if (body === undefined || body.length > bodyLimit) return void leave(exchange, head, 'body_too_large');
      const coding = headerOf(exchange, 'content-encoding');
      if (body.length === 0 || isPlain(coding)) return screenBody(exchange, head, body);
      return decodeBody(body, coding!, bodyLimit).then((decoded) =>
        typeof decoded === 'string'
          ? leave(exchange, head, decoded as 'body_too_large')
          : screenBody(exchange, head, decoded),
      );
    };

    return {
      admit(exchange) {
        if (!blocks || exchange.grpc || exchange.webSocket || exchange.method === 'CONNECT') return;
        exchange.bodyLimit = Math.min(exchange.bodyLimit, bodyLimit);
        if (typeof exchange.framing === 'number' && exchange.framing > exchange.bodyLimit) throw bodyTooLarge(exchange);
      },
      // Behind authentication and authorization: strangers cost no screening.
      serve(exchange) {
        const head = headOf(exchange);
        // Messages of gRPC and WebSockets go on as they come: only the head is screened.
        if (exchange.grpc || exchange.webSocket || exchange.method === 'CONNECT') return leave(exchange, head);
        // What is an attack already needs no body.
        if (blocks && head.isAttack)
          return conclude(exchange, { ...head, hits: head.hits, spent: head.spent, isRead: true });
        if (!waitsForBody(exchange)) return inspectBody(exchange, head);
        const { framing } = exchange;
        if (typeof framing === 'number' && framing > bodyLimit) return leave(exchange, head, 'body_too_large');
        return gatherBody(exchange, blocks ? undefined : bodyLimit).then(() => inspectBody(exchange, head));
      },
      // What was screened has been received as a whole, and new rules cannot take it back.
      guard: {
        known: undefined,
        stillHolds: (exchange) =>
          !blocks ||
          passed.get(exchange) === true ||
          exchange.grpc ||
          exchange.webSocket ||
          exchange.method === 'CONNECT',
      },
    };
  },
};

const none = Buffer.alloc(0);

/** Requests that passed. */
const passed = new Slot<boolean>();

function note(exchange: Exchange, text: string): void {
  exchange.noted = [...(exchange.noted ?? []), ['screening', text]];
}

function pathOf(path: string): string {
  const end = path.indexOf('?');
  return end === -1 ? path : path.slice(0, end);
}

function detectorsAbove(hits: readonly Hit[], threshold: number): DetectorName[] {
  return [...new Set(hits.map(({ detector }) => detector))].filter(
    (detector) => scoreOfHits(hits.filter((hit) => hit.detector === detector)) >= threshold,
  );
}
