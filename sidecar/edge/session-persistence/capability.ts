// Keeps a client on one backend and one endpoint, by a random name that the client sends back.

import { parseDuration } from '../../../cert-agent/base/clock.ts';
import { sessionOf } from '../../upstream/hash-key.ts';
import type { Service } from '../capability.ts';
import type { SessionPersistencePlan } from './schema.ts';
import { findSession, type SessionPlan, shareOf } from './session-persistence.ts';

export const sessionPersistence: Service<SessionPersistencePlan, undefined> = {
  name: 'session-persistence',
  guards: false,
  sticks: true,
  fields: [
    {
      kind: 'rule',
      name: 'sessionPersistence',
      schema: async () => (await import('./schema.ts')).sessionPersistence,
    },
  ],
  compile([planned], { path }) {
    if (planned === undefined) return undefined;
    const plan = sessionPlanOf(planned.plan, path);
    return {
      share(exchange) {
        const found = findSession(exchange, plan, exchange.startedAt);
        sessionOf.set(exchange, found);
        return shareOf(found);
      },
    };
  },
};

function sessionPlanOf(
  { sessionName, type, absoluteTimeout, cookieConfig }: SessionPersistencePlan,
  path: string,
): SessionPlan {
  return {
    name: sessionName ?? (type === 'Header' ? 'x-sallyport-session' : 'sallyport-session'),
    in: type,
    absoluteMs: absoluteTimeout === undefined ? 0 : (parseDuration(absoluteTimeout) ?? 0),
    permanent: cookieConfig?.lifetimeType === 'Permanent',
    path,
  };
}
