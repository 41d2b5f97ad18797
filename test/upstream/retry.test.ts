// What is retried: by failure, by method, by policy.

import t from 'tap';
import { type Code, SallyportError } from '../../cert-agent/base/errors.ts';
import { emptyFields, fieldName, type Reply } from '../../sidecar/exchange/message.ts';
import type { RetryOn, RetryPolicy } from '../../sidecar/exchange/upstream.ts';
import { backoffMs, RetriesExhausted, retriesError, retriesReply } from '../../sidecar/upstream/retry.ts';

const policy = (on: RetryOn[], codes: number[] = []): RetryPolicy => ({
  ...{ attempts: 2, codes, on, backoffMs: 0, perTryTimeoutMs: 0 },
});
const reply = (status: number, grpc?: number): Reply => ({
  ...{ status, reason: '', hopFields: undefined, framing: 0, declaredLength: undefined },
  fields: grpc === undefined ? emptyFields : { names: [fieldName('grpc-status')], values: [String(grpc)] },
});

const errors: [Code, string, RetryOn[], boolean][] = [
  ['upstream_connect', 'POST', ['connect-failure'], true],
  ['upstream_connect_timeout', 'PATCH', ['reset-before-request'], true],
  ['upstream_tls', 'POST', ['reset'], true],
  ['upstream_connect', 'GET', [], false],
  ['upstream_connect', 'GET', ['refused-stream', 'retriable-4xx'], false],
  ['upstream_refused_stream', 'POST', ['refused-stream'], true],
  ['upstream_refused_stream', 'POST', ['connect-failure'], false],
  ['upstream_closed', 'GET', ['reset'], true],
  ['upstream_closed', 'POST', ['reset', '5xx', 'gateway-error'], false],
  ['upstream_reset', 'DELETE', ['gateway-error'], true],
  ['upstream_per_try_timeout', 'GET', ['5xx'], true],
  ['upstream_per_try_timeout', 'POST', ['5xx'], false],
  ['upstream_closed', 'GET', ['connect-failure', 'refused-stream'], false],
  ['upstream_cut', 'GET', ['reset', '5xx'], false],
  ['upstream_response_timeout', 'GET', ['reset', '5xx'], false],
  ['overloaded', 'GET', ['reset', '5xx'], false],
  ['not_ready', 'GET', ['reset', '5xx'], false],
];
for (const [code, method, on, expected] of errors)
  t.test(`${code} ${method} on ${on.join(', ') || 'nothing'}: ${expected}`, async (t) =>
    t.equal(retriesError(policy(on), method, new SallyportError(code, 'it failed')), expected),
  );

const replies: [string, Reply, string, RetryPolicy, boolean][] = [
  ['a named status', reply(503), 'GET', policy([], [503]), true],
  ['a named status, whatever the method', reply(503), 'POST', policy([], [503]), true],
  ['another status', reply(502), 'GET', policy([], [503]), false],
  ['5xx', reply(501), 'PUT', policy(['5xx']), true],
  ['5xx of a POST', reply(501), 'POST', policy(['5xx']), false],
  ['gateway-error', reply(504), 'GET', policy(['gateway-error']), true],
  ['gateway-error is not 500', reply(500), 'GET', policy(['gateway-error']), false],
  ['retriable-4xx', reply(409), 'GET', policy(['retriable-4xx']), true],
  ['retriable-4xx is 409 alone', reply(404), 'GET', policy(['retriable-4xx']), false],
  ['unavailable, a POST as all gRPC', reply(200, 14), 'POST', policy(['unavailable']), true],
  ['another gRPC status', reply(200, 5), 'POST', policy(['unavailable', 'internal']), false],
  ['success', reply(200, 0), 'POST', policy(['5xx', 'unavailable']), false],
];
for (const [name, answer, method, of, expected] of replies)
  t.test(name, async (t) => t.equal(retriesReply(of, method, answer), expected));

t.test('the wait doubles, up to ten times the base, with a random part', async (t) => {
  const all = { ...policy([]), backoffMs: 100 };
  const longest = (retry: number, of = all): number => backoffMs(of, retry, () => 1);
  t.same(
    [1, 2, 3, 4, 5, 20].map((one) => longest(one)),
    [100, 300, 700, 1000, 1000, 1000],
  );
  t.equal(longest(3, { ...all, maxBackoffMs: 500 } as typeof all), 500);
  t.equal(longest(1, { ...all, backoffMs: 0 }), 25);
  t.equal(
    backoffMs(all, 3, () => 0.5),
    350,
  );
});

t.test('the last of several tries shows in the response flag', async (t) => {
  const last = new RetriesExhausted(new SallyportError('upstream_connect', 'connection refused'), 3);
  t.equal(last.code, 'upstream_connect');
  t.equal(last.message, 'connection refused (the last of 3 tries)');
  t.match(last.row, { status: 503, flag: 'UF,URX' });
});
