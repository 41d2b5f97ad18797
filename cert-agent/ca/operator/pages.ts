// The operator's commands, served by the running CA: JSON over its unix socket, mode 0600 in a directory of mode 0700.
// Permission to open the socket is the only authentication of an operator.

import { z } from 'zod';
import type { Page } from '../../base/admin.ts';
import { SallyportError } from '../../base/errors.ts';
import { dnsPages } from './dns-pages.ts';
import type { Operator } from './operator.ts';
import { recordsPages } from './records-pages.ts';

const tokenSchema = z.strictObject({
  id: z.string(),
  ttlMs: z.number(),
  dns: z.array(z.string().max(1024)).max(64).optional(),
});
/** The commands wait for an answer for 30 s. */
const longestWaitMs = 25_000;

const revokeSchema = z.strictObject({
  target: z.string(),
  reason: z.string(),
  force: z.boolean().optional(),
  waitMs: z.number().min(0).max(longestWaitMs).optional(),
});
const removeSchema = z.union([z.strictObject({ token: z.string() }), z.strictObject({ id: z.string() })]);
const rotateSchema = z.strictObject({
  kind: z.enum(['issuer', 'root']),
  step: z.enum(['prepare', 'distribute', 'activate', 'remove', 'cancel', 'request', 'install']),
  except: z.array(z.string().max(2048)).max(1000).optional(),
  rootKey: z.string().max(4096).optional(),
  externalRoot: z.string().max(4096).optional(),
  certificate: z.string().max(65_536).optional(),
});
/** The last one of a page: its expiry and its serial. */
const lastSchema = z
  .string()
  .regex(/^\d{1,15}:[0-9a-f]{1,40}$/)
  .transform((text) => ({ notAfter: Number(text.split(':')[0]), serial: text.split(':')[1]! }));
const allowSchema = z.strictObject({ id: z.string() });

/** The operator's actions as pages of an admin server on the socket. */
export function operatorPages(operator: Operator): readonly Page[] {
  return [
    {
      method: 'POST',
      path: '/v1/tokens',
      sentence: 'creates a join token: { id, ttlMs, dns }',
      async answer({ body }) {
        const { id, ttlMs, dns } = parse(tokenSchema, body);
        return { body: await operator.createToken(id, ttlMs, dns) };
      },
    },
    {
      method: 'GET',
      path: '/v1/tokens',
      sentence: 'lists join tokens, without the tokens themselves',
      answer: async () => ({ body: await operator.listTokens() }),
    },
    {
      method: 'POST',
      path: '/v1/tokens/remove',
      sentence: 'removes join tokens: { token }, by its first digits, or { id }, for all of an ID',
      answer: async ({ body }) => ({ body: await operator.removeTokens(parse(removeSchema, body)) }),
    },
    {
      method: 'GET',
      path: '/v1/certificates',
      sentence: 'lists certificates, 500 at most: ?all=true, ?expiringMs=N, ?after=NOT_AFTER:SERIAL',
      async answer({ url }) {
        const expiring = url.searchParams.get('expiringMs');
        const after = url.searchParams.get('after');
        const filter = {
          ...(expiring === null ? {} : { expiringMs: parse(z.coerce.number().nonnegative(), expiring) }),
          ...(after === null ? {} : { after: parse(lastSchema, after) }),
        };
        return { body: await operator.list({ all: url.searchParams.get('all') === 'true', ...filter }) };
      },
    },
    {
      method: 'GET',
      path: '/v1/certificates/*',
      sentence: 'one certificate, by its serial',
      answer: async ({ url }) => ({ body: await operator.show(decodeURIComponent(url.pathname.split('/')[3] ?? '')) }),
    },
    {
      method: 'POST',
      path: '/v1/revoke',
      sentence: 'revokes a serial or a SPIFFE ID, and waits for agents: { target, reason, force, waitMs }',
      async answer({ body }) {
        const { target, reason, force = false, waitMs = 0 } = parse(revokeSchema, body);
        return { body: await operator.revoke(target, reason, { force, waitMs }) };
      },
    },
    {
      method: 'POST',
      path: '/v1/allow',
      sentence: 'takes a SPIFFE ID off the deny list: { id }',
      answer: async ({ body }) => ({ body: await operator.allow(parse(allowSchema, body).id) }),
    },
    {
      method: 'GET',
      path: '/v1/agents',
      sentence: 'the agents that hold a stream, and what their sidecars use',
      answer: async () => ({ body: await operator.agents() }),
    },
    {
      method: 'GET',
      path: '/v1/rotation',
      sentence: 'the rotation that is under way, and who is in the way of its next step',
      answer: async () => ({ body: await operator.rotationStatus() }),
    },
    {
      method: 'POST',
      path: '/v1/rotation',
      sentence: 'takes a step of a rotation: { kind, step, except, rootKey, externalRoot, certificate }',
      answer: async ({ body }) => ({ body: await operator.rotate(parse(rotateSchema, body)) }),
    },
    {
      method: 'GET',
      path: '/v1/denials',
      sentence: 'the deny list, with reasons',
      answer: async () => ({ body: await operator.listDenials() }),
    },
    ...dnsPages(operator.dns),
    ...recordsPages(operator.records),
  ];
}

function parse<S extends z.ZodType>(schema: S, value: unknown): z.output<S> {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  throw new SallyportError('body_invalid', result.error.issues[0]?.message ?? 'the body is not valid');
}
