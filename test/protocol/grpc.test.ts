// The status of a gRPC call, from whichever protocol carries it.

import t from 'tap';
import { addFields } from '../../sidecar/exchange/fields.ts';
import { emptyFields } from '../../sidecar/exchange/message.ts';
import type { RetryPolicy } from '../../sidecar/exchange/upstream.ts';
import { grpcStatusOf } from '../../sidecar/protocol/grpc.ts';
import { retriesReply } from '../../sidecar/upstream/retry.ts';

const fields = (name: string, value: string) =>
  addFields(emptyFields, [
    ['x', 'y'],
    [name, value],
  ]);

t.test('an HTTP/1.1 field name is read in any spelling', async (t) => {
  for (const name of ['grpc-status', 'Grpc-Status', 'GRPC-STATUS']) {
    t.equal(grpcStatusOf(fields(name, '14')), 14, name);
    const reply = { status: 200, reason: '', hopFields: undefined, framing: 0, declaredLength: undefined } as const;
    const policy = { on: ['unavailable'], codes: [] } as unknown as RetryPolicy;
    t.ok(retriesReply(policy, 'POST', { ...reply, fields: fields(name, '14') }), `${name} is retried`);
  }
});

t.test('an invalid gRPC status is ignored', async (t) => {
  for (const value of ['', '-1', '100', '1e1', '0x1', ' 1'])
    t.equal(grpcStatusOf(fields('grpc-status', value)), undefined);
  t.equal(grpcStatusOf(emptyFields), undefined);
});
