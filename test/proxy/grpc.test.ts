// gRPC by grpc-js at both ends, through two sidecars: every kind of call, the form of a refusal, flow control in both
// directions, and the cancelling of calls.

import { once } from 'node:events';
import { connect } from 'node:http2';
import type { ClientReadableStream, ServiceError } from '@grpc/grpc-js';
import t from 'tap';
import { grpcClient, Metadata, startGrpcApp, status } from '../fixtures/grpc.ts';
import { startMesh } from '../fixtures/mesh.ts';
import { freePort, until } from '../fixtures/process.ts';

type Client = ReturnType<typeof grpcClient>;

/** A unary call: its message, or its error. */
function get(client: Client, message: string, deadlineMs = 10_000): Promise<{ reply?: string; error?: ServiceError }> {
  const fields = new Metadata();
  fields.set('x-asked', '-by-test');
  return new Promise((resolve) => {
    const call = client['Get'] as unknown as (...args: unknown[]) => void;
    call.call(
      client,
      Buffer.from(message),
      fields,
      { deadline: Date.now() + deadlineMs },
      (error: ServiceError | null, reply?: Buffer) => resolve(error === null ? { reply: String(reply) } : { error }),
    );
  });
}

function list(client: Client, count: number): ClientReadableStream<Buffer> {
  const call = client['List'] as unknown as (message: Buffer) => ClientReadableStream<Buffer>;
  return call.call(client, Buffer.from(String(count)));
}

t.test('an app that speaks gRPC', async (t) => {
  const app = await startGrpcApp(t);
  const mesh = await startMesh(t, { app: app.port, protocol: 'grpc' });
  const client = grpcClient(t, mesh.outPort);

  t.test('unary, with metadata', async (t) => {
    t.same(await get(client, 'hello'), { reply: 'hello-by-test' });
    const [record] = await mesh.records('orders', 1);
    t.match(record, { protocol: 'HTTP/2', path: '/shop.Orders/Get', response_code: 200, response_flags: '-' });
  });
  t.test("an error of the app's own", async (t) => {
    const { error } = await get(client, 'fail');
    t.match(error, { code: status.FAILED_PRECONDITION, details: 'not now: 100 %' });
  });
  t.test('server streaming', async (t) => {
    const sizes: number[] = [];
    const call = list(client, 40);
    call.on('data', (part: Buffer) => sizes.push(part.length));
    await once(call, 'end');
    t.same(
      sizes,
      Array.from({ length: 40 }, () => 65_536),
    );
  });
  t.test('client streaming', async (t) => {
    const sum = await new Promise((resolve, reject) => {
      const put = client['Put'] as unknown as (done: (error: unknown, reply: Buffer) => void) => {
        write(part: Buffer): void;
        end(): void;
      };
      const call = put.call(client, (error, reply) => (error ? reject(error) : resolve(String(reply))));
      for (let i = 0; i < 20; i++) call.write(Buffer.alloc(100_000));
      call.end();
    });
    t.equal(sum, '2000000');
  });
  t.test('bidirectional streaming, each message answered before the next is sent', async (t) => {
    const chat = client['Chat'] as unknown as () => NodeJS.ReadWriteStream;
    const call = chat.call(client);
    for (const word of ['one', 'two', 'three']) {
      call.write(Buffer.from(word) as unknown as string);
      const [answer] = (await once(call, 'data')) as [Buffer];
      t.equal(answer.toString(), `echo ${word}`);
    }
    call.end();
    await once(call, 'end');
  });
  t.test('the app learns that a caller has cancelled', async (t) => {
    const before = app.cancelled();
    const { error } = await get(client, 'wait', 300);
    t.equal(error?.code, status.DEADLINE_EXCEEDED);
    await until(() => app.cancelled() > before, 'the cancellation at the app');
  });
  t.test('a slow reader slows its sender, and does not hold up others', async (t) => {
    const before = app.produced();
    // grpc-js reads on whatever its caller does; a plain HTTP/2 client stops.
    const session = connect(`http://127.0.0.1:${mesh.outPort}`);
    t.teardown(() => session.destroy());
    const fields = { ':authority': 'orders', ':method': 'POST', ':path': '/shop.Orders/List', te: 'trailers' };
    const stream = session.request({ ...fields, 'content-type': 'application/grpc' });
    stream.end(Buffer.from('\0\0\0\0\u00041000', 'latin1'));
    await once(stream, 'response');
    let last = -1;
    let same = 0;
    const standing = await until(() => {
      const now = app.produced() - before;
      same = now > 0 && now === last ? same + 1 : 0;
      last = now;
      return same > 5 ? now : undefined;
    }, 'the sender to stop');
    // The windows of three hops and the sockets' buffers, and not the 64 MB that were requested.
    t.ok(standing < 8_000_000, `stood still after ${standing} bytes`);
    t.same(await get(client, 'meanwhile'), { reply: 'meanwhile-by-test' });
    let read = 0;
    stream.on('data', (part: Buffer) => {
      read += part.length;
    });
    await once(stream, 'end');
    t.equal(read, 1000 * (65_536 + 5));
  });
  t.test('a refusal is HTTP 200 with its own gRPC status and the same text', async (t) => {
    await mesh.setPolicy(
      'apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: { name: lists, namespace: shop }\nspec: { rules: [{ to: [{ operation: { paths: [/shop.Orders/List] } }] }] }\n',
    );
    const { error } = await get(client, 'hello');
    t.match(error, { code: status.PERMISSION_DENIED, details: 'RBAC: access denied' });
    const denied = await until(
      async () => (await mesh.records('orders', 1)).find((one) => one['decision'] === 'deny'),
      'the record',
    );
    t.match(denied, {
      response_code: 200,
      response_code_details: 'rbac_access_denied_matched_policy[none]',
      code: 'policy_denied',
    });
    const metrics = await (await fetch(`http://127.0.0.1:${mesh.inAdmin}/stats/prometheus`)).text();
    const total = (labels: string): RegExp =>
      new RegExp(`^istio_requests_total\\{[^}]*request_protocol="grpc"[^}]*${labels}[^}]*\\} 1$`, 'm');
    t.match(metrics, total('grpc_response_status="7"'));
    t.match(metrics, total('grpc_response_status="9"'));
    t.match(metrics, /^istio_response_messages_total\{[^}]*grpc_response_status="0"[^}]*\} 104\d$/m);
  });
});

t.test('no app behind the sidecar: UNAVAILABLE, with the text of HTTP', async (t) => {
  const mesh = await startMesh(t, { app: await freePort(), protocol: 'grpc' });
  const { error } = await get(grpcClient(t, mesh.outPort), 'hello');
  t.match(error, {
    code: status.UNAVAILABLE,
    details: 'upstream connect error or disconnect/reset before headers',
  });
});
