// Looks for attacks in requests, and reports or refuses them.

import { SallyportError } from '../../../cert-agent/base/errors.ts';
import { deny } from '../../exchange/decision.ts';
import { type Exchange, Slot } from '../../exchange/exchange.ts';
import { headerOf } from '../../exchange/facts.ts';
import { noteInLog } from '../../exchange/noted.ts';
import { limitBody } from '../../protocol/body-limit.ts';
import type { Guarding } from '../capability.ts';
import { decodeBody, isPlain } from '../content.ts';
import { gatherBody, wholeBodyOf } from '../gather-body.ts';
import { type DetectorName, isRule } from './finding.ts';
import type { Outcome, ScreeningCounts } from './metrics.ts';
import type { ScreeningPlan } from './schema.ts';
import {
  type BodyResult,
  compileRules,
  describeHits,
  endOf,
  type Hit,
  Screening,
  scoreOfHits,
  takeHeaders,
} from './screen.ts';
import { ScreeningThread } from './thread.ts';
import { takeTarget } from './values.ts';

/** Longer bodies are screened in the thread. */
const maxOnLoop = 16 * 1024;

/** State that all policies of one process share. */
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
    const { mode, bodyLimit, threshold, exclusions, unreadableBodies } = plan;
    const now = Date.now();
    for (const one of exclusions) {
      if (now > endOf(one)) warn(`the exclusion '${one.reason}' ended on ${one.until}: it has no effect`);
      if (one.rule !== undefined && !isRule(one.rule) && !plan.rules.some(({ id }) => one.rule === `crs-${id}`))
        warn(`the exclusion '${one.reason}' names the rule '${one.rule}', which does not exist: it has no effect`);
      if ([one.detector, one.rule, one.in, one.field, one.path].every((part) => part === undefined))
        warn(`the exclusion '${one.reason}' has no detector, rule, in, field or path: nothing is screened`);
    }
    const blocks = mode === 'Block';
    const { bodyLimit: _limit, mode: _mode, unreadableBodies: _unreadable, ...rules } = plan;
    const compiled = compileRules(rules);

    /** Records the result. @throws SallyportError in mode Block. */
    const conclude = (exchange: Exchange, { hits, spent, isRead }: BodyResult): void => {
      const score = scoreOfHits(hits);
      const isAttack = score >= threshold;
      const outcome: Outcome = isAttack ? 'attack' : spent !== undefined || !isRead ? 'unscreened' : 'clean';
      shared?.counts?.request(mode, outcome);
      // The query may be the evidence of an attack: the line names what was found, not its text.
      if (hits.length > 0)
        noteInLog(exchange, { name: 'screening', text: `${score} ${describeHits(hits)}`, hidesQuery: true });
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

    const concludeBody = (exchange: Exchange, result: BodyResult): void => {
      conclude(exchange, result);
      if (blocks && !result.isRead && unreadableBodies === 'Refuse')
        throw deny(exchange, new SallyportError('content_type_unsupported', `${name}: the body is not text`));
    };

    const headOf = (exchange: Exchange): Screening => {
      const target = exchange.target.startsWith('/') ? exchange.target : exchange.path;
      const screened = new Screening(compiled, pathOf(exchange.path));
      takeTarget(target, screened.take);
      takeHeaders(exchange.fields.names, exchange.fields.values, screened.take);
      return screened;
    };

    const screenBody = (exchange: Exchange, head: Screening, body: Buffer): undefined | Promise<void> => {
      const contentType = headerOf(exchange, 'content-type');
      if (body.length > maxOnLoop && shared !== undefined)
        return shared.thread
          .screen(body, contentType, head.path, rules)
          .catch((error: unknown): BodyResult => {
            if (blocks) throw error;
            return { hits: [], spent: 'time', isRead: false };
          })
          .then(({ hits, spent, isRead }) =>
            concludeBody(exchange, { hits: [...head.hits, ...hits], spent: head.spent ?? spent, isRead }),
          );
      const isRead = head.takeBody(body, contentType);
      concludeBody(exchange, { hits: head.hits, spent: head.spent, isRead });
      return undefined;
    };

    /** The body cannot be read as it is. Mode Block refuses an encoding that it cannot decode. */
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
        if (!blocks || isStream(exchange)) return;
        limitBody(exchange, bodyLimit, name);
      },
      // Behind authentication and authorization: unknown clients cost no screening.
      serve(exchange) {
        const head = headOf(exchange);
        // gRPC messages and WebSockets are forwarded as they arrive: only the head is screened.
        if (isStream(exchange)) return leave(exchange, head);
        // A head that is an attack needs no body.
        if (blocks && head.isAttack)
          return conclude(exchange, { ...head, hits: head.hits, spent: head.spent, isRead: true });
        const { framing } = exchange;
        if (framing === 0 || wholeBodyOf(exchange) !== undefined) return inspectBody(exchange, head);
        if (typeof framing === 'number' && framing > bodyLimit) return leave(exchange, head, 'body_too_large');
        return gatherBody(exchange, blocks ? undefined : bodyLimit).then(() => inspectBody(exchange, head));
      },
      // A screened request has been received completely, and new rules cannot take it back.
      guard: {
        known: undefined,
        stillHolds: (exchange) => !blocks || passed.get(exchange) === true || isStream(exchange),
      },
    };
  },
};

const none = Buffer.alloc(0);

/** Streams of messages and tunnels have no body to wait for. In HTTP/1.1 there is no gRPC, whatever the type says. */
function isStream({ grpc, minor, webSocket, method }: Exchange): boolean {
  return (grpc && minor === 2) || webSocket || method === 'CONNECT';
}

/** Requests that passed. */
const passed = new Slot<boolean>();

function pathOf(path: string): string {
  const end = path.indexOf('?');
  return end === -1 ? path : path.slice(0, end);
}

function detectorsAbove(hits: readonly Hit[], threshold: number): DetectorName[] {
  return [...new Set(hits.map(({ detector }) => detector))].filter(
    (detector) => scoreOfHits(hits.filter((hit) => hit.detector === detector)) >= threshold,
  );
}
