// The list of allowed DNS names, as pages of the operator's socket.

import { z } from 'zod';
import type { Page } from '../../base/admin.ts';
import { SallyportError } from '../../base/errors.ts';
import type { DnsOperator } from './dns.ts';

const schema = z.strictObject({ pattern: z.string().max(1024) });

/** Pages of the operator's socket. */
export function dnsPages(dns: DnsOperator): readonly Page[] {
  return [
    {
      method: 'GET',
      path: '/v1/dns',
      sentence: 'lists the DNS names that certificates may have',
      answer: async () => ({ body: await dns.list() }),
    },
    {
      method: 'POST',
      path: '/v1/dns/allow',
      sentence: 'allows DNS names: { pattern }, a name or *. and a name',
      answer: async ({ body }) => ({ body: await dns.allow(patternOf(body)) }),
    },
    {
      method: 'POST',
      path: '/v1/dns/disallow',
      sentence: 'takes a pattern off that list: { pattern }',
      answer: async ({ body }) => ({ body: await dns.disallow(patternOf(body)) }),
    },
  ];
}

function patternOf(body: unknown): string {
  const result = schema.safeParse(body);
  if (result.success) return result.data.pattern;
  throw new SallyportError('body_invalid', 'the body is not { pattern }');
}
