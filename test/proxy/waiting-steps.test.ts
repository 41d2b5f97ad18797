// Steps of a request that wait, with a body that arrives meanwhile: it is held until the last of them has finished.

import { createServer } from 'node:http';
import { type AddressInfo, connect } from 'node:net';
import t from 'tap';
import { z } from 'zod';
import type { Service } from '../../sidecar/edge/capability.ts';
import { allowAll, startMesh } from '../fixtures/mesh.ts';
import { until } from '../fixtures/process.ts';

const empty = z.strictObject({});

t.test('the body is complete after two steps that each wait for something else', async (t) => {
  const first = Promise.withResolvers<void>();
  const second = Promise.withResolvers<void>();
  const begun: string[] = [];
  const waiting: Service<z.output<typeof empty>, undefined> = {
    name: 'waiting',
    guards: false,
    perPolicy: true,
    fields: [{ kind: 'sidecar.yaml', name: 'waiting', schema: async () => empty }],
    compile: (plans) =>
      plans.length === 0
        ? undefined
        : {
            authenticate() {
              begun.push('authenticate');
              return first.promise;
            },
            serve() {
              begun.push('serve');
              return second.promise;
            },
          },
  };
  const server = createServer(async (request, response) => response.end(await text(request)));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => server.close());
  const { port: app } = server.address() as AddressInfo;
  const mesh = await startMesh(t, { app, policy: allowAll, capabilities: [waiting], webYaml: 'waiting: {}\n' });
  const socket = connect(mesh.outPort, '127.0.0.1');
  t.teardown(() => socket.destroy());
  const response = text(socket);
  socket.write('POST / HTTP/1.1\r\nHost: orders\r\nConnection: close\r\nContent-Length: 9\r\n\r\none');
  await until(() => begun.length === 1, 'the first step');
  socket.write('two');
  first.resolve();
  await until(() => begun.length === 2, 'the second step');
  socket.write('six');
  second.resolve();
  const [head, body] = (await response).split('\r\n\r\n');
  t.match(head, /^HTTP\/1\.1 200 /);
  t.equal(body, 'onetwosix');
});

async function text(stream: AsyncIterable<Buffer>): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of stream) chunks.push(chunk);
  return Buffer.concat(chunks).toString();
}
