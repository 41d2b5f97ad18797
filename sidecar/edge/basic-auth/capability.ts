// Authenticates users by a name and a password.

import type { Guarding } from '../capability.ts';
import { secretText } from '../credentials.ts';
import { type Credentials, hasSameCredential } from '../still-known.ts';
import { BasicAuth, readHtpasswd, weakPasswords } from './basic-auth.ts';
import { BcryptThread } from './bcrypt-thread.ts';
import type { BasicPlan } from './schema.ts';

/** One thread per process: all policies share its queue. */
export interface Passwords {
  readonly thread: BcryptThread;
  now(): number;
}

export const basicAuth: Guarding<BasicPlan, Passwords> = {
  name: 'basic-auth',
  guards: 'callers',
  perPolicy: true,
  fields: [{ kind: 'SecurityPolicy', name: 'basicAuth', schema: async () => (await import('./schema.ts')).basicAuth }],
  ownHeaders: ({ forwardUsernameHeader }) => (forwardUsernameHeader === undefined ? [] : [forwardUsernameHeader]),
  secretParams: () => [],
  share({ onClose }) {
    const thread = new BcryptThread();
    onClose(() => thread.close());
    return { thread, now: Date.now };
  },
  shareDry: () => ({ thread: new BcryptThread(), now: Date.now }),
  compile([planned], at) {
    if (planned === undefined) return undefined;
    const { plan } = planned;
    const users = readHtpasswd(secretText(at, plan.users.name, '.htpasswd', 'basicAuth'), plan.users.name);
    for (const warning of weakPasswords(users)) at.warn(warning);
    const known: Credentials = new Map(
      [...users].map(([user, stored]) => [
        user,
        stored.kind === 'sha' ? stored.digest.toString('base64') : stored.hash,
      ]),
    );
    const { thread, now } = at.shared;
    const basic = new BasicAuth(plan, users, thread, now);
    return {
      authenticate: (exchange) => basic.know(exchange),
      guard: {
        known,
        stillHolds: (exchange, before) => hasSameCredential(exchange, known, before as Credentials | undefined),
      },
    };
  },
};
