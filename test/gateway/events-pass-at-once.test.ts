// Server-sent events through everything that looks at requests and responses: each event reaches the client before the
// app sends the next one, also for clients that accept codings, with and without permission to store the response.

import { once } from 'node:events';
import { type IncomingMessage, request, type ServerResponse } from 'node:http';
import t from 'tap';
import { startCached } from '../fixtures/cached.ts';

const target = 'targetRefs: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: r }]';
const policies = `---
apiVersion: sallyport.dev/v1alpha1
kind: RequestScreening
metadata: { name: s }
spec: { ${target}, mode: Block }
---
apiVersion: sallyport.dev/v1alpha1
kind: RequestValidation
metadata: { name: v }
spec:
  ${target}
  openapi:
    openapi: 3.1.0
    paths:
      /events: { get: { responses: { "200": { description: d, content: { text/event-stream: {} } } } } }
---
apiVersion: sallyport.dev/v1alpha1
kind: AnomalyDetection
metadata: { name: a }
spec: { ${target} }
`;

for (const coding of ['identity', 'gzip', 'br'])
  for (const control of ['no-store', 'max-age=60'])
    t.test(`accept-encoding: ${coding}, cache-control: ${control}`, async (t) => {
      const { say, gateway } = await startCached(t, '', policies, 'compression: true\n');
      const answers: ServerResponse[] = [];
      say((_, answer) => {
        answer.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': control });
        answer.write('data: 0\n\n');
        answers.push(answer);
      });
      const asked = request({
        ...{ host: '127.0.0.1', port: gateway.port('default/g:80'), path: '/events' },
        headers: { 'accept-encoding': coding },
      }).end();
      t.teardown(() => asked.destroy());
      const [heard] = (await once(asked, 'response')) as [IncomingMessage];
      t.equal(heard.headers['content-encoding'], undefined, 'a coding would hold events back');
      const events = heard.setEncoding('utf8');
      let text = '';
      // The app sends an event only when the one before has arrived: a gateway that waits for more would wait for ever.
      for (let n = 0; n < 5; n++) {
        while (!text.endsWith(`data: ${n}\n\n`)) text += ((await once(events, 'data')) as [string])[0];
        if (n < 4) answers[0]!.write(`data: ${n + 1}\n\n`);
      }
      answers[0]!.end();
      await once(events.resume(), 'end');
      t.equal(text, [0, 1, 2, 3, 4].map((n) => `data: ${n}\n\n`).join(''));
      t.equal(answers.length, 1);
    });
